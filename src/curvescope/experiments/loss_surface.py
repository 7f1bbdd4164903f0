"""The loss on a line or plane through any model's weights."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from curvescope._core.checks import message, one_of, positive_int, real
from curvescope.analysis import loss_surface as evaluate
from curvescope.experiments.base import Experiment, decisive
from curvescope.experiments.problems import (
    ModelSettings,
    build_problem,
    parse_arguments,
)
from curvescope.results import LossSurface, Result

Direction = Literal["top", "bottom", "complement", "random", "gradient", "filter"]
UNTRAINED = (
    "no `--weights` were given: these are random, and nothing of an untrained network's "
    "surroundings tells of a trained one's"
)


@dataclass(frozen=True, kw_only=True)
class SurfaceSettings(ModelSettings):
    """The loss on a line or plane through any model's weights."""

    directions: Direction = "top"
    """top, bottom: eigenvectors; complement: random, orthogonal to the top ones; random;
    gradient; filter: random, filters as long as the weights' own."""
    num_dims: Literal[1, 2] = 2
    """A line or a plane."""
    extent: float | None = None
    """Largest step to either side, a length in parameter space; 1 by default."""
    num_points: int | None = None
    """Points of each axis; 41 on a line and 25 on each side of a plane by default."""
    num_top: int = 20
    """Eigenpairs to compute where the model is too large for all."""


def surface_experiment(
    config: SurfaceSettings, *, folder: Path | None = None
) -> dict[str, Result]:
    """Evaluate the loss around a model's weights.

    Args:
        config: Model, weights, data, and which line or plane.
        folder: Where finished rows are kept, so that a later call goes on there.

    Returns:
        The surface under the name ``loss_surface``.

    Raises:
        ValueError: If the configuration is wrong.

    Cost:
        That of `curvescope.loss_surface`.

    Example:
        >>> config = SurfaceSettings(
        ...     num_samples=20, num_points=3, num_dims=1, directions="gradient"
        ... )
        >>> surface_experiment(config)["loss_surface"].losses.shape
        torch.Size([3])

    References:
        Li, Xu, Taylor, Studer, Goldstein (2018), arXiv:1712.09913; Maddox, Benton,
        Wilson (2020), arXiv:2003.02139, section 5 and appendix.
    """
    check(config)
    problem = build_problem(config).problem
    found = evaluate(
        problem,
        directions=config.directions,
        num_dims=config.num_dims,
        extent=config.extent,
        num_points=config.num_points,
        num_top=config.num_top,
        folder=None if folder is None else folder / "state",
        generator=torch.Generator().manual_seed(config.seed),
    )
    notes = found.notes if config.weights is not None else (*found.notes, UNTRAINED)
    settings = {**decisive(config), **found.settings}
    result: LossSurface = dataclasses.replace(found, notes=notes, settings=settings)
    return {"loss_surface": result}


def check(config: SurfaceSettings) -> None:
    """Check a configuration.

    Raises:
        FileNotFoundError: If the file of weights is absent.
        ValueError: If a value is out of range.
    """
    check_model(config)
    one_of("directions", config.directions, get_args(Direction))
    if config.num_dims not in (1, 2):
        raise ValueError(message("num_dims", "be 1 or 2", config.num_dims))
    if config.extent is not None:
        real("extent", config.extent, minimum=0.0, strict=True)
    if config.num_points is not None:
        positive_int("num_points", config.num_points, minimum=2)
    positive_int("num_top", config.num_top, minimum=2)


def check_model(config: ModelSettings) -> None:
    """Check what can be checked of a model's settings before it is built.

    Raises:
        FileNotFoundError: If the file of weights is absent.
        ValueError: If a value is out of range.
    """
    parse_arguments(config.model_arg)
    positive_int("batch_size", config.batch_size)
    positive_int("seed", config.seed, minimum=0)
    if config.num_samples is not None:
        positive_int("num_samples", config.num_samples)
    if config.weights is not None and not config.weights.is_file():
        text = message("weights", "be a file", str(config.weights))
        raise FileNotFoundError(text)


EXPERIMENT = Experiment(
    name="loss-surface",
    config=SurfaceSettings,
    run=surface_experiment,
    check=check,
    summary="The loss on a line or plane through any model's weights.",
)
