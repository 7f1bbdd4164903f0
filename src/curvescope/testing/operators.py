"""Checks that any operator must pass, by products alone.

They know the interface of `LinearOperator` and nothing of how products are computed;
the second also knows a problem, whose gradient it takes by itself.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from curvescope._core.random import gaussian, resolve_generator
from curvescope.linop.base import LinearOperator
from curvescope.problem import Problem

_COLUMNS = 3


def check_operator(
    A: LinearOperator,
    *,
    dense: Tensor | None = None,
    generator: torch.Generator | None = None,
    tolerance: float | None = None,
) -> None:
    """Check what every operator promises, and equality with a matrix if one is given.

    Linearity; a block of columns is its columns; ``<u, A v> = <A' u, v>``, with
    ``A' = A`` where it says so; no negative ``<v, A v>`` where it says so; shape, dtype
    and device; the input stays as it was; the same product twice.

    Args:
        A: Any operator.
        dense: The matrix that it should be, from an independent source.
        generator: Of the random vectors.
        tolerance: Relative to the norms involved; 1e-10 in float64 and 1e-4 in float32
            by default.

    Raises:
        AssertionError: If one of them fails; the text says which and by how much.

    Cost:
        13 products, and ``n`` more where ``dense`` is given.

    Example:
        >>> from curvescope.linop import aslinearoperator
        >>> check_operator(aslinearoperator(torch.eye(3)), dense=torch.eye(3))
    """
    if tolerance is None:
        tolerance = 1e-10 if A.dtype == torch.float64 else 1e-4
    generator = resolve_generator(generator)
    rows, columns = A.shape
    V = _draw(A, columns, generator)
    kept = V.clone()
    product = A @ V
    _check_form(A, V, kept, product)
    scale = _norm(product) / max(_norm(V), 1e-300)
    _check_linear(A, V, product, tolerance * scale)
    _check_adjoint(A, V, product, _draw(A, rows, generator), tolerance * scale)
    if A.positive_semidefinite:
        lowest = float((V.double() * product.double()).sum(0).min())
        bound = -tolerance * scale * _norm(V) ** 2
        assert lowest >= bound, (
            f"{A!r} is tagged positive semidefinite, but <v, A v> = {lowest:.3e}"
        )
    if dense is not None:
        _check_dense(A, V, product, dense, tolerance)


def _draw(A: LinearOperator, size: int, generator: torch.Generator) -> Tensor:
    return gaussian((size, _COLUMNS), generator, dtype=A.dtype, device=A.device)


def _norm(X: Tensor) -> float:
    return float(torch.linalg.norm(X.double()))


def _check_form(A: LinearOperator, V: Tensor, kept: Tensor, product: Tensor) -> None:
    assert torch.equal(V, kept), f"{A!r} changed the vectors that it multiplied"
    shape = (A.shape[0], _COLUMNS)
    assert tuple(product.shape) == shape, (
        f"{A!r} maps {tuple(V.shape)} to {tuple(product.shape)}, not to {shape}"
    )
    assert product.dtype == A.dtype, f"{A!r} returns {product.dtype}"
    assert product.device == A.device, f"{A!r} returns a tensor on {product.device}"
    assert not product.requires_grad, f"{A!r} returns a product with a graph"
    assert bool(torch.isfinite(product).all()), f"{A!r} returns NaN or infinity"


def _check_linear(
    A: LinearOperator, V: Tensor, product: Tensor, tolerance: float
) -> None:
    bound = tolerance * _norm(V)
    single = A @ V[:, 0]
    assert tuple(single.shape) == (A.shape[0],), (
        f"{A!r} maps one vector to shape {tuple(single.shape)}"
    )
    off = _norm(single - product[:, 0])
    assert off <= bound, f"a block's column differs from the column alone by {off:.3e}"
    off = _norm(A @ V - product)
    assert off <= bound, f"{A!r} gave another product the second time: {off:.3e}"
    factors = torch.tensor([2.0, -0.5, 3.0], dtype=A.dtype, device=A.device)
    off = _norm(A @ (V @ factors) - product @ factors)
    assert off <= 10 * bound, f"{A!r} is not linear: off by {off:.3e}"
    zero = _norm(A @ torch.zeros_like(V))
    assert zero == 0.0, f"{A!r} maps zero to a vector of norm {zero:.3e}"


def _check_adjoint(
    A: LinearOperator, V: Tensor, product: Tensor, U: Tensor, tolerance: float
) -> None:
    forward = U.double().T @ product.double()
    backward = A.adjoint_product(U).double().T @ V.double()
    bound = tolerance * _norm(U) * _norm(V)
    off = _norm(forward - backward)
    assert off <= bound, f"<u, A v> and <A' u, v> of {A!r} differ by {off:.3e}"
    if A.symmetric:
        assert A.shape[0] == A.shape[1], f"{A!r} is tagged symmetric, but not square"
        off = _norm(forward - (A @ U).double().T @ V.double())
        assert off <= bound, (
            f"{A!r} is tagged symmetric, but <u, A v> - <A u, v> = {off:.3e}"
        )


def _check_dense(
    A: LinearOperator, V: Tensor, product: Tensor, dense: Tensor, tolerance: float
) -> None:
    assert tuple(dense.shape) == A.shape, (
        f"{A!r} is compared with a matrix of shape {tuple(dense.shape)}"
    )
    truth = dense.to(device=A.device, dtype=torch.float64)
    size = _norm(truth)
    off = _norm(A.to_dense().double() - truth)
    assert off <= tolerance * size, (
        f"{A!r} differs from the given matrix by {off / max(size, 1e-300):.3e} of its norm"
    )
    off = _norm(product.double() - truth @ V.double())
    assert off <= tolerance * size * _norm(V), (
        f"a product of {A!r} differs from the given matrix's by {off:.3e}"
    )


def check_against_central_differences(
    problem: Problem,
    H: LinearOperator,
    *,
    num_directions: int = 3,
    step: float = 1e-3,
    tolerance: float = 1e-7,
    generator: torch.Generator | None = None,
) -> None:
    r"""Check products with a Hessian against differences of the gradient in float64.

    .. math:: H v = \frac{\nabla L(\theta + h v) - \nabla L(\theta - h v)}{2 h} + O(h^2)

    with one step of Richardson's extrapolation, so that the error is ``O(h^4)``. Right
    only where the objective is smooth within the step: a ReLU's kink spoils it.

    Args:
        problem: Smooth around its weights.
        H: An operator that claims to be its Hessian.
        num_directions: Random unit vectors.
        step: h.
        tolerance: Relative to the norm of ``H v``; float32 operators get at least 1e-4.
        generator: Of the directions.

    Raises:
        AssertionError: If ``H v`` or ``v' H v`` is another number.

    Cost:
        ``4 num_directions`` gradients in float64, ``num_directions`` products.
    """
    if H.dtype != torch.float64:
        tolerance = max(tolerance, 1e-4)
    generator = resolve_generator(generator)
    theta = problem.parameter_vector().double()
    draw = gaussian(
        (problem.num_params, num_directions),
        generator,
        dtype=torch.float64,
        device=problem.device,
    )
    for direction in draw.T:
        v = direction / direction.norm()

        def difference(h: float, v: Tensor = v) -> Tensor:
            above = _gradient(problem, theta + h * v)
            return (above - _gradient(problem, theta - h * v)) / (2.0 * h)

        expected = (4.0 * difference(step / 2.0) - difference(step)) / 3.0
        expected += problem.weight_decay * v
        got = (H @ v.to(H.dtype)).double()
        size = max(_norm(expected), 1e-300)
        off = _norm(got - expected) / size
        assert off <= tolerance, (
            f"H v differs from central differences of the gradient by {off:.3e} of its norm"
        )
        curvature, truth = float(v @ got), float(v @ expected)
        assert math.isclose(curvature, truth, abs_tol=tolerance * size), (
            f"v' H v is {curvature:.10g}, by central differences {truth:.10g}"
        )


def _gradient(problem: Problem, theta: Tensor) -> Tensor:
    """Return the gradient at ``theta`` in float64, without weight decay.

    By plain calls of the model: no kept graphs, no folded layers.
    """

    def double(leaf: Any) -> Any:
        floating = isinstance(leaf, Tensor) and leaf.is_floating_point()
        return leaf.detach().double() if floating else leaf

    model, network = problem.model, problem.network
    moved = {n: double(p).to(problem.device) for n, p in model.named_parameters()}
    buffers = {n: double(b).to(problem.device) for n, b in model.named_buffers()}
    layout = problem.layout
    pieces = dict(zip(layout.names, layout.split(theta[None]), strict=True))
    inside = _inside(problem)
    for name, piece in pieces.items():
        old, new = moved[name], piece[0]
        moved[name] = torch.where(inside[name], new, old).detach().requires_grad_()
    leaves = [moved[name] for name in layout.names]
    total = torch.zeros_like(theta)
    with network.running(), torch.enable_grad():
        for batch in problem.batches():
            inputs, targets = tree_map(double, (batch.inputs, batch.targets))
            outputs = network.outputs(moved, buffers, inputs)
            value = problem.loss.total(outputs, targets)
            grads = torch.autograd.grad(
                value, leaves, allow_unused=True, materialize_grads=True
            )
            total += layout.join([g[None] for g in grads])[0]
    return total * problem.scale


def _inside(problem: Problem) -> dict[str, Tensor]:
    """Return which entries of each parameter are selected."""
    layout = problem.layout
    ones = torch.ones(1, layout.size, dtype=torch.bool, device=problem.device)
    return {
        name: piece[0]
        for name, piece in zip(layout.names, layout.split(ones), strict=True)
    }
