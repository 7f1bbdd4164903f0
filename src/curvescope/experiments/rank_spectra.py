"""Sorted eigenvalues of linear and other networks, and the blocks of one of them.

A linear network's Hessian has eigenvalues that are zero; another one's are small there,
and only there: its rank is full, but most of it lies where the linear one's is.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from curvescope._core.checks import message, positive_int, unique
from curvescope.experiments import rank
from curvescope.experiments.base import Experiment, decisive
from curvescope.experiments.rank import RankPoint, RankSettings
from curvescope.experiments.sweep import run_points
from curvescope.results import Cost, Provenance, Result, SpectrumComparison

_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class RankSpectra(RankSettings):
    """Sorted eigenvalues of networks that differ in their activation."""

    dim: int = 16
    """Pixels of an image after down-scaling, a square number; features of a mixture."""
    loss: rank.Loss = "cross_entropy"
    """Half squared error to one-hot targets, cross-entropy, or log cosh to one-hot
    targets; each summed over the samples."""
    activation: rank.Activation = "linear"
    """Of the network whose blocks are pictured."""
    activations: tuple[rank.Activation, ...] = ("linear", "tanh", "relu")
    """Between the layers, one network each."""
    units: tuple[int, ...] = (14, 14)
    """Widths of the hidden layers, such as 14,14."""
    num_samples: int = 300
    """The first so many samples."""
    seed: int = 0
    """Of the weights, which all networks share, and of data that are drawn."""
    jobs: int | None = None
    """Worker processes; chosen by processors, memory and work by default."""

    def of(self, activation: str) -> RankPoint:
        """Return the network with an activation."""
        return self.point(
            activation=activation,
            units=self.units,
            num_samples=self.num_samples,
            seed=self.seed,
        )


def measure_spectrum(point: RankPoint) -> dict[str, Any]:
    """Measure a network's ranks and all eigenvalues of its H.

    Returns:
        The record of `curvescope.experiments.rank.measure`, and ``eigenvalues``.

    Raises:
        ValueError: If the point is wrong.

    Cost:
        A rank report.
    """
    report = rank.report_of(point)
    return {**rank.record_of(report), "eigenvalues": report.eigenvalues.tolist()}


def check_spectra(config: RankSpectra) -> None:
    """Check a configuration, and that its data are there.

    Raises:
        FileNotFoundError: If the data are absent.
        ValueError: If a value is out of range.
    """
    if not unique("activations", config.activations):
        raise ValueError(message("activations", "hold at least one name", "none"))
    if config.jobs is not None:
        positive_int("jobs", config.jobs)
    rank.check_points(map(config.of, (config.activation, *config.activations)))


def rank_spectra(
    config: RankSpectra, *, folder: Path | None = None
) -> dict[str, Result]:
    """Compare the sorted eigenvalues of H between activations.

    Args:
        config: Networks and data.
        folder: Where finished points are kept, so that a later call goes on there.

    Returns:
        ``spectra``, and ``blocks`` of one network of up to 4,000 parameters.

    Raises:
        PointError: If a point failed; finished ones are saved.
        ValueError: If the configuration is wrong.

    Cost:
        One rank report an activation.

    Example:
        >>> config = RankSpectra(data="digits", units=(5,), num_samples=50, jobs=1)
        >>> rank_spectra(config)["spectra"].eigenvalues["tanh"].shape
        torch.Size([130])

    References:
        Singh, Bachmann, Hofmann (2021), arXiv:2106.16225, whose poster has the figure.
    """
    check_spectra(config)
    start = time.perf_counter()
    points = [config.of(name) for name in config.activations]
    values = run_points(
        points,
        measure_spectrum,
        folder=folder,
        version=_VERSION,
        jobs=config.jobs,
        seconds=rank.guess_seconds,
        memory=rank.guess_memory,
        description="spectra",
    )
    spectra: dict[str, torch.Tensor] = {}
    predicted: dict[str, int] = {}
    for point, value in zip(points, values, strict=True):
        eigenvalues = torch.tensor(value["eigenvalues"], dtype=torch.float64)
        order = eigenvalues.abs().argsort(descending=True)
        spectra[point.activation] = eigenvalues[order]
        # A ceiling is no place where a spectrum should end.
        if value["hessian_claim"] == "equal":
            predicted[point.activation] = value["hessian_predicted"]
    comparison = SpectrumComparison(
        eigenvalues=spectra,
        predicted=predicted,
        of=_provenance(config, points[0]),
        cost=Cost(seconds=time.perf_counter() - start),
        settings=decisive(config),
        notes=tuple(
            f"{point.activation}: the rank of H is {value['hessian_rank']} of "
            f"{value['num_params']}, {value['hessian_verdict']}"
            for point, value in zip(points, values, strict=True)
        ),
    )
    blocks = rank.picture(config.of(config.activation))
    return {"spectra": comparison} | ({} if blocks is None else {"blocks": blocks})


def _provenance(config: RankSpectra, point: RankPoint) -> Provenance:
    units = ",".join(map(str, config.units))
    return Provenance(
        matrix="Hessian",
        description=(
            f"networks with hidden widths {units}, {config.loss}, {config.data} "
            f"({config.dim} inputs, {config.classes} classes)"
        ),
        reduction="sum",
        unit="loss (sum over the data) per parameter squared",
        num_params=rank.guess_params(point),
        num_samples=config.num_samples,
    )


EXPERIMENT = Experiment(
    name="rank-spectra",
    config=RankSpectra,
    run=rank_spectra,
    check=check_spectra,
    summary="Sorted eigenvalues of H for several activations; the blocks of one net.",
)
