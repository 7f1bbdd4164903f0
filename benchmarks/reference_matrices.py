"""Whole exact matrices in float64: the exact products with every unit vector."""

import hashlib
import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import reference
from benchmarks.problems import PROBLEMS, Task


def dense(task: Task, matrix: str) -> Tensor:
    """Return the exact matrix of ``task``, in the task's dtype."""
    dtype = task.parameters[0].dtype
    unit = torch.eye(task.num_params, dtype=dtype)
    return torch.stack([reference.product(task, matrix, v) for v in unit], dim=1)


def cached(task: Task, matrix: str) -> Tensor:
    """Return the exact float64 matrix, kept on disk."""
    recipe = [Path(file).read_bytes() for file in (reference.__file__, __file__)]
    words = [*recipe, torch.__version__.encode(), task.fingerprint.encode()]
    key = hashlib.sha256(b"".join(words)).hexdigest()[:16]
    path = reference.CACHE / f"{task.name}-{matrix}-all-{key}.pt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        torch.save(dense(task.double(), matrix), partial)
        partial.replace(path)
    return torch.load(path, weights_only=True)


def main(problem: str, matrices: str, threads: str, path: str) -> None:
    """Write the exact ``matrices``, joined by a plus, by name; print the facts."""
    torch.set_num_threads(int(threads))
    task = PROBLEMS[problem]()
    facts = {
        "fingerprint": task.fingerprint,
        "description": task.description,
        "num_params": task.num_params,
        "num_samples": task.num_samples,
    }
    torch.save({matrix: cached(task, matrix) for matrix in matrices.split("+")}, path)
    print(json.dumps(facts))


if __name__ == "__main__":
    main(*sys.argv[1:])
