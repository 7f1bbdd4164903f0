"""One problem, its data shared by several processes."""

from typing import Any

from torch import nn

from curvescope._core.checks import message
from curvescope._core.processes import Processes
from curvescope.distributed.shares import EveryNth, share
from curvescope.distributed.torch_processes import TorchProcesses
from curvescope.problem import Problem


def data_parallel(
    model: nn.Module,
    loss: Any,
    data: Any,
    processes: Processes | None = None,
    *,
    shared: bool = False,
    **options: Any,
) -> Problem:
    r"""Return the problem of all data, of which every process holds a share.

    .. math:: H v = \frac{1}{\sum_r D_r} \sum_r \sum_{n \in \text{share } r}
        \nabla^2 \ell_n \, v

    It is a `Problem` like any other: every operator and verb takes it. Numbers of
    samples, denominators (class weights, ignored targets), loss and gradient are those
    of all data, exactly. A product with a block of vectors is one sum over the
    processes; vectors, bases and results are the same in each of them, which must all
    make the same calls in the same order.

    Args:
        model: The same weights in every process.
        loss: As for `Problem`.
        data: The whole data, of which each process takes its `share`; or what this
            process holds already, see ``shared``.
        processes: Those that share it; all of `torch.distributed` by default.
        shared: Whether ``data`` is this process's share. It may be empty, or ``None``,
            in some.
        **options: As for `Problem`.

    Returns:
        The problem.

    Raises:
        ValueError: If model, options or whole data differ between the processes.
        ProcessError: If another process fails.

    Cost:
        That of a `Problem` on the share of the data, and some small messages.

    Example:
        >>> import torch
        >>> from curvescope._core.processes import ALONE
        >>> X, y = torch.eye(4), torch.tensor([0, 1, 0, 1])
        >>> data_parallel(torch.nn.Linear(4, 2), "cross_entropy", (X, y), ALONE)
        Problem(Linear, cross_entropy, num_params=10, num_samples=4, reduction='mean', dtype=torch.float32, device=cpu)
    """
    among: Processes = TorchProcesses() if processes is None else processes
    own = data if shared else share(data, rank=among.rank, size=among.size)
    own = [] if own is None else own
    problem = Problem(model, loss, own, processes=among, **options)
    digests = among.gather(lambda: own.digest if isinstance(own, EveryNth) else "")
    if len(set(digests)) > 1:
        contract = "be the same batches in every process"
        remedy = "Seed what shuffles or augments, or pass tensors or a dataset."
        raise ValueError(message("data", contract, "others", remedy))
    return problem
