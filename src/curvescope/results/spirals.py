"""Classifiers of the plane before and after steps; surfaces side by side."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from curvescope.results.base import Result
from curvescope.results.landscape import LossSurface


@dataclass(frozen=True, kw_only=True)
class PerturbedClassifiers(Result):
    """Binary classifiers of the plane, at the weights and after steps from them.

    Attributes:
        x: First coordinate of the grid, ascending, ``(n,)``.
        y: Second coordinate, ``(m,)``.
        probabilities: Of class 1 at the present weights, ``(n, m)``.
        perturbed: The same after each step, ``(steps, n, m)``.
        kinds: The kind of direction of each step, such as ``"top 3"``; steps of one kind
            lie on one line.
        step_lengths: In parameter norm.
        losses: The objective after each step, on the training data.
        agreements: Part of the training labels that stays.
        loss: The objective at the present weights.
        points: Training points, ``(N, 2)``.
        labels: Their classes, ``(N,)``.
    """

    x: Tensor
    y: Tensor
    probabilities: Tensor
    perturbed: Tensor
    kinds: tuple[str, ...]
    step_lengths: tuple[float, ...]
    losses: tuple[float, ...]
    agreements: tuple[float, ...]
    loss: float
    points: Tensor
    labels: Tensor

    def changed(self) -> Tensor:
        """Return the part of the grid on the other side of the boundary, by step."""
        other = (self.perturbed > 0.5) != (self.probabilities > 0.5)
        return other.double().mean(dim=(1, 2))

    def headline(self) -> str:
        """Return the result in one line."""
        kinds = ", ".join(dict.fromkeys(self.kinds))
        return f"decision boundaries after {len(self.kinds)} steps along: {kinds}"

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a step."""
        columns = {
            "direction": self.kinds,
            "step_length": self.step_lengths,
            "loss": self.losses,
            "label_agreement": self.agreements,
            "plane_changed": self.changed().tolist(),
        }
        return [
            dict(zip(columns, row, strict=True))
            for row in zip(*columns.values(), strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class SurfaceComparison(Result):
    """Loss surfaces of one network on several planes, to be seen in one scale.

    Attributes:
        surfaces: By what the plane lies in.
    """

    surfaces: Mapping[str, LossSurface]

    def headline(self) -> str:
        """Return the result in one line."""
        return f"loss on {len(self.surfaces)} planes: {', '.join(self.surfaces)}"

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a plane."""
        rows = []
        for name, surface in self.surfaces.items():
            finite = surface.losses[torch.isfinite(surface.losses)]
            rows.append(
                {
                    "plane": name,
                    "reach": float(surface.coordinates[0][-1]),
                    "loss": surface.loss,
                    "lowest_loss": float(finite.min()),
                    "median_loss": float(finite.median()),
                    "highest_loss": float(finite.max()),
                    "curvature_1": float(surface.curvature[0, 0]),
                    "curvature_2": float(surface.curvature[1, 1]),
                }
            )
        return rows
