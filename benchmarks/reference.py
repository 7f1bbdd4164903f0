"""Exact products in float64, by plain torch: what every implementation is held against.

Double backward for the Hessian; for the Gauss-Newton matrix J v by differentiating the
vector-Jacobian product, the loss's own Hessian by double backward, and J' by backward.
None of it uses curvescope's products or a peer's, nor `torch.func`.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure import PeakMemory
from benchmarks.problems import PROBLEMS, Task
from benchmarks.registry import ROOT

# Exact products do not change from run to run, and take longer than all the rest.
CACHE = ROOT / ".bench" / "exact"


def product(task: Task, matrix: str, v: Tensor) -> Tensor:
    """Multiply one vector by the exact matrix of ``task``, in the task's dtype."""
    one = {"hessian": _hessian, "ggn": _ggn}[matrix]
    total = torch.zeros_like(v)
    for (inputs, targets), weight in zip(task.batches, task.weights, strict=True):
        parts = one(task, inputs, targets, task.split(v))
        total += weight * torch.cat([part.reshape(-1) for part in parts])
    return total


def _hessian(
    task: Task, inputs: Tensor, targets: Tensor, v: list[Tensor]
) -> tuple[Tensor, ...]:
    loss = task.loss(task.model(inputs), targets)
    grads = torch.autograd.grad(loss, task.parameters, create_graph=True)
    return torch.autograd.grad(grads, task.parameters, v, materialize_grads=True)


def _ggn(
    task: Task, inputs: Tensor, targets: Tensor, v: list[Tensor]
) -> tuple[Tensor, ...]:
    outputs = task.model(inputs)
    dummy = torch.zeros_like(outputs, requires_grad=True)
    pulled = torch.autograd.grad(outputs, task.parameters, dummy, create_graph=True)
    (pushed,) = torch.autograd.grad(pulled, dummy, v, retain_graph=True)
    leaf = outputs.detach().requires_grad_()
    (slope,) = torch.autograd.grad(task.loss(leaf, targets), leaf, create_graph=True)
    (curved,) = torch.autograd.grad(slope, leaf, pushed)
    return torch.autograd.grad(outputs, task.parameters, curved, materialize_grads=True)


def cached(task: Task, matrix: str, indices: list[int]) -> dict[int, Tensor]:
    """Return the exact products with the test vectors ``indices``, kept on disk."""
    recipe = Path(__file__).read_bytes() + torch.__version__.encode()
    key = hashlib.sha256(recipe + task.fingerprint.encode()).hexdigest()[:16]
    vectors = {index: task.column(index) for index in indices}
    double = task.double()
    exact = {}
    for index, vector in vectors.items():
        path = CACHE / f"{task.name}-{matrix}-{index}-{key}.pt"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            torch.save(product(double, matrix, vector.double()), partial)
            partial.replace(path)
        exact[index] = torch.load(path, weights_only=True)
    return exact


def main(problem: str, matrix: str, columns: str, threads: str, path: str) -> None:
    """Write the exact products with the test vectors ``columns``; print the facts."""
    torch.set_num_threads(int(threads))
    task = PROBLEMS[problem]()
    memory = PeakMemory()
    task.gradient()
    facts = {
        "fingerprint": task.fingerprint,
        "description": task.description,
        "num_params": task.num_params,
        "num_samples": task.num_samples,
        "num_batches": len(task.batches),
        "gradient_peak_bytes": memory.growth(),
    }
    torch.save(cached(task, matrix, [int(i) for i in columns.split(",")]), path)
    print(json.dumps(facts))


if __name__ == "__main__":
    main(*sys.argv[1:])
