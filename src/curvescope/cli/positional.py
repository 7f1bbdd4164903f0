"""``curvescope experiment NAME MODEL``: the model stands first, as in ``analyze MODEL``."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from curvescope.experiments import experiment, names
from curvescope.experiments.around_weights import WeightsSettings


def with_positional_model(config: type) -> Any:
    """Return a configuration of any model's weights whose model needs no ``--model``.

    Other configurations are returned as they are: what they call a model is a choice.
    """
    if not issubclass(config, WeightsSettings):
        return config
    kind = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[MODEL]")]
    default = dataclasses.field(default=config.model)
    made = dataclasses.make_dataclass(
        config.__name__,
        [("model", kind, default)],
        bases=(config,),
        frozen=True,
        kw_only=True,
    )
    made.__doc__ = config.__doc__
    return made


def without_option(words: Sequence[str]) -> list[str]:
    """Read ``--model MODEL`` as ``MODEL`` where the model is positional.

    Example:
        >>> without_option(["experiment", "loss-surface", "--model", "resnet20"])
        ['experiment', 'loss-surface', 'resnet20']
    """
    found = list(words)
    if len(found) < 3 or found[0] != "experiment" or found[1] not in names():
        return found
    if not issubclass(experiment(found[1]).config, WeightsSettings):
        return found
    for place, word in enumerate(found):
        option, equals, value = word.partition("=")
        if option != "--model":
            continue
        if equals:
            return [*found[:2], value, *found[2:place], *found[place + 1 :]]
        if place + 1 < len(found):
            return [
                *found[:2],
                found[place + 1],
                *found[2:place],
                *found[place + 2 :],
            ]
    return found
