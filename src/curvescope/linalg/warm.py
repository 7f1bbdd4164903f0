"""Certified eigenpairs of a symmetric operator that is near one whose pairs are known."""

from typing import Any

import torch
from torch import Tensor

from curvescope._core.checks import describe, message
from curvescope.linalg._session import symmetric_operator
from curvescope.linalg.eigsh import eigsh
from curvescope.results import Eigenpairs


def eigsh_from(
    A: Any,
    vectors: Tensor,
    *,
    k: int,
    which: str = "LM",
    tol: float | None = None,
    max_matvecs: int | None = None,
    basis_size: int | None = None,
    generator: torch.Generator | None = None,
) -> Eigenpairs:
    r"""Compute ``k`` eigenpairs from approximate eigenvectors, without a look for others.

    .. math:: \|A v_i - \lambda_i v_i\| \le \max(\mathrm{tol}\,|\lambda_i|,\,
        32\,\varepsilon\,\|A\|)

    `eigsh` with ``start=vectors`` and ``check_multiplicity=False``: for the steps of a
    training, where the pairs before are near, and the look for repeated eigenvalues is
    taken now and then.

    Args:
        A: Symmetric operator, or anything `aslinearoperator` takes.
        vectors: Approximate eigenvectors as columns, shape ``(n, b)``.
        k: Number of pairs, at most ``n``.
        which: As for `eigsh`.
        tol: As for `eigsh`.
        max_matvecs: As for `eigsh`.
        basis_size: As for `eigsh`.
        generator: Source of the random vectors; a fresh one with a fixed seed if
            ``None``.

    Returns:
        The pairs, descending, each with its residual and a flag.

    Raises:
        ValueError: If ``A`` is not symmetric, has products that are not finite, or an
            argument is out of range.

    Cost:
        About ``k + 8`` products where the wanted eigenvalues are isolated.

    Example:
        >>> A = torch.diag(torch.linspace(0, 1, 100).square())
        >>> near = torch.eye(100)[:, -2:] + 0.01
        >>> pairs = eigsh_from(A, near, k=2)
        >>> [round(value, 3) for value in pairs.eigenvalues.tolist()]
        [1.0, 0.98]

    References:
        Parlett (1998), The Symmetric Eigenvalue Problem, chapters 11 and 13.
    """
    operator = symmetric_operator(A)
    n = operator.shape[0]
    if vectors.ndim != 2 or vectors.shape[0] != n or vectors.shape[1] == 0:
        contract = f"have shape ({n}, b)"
        raise ValueError(message("vectors", contract, describe(vectors)))
    if not bool(torch.isfinite(vectors).all()) or not bool((vectors != 0).any()):
        text = message("vectors", "be finite and not zero", describe(vectors))
        raise ValueError(text)
    return eigsh(
        operator,
        k=k,
        which=which,
        tol=tol,
        max_matvecs=max_matvecs,
        basis_size=basis_size,
        start=vectors,
        check_multiplicity=False,
        generator=generator,
    )
