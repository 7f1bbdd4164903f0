"""Exact eigenpairs, by plain torch and SciPy: what eigensolvers are held against.

A first basis is SciPy's, of float32 double backward; the pairs are Rayleigh and Ritz's
of the float64 matrix on that basis, whose residuals are theirs: an eigenvalue is then
off by about the square of its residual. None of it is curvescope's or a peer's.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from benchmarks import reference
from benchmarks.problems import PROBLEMS, Task

# More than what is asked for: what is no wanted eigenvalue is told from what is none.
SPARE = 3


class KeptHessian:
    """Products with the exact Hessian, the batches' gradients' graphs kept.

    Args:
        task: In its own precision.
        parameters: Those of the block, all by default.
    """

    def __init__(self, task: Task, parameters: list[Tensor] | None = None) -> None:
        self._parameters = task.parameters if parameters is None else parameters
        self._weights = task.weights
        self._gradients = [
            torch.autograd.grad(
                task.loss(task.model(inputs), targets),
                self._parameters,
                create_graph=True,
            )
            for inputs, targets in task.batches
        ]
        self.size = sum(p.numel() for p in self._parameters)

    def __call__(self, v: Tensor) -> Tensor:
        """Multiply one vector."""
        parts = v.split([p.numel() for p in self._parameters])
        shaped = [x.view_as(p) for x, p in zip(parts, self._parameters, strict=True)]
        total = torch.zeros_like(v)
        for gradient, weight in zip(self._gradients, self._weights, strict=True):
            products = torch.autograd.grad(
                gradient,
                self._parameters,
                shaped,
                retain_graph=True,
                materialize_grads=True,
            )
            total += weight * torch.cat([part.reshape(-1) for part in products])
        return total

    def block(self, V: Tensor) -> Tensor:
        """Multiply the columns of ``V``."""
        return torch.stack([self(v) for v in V.T.contiguous()], dim=1)

    def eigsh(self, k: int, tol: float) -> tuple[Tensor, Tensor]:
        """Return SciPy's eigenpairs of largest magnitude."""
        dtype = self._parameters[0].dtype
        numbers = np.float64 if dtype == torch.float64 else np.float32

        def product(v: Any) -> Any:
            column = torch.from_numpy(np.ascontiguousarray(v)).reshape(-1)
            return self(column.to(dtype)).detach().numpy()

        shape = (self.size, self.size)
        operator = LinearOperator(shape, matvec=product, dtype=numbers)
        start = np.random.default_rng(0).standard_normal(self.size).astype(numbers)
        basis = min(4 * k + 20, self.size)
        values, vectors = eigsh(operator, k=k, which="LM", tol=tol, v0=start, ncv=basis)
        return torch.from_numpy(values), torch.from_numpy(vectors)


@dataclass
class Pairs:
    """The exact ones, by descending magnitude, in float64.

    Attributes:
        values: Eigenvalues.
        vectors: As columns, orthonormal.
        products: The matrix times these.
    """

    values: Tensor
    vectors: Tensor
    products: Tensor

    @property
    def residuals(self) -> Tensor:
        """Relative ones."""
        gaps = self.products - self.vectors * self.values
        return gaps.norm(dim=0) / self.values.abs()


def exact_pairs(name: str, k: int) -> Pairs:
    """Return the ``k`` eigenpairs of largest magnitude and a few more, kept on disk."""
    task = PROBLEMS[name]()
    path = place(task, f"pairs-{k}", Path(__file__))
    if not path.exists():
        count = min(k + SPARE, task.num_params - 1)
        _, basis = KeptHessian(task).eigsh(count, 1e-4)
        V, _ = torch.linalg.qr(basis.double())
        W = KeptHessian(task.double()).block(V)
        projected = V.T @ W
        values, Y = torch.linalg.eigh((projected + projected.T) / 2)
        order = values.abs().argsort(descending=True)
        values, Y = values[order], Y[:, order]
        keep({"values": values, "vectors": V @ Y, "products": W @ Y}, path)
    return Pairs(**torch.load(path, weights_only=True))


def place(task: Task, what: str, *recipes: Path) -> Path:
    """Return where an exact answer on ``task`` is kept; another recipe has another."""
    files = [Path(reference.__file__), *recipes]
    words = [*(file.read_bytes() for file in files), torch.__version__.encode()]
    digest = hashlib.sha256(b"".join([*words, task.fingerprint.encode()]))
    return reference.CACHE / f"{task.name}-{what}-{digest.hexdigest()[:16]}.pt"


def keep(answer: Any, path: Path) -> None:
    """Write an exact answer, complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(answer, partial)
    partial.replace(path)
