"""An orthonormal basis that grows by products, and the small problem on it.

Between block products the rows ``Q`` of the basis obey, in the scaled matrix,

    A Q' = Q' T + P' R + E,

with ``P`` the pending rows (orthonormal, orthogonal to ``Q``, not yet multiplied),
``T = Q A Q'`` measured by full orthogonalisation, and ``E`` what was given up where
pending rows were replaced; 0 in a run without such places. A Ritz vector ``Q' s`` has
the estimated residual ``|| R s ||``: true residuals decide, which see ``E`` too.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from curvescope._core.random import gaussian
from curvescope.linalg._products import float64_gram, row_products
from curvescope.linalg._session import Session

_BREAKDOWN_EPS = 20.0
_CHUNK = 1 << 14


@dataclass
class Ritz:
    """Ritz values ascending, coefficients in the basis, residual estimates."""

    values: Tensor
    vectors: Tensor
    residuals: Tensor


def rotate_rows(Q: Tensor, S: Tensor) -> None:
    """Replace the first rows of ``Q`` by ``S' Q`` in place, a few columns at a time."""
    rotation = S.T.to(dtype=Q.dtype, device=Q.device).contiguous()
    kept = rotation.shape[0]
    for start in range(0, Q.shape[1], _CHUNK):
        piece = slice(start, start + _CHUNK)
        Q[:kept, piece] = rotation @ Q[:, piece].contiguous()


class KrylovSpace:
    """The basis, its projected matrix, and what is pending.

    Attributes:
        Q: Rows; the first ``m`` are multiplied, the next ``w`` are pending.
        m, w: Numbers of rows.
        T, R: See the module; float64 on the CPU.
        first: Rows before it belong to an earlier chain and stay as they are.
        norm: Largest norm of a column of a product: a lower bound of ``||A||``.
        asymmetry: Largest ``|x' A y - y' A x|`` that was seen.
    """

    def __init__(
        self, session: Session, size: int, spare: int, generator: torch.Generator
    ) -> None:
        self.session = session
        self.size, self.spare = size, spare
        self.generator = generator
        self.Q = torch.empty(
            size + spare, session.n, dtype=session.dtype, device=session.device
        )
        self.m = self.w = self.first = 0
        self.T = torch.zeros(size, size, dtype=torch.float64)
        self.R = torch.zeros(0, 0, dtype=torch.float64)
        self.norm = 0.0
        self.asymmetry = 0.0
        # Columns of R before it lack what was given up with earlier pending rows.
        self._known_from = 0
        self.serials: list[int] = []
        self._next_serial = 0
        self._lagged: list[tuple[int, Tensor]] = []
        # Coefficients are read from a GPU every few steps, not at every one.
        self._lag = 1 if session.device.type == "cpu" else 4

    @property
    def eps(self) -> float:
        """The rounding unit of the vectors."""
        return torch.finfo(self.session.dtype).eps

    @property
    def lagging(self) -> bool:
        """Whether coefficients are still on the device."""
        return bool(self._lagged)

    @property
    def threshold(self) -> float:
        """The norm below which a new direction is rounding noise."""
        return _BREAKDOWN_EPS * self.eps * self.norm

    def _name_rows(self, start: int, stop: int) -> None:
        fresh = range(self._next_serial, self._next_serial + stop - start)
        self.serials[start:] = list(fresh)
        self._next_serial += stop - start

    def _project_out(self, W: Tensor, m: int) -> Tensor:
        """Make the rows of ``W`` orthogonal to the first ``m``; return coefficients."""
        Q = self.Q[:m]
        total = row_products(Q, W)
        W.addmm_(total.T.to(W.dtype), Q, alpha=-1.0)
        # Twice is enough (Parlett, The Symmetric Eigenvalue Problem, section 6.9).
        again = row_products(Q, W)
        W.addmm_(again.T.to(W.dtype), Q, alpha=-1.0)
        return total + again

    def _orthonormal_rows(self, W: Tensor, m: int) -> Tensor:
        """Write an orthonormal basis of the rows of ``W`` after row ``m``; return R.

        Rows that depend on earlier ones up to rounding are left out.
        """
        kept = 0
        R = torch.zeros(W.shape[0], W.shape[0], dtype=torch.float64)
        for i in range(W.shape[0]):
            row = W[i : i + 1]
            P = self.Q[m : m + kept]
            for _ in range(2):
                c = row_products(P, row)
                row.addmm_(c.T.to(row.dtype), P, alpha=-1.0)
                R[:kept, i] += c[:, 0].cpu()
            norm = self._norm(row)
            if norm <= self.threshold or m + kept >= self.session.n:
                continue
            row.div_(norm)
            if i > 0:
                # Cancellation inside the block may have undone the projection.
                self._project_out(row, m + kept)
                row.div_(self._norm(row))
            R[kept, i] = norm
            self.Q[m + kept] = row[0]
            kept += 1
        return R[:kept]

    @staticmethod
    def _norm(row: Tensor) -> float:
        return float(torch.linalg.vector_norm(row, dtype=torch.float64))

    def set_pending(self, rows: Tensor) -> None:
        """Replace what is pending by ``rows``, made orthonormal to the basis."""
        self.flush()
        self.give_up_pending()
        room = min(rows.shape[0], self.Q.shape[0] - self.m, self.session.n - self.m)
        W = rows[:room].to(self.Q).clone()
        W.div_(torch.linalg.vector_norm(W, dim=1, keepdim=True).clamp_min(1e-30))
        norm, self.norm = self.norm, 1.0  # these rows have norm 1, not ||A||
        self._project_out(W, self.m)
        R = self._orthonormal_rows(W, self.m)
        self.norm = norm
        self.w = R.shape[0]
        self.R = torch.zeros(self.w, self.m, dtype=torch.float64)
        self._known_from = self.m
        self._name_rows(self.m, self.m + self.w)

    def give_up_pending(self) -> None:
        """Drop the pending rows, and what they carried of the residuals."""
        self.w = 0
        self.R = torch.zeros(0, self.m, dtype=torch.float64)
        del self.serials[self.m :]

    def park(self, row: Tensor) -> None:
        """Store a residual vector after the basis, from which the search may go on."""
        self.Q[self.m + self.w] = row
        self.w += 1
        self._name_rows(self.m, self.m + self.w)

    def continue_from_parked(self, columns: list[int]) -> None:
        """Make the parked residuals of the basis vectors ``columns`` pending."""
        rows = self.Q[self.m : self.m + self.w].clone()
        self.set_pending(rows)
        coupling = float64_gram(self.Q[self.m : self.m + self.w], rows)
        self.R[:, columns] = coupling

    def start_chain(self, width: int) -> None:
        """Make random rows pending, orthogonal to all that is there."""
        shape = (width, self.session.n)
        rows = gaussian(
            shape,
            self.generator,
            dtype=self.session.dtype,
            device=self.session.device,
        )
        self.set_pending(rows)

    def step(self) -> None:
        """Multiply the pending rows, and make what is new in the product pending."""
        m, w = self.m, self.w
        product = self.session.product(self.Q[m : m + w].T)
        W = product.T.contiguous()
        sizes = torch.linalg.vector_norm(W, dim=1, dtype=torch.float64)
        C = self._project_out(W, m + w)
        self.m = m + w
        if w == 1:
            beta = torch.linalg.vector_norm(W, dtype=torch.float64)
            self.Q[m + 1] = W[0] / beta.clamp_min(1e-300).to(W.dtype)
            self._name_rows(m + 1, m + 2)
            self._lagged.append((m, torch.cat([C[:, 0], sizes, beta.reshape(1)])))
            if len(self._lagged) >= self._lag or self.m >= self.size:
                self.flush()
            return
        self.norm = max(self.norm, float(sizes.max()))
        self._extend(m, C.cpu())
        self.R = torch.zeros(0, self.m, dtype=torch.float64)
        R = self._orthonormal_rows(W, self.m)
        self._set_coupling(R, w)

    def _set_coupling(self, R: Tensor, width: int) -> None:
        self.w = R.shape[0]
        self.R = torch.zeros(self.w, self.m, dtype=torch.float64)
        self.R[:, self.m - width :] = R
        self._name_rows(self.m, self.m + self.w)

    def _extend(self, m: int, C: Tensor) -> None:
        """Take the coefficients of the rows after ``m`` into ``T``."""
        w = C.shape[1]
        known = self._known_from
        if m > known and self.R.shape[0] == w:
            difference = C[known:m].T - self.R[:, known:m]
            self.asymmetry = max(self.asymmetry, float(difference.abs().max()))
        corner = (C[m:] + C[m:].T) / 2
        self.asymmetry = max(self.asymmetry, float((C[m:] - corner).abs().max()))
        self.T[:m, m : m + w] = C[:m]
        self.T[m : m + w, :m] = C[:m].T
        self.T[m : m + w, m : m + w] = corner

    def flush(self) -> None:
        """Bring the coefficients of the last steps over from the device."""
        if not self._lagged:
            return
        lengths = [len(packed) for _, packed in self._lagged]
        numbers = torch.cat([packed for _, packed in self._lagged]).cpu()
        for (m, _), packed in zip(self._lagged, numbers.split(lengths), strict=True):
            self.norm = max(self.norm, float(packed[-2]))
            self._extend(m, packed[:-2].reshape(-1, 1))
            self.m = m + 1
            beta = float(packed[-1])
            broken = beta <= self.threshold or self.m >= self.session.n
            rows = 0 if broken else 1
            self.w = rows
            self.R = torch.zeros(rows, self.m, dtype=torch.float64)
            self.R[:, m] = beta
            if broken:
                break
        del self.serials[self.m + self.w :]
        self._lagged.clear()

    def ritz(self, start: int = 0) -> Ritz:
        """Solve the projected problem on the rows from ``start`` on."""
        self.flush()
        values, vectors = torch.linalg.eigh(self.T[start : self.m, start : self.m])
        residuals = torch.linalg.vector_norm(self.R[:, start:] @ vectors, dim=0)
        return Ritz(values, vectors, residuals)

    def compress(self, S: Tensor, start: int = 0) -> None:
        """Replace the rows from ``start`` on by ``S'`` times them, in place."""
        self.flush()
        m, kept = self.m, start + S.shape[1]
        rotate_rows(self.Q[start:m], S)
        self.Q[kept : kept + self.w] = self.Q[m : m + self.w].clone()
        T = self.T[:m, :m].clone()
        T[:, start:kept] = T[:, start:] @ S
        T[start:kept] = S.T @ T[start:]
        self.T.zero_()
        corner = T[:kept, :kept]
        self.T[:kept, :kept] = (corner + corner.T) / 2
        self.R = torch.cat([self.R[:, :start], self.R[:, start:] @ S], dim=1)
        self.m = kept
        if self._known_from > start:
            self._known_from = kept
        self._name_rows(start, kept + self.w)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
        """Return what a resumed run needs: numbers, small tensors, rows by name."""
        numbers = {
            "m": self.m,
            "w": self.w,
            "first": self.first,
            "norm": self.norm,
            "asymmetry": self.asymmetry,
            "known_from": self._known_from,
            "serials": self.serials,
            "next_serial": self._next_serial,
        }
        small = {
            "T": self.T,
            "R": self.R,
            "generator": self.generator.get_state(),
        }
        rows = {f"row-{s}": self.Q[i] for i, s in enumerate(self.serials)}
        return numbers, small, rows

    def restore(self, numbers: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Take over what `state` returned; ``tensors`` is emptied of rows."""
        self.m, self.w = numbers["m"], numbers["w"]
        self.first = numbers["first"]
        self.norm, self.asymmetry = numbers["norm"], numbers["asymmetry"]
        self._known_from = numbers["known_from"]
        self.serials = list(numbers["serials"])
        self._next_serial = numbers["next_serial"]
        self.T, self.R = tensors["T"], tensors["R"]
        self.generator.set_state(tensors["generator"])
        for i, serial in enumerate(self.serials):
            self.Q[i] = tensors.pop(f"row-{serial}")
