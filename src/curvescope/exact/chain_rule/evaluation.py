r"""Derivatives of some samples by every layer's output, from one forward pass.

With u what a layer gives and z the network's outputs,

.. math:: B = \frac{\partial z}{\partial u}, \qquad
    M = B^\top \frac{\partial^2 \ell}{\partial z^2} B
        + \sum_c \frac{\partial \ell}{\partial z_c} \frac{\partial^2 z_c}{\partial u^2}

K backward passes give B for all layers at once. The second term takes one pass a column
of u, and none where a random direction shows that it vanishes.

A unit is what the objective is a sum over: a sample, or a position of a sample where no
position looks at another from the layer on.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from curvescope._core.nodes import once_differentiable
from curvescope._core.random import DEFAULT_SEED, gaussian
from curvescope.autodiff.columns import pullback
from curvescope.autodiff.graphs import custom_functions
from curvescope.curvature.matrices import output_gradient
from curvescope.exact.chain_rule.sites import Perturbed, Site
from curvescope.losses.base import AbstractLoss
from curvescope.problem import Problem
from curvescope.problem.batches import Batch

# What a backward pass of several columns may hold.
COLUMN_BYTES = 64 * 2**20
_MOST_COLUMNS = 32
_ROUNDING = 1e-9


@final
@dataclass(frozen=True, kw_only=True)
class SignedFactor:
    """R and s with ``R' diag(s) R`` the loss sum's Hessian by each unit's outputs.

    Attributes:
        rows: ``(U, K', K)``.
        signs: ``(U, K')``; ``None`` where all are positive.
    """

    rows: Tensor
    signs: Tensor | None


def signed_factor(
    loss: AbstractLoss, outputs: Tensor, targets: Any, *, unit_dims: int
) -> SignedFactor | None:
    """Factorise the loss's Hessian by the outputs of every unit.

    Args:
        loss: The loss.
        outputs: Their first ``unit_dims`` dimensions count the units.
        targets: As the loss takes them.
        unit_dims: 1 for samples, more for positions.

    Returns:
        The factor; ``None`` where the loss couples the units.
    """
    outputs = outputs.detach()
    if unit_dims == 1 and outputs.ndim == 2:
        rows = loss.output_factor(outputs, targets)
        if rows is not None:
            return SignedFactor(rows=rows, signs=None)
    units = math.prod(outputs.shape[:unit_dims])
    width = outputs.numel() // units
    product = loss.output_hessian(outputs, targets)
    unit = torch.eye(width).to(outputs)[:, None, :].expand(width, units, width)
    columns = product(unit.reshape(width, *outputs.shape))
    matrices = columns.reshape(width, units, width).transpose(0, 1)
    if unit_dims > 1:
        # A loss that couples positions has entries outside of these blocks.
        v = _noise(outputs.shape).to(outputs)
        whole = product(v[None])[0].reshape(units, width)
        own = (matrices @ v.reshape(units, width, 1))[:, :, 0]
        if float((whole - own).abs().max()) > _ROUNDING * float(whole.abs().max()):
            return None
    values, vectors = torch.linalg.eigh((matrices + matrices.transpose(1, 2)) / 2)
    # Below, an eigenvalue is the rounding of a zero.
    floor = width * torch.finfo(values.dtype).eps * values.abs().amax(-1, keepdim=True)
    values = torch.where(values.abs() > floor, values, 0.0)
    rows = values.abs().sqrt()[:, :, None] * vectors.transpose(1, 2)
    negative = bool((values < 0).any())
    return SignedFactor(rows=rows, signs=values.sign() if negative else None)


def _noise(shape: Sequence[int], seed: int = DEFAULT_SEED) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    device = torch.device("cpu")
    return gaussian(tuple(shape), generator, dtype=torch.float64, device=device)


@final
class Evaluation:
    """The graph of some samples, to be differentiated by what every layer gives.

    To be made and used inside ``problem.network.running()``, with gradients enabled.

    Args:
        problem: In float64.
        batch: The samples.
        vectorised: Whether several columns may go through one backward pass.

    Attributes:
        outputs: The network's.
        sites: The calls that selected parameters enter linearly.
        elsewhere: The parameters that another function used, and its name.
        num_samples: N.
        num_passes: Forward and backward passes so far, one for every column.
    """

    def __init__(self, problem: Problem, batch: Batch, *, vectorised: bool) -> None:
        leaves, parameters = problem.leaves()
        self._leaves = dict(zip(problem.layout.names, leaves, strict=True))
        self._loss, self._targets = problem.loss, batch.targets
        self._vectorised = vectorised
        with Perturbed(self._leaves) as record:
            self.outputs = problem.outputs(batch, parameters)
        self.sites = tuple(record.sites)
        self.elsewhere = record.elsewhere
        self.num_samples = batch.num_samples
        self.num_passes = 1
        self._problem = problem

    @property
    def vectorised(self) -> bool:
        """Whether several columns still may go through one backward pass."""
        return self._vectorised

    def factor(self, *, unit_dims: int) -> SignedFactor | None:
        """Return the factor of the loss's Hessian by the outputs."""
        return signed_factor(
            self._loss, self.outputs, self._targets, unit_dims=unit_dims
        )

    def pull(
        self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], seeds: list[Tensor]
    ) -> list[Tensor]:
        """Return the pullback of columns ``(K, *output.shape)``, some at once."""
        self.num_passes += len(seeds[0])
        if self._vectorised and len(seeds[0]) > 1:
            try:
                return pullback(outputs, inputs, seeds, vectorised=True)
            except (RuntimeError, NotImplementedError):
                # Some layers have no batching rule; one by one always works.
                self._vectorised = False
        return pullback(outputs, inputs, seeds, vectorised=False)

    def prove(self, sites: Sequence[Site], *, unit_dims: int) -> list[str | None]:
        """Check by one backward pass that sites are what they seem.

        A random direction of half of the units must reach no other unit; and what
        reaches the parameters must be the sum of the sites' outer products.

        Returns:
            For each site what is wrong, or ``None``.
        """
        shape = self.outputs.shape[:unit_dims]
        units = math.prod(shape)
        inside = _noise((units,), DEFAULT_SEED + 1) > 0
        if units > 1:
            inside[0], inside[-1] = True, False
        else:
            inside[:] = True
        inside = inside.to(self.outputs.device)
        mask = inside.reshape(*shape, *[1] * (self.outputs.ndim - unit_dims))
        seed = _noise(self.outputs.shape, DEFAULT_SEED + 2).to(self.outputs) * mask
        if not self.outputs.requires_grad:
            return ["the outputs do not depend on it"] * len(sites)
        zeros = [site.zero for site in sites]
        leaves = [self._leaves[name] for site in sites for name in site.names]
        found = self.pull((self.outputs,), [*zeros, *leaves], [seed[None]])
        by_zero, by_leaf = found[: len(zeros)], iter(found[len(zeros) :])
        verdicts = []
        for site, grad in zip(sites, by_zero, strict=True):
            own = [next(by_leaf) for _ in site.names]
            verdicts.append(self._verdict(site, grad, own, inside))
        return verdicts

    def _verdict(
        self, site: Site, grad: Tensor, own: list[Tensor], inside: Tensor
    ) -> str | None:
        if site.overwritten:
            return "its input is overwritten in place"
        units = len(inside)
        if site.zero.numel() % (units * site.groups * site.outputs):
            return "its outputs do not belong to one sample each"
        if bool((grad.reshape(units, -1)[~inside] != 0).any()):
            return "one sample's outputs depend on another sample"
        left, x = site.arrange(grad, units)[0], site.inputs(units)
        expected = torch.cat([g.reshape(-1) for g in own])
        size = float(left.norm()) * (1.0 + float(x.norm()))
        if float((site.total(left, x) - expected).norm()) > _ROUNDING * size:
            return "its parameters are used in another place too"
        return None

    def pulled_factor(
        self, sites: Sequence[Site], factor: SignedFactor, *, unit_dims: int
    ) -> list[Tensor]:
        """Return ``R B`` for each site, ``(U, K', G, A, T)``."""
        units = math.prod(self.outputs.shape[:unit_dims])
        zeros = [site.zero for site in sites]
        num = factor.rows.shape[1]
        parts: list[list[Tensor]] = [[] for _ in sites]
        for start, stop in self._steps(num):
            seeds = factor.rows[:, start:stop].transpose(0, 1)
            seeds = seeds.reshape(stop - start, *self.outputs.shape)
            grads = self.pull((self.outputs,), zeros, [seeds])
            for place, (site, grad) in enumerate(zip(sites, grads, strict=True)):
                parts[place].append(site.arrange(grad, units).transpose(0, 1))
        return [torch.cat(p, dim=1) if len(p) > 1 else p[0] for p in parts]

    def _steps(self, num: int) -> list[tuple[int, int]]:
        held = 8 * sum(site.zero.numel() for site in self.sites)
        width = max(1, min(_MOST_COLUMNS, COLUMN_BYTES // max(held, 1)))
        return [(i, min(i + width, num)) for i in range(0, num, width)]

    def curvature(self, sites: Sequence[Site]) -> "SecondDerivatives | str":
        """Prepare the second derivatives of ``sum_c stop(dl/dz_c) z_c``.

        Returns:
            Them; or why the general way must be taken.
        """
        residual = output_gradient(self._problem, self.outputs, self._targets)
        zeros = [site.zero for site in sites]
        scalar = (residual * self.outputs).sum()
        self.num_passes += 1
        grads = torch.autograd.grad(
            scalar, zeros, create_graph=True, allow_unused=True, materialize_grads=True
        )
        if once_differentiable(grads):
            return "a layer behind it has no second derivative"
        foreign = custom_functions(grads)
        if foreign:
            return f"a custom autograd function is behind it ({', '.join(foreign)})"
        return SecondDerivatives(self, dict(zip(sites, grads, strict=True)))


@final
class SecondDerivatives:
    """The second term of M, layer by layer.

    Args:
        evaluation: What it is of.
        gradients: By each site's zero, with their graph.
    """

    def __init__(
        self, evaluation: Evaluation, gradients: Mapping[Site, Tensor]
    ) -> None:
        self._evaluation = evaluation
        self._gradients = gradients
        self._all_vanish = self._vanish(list(gradients))

    def vanishes(self, site: Site) -> bool:
        """Tell whether the term is zero in every bit for a random direction."""
        return self._all_vanish or self._vanish([site])

    def _vanish(self, sites: list[Site]) -> bool:
        grads = [self._gradients[site] for site in sites]
        seeds = [_noise(g.shape).to(g)[None] for g in grads]
        zeros = [site.zero for site in sites]
        found = self._evaluation.pull(grads, zeros, seeds)
        return not any(bool((f != 0).any()) for f in found)

    def columns(self, site: Site, *, units: int) -> Tensor:
        """Return the term of every unit, ``(U, A, A)``; one group and one position."""
        grad, a = self._gradients[site], site.outputs
        found = []
        for start, stop in self._evaluation._steps(a):
            unit = torch.eye(a)[start:stop].to(grad)[:, None, :]
            seeds = unit.expand(-1, units, -1).reshape(-1, *grad.shape)
            (part,) = self._evaluation.pull([grad], [site.zero], [seeds])
            found.append(part.reshape(len(seeds), units, a))
        whole = torch.cat(found).transpose(0, 1)
        return (whole + whole.transpose(1, 2)) / 2
