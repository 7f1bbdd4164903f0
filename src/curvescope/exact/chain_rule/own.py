"""The own blocks of a problem's layers, by the Hessian chain rule."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, final

import torch

from curvescope._core.checks import message
from curvescope._core.errors import ChangedDuringComputationError
from curvescope._core.memory import available_memory, format_bytes
from curvescope.exact.chain_rule.blocks import OwnBlock
from curvescope.exact.chain_rule.collect import (
    Collector,
    FactorCollector,
    KroneckerCollector,
)
from curvescope.exact.chain_rule.evaluation import Evaluation, SignedFactor
from curvescope.exact.chain_rule.parts import MATRICES
from curvescope.exact.chain_rule.sites import Site
from curvescope.problem import Problem
from curvescope.problem.batches import Batch

# More backward passes than this cost more than probes do.
MOST_PASSES = 512
# What the graph of one chunk and its backward passes may hold.
_CHUNK_BYTES = 192 * 2**20
_SHARE_OF_FREE = 0.7


@final
class OwnBlocks(dict[str, OwnBlock]):
    """Blocks by the layer's name, and the layers that have none.

    Attributes:
        left_out: Why a layer has no block here, by its name.
        num_data_passes: Passes over the data that all blocks together took.
    """

    def __init__(
        self,
        blocks: Mapping[str, OwnBlock],
        *,
        left_out: Mapping[str, str],
        num_data_passes: int,
    ) -> None:
        super().__init__(blocks)
        self.left_out = dict(left_out)
        self.num_data_passes = num_data_passes


def own_blocks(
    problem: Problem,
    *,
    layers: Sequence[str] | None = None,
    most_passes: int | None = MOST_PASSES,
) -> OwnBlocks:
    r"""Compute layers' own blocks exactly, without forming them.

    .. math:: H_W = \frac1D \sum_n M_n \otimes \tilde x_n \tilde x_n^\top, \qquad
        M_n = B_n^\top \frac{\partial^2 \ell_n}{\partial z^2} B_n
        + \sum_c \frac{\partial \ell_n}{\partial z_c}
          \frac{\partial^2 z_c}{\partial u_n^2},
        \qquad B_n = \frac{\partial z_n}{\partial u_n}

    with :math:`u = W x + b` what a layer gives, :math:`\tilde x = (x, 1)`, z the
    network's outputs: the Hessian chain rule, exact whatever comes behind the layer. For
    layers that are used at several positions (convolutions, norm layers, linear maps of
    sequences) the first term is summed over positions by the rows of a factor; the
    second must then vanish, as it does in front of piecewise linear functions.

    Args:
        problem: Model, loss and data; promoted to float64.
        layers: Names as ``problem.layers()`` has them; all by default.
        most_passes: A layer that takes more backward passes over the data (as many as
            outputs of a unit, or of itself where its curvature part does not vanish) is
            left out; ``None`` for no limit.

    Returns:
        Blocks by name. A layer whose parameters are shared, transformed or selected in
        part, that is of another kind, or that does not fit the memory, is left out:
        ``left_out`` says why.

    Raises:
        ValueError: If there is no layer of a name.
        ChangedDuringComputationError: If weights or data change meanwhile.

    Cost:
        For all layers at once a forward pass and as many backward passes as outputs (K);
        for a layer whose curvature part does not vanish as many more as it has outputs
        (A). Memory: for a linear map ``8 N (D + K A)`` bytes, and ``8 N A^2`` where its
        curvature part does not vanish; else ``8 P min(N K, P)``.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU())
        >>> data = (torch.ones(5, 3), torch.zeros(5, dtype=torch.long))
        >>> own_blocks(Problem(net, "cross_entropy", data))["0"].traces().curvature
        0.0

    References:
        Skorski, Temperoni, Theobald (2021), PMLR 157, for the chain rule.
    """
    plan = _Plan(problem, layers, most_passes)
    turns = plan.turns()
    first = turns[0] if turns else []
    late = {
        name: f"it does not fit the memory beside {len(first)} others; ask for it alone"
        for turn in turns[1:]
        for name in turn
    }
    found = plan.compute(first)
    found.left_out = {**plan.left_out, **late, **found.left_out}
    return found


def own_blocks_in_turn(
    problem: Problem,
    *,
    layers: Sequence[str] | None = None,
    most_passes: int | None = MOST_PASSES,
) -> Iterator[OwnBlocks]:
    """Yield the blocks that `own_blocks` computes, no more at a time than fit the memory.

    Args:
        problem: Model, loss and data; promoted to float64.
        layers: Names as ``problem.layers()`` has them; all by default.
        most_passes: As for `own_blocks`.

    Yields:
        Blocks of some layers; the first time ``left_out`` names all that have none.

    Raises:
        ValueError: If there is no layer of a name.
    """
    plan = _Plan(problem, layers, most_passes)
    left_out = plan.left_out
    for turn in plan.turns() or [[]]:
        found = plan.compute(turn)
        found.left_out = {**left_out, **found.left_out}
        left_out = {}
        yield found


@final
@dataclass(frozen=True)
class _Route:
    """How a layer is done.

    Attributes:
        names: Its parameters, in order.
        unit_dims: Dimensions of the outputs that count units.
        once: Whether every unit uses it once.
        num_params: Its entries.
        num_units: Over all data.
        num_rows: Units times outputs.
        num_bytes: Memory that its block takes.
    """

    names: tuple[str, ...]
    unit_dims: int
    once: bool
    num_params: int
    num_units: int
    num_rows: int
    num_bytes: int


@final
class _Plan:
    """Which layers can be done how, from a look at two samples."""

    def __init__(
        self, problem: Problem, layers: Sequence[str] | None, most_passes: int | None
    ) -> None:
        self.most_passes = math.inf if most_passes is None else most_passes
        everything = problem.layers()
        names = list(everything) if layers is None else list(layers)
        unknown = [name for name in names if name not in everything]
        if unknown:
            remedy = f"The problem has {', '.join(everything)}."
            raise ValueError(message("layers", "name layers", unknown, remedy))
        self.problem = problem.promoted()
        self.fingerprint = self.problem.refresh()
        self.left_out: dict[str, str] = {}
        self.routes: dict[str, _Route] = {}
        self.vectorised = not (
            self.problem.network.has_convolutions and self.problem.device.type == "cpu"
        )
        groups = {name: everything[name] for name in names}
        whole = {
            s.name: math.prod(s.shape) == s.num_params
            for s in self.problem.layout.slices()
        }
        for name, parameters in list(groups.items()):
            if not all(whole[parameter] for parameter in parameters):
                self.left_out[name] = "only some of its entries are selected"
                del groups[name]
        for reason, holds in (
            ("train mode may couple samples", self.problem.network.train),
            ("several processes share the data", self.problem.processes.size > 1),
        ):
            if holds:
                self.left_out.update(dict.fromkeys(groups, reason))
                groups = {}
        self.bytes_per_sample = 0.0
        if groups:
            self._look(groups)
        limit = self.problem.memory_limit - self.problem.kept_data_bytes
        free = int(_SHARE_OF_FREE * available_memory(self.problem.device))
        self.allowed = max(min(limit, free), 0)
        for name, route in list(self.routes.items()):
            if route.num_bytes > self.allowed:
                need, have = map(format_bytes, (route.num_bytes, self.allowed))
                self.left_out[name] = f"it takes {need} of memory; {have} are allowed"
                del self.routes[name]

    def turns(self) -> list[list[str]]:
        """Return the layers in groups that fit the memory together."""
        turns: list[list[str]] = []
        held = 0
        for name, route in self.routes.items():
            if not turns or held + route.num_bytes > self.allowed:
                turns.append([])
                held = 0
            turns[-1].append(name)
            held += route.num_bytes
        return turns

    def _evaluate(
        self, groups: Mapping[str, Sequence[str]], batch: Batch
    ) -> Evaluation:
        chosen = frozenset(n for names in groups.values() for n in names)
        part = self.problem.select(lambda name, _: name in chosen)
        return Evaluation(part, batch, vectorised=self.vectorised)

    def _look(self, groups: Mapping[str, tuple[str, ...]]) -> None:
        batch = next(iter(self.problem.batches())).part(0, 2)
        with self.problem.network.running(), torch.enable_grad():
            evaluation = self._evaluate(groups, batch)
            sites = self._assign(evaluation, groups)
            routes = self._levels(evaluation, sites)
            zeros = sum(site.zero.numel() for site in evaluation.sites)
            second = evaluation.curvature(list(sites.values())) if sites else ""
            for name, unit_dims in routes.items():
                if isinstance(second, str):
                    self.left_out[name] = second
                    continue
                site = sites[name]
                vanishes = second.vanishes(site)
                route = self._route(evaluation, site, groups[name], unit_dims, vanishes)
                if not vanishes and not route.once:
                    self.left_out[name] = (
                        "its curvature part is not zero, and it is used at several "
                        "positions or by several groups"
                    )
                    continue
                if not vanishes and site.outputs > self.most_passes:
                    self.left_out[name] = (
                        f"its curvature part takes {site.outputs} passes, more than "
                        f"{self.most_passes}"
                    )
                    continue
                self.routes[name] = route
            columns = min(32, evaluation.outputs.numel() // batch.num_samples)
        self.vectorised = evaluation.vectorised
        held = columns if self.vectorised else 1
        patches = max(
            (s.width * s.zero.numel() // s.outputs for s in sites.values()), default=0
        )
        self.bytes_per_sample = (
            8 * (3 * (held + 2) * zeros + patches) / max(batch.num_samples, 1)
        )

    def _assign(
        self, evaluation: Evaluation, groups: Mapping[str, tuple[str, ...]]
    ) -> dict[str, Site]:
        """Find the one site of every layer."""
        found: dict[str, Site] = {}
        for name, parameters in groups.items():
            own = [s for s in evaluation.sites if set(s.names) & set(parameters)]
            others = [evaluation.elsewhere.get(p) for p in parameters]
            if any(others):
                text = next(o for o in others if o)
                self.left_out[name] = f"its parameters are used by `{text}`"
            elif not own:
                self.left_out[name] = "the model does not use it"
            elif len(own) > 1:
                self.left_out[name] = "it is used more than once"
            elif set(own[0].names) != set(parameters):
                self.left_out[name] = "its parameters do not enter together"
            else:
                found[name] = own[0]
        return found

    def _levels(
        self, evaluation: Evaluation, sites: Mapping[str, Site]
    ) -> dict[str, int]:
        """Find the units of every layer: positions if they are independent, or samples."""
        outputs, n = evaluation.outputs, evaluation.num_samples
        if outputs.shape[:1] != (n,) or outputs.ndim < 2:
            text = "the outputs' first dimension is not that of the samples"
            self.left_out.update(dict.fromkeys(sites, text))
            return {}
        levels: dict[str, int] = {}
        fine = outputs.ndim - 1 if outputs.shape[-1] <= self.most_passes else 1
        if fine > 1 and evaluation.factor(unit_dims=fine) is not None:
            lead = outputs.shape[:fine]
            candidates = {k: s for k, s in sites.items() if s.zero.shape[:fine] == lead}
            verdicts = evaluation.prove(list(candidates.values()), unit_dims=fine)
            for name, verdict in zip(candidates, verdicts, strict=True):
                if verdict is None:
                    levels[name] = fine
        rest = {name: site for name, site in sites.items() if name not in levels}
        width = outputs.numel() // n
        if width > self.most_passes:
            text = f"a sample has {width} outputs, more than {self.most_passes}"
            self.left_out.update(dict.fromkeys(rest, text))
            return levels
        verdicts = evaluation.prove(list(rest.values()), unit_dims=1) if rest else []
        for name, verdict in zip(rest, verdicts, strict=True):
            if verdict is None:
                levels[name] = 1
            else:
                self.left_out[name] = verdict
        return {name: levels[name] for name in sites if name in levels}

    def _route(
        self,
        evaluation: Evaluation,
        site: Site,
        names: tuple[str, ...],
        unit_dims: int,
        vanishes: bool,  # noqa: FBT001
    ) -> _Route:
        n, outputs = evaluation.num_samples, evaluation.outputs
        units = math.prod(outputs.shape[:unit_dims])
        total = units * self.problem.num_samples // n
        columns = outputs.numel() // units
        once = site.groups == 1 and site.positions(units) == 1
        shapes = dict(
            zip(self.problem.layout.names, self.problem.layout.shapes, strict=True)
        )
        size = sum(shapes[name].numel() for name in names)
        a, d = site.outputs, site.width + 1
        if once:
            entries = total * (d + columns * a + (0 if vanishes else a * a))
        else:
            rows = total * columns
            entries = size * size if size <= rows else rows * (size + rows)
        rows = total * columns
        return _Route(names, unit_dims, once, size, total, rows, 8 * entries)

    def compute(self, chosen: Sequence[str]) -> OwnBlocks:
        """Compute the blocks of some layers, all at once."""
        routes = {name: self.routes[name] for name in chosen}
        scale = self.problem.scale
        collectors: dict[str, Collector] = {
            name: KroneckerCollector(r.names, scale, num_units=r.num_units)
            if r.once
            else FactorCollector(
                r.names, scale, num_params=r.num_params, num_rows=r.num_rows
            )
            for name, r in routes.items()
        }
        left_out: dict[str, str] = {}
        passes = 0.0
        groups = {name: route.names for name, route in routes.items()}
        for part in self._chunks() if routes else ():
            with self.problem.network.running(), torch.enable_grad():
                evaluation = self._evaluate(groups, part)
                self._add(evaluation, routes, collectors, left_out)
            passes += evaluation.num_passes * part.num_samples
            for name in left_out:
                groups.pop(name, None)
                collectors.pop(name, None)
            if not groups:
                break
        if self.problem.refresh() != self.fingerprint:
            text = "weights, buffers or data changed while blocks were computed"
            raise ChangedDuringComputationError(text)
        blocks = {
            name: collector.finish(name, **self._settings(routes[name].names))
            for name, collector in collectors.items()
        }
        return OwnBlocks(
            blocks,
            left_out=left_out,
            num_data_passes=math.ceil(passes / max(self.problem.num_samples, 1)),
        )

    def _settings(self, names: Sequence[str]) -> dict[str, Any]:
        chosen = frozenset(names)
        part = self.problem.select(lambda name, _: name in chosen)
        return {
            "info": {key: part.provenance(text) for key, text in MATRICES.items()},
            "weight_decay": self.problem.weight_decay,
        }

    def _chunks(self) -> Iterator[Batch]:
        most = max(2, int(_CHUNK_BYTES // max(self.bytes_per_sample, 1.0)))
        for batch in self.problem.batches():
            n = batch.num_samples
            count = math.ceil(n / most)
            # Of equal size: a single sample may be squeezed by the model.
            edges = [i * n // count for i in range(count + 1)]
            for start, stop in pairwise(edges):
                yield batch.part(start, stop)

    def _add(
        self,
        evaluation: Evaluation,
        routes: Mapping[str, _Route],
        collectors: Mapping[str, Collector],
        left_out: dict[str, str],
    ) -> None:
        """Add one chunk to the collectors, and say which layers failed it."""
        chosen = {name: routes[name] for name in collectors}
        by_names = {frozenset(site.names): site for site in evaluation.sites}
        sites: dict[str, Site] = {}
        for name, route in chosen.items():
            site = by_names.get(frozenset(route.names))
            used = sum(bool(set(s.names) & set(route.names)) for s in evaluation.sites)
            outside = any(p in evaluation.elsewhere for p in route.names)
            if site is None or used != 1 or outside:
                left_out[name] = "it is used differently by different samples"
            else:
                sites[name] = site
        factors: dict[int, SignedFactor] = {}
        for dims in sorted({chosen[name].unit_dims for name in sites}):
            mine = {k: s for k, s in sites.items() if chosen[k].unit_dims == dims}
            verdicts = evaluation.prove(list(mine.values()), unit_dims=dims)
            for name, verdict in zip(mine, verdicts, strict=True):
                if verdict is not None:
                    left_out[name] = verdict
                    del sites[name]
            factor = evaluation.factor(unit_dims=dims)
            if factor is None:
                left_out.update(dict.fromkeys(mine, "the loss couples positions"))
                sites = {k: s for k, s in sites.items() if k not in mine}
                continue
            factors[dims] = factor
        if not sites:
            return
        second = evaluation.curvature(list(sites.values()))
        if isinstance(second, str):
            left_out.update(dict.fromkeys(sites, second))
            return
        for dims, factor in factors.items():
            mine = {k: s for k, s in sites.items() if chosen[k].unit_dims == dims}
            pulled = evaluation.pulled_factor(
                list(mine.values()), factor, unit_dims=dims
            )
            for (name, site), own in zip(mine.items(), pulled, strict=True):
                verdict = collectors[name].add(site, own, factor, second)
                if verdict is not None:
                    left_out[name] = verdict
