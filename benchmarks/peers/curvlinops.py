"""curvlinops 3: forward-over-reverse products, columns under vmap."""

from importlib.metadata import version as installed

import torch
from curvlinops import GGNLinearOperator, HessianLinearOperator
from curvlinops.papyan2020traces.spectrum import fast_lanczos
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn

from benchmarks.peers.arpack import Arpack
from benchmarks.peers.loops import layer_by_layer
from benchmarks.problems import Task
from benchmarks.solver import Answer, Count


class Curvlinops:
    """Its operators, without the products that check for determinism."""

    name = "curvlinops"

    def version(self) -> str:
        return installed("curvlinops-for-pytorch")

    def build(self, task: Task, matrix: str) -> None:
        kind = {"hessian": HessianLinearOperator, "ggn": GGNLinearOperator}[matrix]
        self._operator = kind(
            task.model,
            task.loss,
            task.parameters,
            task.batches,
            check_deterministic=False,
        )

    def product(self, V: Tensor) -> Tensor:
        return self._operator @ V


class Density:
    """The Lanczos of its spectral density: nodes, before they are smoothed.

    Its `lanczos_approximate_spectrum` first spends products on the spectrum's ends,
    which quadrature nodes do not need; they are left out, in its favour.
    """

    name = "curvlinops"

    def version(self) -> str:
        return installed("curvlinops-for-pytorch")

    def build(self, task: Task, matrix: str) -> None:
        self.count = Count()
        products = Curvlinops()
        products.build(task, matrix)
        self._operator = products._operator
        # Special methods are found on the class; this is what they call.
        self._operator._matmat = self._count(self._operator._matmat)

    def _count(self, product):
        def counted(M: list[Tensor]) -> list[Tensor]:
            self.count.products += M[0].shape[-1]
            self.count.passes += 1
            return product(M)

        return counted

    def solve(self, seed: int, *, num_probes: int, num_steps: int) -> Answer:
        runs = [fast_lanczos(self._operator, num_steps) for _ in range(num_probes)]
        return Answer(
            values=torch.cat([values for values, _ in runs]),
            weights=torch.cat([vectors[0] ** 2 for _, vectors in runs]) / num_probes,
        )

    def drop(self) -> None:
        self._operator = None


class Layers:
    """SciPy's `eigsh` over its operator of one layer after another."""

    name = "scipy eigsh over curvlinops, layer by layer"

    def version(self) -> str:
        return installed("curvlinops-for-pytorch")

    def build(self, task: Task, matrix: str) -> None:
        self.count = Count()
        self._task = task

    def solve(self, seed: int, *, limit: float) -> Answer:
        return layer_by_layer(self._task, self._one, limit)

    def _one(self, layer: list[nn.Parameter]) -> float:
        task = self._task
        operator = HessianLinearOperator(
            task.model, task.loss, layer, task.batches, check_deterministic=False
        )
        product = operator.to_scipy()
        product._matvec = self.count.of(product._matvec)
        (value,) = eigsh(product, k=1, which="LM", tol=1e-3, return_eigenvectors=False)
        return float(value)

    def drop(self) -> None:
        self._task = None


def curvlinops() -> Curvlinops:
    return Curvlinops()


def eigsh_over() -> Arpack:
    return Arpack(Curvlinops, "curvlinops")


def density() -> Density:
    return Density()


def layers() -> Layers:
    return Layers()
