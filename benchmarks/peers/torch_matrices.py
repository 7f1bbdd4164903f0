"""Whole matrices by PyTorch's own transforms, as its documentation shows them.

The Hessian four ways; the GGN one way for all, the fastest of the usual ones: Jacobians
sample by sample, the loss's Hessians between them, one matrix product.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, linearize, vmap
from torch.func import hessian as func_hessian

from benchmarks.problems import Task

BLOCKS = (8, 16, 32, 64, 128, 256, 512)
# Of the machine's memory, what one way may take.
SHARE = 0.5
# Temporaries of an activation under a forward over a reverse pass, at their peak.
COPIES = 4

Way = Callable[[Callable[[Tensor], Tensor], Tensor, int, int | None], Tensor]


class TorchMatrices:
    """One way to the Hessian, rows or columns in blocks if the way has them.

    Args:
        name: As the table says it.
        way: ``(gradient or loss, theta, num_columns, block)`` to the first columns.
        blocks: To choose from.
        of_loss: Whether the way takes the loss and not its gradient.
    """

    def __init__(
        self, name: str, way: Way, blocks: tuple[int, ...], *, of_loss: bool = False
    ) -> None:
        self.name = name
        self.blocks = blocks
        self._way = way
        self._of_loss = of_loss

    def version(self) -> str:
        return torch.__version__

    def build(self, task: Task, matrices: Sequence[str], block: int | None) -> None:
        (self._data,) = task.batches
        if block is None:
            refuse_if_too_large(task)
        self._task, self._matrices, self._block = task, matrices, block
        self._names = [name for name, _ in task.model.named_parameters()]
        self._theta = torch.cat([p.detach().reshape(-1) for p in task.parameters])

    def hessian_columns(self, num: int) -> None:
        self._hessian(num)

    def assemble(self) -> dict[str, Tensor]:
        make = {"hessian": self._whole_hessian, "ggn": self._ggn}
        return {matrix: make[matrix]() for matrix in self._matrices}

    def _outputs(self, theta: Tensor, inputs: Tensor) -> Tensor:
        state = dict(zip(self._names, self._task.split(theta), strict=True))
        return functional_call(self._task.model, state, inputs)

    def _loss(self, theta: Tensor) -> Tensor:
        inputs, targets = self._data
        return self._task.loss(self._outputs(theta, inputs), targets)

    def _hessian(self, num: int) -> Tensor:
        function = self._loss if self._of_loss else grad(self._loss)
        return self._way(function, self._theta, num, self._block)

    def _whole_hessian(self) -> Tensor:
        return self._hessian(len(self._theta))

    def _ggn(self) -> Tensor:
        inputs, targets = self._data

        def output(theta: Tensor, x: Tensor) -> Tensor:
            return self._outputs(theta, x[None])[0]

        def loss(z: Tensor, y: Tensor) -> Tensor:
            return self._task.loss(z[None], y[None])

        J_NKP = vmap(jacrev(output), (None, 0))(self._theta, inputs)
        with torch.no_grad():
            Z_NK = self._outputs(self._theta, inputs)
        C_NKK = vmap(jacfwd(grad(loss)))(Z_NK, targets) / len(inputs)
        return (C_NKK @ J_NKP).flatten(0, 1).T @ J_NKP.flatten(0, 1)


def refuse_if_too_large(task: Task) -> None:
    """Refuse what runs all columns of all samples at once and would not fit.

    Raises:
        ValueError: If it would take too much of the memory.
    """
    width = sum(p.shape[0] for p in task.parameters if p.ndim > 1)
    need = COPIES * 8 * task.num_params * task.num_samples * width
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if need > SHARE * there:
        message = (
            f"not tried: all columns of all samples at once need about "
            f"{need / 2**30:.0f} GiB, of {there / 2**30:.0f} there are"
        )
        raise ValueError(message)


def _by_hessian(loss: Callable[[Tensor], Tensor], theta: Tensor, *_: Any) -> Tensor:
    return func_hessian(loss)(theta)


def _by_jacrev(
    gradient: Callable[[Tensor], Tensor], theta: Tensor, num: int, block: int | None
) -> Tensor:
    return jacrev(lambda t: gradient(t)[:num], chunk_size=block)(theta)


def _by_jvp(
    gradient: Callable[[Tensor], Tensor], theta: Tensor, num: int, block: int | None
) -> Tensor:
    def column(v: Tensor) -> Tensor:
        return jvp(gradient, (theta,), (v,))[1]

    return vmap(column, chunk_size=block)(_unit(theta, num))


def _by_linearize(
    gradient: Callable[[Tensor], Tensor], theta: Tensor, num: int, block: int | None
) -> Tensor:
    _, push = linearize(gradient, theta)
    return vmap(push, chunk_size=block)(_unit(theta, num))


def _unit(theta: Tensor, num: int) -> Tensor:
    return torch.eye(num, len(theta), dtype=theta.dtype)


def hessian() -> TorchMatrices:
    return TorchMatrices("torch.func.hessian", _by_hessian, (), of_loss=True)


def jacrev_grad() -> TorchMatrices:
    return TorchMatrices("torch.func jacrev(grad), chunked", _by_jacrev, BLOCKS)


def jvp_grad() -> TorchMatrices:
    return TorchMatrices("torch.func jvp(grad), chunked vmap", _by_jvp, BLOCKS)


def linearize_grad() -> TorchMatrices:
    name = "torch.func linearize(grad), chunked vmap"
    return TorchMatrices(name, _by_linearize, BLOCKS)
