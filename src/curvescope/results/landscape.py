"""The loss around the weights: on lines and planes, and along kinds of directions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from curvescope.results.base import Result
from curvescope.results.text import format_table


@dataclass(frozen=True, kw_only=True)
class LossSurface(Result):
    r"""The objective on a line or plane through the present weights, exactly.

    .. math:: L(\theta + a\,u + b\,v), \quad u, v \text{ orthonormal}

    Attributes:
        names: What each direction is.
        coordinates: Of each axis, ascending, as lengths :math:`\|\Delta\theta\|`.
        losses: The objective at each point, shape ``(n,)`` or ``(n_1, n_2)``, first axis
            first; float64; infinite or NaN where the loss itself is.
        accuracies: A classifier's accuracy at each point, else ``None``.
        loss: The objective at the present weights, weight decay included as everywhere.
        accuracy: The accuracy there.
        gradient: Slopes along the directions at the present weights, ``(d,)``, float64.
        curvature: Second derivatives there, ``V' H V``, ``(d, d)``, float64.
        direction_norms: Length that each direction had before it was made orthonormal;
            a coordinate divided by it is in the direction's own unit.
        parameter_norm: Length of the selected parameters.
        num_forward_passes: Forward passes over all the data.
        directions: The orthonormal directions, ``(P, d)``, where they were kept.
    """

    names: tuple[str, ...]
    coordinates: tuple[Tensor, ...]
    losses: Tensor
    accuracies: Tensor | None = None
    loss: float
    accuracy: float | None = None
    gradient: Tensor
    curvature: Tensor
    direction_norms: tuple[float, ...]
    parameter_norm: float
    num_forward_passes: int
    directions: Tensor | None = None

    def quadratic_losses(self) -> Tensor:
        """Return the second-order Taylor polynomial of the objective on the grid."""
        grid = torch.stack(torch.meshgrid(*self.coordinates, indexing="ij"), dim=-1)
        slope = grid @ self.gradient
        bend = torch.einsum("...i,ij,...j->...", grid, self.curvature, grid)
        return self.loss + slope + 0.5 * bend

    def headline(self) -> str:
        """Return the result in one line."""
        shape = " x ".join(str(len(axis)) for axis in self.coordinates)
        kind = "line" if len(self.coordinates) == 1 else "plane"
        return (
            f"loss on a {kind} ({', '.join(self.names)}), {shape} points, exact: "
            f"{self.num_forward_passes} forward passes"
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a point."""
        grid = torch.meshgrid(*self.coordinates, indexing="ij")
        columns = {f"coordinate_{i + 1}": axis for i, axis in enumerate(grid)}
        columns |= {"loss": self.losses, "quadratic_loss": self.quadratic_losses()}
        if self.accuracies is not None:
            columns["accuracy"] = self.accuracies
        flat = [values.reshape(-1).tolist() for values in columns.values()]
        return [dict(zip(columns, row, strict=True)) for row in zip(*flat, strict=True)]

    def __str__(self) -> str:
        rows = [
            {
                "direction": name,
                "from": float(axis[0]),
                "to": float(axis[-1]),
                "slope": float(self.gradient[i]),
                "curvature": float(self.curvature[i, i]),
            }
            for i, (name, axis) in enumerate(
                zip(self.names, self.coordinates, strict=True)
            )
        ]
        return format_table(self.headline(), rows, self.notes, str(self.cost))


@dataclass(frozen=True, kw_only=True)
class Homogeneity(Result):
    """Loss and label agreement against step length, by kind of direction.

    A draw is one random direction of unit length in the kind's subspace; all its steps
    lie on one line. Tensors by kind have shape ``(num_draws, num_steps)``, float64.

    Attributes:
        step_lengths: Lengths of the steps in parameter norm, ascending.
        num_vectors: Dimension of each kind's subspace, by kind.
        losses: The objective, by kind.
        accuracies: A classifier's accuracy, by kind; empty where there is none.
        agreements: Fraction of predicted labels that are those of the present weights;
            empty where there are none.
        curvatures: ``v' H v`` of each draw, by kind, shape ``(num_draws,)``.
        test_losses: As ``losses`` on other data; empty where none were given.
        test_accuracies: As ``accuracies`` on other data.
        test_agreements: As ``agreements`` on other data.
        loss: The objective at the present weights.
        accuracy: The accuracy there.
        test_loss: The objective on the other data there.
        test_accuracy: The accuracy on them there.
        parameter_norm: Length of the selected parameters.
        num_forward_passes: Forward passes over all the data, other data included.
    """

    step_lengths: Tensor
    num_vectors: Mapping[str, int]
    losses: Mapping[str, Tensor]
    accuracies: Mapping[str, Tensor] = field(default_factory=dict)
    agreements: Mapping[str, Tensor] = field(default_factory=dict)
    curvatures: Mapping[str, Tensor] = field(default_factory=dict)
    test_losses: Mapping[str, Tensor] = field(default_factory=dict)
    test_accuracies: Mapping[str, Tensor] = field(default_factory=dict)
    test_agreements: Mapping[str, Tensor] = field(default_factory=dict)
    loss: float
    accuracy: float | None = None
    test_loss: float | None = None
    test_accuracy: float | None = None
    parameter_norm: float
    num_forward_passes: int

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of directions."""
        return tuple(self.losses)

    def measures(self) -> dict[str, Mapping[str, Tensor]]:
        """Return what was measured, by the glossary's word; each is by kind."""
        every = {
            "loss": self.losses,
            "label_agreement": self.agreements,
            "accuracy": self.accuracies,
            "test_loss": self.test_losses,
            "test_label_agreement": self.test_agreements,
            "test_accuracy": self.test_accuracies,
        }
        return {name: by_kind for name, by_kind in every.items() if by_kind}

    def headline(self) -> str:
        """Return the result in one line."""
        draws = len(next(iter(self.losses.values())))
        kinds = ", ".join(f"{kind} ({self.num_vectors[kind]})" for kind in self.kinds)
        return f"{len(self.step_lengths)} step lengths along {draws} draws each of: {kinds}"

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a kind and step length: median, smallest and largest draw."""
        return [
            {
                "direction": kind,
                "num_vectors": self.num_vectors[kind],
                "step_length": float(step),
                "quadratic_loss": self.loss
                + 0.5 * float(step) ** 2 * float(self.curvatures[kind].median()),
            }
            | {
                name + suffix: value
                for name, by_kind in self.measures().items()
                for suffix, value in _spread(by_kind[kind][:, place])
            }
            for kind in self.kinds
            for place, step in enumerate(self.step_lengths)
        ]

    def __str__(self) -> str:
        shown = ("direction", "step_length", *self.measures())
        rows = [{name: row[name] for name in shown} for row in self.rows()]
        return format_table(self.headline(), rows, self.notes, str(self.cost))


def _spread(draws: Tensor) -> list[tuple[str, float]]:
    """Return the median and the range; a NaN among the draws makes all three NaN."""
    if bool(draws.isnan().any()):
        return [("", float("nan")), ("_low", float("nan")), ("_high", float("nan"))]
    # The middle of an even number of draws, which `Tensor.median` is not.
    middle = float(draws.sort().values[[(len(draws) - 1) // 2, len(draws) // 2]].mean())
    return [("", middle), ("_low", float(draws.min())), ("_high", float(draws.max()))]
