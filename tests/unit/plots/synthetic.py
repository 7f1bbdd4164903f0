"""Results with real-looking numbers, made from eigendecompositions by numpy."""

import functools
import math

import numpy as np
import torch

from curvescope.results import (
    Cost,
    EffectiveDimension,
    Eigenpairs,
    Estimate,
    LayerRow,
    LayerTable,
    ParamSlice,
    Provenance,
    RankEstimate,
    Result,
    SpectralDensity,
)

NUM_PARAMS = 160


@functools.cache
def spectrum(*, negative: bool = True, seed: int = 0) -> np.ndarray:
    """Ten outliers, a bulk over decades and a negative tail: the shape of a Hessian's."""
    rng = np.random.default_rng(seed)
    outliers = np.geomspace(60.0, 2.0, 10) * rng.uniform(0.9, 1.1, 10)
    bulk = 10.0 ** rng.uniform(-7, -0.5, NUM_PARAMS - 40)
    tail = -(10.0 ** rng.uniform(-6, -0.7, 30))
    planted = np.concatenate([outliers, bulk, tail if negative else -tail])
    q, _ = np.linalg.qr(rng.standard_normal((NUM_PARAMS, NUM_PARAMS)))
    return np.linalg.eigvalsh((q * planted) @ q.T)[::-1].copy()


def provenance(
    matrix: str = "Hessian",
    description: str = "MLP 64-32-10, cross entropy on digits (train)",
) -> Provenance:
    return Provenance(
        matrix=matrix,
        description=description,
        reduction="mean",
        unit="mean loss per sample per squared parameter",
        num_params=NUM_PARAMS,
        num_samples=1437,
        denominator=1437.0,
        slices=(ParamSlice(name="0.weight", start=0, stop=160, shape=(16, 10)),),
        fingerprint="3f9a1c04be27d815",
    )


def cost(seconds: float = 4.2) -> Cost:
    return Cost(
        num_matvecs=120, num_data_passes=30, seconds=seconds, peak_memory=412 * 2**20
    )


def eigenpairs(
    *, which: str = "BE", k: int = 10, unconverged: int = 1, **of: str
) -> Eigenpairs:
    values = spectrum()
    if which == "BE":
        chosen = np.r_[values[: k - k // 2], values[NUM_PARAMS - k // 2 :]]
    elif which == "SA":
        chosen = values[-k:]
    elif which == "LM":
        chosen = np.sort(values[np.argsort(-np.abs(values))[:k]])[::-1].copy()
    else:
        chosen = values[:k]
    residuals = np.abs(chosen) * np.geomspace(1e-7, 4e-4, k)
    converged = np.ones(k, dtype=bool)
    if unconverged:
        converged[-unconverged:] = False
        residuals[-unconverged:] = 0.15 * np.abs(chosen[-unconverged:])
    notes = (f"{unconverged} of {k} pairs did not converge",) if unconverged else ()
    return Eigenpairs(
        of=provenance(**of),
        cost=cost(),
        settings={"k": k, "which": which, "tol": 1e-3, "seed": 7, "block_size": 4},
        notes=notes,
        eigenvalues=torch.from_numpy(chosen),
        residual_norms=torch.from_numpy(residuals),
        converged=torch.from_numpy(converged),
        which=which,
        tolerance=1e-3,
        norm=float(np.abs(values).max()),
    )


def density(*, axis: str = "signed-log", probes: int = 8) -> SpectralDensity:
    """Smooth noisy copies of the true spectrum, one a probe."""
    rng = np.random.default_rng(1)
    values = spectrum()
    threshold, width = (1e-3, 0.25) if axis == "signed-log" else (1.0, 0.6)
    coordinate = np.arcsinh(values / threshold) if axis == "signed-log" else values
    grid = np.linspace(coordinate.min() - 5 * width, coordinate.max() + 5 * width, 300)
    kernel = np.exp(-0.5 * ((grid[:, None] - coordinate) / width) ** 2)
    kernel /= width * math.sqrt(2 * math.pi)
    weights = rng.chisquare(1, (probes, NUM_PARAMS))
    weights /= weights.sum(1, keepdims=True)
    curves = weights @ kernel.T
    error = curves.std(0, ddof=1) / math.sqrt(probes)
    axis_grid = threshold * np.sinh(grid) if axis == "signed-log" else grid
    return SpectralDensity(
        of=provenance(),
        cost=cost(6.1),
        settings={"num_probes": probes, "num_steps": 40, "axis": axis, "seed": 7},
        nodes=torch.from_numpy(np.tile(values[:40], (probes, 1))),
        weights=torch.full((probes, 40), 1 / 40, dtype=torch.float64),
        grid=torch.from_numpy(axis_grid),
        density=torch.from_numpy(curves.mean(0)),
        standard_error=torch.from_numpy(error),
        axis=axis,
        linear_threshold=threshold,
        width=width,
        dimension=NUM_PARAMS,
        quadrature_error=2.1e-4,
    )


def effective_dimension(*, points: int = 60, method: str = "slq") -> EffectiveDimension:
    values = np.clip(spectrum(), 0, None)
    z = np.geomspace(1e-4, 1e2, points) if points > 1 else np.array([1e-2])
    curve = (values / (values + z[:, None])).sum(1)
    error = 0.06 * curve if method == "slq" else np.zeros_like(curve)
    return EffectiveDimension(
        of=provenance(),
        cost=cost(0.3),
        settings={"z": [1e-2, 1.0], "num_probes": 8, "seed": 7},
        z=torch.from_numpy(z),
        values=torch.from_numpy(curve),
        standard_errors=torch.from_numpy(error),
        degrees_of_freedom=7.0,
        method=method,
        negative="clip",
        negative_mass=1.9,
        negative_count=30.0,
        dimension=NUM_PARAMS,
    )


def layers(
    *, count: int = 5, zero: bool = True, signed: bool = False, name: str = ""
) -> LayerTable:
    rng = np.random.default_rng(2)
    rows = []
    for i in range(count):
        whole, part = rng.uniform(2, 60), rng.uniform(0.01, 0.8)
        own = f"blocks.{i}.attention.projection.weight" if count > 12 else f"fc{i}"
        last = zero and i == count - 1
        top = 0.7 * whole * (-1.0 if signed and i % 4 == 1 else 1.0)
        rows.append(
            LayerRow(
                name=name or own,
                num_params=int(rng.integers(10, 5000)),
                frobenius_norm=whole,
                linearisation_norm=whole * math.sqrt(1 - part**2),
                curvature_norm=0.0 if last else whole * part,
                trace=whole * 1.7,
                top_eigenvalue=top,
                frobenius_norm_error=0.04 * whole,
                linearisation_norm_error=0.04 * whole,
                curvature_norm_error=0.0 if last else 0.2 * whole * part,
                trace_error=0.1 * whole,
                top_eigenvalue_error=1e-4 * whole,
            )
        )
    return LayerTable(
        of=provenance(),
        cost=cost(11.0),
        settings={"num_probes": 16, "seed": 7},
        layers=tuple(rows),
        method="Hutchinson, 16 probes",
    )


def trace_estimate() -> Estimate:
    values = spectrum()
    return Estimate(
        of=provenance(),
        cost=cost(1.0),
        settings={"num_probes": 16, "seed": 7},
        quantity="trace",
        value=float(values.sum()),
        standard_error=3.1,
        degrees_of_freedom=15.0,
        method="Hutchinson, 16 probes",
    )


def norm_estimate() -> Estimate:
    values = spectrum()
    return Estimate(
        of=provenance(),
        cost=cost(1.0),
        settings={"num_probes": 16, "seed": 7},
        quantity="Frobenius norm",
        value=float(np.sqrt((values**2).sum())),
        standard_error=1.4,
        degrees_of_freedom=15.0,
        method="Hutchinson, 16 probes",
    )


def rank() -> RankEstimate:
    rng = np.random.default_rng(3)
    a = rng.standard_normal((60, 23)) * np.geomspace(1, 1e-3, 23)
    values = np.linalg.svd(a @ rng.standard_normal((23, 60)), compute_uv=False)
    return RankEstimate(
        of=provenance(),
        cost=cost(0.2),
        rank=23,
        gap=float(values[22] / values[23]),
        tolerance=1e-10,
        certain=True,
        singular_values=torch.from_numpy(values),
    )


def all_results() -> dict[str, Result]:
    """What `curvescope analyze` gives."""
    return {
        "eigenpairs": eigenpairs(),
        "spectral_density": density(),
        "trace": trace_estimate(),
        "frobenius_norm": norm_estimate(),
        "effective_dimension": effective_dimension(),
        "layers": layers(),
    }
