"""Lanczos on several probes at once: one block product a step, a basis for each probe."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curvescope._core import memory
from curvescope._core.checkpoint import Checkpoint
from curvescope._core.checks import message
from curvescope._core.random import gaussian
from curvescope.linalg._basis import basis_folder, mapped_rows, room_for_rows
from curvescope.linalg._products import length_of_copies
from curvescope.linalg._session import Session

_BREAKDOWN_EPS = 20.0
_MOSTLY_LEFT = 0.7
_EXACT = 2


class ProbeBases:
    """The bases of ``p`` probes, with room for some steps, kept as `Basis` keeps rows.

    In bfloat16 the two newest vectors stay exact: a product is large along these, and
    along all others as small as rounding makes it.
    """

    def __init__(self, kind: str | Path, p: int, steps: int, session: Session) -> None:
        name, folder = basis_folder(kind)
        self.dtype, self.device = session.dtype, session.device
        self.p, self.steps, self.n = p, steps, session.n
        shape = (p, steps, self.n)
        self.newest: Tensor | None = None
        self.written = 0
        if name == "bfloat16":
            self.Q = torch.empty(shape, dtype=torch.bfloat16, device=self.device)
            self.newest = torch.zeros(
                p, _EXACT, self.n, dtype=self.dtype, device=self.device
            )
        elif name == "disk":
            assert folder is not None
            self.Q = mapped_rows(p * steps, self.n, self.dtype, folder).reshape(shape)
        else:
            device = torch.device("cpu") if name == "cpu" else self.device
            self.Q = torch.empty(shape, dtype=self.dtype, device=device)

    def write(self, j: int, vectors: Tensor) -> None:
        """Store the vectors of step ``j``, the last of all that are there."""
        self.Q[:, j] = vectors.to(device=self.Q.device, dtype=self.Q.dtype)
        if self.newest is not None:
            self.newest[:, j % _EXACT] = vectors
        self.written = j + 1

    def read(self, j: int) -> Tensor:
        """Return the vectors of step ``j``, as exact as they are kept."""
        if self.newest is not None and j >= self.written - _EXACT:
            return self.newest[:, j % _EXACT]
        return self.Q[:, j].to(device=self.device, dtype=self.dtype)

    def _part(self, m: int, columns: slice) -> Tensor:
        part = self.Q[:, :m, columns].to(device=self.device, dtype=self.dtype)
        if self.newest is not None:
            for j in range(max(0, self.written - _EXACT), m):
                part[:, j] = self.newest[:, j % _EXACT, columns]
        return part

    def project_out(self, W: Tensor, m: int) -> Tensor:
        """Make each row of ``W`` orthogonal to its own first ``m``; return coefficients."""
        length = length_of_copies(self.p * m, self.Q, W)
        if self.n <= length:
            return _orthogonalised(self._part(m, slice(None)), W)[:, :, 0]
        total = torch.zeros(self.p, m, 1, dtype=torch.float64, device=W.device)
        again = torch.zeros_like(total)
        pieces = [slice(i, i + length) for i in range(0, self.n, length)]
        for piece in pieces:
            total += self._part(m, piece) @ W[:, piece, None]
        first = total.mT.to(W.dtype)
        for piece in pieces:
            Q = self._part(m, piece)
            W[:, piece] -= (first @ Q)[:, 0]
            again += Q @ W[:, piece, None]
        second = again.mT.to(W.dtype)
        for piece in pieces:
            W[:, piece] -= (second @ self._part(m, piece))[:, 0]
        return (total + again)[:, :, 0]


def _orthogonalised(Q: Tensor, W: Tensor) -> Tensor:
    """Make each row of ``W`` orthogonal to its own ``Q``; return coefficients.

    A product has large parts along the two newest vectors alone. When these are gone,
    one pass over all of them is enough, unless it takes away a part that is not rounding:
    then its own rounding counts, and there is another one.

    References:
        Daniel, Gragg, Kaufman and Stewart (1976), doi:10.1090/S0025-5718-1976-0431641-8.
    """
    newest = min(2, Q.shape[1])
    total = torch.zeros(*Q.shape[:2], 1, dtype=torch.float64, device=W.device)
    total[:, -newest:] = _projected_out(Q[:, -newest:], W)
    before = torch.linalg.vector_norm(W, dim=1)
    total += _projected_out(Q, W)
    after = torch.linalg.vector_norm(W, dim=1)
    # Where the answer would have to be waited for, another pass is cheaper.
    if W.device.type != "cpu" or bool((after < _MOSTLY_LEFT * before).any()):
        total += _projected_out(Q, W)
    return total


def _projected_out(Q: Tensor, W: Tensor) -> Tensor:
    """Subtract from each row of ``W`` its part along its own ``Q``; return coefficients."""
    found = torch.bmm(Q, W[:, :, None])
    W[:, None].baddbmm_(found.mT, Q, alpha=-1)
    return found


class Lockstep:
    """Lanczos on several probes at once, in groups that fit into memory.

    Attributes:
        num_steps: Steps of each probe.
        done: Diagonals and off-diagonals of finished probes, side by side.
        notes: What is to be said about the memory.
    """

    def __init__(
        self,
        session: Session,
        num_steps: int,
        generator: torch.Generator,
        checkpoint: Checkpoint | None,
        *,
        basis: str | Path = "device",
    ) -> None:
        self.session, self.generator = session, generator
        self.num_steps = num_steps
        self.checkpoint = checkpoint
        self.basis = basis
        self.eps = torch.finfo(session.dtype).eps
        self.notes: list[str] = []
        self.done = torch.zeros(0, 2 * num_steps, dtype=torch.float64)
        self.step = 0
        self.current = torch.zeros(0, 0)

    def group_size(self, num_probes: int) -> int:
        """Return how many probes fit at once; say so if that is not all of them."""
        vectors, room = self._room()
        fits = vectors // (self.num_steps + 4)
        if fits == 0:
            remedy = (
                "Use fewer steps, a smaller part of the parameters, or another "
                '`basis`: "bfloat16", "cpu" or "disk".'
            )
            needed = (self.num_steps + 4) * self.session.n * self.session.dtype.itemsize
            got = f"{self.num_steps} ({memory.format_bytes(needed)} a probe)"
            contract = f"let one probe's basis fit into {memory.format_bytes(room)}"
            raise ValueError(message("num_steps", contract, got, remedy))
        text = f"probes went in groups of {fits}: all bases together exceed the memory"
        if fits < num_probes and text not in self.notes:
            self.notes.append(text)
        return min(fits, num_probes)

    def rounding_note(self) -> list[str]:
        """Say what is lost by a basis in bfloat16.

        A coefficient of a unit vector with a rounded one is off by the product of the
        rounding with a vector that has nothing to do with it; four times what that is in
        the mean.
        """
        if self.basis != "bfloat16":
            return []
        size = 2.0**-7 / self.session.n**0.5
        return [
            f"bases were kept in bfloat16: vectors are orthogonal up to about {size:.0e}"
        ]

    def _room(self) -> tuple[int, float]:
        """Return how many vectors fit where the bases go, and the bytes they take."""
        session = self.session
        return room_for_rows(
            self.basis, session.n, dtype=session.dtype, device=session.device, others=0
        )

    def coefficients(self, num_probes: int) -> tuple[Tensor, Tensor]:
        """Return diagonals and off-diagonals, shape ``(num_probes, num_steps)``."""
        self.group = self.group_size(num_probes)
        self.identity = f"slq {num_probes} {self.num_steps} {self.group}"
        resumed = self.resume()
        self.finish_probes(num_probes, resumed=resumed)
        return self.done[:, : self.num_steps], self.done[:, self.num_steps :]

    def finish_probes(self, num_probes: int, *, resumed: bool) -> None:
        """Run groups until so many probes are done."""
        while self.done.shape[0] < num_probes:
            if not resumed:
                self.begin_group(min(self.group, num_probes - self.done.shape[0]))
            resumed = False
            self.run_group()
            self.end_group()

    def begin_group(self, p: int) -> None:
        """Draw probes, and make room for their bases."""
        session = self.session
        shape = (p, session.n)
        V = gaussian(shape, self.generator, dtype=session.dtype, device=session.device)
        norms = torch.linalg.vector_norm(V, dim=1, keepdim=True, dtype=torch.float64)
        self.allocate(p)
        self.bases.write(0, V / norms.to(V.dtype))

    def allocate(self, p: int) -> None:
        """Make room for the bases of ``p`` probes."""
        self.bases = ProbeBases(self.basis, p, self.num_steps, self.session)
        self.current = torch.zeros(
            p, 2 * self.num_steps, dtype=torch.float64, device=self.session.device
        )

    def end_group(self) -> None:
        """Put the probes of this group to those that are done."""
        self.done = torch.cat([self.done, self.current.cpu()])
        self.step = 0

    def run_group(self) -> None:
        """Step until the last step, or until every probe's space has ended."""
        cpu = self.session.device.type == "cpu"
        while self.step < self.num_steps:
            alive = self._advance()
            self.step += 1
            # A probe whose space has ended has a zero vector from then on.
            if (cpu or self.step % 8 == 0) and not bool(alive.any()):
                break
            self.save()
        self.step = self.num_steps

    def _advance(self) -> Tensor:
        """Multiply the newest vector of each probe, and extend the bases."""
        j, steps = self.step, self.num_steps
        W = self.session.product(self.bases.read(j).T).T.contiguous()
        size = torch.linalg.vector_norm(W, dim=1, dtype=torch.float64)
        coefficients = self.bases.project_out(W, j + 1)
        beta = torch.linalg.vector_norm(W, dim=1, dtype=torch.float64)
        self.current[:, j] = coefficients[:, j]
        norm = torch.maximum(size, self.current[:, :steps].abs().amax(dim=1))
        alive = beta > _BREAKDOWN_EPS * self.eps * norm
        beta = torch.where(alive, beta, torch.zeros_like(beta))
        self.current[:, steps + j] = beta
        if j + 1 < self.bases.steps:
            inverse = torch.where(alive, 1.0 / beta, torch.zeros_like(beta))
            self.bases.write(j + 1, W * inverse.to(W.dtype)[:, None])
        return alive

    def _identity(self) -> str:
        s = self.session
        seed = self.generator.initial_seed()
        return f"{self.identity} {self.basis} {seed} {s.n} {s.dtype} {s.fingerprint}"

    def state(self) -> dict[str, Any]:
        """Return the numbers that a resumed run needs."""
        return {"step": self.step, "group": self.current.shape[0]}

    def save(self) -> None:
        """Save the state, if that is due."""
        if self.checkpoint is None or not self.checkpoint.due():
            return
        session, first = self.session, self.done.shape[0]
        state = {
            **self.state(),
            "identity": self._identity(),
            "num_matvecs": session.num_matvecs,
            "num_data_passes": session.num_data_passes,
            "scale": session.scale,
            "seconds": session.seconds(),
        }
        small = {
            "done": self.done,
            "current": self.current,
            "generator": self.generator.get_state(),
        }
        newest = self.bases.written - _EXACT
        rows = {}
        for j in range(self.bases.written):
            # What is exact now and rounded later has two names.
            kind = "exact-" if self.bases.newest is not None and j >= newest else ""
            rows[f"{kind}probe-{first}-step-{j}"] = self.bases.read(j)
        self.checkpoint.save(state, small, appended=rows)

    def resume(self) -> bool:
        """Take over the saved state, if it is of this computation."""
        if self.checkpoint is None:
            return False
        saved = self.checkpoint.load(self._identity())
        if saved is None:
            return False
        state, tensors = saved
        self.restore(state, tensors)
        session = self.session
        session.num_matvecs = state["num_matvecs"]
        session.num_data_passes = state["num_data_passes"]
        session.scale = state["scale"]
        session.earlier_seconds = state["seconds"]
        return True

    def restore(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Take over numbers and tensors."""
        self.step = state["step"]
        self.done = tensors["done"]
        self.allocate(state["group"])
        self.current.copy_(tensors["current"])
        self.generator.set_state(tensors["generator"])
        prefix = f"probe-{self.done.shape[0]}-step-"
        names = {
            int(name.rsplit("-", 1)[1]): name for name in tensors if prefix in name
        }
        for j in sorted(names):
            self.bases.write(j, tensors.pop(names[j]))
