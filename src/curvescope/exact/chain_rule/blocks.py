"""A layer's own block, split in two, known by its norms, traces and products."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, final

import torch
from torch import Tensor

from curvescope._core.checks import one_of
from curvescope.exact.chain_rule import norms
from curvescope.exact.chain_rule.parts import PARTS, Part, Parts
from curvescope.linalg import eigsh
from curvescope.linop.base import LinearOperator, SymmetricOperator
from curvescope.linop.convert import DenseOperator
from curvescope.results import Eigenpairs, Provenance

_BYTES = 32 * 2**20


class OwnBlock(ABC):
    r"""The diagonal block of one layer, :math:`H_{ll} = G_{ll} + F_{ll}`, in float64.

    The order of its rows is that of the problem's flat vector. Weight decay is part of
    the whole and of the linearisation part, as it is of `Hessian` and of `GGN`.

    Attributes:
        name: The layer's.
        num_params: The dimension P.
        info: What each part is of, as a matrix.
        weight_decay: What stands on the diagonal besides.
        has_curvature: Whether the curvature part is not exactly zero.
    """

    method: ClassVar[str]

    def __init__(
        self,
        name: str,
        *,
        info: dict[Part, Provenance],
        weight_decay: float,
        has_curvature: bool,
        like: Tensor,
    ) -> None:
        self.name = name
        self.info = info
        self.num_params = info["whole"].num_params
        self.weight_decay = weight_decay
        self.has_curvature = has_curvature
        self.dtype, self.device = like.dtype, like.device
        self._squares: Parts | None = None

    @property
    @abstractmethod
    def num_bytes(self) -> int:
        """Memory that the block holds."""

    @abstractmethod
    def _squared_norms(self) -> Parts:
        """Return the squared Frobenius norms without weight decay."""

    @abstractmethod
    def _plain_traces(self) -> Parts:
        """Return the traces without weight decay."""

    @abstractmethod
    def _product(self, part: Part, V: Tensor) -> Tensor:
        """Return the product of a part without weight decay; ``V`` is ``(P, K)``."""

    @abstractmethod
    def _for_spectrum(self, part: Part) -> LinearOperator | None:
        """Return a smaller operator with the part's eigenvalues but zeros, if there is."""

    @final
    def frobenius_norms(self) -> Parts:
        """Return the Frobenius norms of the block and of its two parts."""
        if self._squares is None:
            self._squares = self._squared_norms()
        squares, traces = self._squares, self._plain_traces()
        w, p = self.weight_decay, self.num_params
        decayed = [
            q + (2.0 * w * t + w * w * p if part != "curvature" and w else 0.0)
            for part, q, t in zip(PARTS, squares, traces, strict=True)
        ]
        return Parts(*(math.sqrt(max(q, 0.0)) for q in decayed))

    @final
    def traces(self) -> Parts:
        """Return the traces of the block and of its two parts."""
        whole, linearisation, curvature = self._plain_traces()
        decay = self.weight_decay * self.num_params
        return Parts(whole + decay, linearisation + decay, curvature)

    @final
    def operator(self, part: Part = "whole") -> LinearOperator:
        """Return the block, or one part of it, as an operator.

        Args:
            part: ``"whole"``, ``"linearisation"`` or ``"curvature"``.

        Raises:
            ValueError: If there is no such part.
        """
        one_of("part", part, PARTS)
        return _PartOperator(self, part)

    @final
    def to_dense(self, part: Part = "whole") -> Tensor:
        """Return the block, or one part of it, as a matrix ``(P, P)``."""
        return self.operator(part).to_dense()

    @final
    def top(
        self,
        part: Part = "whole",
        *,
        tol: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Eigenpairs:
        """Return the eigenvalue of largest magnitude of the block or of a part.

        Args:
            part: ``"whole"``, ``"linearisation"`` or ``"curvature"``.
            tol: Relative residual, as for `eigsh`.
            generator: Source of the start vector.

        Returns:
            One pair without its vector. The products cost no pass over the data.

        Raises:
            ValueError: If there is no such part.
        """
        one_of("part", part, PARTS)
        small = None if self.weight_decay else self._for_spectrum(part)
        return eigsh(
            self.operator(part) if small is None else small,
            k=1,
            tol=tol,
            check_multiplicity=False,
            eigenvectors=False,
            generator=generator,
        )

    @final
    def spectral_norms(
        self, *, tol: float | None = None, generator: torch.Generator | None = None
    ) -> Parts:
        """Return the spectral norms of the block and of its two parts.

        Args:
            tol: Relative residual of the eigenvalues, as for `eigsh`.
            generator: Source of the start vectors.
        """

        def norm(part: Part) -> float:
            pairs = self.top(part, tol=tol, generator=generator)
            return abs(float(pairs.eigenvalues[0]))

        linearisation = norm("linearisation")
        if not self.has_curvature:
            return Parts(linearisation, linearisation, 0.0)
        return Parts(norm("whole"), linearisation, norm("curvature"))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {self.num_params} parameters>"


@final
class _PartOperator(SymmetricOperator):
    """One part of a block, weight decay included."""

    def __init__(self, block: OwnBlock, part: Part) -> None:
        size = block.num_params
        super().__init__(
            (size, size),
            dtype=block.dtype,
            device=block.device,
            symmetric=True,
            info=block.info[part],
        )
        self._block, self._part = block, part
        self._shift = 0.0 if part == "curvature" else block.weight_decay

    def _matmat(self, V: Tensor) -> Tensor:
        product = self._block._product(self._part, V)
        return product + self._shift * V if self._shift else product

    def refresh(self) -> str:
        """Return a constant: the block holds the numbers of one moment."""
        return self.info.fingerprint


@final
class KroneckerBlock(OwnBlock):
    r"""A layer that every unit uses once: :math:`\sum_i M_i \otimes \tilde x_i \tilde x_i^\top`.

    Args:
        name: The layer's.
        info: What each part is of.
        weight_decay: What stands on the diagonal besides.
        factors: A with ``A' diag(s) A`` the linearisation part of M, ``(U, K, A)``.
        signs: The s, ``(U, K)``; ``None`` where all are 1.
        curvature: The curvature part of M, ``(U, A, A)``; ``None`` where it vanishes.
        inputs: The x, with 1 as the last entry where there is a bias, ``(U, D)``.
        pieces: ``"weight"`` and ``"bias"``, those selected, in the vector's order.
    """

    method: ClassVar[str] = "kronecker"

    def __init__(
        self,
        name: str,
        *,
        info: dict[Part, Provenance],
        weight_decay: float,
        factors: Tensor,
        signs: Tensor | None,
        curvature: Tensor | None,
        inputs: Tensor,
        pieces: Sequence[str],
    ) -> None:
        super().__init__(
            name,
            info=info,
            weight_decay=weight_decay,
            has_curvature=curvature is not None,
            like=factors,
        )
        self._A, self._signs, self._F = factors, signs, curvature
        self._X, self._pieces = inputs, tuple(pieces)

    @property
    def num_bytes(self) -> int:
        """Memory that the block holds."""
        held = (self._A, self._X, self._F, self._signs)
        return sum(t.numel() * t.element_size() for t in held if t is not None)

    @property
    def _width(self) -> int:
        return self._A.shape[2]

    def _signed(self, start: int, stop: int) -> Tensor:
        factors = self._A[start:stop]
        return (
            factors
            if self._signs is None
            else factors * self._signs[start:stop, :, None]
        )

    def _middle(self, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        linearisation = self._A[start:stop].transpose(1, 2) @ self._signed(start, stop)
        return linearisation, None if self._F is None else self._F[start:stop]

    def _squared_norms(self) -> Parts:
        return norms.squared_norms(
            self._middle,
            self._X,
            self._width,
            zero=not self.has_curvature,
            room=self.num_bytes,
        )

    def _plain_traces(self) -> Parts:
        lengths = self._X.square().sum(1)
        squares = (self._A * self._signed(0, len(self._A))).sum((1, 2))
        linearisation = float(squares @ lengths)
        if self._F is None:
            return Parts(linearisation, linearisation, 0.0)
        diagonals = self._F.diagonal(dim1=1, dim2=2).sum(1)
        curvature = float(diagonals @ lengths)
        return Parts(float((squares + diagonals) @ lengths), linearisation, curvature)

    def _for_spectrum(self, part: Part) -> LinearOperator | None:
        return None

    def _product(self, part: Part, V: Tensor) -> Tensor:
        if part == "curvature" and self._F is None:
            return torch.zeros_like(V)
        a, k, d = self._width, V.shape[1], self._X.shape[1]
        stacked = self._to_matrix(V).reshape(k * a, d)
        total = torch.zeros_like(stacked)
        step = max(1, _BYTES // (8 * a * k))
        for start in range(0, len(self._X), step):
            stop = min(start + step, len(self._X))
            x = self._X[start:stop]
            inner = (stacked @ x.T).view(k, a, -1).permute(2, 1, 0)
            found: Tensor | None = None
            if part != "curvature":
                forward = self._A[start:stop] @ inner
                if self._signs is not None:
                    forward = forward * self._signs[start:stop, :, None]
                found = self._A[start:stop].transpose(1, 2) @ forward
            if part != "linearisation" and self._F is not None:
                other = self._F[start:stop] @ inner
                found = other if found is None else found + other
            assert found is not None
            total += found.permute(2, 1, 0).reshape(k * a, -1) @ x
        return self._to_vector(total.view(k, a, d))

    def _to_matrix(self, V: Tensor) -> Tensor:
        """Return vectors ``(P, K)`` as ``(K, A, D)``, the bias as the last column."""
        a, k = self._width, V.shape[1]
        sizes = [a * self._columns(piece) for piece in self._pieces]
        split = dict(zip(self._pieces, torch.split(V.T, sizes, dim=1), strict=True))
        ordered = [split[p] for p in ("weight", "bias") if p in split]
        return torch.cat([p.reshape(k, a, -1) for p in ordered], dim=2)

    def _to_vector(self, matrices: Tensor) -> Tensor:
        k = len(matrices)
        last = self._X.shape[1] - 1
        by_piece = {
            "weight": matrices[:, :, :last] if "bias" in self._pieces else matrices,
            "bias": matrices[:, :, last:],
        }
        parts = [by_piece[piece].reshape(k, -1) for piece in self._pieces]
        return torch.cat(parts, dim=1).T

    def _columns(self, piece: str) -> int:
        both = "bias" in self._pieces
        return 1 if piece == "bias" else self._X.shape[1] - (1 if both else 0)


@final
class FactorBlock(OwnBlock):
    """A layer with many positions and no curvature part: ``J' diag(s) J``.

    Args:
        name: The layer's.
        info: What each part is of.
        weight_decay: What stands on the diagonal besides.
        rows: J, ``(R, P)``.
        signs: The s, ``(R,)``; ``None`` where all are 1.
    """

    method: ClassVar[str] = "patches"

    def __init__(
        self,
        name: str,
        *,
        info: dict[Part, Provenance],
        weight_decay: float,
        rows: Tensor,
        signs: Tensor | None,
    ) -> None:
        super().__init__(
            name,
            info=info,
            weight_decay=weight_decay,
            has_curvature=False,
            like=rows,
        )
        self._J, self._signs = rows, signs
        self._gram: Tensor | None = None

    @property
    def num_bytes(self) -> int:
        """Memory that the block holds."""
        held = (self._J, self._signs, self._gram)
        return sum(t.numel() * t.element_size() for t in held if t is not None)

    def _inner(self) -> Tensor:
        if self._gram is None:
            self._gram = self._J @ self._J.T
        return self._gram

    def _squared_norms(self) -> Parts:
        squares = self._inner().square()
        if self._signs is None:
            value = float(squares.sum())
        else:
            value = float(self._signs @ squares @ self._signs)
        return Parts(value, value, 0.0)

    def _plain_traces(self) -> Parts:
        lengths = self._inner().diagonal()
        value = float((lengths if self._signs is None else lengths * self._signs).sum())
        return Parts(value, value, 0.0)

    def _for_spectrum(self, part: Part) -> LinearOperator | None:
        if part == "curvature" or self._signs is not None:
            return None
        return DenseOperator(
            self._inner(), positive_semidefinite=True, info=self.info[part]
        )

    def _product(self, part: Part, V: Tensor) -> Tensor:
        if part == "curvature":
            return torch.zeros_like(V)
        forward = self._J @ V
        if self._signs is not None:
            forward = forward * self._signs[:, None]
        return self._J.T @ forward


@final
class DenseBlock(OwnBlock):
    """A small block, formed.

    Args:
        name: The layer's.
        info: What each part is of.
        weight_decay: What stands on the diagonal besides.
        linearisation: G, ``(P, P)``, without weight decay.
        curvature: F; ``None`` where it vanishes.
    """

    method: ClassVar[str] = "formed"

    def __init__(
        self,
        name: str,
        *,
        info: dict[Part, Provenance],
        weight_decay: float,
        linearisation: Tensor,
        curvature: Tensor | None,
    ) -> None:
        super().__init__(
            name,
            info=info,
            weight_decay=weight_decay,
            has_curvature=curvature is not None,
            like=linearisation,
        )
        self._G, self._F = linearisation, curvature

    @property
    def num_bytes(self) -> int:
        """Memory that the block holds."""
        held = (self._G, self._F)
        return sum(t.numel() * t.element_size() for t in held if t is not None)

    def _matrix(self, part: Part) -> Tensor:
        if part == "linearisation" or (part == "whole" and self._F is None):
            return self._G
        if self._F is None:
            return torch.zeros_like(self._G)
        return self._F if part == "curvature" else self._G + self._F

    def _squared_norms(self) -> Parts:
        return Parts(*(float(self._matrix(part).square().sum()) for part in PARTS))

    def _plain_traces(self) -> Parts:
        return Parts(*(float(self._matrix(part).trace()) for part in PARTS))

    def _for_spectrum(self, part: Part) -> LinearOperator | None:
        return None

    def _product(self, part: Part, V: Tensor) -> Tensor:
        if part == "curvature" and self._F is None:
            return torch.zeros_like(V)
        found: Tensor | None = None if part == "curvature" else self._G @ V
        if part != "linearisation" and self._F is not None:
            other = self._F @ V
            found = other if found is None else found + other
        assert found is not None
        return found
