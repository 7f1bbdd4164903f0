"""Dense float64 matrices of a problem, by the fastest exact route there is."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from curvescope._core import memory
from curvescope._core.checks import describe, message, one_of, unique
from curvescope._core.memory import format_bytes
from curvescope.exact.general import autodiff_matrices
from curvescope.exact.linear_kronecker import kronecker_matrices
from curvescope.exact.mlp import mirror, mlp_matrices, temporary_bytes
from curvescope.exact.network import FeedForward, feed_forward
from curvescope.linop.convert import DenseOperator
from curvescope.problem import Problem
from curvescope.results import Cost

Method = Literal["closed form", "kronecker", "autodiff"]
PARTS = ("hessian", "ggn", "functional")
METHODS = ("auto", "closed form", "kronecker", "autodiff")
# The closed form knows whole parameters only; single entries of them, where they are
# this few, are cheaper column by column.
_FEW = 8
_NAMES = {"hessian": "Hessian", "ggn": "GGN", "functional": "functional Hessian"}


@final
@dataclass(frozen=True, kw_only=True)
class ExactMatrices:
    """Dense matrices of one problem; those that were not asked for are ``None``.

    Attributes:
        hessian: H, weight decay included.
        ggn: G, weight decay included.
        functional: F = H - G, by a computation of its own.
        method: How they were assembled.
        cost: What that took.
        notes: Remarks that a reader of the numbers must see.
    """

    hessian: DenseOperator | None
    ggn: DenseOperator | None
    functional: DenseOperator | None
    method: Method
    cost: Cost
    notes: tuple[str, ...] = ()

    @property
    def computed(self) -> dict[str, DenseOperator]:
        """The matrices that were asked for, by part."""
        every = {part: getattr(self, part) for part in PARTS}
        return {part: A for part, A in every.items() if A is not None}


def matrices(
    problem: Problem,
    *,
    parts: Sequence[str] = PARTS,
    method: Literal["auto", "closed form", "kronecker", "autodiff"] = "auto",
) -> ExactMatrices:
    r"""Assemble Hessian, GGN and functional Hessian as dense float64 matrices.

    Feed-forward nets (``nn.Sequential`` of linear layers and elementwise activations)
    have closed forms, linear ones sums of Kronecker products; every other module is
    differentiated column by column.

    Args:
        problem: Model, loss and data. float32 is promoted: what was rounded stays so.
        parts: Which matrices, any of ``"hessian"``, ``"ggn"``, ``"functional"``.
        method: ``"auto"`` takes the fastest (for a linear net the Kronecker form, but
            its GGN over the samples where that is cheaper); the others insist on one.

    Returns:
        Exactly symmetric operators with the problem's scale, that every algorithm takes.

    Raises:
        ValueError: If ``parts`` or ``method`` is unknown, or does not fit the model.
        MemoryError: If the matrices do not fit the memory; nothing is computed then.

    Cost:
        ``8 P^2`` bytes a matrix. Closed form: about ``n P^2`` multiplications a matrix,
        whatever the number of outputs. Kronecker: ``O(P^2)``. Autodiff: ``P`` products.

    Example:
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> data = (torch.tensor([[2.0]]), torch.tensor([[0.0]]))
        >>> found = matrices(Problem(model, "half_squared_error", data))
        >>> found.hessian.matrix, found.method
        (tensor([[4.]], dtype=torch.float64), 'kronecker')

    References:
        Singh, Bachmann, Hofmann (2021), arXiv:2106.16225, for the split.
    """
    if not isinstance(problem, Problem):
        remedy = "Make one: `cs.Problem(model, loss, data)`."
        raise TypeError(message("problem", "be a Problem", describe(problem), remedy))
    parts = unique("parts", parts)
    for part in parts:
        one_of("parts", part, PARTS)
    if not parts:
        raise ValueError(message("parts", f"name some of {PARTS}", "none"))
    one_of("method", method, METHODS)
    began = time.perf_counter()
    notes = _notes(problem)
    problem = problem.promoted()
    net = feed_forward(problem) if method != "autodiff" else None
    route = _route(problem, net, method)
    net = net if route != "autodiff" else None
    _check_memory(problem, net, parts, route)
    if method == "kronecker" and net is not None:
        found, num_matvecs = _kronecker(net, parts), 0
    else:
        found, num_matvecs = _assemble(problem, net, parts, route)
    if problem.weight_decay:
        for part in ("hessian", "ggn"):
            if part in found:
                found[part].diagonal().add_(problem.weight_decay)
    cost = Cost(
        num_matvecs=num_matvecs,
        num_data_passes=0 if num_matvecs else 1,
        seconds=time.perf_counter() - began,
        peak_memory=memory.peak_memory(problem.device),
    )
    operators = {
        part: DenseOperator(
            matrix, symmetric=True, info=problem.provenance(_NAMES[part])
        )
        for part, matrix in found.items()
    }
    return ExactMatrices(
        hessian=operators.get("hessian"),
        ggn=operators.get("ggn"),
        functional=operators.get("functional"),
        method=route,
        cost=cost,
        notes=notes,
    )


def hessian(problem: Problem) -> DenseOperator:
    """Return the Hessian as a dense float64 matrix; see `matrices`.

    Example:
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> data = (torch.tensor([[2.0]]), torch.tensor([[0.0]]))
        >>> hessian(Problem(model, "half_squared_error", data)).matrix
        tensor([[4.]], dtype=torch.float64)
    """
    found = matrices(problem, parts=("hessian",)).hessian
    assert found is not None
    return found


def ggn(problem: Problem) -> DenseOperator:
    """Return the GGN as a dense float64 matrix; see `matrices`.

    Example:
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> data = (torch.tensor([[2.0]]), torch.tensor([[0.0]]))
        >>> ggn(Problem(model, "half_squared_error", data)).matrix
        tensor([[4.]], dtype=torch.float64)
    """
    found = matrices(problem, parts=("ggn",)).ggn
    assert found is not None
    return found


def functional_hessian(problem: Problem) -> DenseOperator:
    """Return the functional Hessian as a dense float64 matrix; see `matrices`.

    Example:
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> data = (torch.tensor([[2.0]]), torch.tensor([[0.0]]))
        >>> functional_hessian(Problem(model, "half_squared_error", data)).matrix
        tensor([[0.]], dtype=torch.float64)
    """
    found = matrices(problem, parts=("functional",)).functional
    assert found is not None
    return found


def _notes(problem: Problem) -> tuple[str, ...]:
    if problem.dtype == torch.float64:
        return ()
    text = f"weights and data in {problem.dtype} were promoted to float64 as they are"
    return (text,)


def _route(problem: Problem, net: FeedForward | None, method: str) -> Method:
    if net is None:
        if method in ("closed form", "kronecker"):
            contract = '"auto" or "autodiff" for a model that is no feed-forward net'
            remedy = (
                "It takes an nn.Sequential of nn.Linear and elementwise activations."
            )
            raise ValueError(message("method", f"be {contract}", repr(method), remedy))
        return "autodiff"
    if method == "kronecker" and not net.is_linear:
        contract = 'be "auto", "closed form" or "autodiff" for a net that is not linear'
        raise ValueError(message("method", contract, repr(method)))
    if method == "closed form":
        return "closed form"
    size, layout = problem.num_params, problem.layout
    if method == "auto" and layout.full_size > _FEW * size:
        return "autodiff"
    if method == "kronecker" or (net.is_linear and net.num_params <= 2 * size):
        return "kronecker"
    return "closed form"


def _assemble(
    problem: Problem, net: FeedForward | None, parts: Sequence[str], route: Method
) -> tuple[dict[str, Tensor], int]:
    """Return the scaled matrices of the selected parameters, and products taken."""
    if net is None:
        return autodiff_matrices(problem, parts)
    if route == "kronecker":
        return _linear(net, parts), 0
    found = _closed_form(net, _computed(parts))
    if "hessian" in parts and "hessian" not in found:
        found["hessian"] = found["ggn"] + found["functional"]
    return {part: found[part] for part in parts}, 0


def _closed_form(net: FeedForward, parts: Sequence[str]) -> dict[str, Tensor]:
    layout, scale = net.problem.layout, net.problem.scale
    found = mlp_matrices(net, layout, parts, scale=scale)
    if layout.entries is None:
        return found
    chosen = layout.entries
    return {part: A[chosen][:, chosen] for part, A in found.items()}


def _linear(net: FeedForward, parts: Sequence[str]) -> dict[str, Tensor]:
    """Use Kronecker products, but for a GGN that is cheaper as a sum over samples."""
    if tuple(parts) == ("functional",) or not _by_samples(net):
        return _kronecker(net, parts)
    found: dict[str, Tensor] = {}
    if {"functional", "hessian"} & set(parts):
        found |= _kronecker(net, ("functional",))
    if {"ggn", "hessian"} & set(parts):
        found |= _closed_form(net, ("ggn",))
    if "hessian" in parts:
        other = found["functional"]
        found["hessian"] = (
            found["ggn"] + other if "functional" in parts else other.add_(found["ggn"])
        )
    return {part: found[part] for part in parts}


def _kronecker(net: FeedForward, parts: Sequence[str]) -> dict[str, Tensor]:
    chosen = _kronecker_entries(net.problem, net)
    found = {}
    with torch.no_grad():
        for part, matrix in kronecker_matrices(net, parts).items():
            matrix *= net.problem.scale
            mirror(matrix)
            found[part] = matrix if chosen is None else matrix[chosen][:, chosen]
    return found


def _by_samples(net: FeedForward) -> bool:
    """Tell whether a linear net's GGN is cheaper by the closed form.

    It is where the output Hessian varies and the Kronecker form's K d rows are many
    beside the samples (the factor is measured).
    """
    inputs, outputs = net.widths[0], net.widths[-1]
    n = net.problem.num_samples
    if n >= 4 * outputs * min(n, inputs):
        return False
    first: Tensor | None = None
    for samples in net.samples(most=1024):
        hessians = net.output_hessians(samples)
        first = hessians[:1] if first is None else first
        if not bool((hessians == first).all()):
            return True
    return False


def _computed(parts: Sequence[str]) -> list[str]:
    """H is the others' sum where both are there anyway."""
    if set(parts) == set(PARTS):
        return ["ggn", "functional"]
    return list(parts)


def _kronecker_entries(problem: Problem, net: FeedForward) -> Tensor | None:
    """Return the selected places among all parameters; ``None`` for all in order."""
    layout = problem.layout
    starts: dict[str, tuple[int, int]] = {}
    position = 0
    for layer in net.layers:
        named = ((layer.weight_name, layer.weight), (layer.bias_name, layer.bias))
        for name, tensor in named:
            if name is not None and tensor is not None:
                starts[name] = (position, position + tensor.numel())
                position += tensor.numel()
    pieces = [torch.arange(*starts[name]) for name in layout.names]
    places = torch.cat(pieces).to(problem.device)
    if layout.entries is not None:
        return places[layout.entries]
    in_order = torch.arange(position, device=places.device)
    return None if torch.equal(places, in_order) else places


def _check_memory(
    problem: Problem, net: FeedForward | None, parts: Sequence[str], route: Method
) -> None:
    """Refuse before the work what would not fit."""
    size = whole = problem.num_params
    if net is not None:
        linear = route == "kronecker"
        whole = net.num_params if linear else problem.layout.full_size
    held = len(parts) + {"closed form": 0, "kronecker": 1, "autodiff": 2}[route]
    need = 8 * whole * whole * held
    if whole != size:
        need += 8 * size * size * len(parts)
    if net is not None:
        need += temporary_bytes(net, problem.layout)
    limit = min(problem.memory_limit, memory.available_memory(problem.device))
    if need <= limit:
        return
    rest = need - 8 * whole * whole * held
    fits = int((max(limit - rest, 0) / (8 * held)) ** 0.5)
    contract = f"have matrices that fit {format_bytes(limit)}"
    got = f"{len(parts)} of size {whole}, {format_bytes(need)} in all"
    remedy = (
        f"About {fits} parameters would fit: select some (`problem.select(...)`), ask for "
        "fewer `parts`, raise `memory_limit=`, or use the operators of "
        "`curvescope.curvature`, which need no matrix."
    )
    raise MemoryError(message("problem", contract, got, remedy))
