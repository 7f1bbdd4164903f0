"""How far a model's function stays the same: steps along top, flat, random directions."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from curvescope._core.checks import message, positive_int, real
from curvescope.analysis import homogeneity as evaluate
from curvescope.experiments.base import Experiment, decisive
from curvescope.experiments.loss_surface import UNTRAINED, check_model
from curvescope.experiments.problems import ModelSettings, build_problem, other_split
from curvescope.results import Homogeneity, Result

Kind = Literal["top", "bottom", "complement", "random"]


@dataclass(frozen=True, kw_only=True)
class HomogeneitySettings(ModelSettings):
    """Loss and label agreement against step length along kinds of directions."""

    num_top: int = 3
    """Dimension of the top subspace."""
    num_bottom: int | None = None
    """Dimension of the bottom subspace; half of all by default; small models only."""
    step_lengths: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    """Steps in parameter norm."""
    num_draws: int = 5
    """Random directions of each kind."""
    directions: tuple[Kind, ...] = ()
    """Which kinds; by default top, random, and bottom or, of large models, the
    complement of all eigenvectors that were computed."""
    num_pairs: int = 20
    """Eigenpairs to compute where the model is too large for all."""
    test_samples: int | None = None
    """Also measure on the first so many test images, of a data set by name."""


def homogeneity_experiment(
    config: HomogeneitySettings, *, folder: Path | None = None
) -> dict[str, Result]:
    """Step away from a model's weights, and measure what changes.

    Args:
        config: Model, weights, data, and which steps.
        folder: Where finished draws are kept, so that a later call goes on there.

    Returns:
        The measurements under the name ``homogeneity``.

    Raises:
        ValueError: If the configuration is wrong.

    Cost:
        That of `curvescope.homogeneity`.

    Example:
        >>> config = HomogeneitySettings(
        ...     num_samples=20, directions=("random",), num_draws=2, step_lengths=(0.1,),
        ...     model_arg=("hidden=[4]",),
        ... )
        >>> homogeneity_experiment(config)["homogeneity"].kinds
        ('random',)

    References:
        Maddox, Benton, Wilson (2020), arXiv:2003.02139, section 5 and appendix.
    """
    check(config)
    built = build_problem(config)
    test = None
    if config.test_samples is not None:
        test = other_split(config, built, config.test_samples)
    found = evaluate(
        built.problem,
        num_top=config.num_top,
        num_bottom=config.num_bottom,
        step_lengths=config.step_lengths,
        num_draws=config.num_draws,
        directions=config.directions or None,
        test=test,
        num_pairs=config.num_pairs,
        folder=None if folder is None else folder / "state",
        generator=torch.Generator().manual_seed(config.seed),
    )
    notes = found.notes if config.weights is not None else (*found.notes, UNTRAINED)
    settings = {**decisive(config), **found.settings}
    result: Homogeneity = dataclasses.replace(found, notes=notes, settings=settings)
    return {"homogeneity": result}


def check(config: HomogeneitySettings) -> None:
    """Check a configuration.

    Raises:
        FileNotFoundError: If the file of weights is absent.
        ValueError: If a value is out of range.
    """
    check_model(config)
    for name in ("num_top", "num_draws", "num_pairs"):
        positive_int(name, getattr(config, name))
    for name in ("num_bottom", "test_samples"):
        if getattr(config, name) is not None:
            positive_int(name, getattr(config, name))
    if not config.step_lengths:
        raise ValueError(message("step_lengths", "hold at least one number", "none"))
    for step in config.step_lengths:
        real("step_lengths", step, minimum=0.0, strict=True)


EXPERIMENT = Experiment(
    name="homogeneity",
    config=HomogeneitySettings,
    run=homogeneity_experiment,
    check=check,
    summary="How far any model's function stays the same along kinds of directions.",
)
