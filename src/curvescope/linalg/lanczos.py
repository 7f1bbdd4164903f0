"""The Lanczos decomposition with full reorthogonalisation, for its own sake."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curvescope._core.checks import describe, message, positive_int
from curvescope._core.random import resolve_generator
from curvescope.linalg._basis import basis_folder
from curvescope.linalg._krylov import KrylovSpace
from curvescope.linalg._products import float64_gram
from curvescope.linalg._session import Session, symmetric_operator
from curvescope.results import Result


@dataclass(frozen=True, kw_only=True)
class LanczosDecomposition(Result):
    """``A V = V T + r e_m'`` with orthonormal ``V`` and tridiagonal ``T``.

    Attributes:
        diagonal: Of ``T``, shape ``(m,)``, float64.
        off_diagonal: Of ``T``, shape ``(m - 1,)``, float64.
        basis: ``V``, shape ``(n, m)``, where and as it was kept.
        residual_norm: ``||r||``; 0 where the basis spans an invariant subspace.
        eigenvalues: Ritz values, descending, float64.
        residual_norms: Estimated residual of each Ritz pair, float64.
    """

    diagonal: Tensor
    off_diagonal: Tensor
    basis: Tensor
    residual_norm: float
    eigenvalues: Tensor
    residual_norms: Tensor

    def headline(self) -> str:
        """Return the result in one line."""
        return f"{len(self.diagonal)} Lanczos steps with the {self.of.matrix}"

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a Ritz value."""
        pairs = zip(self.eigenvalues, self.residual_norms, strict=True)
        return [{"ritz_value": float(v), "residual": float(r)} for v, r in pairs]


def lanczos(
    A: Any,
    num_steps: int,
    *,
    start: Tensor | None = None,
    basis: str | Path = "device",
    generator: torch.Generator | None = None,
) -> LanczosDecomposition:
    r"""Run Lanczos with full two-pass reorthogonalisation: no ghosts, at any length.

    .. math:: A V_m = V_m T_m + r e_m^\top, \qquad V_m^\top V_m = I

    Args:
        A: Symmetric operator, or anything `aslinearoperator` takes.
        num_steps: Steps, at most ``n``; fewer are made if the Krylov space ends.
        start: First vector, shape ``(n,)``; random if ``None``.
        basis: Where the basis lies, and is returned: ``"device"``; ``"bfloat16"``, whose
            ``V`` is rounded while the coefficients are not; ``"cpu"``; ``"disk"`` or a
            folder, in a file that is gone with the result.
        generator: Source of the start; a fresh one with a fixed seed if ``None``.

    Returns:
        The decomposition, its Ritz values, and a note if it ended early.

    Raises:
        ValueError: If ``A`` is not symmetric, or an argument is out of range.

    Cost:
        ``num_steps`` products; memory for as many vectors.

    Example:
        >>> lanczos(torch.diag(torch.tensor([1.0, 2.0])), 2).eigenvalues.round(decimals=4)
        tensor([2., 1.], dtype=torch.float64)

    References:
        Lanczos (1950), doi:10.6028/jres.045.026; Parlett (1998), chapter 13.
    """
    operator = symmetric_operator(A)
    n = operator.shape[0]
    num_steps = positive_int("num_steps", num_steps)
    if num_steps > n:
        raise ValueError(message("num_steps", f"be at most {n}, the size", num_steps))
    basis_folder(basis)
    generator = resolve_generator(generator)
    with Session(operator, "Lanczos decomposition", total=num_steps) as session:
        space = KrylovSpace(session, num_steps, 1, generator, basis=basis)
        if start is None:
            space.start_chain(1)
        else:
            if start.shape != (n,) or not bool(torch.isfinite(start).all()):
                contract = f"be finite, of shape ({n},)"
                raise ValueError(message("start", contract, describe(start)))
            space.set_pending(start.detach().reshape(1, n))
            if space.w == 0:
                raise ValueError(message("start", "not be zero", describe(start)))
        while space.m < num_steps and space.w:
            space.step()
            # A broken chain shows when its coefficients are read.
        ritz = space.ritz()
        cost = session.cost()
        scale = session.scale or 1.0
    m = space.m
    notes: tuple[str, ...] = ()
    if m < num_steps:
        notes = (f"the Krylov space ended after {m} steps: it is invariant",)
    if basis == "bfloat16":
        rows = space.basis.kept(m)
        off = float64_gram(rows, rows) - torch.eye(m, dtype=torch.float64)
        text = f"the basis is kept in bfloat16: orthonormal up to {float(off.abs().max()):.1e}"
        notes = (*notes, text)
    return LanczosDecomposition(
        of=operator.info,
        cost=cost,
        settings={
            "num_steps": num_steps,
            "basis": "disk" if isinstance(basis, Path) else basis,
            "seed": generator.initial_seed(),
        },
        notes=notes,
        diagonal=space.T.diagonal()[:m] * scale,
        off_diagonal=space.T.diagonal(1)[: m - 1] * scale,
        basis=space.basis.kept(m).T,
        residual_norm=float(space.R.abs().max()) * scale if space.w else 0.0,
        eigenvalues=ritz.values.flip(0) * scale,
        residual_norms=ritz.residuals.flip(0) * scale,
    )
