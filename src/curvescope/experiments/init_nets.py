"""Perceptrons at an initialisation and along a training: losses and layers' norms.

What the experiments on initialisation share. Norms are Frobenius norms of each kernel's
own block of the Hessian of the mean loss, exact, in float64, at one probe batch; biases
are trained, and are no part of the block, as in the published notebook.
"""

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from curvescope import data as datasets
from curvescope._core.checks import message
from curvescope._core.errors import AccuracyWarning
from curvescope.analysis.balance import balance_
from curvescope.exact import own_blocks
from curvescope.experiments.base import Plan, PlannedRuns
from curvescope.experiments.dimension_records import MEAN_UNIT, given
from curvescope.experiments.init_settings import InitSettings
from curvescope.models import build, initialisation
from curvescope.models.initialisation import Scheme, weight_layers
from curvescope.problem import Problem
from curvescope.results import Provenance
from curvescope.results.init_experiments import PARTS, norm_column
from curvescope.training import Moment, PerModel, train_many

Batches = Literal["fresh", "same"]
VERSION = 1
# By what balances them.
BALANCED: dict[str, Literal["measured", "formula"]] = {
    "balanced": "measured",
    "formula": "formula",
}
_MOST_TEST = 2000
_PIXELS = {"digits": 64, "mnist": 784, "fashion-mnist": 784}
# Multiplications a second of one core in float64 products and in training, and what a
# training step costs however small the networks are.
_DENSE_RATE, _TRAINING_RATE, _STEP_SECONDS = 8e9, 2e9, 0.0015


@dataclass(frozen=True, kw_only=True)
class InitPoint:
    """Networks of one kind that differ in their seed, to be measured and trained."""

    data: str
    data_root: Path | None
    hidden: tuple[int, ...]
    activation: str
    num_probe: int
    num_train: int
    seeds: int
    steps: int
    """0 for untrained networks only."""
    every: int
    batch_size: int
    learning_rate: float
    scheme: str
    """As `draw_` knows them."""
    sd: float
    """Of ``"normal"`` weights, and of the first layer's where they are ``"published"``."""
    batches: Batches
    track: bool
    """Whether norms are measured along the training, not only before it."""


@dataclass(frozen=True)
class Sets:
    """Flattened images and labels; the probe batch is a part of the training images."""

    train: tuple[Tensor, Tensor]
    probe: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    num_classes: int
    notes: tuple[str, ...]


def point_of(
    config: InitSettings,
    *,
    scheme: str,
    sd: float = 0.0,
    batches: Batches = "fresh",
    trained: bool = True,
    track: bool = True,
) -> InitPoint:
    """Return the point of a configuration whose preset is filled in."""
    return InitPoint(
        data=given(config.data),
        data_root=config.data_root,
        hidden=config.hidden,
        activation=config.activation,
        num_probe=config.num_probe,
        num_train=given(config.num_train),
        seeds=given(config.seeds),
        # Untrained networks are the same whatever a training would be.
        steps=given(config.steps) if trained else 0,
        every=given(config.every) if trained else 1,
        batch_size=config.batch_size if trained else 1,
        learning_rate=config.learning_rate if trained else 1.0,
        scheme=scheme,
        sd=float(sd),
        batches=batches,
        track=track,
    )


def draw_(
    model: nn.Module, scheme: str, *, sd: float, generator: torch.Generator
) -> nn.Module:
    r"""Draw the weights of every linear layer anew, in place; biases become zero.

    Of one seed all normal schemes have the same draws, up to their scale.

    Args:
        model: Its linear layers are changed.
        scheme: One of `models.initialise_`; or ``"normal"``: :math:`\mathcal N(0, sd^2)`;
            or ``"published"``: the first layer normal, the others ``"glorot_uniform"``.
        sd: Of the normal layers.
        generator: Source of the randomness.

    Returns:
        The model that was given.
    """
    for place, layer in enumerate(weight_layers(model).values()):
        normal = scheme == "normal" or (scheme == "published" and place == 0)
        word: Scheme = "glorot_uniform" if scheme == "published" else scheme
        word = ("normal", sd) if normal else word
        initialisation.draw_(layer, word, bias_std=0.0, generator=generator)
    return model


class Probe:
    """A batch at which networks of one shape are measured, one after the other.

    Args:
        model: Any of them; a copy in float64 takes the weights of all.
        data: The batch.
    """

    def __init__(self, model: nn.Module, data: tuple[Tensor, Tensor]) -> None:
        self._model = copy.deepcopy(model).double()
        images, labels = data
        self._problem = Problem(
            self._model,
            "cross_entropy",
            (images.double(), labels),
            params="weights",
            batch_size=len(labels),
        )

    def norms(self, model: nn.Module) -> dict[str, float]:
        """Return the norms of every kernel's own block and of its parts, by column.

        Args:
            model: The network, left as it is.

        Returns:
            ``LAYER_norm``, ``LAYER_linearisation_norm`` and ``LAYER_curvature_norm``.

        Cost:
            ``O(N^2 (d + h^2))`` multiplications a layer of d inputs and h outputs.
        """
        self._model.load_state_dict(model.state_dict())
        blocks = own_blocks(self._problem)
        # Of linear layers and elementwise activations every block is known.
        assert not blocks.left_out, blocks.left_out
        found = {}
        for name, block in blocks.items():
            norms = block.frobenius_norms()
            for part in PARTS:
                found[norm_column(name, part)] = float(getattr(norms, part))
        return found


def measure(point: InitPoint) -> dict[str, Any]:
    """Draw networks, measure them, train them all at once, and measure on the way.

    Returns:
        ``records``, one a moment and network: ``seed``, ``iteration``, ``loss`` on the
        probe batch, norms by layer, ``trained_loss``, ``test_loss``, ``test_accuracy``;
        and ``layers``.

    Cost:
        One training of all seeds at once, and ``O(N^2 (d + h^2))`` a norm.

    Example:
        >>> from curvescope.experiments.init_sweep import InitSweep
        >>> from curvescope.experiments.base import filled
        >>> config = filled(InitSweep(hidden=(4,), seeds=1, steps=2, every=2))
        >>> point = point_of(config, scheme="published", sd=0.1)
        >>> [record["iteration"] for record in measure(point)["records"]]
        [0, 2]
    """
    sets = sets_of(point)
    models = [network(point, seed) for seed in range(point.seeds)]
    drawn = [_drawn(point, seed, sets) for seed in range(point.seeds)]
    probe = Probe(models[0], sets.probe)
    records = [
        _record(point, sets, probe, model, seed=seed, iteration=0, drawn=drawn[seed])
        for seed, model in enumerate(models)
    ]
    if point.steps:
        records += _trained(point, sets, probe, models, drawn)
    return {"records": records, "layers": list(layer_names(models[0]))}


def _trained(
    point: InitPoint,
    sets: Sets,
    probe: Probe,
    models: Sequence[nn.Module],
    drawn: Sequence[tuple[Tensor, Tensor]],
) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []

    def keep(moment: Moment) -> None:
        for seed, model in enumerate(moment.models):
            known = {
                "trained_loss": _finite(moment.train_loss[seed]),
                "test_loss": _finite(given(moment.test_loss)[seed]),
                "test_accuracy": _finite(given(moment.test_accuracy)[seed]),
            }
            found = _record(
                point, sets, probe, model, seed=seed, iteration=moment.at, known=known
            )
            records.append(found)

    with warnings.catch_warnings():
        # A training that diverges is a finding here, and stands in the records.
        warnings.simplefilter("ignore", AccuracyWarning)
        train_many(
            list(models),
            "cross_entropy",
            PerModel(drawn) if point.batches == "same" else sets.train,
            steps=point.steps,
            learning_rate=point.learning_rate,
            batch_size=point.batch_size,
            test_data=sets.test,
            evaluate_every=point.every,
            callbacks=[keep],
        )
    return records


def _drawn(point: InitPoint, seed: int, sets: Sets) -> tuple[Tensor, Tensor]:
    """Return what the steps of a network draw from: all samples, or the same few."""
    if point.batches == "fresh":
        return sets.train
    generator = torch.Generator().manual_seed(2 * seed + 1)
    order = torch.randperm(len(sets.train[1]), generator=generator)
    chosen = order[: point.batch_size]
    return sets.train[0][chosen], sets.train[1][chosen]


def _record(
    point: InitPoint,
    sets: Sets,
    probe: Probe,
    model: nn.Module,
    *,
    seed: int,
    iteration: int,
    drawn: tuple[Tensor, Tensor] | None = None,
    known: Mapping[str, float | None] | None = None,
) -> dict[str, Any]:
    loss, _ = _evaluate(model, sets.probe)
    record: dict[str, Any] = {"seed": seed, "iteration": iteration, "loss": loss}
    if point.track or iteration == 0:
        names = layer_names(model)
        record |= dict.fromkeys(
            norm_column(name, part) for name in names for part in PARTS
        )
        if loss is not None:
            record |= probe.norms(model)
    if known is None:
        assert drawn is not None
        test_loss, test_accuracy = _evaluate(model, sets.test)
        known = {
            "trained_loss": _evaluate(model, drawn)[0],
            "test_loss": test_loss,
            "test_accuracy": test_accuracy,
        }
    return record | dict(known)


def layer_names(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the linear layers, first to last."""
    return tuple(weight_layers(model))


@torch.no_grad()
def _evaluate(
    model: nn.Module, data: tuple[Tensor, Tensor]
) -> tuple[float | None, float | None]:
    """Return mean loss and accuracy; ``None`` where the loss is not finite."""
    outputs = model(data[0])
    loss = _finite(float(F.cross_entropy(outputs.double(), data[1])))
    if loss is None:
        return None, None
    return loss, float((outputs.argmax(1) == data[1]).double().mean())


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def network(point: InitPoint, seed: int) -> nn.Module:
    """Return an untrained network."""
    generator = torch.Generator().manual_seed(2 * seed)
    model = build(
        "mlp",
        generator=generator,
        in_features=num_pixels(point),
        hidden=point.hidden,
        num_classes=num_classes(point),
        activation=point.activation,
    )
    generator = torch.Generator().manual_seed(2 * seed)
    if point.scheme not in BALANCED:
        return draw_(model, point.scheme, sd=point.sd, generator=generator)
    # The measured one keeps what He's network computes, and scales its layers.
    draw_(model, "he", sd=0.0, generator=generator)
    balance_(
        model,
        "cross_entropy",
        sets_of(point).probe,
        method=BALANCED[point.scheme],
        generator=torch.Generator().manual_seed(2 * seed),
    )
    return model


def sets_of(point: InitPoint) -> Sets:
    """Return the images of a point.

    Raises:
        FileNotFoundError: If the data are absent.
    """
    return _sets(point.data, point.data_root, point.num_train, point.num_probe)


@lru_cache(maxsize=2)
def _sets(name: str, root: Path | None, num_train: int, num_probe: int) -> Sets:
    train = datasets.load(name, root=root, split="train")
    test = datasets.load(name, root=root, split="test", num_samples=None)
    images, labels = train.tensors()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    chosen = order[: max(num_train, num_probe)]
    X, y = images[chosen].flatten(1), labels[chosen]
    X_test, y_test = test.first(min(_MOST_TEST, len(test))).tensors()
    return Sets(
        train=(X[:num_train], y[:num_train]),
        probe=(X[:num_probe], y[:num_probe]),
        test=(X_test.flatten(1), y_test),
        num_classes=train.num_classes,
        notes=() if train.official else tuple(train.notes),
    )


def num_pixels(point: InitPoint) -> int:
    """Return the inputs of the network: all pixels of all channels."""
    return _PIXELS.get(point.data, 3072)


def num_classes(point: InitPoint) -> int:
    """Return the number of classes of the data."""
    return 100 if point.data == "cifar100" else 10


def widths(point: InitPoint) -> tuple[int, ...]:
    """Return the network's widths, from inputs to outputs."""
    return (num_pixels(point), *point.hidden, num_classes(point))


def num_params(point: InitPoint) -> int:
    """Return the parameters of one network."""
    return sum((a + 1) * b for a, b in pairwise(widths(point)))


def provenance(points: Sequence[InitPoint], what: str) -> Provenance:
    """Return what norms of networks are of."""
    first = points[0]
    shape = "-".join(str(width) for width in widths(first))
    return Provenance(
        matrix="own block of each layer's kernel in the Hessian",
        description=f"{shape} {first.activation} networks, {first.data}: {what}",
        reduction="mean",
        unit=MEAN_UNIT,
        num_params=num_params(first),
        num_samples=first.num_probe,
    )


def doubts(records: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Say how many networks diverged."""
    kinds = ("scheme", "sd", "batches", "seed")
    lost = {
        tuple(record.get(kind) for kind in kinds)
        for record in records
        if record["loss"] is None
    }
    return (f"{len(lost)} training(s) diverged",) if lost else ()


def check_data(point: InitPoint) -> None:
    """Check that the data are there, and enough for the probe batch.

    Raises:
        FileNotFoundError: If the data are absent.
        ValueError: If there are too few samples.
    """
    found = len(sets_of(point).probe[1])
    if found < point.num_probe:
        contract = f"be at most {found}, the training images of {point.data}"
        raise ValueError(message("num_probe", contract, point.num_probe))


def guess_seconds(point: InitPoint) -> float:
    """Guess how long a point takes on one core."""
    moments = 1 + (math.ceil(point.steps / point.every) if point.track else 0)
    n, shape = point.num_probe, widths(point)
    products = sum(2.0 * n * n * (a + b * b / 2.0) for a, b in pairwise(shape))
    norms = point.seeds * moments * (0.02 + products / _DENSE_RATE)
    size = num_params(point)
    measured = math.ceil(point.steps / point.every) * (point.num_train + _MOST_TEST)
    work = point.seeds * size * (3.0 * point.steps * point.batch_size + measured)
    return norms + point.steps * _STEP_SECONDS + work / _TRAINING_RATE


def guess_memory(point: InitPoint) -> float:
    """Guess the bytes that a point needs: images, and two Gram matrices."""
    images = 4.0 * num_pixels(point) * (60_000 + 2 * point.num_train)
    return 5e8 + images + 4 * 8.0 * point.num_probe**2


def plan(points: Mapping[str, InitPoint]) -> Plan:
    """Say what networks will cost, by what they are called."""
    rows = tuple(
        PlannedRuns(
            what=what,
            runs=point.seeds,
            num_params=num_params(point),
            num_steps=point.steps,
            hours=guess_seconds(point) / 3600.0,
        )
        for what, point in points.items()
    )
    return Plan(rows=rows, basis="one CPU core")
