"""Losses of the user: torch modules, and functions with a stated denominator."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from curvescope._core.checks import describe, message, one_of
from curvescope.losses.base import (
    REDUCTIONS,
    AbstractLoss,
    Product,
    Reduction,
    autodiff_output_hessian,
    no_likelihood,
)


@final
@dataclass(frozen=True, kw_only=True)
class ModuleLoss(AbstractLoss):
    """Any ``torch.nn`` loss module whose terms add up (Huber, L1, Poisson NLL, ...).

    The sum is the module's own with ``reduction="sum"``, the denominator the number of
    its unreduced terms; both are compared with the module's own mean when checked.
    """

    module: nn.Module
    reduction: Reduction
    name: str
    _forms: dict[str, nn.Module] = field(
        default_factory=dict, repr=False, compare=False
    )

    def _form(self, reduction: str, outputs: Tensor) -> nn.Module:
        """Return a copy with another reduction, its weights where the outputs are."""
        key = f"{reduction} {outputs.dtype} {outputs.device}"
        if key not in self._forms:
            form = copy.deepcopy(self.module)
            form.reduction = reduction  # type: ignore[assignment]
            self._forms[key] = form.to(device=outputs.device, dtype=outputs.dtype)
        return self._forms[key]

    def total(self, outputs: Tensor, targets: Any) -> Tensor:
        """Return the module's sum."""
        return self._form("sum", outputs)(outputs, targets)

    def denominator(self, outputs: Tensor, targets: Any) -> float:
        """Return the number of unreduced terms; of samples for ``batchmean``."""
        if getattr(self.module, "reduction", "") == "batchmean":
            return float(len(outputs))
        with torch.no_grad():
            return float(self._form("none", outputs)(outputs, targets).numel())

    def check(self, outputs: Tensor, targets: Any) -> None:
        """Check that sum / denominator is the module's own mean."""
        reduction = getattr(self.module, "reduction", "")
        if reduction == "sum":
            return
        with torch.no_grad():
            mean = float(self._form(reduction, outputs)(outputs, targets))
            ours = float(self.total(outputs, targets)) / self.denominator(
                outputs, targets
            )
        if not math.isclose(mean, ours, rel_tol=1e-4, abs_tol=1e-30):
            contract = "be a mean over its unreduced terms"
            remedy = "Wrap it: `cs.Loss(fn, reduction=..., denominator=...)`."
            raise ValueError(
                message("loss", contract, f"{self.name}: {mean} != {ours}", remedy)
            )

    def correct(self, outputs: Tensor, targets: Any) -> tuple[int, int] | None:
        """Return ``None``: this is no classification."""
        return None

    def agreeing(
        self, outputs: Tensor, others: Tensor, targets: Any
    ) -> tuple[int, int] | None:
        """Return ``None``: this is no classification."""
        return None

    def output_hessian(self, outputs: Tensor, targets: Any) -> Product:
        """Return the product by double backward through the module."""
        return autodiff_output_hessian(self, outputs, targets)

    def output_factor(self, outputs: Tensor, targets: Any) -> Tensor | None:
        """Return ``None``: the function's formula is not known."""
        return None

    def sampled_gradients(
        self, outputs: Tensor, targets: Any, *, num: int, generator: torch.Generator
    ) -> Tensor:
        """Refuse: it is not known which likelihood the module stands for.

        Raises:
            TypeError: Always.
        """
        raise no_likelihood(self.name)


@final
@dataclass(frozen=True, kw_only=True)
class _CallableLoss(AbstractLoss):
    """A user's function together with its denominator; made by `Loss`."""

    function: Callable[[Any, Any], Tensor]
    returns: Literal["mean", "sum"]
    denominator_function: Callable[[Any, Any], float]
    reduction: Reduction
    name: str

    def total(self, outputs: Tensor, targets: Any) -> Tensor:
        """Return the function's sum; a mean is multiplied by its denominator."""
        value = self.function(outputs, targets)
        return (
            value
            if self.returns == "sum"
            else value * self.denominator(outputs, targets)
        )

    def denominator(self, outputs: Tensor, targets: Any) -> float:
        """Return what the user said."""
        return float(self.denominator_function(outputs, targets))

    def check(self, outputs: Tensor, targets: Any) -> None:
        """Check that the function returns one number."""
        value = self.function(outputs, targets)
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = describe(value)
            raise TypeError(message("fn", "return one number for a batch", got))

    def correct(self, outputs: Tensor, targets: Any) -> tuple[int, int] | None:
        """Return ``None``: this is no classification."""
        return None

    def agreeing(
        self, outputs: Tensor, others: Tensor, targets: Any
    ) -> tuple[int, int] | None:
        """Return ``None``: this is no classification."""
        return None

    def output_hessian(self, outputs: Tensor, targets: Any) -> Product:
        """Return the product by double backward through the function."""
        return autodiff_output_hessian(self, outputs, targets)

    def output_factor(self, outputs: Tensor, targets: Any) -> Tensor | None:
        """Return ``None``: the function's formula is not known."""
        return None

    def sampled_gradients(
        self, outputs: Tensor, targets: Any, *, num: int, generator: torch.Generator
    ) -> Tensor:
        """Refuse: it is not known which likelihood the function stands for.

        Raises:
            TypeError: Always.
        """
        raise no_likelihood(self.name)


def Loss(
    fn: Callable[[Any, Any], Tensor],
    *,
    reduction: Reduction,
    denominator: Callable[[Any, Any], float]
    | Literal["samples", "elements"] = "samples",
    name: str | None = None,
) -> AbstractLoss:
    """Wrap a function ``fn(outputs, targets) -> scalar`` of one batch.

    Args:
        fn: Returns the batch's sum or mean.
        reduction: Which of the two it returns; also the unit of the objective.
        denominator: What its mean divides by: the batch's ``"samples"``, the outputs'
            ``"elements"``, or a function of outputs and targets.
        name: For reports; the function's own by default.

    Returns:
        A loss for `Problem`.

    Raises:
        ValueError: If ``reduction`` or ``denominator`` is unknown.

    Example:
        >>> import torch
        >>> mean_absolute = lambda f, y: (f - y).abs().mean()
        >>> loss = Loss(mean_absolute, reduction="mean", denominator="elements")
        >>> float(loss.total(torch.ones(2, 3), torch.zeros(2, 3)))
        6.0
    """
    one_of("reduction", reduction, REDUCTIONS)
    counts: dict[str, Callable[[Any, Any], float]] = {
        "samples": lambda outputs, _: float(len(outputs)),
        "elements": lambda outputs, _: float(outputs.numel()),
    }
    if not callable(denominator):
        one_of("denominator", denominator, tuple(counts))
        denominator = counts[denominator]
    return _CallableLoss(
        function=fn,
        returns=reduction,
        denominator_function=denominator,
        reduction=reduction,
        name=name or str(getattr(fn, "__name__", type(fn).__name__)),
    )
