"""A copy of the user's network, whose weights may be scaled and measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn

from curvescope._core.random import resolve_generator
from curvescope.analysis.layer_measures import Measures, measure_layers
from curvescope.analysis.layer_places import Place
from curvescope.problem import Problem
from curvescope.results import Cost

Weights = dict[str, Tensor]


@torch.no_grad()
def write_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy values into a model's parameters: all of them, or none."""
    named = dict(model.named_parameters())
    before = {name: named[name].detach().clone() for name in weights}
    try:
        for name, value in weights.items():
            if not torch.equal(named[name], value):
                named[name].copy_(value)
    except BaseException:
        for name, value in before.items():
            named[name].copy_(value)
        raise


def root_mean_square(weight: Tensor) -> float:
    """Return the weights' standard deviation around zero."""
    return float(weight.detach().double().square().mean().sqrt())


@final
@dataclass
class Bench:
    """A problem whose model may be changed, its layers, and what measuring them cost.

    Attributes:
        problem: Of a copy of the user's model.
        places: Its layers.
        num_probes: Of layers without an exact block.
        cost: So far.
    """

    problem: Problem
    places: Sequence[Place]
    num_probes: int
    cost: Cost = field(default_factory=Cost)

    def weights(self) -> Weights:
        """Return copies of the layers' parameters, by their own names."""
        named = dict(self.problem.model.named_parameters())
        return {
            name: named[name].detach().clone()
            for place in self.places
            for name in (place.weight_name, place.bias_name)
            if name is not None and name in named
        }

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Put weights back."""
        write_weights(self.problem.model, weights)

    def measure(self, params: Any) -> Measures:
        """Measure the blocks of some parameters, always with the same probes."""
        measures = measure_layers(
            self.problem.select(params),
            num_probes=self.num_probes,
            generator=resolve_generator(None),
        )
        self.cost = self.cost + measures.cost
        return measures

    def outputs(self) -> Tensor:
        """Return the outputs on the first batch, float64."""
        self.problem.refresh()
        _, parameters = self.problem.leaves()
        with self.problem.network.running(), torch.no_grad():
            batch = next(iter(self.problem.batches()))
            return self.problem.outputs(batch, parameters).double()

    @torch.no_grad()
    def scale(
        self,
        factors: Mapping[str, float],
        *,
        biases: bool,
        pinned_too: bool = False,
    ) -> None:
        """Multiply weights by their factors, and biases by the product so far.

        Behind a pinned layer the product begins at 1 again, unless it moves too.
        """
        product = 1.0
        for place in self.places:
            factor = factors.get(place.name, 1.0)
            product *= factor
            bias = place.module.bias
            if factor != 1.0:
                place.weight.mul_(factor)
            if place.pinned and not pinned_too:
                product = 1.0
            elif biases and isinstance(bias, Tensor):
                bias.mul_(product)
