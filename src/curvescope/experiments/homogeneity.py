"""How far a model's function stays the same: steps along top, flat, random directions."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from curvescope._core.checks import message, positive_int, real
from curvescope.analysis import homogeneity as evaluate
from curvescope.analysis.directions import SPECTRAL
from curvescope.experiments.around_weights import (
    AroundWeights,
    WeightsSettings,
    check_model,
    plan_around,
    settled,
)
from curvescope.experiments.base import Experiment, Plan
from curvescope.experiments.problems import Built, other_split
from curvescope.problem import Problem
from curvescope.results import Homogeneity, Result

Kind = Literal["top", "bottom", "complement", "random"]
_KINDS = 3


@dataclass(frozen=True, kw_only=True)
class HomogeneitySettings(WeightsSettings):
    """Loss and label agreement against step length along kinds of directions."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "small": {
            "step_lengths": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
            "num_draws": 5,
            "num_pairs": 20,
        },
        "paper": {
            "step_lengths": tuple(round(step / 19, 6) for step in range(1, 20)),
            "num_draws": 10,
            "num_pairs": 200,
        },
    }
    RECIPES: ClassVar[dict[str, dict[str, Any]]] = {
        "small": {
            "epochs": 30,
            "optimizer": "adam",
            "learning_rate": 1e-3,
            "batch_size": 128,
        },
        "paper": {
            "epochs": 10,
            "optimizer": "sgd",
            "momentum": 0.9,
            "learning_rate": 0.01,
            "batch_size": 128,
        },
    }

    num_top: int = 3
    """Dimension of the top subspace."""
    num_bottom: int | None = None
    """Dimension of the bottom subspace; half of all by default; small models only."""
    step_lengths: tuple[float, ...] | None = None
    """Steps in parameter norm; 0.01 to 10, or 1/19 to 1 as published."""
    num_draws: int | None = None
    """Random directions of each kind; 5, or 10 as published."""
    directions: tuple[Kind, ...] = ()
    """Which kinds; by default top, random, and bottom or, of large models, the
    complement of all eigenvectors that were computed."""
    num_pairs: int | None = None
    """Eigenpairs to compute where the model is too large for all; 20, or 200 as
    published."""
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
        The measurements under the name ``homogeneity``; with ``epochs`` the ``training``.

    Raises:
        ValueError: If the configuration is wrong.

    Cost:
        That of `curvescope.homogeneity`, and the training.

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
    return prepare(config).run(folder=folder)


def prepare(config: HomogeneitySettings) -> AroundWeights:
    """Load model and data.

    Raises:
        ValueError: If the configuration is wrong.
    """
    check(config)
    config = settled(config)

    def test(built: Built) -> Problem | None:
        if config.test_samples is None:
            return None
        return other_split(config, built, config.test_samples)

    def measure(ready: AroundWeights, state: Path | None) -> Homogeneity:
        assert config.step_lengths is not None
        assert config.num_draws is not None
        assert config.num_pairs is not None
        return evaluate(
            ready.problem,
            num_top=config.num_top,
            num_bottom=config.num_bottom,
            step_lengths=config.step_lengths,
            num_draws=config.num_draws,
            directions=config.directions or None,
            test=ready.test,
            num_pairs=config.num_pairs,
            folder=state,
            generator=torch.Generator().manual_seed(config.seed),
        )

    return AroundWeights(
        config, "homogeneity", measure, test=test, directions=config.directions
    )


def check(config: HomogeneitySettings) -> None:
    """Check a configuration.

    Raises:
        FileNotFoundError: If the file of weights is absent.
        ValueError: If a value is out of range.
    """
    check_model(config)
    config = settled(config)
    for name in ("num_top", "num_draws", "num_pairs"):
        positive_int(name, getattr(config, name))
    for name in ("num_bottom", "test_samples"):
        if getattr(config, name) is not None:
            positive_int(name, getattr(config, name))
    if not config.step_lengths:
        raise ValueError(message("step_lengths", "hold at least one number", "none"))
    for step in config.step_lengths:
        real("step_lengths", step, minimum=0.0, strict=True)


def plan(config: HomogeneitySettings) -> Plan:
    """Say what a configuration will cost."""
    config = settled(config)
    assert config.step_lengths is not None
    assert config.num_draws is not None
    assert config.num_pairs is not None
    kinds = len(config.directions) or _KINDS
    draws = kinds * config.num_draws
    spectral = not config.directions or set(config.directions) & set(SPECTRAL)
    return plan_around(
        config,
        what=f"{draws} directions of {kinds} kinds",
        passes=draws * (len(config.step_lengths) + 1),
        products=draws,
        num_pairs=max(config.num_pairs, config.num_top) if spectral else 0,
        directions=config.directions,
    )


EXPERIMENT = Experiment(
    name="homogeneity",
    config=HomogeneitySettings,
    run=homogeneity_experiment,
    check=check,
    plan=plan,
    prepare=prepare,
    summary="How far any model's function stays the same along kinds of directions.",
)
