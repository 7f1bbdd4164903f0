"""One rank measurement: from plain values to a problem, and to measured ranks.

All in float64. The loss is the SUM over samples of the half squared error, the
cross-entropy, or the sum over outputs of log cosh: the published unit, which no rank
depends on.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from curvescope import data as datasets
from curvescope._core.checks import message, one_of, positive_int
from curvescope.analysis import rank_report
from curvescope.data.downscale import CHANNELS, METHODS, side_of
from curvescope.exact.assembly import matrices
from curvescope.exact.blocks import block_picture
from curvescope.losses import CrossEntropy, LogCosh, half_squared_error
from curvescope.losses.base import AbstractLoss
from curvescope.models import SCHEMES, build, initialise_
from curvescope.problem import Problem
from curvescope.results import BlockPicture, RankReport, Result
from curvescope.results.ranks import MATRICES

Data = Literal["mnist", "fashion-mnist", "cifar10", "digits", "gaussian-mixture"]
Loss = Literal["mse", "cross_entropy", "logcosh"]
Scheme = Literal["glorot", "uniform", "orthogonal", "he"]
Activation = Literal[
    "linear", "relu", "leaky-relu", "leaky_relu", "tanh", "elu", "sigmoid"
]
Resize = Literal["nearest", "area", "bilinear", "antialias"]
Channels = Literal["first", "mean", "all"]
Certify = Literal["auto", "always", "never"]

MIXTURE = "gaussian-mixture"
IMAGES = ("mnist", "fashion-mnist", "cifar10", "digits")
_LOSSES: dict[str, AbstractLoss] = {
    "mse": half_squared_error(reduction="sum"),
    "cross_entropy": CrossEntropy(reduction="sum"),
    "logcosh": LogCosh(reduction="sum"),
}
_ACTIVATIONS = get_args(Activation)
CERTIFY: dict[str, Literal["auto"] | bool] = {
    "auto": "auto",
    "always": True,
    "never": False,
}
# Those that predictions are made from, of the facts of a rank report.
_FACTS = (
    "num_params",
    "num_samples",
    "input_rank",
    "output_rank",
    "residual_rank",
    "bottleneck",
)
# Biases of zero would be no generic point; the published code draws none.
BIAS_STD = 0.3
# Parameters up to which all three matrices are assembled for a picture, and up to which
# the ranks of all blocks are computed.
_LARGEST_PICTURE, _LARGEST_BLOCK_RANKS = 4000, 1500
# Streams of one seed: weights, and data that are drawn.
_WEIGHTS, _DATA = 0, 1


@dataclass(frozen=True, kw_only=True)
class RankSettings:
    """What every rank experiment asks: the data, and how networks are drawn."""

    data: Data = "mnist"
    """Where inputs and labels come from; gaussian-mixture is drawn, and needs no files."""
    data_root: Path | None = None
    """The folder that holds one folder a data set."""
    dim: int = 64
    """Pixels of an image after down-scaling, a square number; features of a mixture."""
    classes: int = 10
    """Outputs of the network. Only samples of the first so many classes are taken."""
    loss: Loss = "mse"
    """Half squared error to one-hot targets, cross-entropy, or log cosh to one-hot
    targets; each summed over the samples."""
    init: Scheme = "glorot"
    """How weights are drawn; uniform is U[0,1)/fan_in."""
    activation: Activation = "linear"
    """Between the layers; leaky-relu has slope 0.01."""
    bias: bool = False
    """Biases in every layer, drawn from N(0, 0.3^2)."""
    resize: Resize = "nearest"
    """How images are scaled down."""
    channels: Channels = "first"
    """Which colour channels; all of them make inputs of 3 times --dim."""
    certify: Certify = "auto"
    """Whether ranks are also computed exactly, modulo primes."""

    def point(self, **more: Any) -> "RankPoint":
        """Return the measurement with these settings, and ``more`` for what is left."""
        common = {f.name: getattr(self, f.name) for f in fields(RankSettings)}
        return RankPoint(**{**common, **more})


@dataclass(frozen=True, kw_only=True)
class RankPoint(RankSettings):
    """A network, a loss and data: what one measurement is about."""

    units: tuple[int, ...] = (10, 10)
    """Widths of the hidden layers, such as 10,10."""
    num_samples: int = 100
    """The first so many samples."""
    seed: int = 0
    """Of the weights, and of data that are drawn."""


def check_point(point: RankPoint) -> None:
    """Check everything of a point that can be checked without its data.

    Raises:
        TypeError: If a number is none.
        ValueError: If a value is out of range.
    """
    one_of("data", point.data, (*IMAGES, MIXTURE))
    one_of("loss", point.loss, _LOSSES)
    one_of("init", point.init, SCHEMES)
    one_of("activation", point.activation, _ACTIVATIONS)
    one_of("resize", point.resize, METHODS)
    one_of("channels", point.channels, CHANNELS)
    one_of("certify", point.certify, CERTIFY)
    positive_int("dim", point.dim)
    positive_int("num_samples", point.num_samples)
    positive_int("seed", point.seed, minimum=0)
    for width in point.units:
        positive_int("units", width)
    alone = 1 if point.loss != "cross_entropy" else 2
    remedy = "One class has no cross-entropy." if alone == 2 else ""
    positive_int("classes", point.classes, minimum=alone, remedy=remedy)
    if point.data != MIXTURE:
        side_of(point.dim)


def check_points(points: Iterable[RankPoint]) -> None:
    """Check points, and that their data are there; downloads what is absent.

    Raises:
        FileNotFoundError: If data are absent.
        ValueError: If a value is out of range, or there are too few samples.
    """
    largest: dict[tuple[Any, ...], RankPoint] = {}
    for point in points:
        check_point(point)
        source = (point.data, point.data_root, point.dim, point.classes)
        known = largest.setdefault(source, point)
        if point.num_samples > known.num_samples:
            largest[source] = point
    for point in largest.values():
        load_samples(point)


def load_samples(point: RankPoint) -> tuple[Tensor, Tensor]:
    """Return a point's inputs, float64 ``(n, d)``, and labels.

    Images are the first of the training split whose class is below ``point.classes``:
    others would have targets of zeros, for which the formulas do not hold.

    Raises:
        FileNotFoundError: If the data are absent and cannot be downloaded.
        ValueError: If there are too few samples, classes or pixels.

    Cost:
        Reading the data set; the last one is kept.
    """
    if point.data == MIXTURE:
        drawn = datasets.gaussian_mixture(
            point.num_samples,
            num_features=point.dim,
            num_classes=point.classes,
            generator=_stream(point.seed, _DATA),
        )
        inputs, labels = drawn.tensors
        return inputs.double(), labels
    images, labels = _first_images(
        point.data, point.data_root, point.classes, point.num_samples
    )
    inputs = datasets.downscale(
        images, point.dim, method=point.resize, channels=point.channels
    )
    return inputs, labels


@lru_cache(maxsize=1)
def _whole(name: str, root: Path | None) -> datasets.ImageDataset:
    return datasets.load(name, root=root)


def _first_images(
    name: str, root: Path | None, classes: int, count: int
) -> tuple[Tensor, Tensor]:
    whole = _whole(name, root)
    if classes > whole.num_classes:
        contract = f"be at most {whole.num_classes}, the classes of {name}"
        raise ValueError(message("classes", contract, classes))
    size = min(count, len(whole))
    while True:
        images, labels = whole.first(size).tensors()
        kept = (labels < classes).nonzero()[:count, 0]
        if len(kept) == count:
            return images[kept], labels[kept]
        if size == len(whole):
            contract = f"be at most {len(kept)}, the samples of {name} in these classes"
            raise ValueError(message("num_samples", contract, count))
        size = min(2 * size, len(whole))


def build_rank_problem(point: RankPoint) -> Problem:
    """Build a point's network and put it together with its data, in float64.

    Args:
        point: What the problem is of.

    Returns:
        The problem; the unit of its matrices is the summed loss.

    Raises:
        FileNotFoundError: If the data are absent.
        ValueError: If a value is out of range.

    Cost:
        Reading the data.

    Example:
        >>> point = RankPoint(data="digits", dim=16, num_samples=20, units=(5,))
        >>> build_rank_problem(point).num_params
        130
    """
    check_point(point)
    inputs, labels = load_samples(point)
    generator = _stream(point.seed, _WEIGHTS)
    model = build(
        "mlp",
        generator=generator,  # so that torch's own stream is left alone
        in_features=inputs.shape[1],
        hidden=point.units,
        num_classes=point.classes,
        activation=point.activation.replace("-", "_"),
        bias=point.bias,
    ).double()
    initialise_(model, point.init, bias_std=BIAS_STD, generator=generator)
    targets = labels
    if point.loss != "cross_entropy":
        targets = F.one_hot(labels, point.classes).double()
    return Problem(
        model,
        _LOSSES[point.loss],
        (inputs, targets),
        params="all",
        batch_size=max(256, point.num_samples),
        dtype=torch.float64,
    )


def _stream(seed: int, stream: int) -> torch.Generator:
    return torch.Generator().manual_seed(2 * seed + stream)


def report_of(point: RankPoint) -> RankReport:
    """Measure the ranks at a point."""
    return rank_report(build_rank_problem(point), certify=CERTIFY[point.certify])


def picture(point: RankPoint) -> BlockPicture | None:
    """Picture the blocks of the three matrices at a point; ``None`` if too large."""
    size = guess_params(point)
    if size > _LARGEST_PICTURE:
        return None
    whole = matrices(build_rank_problem(point))
    return block_picture(whole, ranks=size <= _LARGEST_BLOCK_RANKS)


def rank_results(point: RankPoint) -> dict[str, Result]:
    """Measure the ranks at a point, and picture the blocks of the three matrices.

    Args:
        point: Network, loss and data.

    Returns:
        ``rank_report``, and ``blocks`` of up to 4,000 parameters.

    Raises:
        FileNotFoundError: If the data are absent.
        ValueError: If a value is out of range.

    Cost:
        That of `rank_report`, and of assembling the matrices.

    Example:
        >>> point = RankPoint(data="digits", dim=16, num_samples=20, units=(5,))
        >>> rank_results(point)["rank_report"].ggn.rank
        85
    """
    results: dict[str, Result] = {"rank_report": report_of(point)}
    blocks = picture(point)
    return results if blocks is None else {**results, "blocks": blocks}


def measure(point: RankPoint) -> dict[str, Any]:
    """Measure the ranks at a point, as the plain values of one record.

    Returns:
        For each matrix NAME ``NAME_rank``, ``NAME_verdict``, ``NAME_gap``,
        ``NAME_certified``, ``NAME_predicted``, ``NAME_claim``, ``NAME_status``; the
        facts that predictions are made from; ``seconds``.

    Raises:
        ValueError: If the point is wrong.

    Cost:
        That of `rank_report`.
    """
    return record_of(report_of(point))


def record_of(report: RankReport) -> dict[str, Any]:
    """Return a report's ranks and facts as plain values of one record."""
    record: dict[str, Any] = {name: report.facts.get(name) for name in _FACTS}
    for name in MATRICES:
        rank, prediction = report.measured[name], report.predicted.get(name)
        record |= {
            f"{name}_rank": rank.rank,
            f"{name}_verdict": rank.verdict,
            f"{name}_gap": rank.gap,
            f"{name}_certified": rank.certified,
            f"{name}_predicted": None if prediction is None else prediction.value,
            f"{name}_claim": None if prediction is None else prediction.claim,
            f"{name}_status": None if prediction is None else prediction.status,
        }
    record["seconds"] = report.cost.seconds
    return record


def guess_params(point: RankPoint) -> int:
    """Return the number of parameters, without building anything."""
    colours = 3 if (point.data, point.channels) == ("cifar10", "all") else 1
    widths = (colours * point.dim, *point.units, point.classes)
    pairs = pairwise(widths)
    return sum((fan_in + point.bias) * fan_out for fan_in, fan_out in pairs)


def guess_size(point: RankPoint) -> int:
    """Guess the dimension of what is decomposed: of a linear net, the rank of H."""
    size = guess_params(point)
    if point.activation != "linear":
        return size
    q = min(point.dim, point.classes, *point.units)
    return min(size, 2 * q * sum(point.units) + q * (point.dim + point.classes))


def guess_seconds(point: RankPoint) -> float:
    """Guess what a point costs on one core: reading, assembling, decomposing."""
    size = guess_size(point)
    return 0.3 + 1.5e-6 * size**2 + 1e-10 * size**3


def guess_memory(point: RankPoint) -> float:
    """Guess the bytes at the peak: some dense matrices, and the libraries."""
    return 6 * 8.0 * guess_size(point) ** 2 + 0.5 * 2**30
