"""Vectors near the top eigenspace of a problem's Hessian, for `eigsh` to start from."""

import torch
from torch import Tensor

from curvescope._core import memory
from curvescope._core.checks import message, one_of
from curvescope.problem import Problem

KINDS = ("gradient", "class-means", "both")


def start_vectors(problem: Problem, kind: str = "both") -> Tensor:
    r"""Return the gradient and the classes' mean gradients, around their mean.

    .. math:: g = \nabla L(\theta), \qquad m_c = \frac{1}{N_c} \sum_{n: y_n = c}
        \nabla \ell_n(\theta) - \frac{1}{N} \sum_{n} \nabla \ell_n(\theta)

    The few largest eigenvalues of a classifier's Hessian belong to vectors that these
    nearly span, as was found for networks in training. `eigsh` with this as ``start``
    then takes fewer products; how many fewer depends on the network, and it may be none.

    Args:
        problem: Model, loss and data; for class means a classifier: outputs ``(N, C)``
            and one label a sample.
        kind: ``"gradient"``, ``"class-means"`` or ``"both"``.

    Returns:
        Vectors as columns, shape ``(num_params, b)``; classes without samples have none.

    Raises:
        ValueError: If ``kind`` is another one, the problem is no classifier, or the class
            means do not fit into memory.

    Cost:
        One gradient; for class means one forward pass and ``C`` backward ones over the
        data, and ``C + 1`` vectors of memory.

    Example:
        >>> import torch
        >>> data = (torch.eye(6, 4), torch.tensor([0, 1, 0, 1, 2, 0]))
        >>> problem = Problem(torch.nn.Linear(4, 3), "cross_entropy", data)
        >>> start_vectors(problem).shape
        torch.Size([15, 4])

    References:
        Gur-Ari, Roberts and Dyer (2018), arXiv:1812.04754; Papyan (2020),
        arXiv:2008.11865.
    """
    one_of("kind", kind, KINDS)
    columns = []
    if kind != "class-means":
        columns.append(problem.gradient()[:, None])
    if kind != "gradient":
        columns.append(_class_means(problem))
    return torch.cat(columns, dim=1)


def _class_means(problem: Problem) -> Tensor:
    problem.refresh()
    classes = _count_classes(problem)
    n = problem.num_params
    needed, room = 2 * n * classes * problem.dtype.itemsize, problem.memory_limit
    if needed > room:
        contract = f"take at most {memory.format_bytes(room)}"
        got = f"{classes} class means of {memory.format_bytes(needed)}"
        remedy = 'Use `kind="gradient"`, or fewer parameters.'
        raise ValueError(message("kind", contract, got, remedy))
    like = torch.zeros(n + 1, classes, dtype=problem.dtype, device=problem.device)
    sums = problem.summed(
        lambda: _own_sums(problem, like), like, "gradients of the classes"
    )
    gradients, counts = sums[:n], sums[n]
    there = counts > 0
    means = gradients[:, there] / counts[there]
    return means - (gradients.sum(dim=1) / counts.sum())[:, None]


def _count_classes(problem: Problem) -> int:
    """Return the number of outputs of the model, if it is a classifier."""
    remedy = 'Use `kind="gradient"`.'
    contract = "have outputs (N, C) and one label a sample for class means"
    for batch in problem.own_batches():
        _, parameters = problem.leaves()
        with problem.network.running(), torch.no_grad():
            outputs = problem.outputs(batch, parameters)
        targets = batch.targets
        labels = (
            isinstance(targets, Tensor)
            and targets.ndim == 1
            and not targets.is_floating_point()
        )
        if outputs.ndim != 2 or not labels or outputs.shape[0] != len(targets):
            shape = tuple(targets.shape) if isinstance(targets, Tensor) else targets
            got = f"outputs {tuple(outputs.shape)}, targets {shape}"
            raise ValueError(message("problem", contract, got, remedy))
        return int(outputs.shape[1])
    raise ValueError(message("problem", contract, "no batch", remedy))


def _own_sums(problem: Problem, like: Tensor) -> Tensor:
    """Return every class's summed gradient, and below it its number of samples."""
    sums = torch.zeros_like(like)
    leaves, parameters = problem.leaves()
    with problem.network.running(), torch.enable_grad():
        for batch in problem.own_batches():
            outputs = problem.outputs(batch, parameters)
            targets = batch.targets
            for label in targets.unique().tolist():
                if not 0 <= label < like.shape[1]:
                    continue  # an ignored one, which the loss does not count
                mask = targets == label
                value = problem.loss.total(outputs[mask], targets[mask])
                grads = torch.autograd.grad(
                    value,
                    leaves,
                    retain_graph=True,
                    allow_unused=True,
                    materialize_grads=True,
                )
                sums[:-1, label] += problem.layout.join([g[None] for g in grads])[0]
                sums[-1, label] += int(mask.sum())
    return sums
