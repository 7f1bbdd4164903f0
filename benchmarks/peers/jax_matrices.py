"""Whole matrices by JAX in float64, jitted: the first call compiles, later ones do not.

The task's weights and data are arguments of the compiled functions, so that nothing is
computed at compile time. The GGN is made as for `torch_matrices`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import torch
from jax.flatten_util import ravel_pytree
from torch import Tensor, nn

from benchmarks.peers.torch_matrices import refuse_if_too_large
from benchmarks.problems import Task

jax.config.update("jax_enable_x64", True)

BLOCKS = (8, 16, 32, 64, 128, 256, 512)
# Samples that the published code differentiates at once.
BATCH = 10

Function = Callable[..., Any]
Way = Callable[[Function, Any, int, int | None], Any]


class JaxMatrices:
    """One way to the Hessian of a tanh MLP.

    Args:
        name: As the table says it.
        way: ``(loss, theta, num_columns, block)`` to the first columns.
        blocks: To choose from.
        batch: Samples at a time, whose matrices are added; all of them if ``None``.
    """

    def __init__(
        self, name: str, way: Way, blocks: tuple[int, ...], batch: int | None = None
    ) -> None:
        self.name = name
        self.blocks = blocks
        self._way = way
        self._batch = batch

    def version(self) -> str:
        return jax.__version__

    def build(self, task: Task, matrices: Sequence[str], block: int | None) -> None:
        if block is None and self._batch is None:
            refuse_if_too_large(task)
        if not isinstance(task.loss, nn.CrossEntropyLoss):
            raise TypeError("this adapter knows the cross-entropy only")
        ((inputs, targets),) = task.batches
        theta, unravel = ravel_pytree(_weights(task.model))
        self._num_params = task.num_params
        self._arguments = (
            theta,
            jnp.asarray(inputs.numpy()),
            jnp.asarray(targets.numpy()),
        )

        def loss(theta: Any, x: Any, y: Any) -> Any:
            log_p = jax.nn.log_softmax(_mlp(unravel(theta), x))
            return -jnp.take_along_axis(log_p, y[:, None], axis=1).sum()

        def hessian(theta: Any, x: Any, y: Any, num: int) -> Any:
            return self._way(lambda t: loss(t, x, y), theta, num, block)

        def ggn(theta: Any, x: Any, *_: Any) -> Any:
            def outputs(t: Any, one: Any) -> Any:
                return _mlp(unravel(t), one)

            J_NKP = jax.vmap(jax.jacrev(outputs), (None, 0))(theta, x)
            P_NK = jax.nn.softmax(_mlp(unravel(theta), x))
            C_NKK = jax.vmap(lambda p: jnp.diag(p) - jnp.outer(p, p))(P_NK)
            CJ_NKP = jnp.einsum("nkl,nlp->nkp", C_NKK, J_NKP)
            return jnp.tensordot(CJ_NKP, J_NKP, ((0, 1), (0, 1)))

        functions = {"hessian": hessian, "ggn": ggn}
        self._jitted = {
            matrix: jax.jit(functions[matrix], static_argnums=3) for matrix in matrices
        }

    def hessian_columns(self, num: int) -> None:
        self._jitted["hessian"](*self._arguments, num).block_until_ready()

    def assemble(self) -> dict[str, Tensor]:
        return {matrix: torch.from_dlpack(self._sum(matrix)) for matrix in self._jitted}

    def _sum(self, matrix: str) -> Any:
        """Divide the sum over the batches by the number of samples."""
        theta, x, y = self._arguments
        step = self._batch or len(x)
        total = None
        for start in range(0, len(x), step):
            part = (x[start : start + step], y[start : start + step])
            new = self._jitted[matrix](theta, *part, self._num_params)
            total = new if total is None else total + new
        return (total / len(x)).block_until_ready()


def _weights(model: nn.Module) -> list[dict[str, Any]]:
    """Return the layers' arrays, in a tree whose flat order is that of torch.

    Raises:
        TypeError: If the model is not `Linear` and `Tanh` in turns.
    """
    kinds = [type(module) for module in model]
    turns = [nn.Linear if i % 2 == 0 else nn.Tanh for i in range(len(kinds))]
    if kinds != turns or kinds[-1] is not nn.Linear:
        raise TypeError("this adapter knows `Linear` and `Tanh` in turns only")
    # Dictionaries are flattened by sorted keys: the weight comes first, as in torch.
    return [
        {
            f"{place}_{name}": jnp.asarray(value.detach().numpy())
            for place, (name, value) in enumerate(module.named_parameters())
        }
        for module in model
        if isinstance(module, nn.Linear)
    ]


def _mlp(weights: list[dict[str, Any]], x: Any) -> Any:
    for number, layer in enumerate(weights):
        x = x if number == 0 else jnp.tanh(x)
        x = x @ layer["0_weight"].T + layer.get("1_bias", 0.0)
    return x


def _by_hessian(loss: Function, theta: Any, *_: Any) -> Any:
    return jax.hessian(loss)(theta)


def _by_jacrev(loss: Function, theta: Any, num: int, block: int | None) -> Any:
    _, pull = jax.vjp(jax.grad(loss), theta)
    return _columns(lambda v: pull(v)[0], theta, num, block)


def _by_linearize(loss: Function, theta: Any, num: int, block: int | None) -> Any:
    _, push = jax.linearize(jax.grad(loss), theta)
    return _columns(push, theta, num, block)


def _columns(product: Function, theta: Any, num: int, block: int | None) -> Any:
    # Unit vectors are made in the loop: a constant of this size would slow compiling.
    def column(index: Any) -> Any:
        return product(jnp.zeros_like(theta).at[index].set(1.0))

    return jax.lax.map(column, jnp.arange(num), batch_size=block)


def hessian() -> JaxMatrices:
    return JaxMatrices("jax.hessian, jitted", _by_hessian, ())


def hessian_of_batches() -> JaxMatrices:
    name = f"jax.hessian, jitted, {BATCH} samples at a time"
    return JaxMatrices(name, _by_hessian, (), BATCH)


def jacrev_grad() -> JaxMatrices:
    return JaxMatrices("jax vjp of grad, blocks, jitted", _by_jacrev, BLOCKS)


def linearize_grad() -> JaxMatrices:
    return JaxMatrices("jax linearize(grad), blocks, jitted", _by_linearize, BLOCKS)
