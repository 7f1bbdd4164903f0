"""What holds exactly of small networks without biases: each law beside a measurement."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from curvescope import data as datasets
from curvescope.exact import matrices, own_blocks
from curvescope.exact.blocks import layer_blocks
from curvescope.models import build
from curvescope.models.initialisation import Scheme, initialise_, weight_layers
from curvescope.problem import Problem
from curvescope.theory.initialisation import (
    LAWS,
    balancing_scales,
    homogeneous_norm_exponent,
    off_diagonal_ratio_exponent,
)

# A slope is right to three digits, an identity to rounding.
SLOPE, EXACT = 5e-3, 1e-11
_HIDDEN, _SAMPLES = (6, 5), 40
_SCALES = (1e-4, 1e-3)


@dataclass(frozen=True, kw_only=True)
class LawPoint:
    """What the exact laws are checked on."""

    data: str
    data_root: Path | None
    seed: int


def measure_laws(point: LawPoint) -> dict[str, Any]:
    """Check what holds exactly of small ReLU networks without biases.

    Returns:
        ``laws``: rows of a `LawCheck`.

    Cost:
        A few dense matrices of some hundred parameters.
    """
    rows = [
        *_zero_curvature(point),
        *_own_scale(point),
        *_homogeneous(point),
        *_off_diagonal(point),
        *_balance(point),
    ]
    return {"laws": rows}


def _zero_curvature(point: LawPoint) -> list[dict[str, Any]]:
    rows = []
    for activation in ("relu", "leaky_relu"):
        problem = _law_problem(point, activation, "cross_entropy")
        shares = []
        for block in own_blocks(problem).values():
            norms = block.frobenius_norms()
            shares.append(norms.curvature / norms.whole)
        where = f"{activation}: largest curvature part of an own block, relative"
        rows.append(law_row("piecewise_linear", where, 0.0, max(shares), 0.0))
        found = matrices(problem, parts=("hessian", "ggn")).computed
        traces = {name: float(A.matrix.trace()) for name, A in found.items()}
        where = f"{activation}: trace of the Hessian over that of the GGN"
        ratio = traces["hessian"] / traces["ggn"]
        rows.append(law_row("piecewise_linear", where, 1.0, ratio, EXACT))
    return rows


def _own_scale(point: LawPoint) -> list[dict[str, Any]]:
    rows = []
    depth = len(_HIDDEN) + 1
    before = _norms(_law_problem(point, "relu", "half_squared_error"))
    for layer, scale in itertools.product(range(depth), (1e-3, 10.0)):
        factors = [scale if place == layer else 1.0 for place in range(depth)]
        problem = _law_problem(point, "relu", "half_squared_error", factors)
        where = (
            f"relu, squared error: norm of layer {layer + 1}, its weights x {scale:g}"
        )
        ratio = _norms(problem)[layer] / before[layer]
        rows.append(law_row("own_scale", where, 1.0, ratio, EXACT))
    return rows


def _homogeneous(point: LawPoint) -> list[dict[str, Any]]:
    low, high = _SCALES
    depth = len(_HIDDEN) + 1
    norms = [
        _norms(_law_problem(point, "relu", "half_squared_error", [s] * depth))
        for s in (low, high)
    ]
    power = homogeneous_norm_exponent(depth=depth)
    return [
        law_row(
            "homogeneous_scale",
            f"relu, squared error: power of s in the norm of layer {layer}",
            power,
            math.log(b / a) / math.log(high / low),
            EXACT,
        )
        for layer, (a, b) in enumerate(zip(*norms, strict=True), start=1)
    ]


def _off_diagonal(point: LawPoint) -> list[dict[str, Any]]:
    """Measure the power of s in F over GGN, of every pair of different layers."""
    low, high = _SCALES
    rows = []
    for depth in (2, 3, 4):
        hidden = (6,) * (depth - 1)
        ratios: list[dict[tuple[str, str], float]] = []
        for scale in (low, high):
            problem = _law_problem(
                point, "relu", "cross_entropy", [scale] * depth, hidden
            )
            found = matrices(problem, parts=("ggn", "functional")).computed
            blocks = {part: layer_blocks(A) for part, A in found.items()}
            ratios.append(
                {
                    pair: float(blocks["functional"][pair].norm() / G.norm())
                    for pair, G in blocks["ggn"].items()
                    if pair[0] < pair[1]
                }
            )
        power = off_diagonal_ratio_exponent(depth=depth)
        for pair, first in ratios[0].items():
            where = f"relu, {depth} layers, block of {pair[0]} and {pair[1]}: power"
            slope = math.log(ratios[1][pair] / first) / math.log(high / low)
            rows.append(law_row("off_diagonal_ratio", where, power, slope, SLOPE))
    return rows


def _balance(point: LawPoint) -> list[dict[str, Any]]:
    norms = _norms(_law_problem(point, "relu", "cross_entropy"))
    scales = balancing_scales(norms)
    after = _norms(_law_problem(point, "relu", "cross_entropy", scales))
    where = "relu, cross-entropy: largest over smallest norm, balanced"
    return [law_row("balance", where, 1.0, max(after) / min(after), EXACT)]


def _norms(problem: Problem) -> list[float]:
    return [b.frobenius_norms().whole for b in own_blocks(problem).values()]


def _law_problem(
    point: LawPoint,
    activation: str,
    loss: str,
    factors: Sequence[float] = (),
    hidden: tuple[int, ...] = _HIDDEN,
) -> Problem:
    """Return a small problem; normal weights of the first scale 1/sqrt(fan-in)."""
    images, labels = first_images(point.data, point.data_root, _SAMPLES)
    classes = num_classes(point.data)
    shape = (images.shape[1], *hidden, classes)
    model = network(shape, activation, point.seed, scheme="glorot")
    if factors:
        scale_(model, factors)
    targets = labels
    if loss != "cross_entropy":
        targets = torch.nn.functional.one_hot(labels, classes).double()
    return Problem(model, loss, (images, targets))


def law_row(
    name: str, where: str, predicted: float, measured: float, tolerance: float
) -> dict[str, Any]:
    """Return the row of a `LawCheck`, with statement and status of the theory."""
    law = LAWS[name]
    return {
        "law": name,
        "statement": law.statement,
        "status": law.status,
        "where": where,
        "predicted": float(predicted),
        "measured": float(measured),
        "tolerance": tolerance,
    }


def network(
    widths: tuple[int, ...],
    activation: str,
    seed: int,
    *,
    scheme: Scheme = ("normal", 1.0),
) -> nn.Module:
    """Return a network without biases, in float64."""
    generator = torch.Generator().manual_seed(seed)
    model = build(
        "mlp",
        generator=torch.Generator().manual_seed(seed),
        in_features=widths[0],
        hidden=widths[1:-1],
        num_classes=widths[-1],
        activation=activation,
        bias=False,
    ).double()
    return initialise_(model, scheme, generator=generator)


@torch.no_grad()
def scale_(model: nn.Module, factors: Sequence[float]) -> None:
    """Multiply every layer's weights by its factor, in place."""
    for layer, factor in zip(weight_layers(model).values(), factors, strict=True):
        weight = layer.weight
        assert isinstance(weight, Tensor)
        weight.mul_(factor)


def first_images(name: str, root: Path | None, count: int) -> tuple[Tensor, Tensor]:
    """Return the first training images, flattened, in float64, and their labels."""
    found = datasets.load(name, root=root, split="train", num_samples=count)
    images, labels = found.tensors()
    return images.flatten(1).double(), labels


def num_classes(name: str) -> int:
    """Return the number of classes of a data set."""
    return 100 if name == "cifar100" else 10
