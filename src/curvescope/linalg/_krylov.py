"""An orthonormal basis that grows by products, and the small problem on it.

Between block products the rows ``Q`` of the basis obey, in the scaled matrix,

    A Q' = Q' (T + D) + P' R + H' G,

with ``P`` the pending rows (orthonormal, orthogonal to ``Q``, not yet multiplied), ``H``
what is left of rows that were pending and are held back: later rows take their share of
it. ``T`` is symmetric, and ``T + D`` what the products
gave: ``D`` is rounding where ``A`` is symmetric and gives the same product twice. All
coefficients are measured, by full orthogonalisation, so that this holds up to rounding
whatever ``A`` does. A Ritz vector ``Q' s`` has the residual ``(D s, R s, K^(1/2) G s)``
with ``K = H H'``, as long as nothing that was pending has been given up.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curvescope._core.random import gaussian
from curvescope.linalg._basis import make_basis
from curvescope.linalg._products import float64_gram, row_products
from curvescope.linalg._session import Session

_BREAKDOWN_EPS = 20.0
# Steps that a GPU is ahead of the host: one is computed while the other is looked at.
_LAG = 2


@dataclass
class Ritz:
    """Ritz values ascending, coefficients in the basis, estimates of the residuals."""

    values: Tensor
    vectors: Tensor
    residuals: Tensor


def exact_rows(spare: int) -> int:
    """Return how many of the newest rows stay exact where others are rounded."""
    return 2 * spare + 1


class KrylovSpace:
    """The basis, its projected matrix, and what is pending.

    Attributes:
        basis: Rows; the first ``m`` are multiplied, the next ``w`` are pending.
        m, w: Numbers of rows.
        held: The rows ``H`` of the module.
        T, D, R, G, K: See the module; float64 on the CPU.
        complete: Whether nothing that was pending has been given up.
        shares_lost: Whether a later chain's restart has dropped what earlier rows had in
            it: then ``D`` is more than rounding, also where ``A`` is symmetric.
        first: Rows before it belong to an earlier chain and stay as they are.
        norm: Largest norm of a column of a product: a lower bound of ``||A||``.
        asymmetry: Largest ``|x' A y - y' A x|`` that was seen.
    """

    def __init__(
        self,
        session: Session,
        size: int,
        spare: int,
        generator: torch.Generator,
        *,
        basis: str | Path = "device",
        head: int = 0,
    ) -> None:
        self.session = session
        self.size, self.spare = size, spare
        self.generator = generator
        self.basis = make_basis(
            basis,
            size + spare,
            session.n,
            dtype=session.dtype,
            device=session.device,
            head=head,
            # A block, the one before it, and parked residuals.
            tail=exact_rows(spare),
        )
        self.m = self.w = self.first = 0
        self.T = torch.zeros(size, size, dtype=torch.float64)
        self.D = torch.zeros(size, size, dtype=torch.float64)
        self.R = torch.zeros(0, 0, dtype=torch.float64)
        self.G = torch.zeros(0, 0, dtype=torch.float64)
        self.K = torch.zeros(0, 0, dtype=torch.float64)
        self.held = torch.zeros(
            0, session.n, dtype=session.dtype, device=session.device
        )
        self.complete = True
        self.shares_lost = False
        self.norm = 0.0
        self.asymmetry = 0.0
        self.serials: list[int] = []
        self._next_serial = 0
        self._lagged: list[tuple[int, Tensor]] = []
        # Coefficients are read from a GPU every few steps, not at every one.
        self._lag = 1 if session.device.type == "cpu" else _LAG

    @property
    def Q(self) -> Tensor:
        """All rows there is room for; a view where the basis lies on the device."""
        return self.basis.rows(0, self.basis.shape[0])

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

    def _orthonormal_rows(self, W: Tensor, m: int) -> Tensor:
        """Write an orthonormal basis of the rows of ``W`` after row ``m``; return R.

        Rows that depend on earlier ones up to rounding are left out.
        """
        kept = 0
        R = torch.zeros(W.shape[0], W.shape[0], dtype=torch.float64)
        for i in range(W.shape[0]):
            row = W[i : i + 1]
            P = self.basis.rows(m, m + kept)
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
                self.basis.project_out(row, m + kept)
                row.div_(self._norm(row))
            R[kept, i] = norm
            self.basis.write(m + kept, row)
            kept += 1
        return R[:kept]

    @staticmethod
    def _norm(row: Tensor) -> float:
        return float(torch.linalg.vector_norm(row, dtype=torch.float64))

    def set_pending(self, rows: Tensor) -> None:
        """Replace what is pending by ``rows``, made orthonormal to the basis."""
        self.flush()
        self.give_up_pending()
        there = self.basis.shape[0] - self.m
        room = min(rows.shape[0], there, self.session.n - self.m)
        W = rows[:room].to(dtype=self.session.dtype, device=self.session.device).clone()
        W.div_(torch.linalg.vector_norm(W, dim=1, keepdim=True).clamp_min(1e-30))
        norm, self.norm = self.norm, 1.0  # these rows have norm 1, not ||A||
        self.basis.project_out(W, self.m)
        R = self._orthonormal_rows(W, self.m)
        self.norm = norm
        self.w = R.shape[0]
        self.R = torch.zeros(self.w, self.m, dtype=torch.float64)
        self._share(self._take_share(self.m, self.m + self.w).cpu())
        self._name_rows(self.m, self.m + self.w)

    def give_up_pending(self) -> None:
        """Drop the pending rows, and what they carried of the residuals."""
        self.complete &= self.w == 0 or self.m == 0
        self._forget_pending()

    def hold_pending(self) -> None:
        """Put the pending rows aside: the residuals that they carry stay known."""
        self.flush()
        self.held = torch.cat([self.held, self.basis.rows(self.m, self.m + self.w)])
        self.G = torch.cat([self.G, self.R])
        before, self.K = self.K, torch.eye(len(self.G), dtype=torch.float64)
        self.K[: len(before), : len(before)] = before
        self._forget_pending()

    def _take_share(self, first: int, last: int) -> Tensor:
        """Make what is held orthogonal to new rows; return the shares, on the device."""
        rows = self.basis.rows(first, last)
        shares = row_products(self.held, rows)
        self.held.addmm_(shares.to(rows.dtype), rows, alpha=-1.0)
        return shares

    def _share(self, shares: Tensor) -> None:
        """Let the pending rows carry the shares that they took."""
        self.K = self.K - shares @ shares.T
        self.R = self.R + shares.T @ self.G

    def _held_factor(self) -> Tensor:
        """Return a square root of ``K``."""
        sizes, turn = torch.linalg.eigh(self.K)
        return sizes.clamp_min(0.0).sqrt()[:, None] * turn.T

    def refocus(self, S: Tensor, width: int) -> None:
        """Make pending what the vectors ``Q' S`` lack most, of all that is outside.

        Rows held and rows pending turn into each other by a rotation, so that nothing
        is lost.
        """
        self.flush()
        rows = torch.cat([self.held, self.basis.rows(self.m, self.m + self.w)])
        outside = torch.cat([self.G, self.R])
        # Orthonormal rows first; what is left of one that is held may be nothing.
        sizes, turn = torch.linalg.eigh(float64_gram(rows, rows))
        there = sizes > (10.0 * self.eps) ** 2
        root = sizes[there].sqrt()[:, None]
        basis, outside = turn[:, there].T / root, root * (turn[:, there].T @ outside)
        turn = torch.linalg.svd(outside @ S).U.T
        rows = (turn @ basis).to(rows) @ rows
        outside = turn @ outside
        self.w = min(width, rows.shape[0])
        self.basis.write(self.m, rows[: self.w])
        self.R, self.G = outside[: self.w], outside[self.w :]
        self.held = rows[self.w :].contiguous()
        self.K = torch.eye(len(self.held), dtype=torch.float64)
        self._name_rows(self.m, self.m + self.w)

    def _forget_pending(self) -> None:
        self.w = 0
        self.R = torch.zeros(0, self.m, dtype=torch.float64)
        del self.serials[self.m :]

    def park(self, row: Tensor) -> None:
        """Store a residual vector after the basis, from which the search may go on."""
        self.basis.write(self.m + self.w, row[None])
        self.w += 1
        self._name_rows(self.m, self.m + self.w)

    def continue_from_parked(self, columns: list[int]) -> None:
        """Make the parked residuals of the basis vectors ``columns`` pending."""
        rows = self.basis.rows(self.m, self.m + self.w).clone()
        # True residuals are known: what the recurrence knew of them is not needed.
        self.held, self.G, self.K = self.held[:0], self.G[:0], self.K[:0, :0]
        self.set_pending(rows)
        pending = self.basis.rows(self.m, self.m + self.w)
        coupling = float64_gram(pending, rows)
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
        product = self.session.product(self.basis.rows(m, m + w).T)
        W = product.T.contiguous()
        sizes = torch.linalg.vector_norm(W, dim=1, dtype=torch.float64)
        C = self.basis.project_out(W, m + w)
        self.m = m + w
        if w == 1:
            beta = torch.linalg.vector_norm(W, dtype=torch.float64)
            self.basis.write(m + 1, W / beta.clamp_min(1e-300).to(W.dtype))
            self._name_rows(m + 1, m + 2)
            shares = self._take_share(m + 1, m + 2)[:, 0]
            packed = torch.cat([C[:, 0], shares, sizes, beta.reshape(1)])
            self._lagged.append((m, packed))
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
        self._share(self._take_share(self.m, self.m + self.w).cpu())
        self._name_rows(self.m, self.m + self.w)

    def _extend(self, m: int, C: Tensor) -> None:
        """Take the coefficients of the rows after ``m`` into ``T`` and ``D``."""
        w = C.shape[1]
        before = torch.zeros(w, m, dtype=torch.float64)
        before[: self.R.shape[0], : self.R.shape[1]] = self.R
        corner = (C[m:] + C[m:].T) / 2
        self.D[m : m + w, :m] = before - C[:m].T
        self.D[m : m + w, m : m + w] = C[m:] - corner
        worst = float(self.D[m : m + w, : m + w].abs().max())
        if self.complete and not self.shares_lost:
            self.asymmetry = max(self.asymmetry, worst)
        self.T[:m, m : m + w] = C[:m]
        self.T[m : m + w, :m] = C[:m].T
        self.T[m : m + w, m : m + w] = corner
        self.G = torch.nn.functional.pad(self.G, (0, w))

    def flush(self) -> None:
        """Bring the coefficients of the last steps over from the device."""
        if not self._lagged:
            return
        lengths = [len(packed) for _, packed in self._lagged]
        numbers = torch.cat([packed for _, packed in self._lagged]).cpu()
        for (m, _), packed in zip(self._lagged, numbers.split(lengths), strict=True):
            self.norm = max(self.norm, float(packed[-2]))
            column, shares = packed[: m + 1, None], packed[m + 1 : -2, None]
            self._extend(m, column)
            self.m = m + 1
            beta = float(packed[-1])
            broken = beta <= self.threshold or self.m >= self.session.n
            rows = 0 if broken else 1
            self.w = rows
            self.R = torch.zeros(rows, self.m, dtype=torch.float64)
            self.R[:, m] = beta
            if broken:
                # A row of rounding noise took a share with it.
                lost = float((shares.T @ self.G).abs().max()) if len(shares) else 0.0
                self.complete &= lost <= self.threshold
                break
            self._share(shares)
        del self.serials[self.m + self.w :]
        self._lagged.clear()

    def ritz(self, start: int = 0) -> Ritz:
        """Solve the projected problem on the rows from ``start`` on."""
        self.flush()
        values, vectors = torch.linalg.eigh(self.T[start : self.m, start : self.m])
        # What is held belongs to the rows before a later chain.
        outside = self.R[:, start:]
        if start == 0:
            outside = torch.cat([outside, self._held_factor() @ self.G])
        residuals = torch.linalg.vector_norm(outside @ vectors, dim=0)
        return Ritz(values, vectors, residuals)

    def residuals(self, S: Tensor) -> Tensor:
        """Return the norms of the residuals of ``Q' S``, as the products had them."""
        held = self._held_factor() @ self.G
        parts = torch.cat([self.D[: self.m, : self.m], self.R, held])
        return torch.linalg.vector_norm(parts @ S, dim=0)

    def image(self, c: Tensor) -> Tensor:
        """Return ``A Q' c`` by what earlier products gave, without a new one."""
        inside = (self.T + self.D)[: self.m, : self.m] @ c
        result = self.basis.combine(torch.cat([inside, self.R @ c])[:, None])[0]
        if self.held.shape[0]:
            outside = (self.G @ c).to(self.held)
            result += outside @ self.held
        return result

    def compress(self, S: Tensor, start: int = 0) -> None:
        """Replace the rows from ``start`` on by ``S'`` times them, in place."""
        self.flush()
        m, kept = self.m, start + S.shape[1]
        if start:
            # Rows of earlier chains had shares in what is dropped now.
            shares = self.T[:start, start:m]
            lost = float((shares - shares @ S @ S.T).abs().max())
            self.shares_lost |= lost > self.threshold
        pending = self.basis.rows(m, m + self.w).clone()
        self.basis.rotate(start, S)
        self.basis.write(kept, pending)
        for matrix in (self.T, self.D):
            turned = matrix[:m, :m].clone()
            turned[:, start:kept] = turned[:, start:] @ S
            turned[start:kept] = S.T @ turned[start:]
            matrix.zero_()
            matrix[:kept, :kept] = turned[:kept, :kept]
        self.T[:kept, :kept] = (self.T[:kept, :kept] + self.T[:kept, :kept].T) / 2
        self.R, self.G = (
            torch.cat([rows[:, :start], rows[:, start:] @ S], dim=1)
            for rows in (self.R, self.G)
        )
        self.m = kept
        self._name_rows(start, kept + self.w)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
        """Return what a resumed run needs: numbers, small tensors, rows by name."""
        numbers = {
            "m": self.m,
            "w": self.w,
            "first": self.first,
            "norm": self.norm,
            "asymmetry": self.asymmetry,
            "complete": self.complete,
            "shares_lost": self.shares_lost,
            "serials": self.serials,
            "next_serial": self._next_serial,
        }
        small = {
            "T": self.T,
            "D": self.D,
            "R": self.R,
            "G": self.G,
            "K": self.K,
            "held": self.held,
            "generator": self.generator.get_state(),
        }
        rows = {
            f"row-{s}": self.basis.rows(i, i + 1)[0] for i, s in enumerate(self.serials)
        }
        return numbers, small, rows

    def restore(self, numbers: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Take over what `state` returned; ``tensors`` is emptied of rows."""
        self.m, self.w = numbers["m"], numbers["w"]
        self.first = numbers["first"]
        self.norm, self.asymmetry = numbers["norm"], numbers["asymmetry"]
        self.complete = numbers["complete"]
        self.shares_lost = numbers["shares_lost"]
        self.serials = list(numbers["serials"])
        self._next_serial = numbers["next_serial"]
        self.T, self.D = tensors["T"], tensors["D"]
        self.R, self.G, self.K = tensors["R"], tensors["G"], tensors["K"]
        self.held = tensors["held"].to(self.held)
        self.generator.set_state(tensors["generator"])
        for i, serial in enumerate(self.serials):
            self.basis.write(i, tensors.pop(f"row-{serial}")[None])
