"""``curvescope experiment NAME MODEL``: the model stands first, as in ``analyze MODEL``."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

from curvescope.experiments import Experiment, experiment, names


def with_positional_model(row: Experiment) -> Any:
    """Return an experiment's configuration, whose model needs no ``--model``.

    Only those on a user's model have one; what others call a model is a choice.
    """
    config: Any = row.config
    if row.prepare is None:
        return config
    import tyro

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
    if experiment(found[1]).prepare is None:
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
