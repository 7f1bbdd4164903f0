"""Which measure of a trained network goes with its test loss? N_eff beside the others.

``small``: perceptrons (widths, depths, weight decays, seeds) on few images of which a part
is mislabelled. ``paper``: the published convolutional networks of all widths and depths on
CIFAR-100. Every measure sees training data only.
"""

import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Literal

from curvescope._core.checks import message, one_of, positive_int, real
from curvescope.experiments import conv_nets
from curvescope.experiments.base import (
    Experiment,
    Plan,
    PlannedRuns,
    Preset,
    decisive,
    filled,
)
from curvescope.experiments.conv_measures import (
    CONV_MEASURES,
    MORE_IMAGES,
    measure_conv_norms,
)
from curvescope.experiments.conv_nets import ConvPoint
from curvescope.experiments.correlations import correlate
from curvescope.experiments.dimension_records import (
    MEAN_UNIT,
    PUBLISHED_Z,
    SMALL_TRAIN_LOSS,
    given,
)
from curvescope.experiments.measured_family import (
    MEASURES,
    PIXELS,
    FamilyPoint,
    guess_memory,
    guess_seconds,
    measure_family,
    noisy_data,
    num_params,
)
from curvescope.experiments.sweep import run_points
from curvescope.results import Cost, MeasureComparison, Provenance, Result

Target = Literal["test_loss", "test_error", "loss_gap"]
Images = Literal["digits", "mnist", "fashion-mnist", "cifar10", "cifar100"]
_WORDS = {
    "num_params": "parameters P",
    "path_norm": "path norm",
    "sharpness": "PAC-Bayes sharpness 1/\u03c3\u00b2",
    "magnitude_sharpness": "the same, magnitude-aware",
    "spectral_complexity": "spectral norms / margin",
    "weight_norm": "norm of the weights",
    "distance_moved": "distance from the start",
    "ggn_trace": "trace of the GGN",
    "loss_gap": "test loss \u2212 train loss",
}
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class GeneralisationMeasures:
    """Measures of trained networks beside their test loss."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "small": {
            "data": "digits",
            "num_samples": 200,
            "label_noise": 0.2,
            "widths": (4, 6, 8, 12, 16, 32, 64),
            "depths": (1, 2, 3),
            "weight_decays": (0.0, 0.001),
            "seeds": 2,
            "steps": 2000,
            "z": 0.01,
            "small_train_loss": 0.1,
        },
        "paper": {
            "data": "cifar100",
            "label_noise": 0.0,
            "widths": tuple(range(4, 65, 4)),
            "depths": tuple(range(9)),
            "weight_decays": (conv_nets.WEIGHT_DECAY,),
            "seeds": 1,
            "epochs": 200,
            # z = 1 of the published sum over 391 batches.
            "z": PUBLISHED_Z[1],
            "small_train_loss": SMALL_TRAIN_LOSS,
        },
    }

    preset: Preset = "small"
    """small: perceptrons, minutes; paper: the published convolutional networks."""
    data: Images | None = None
    """Images; digits, mnist or fashion-mnist for small, cifar100 or cifar10 for paper."""
    data_root: Path | None = None
    """The folder that holds one folder a data set."""
    num_samples: int | None = None
    """The first so many training images; all of them in the published setting."""
    label_noise: float | None = None
    """Part of the training labels that are drawn anew at random; small only."""
    widths: tuple[int, ...] | None = None
    """Neurons of all hidden layers, or channels of the first block, such as 4,8,16."""
    depths: tuple[int, ...] | None = None
    """Hidden layers, or blocks after the first, such as 1,2,3."""
    weight_decays: tuple[float, ...] | None = None
    """Of the training; 0.0001 as published."""
    seeds: int | None = None
    """Networks of each kind; they are one group of the bootstrap."""
    steps: int | None = None
    """Of Adam with rate 0.01 on all samples at once, with the published decay; small."""
    epochs: int | None = None
    """Passes over the data in batches of 128; paper."""
    z: float | None = None
    """Of the effective dimension, in the unit of the mean loss's curvature."""
    num_probes: int = 4
    """Random probes of the published networks' N_eff; the small ones' is exact."""
    num_steps: int = 100
    """Lanczos steps of each probe."""
    small_train_loss: float | None = None
    """Networks with a train loss below this are compared."""
    target: Target = "test_loss"
    """What is to be foretold."""
    seed: int = 0
    """Of the label noise and the first network of each kind."""
    jobs: int | None = None
    """Worker processes; chosen by processors, memory and work by default."""


def generalisation_measures(
    config: GeneralisationMeasures, *, folder: Path | None = None
) -> dict[str, Result]:
    """Train a family of networks, and correlate measures with their test loss.

    Args:
        config: The family.
        folder: Where finished networks are kept, so that a later call goes on there.

    Returns:
        The networks as ``comparison``, and the rank ``correlations``.

    Raises:
        PointError: If a network failed; finished ones are saved.
        ValueError: If the configuration is wrong.

    Cost:
        A training and an eigendecomposition a network; see `plan`.

    Example:
        >>> config = GeneralisationMeasures(
        ...     widths=(2, 3), depths=(1,), weight_decays=(0.0,), seeds=1, steps=5,
        ...     num_samples=20, jobs=1,
        ... )
        >>> len(generalisation_measures(config)["comparison"].records)
        2

    References:
        Maddox, Benton, Wilson (2020), arXiv:2003.02139, section 7; Jiang et al. (2020),
        arXiv:1912.02178.
    """
    check(config)
    config = filled(config)
    began = time.perf_counter()
    found, of = _measured(config, folder)
    limit = given(config.small_train_loss)
    records = tuple(
        {**record, "small_train_loss": record["train_loss"] < limit}
        for value in found
        for record in value["records"]
    )
    decays = [record["weight_decay"] for record in records]
    comparison = MeasureComparison(
        of=of,
        cost=Cost(
            num_matvecs=sum(value.get("num_matvecs", 0) for value in found),
            seconds=time.perf_counter() - began,
        ),
        settings=decisive(config),
        target=config.target,
        measures=MEASURES if config.preset == "small" else CONV_MEASURES,
        records=records,
        words={
            **_WORDS,
            "effective_dimension": f"effective dimension N_eff(z = {config.z:.3g})",
        },
        chosen="small_train_loss",
        chosen_words=f"train loss below {limit:g}",
        strata="weight_decay" if len(set(decays)) > 1 else None,
    )
    table = correlate(comparison, groups=("width", "depth", "weight_decay"))
    return {"comparison": comparison, "correlations": table}


def _measured(
    config: GeneralisationMeasures, folder: Path | None
) -> tuple[list[dict[str, Any]], Provenance]:
    if config.preset == "small":
        points = _points(config)
        found = run_points(
            points,
            measure_family,
            folder=folder,
            version=_VERSION,
            jobs=config.jobs,
            seconds=guess_seconds,
            memory=guess_memory,
            description="generalisation measures",
        )
        return found, _provenance(points)
    convs = paper_points(config)
    found = conv_nets.run(
        convs, folder=folder, version=_VERSION, function=measure_conv_norms
    )
    largest = max(value["records"][0]["num_params"] for value in found)
    return found, Provenance(
        matrix="Hessian",
        description=(
            f"{len(convs)} convolutional networks, cross_entropy, {config.data}"
        ),
        reduction="mean",
        unit=MEAN_UNIT,
        num_params=largest,
        num_samples=found[0]["num_samples"],
    )


def paper_points(config: GeneralisationMeasures) -> list[ConvPoint]:
    """Return the published convolutional networks, depth by depth.

    Example:
        >>> len(paper_points(GeneralisationMeasures(preset="paper")))
        144
    """
    config = filled(config)
    return [
        ConvPoint(
            model="convnet",
            init_channels=width,
            depth=depth,
            data=given(config.data),
            data_root=config.data_root,
            num_samples=config.num_samples,
            seed=config.seed + seed,
            epochs=given(config.epochs),
            z=(given(config.z),),
            num_probes=config.num_probes,
            num_steps=config.num_steps,
        )
        for depth in given(config.depths)
        for width in given(config.widths)
        for seed in range(given(config.seeds))
    ]


def _points(config: GeneralisationMeasures) -> list[FamilyPoint]:
    places = product(
        given(config.depths), given(config.widths), given(config.weight_decays)
    )
    return [
        FamilyPoint(
            data=given(config.data),
            data_root=config.data_root,
            num_samples=given(config.num_samples),
            label_noise=given(config.label_noise),
            width=width,
            depth=depth,
            weight_decay=decay,
            seeds=given(config.seeds),
            steps=given(config.steps),
            z=given(config.z),
            seed=config.seed,
        )
        for depth, width, decay in places
    ]


def _provenance(points: list[FamilyPoint]) -> Provenance:
    first = points[0]
    return Provenance(
        matrix="GGN",
        description=(
            f"{first.seeds * len(points)} ReLU networks, cross_entropy, {first.data} "
            f"with {100 * first.label_noise:g} % label noise"
        ),
        reduction="mean",
        unit=MEAN_UNIT,
        num_params=max(map(num_params, points)),
        num_samples=first.num_samples,
    )


def check(config: GeneralisationMeasures) -> None:
    """Check a configuration, and that its data are there.

    Raises:
        FileNotFoundError: If the data are absent.
        ValueError: If a value is out of range.
    """
    one_of("preset", config.preset, GeneralisationMeasures.PRESETS)
    config = filled(config)
    small = config.preset == "small"
    for name in ("widths", "depths", "weight_decays"):
        values = getattr(config, name)
        if not values:
            raise ValueError(message(name, "hold at least one number", "none"))
        if len(set(values)) != len(values):
            raise ValueError(message(name, "have no repetition", values))
        for value in values:
            if name == "weight_decays":
                real(name, value, minimum=0.0)
            else:
                positive_int(name, value, minimum=1 if small or name == "widths" else 0)
    positive_int("seeds", config.seeds)
    if not 0.0 <= given(config.label_noise) <= 1.0:
        raise ValueError(message("label_noise", "be from 0 to 1", config.label_noise))
    real("z", config.z, minimum=0.0, strict=True)
    real("small_train_loss", config.small_train_loss, minimum=0.0, strict=True)
    positive_int("seed", config.seed, minimum=0)
    if config.jobs is not None:
        positive_int("jobs", config.jobs)
    if small:
        _check_small(config)
    else:
        _check_paper(config)


def _check_small(config: GeneralisationMeasures) -> None:
    one_of("data", given(config.data), tuple(PIXELS))
    for name in ("num_samples", "steps"):
        positive_int(name, getattr(config, name))
    if config.epochs is not None:
        remedy = "Here a step is on all samples at once: give `steps`."
        contract = "be given with preset paper only"
        raise ValueError(message("epochs", contract, config.epochs, remedy))
    noisy_data(_points(config)[0])


def _check_paper(config: GeneralisationMeasures) -> None:
    for name, value in (
        ("label_noise", 0.0),
        ("weight_decays", (conv_nets.WEIGHT_DECAY,)),
        ("steps", None),
    ):
        if getattr(config, name) != value:
            contract = f"be {value} in the published setting"
            raise ValueError(message(name, contract, getattr(config, name)))
    for point in paper_points(config):
        conv_nets.check_point(point)


def plan(config: GeneralisationMeasures) -> Plan:
    """Say what a configuration will cost."""
    config = filled(config)
    if config.preset == "paper":
        return conv_nets.plan(paper_points(config), more_images=MORE_IMAGES)
    rows = tuple(
        PlannedRuns(
            what=(
                f"depth {point.depth}, width {point.width}, "
                f"weight decay {point.weight_decay:g}"
            ),
            runs=point.seeds,
            num_params=num_params(point),
            num_steps=point.steps,
            hours=guess_seconds(point) / 3600.0,
        )
        for point in _points(config)
    )
    return Plan(rows=rows, basis="one CPU core")


EXPERIMENT = Experiment(
    name="generalisation-measures",
    config=GeneralisationMeasures,
    run=generalisation_measures,
    check=check,
    plan=plan,
    summary="N_eff and other measures of trained networks beside their test loss.",
)
