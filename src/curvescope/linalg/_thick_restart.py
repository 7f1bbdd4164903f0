"""Thick-restart block Lanczos as a machine of states that can stop at any product.

Phases: *build* until the wanted Ritz pairs are converged by their estimates; *check*
for eigenvectors that the first start cannot reach (a single chain meets each
eigenspace in one direction); *certify* the residuals that the recurrence has by one
product with a mixture of all pairs; where that does not prove them, or products were
asked, *verify* by a product each, and go back to *build* from those that fail.
"""

import math
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from curvescope._core.checkpoint import Checkpoint
from curvescope._core.random import gaussian
from curvescope.linalg._hidden import nothing_hides
from curvescope.linalg._krylov import KrylovSpace, Ritz
from curvescope.linalg._products import float64_gram
from curvescope.linalg._session import Session
from curvescope.linalg._wanted import edge, ends, order

_FLOOR_EPS = 32.0
_MIN_CHECK = 20
# What rounding was seen to add to a residual at most, an eighth of the floor.
_ROUNDING_EPS = 4.0
# One mixture shows the deviations of all pairs as one sum of squares; a single pair that
# deviates alone has a share in it that may be small.
_MIXTURE = 3.0


@dataclass(frozen=True)
class Plan:
    """What is asked for."""

    k: int
    which: str
    tol: float
    block_size: int
    max_matvecs: int
    check_multiplicity: bool
    residuals: str = "checked"


@dataclass
class Progress:
    """Where the machine stands; plain numbers only, so that it saves as JSON."""

    phase: str = "build"
    first_products: int = 0
    chain_began: int = -1
    chain_steps: int = 0
    chain_width: int = 0
    chain_edges: list[float] = field(default_factory=list)
    found: bool = False
    checked: bool = False
    check_cut_short: bool = False
    exhausted: bool = False
    verified: int = 0
    residuals_from: str = ""
    values: list[float] = field(default_factory=list)
    residuals: list[float] = field(default_factory=list)
    failing: list[int] = field(default_factory=list)
    worst: float = math.inf
    num_failing: int = 0


class ThickRestart:
    """The machine: `run` it, then read `values`, `residuals`, `vectors`."""

    def __init__(
        self,
        session: Session,
        space: KrylovSpace,
        plan: Plan,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.session, self.space, self.plan = session, space, plan
        self.checkpoint = checkpoint
        self.progress = Progress()
        self._looked_at = 0

    def run(self, start: Tensor | None) -> None:
        """Run from ``start`` rows (or random ones), or from the saved state, to the end."""
        if not self._resume():
            if start is None:
                self.space.start_chain(self.plan.block_size)
            else:
                self.space.set_pending(start)
        actions = {
            "build": self._build,
            "check": self._check,
            "certify": self._certify,
            "verify": self._verify,
        }
        while self.progress.phase != "done":
            before = self._spent()
            self.session.expect(self._forecast())
            actions[self.progress.phase]()
            if self._spent() > before and not self.space.lagging:
                self._save()
        self.values = torch.tensor(self.progress.values, dtype=torch.float64)
        self.residuals = torch.tensor(self.progress.residuals, dtype=torch.float64)

    def floor(self) -> float:
        """Return the residual that rounding alone explains, in the scaled matrix."""
        return _FLOOR_EPS * self.space.eps * self.space.norm

    def allowed(self, values: Tensor) -> Tensor:
        """Return the residual norm at which each value counts as converged."""
        return (self.plan.tol * values.abs()).clamp_min(self.floor())

    def _spent(self) -> int:
        return self.session.num_matvecs

    def _reserve(self) -> int:
        """Return the products that the residuals take at the end."""
        if self.plan.residuals == "products" or not self.space.complete:
            return self.plan.k
        return 1 if self.plan.residuals == "checked" else 0

    def _forecast(self) -> int:
        """Guess all products of the run, from typical ones; for the time left alone."""
        spent, k = self._spent(), self.plan.k
        if self.progress.phase == "verify":
            return max(spent + 1, spent + k - self.progress.verified)
        check = self.progress.first_products // 3 - self.progress.chain_steps
        if self.progress.phase == "build":
            first = max(spent + 1, 3 * k)
            check = first // 3 if self.plan.check_multiplicity else 0
            return first + self._reserve() + check
        return spent + max(1, check) + self._reserve()

    def _affordable(self) -> bool:
        """Whether one more block leaves enough for the residuals at the end."""
        width = self.space.w or self.plan.block_size
        return self._spent() + width + self._reserve() <= self.plan.max_matvecs

    def _wanted(self, ritz: Ritz) -> Tensor:
        return order(ritz.values, self.plan.which)[: self.plan.k]

    def _converged(self, ritz: Ritz) -> bool:
        chosen = self._wanted(ritz)
        if len(chosen) < self.plan.k:
            return False
        # A little less than allowed: the true residual has rounding on top.
        rounding = _ROUNDING_EPS * self.space.eps * self.space.norm
        allowed = self.allowed(ritz.values[chosen]).square() - rounding**2
        good = ritz.residuals[chosen] <= 0.99 * allowed.clamp_min(0.0).sqrt()
        self.session.status(f"{int(good.sum())} of {self.plan.k} converged")
        return bool(good.all())

    def _step(self) -> None:
        """Make room and multiply once."""
        space = self.space
        full = space.m + space.w > space.size or space.m >= self.session.n
        if space.w == 0 or full:
            space.flush()
        if space.w == 0:
            space.start_chain(self.plan.block_size)
        if space.m + space.w > space.size:
            self._restart()
        space.step()

    def _restart(self) -> None:
        """Keep the wanted Ritz vectors and some of the next best."""
        space = self.space
        self.session.check()
        start = space.first
        ritz = space.ritz(start)
        total = len(ritz.values)
        if start:
            self.progress.chain_width = 0  # its start is lost
        wanted = self.plan.k if start == 0 else 0
        keep = wanted + (total - wanted) // 2
        keep = min(keep, space.size - start - space.w - 1)
        chosen = order(ritz.values, self.plan.which)[: max(keep, min(wanted, total))]
        space.compress(ritz.vectors[:, chosen.sort().values], start)

    def _is_time_to_look(self) -> bool:
        """Spread the small eigenproblems where they are not small."""
        m = self.space.m
        return m >= self.plan.k and (
            m - self._looked_at >= max(1, m // 64) or m + self.space.w > self.space.size
        )

    def _build(self) -> None:
        space, progress = self.space, self.progress
        if space.m >= self.session.n:
            space.flush()
        complete = space.m >= self.session.n
        if complete or not self._affordable():
            progress.exhausted = not complete
            self._leave_build()
            return
        self._step()
        self._looked_at = min(self._looked_at, space.m - 1)
        if not space.lagging and self._is_time_to_look():
            self._looked_at = space.m
            if self._converged(space.ritz()):
                self._leave_build()
            elif space.held.shape[0]:
                self._refocus()

    def _refocus(self) -> None:
        """Go on from where the wanted pairs lack most, if that is a row held back."""
        space = self.space
        ritz = space.ritz()
        chosen = self._wanted(ritz)
        S, allowed = ritz.vectors[:, chosen], self.allowed(ritz.values[chosen])
        # What is held may have gone over into rows that came later.
        held = (space.K.diagonal().clamp_min(0.0).sqrt()[:, None] * space.G) @ S
        held = torch.linalg.vector_norm(held, dim=0) / allowed
        pending = torch.linalg.vector_norm(space.R @ S, dim=0) / allowed
        if float(held.max()) > max(0.5, float(pending.max()) if space.w else 0.0):
            lacking = held > 0.5
            space.refocus(S[:, lacking] / allowed[lacking], self.plan.block_size)

    def _leave_build(self) -> None:
        progress = self.progress
        self._looked_at = 0
        skip = (
            progress.checked or progress.exhausted or not self.plan.check_multiplicity
        )
        if skip or self.space.m >= self.session.n:
            self._enter_residuals()
            return
        progress.phase = "check"
        progress.first_products = self._spent()
        progress.chain_began = -1

    def _begin_chain(self) -> None:
        """Put the old rows away, make room, and start from a new random vector."""
        space, plan = self.space, self.plan
        space.flush()
        ritz = space.ritz()
        room = space.size - space.m
        if room < min(_MIN_CHECK, (space.size - plan.k) // 2 + plan.block_size):
            keep = min(plan.k + (space.size - plan.k) // 4, space.m)
            chosen = order(ritz.values, plan.which)[:keep]
            space.compress(ritz.vectors[:, chosen.sort().values])
        wanted = ritz.values[self._wanted(ritz)]
        # Held back, not given up: the residuals that were reached stay known.
        space.hold_pending()
        self.progress.chain_edges = [edge(e, wanted) for e in ends(plan.which, plan.k)]
        space.start_chain(plan.block_size)
        space.first = space.m
        self.progress.chain_began = self._spent()
        self.progress.chain_steps, self.progress.chain_width = 0, space.w
        self.progress.found = False

    def _check(self) -> None:
        progress, space = self.progress, self.space
        if progress.chain_began < 0:
            self._begin_chain()
        if space.w == 0:
            # The chain closed on itself: what it could reach is known exactly.
            self._end_chain()
            return
        budget = max(_MIN_CHECK, progress.first_products)
        spent = self._spent() - progress.chain_began
        if spent + space.w > budget or not self._affordable():
            progress.check_cut_short = True
            progress.found = False
            self._end_chain()
            return
        self._step()
        progress.chain_steps += 1
        if not space.lagging and space.w and self._chain_is_clean():
            self._end_chain()

    def _chain_is_clean(self) -> bool:
        """Tell whether nothing larger than the last wanted value hides."""
        space, plan, progress = self.space, self.plan, self.progress
        whole = space.ritz()
        wanted = whole.values[self._wanted(whole)]
        for e in ends(plan.which, plan.k):
            limit = edge(e, wanted)
            slack = plan.tol * abs(limit) + self.floor()
            width, steps = progress.chain_width, progress.chain_steps
            if not nothing_hides(
                e, limit, slack, space, steps=steps, start_width=width
            ):
                return False
        return True

    def _end_chain(self) -> None:
        """Close a chain; start another one if this one brought something new."""
        space, plan, progress = self.space, self.plan, self.progress
        whole = space.ritz()
        wanted = whole.values[self._wanted(whole)]
        found = False
        for e, before in zip(
            ends(plan.which, plan.k), progress.chain_edges, strict=True
        ):
            slack = plan.tol * abs(before) + self.floor()
            chain = e.key(space.ritz(space.first).values)
            found |= bool((chain > before + slack).any())
            found |= edge(e, wanted) > before + slack
        space.first = 0
        if found and space.m < self.session.n and not progress.check_cut_short:
            progress.chain_began = -1
            return
        progress.checked = True
        self._enter_residuals()

    def _enter_residuals(self) -> None:
        """Choose how residuals are found: from the recurrence, or by products."""
        space, plan, progress = self.space, self.plan, self.progress
        space.flush()
        space.first = 0
        self.session.check()
        more = progress.checked and space.complete and not progress.exhausted
        if more and self._affordable() and not self._converged(space.ritz()):
            # Vectors that the check brought may need more steps.
            self._refocus()
            progress.phase = "build"
            return
        if plan.residuals == "products" or not space.complete:
            self._bring_wanted_forward()
            progress.phase = "verify"
        elif plan.residuals == "checked":
            progress.phase = "certify"
        else:
            ritz = space.ritz()
            S = ritz.vectors[:, self._wanted(ritz)]
            self._settle(ritz, self._with_rounding(space.residuals(S)))
            self._finish("estimated")

    def _bring_wanted_forward(self) -> None:
        """Turn the wanted Ritz vectors into the first rows, and keep some others."""
        space, plan, progress = self.space, self.plan, self.progress
        ritz = space.ritz()
        first = self._wanted(ritz)
        keep = min(space.m, plan.k + (space.size - plan.k) // 2)
        ranked = order(ritz.values, plan.which)[:keep]
        rest = [i for i in ranked.tolist() if i not in set(first.tolist())]
        chosen = torch.tensor([*first.tolist(), *rest])
        space.compress(ritz.vectors[:, chosen])
        progress.verified = 0
        progress.values, progress.residuals, progress.failing = [], [], []

    def _with_rounding(self, residuals: Tensor) -> Tensor:
        """Add what the vectors' own rounding may be in a residual."""
        rounding = _ROUNDING_EPS * self.space.eps * self.space.norm
        return torch.hypot(residuals, residuals.new_tensor(rounding))

    def _settle(self, ritz: Ritz, residuals: Tensor) -> None:
        """Take over values and residuals of the wanted pairs, whose rows come first."""
        values = ritz.values[self._wanted(ritz)]
        self._bring_wanted_forward()
        self.progress.values = values.tolist()
        self.progress.residuals = residuals.tolist()

    def _finish(self, residuals_from: str) -> None:
        self.progress.phase = "done"
        self.progress.residuals_from = residuals_from

    def _certify(self) -> None:
        """Compare one product with what the recurrence says of a mixture of all pairs.

        With independent Gaussian weights the square of the difference is, in the mean,
        the sum of the squares by which the pairs' true residuals differ from those that
        the recurrence has: rounding, noise, a matrix that is not what it was, a basis
        that was kept in fewer digits.
        """
        space, plan, progress = self.space, self.plan, self.progress
        ritz = space.ritz()
        S = ritz.vectors[:, self._wanted(ritz)]
        weights = gaussian(
            (plan.k,), space.generator, dtype=torch.float64, device=S.device
        )
        weights *= math.sqrt(plan.k) / float(torch.linalg.vector_norm(weights))
        c = S @ weights
        mixture = space.basis.combine(c[:, None]).T
        product = self.session.product(mixture)[:, 0]
        gap = product.sub_(space.image(c))
        deviation = float(torch.linalg.vector_norm(gap, dtype=torch.float64))
        if plan.k > 1:
            deviation *= _MIXTURE
        residuals = torch.hypot(space.residuals(S), S.new_tensor(deviation))
        residuals = self._with_rounding(residuals)
        self._settle(ritz, residuals)
        values = torch.tensor(progress.values, dtype=torch.float64)
        proven = bool((residuals <= self.allowed(values)).all())
        affordable = self._spent() + plan.k <= plan.max_matvecs
        if proven or progress.exhausted or not affordable:
            self._finish("checked")
            return
        progress.values, progress.residuals = [], []
        progress.phase = "verify"

    def _verify(self) -> None:
        """Multiply the next block of wanted vectors; judge when all are done."""
        space, plan, progress = self.space, self.plan, self.progress
        if progress.verified == 0:
            space.give_up_pending()
        first = progress.verified
        last = min(first + self.session.A.block_size, plan.k)
        Y = space.basis.rows(first, last)
        W = self.session.product(Y.T).T.contiguous()
        values, residuals = rayleigh(Y, W)
        allowed = self.allowed(values)
        for i in range(last - first):
            progress.values.append(float(values[i]))
            progress.residuals.append(float(residuals[i]))
            if residuals[i] > allowed[i] and space.w < space.spare:
                space.park(W[i] - float(values[i]) * Y[i])
                progress.failing.append(first + i)
        progress.verified = last
        if last == plan.k:
            self._judge()

    def _judge(self) -> None:
        """Finish, or go on from the residuals of the pairs that failed."""
        space, progress = self.space, self.progress
        values = torch.tensor(progress.values, dtype=torch.float64)
        residuals = torch.tensor(progress.residuals, dtype=torch.float64)
        allowed = self.allowed(values)
        bad = residuals > allowed
        worst = float((residuals / allowed.clamp_min(1e-300)).max())
        # Where rounding or noise sets the residual, repeating does not help.
        better = worst <= progress.worst / 2 or int(bad.sum()) < progress.num_failing
        progress.worst, progress.num_failing = worst, int(bad.sum())
        if not (bad.any() and better and space.w and self._affordable()):
            self._finish("products")
            return
        # Those that fail beyond the room for residuals count as good for now; the
        # next round of true residuals has them again.
        space.continue_from_parked(progress.failing)
        progress.phase = "build"

    def vectors(self) -> Tensor:
        """Return the wanted vectors, shape ``(n, k)``."""
        return self.space.basis.rows(0, self.plan.k).clone().T

    def _identity(self) -> str:
        plan, session, space = self.plan, self.session, self.space
        numbers = f"{space.size}, {space.generator.initial_seed()}, {session.n}"
        return f"{plan}, {numbers}, {session.dtype}, {session.fingerprint}"

    def _save(self) -> None:
        if self.checkpoint is None or not self.checkpoint.due():
            return
        numbers, small, rows = self.space.state()
        session = self.session
        state = {
            "identity": self._identity(),
            "space": numbers,
            "progress": asdict(self.progress),
            "looked_at": self._looked_at,
            "num_matvecs": session.num_matvecs,
            "num_data_passes": session.num_data_passes,
            "scale": session.scale,
            "seconds": session.seconds(),
        }
        self.checkpoint.save(state, small, appended=rows)

    def _resume(self) -> bool:
        if self.checkpoint is None:
            return False
        saved = self.checkpoint.load(self._identity())
        if saved is None:
            return False
        state, tensors = saved
        self.space.restore(state["space"], tensors)
        self.progress = Progress(**state["progress"])
        self._looked_at = state["looked_at"]
        session = self.session
        session.num_matvecs = state["num_matvecs"]
        session.num_data_passes = state["num_data_passes"]
        session.scale = state["scale"]
        session.earlier_seconds = state["seconds"]
        return True


def rayleigh(Y: Tensor, W: Tensor) -> tuple[Tensor, Tensor]:
    """Return Rayleigh quotients and residual norms of rows ``Y``, ``W = A Y``, float64."""
    norms = torch.stack([float64_gram(y[None], y[None])[0, 0] for y in Y])
    values = torch.stack(
        [float64_gram(y[None], w[None])[0, 0] for y, w in zip(Y, W, strict=True)]
    )
    values = values / norms
    residuals = torch.stack(
        [_residual(y, w, v) for y, w, v in zip(Y, W, values, strict=True)]
    )
    return values, residuals / norms.sqrt()


def _residual(y: Tensor, w: Tensor, value: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.float64, device=y.device)
    for a, b in zip(y.split(1 << 20), w.split(1 << 20), strict=True):
        total += (b.double() - value.to(y.device) * a.double()).square().sum()
    return total.sqrt().cpu()
