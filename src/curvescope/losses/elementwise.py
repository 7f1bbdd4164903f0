"""Losses that add up over the outputs' elements."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor

from curvescope._core.checks import message
from curvescope.losses.base import (
    AbstractLoss,
    Product,
    Reduction,
    no_likelihood,
    require_same_shape,
)


@final
@dataclass(frozen=True, kw_only=True)
class SquaredError(AbstractLoss):
    r"""Squared error, ``scale * sum (f - y)^2``.

    Torch's mean divides by all ELEMENTS (``denominator_per="element"``); the half sum
    over outputs, averaged over samples, is `half_squared_error`.
    """

    scale: float = 1.0
    denominator_per: Literal["element", "sample"] = "element"
    reduction: Reduction = "mean"
    name: str = "mse"
    convex_in_outputs: ClassVar[bool] = True

    def total(self, outputs: Tensor, targets: Any) -> Tensor:
        """Return the scaled sum of squares."""
        difference = outputs - targets
        return self.scale * (difference * difference).sum()

    def denominator(self, outputs: Tensor, targets: Any) -> float:
        """Return the number of elements, or of samples."""
        count = outputs.numel() if self.denominator_per == "element" else len(outputs)
        return float(count)

    def check(self, outputs: Tensor, targets: Any) -> None:
        """Check that nothing would be broadcast."""
        require_same_shape(outputs, targets, self.name)

    def correct(self, outputs: Tensor, targets: Any) -> tuple[int, int] | None:
        """Return ``None``: this is no classification."""
        return None

    def agreeing(
        self, outputs: Tensor, others: Tensor, targets: Any
    ) -> tuple[int, int] | None:
        """Return ``None``: this is no classification."""
        return None

    def output_hessian(self, outputs: Tensor, targets: Any) -> Product:
        """Return the product with ``2 scale I``."""
        factor = 2.0 * self.scale
        return lambda U: factor * U

    def output_factor(self, outputs: Tensor, targets: Any) -> Tensor | None:
        """Return ``sqrt(2 scale) I`` for every sample."""
        return torch.diag_embed(torch.full_like(outputs, math.sqrt(2.0 * self.scale)))

    def sampled_gradients(
        self, outputs: Tensor, targets: Any, *, num: int, generator: torch.Generator
    ) -> Tensor:
        """Draw labels from the Gaussian whose negative log-likelihood this is."""
        noise = torch.randn(
            num,
            *outputs.shape,
            generator=generator,
            device=generator.device,
            dtype=torch.float64,
        )
        return math.sqrt(2.0 * self.scale) * noise.to(outputs)


def half_squared_error(*, reduction: Reduction = "mean") -> SquaredError:
    r"""Return ``1/2 ||f - y||^2``, whose mean is over samples: the seeds' MSE."""
    return SquaredError(
        scale=0.5,
        denominator_per="sample",
        reduction=reduction,
        name="half_squared_error",
    )


@final
@dataclass(frozen=True, kw_only=True)
class BCEWithLogits(AbstractLoss):
    """Binary cross-entropy of logits; the mean is over all elements."""

    weight: Tensor | None = None
    pos_weight: Tensor | None = None
    reduction: Reduction = "mean"
    name: str = "bce_with_logits"
    convex_in_outputs: ClassVar[bool] = True

    def total(self, outputs: Tensor, targets: Any) -> Tensor:
        """Return the sum over all elements."""
        return F.binary_cross_entropy_with_logits(
            outputs,
            targets,
            weight=None if self.weight is None else self.weight.to(outputs),
            pos_weight=None if self.pos_weight is None else self.pos_weight.to(outputs),
            reduction="sum",
        )

    def denominator(self, outputs: Tensor, targets: Any) -> float:
        """Return the number of elements."""
        return float(outputs.numel())

    def check(self, outputs: Tensor, targets: Any) -> None:
        """Check shapes and that the targets lie in [0, 1]."""
        require_same_shape(outputs, targets, self.name)
        if (
            targets.numel()
            and not 0 <= float(targets.min()) <= float(targets.max()) <= 1
        ):
            got = f"values from {float(targets.min()):g} to {float(targets.max()):g}"
            raise ValueError(message("targets", "lie in [0, 1]", got))

    def _curvature(self, outputs: Tensor, targets: Tensor) -> Tensor:
        # sigmoid(-f), since 1 - sigmoid(f) has no digits where that is near 1.
        factor = torch.sigmoid(outputs.detach()) * torch.sigmoid(-outputs.detach())
        if self.pos_weight is not None:
            factor = factor * (1 + (self.pos_weight.to(factor) - 1) * targets)
        return factor if self.weight is None else factor * self.weight.to(factor)

    def correct(self, outputs: Tensor, targets: Any) -> tuple[int, int] | None:
        """Count the elements on the right side of one half."""
        right = (outputs > 0) == (targets > 0.5)
        return int(right.sum()), right.numel()

    def agreeing(
        self, outputs: Tensor, others: Tensor, targets: Any
    ) -> tuple[int, int] | None:
        """Count the elements that lie on the same side of one half."""
        same = (outputs > 0) == (others > 0)
        return int(same.sum()), same.numel()

    def output_hessian(self, outputs: Tensor, targets: Any) -> Product:
        """Return the product with the diagonal ``w s (1 - s)``."""
        factor = self._curvature(outputs, targets)
        return lambda U: factor * U

    def output_factor(self, outputs: Tensor, targets: Any) -> Tensor | None:
        """Return the diagonal ``sqrt(w s (1 - s))``."""
        return torch.diag_embed(self._curvature(outputs, targets).sqrt())

    def sampled_gradients(
        self, outputs: Tensor, targets: Any, *, num: int, generator: torch.Generator
    ) -> Tensor:
        """Draw labels from the Bernoulli distributions."""
        s = torch.sigmoid(outputs.detach())
        uniform = torch.rand(
            num,
            *s.shape,
            generator=generator,
            device=generator.device,
            dtype=torch.float64,
        ).to(s.device)
        drawn = (uniform < s).to(s)
        variance = s * torch.sigmoid(-outputs.detach())
        variance = variance.clamp_min(torch.finfo(s.dtype).tiny)
        mass = self._curvature(outputs, targets) / variance
        return mass.sqrt() * (s - drawn)


@final
@dataclass(frozen=True, kw_only=True)
class LogCosh(AbstractLoss):
    """``sum log cosh(f - y)``; the mean is over samples, as in the rank experiments."""

    reduction: Reduction = "mean"
    name: str = "logcosh"
    convex_in_outputs: ClassVar[bool] = True

    def total(self, outputs: Tensor, targets: Any) -> Tensor:
        """Return the sum, by the form that does not overflow."""
        d = outputs - targets
        return (d + F.softplus(-2.0 * d) - math.log(2.0)).sum()

    def denominator(self, outputs: Tensor, targets: Any) -> float:
        """Return the number of samples."""
        return float(len(outputs))

    def check(self, outputs: Tensor, targets: Any) -> None:
        """Check that nothing would be broadcast."""
        require_same_shape(outputs, targets, self.name)

    def correct(self, outputs: Tensor, targets: Any) -> tuple[int, int] | None:
        """Return ``None``: this is no classification."""
        return None

    def agreeing(
        self, outputs: Tensor, others: Tensor, targets: Any
    ) -> tuple[int, int] | None:
        """Return ``None``: this is no classification."""
        return None

    def output_hessian(self, outputs: Tensor, targets: Any) -> Product:
        """Return the product with the diagonal ``1 / cosh(f - y)^2``."""
        factor = self._root(outputs, targets) ** 2
        return lambda U: factor * U

    def output_factor(self, outputs: Tensor, targets: Any) -> Tensor | None:
        """Return the diagonal ``1 / cosh(f - y)``."""
        return torch.diag_embed(self._root(outputs, targets))

    @staticmethod
    def _root(outputs: Tensor, targets: Tensor) -> Tensor:
        # sech from exp(-|d|), which cannot overflow.
        e = torch.exp(-(outputs.detach() - targets).abs())
        return 2.0 * e / (1.0 + e * e)

    def sampled_gradients(
        self, outputs: Tensor, targets: Any, *, num: int, generator: torch.Generator
    ) -> Tensor:
        """Refuse: this loss is used for robustness, not as a likelihood.

        Raises:
            TypeError: Always.
        """
        raise no_likelihood(self.name)
