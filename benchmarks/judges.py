"""Answers held against exact ones, in a process of its own, which prints JSON.

python -m benchmarks.judges prepare|judge KIND PROBLEM THREADS REQUEST
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from scipy.stats import wasserstein_distance
from torch import Tensor

from benchmarks import reference_matrices
from benchmarks.measure import PeakMemory
from benchmarks.peers.loops import layers_of
from benchmarks.problems import PROBLEMS, Task
from benchmarks.reference_pairs import KeptHessian, exact_pairs, keep, place

# An eigenvalue that is further off than this is not that eigenvalue.
RIGHT = 1e-3


def facts(name: str) -> dict[str, Any]:
    """Describe the task, and price one gradient's memory."""
    task = PROBLEMS[name]()
    memory = PeakMemory()
    task.gradient()
    return {
        "fingerprint": task.fingerprint,
        "description": task.description,
        "num_params": task.num_params,
        "num_samples": task.num_samples,
        "num_batches": len(task.batches),
        "gradient_peak_bytes": memory.growth(),
    }


class TopJudge:
    """Eigenpairs: true residuals, errors, how many are right, which come twice."""

    def __init__(self, name: str, *, k: int) -> None:
        self._k = k
        self._exact = exact_pairs(name, k)
        self._name = name
        self._hessian: KeptHessian | None = None

    def facts(self) -> dict[str, Any]:
        exact = self._exact
        return {
            "exact_values": exact.values.tolist(),
            "exact_residuals": exact.residuals.tolist(),
        }

    def judge(self, answer: dict[str, Any]) -> dict[str, Any]:
        values = answer["values"]
        order = values.abs().argsort(descending=True)
        matched = match(values[order].tolist(), self._exact.values.tolist(), RIGHT)
        wanted = [m for m in matched if m is not None and m < self._k]
        claimed = answer["claimed"]
        bad = [int(i) for i, m in zip(order, matched, strict=True) if m is None]
        errors = rank_errors(values[order], self._exact.values)
        found: dict[str, Any] = {
            "values": values[order].tolist(),
            "right": len(wanted),
            "largest_error": max(errors),
            "duplicates": duplicates(
                values[order].tolist(), matched, self._exact.values
            ),
            "wrong_but_claimed": None
            if claimed is None
            else sum(bool(claimed[i]) for i in bad),
        }
        if answer["vectors"] is not None:
            vectors = answer["vectors"][:, order].double()
            residuals = self._residuals(values[order], vectors)
            found["residuals"] = residuals.tolist()
            found["worst_residual"] = float(residuals.max())
        return found

    def _residuals(self, values: Tensor, V: Tensor) -> Tensor:
        """Return ``||H v - lambda v|| / |lambda|`` with the float64 Hessian.

        What lies in the exact vectors' span is multiplied by what float64 products gave;
        only the small rest is multiplied in the task's own precision, so that rounding
        is of the rest's size.
        """
        V = V / V.norm(dim=0)
        exact = self._exact
        inside = exact.vectors.T @ V
        rest = V - exact.vectors @ inside
        sizes = rest.norm(dim=0).clamp_min(1e-300)
        if self._hessian is None:
            self._hessian = KeptHessian(PROBLEMS[self._name]())
        dtype = torch.get_default_dtype()
        outside = self._hessian.block((rest / sizes).to(dtype)).double() * sizes
        products = exact.products @ inside + outside
        return (products - V * values).norm(dim=0) / values.abs()


def match(
    values: Sequence[float], exact: Sequence[float], tol: float
) -> list[int | None]:
    """Give each value the nearest exact one that is free and within ``tol``, or none."""
    free = dict(enumerate(exact))
    found: list[int | None] = []
    for value in values:
        near = min(free, key=lambda i: abs(free[i] - value), default=None)
        if near is None or abs(free[near] - value) > tol * abs(free[near]):
            found.append(None)
            continue
        found.append(near)
        del free[near]
    return found


def duplicates(
    values: Sequence[float], matched: Sequence[int | None], exact: Tensor
) -> int:
    """Count values that repeat an eigenvalue more often than the matrix has it."""
    gone = [v for v, m in zip(values, matched, strict=True) if m is None]
    return sum(bool(((exact - v).abs() <= RIGHT * exact.abs()).any()) for v in gone)


def rank_errors(values: Tensor, exact: Tensor) -> list[float]:
    """Return the relative errors, the i-th largest against the i-th largest."""
    there = exact[: len(values)]
    return ((values - there).abs() / there.abs()).tolist()


class DensityJudge:
    """Quadratures: the Wasserstein distance to the exact spectrum over lambda_max."""

    def __init__(self, name: str) -> None:
        task = PROBLEMS[name]()
        path = place(task, "spectrum", Path(reference_matrices.__file__))
        if not path.exists():
            H = reference_matrices.dense(task.double(), "hessian")
            keep(torch.linalg.eigvalsh((H + H.T) / 2), path)
        self._spectrum = torch.load(path, weights_only=True)

    def facts(self) -> dict[str, Any]:
        return {
            "largest": float(self._spectrum.abs().max()),
            "smallest": float(self._spectrum.min()),
        }

    def judge(self, answer: dict[str, Any]) -> dict[str, Any]:
        nodes, weights = answer["values"], answer["weights"].clamp_min(0.0)
        distance = wasserstein_distance(
            nodes.numpy(), self._spectrum.numpy(), u_weights=weights.numpy()
        )
        return {"error": distance / float(self._spectrum.abs().max())}


class LayersJudge:
    """Tables of layers: the top eigenvalues of some, against exact ones."""

    def __init__(self, name: str) -> None:
        task = PROBLEMS[name]()
        path = place(task, "layers", Path(__file__))
        if not path.exists():
            keep(_tops(task.double()), path)
        self._exact = torch.load(path, weights_only=True)

    def facts(self) -> dict[str, Any]:
        return {"exact_layers": self._exact}

    def judge(self, answer: dict[str, Any]) -> dict[str, Any]:
        got = dict(zip(answer["names"], answer["values"].tolist(), strict=True))
        errors = {
            name: abs(got[name] - exact) / abs(exact)
            for name, exact in self._exact.items()
            if name in got
        }
        return {"values": got, "largest_error": max(errors.values(), default=None)}


def _tops(task: Task) -> dict[str, float]:
    """Return the exact top eigenvalue of some layers' blocks."""
    groups = layers_of(task)
    names = list(groups)
    chosen = dict.fromkeys((names[0], names[len(names) // 2], names[-1]))
    return {
        name: float(KeptHessian(task, groups[name]).eigsh(1, 1e-6)[0])
        for name in chosen
    }


KINDS = {"top": TopJudge, "density": DensityJudge, "layers": LayersJudge}


def main(do: str, kind: str, problem: str, threads: str, request: str) -> None:
    """Print the task's facts, or a verdict for each answer."""
    torch.set_num_threads(int(threads))
    wanted = json.loads(request)
    judge = KINDS[kind](problem, **wanted["options"])
    if do == "prepare":
        print(json.dumps({**facts(problem), **judge.facts()}))
        return
    paths = Path(wanted["paths"]).read_text().splitlines()
    answers = (torch.load(path, weights_only=True) for path in paths)
    print(json.dumps([judge.judge(answer) for answer in answers]))


if __name__ == "__main__":
    main(*sys.argv[1:])
