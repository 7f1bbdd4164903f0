"""What the experiments around any model's weights share: model, training, plan, notes."""

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar, final

import torch
from torch.utils.flop_counter import FlopCounterMode

from curvescope import models
from curvescope._core.checks import message, one_of, positive_int
from curvescope._core.fingerprints import combine
from curvescope.analysis.directions import check_bottom, is_dense
from curvescope.data import ImageDataset, statistics
from curvescope.data.catalog import CATALOG
from curvescope.experiments import conv_nets
from curvescope.experiments.base import Plan, PlannedRuns, Preset, decisive, filled
from curvescope.experiments.problems import (
    Built,
    ModelSettings,
    build_problem,
    describe_fit,
    parse_arguments,
)
from curvescope.problem import Problem
from curvescope.results import Result, TrainingResult
from curvescope.training import train

AUTO = "auto"
UNTRAINED = (
    "no `--weights` were given and nothing was trained: these are random, and nothing of "
    "an untrained network's surroundings tells of a trained one's"
)
# Passes over the data that a training epoch and a product cost, beside one forward pass.
_TRAINING_PASSES, _PRODUCT_PASSES = 3.0, 6.0
# Products of the eigensolver a pair, and multiplications a second of a dense one.
_PRODUCTS_A_PAIR, _DENSE_RATE = 3, 2.4e10
# What a batch costs however small it is.
_BATCH_SECONDS = 0.002
# Images of the sets by name that are no coloured squares of 32.
_SHAPES = {"mnist": (1, 28, 28), "fashion-mnist": (1, 28, 28)}

Settings = TypeVar("Settings", bound="WeightsSettings")


@dataclass(frozen=True, kw_only=True)
class WeightsSettings(ModelSettings):
    """A model, its weights and data; or the preset's own model, which is trained first.

    A class of settings has in ``PRESETS`` what a preset fills in, and in ``RECIPES`` how
    each preset's own model is trained.
    """

    MODELS: ClassVar[dict[str, dict[str, Any]]] = {
        "small": {"model": "mlp"},
        "paper": {"model": "basic-cnn", "normalize": "half"},
    }
    DATA: ClassVar[dict[str, str]] = {"small": "digits", "paper": "cifar10"}
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {"small": {}, "paper": {}}
    RECIPES: ClassVar[dict[str, dict[str, Any]]] = {"small": {}, "paper": {}}

    preset: Preset = "small"
    """What the other options are by default; paper: the published setting, a network of
    62,006 parameters on CIFAR-10."""
    model: str = AUTO
    """package.module:callable, file.py:callable, timm:name, hf:path, or built in, such
    as mlp, lenet, resnet20. auto: a small network of the preset's own, trained first."""
    data: str = AUTO
    """package.module:callable, file.py:callable, text:FILE, or a data set, such as
    digits, mnist, cifar10. auto: digits, or as published."""
    weights: Path | None = None
    """A .safetensors file, or .pt, .pth, .th (read without running code). Without it a
    built-in network's weights are random, but for those of auto."""
    epochs: int | None = None
    """Train so long first; by default the model that auto stands for, and no other."""


def settled(config: Settings) -> Settings:
    """Return a configuration with nothing left open.

    Example:
        >>> from curvescope.experiments.loss_surface import SurfaceSettings
        >>> found = settled(SurfaceSettings(preset="paper"))
        >>> found.model, found.data, found.epochs, found.extent
        ('basic-cnn', 'cifar10', 30, 5.0)
    """
    one_of("preset", config.preset, config.MODELS)
    config = filled(config)
    more: dict[str, Any] = {}
    if config.data == AUTO:
        more["data"] = config.DATA[config.preset]
    own = config.model == AUTO
    if own:
        chosen = config.MODELS[config.preset]
        more |= {k: v for k, v in chosen.items() if getattr(config, k) in (None, AUTO)}
    if config.epochs is None:
        trained = own and config.weights is None
        more["epochs"] = config.RECIPES[config.preset]["epochs"] if trained else 0
    return dataclasses.replace(config, **more)


def check_model(config: WeightsSettings) -> None:
    """Check what can be checked of a model's settings before it is built.

    Raises:
        FileNotFoundError: If the file of weights is absent.
        ValueError: If a value is out of range.
    """
    config = settled(config)
    parse_arguments(config.model_arg)
    positive_int("batch_size", config.batch_size)
    positive_int("seed", config.seed, minimum=0)
    positive_int("epochs", config.epochs, minimum=0)
    if config.num_samples is not None:
        positive_int("num_samples", config.num_samples)
    if config.weights is not None and not config.weights.is_file():
        text = message("weights", "be a file", str(config.weights))
        raise FileNotFoundError(text)


@final
class AroundWeights:
    """An experiment whose model and data are loaded; nothing is trained or computed yet.

    Attributes:
        config: The configuration, with nothing left open.
        problem: The problem, on the weights as they were loaded, until `run`.
        test: The same model on other data.
        checks: Loss, accuracy, preprocessing: what shows that the parts agree.
    """

    def __init__(
        self,
        config: WeightsSettings,
        name: str,
        measure: Callable[["AroundWeights", Path | None], Result],
        *,
        test: Callable[[Built], Problem | None] = lambda _: None,
        directions: Sequence[str] = (),
    ) -> None:
        built = build_problem(config)
        # Before anything is trained.
        check_bottom(built.problem, None, directions)
        self.config, self.problem = config, built.problem
        self.test = test(built)
        self.checks: Mapping[str, str] = built.checks
        self._name, self._measure = name, measure

    @property
    def fingerprint(self) -> str:
        """A hash of weights, data and code as they are now."""
        every = [self.problem, *([] if self.test is None else [self.test])]
        return combine(*(problem.refresh() for problem in every))

    def run(self, *, folder: Path | None = None) -> dict[str, Result]:
        """Train where that is asked for, and measure.

        Args:
            folder: Where finished parts are kept, so that a later call goes on there.
        """
        state = None if folder is None else folder / "state"
        trained = self._trained(state) if self.config.epochs else None
        result = self._measure(self, state)
        notes = (*result.notes, *([UNTRAINED] if self._is_random() else []))
        settings = {**decisive(self.config), **result.settings}
        results: dict[str, Result] = {
            self._name: dataclasses.replace(result, notes=notes, settings=settings)
        }
        return results if trained is None else results | {"training": trained}

    def _is_random(self) -> bool:
        """Tell whether nobody gave or trained the weights; a user's code may load some."""
        built_in = self.config.model.replace("_", "-") in models.names()
        return built_in and self.config.weights is None and not self.config.epochs

    def _trained(self, state: Path | None) -> TrainingResult:
        """Train on the problem's own data, on its device."""
        problem, recipe = self.problem, self.config.RECIPES[self.config.preset]
        network = copy.deepcopy(problem.model).to(problem.device)
        tests = () if self.test is None else self.test.batches()
        trained = train(
            network,
            problem.loss,
            [(batch.inputs, batch.targets) for batch in problem.batches()],
            **{**recipe, "epochs": self.config.epochs},
            test_data=[(batch.inputs, batch.targets) for batch in tests] or None,
            seed=self.config.seed,
            checkpoint=None if state is None else state / "training",
        )
        problem.model.load_state_dict(network.state_dict())
        problem.refresh()
        self.checks = {
            **self.checks,
            "weights": f"{self.checks['weights']}, then trained for "
            f"{self.config.epochs} epochs",
            **describe_fit(problem),
        }
        return trained


def plan_around(
    config: WeightsSettings,
    *,
    what: str,
    passes: int,
    products: int,
    num_pairs: int,
    directions: Sequence[str] = (),
) -> Plan:
    """Say what an experiment will cost, from the operations of a forward pass.

    Args:
        config: The configuration, with nothing left open.
        what: In words.
        passes: Forward passes over all data.
        products: With the Hessian, besides those of the eigensolver.
        num_pairs: Eigenpairs that the eigensolver would compute; 0 for none.
        directions: Kinds of directions, of which a large model does not have all.

    Raises:
        ValueError: If it does not have one of them.
    """
    problem, num_samples = _planned(config)
    check_bottom(problem, None, directions)
    seconds = _pass_seconds(problem, num_samples, config.batch_size)
    size, dense = problem.num_params, 0.0
    if num_pairs and is_dense(problem):
        dense = (12.0 * size**3 + 4.0 * num_samples * size**2) / _DENSE_RATE
    elif num_pairs:
        products += _PRODUCTS_A_PAIR * num_pairs
    cost = (passes + _PRODUCT_PASSES * products) * seconds + dense
    rows = [
        PlannedRuns(
            what=f"{config.model}: {what}, {passes} forward passes",
            runs=1,
            num_params=size,
            num_matvecs=products,
            hours=cost / 3600.0,
        )
    ]
    if config.epochs:
        batch_size = config.RECIPES[config.preset]["batch_size"]
        training = PlannedRuns(
            what=f"{config.model}: training, {config.epochs} epochs",
            runs=1,
            num_params=size,
            num_steps=config.epochs * -(-num_samples // batch_size),
            hours=config.epochs * _TRAINING_PASSES * seconds / 3600.0,
        )
        rows.insert(0, training)
    basis = f"{_rate(problem):.0e} operations a second"
    return Plan(rows=tuple(rows), basis=basis)


def _planned(config: WeightsSettings) -> tuple[Problem, int]:
    """Return the problem, and its number of samples; of a data set by name no file."""
    if config.data not in CATALOG:
        problem = build_problem(config).problem
        return problem, problem.num_samples
    entry = CATALOG[config.data]
    sides = _SHAPES.get(config.data, (3, 32, 32))
    black = ImageDataset(
        torch.zeros(2, *sides, dtype=torch.uint8),
        torch.tensor([0, 1]),
        levels=255,
        name=config.data,
        split=config.split or "train",
        num_classes=entry.num_classes,
        official=False,
        notes=(),
        statistics=statistics("none"),
    )
    weightless = dataclasses.replace(config, weights=None)
    size = entry.sizes[config.split or "train"]
    problem = build_problem(weightless, data=black).problem
    return problem, min(size, config.num_samples or size)


def _pass_seconds(problem: Problem, num_samples: int, batch_size: int) -> float:
    _, parameters = problem.leaves()
    batch = next(iter(problem.batches()))
    counter = FlopCounterMode(display=False)
    with problem.network.running(), torch.no_grad(), counter:
        problem.outputs(batch, parameters)
    operations = counter.get_total_flops() / batch.num_samples
    return num_samples * operations / _rate(problem) + _BATCH_SECONDS * -(
        -num_samples // batch_size
    )


def _rate(problem: Problem) -> float:
    return conv_nets.RATES.get(problem.device.type, conv_nets.RATES["cpu"])
