"""From the measurements of a tracking to one frozen result."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from curvescope._core.memory import peak_memory
from curvescope.analysis.preconditioning import barely_scaled_note
from curvescope.analysis.tracking_measures import Row, Settings
from curvescope.problem import Problem
from curvescope.results import Cost, TrackingCurve

_SHARE = 3


def curve_of(
    rows: Sequence[Row],
    settings: Settings,
    problem: Problem,
    notes: tuple[str, ...] = (),
) -> TrackingCurve:
    """Return the curve of all measurements, with further notes at the end."""
    of = problem.provenance("Hessian") if _finite(problem) else None
    described = {} if of is None else {"of": dataclasses.replace(of, fingerprint="")}
    layers = tuple(next((r["layers"] for r in rows if r.get("layers")), {}))
    width, z = settings.k, len(settings.z)
    has = set(settings.measures)

    def numbers(name: str, shape: tuple[int, ...] = ()) -> Tensor:
        kept = [_tensor(row.get(name), shape) for row in rows]
        return torch.stack(kept) if kept else _none((0, *shape))

    def if_asked(measure: str, name: str, shape: tuple[int, ...] = ()) -> Tensor | None:
        return numbers(name, shape) if measure in has else None

    limited = any("limit" in row for row in rows)
    accurate = any(row.get("accuracy") is not None for row in rows)
    spent = [row.get("cost", {}) for row in rows]
    converged = if_asked("eigenvalues", "converged", (width,))
    return TrackingCurve(
        **described,
        cost=_cost(spent, problem),
        settings=dataclasses.asdict(settings),
        notes=(*_notes(rows, converged, problem.num_params), *notes),
        at=torch.tensor([row["step"] for row in rows], dtype=torch.int64),
        loss=numbers("loss"),
        accuracy=numbers("accuracy") if accurate else None,
        gradient_norm=if_asked("gradient", "gradient_norm"),
        eigenvalues=if_asked("eigenvalues", "eigenvalues", (width,)),
        residual_norms=if_asked("eigenvalues", "residual_norms", (width,)),
        converged=None if converged is None else converged == 1.0,
        which=settings.which,
        alignment=if_asked("alignment", "alignment"),
        trace=if_asked("trace", "trace"),
        trace_error=if_asked("trace", "trace_error"),
        z=settings.z,
        effective_dimension=if_asked(
            "effective_dimension", "effective_dimension", (z,)
        ),
        effective_dimension_band=if_asked(
            "effective_dimension", "effective_dimension_band", (z, 2)
        ),
        layers=layers,
        layer_norms=_layers(rows, layers, "norms"),
        layer_norm_errors=_layers(rows, layers, "errors"),
        preconditioned_sharpness=if_asked("preconditioned", "preconditioned_sharpness"),
        preconditioned_residual=if_asked("preconditioned", "preconditioned_residual"),
        learning_rate=numbers("learning_rate") if limited else None,
        limit=numbers("limit") if limited else None,
        formula=next((row["formula"] for row in rows if "formula" in row), ""),
        adaptive="preconditioned" in has,
        num_matvecs=_total(spent, "num_matvecs").to(torch.int64),
        gradients=_total(spent, "gradients"),
        seconds=_total(spent, "seconds"),
        gradient_seconds=numbers("gradient_seconds"),
    )


def _finite(problem: Problem) -> bool:
    try:
        problem.refresh()
    except ValueError:
        return False
    return True


def _none(shape: tuple[int, ...]) -> Tensor:
    return torch.full(shape, math.nan, dtype=torch.float64)


def _tensor(value: Any, shape: tuple[int, ...]) -> Tensor:
    if value is None:
        return _none(shape)
    return torch.tensor(value, dtype=torch.float64).reshape(shape)


def _layers(rows: Sequence[Row], layers: tuple[str, ...], name: str) -> Tensor | None:
    if not layers:
        return None
    table = torch.full((len(rows), len(layers), _SHARE), math.nan, dtype=torch.float64)
    for t, row in enumerate(rows):
        for i, layer in enumerate(layers):
            if layer in row.get("layers", {}):
                table[t, i] = _tensor(row["layers"][layer][name], (_SHARE,))
    return table


def _total(spent: Sequence[dict[str, Any]], name: str) -> Tensor:
    sums = [sum(float(part[name]) for part in cost.values()) for cost in spent]
    return torch.tensor(sums, dtype=torch.float64)


def _cost(spent: Sequence[dict[str, Any]], problem: Problem) -> Cost:
    return Cost(
        num_matvecs=int(_total(spent, "num_matvecs").sum()),
        seconds=float(_total(spent, "seconds").sum()),
        peak_memory=peak_memory(problem.device),
    )


def _notes(
    rows: Sequence[Row], converged: Tensor | None, num_params: int
) -> tuple[str, ...]:
    notes = []
    if converged is not None and len(rows):
        short = int(((converged != 1.0) & ~converged.isnan()).any(dim=1).sum())
        if short:
            notes.append(
                f"{short} of {len(rows)} measurements have eigenpairs that did not reach "
                "the tolerance: raise `max_matvecs` or `tol`"
            )
    barely = [row for row in rows if row.get("barely_scaled")]
    if barely:
        text = barely_scaled_note(barely[-1]["barely_scaled"], num_params)
        where = (
            f"at {len(barely)} of {len(rows)} measurements, last {barely[-1]['step']}"
        )
        notes.append(f"preconditioned sharpness {where}: {text}")
    first = next((row for row in rows if row.get("trouble")), None)
    if first is not None:
        count = sum(1 for row in rows if row.get("trouble"))
        notes.append(
            f"{count} steps could not be measured, first {first['step']}: {first['trouble']}"
        )
    return tuple(notes)
