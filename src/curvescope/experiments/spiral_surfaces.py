"""One network on the two spirals: spectrum, surfaces, steps, and decision boundaries."""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from curvescope._core.progress import track
from curvescope.analysis import homogeneity, loss_surface
from curvescope.analysis.directions import by_magnitude, eigenbasis
from curvescope.experiments import spiral_nets
from curvescope.experiments.spiral_nets import LEARNING_RATE, SpiralPoint
from curvescope.linalg import effective_dimension
from curvescope.problem import Problem
from curvescope.results import (
    Cost,
    Eigenpairs,
    LossSurface,
    PerturbedClassifiers,
    Result,
    SurfaceComparison,
    TrainingResult,
)
from curvescope.training import train

# Below, there are no top, bottom and other directions to tell apart.
FEWEST = 20
_TOP = 3
_STEPS = (0.1, 0.25, 0.5, 1.0, 5.0, 10.0)
_DRAWS = 5
# Steps of the classifiers that are drawn, along one direction of each kind.
_SHOWN = {"top": (0.05, 0.1, 0.25, 0.5), "bottom": (1.0, 2.5, 5.0, 10.0)}
_SHOWN["random"] = (0.1, 0.5, 1.0, 5.0)
# Reach of the surfaces to either side: as published, whose ticks say twice as much.
_NEAR, _FAR = 0.5, 25.0
_PIXELS = 121
_PLANES, _STEPPING, _BOUNDARIES = 10, 11, 12


def study(
    point: SpiralPoint, *, grid: int, settings: Mapping[str, Any], folder: Path | None
) -> dict[str, Result]:
    """Train one network, and measure everything around its weights.

    Args:
        point: The network and its data.
        grid: Points of each side of a surface.
        settings: What the results record.
        folder: Where finished parts are kept.

    Returns:
        The results by name.
    """
    model = spiral_nets.spiral_net(point, 0)
    train_data, test_data = spiral_nets.data_of(point, 0)
    trained = train(
        model,
        "bce_with_logits",
        train_data,
        epochs=point.epochs,
        learning_rate=LEARNING_RATE,
        optimizer="adam",
        weight_decay=point.weight_decay,
        test_data=test_data,
        evaluate_every=max(1, point.epochs // 100),
        checkpoint=None if folder is None else folder / "training",
    )
    model.eval()
    problem = Problem(model, "bce_with_logits", train_data)
    test = Problem(model, "bce_with_logits", test_data)
    pairs = eigenbasis(problem, problem.num_params)
    results: dict[str, Result] = {}
    results |= _steps(problem, test, pairs, folder)
    results["classifiers"] = _classifiers(problem, pairs, train_data)
    results |= _surfaces(problem, pairs, grid, folder)
    results["eigenvalues"] = dataclasses.replace(pairs, eigenvectors=None)
    results["effective_dimension"] = _dimension(problem, pairs, point.z)
    results["training"] = _with(trained, point)
    return {
        name: dataclasses.replace(result, settings={**settings, **result.settings})
        for name, result in results.items()
    }


def _with(trained: TrainingResult, point: SpiralPoint) -> TrainingResult:
    text = f"ELU network of width {point.width} and depth {point.depth}, two spirals"
    of = dataclasses.replace(trained.of, description=text)
    return dataclasses.replace(trained, of=of)


def sizes(num_params: int) -> dict[str, int]:
    """Return the dimensions of the bottom subspaces: the published ones, or smaller.

    Example:
        >>> sizes(2181), sizes(500)
        ({'few': 500, 'many': 1000, 'most': 2000}, {'few': 115, 'many': 229, 'most': 459})
    """
    published = {"few": 500, "many": 1000, "most": 2000}
    if num_params > published["most"]:
        return published
    return {name: round(k * num_params / 2181) for name, k in published.items()}


def _steps(
    problem: Problem, test: Problem, pairs: Eigenpairs, folder: Path | None
) -> dict[str, Result]:
    bottom = sizes(problem.num_params)

    def measured(name: str, kinds: tuple[str, ...], num_bottom: int) -> Result:
        return homogeneity(
            problem,
            num_top=_TOP,
            num_bottom=num_bottom,
            step_lengths=_STEPS,
            num_draws=_DRAWS,
            directions=kinds,
            test=test,
            eigenpairs=pairs,
            folder=None if folder is None else folder / name,
            generator=_stream(_STEPPING),
        )

    found = {
        "directions": measured("steps", ("top", "bottom", "random"), bottom["many"])
    }
    for name in ("few", "most"):
        size = bottom[name]
        found[f"bottom_{size}"] = measured(f"steps_{name}", ("bottom",), size)
    return found


def _surfaces(
    problem: Problem, pairs: Eigenpairs, grid: int, folder: Path | None
) -> dict[str, Result]:
    _, vectors = by_magnitude(problem, pairs)
    bottom = sizes(problem.num_params)
    few, most = bottom["few"], bottom["most"]
    spans = {
        "near": {
            "all eigenvectors": vectors,
            f"top {_TOP}": vectors[:, :_TOP],
            f"bottom {most}": vectors[:, -most:],
        },
        "far": {
            "all eigenvectors": vectors,
            f"bottom {few}": vectors[:, -few:],
            "bottom 3": vectors[:, -3:],
        },
    }
    generator = _stream(_PLANES)
    made: dict[str, Result] = {}
    for where, reach in (("near", _NEAR), ("far", _FAR)):
        surfaces: dict[str, LossSurface] = {}
        for place, (name, span) in enumerate(spans[where].items()):
            plane = span @ torch.randn(
                span.shape[1], 2, generator=generator, dtype=torch.float64
            ).to(span)
            surface = loss_surface(
                problem,
                directions=plane,
                extent=reach,
                num_points=grid,
                folder=None if folder is None else folder / f"surface_{where}_{place}",
            )
            names = tuple(f"{name}, direction {i + 1}" for i in range(2))
            surfaces[name] = dataclasses.replace(surface, names=names)
        costs = [surface.cost for surface in surfaces.values()]
        made["surfaces" if where == "near" else "wide_surfaces"] = SurfaceComparison(
            of=problem.provenance("loss"),
            cost=sum(costs[1:], costs[0]),
            surfaces=surfaces,
        )
    return made


def _classifiers(
    problem: Problem, pairs: Eigenpairs, data: tuple[Tensor, ...]
) -> PerturbedClassifiers:
    """Evaluate the network on a grid of the plane, before and after steps."""
    began = time.perf_counter()
    promoted = problem.promoted()
    points, labels = (tensor.double() for tensor in data)
    far = 1.08 * float(points.abs().max())
    axis = torch.linspace(-far, far, _PIXELS, dtype=torch.float64)
    plane = torch.cartesian_prod(axis, axis)
    theta = promoted.parameter_vector().double().cpu()
    logits = _Logits(promoted)
    steps = [
        (kind, unit, length)
        for kind, unit in _units(promoted, pairs).items()
        for length in _SHOWN[kind.split()[0]]
    ]
    here, perturbed, losses, agreements = logits(theta, plane), [], [], []
    base = logits(theta, points)
    with track("classifiers", total=len(steps)) as task:
        for _, unit, length in steps:
            moved = theta + length * unit
            perturbed.append(logits(moved, plane).sigmoid())
            outputs = logits(moved, points)
            loss = nn.functional.binary_cross_entropy_with_logits(outputs, labels[:, 0])
            losses.append(float(loss))
            agreements.append(float(((outputs > 0) == (base > 0)).double().mean()))
            task.advance()
    shape = (_PIXELS, _PIXELS)
    return PerturbedClassifiers(
        of=problem.provenance("loss"),
        cost=Cost(seconds=time.perf_counter() - began),
        x=axis,
        y=axis.clone(),
        probabilities=here.sigmoid().reshape(shape),
        perturbed=torch.stack(perturbed).reshape(-1, *shape),
        kinds=tuple(kind for kind, _, _ in steps),
        step_lengths=tuple(length for _, _, length in steps),
        losses=tuple(losses),
        agreements=tuple(agreements),
        loss=promoted.evaluate().loss,
        points=points,
        labels=labels[:, 0],
    )


def _units(problem: Problem, pairs: Eigenpairs) -> dict[str, Tensor]:
    """Return one random direction of unit length of each kind."""
    _, vectors = by_magnitude(problem, pairs)
    many = sizes(problem.num_params)["many"]
    generator = _stream(_BOUNDARIES)
    found = {}
    for kind, span in (
        (f"top {_TOP}", vectors[:, :_TOP]),
        (f"bottom {many}", vectors[:, -many:]),
        ("random", None),
    ):
        size = problem.num_params if span is None else span.shape[1]
        z = torch.randn(size, generator=generator, dtype=torch.float64)
        v = z if span is None else span.double().cpu() @ z
        found[kind] = v / v.norm()
    return found


class _Logits:
    """The network's logits at any weights, the model untouched."""

    def __init__(self, problem: Problem) -> None:
        self._model = problem.model
        self._layout = problem.layout

    @torch.no_grad()
    def __call__(self, theta: Tensor, inputs: Tensor) -> Tensor:
        pieces = self._layout.split(theta[None])
        state = {n: p[0] for n, p in zip(self._layout.names, pieces, strict=True)}
        outputs = torch.func.functional_call(self._model, state, (inputs,))
        return outputs[:, 0]


def _dimension(problem: Problem, pairs: Eigenpairs, z: tuple[float, ...]) -> Result:
    curve = torch.logspace(-5, 2, 71, dtype=torch.float64)
    every = torch.cat([curve, torch.tensor(z, dtype=torch.float64)]).unique()
    found = effective_dimension(pairs.eigenvalues, z=every)
    return dataclasses.replace(
        found, of=problem.provenance("Hessian"), settings={"z": list(z)}
    )


def guess_seconds(point: SpiralPoint, grid: int) -> float:
    """Guess how long everything after the training takes on one core."""
    size = spiral_nets.num_params(point)
    passes = 6 * grid**2 + 5 * _DRAWS * (len(_STEPS) + 1)
    return 1e-9 * size**3 + passes * (2e-4 + 1e-9 * size * point.num_samples)


def _stream(purpose: int) -> torch.Generator:
    return torch.Generator().manual_seed(purpose)
