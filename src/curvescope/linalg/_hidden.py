"""Whether a chain from a random start excludes eigenvalues that others have missed.

Let ``u`` be an eigenvector for ``mu`` that is orthogonal to all that was found before. Its
share of the random start has a square that is ``chi2 / n`` distributed, so that it is below
``0.0039 / n`` with a probability of 5 %. On the other hand the chain bounds that share: in
its rows ``Q`` and what is pending, ``P``, with ``Q A Q' = T`` and ``P A Q' = R``,

    y = Q u = (mu - T)^-1 R' z,    z = P u,    |y|^2 + |z|^2 <= 1,

and the start's share is the first entries of ``y``. The largest they can be is the
Christoffel function of the chain at ``mu``. It falls with every step, and with the distance
of ``mu`` from the Ritz values: where it is below that number at the last wanted value, there
is no larger one, with a probability of 95 % at least.

References:
    Golub and Meurant (2010), Matrices, Moments and Quadrature, chapters 2 and 6.
"""

import math

import torch
from torch import Tensor

from curvescope.linalg._krylov import KrylovSpace, Ritz
from curvescope.linalg._wanted import End

# The 5 % quantile of chi2 with one degree of freedom; with more it is larger.
_QUANTILE = 0.0039321


def nothing_hides(
    end: End,
    limit: float,
    slack: float,
    space: KrylovSpace,
    *,
    steps: int,
    start_width: int,
) -> bool:
    """Tell whether a chain excludes values beyond ``limit``, or has found them all.

    Args:
        end: Of the spectrum.
        limit: The key of the last wanted value there.
        slack: By how much a larger one counts as equal.
        space: Its rows from ``first`` on are the chain.
        steps: Of the chain.
        start_width: Rows of its start; 0 if a restart has lost them.
    """
    chain = space.ritz(space.first)
    keys = end.key(chain.values)
    beyond = keys > limit + slack
    if bool((chain.residuals[beyond] > slack).any()):
        return False
    if start_width and not bool(beyond.any()):
        T = space.T[space.first : space.m, space.first : space.m]
        R = space.R[:, space.first :]
        values = end.values(limit + slack)
        share = max(largest_share(T, R, start_width, value) for value in values)
        if share <= _QUANTILE / space.session.n:
            return True
    return _seen_by_now(end, limit, slack, chain, steps, space.session.n)


def largest_share(T: Tensor, R: Tensor, width: int, value: float) -> float:
    """Return the most that an eigenvector for ``value`` may share with a chain's start.

    Args:
        T: The matrix on the chain's rows, shape ``(m, m)``; its eigenvalues lie all on
            one side of ``value``.
        R: What couples the pending rows to them, shape ``(w, m)``.
        width: Rows of the start, the first of the chain.
        value: The eigenvalue.

    Returns:
        The square of the norm of the projection of a unit vector.
    """
    if R.shape[0] == 0:
        return 0.0
    identity = torch.eye(len(T), dtype=T.dtype)
    Y = torch.linalg.solve(value * identity - T, R.T)
    whole = torch.eye(R.shape[0], dtype=T.dtype) + Y.T @ Y
    factor = torch.linalg.cholesky(whole)
    shares = torch.linalg.solve_triangular(factor, Y[:width].T, upper=False)
    return float(torch.linalg.matrix_norm(shares, 2)) ** 2


def _seen_by_now(
    end: End, limit: float, slack: float, chain: Ritz, steps: int, n: int
) -> bool:
    """Tell the same from the Ritz values alone, by Chebyshev polynomials."""
    keys = end.key(chain.values)
    lowest = int(keys.argmin())
    bottom = float(keys[lowest] - chain.residuals[lowest])
    for i in torch.argsort(keys, descending=True).tolist():
        key, residual = float(keys[i]), float(chain.residuals[i])
        if residual <= slack:
            if key <= limit + slack:
                return True
            continue
        top = key + residual
        if end.kind == "magnitude":
            bottom = -top
        return growth(steps, top, bottom, limit) >= math.log(math.sqrt(n / _QUANTILE))
    return True


def growth(steps: int, top: float, bottom: float, edge: float) -> float:
    """Return the logarithm of the amplification of a value at ``edge``.

    After ``steps`` steps a Krylov space holds the Chebyshev polynomial that is at most
    1 on ``[bottom, top]`` and ``cosh(steps acosh(x))`` at ``edge``. The interval must
    hold the rest of the spectrum: Ritz values with their residuals around them, since
    a first step alone has one Ritz value and knows no width.
    """
    if edge <= top:
        return 0.0
    width = top - bottom
    if width <= 0.0:
        return math.inf
    x = 1.0 + 2.0 * (edge - top) / width
    return steps * math.acosh(x) - math.log(2.0)
