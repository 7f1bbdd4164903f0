"""What a problem is checked for, once: each failure is one clear error."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from curvescope._core.checks import message, positive_int
from curvescope._core.memory import available_memory
from curvescope._core.processes import Processes
from curvescope.autodiff.layout import Layout
from curvescope.losses.base import AbstractLoss
from curvescope.problem.batches import Batch

_ROUNDINGS = 100.0


class _Evaluates(Protocol):
    """The part of a problem that the checks need."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def loss(self) -> AbstractLoss: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def leaves(self) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]: ...

    def outputs(self, batch: Batch, parameters: Mapping[str, Tensor]) -> Tensor: ...


def device_and_dtype(
    model: nn.Module, layout: Layout, device: Any, dtype: Any
) -> tuple[torch.device, torch.dtype]:
    """Return where and in what to compute; the selected parameters' own by default.

    Raises:
        ValueError: If parameters lie on several devices and ``device`` is not given.
        TypeError: If ``dtype`` is not a floating-point type of at least 32 bits.
    """
    named = dict(model.named_parameters())
    devices = {p.device for p in named.values()}
    if device is None and len(devices) > 1:
        got = ", ".join(sorted(map(str, devices)))
        remedy = "Pass `device=`, or move the model."
        raise ValueError(message("model", "lie on one device", got, remedy))
    kinds = {named[name].dtype for name in layout.names}
    if dtype is None and len(kinds) > 1:
        got = ", ".join(sorted(map(str, kinds)))
        raise ValueError(message("model", "have one dtype", got, "Pass `dtype=`."))
    kind = kinds.pop() if dtype is None else dtype
    if kind not in (torch.float32, torch.float64):
        remedy = "Pass `dtype=torch.float32`; the model itself stays as it is."
        raise TypeError(
            message("dtype", "be torch.float32 or torch.float64", kind, remedy)
        )
    place = torch.device(device) if device is not None else devices.pop()
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            message("device", "be there", place, "No CUDA device was found.")
        )
    return place, kind


def check_finite(
    parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]
) -> None:
    """Refuse NaN and infinite weights.

    Raises:
        ValueError: If there are any.
    """
    for kind, tensors in (("parameters", parameters), ("buffers", buffers)):
        for name, tensor in tensors.items():
            # Masks hold infinities on purpose, so buffers may; NaN is never meant.
            tensor = tensor.detach()
            bad = torch.isnan(tensor) if kind == "buffers" else ~torch.isfinite(tensor)
            if tensor.is_floating_point() and bool(bad.any()):
                got = f"NaN or infinity in {name}"
                raise ValueError(message("model", f"have finite {kind}", got))


def check_train_mode(model: nn.Module, num_batches: int) -> None:
    """Refuse train mode where batches or random draws would change the answer.

    Raises:
        ValueError: If there is active dropout, or BatchNorm over several batches.
    """
    for name, module in model.named_modules():
        if isinstance(module, _DropoutNd) and module.p > 0:
            got = f"{name} with p={module.p}"
            remedy = 'Use mode="eval".'
            raise ValueError(
                message("mode", 'be "eval" with active dropout', got, remedy)
            )
        if isinstance(module, _BatchNorm) and num_batches > 1:
            got = f'"train" with BatchNorm ({name}) over {num_batches} batches'
            remedy = 'Use mode="eval", or pass the data as one batch.'
            contract = 'be "eval" where batches are coupled'
            raise ValueError(message("mode", contract, got, remedy))


def _total(problem: _Evaluates, batch: Batch) -> tuple[float, float, Tensor]:
    _, parameters = problem.leaves()
    with torch.no_grad():
        try:
            outputs = problem.outputs(batch, parameters)
        except RuntimeError as error:
            shapes = ", ".join(str(tuple(t.shape)) for t in batch.tensors)
            got = f"{str(error).splitlines()[0]} on a batch of shapes {shapes}"
            remedy = "Do model and data belong together?"
            raise ValueError(
                message("model", "run on the data", got, remedy)
            ) from error
        problem.loss.check(outputs, batch.targets)
        total = problem.loss.total(outputs, batch.targets)
        if total.numel() != 1:
            contract = "return one number for a batch"
            raise ValueError(message("loss", contract, f"shape {tuple(total.shape)}"))
        return float(total), problem.loss.denominator(outputs, batch.targets), outputs


def check_first_batch(problem: _Evaluates, batch: Batch, *, additive: bool) -> None:
    """Check that the batch has a finite, deterministic loss that adds up over samples.

    Args:
        problem: What is evaluated.
        batch: Its first batch.
        additive: Whether samples must not be coupled.

    Raises:
        ValueError: If not.
    """
    total, denominator, outputs = _total(problem, batch)
    if not bool(torch.isfinite(outputs).all()):
        remedy = "Check the weights and the preprocessing."
        raise ValueError(
            message("model", "give finite outputs", "NaN or infinity", remedy)
        )
    if not math.isfinite(total):
        raise ValueError(
            message("loss", "be finite", total, "Check targets and outputs.")
        )
    _check_reads_outputs_alone(problem, batch, outputs)
    tolerance = math.sqrt(torch.finfo(problem.dtype).eps)
    scale = max(abs(total), torch.finfo(problem.dtype).tiny)
    # Of a perfect fit the loss itself is rounding: what the outputs' rounding makes of it.
    noise = _rounding_of(problem, batch, outputs)
    again, _, repeated = _total(problem, batch)
    spread = float((outputs - repeated).abs().max()) if outputs.numel() else 0.0
    size = float(outputs.abs().max()) if outputs.numel() else 0.0
    if abs(again - total) > tolerance * scale + noise or spread > tolerance * size:
        got = f"{total!r}, then {again!r} on the same batch"
        remedy = "Remove what draws random numbers in eval mode."
        raise ValueError(message("model", "be deterministic", got, remedy))
    size_n = batch.num_samples
    if size_n < 2 or not additive:
        return
    halves = [batch.part(0, size_n // 2), batch.part(size_n // 2, size_n)]
    parts = [_total(problem, half) for half in halves]
    sum_total, sum_denominator = parts[0][0] + parts[1][0], parts[0][1] + parts[1][1]
    magnitude = max(scale, abs(parts[0][0]), abs(parts[1][0]))
    off = abs(sum_total - total) > 10 * tolerance * magnitude + noise
    if off or not math.isclose(sum_denominator, denominator, rel_tol=1e-6):
        got = f"{total:.6g} on a batch, but {sum_total:.6g} on its two halves"
        remedy = (
            "Contrastive losses, and norm layers that use batch statistics, couple "
            "samples: they have no Hessian over a loader. If only the denominator is "
            "wrong, state it with `cs.Loss(fn, reduction=..., denominator=...)`."
        )
        raise ValueError(message("loss", "add up over samples", got, remedy))


def _check_reads_outputs_alone(
    problem: _Evaluates, batch: Batch, outputs: Tensor
) -> None:
    """Refuse a loss that reads the model's parameters: they would count as constants."""
    named = {n: p for n, p in problem.model.named_parameters() if p.requires_grad}
    with torch.enable_grad():
        total = problem.loss.total(outputs.detach(), batch.targets)
    if not named or not total.requires_grad:
        return
    grads = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    read = [name for name, g in zip(named, grads, strict=True) if g is not None]
    if read:
        shown = ", ".join(read[:3]) + (", ..." if len(read) > 3 else "")
        contract = "depend on the model through its outputs alone"
        remedy = (
            "Use `Problem(weight_decay=...)` for a penalty on weights, or let the model "
            "return what the loss needs."
        )
        got = f"a loss that reads the parameters {shown}"
        raise ValueError(message("loss", contract, got, remedy))


def _rounding_of(problem: _Evaluates, batch: Batch, outputs: Tensor) -> float:
    """Return how far the loss moves if all outputs move by some roundings."""
    if not outputs.numel() or not outputs.is_floating_point():
        return 0.0
    eps = torch.finfo(outputs.dtype).eps
    moved = outputs + _ROUNDINGS * eps * float(outputs.abs().max())
    with torch.no_grad():
        there = float(problem.loss.total(moved, batch.targets))
        here = float(problem.loss.total(outputs, batch.targets))
    return abs(there - here) if math.isfinite(there) else 0.0


def least_limit(stated: int | None, device: torch.device, processes: Processes) -> int:
    """Return the least memory limit of all processes, by default half of what is free.

    It decides how many columns are multiplied at once, which must be as many in all.

    Raises:
        ValueError: If a stated limit is not positive.
    """

    def own() -> int:
        limit = available_memory(device) // 2 if stated is None else stated
        return positive_int("memory_limit", limit)

    return min(processes.gather(own))


def check_same(fingerprints: Sequence[str]) -> None:
    """Refuse a problem that is another one in another process.

    Raises:
        ValueError: If there are several fingerprints.
    """
    kinds = len(set(fingerprints))
    if kinds > 1:
        contract = "have the same weights and options in every process"
        got = f"{kinds} different ones in {len(fingerprints)} processes"
        remedy = "Load the same file, or draw weights from the same seed."
        raise ValueError(message("model", contract, got, remedy))


def check_alone(processes: Processes) -> None:
    """Refuse a computation that needs all data where other processes hold some.

    Raises:
        ValueError: If there are other processes.
    """
    if processes.size > 1:
        contract = "hold all its data in this process for this computation"
        got = f"data shared by {processes.size} processes"
        remedy = "Make the problem in one process, without `data_parallel`."
        raise ValueError(message("problem", contract, got, remedy))


def check_evaluation(total: float, denominator: float) -> None:
    """Check the sums over the whole data.

    Raises:
        ValueError: If the loss is not finite or the denominator not positive.
    """
    if not math.isfinite(total):
        raise ValueError(message("loss", "be finite on all data", total))
    if not denominator > 0:
        remedy = "Are all targets ignored, or all class weights zero?"
        raise ValueError(
            message("data", "have a positive denominator", denominator, remedy)
        )
