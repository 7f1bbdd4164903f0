"""Exact products in float64, by plain torch: what every implementation is held against.

Double backward for the Hessian; for the Gauss-Newton matrix J v by differentiating the
vector-Jacobian product, the loss's own Hessian by double backward, and J' by backward.
None of it uses curvescope's products or a peer's, nor `torch.func`.
"""

import json
import sys
import time

import torch
from torch import Tensor

from benchmarks.measure import PeakMemory
from benchmarks.problems import PROBLEMS, Task


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


def main(problem: str, matrix: str, columns: str, threads: str, path: str) -> None:
    """Write the exact products with the test vectors ``columns``; print what it took."""
    torch.set_num_threads(int(threads))
    task = PROBLEMS[problem]()
    memory = PeakMemory()
    task.gradient()
    peak = memory.growth()
    fingerprint, num_params = task.fingerprint, task.num_params
    wanted = [int(index) for index in columns.split(",")]
    vectors = {index: task.column(index).double() for index in wanted}
    start = time.perf_counter()
    double = task.double()
    exact = {index: product(double, matrix, v) for index, v in vectors.items()}
    torch.save(exact, path)
    answer = {
        "fingerprint": fingerprint,
        "description": task.description,
        "num_params": num_params,
        "num_samples": task.num_samples,
        "num_batches": len(task.batches),
        "gradient_peak_bytes": peak,
        "seconds": time.perf_counter() - start,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
