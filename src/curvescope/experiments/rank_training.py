"""Ranks along training: the numerical rank of H falls to that of the GGN.

Weights never leave the generic points, so the exact rank stays. But H = GGN + F, and F
is linear in the residuals: as they sink under the rounding of the GGN, the numerical
rank of H falls in steps to the GGN's.
"""

import math
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from curvescope._core.checks import message, one_of, positive_int, real
from curvescope.analysis import rank_report
from curvescope.experiments import rank
from curvescope.experiments.base import Experiment, decisive
from curvescope.experiments.rank import RankPoint, RankSettings
from curvescope.experiments.rank_sweep import doubts
from curvescope.experiments.sweep import run_points
from curvescope.results import Cost, Provenance, RankSweep, Result

Optimizer = Literal["gd", "momentum", "adam"]
_OPTIMIZERS: dict[str, Any] = {
    "gd": torch.optim.SGD,
    "momentum": lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9),
    "adam": torch.optim.Adam,
}
_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class RankInTraining(RankSettings):
    """Ranks of a network along full-batch training."""

    data: rank.Data = "gaussian-mixture"
    """Where inputs and labels come from; gaussian-mixture is drawn, and needs no files."""
    dim: int = 12
    """Pixels of an image after down-scaling, a square number; features of a mixture."""
    classes: int = 4
    """Outputs of the network. Only samples of the first so many classes are taken."""
    init: rank.Scheme = "orthogonal"
    """How weights are drawn; uniform is U[0,1)/fan_in."""
    units: tuple[int, ...] = (6, 5)
    """Widths of the hidden layers, such as 6,5."""
    num_samples: int = 60
    """The first so many samples."""
    optimizer: Optimizer = "gd"
    """Gradient descent, with momentum 0.9, or Adam; always on all samples at once."""
    learning_rate: float = 0.3
    """Of the mean loss, so that it does not depend on the number of samples."""
    epochs: int = 2500
    """Steps; with all samples at once an epoch is one step."""
    every: int = 100
    """Epochs between two measurements."""
    seeds: int = 1
    """Networks drawn; several give the figure a band."""
    normalise: bool = False
    """Draw the ranks divided by the number of parameters."""
    jobs: int | None = None
    """Worker processes; chosen by processors, memory and work by default."""

    def start(self, seed: int) -> RankPoint:
        """Return the network before training."""
        return self.point(units=self.units, num_samples=self.num_samples, seed=seed)


@dataclass(frozen=True, kw_only=True)
class TrainingPoint:
    """A network after so many epochs."""

    start: RankPoint
    optimizer: Optimizer
    learning_rate: float
    epoch: int


class _Trajectory:
    """One training, which only goes forward."""

    def __init__(self, point: TrainingPoint) -> None:
        self.problem = rank.build_rank_problem(point.start)
        self.epoch = 0
        self.has_bias = point.start.bias
        (batch,) = self.problem.batches()
        self.inputs: Tensor = batch.inputs
        self.targets: Tensor = batch.targets
        parameters = list(self.problem.model.parameters())
        self.optimizer = _OPTIMIZERS[point.optimizer](
            parameters, lr=point.learning_rate
        )

    def advance(self, epoch: int) -> None:
        """Train up to an epoch.

        Raises:
            ValueError: If the loss is no longer finite.
        """
        while self.epoch < epoch:
            self.optimizer.zero_grad()
            loss = self._loss(self.problem.model(self.inputs))
            if not math.isfinite(float(loss.detach())):
                got = f"a loss that is not finite at epoch {self.epoch}"
                remedy = "Take a smaller one."
                contract = "let the training converge"
                raise ValueError(message("learning_rate", contract, got, remedy))
            (loss / len(self.inputs)).backward()
            self.optimizer.step()
            self.epoch += 1

    def state(self) -> tuple[float, float]:
        """Return the mean loss, and the norm of residuals times inputs."""
        with torch.no_grad():
            outputs = self.problem.model(self.inputs)
        leaf = outputs.requires_grad_()
        loss = self._loss(leaf)
        (residuals,) = torch.autograd.grad(loss, leaf)
        inputs = self.inputs
        if self.has_bias:
            inputs = torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=1)
        return float(loss.detach()) / len(inputs), float((residuals.mT @ inputs).norm())

    def _loss(self, outputs: Tensor) -> Tensor:
        return self.problem.loss.total(outputs, self.targets)


@lru_cache(maxsize=1)
def _begun(point: TrainingPoint) -> _Trajectory:
    """Begin a training, or return the last one that was begun, wherever it is now."""
    return _Trajectory(point)


def measure_after_training(point: TrainingPoint) -> dict[str, Any]:
    """Train a network, and measure its ranks.

    Returns:
        The record of `curvescope.experiments.rank.measure`, with ``mean_loss`` (over
        samples) and ``residual_norm``, the norm of the sum of residuals times inputs.

    Raises:
        ValueError: If the point is wrong, or the training diverges.

    Cost:
        The training up to there, or from the last point of the same training in this
        process; and a rank report.
    """
    beginning = replace(point, epoch=0)
    trajectory = _begun(beginning)
    if trajectory.epoch > point.epoch:
        _begun.cache_clear()
        trajectory = _begun(beginning)
    trajectory.advance(point.epoch)
    loss, residual_norm = trajectory.state()
    report = rank_report(trajectory.problem, certify=rank.CERTIFY[point.start.certify])
    record = rank.record_of(report)
    # Of the residuals as they are stored: measured ones sink into rounding, and a
    # prediction from these would be one of the noise.
    for name, exact in report.certified_predictions.items():
        record |= {
            f"{name}_predicted": exact.value,
            f"{name}_claim": exact.claim,
            f"{name}_status": exact.status,
        }
    return {"mean_loss": loss, "residual_norm": residual_norm, **record}


def check_training(config: RankInTraining) -> None:
    """Check a configuration, and that its data are there.

    Raises:
        FileNotFoundError: If the data are absent.
        ValueError: If a value is out of range.
    """
    one_of("optimizer", config.optimizer, _OPTIMIZERS)
    real("learning_rate", config.learning_rate, minimum=0.0, strict=True)
    positive_int("epochs", config.epochs, minimum=0)
    positive_int("every", config.every)
    positive_int("seeds", config.seeds)
    if config.jobs is not None:
        positive_int("jobs", config.jobs)
    rank.check_points(config.start(seed) for seed in range(config.seeds))


def rank_in_training(
    config: RankInTraining, *, folder: Path | None = None
) -> dict[str, Result]:
    """Measure the ranks of H, GGN and functional Hessian along a training.

    Args:
        config: Network, data and training.
        folder: Where finished points are kept, so that a later call goes on there.

    Returns:
        The sweep over epochs under the name ``rank_in_training``.

    Raises:
        PointError: If a point failed, such as a training that diverged.
        ValueError: If the configuration is wrong.

    Cost:
        The training, and a rank report every ``config.every`` epochs.

    Example:
        >>> config = RankInTraining(epochs=20, every=10, jobs=1)
        >>> sweep = rank_in_training(config)["rank_in_training"]
        >>> [record["epoch"] for record in sweep.records]
        [0, 10, 20]

    References:
        Singh, Bachmann, Hofmann (2021), arXiv:2106.16225, whose poster has the figure.
    """
    check_training(config)
    begin = time.perf_counter()
    epochs = sorted({*range(0, config.epochs + 1, config.every), config.epochs})
    points = [
        TrainingPoint(
            start=config.start(seed),
            optimizer=config.optimizer,
            learning_rate=config.learning_rate,
            epoch=epoch,
        )
        for seed in range(config.seeds)
        for epoch in epochs
    ]
    values = run_points(
        points,
        measure_after_training,
        folder=folder,
        version=_VERSION,
        jobs=config.jobs,
        seconds=lambda point: rank.guess_seconds(point.start),
        memory=lambda point: rank.guess_memory(point.start),
        description="ranks in training",
    )
    records = [
        {"epoch": point.epoch, "seed": point.start.seed, **value}
        for point, value in zip(points, values, strict=True)
    ]
    records.sort(key=lambda record: (record["epoch"], record["seed"]))
    sweep = RankSweep(
        axis="epoch",
        records=tuple(records),
        of=_provenance(config),
        cost=Cost(seconds=time.perf_counter() - begin),
        settings=decisive(config),
        notes=(*_ladder(records), *doubts(records)),
    )
    return {"rank_in_training": sweep}


def _ladder(records: list[dict[str, Any]]) -> tuple[str, ...]:
    """Say in words what the figure shows, from the records of the first seed."""
    own = [record for record in records if record["seed"] == 0]
    first, last = own[0], own[-1]
    fallen = (
        f"the numerical rank of H goes from {first['hessian_rank']} to "
        f"{last['hessian_rank']}, that of the GGN is {last['ggn_rank']}, while the "
        f"residuals fall from {first['residual_norm']:.2g} to "
        f"{last['residual_norm']:.2g}"
    )
    exact = {record["hessian_certified"] for record in own}
    if len(exact) == 1 and None not in exact:
        return (f"{fallen}; the exact rank of H is {exact.pop()} at every epoch",)
    return (fallen,)


def _provenance(config: RankInTraining) -> Provenance:
    widths = ", ".join(map(str, (config.dim, *config.units, config.classes)))
    return Provenance(
        matrix="Hessian, GGN and functional Hessian",
        description=(
            f"{config.activation} network of widths {widths}, {config.loss}, "
            f"{config.data}, trained by {config.optimizer}"
        ),
        reduction="sum",
        unit="loss (sum over the data) per parameter squared",
        num_params=rank.guess_params(config.start(0)),
        num_samples=config.num_samples,
    )


EXPERIMENT = Experiment(
    name="rank-in-training",
    config=RankInTraining,
    run=rank_in_training,
    check=check_training,
    summary="Ranks along training: that of H falls to that of the GGN.",
)
