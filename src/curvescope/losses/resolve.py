"""From a name, a torch module or a wrapped function to a loss."""

import inspect
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import nn

from curvescope._core.checks import describe, message, one_of
from curvescope.losses.base import AbstractLoss, Reduction
from curvescope.losses.cross_entropy import NLL, CrossEntropy
from curvescope.losses.elementwise import (
    BCEWithLogits,
    LogCosh,
    SquaredError,
    half_squared_error,
)
from curvescope.losses.wrapped import ModuleLoss

_NAMED: dict[str, Callable[[], AbstractLoss]] = {
    "cross_entropy": CrossEntropy,
    "causal_lm": lambda: CrossEntropy(shift=True, class_dim=-1, name="causal_lm"),
    "mse": SquaredError,
    "half_squared_error": half_squared_error,
    "bce_with_logits": BCEWithLogits,
    "logcosh": LogCosh,
    "nll": NLL,
}


def names() -> tuple[str, ...]:
    """Return the names that `resolve` knows."""
    return tuple(_NAMED)


def _from_module(module: nn.Module) -> AbstractLoss:
    reduction = getattr(module, "reduction", None)
    if reduction not in ("mean", "sum", "batchmean"):
        got = f"{type(module).__name__} with reduction={reduction!r}"
        remedy = 'Use reduction="mean" or "sum", or wrap it with `cs.Loss(...)`.'
        raise ValueError(message("loss", "be a module that reduces", got, remedy))
    operands = [
        p
        for p in inspect.signature(module.forward).parameters.values()
        if p.default is p.empty and p.kind is not p.VAR_KEYWORD
    ]
    if len(operands) != 2:
        got = f"{type(module).__name__}, which takes {len(operands)}"
        remedy = "Wrap it: `cs.Loss(fn, reduction=..., denominator=...)`."
        raise ValueError(message("loss", "take outputs and targets", got, remedy))
    kept: Reduction = "sum" if reduction == "sum" else "mean"
    if type(module) is nn.CrossEntropyLoss:
        return CrossEntropy(
            weight=module.weight,
            ignore_index=module.ignore_index,
            label_smoothing=module.label_smoothing,
            class_dim=1,
            reduction=kept,
        )
    if type(module) is nn.MSELoss:
        return SquaredError(reduction=kept)
    if type(module) is nn.BCEWithLogitsLoss:
        return BCEWithLogits(
            weight=module.weight, pos_weight=module.pos_weight, reduction=kept
        )
    if type(module) is nn.NLLLoss:
        return NLL(
            weight=module.weight, ignore_index=module.ignore_index, reduction=kept
        )
    return ModuleLoss(module=module, reduction=kept, name=type(module).__name__)


def resolve(loss: Any) -> AbstractLoss:
    """Return a loss from a name, a ``torch.nn`` loss module, or a wrapped function.

    Raises:
        ValueError: If the name is unknown or the module does not reduce.
        TypeError: If a bare function is passed, whose reduction nobody can tell.
    """
    if isinstance(loss, AbstractLoss):
        return loss
    if isinstance(loss, str):
        one_of("loss", loss, tuple(_NAMED))
        return _NAMED[loss]()
    if isinstance(loss, nn.Module) and hasattr(loss, "reduction"):
        return _from_module(loss)
    remedy = (
        'Wrap it: `cs.Loss(fn, reduction="mean", denominator="samples")`, where the '
        "denominator is what its mean divides by."
    )
    if callable(loss):
        known = {
            F.cross_entropy: CrossEntropy,
            F.mse_loss: SquaredError,
            F.binary_cross_entropy_with_logits: BCEWithLogits,
            F.nll_loss: NLL,
        }
        if (
            loss in known
        ):  # torch's own functions reduce by a mean unless told otherwise
            return known[loss]()
        got = getattr(loss, "__name__", type(loss).__name__)
        contract = "tell its reduction, which a bare function cannot"
        raise TypeError(message("loss", contract, got, remedy))
    contract = "be a name, a torch.nn loss or a wrapped function"
    raise TypeError(message("loss", contract, describe(loss), remedy))
