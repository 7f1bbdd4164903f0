"""The loss on a line or plane through any model's weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch

from curvescope._core.checks import message, one_of, positive_int, real
from curvescope.analysis import loss_surface as evaluate
from curvescope.analysis.directions import SPECTRAL
from curvescope.experiments.around_weights import (
    AroundWeights,
    WeightsSettings,
    check_model,
    plan_around,
    settled,
)
from curvescope.experiments.base import Experiment, Plan
from curvescope.results import LossSurface, Result

Direction = Literal["top", "bottom", "complement", "random", "gradient", "filter"]
_POINTS = {1: 41, 2: 25}


@dataclass(frozen=True, kw_only=True)
class SurfaceSettings(WeightsSettings):
    """The loss on a line or plane through any model's weights."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "small": {"num_top": 20},
        "paper": {"num_top": 200, "extent": 5.0},
    }
    RECIPES: ClassVar[dict[str, dict[str, Any]]] = {
        preset: {
            "epochs": 30,
            "optimizer": "adam",
            "learning_rate": 1e-3,
            "batch_size": 128,
        }
        for preset in ("small", "paper")
    }

    directions: Direction = "top"
    """top, bottom: eigenvectors; complement: random, orthogonal to the top ones; random;
    gradient; filter: random, filters as long as the weights' own."""
    num_dims: Literal[1, 2] = 2
    """A line or a plane."""
    extent: float | None = None
    """Largest step to either side, a length in parameter space; 1, or 5 as published."""
    num_points: int | None = None
    """Points of each axis; 41 on a line and 25 on each side of a plane by default."""
    num_top: int | None = None
    """Eigenpairs to compute where the model is too large for all; 20, or 200 as
    published."""


def surface_experiment(
    config: SurfaceSettings, *, folder: Path | None = None
) -> dict[str, Result]:
    """Evaluate the loss around a model's weights.

    Args:
        config: Model, weights, data, and which line or plane.
        folder: Where finished rows are kept, so that a later call goes on there.

    Returns:
        The surface under the name ``loss_surface``; with ``epochs`` the ``training``.

    Raises:
        ValueError: If the configuration is wrong.

    Cost:
        That of `curvescope.loss_surface`, and the training.

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
    return prepare(config).run(folder=folder)


def prepare(config: SurfaceSettings) -> AroundWeights:
    """Load model and data.

    Raises:
        ValueError: If the configuration is wrong.
    """
    check(config)
    config = settled(config)

    def measure(ready: AroundWeights, state: Path | None) -> LossSurface:
        assert config.num_top is not None
        return evaluate(
            ready.problem,
            directions=config.directions,
            num_dims=config.num_dims,
            extent=config.extent,
            num_points=config.num_points,
            num_top=config.num_top,
            folder=state,
            generator=torch.Generator().manual_seed(config.seed),
        )

    return AroundWeights(
        config, "loss_surface", measure, directions=(config.directions,)
    )


def check(config: SurfaceSettings) -> None:
    """Check a configuration.

    Raises:
        FileNotFoundError: If the file of weights is absent.
        ValueError: If a value is out of range.
    """
    check_model(config)
    config = settled(config)
    one_of("directions", config.directions, get_args(Direction))
    if config.num_dims not in (1, 2):
        raise ValueError(message("num_dims", "be 1 or 2", config.num_dims))
    if config.extent is not None:
        real("extent", config.extent, minimum=0.0, strict=True)
    if config.num_points is not None:
        positive_int("num_points", config.num_points, minimum=2)
    positive_int("num_top", config.num_top, minimum=2)


def plan(config: SurfaceSettings) -> Plan:
    """Say what a configuration will cost."""
    config = settled(config)
    side = config.num_points or _POINTS[config.num_dims]
    kind = "line" if config.num_dims == 1 else "plane"
    assert config.num_top is not None
    return plan_around(
        config,
        what=f"{kind} of {config.directions} directions",
        passes=side**config.num_dims,
        products=config.num_dims + (config.directions == "gradient"),
        num_pairs=config.num_top if config.directions in SPECTRAL else 0,
        directions=(config.directions,),
    )


EXPERIMENT = Experiment(
    name="loss-surface",
    config=SurfaceSettings,
    run=surface_experiment,
    check=check,
    plan=plan,
    prepare=prepare,
    summary="The loss on a line or plane through any model's weights.",
)
