r"""What one sweep over the data gives of every layer, and a look at a few samples.

As many backward passes as outputs give the factors of all layers together. A look says
for which layers that is right, and what it takes.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, final

import torch
from torch import Tensor

from curvescope._core.nodes import once_differentiable
from curvescope._core.random import DEFAULT_SEED, gaussian
from curvescope.analysis.all_layers_pieces import LayerFactor, Shape
from curvescope.autodiff.columns import pullback
from curvescope.autodiff.graphs import custom_functions
from curvescope.autodiff.layout import Layout
from curvescope.curvature.blocks import DiagonalBlocks, FlopCount
from curvescope.curvature.matrices import output_gradient
from curvescope.exact.chain_rule.evaluation import Evaluation, SignedFactor
from curvescope.exact.chain_rule.own import MOST_PASSES
from curvescope.exact.chain_rule.sites import Site
from curvescope.problem import Problem
from curvescope.problem.batches import Batch

# What the graph of one chunk and its backward passes may hold.
CHUNK_BYTES = 192 * 2**20
_TRIAL_ROWS = 3


@dataclass
class Look:
    """What a few samples showed.

    Attributes:
        whole: Operations of a product with the whole matrix.
        forward: Of the network's own pass.
        curving: Of seeing that curvature parts vanish.
        pulling: Of the backward passes for the factors.
        shapes: Sizes of each layer's factor.
        num_samples: How many they were.
        rows_per_sample: Rows of a factor for each sample.
        bytes_per_sample: What a sweep holds for each sample.
        signed: Whether rows have signs.
        left_out: Why a layer has no factor.
        parts: Operations of a product with a block, of those that were counted.
    """

    num_samples: int
    whole: int = 0
    forward: int = 0
    curving: int = 0
    pulling: int = 0
    shapes: dict[str, Shape] = field(default_factory=dict)
    rows_per_sample: int = 0
    bytes_per_sample: float = 0.0
    signed: bool = False
    left_out: dict[str, str] = field(default_factory=dict)
    parts: dict[str, int] = field(default_factory=dict)

    @property
    def setup(self) -> int:
        """Operations of the first sweep, rows included."""
        forming = sum(s.forming for s in self.shapes.values()) * self.num_samples
        return self.forward + self.curving + self.pulling + forming

    def share(self, name: str) -> float:
        """Return the work of a product with a block, in products with the whole."""
        return self.parts[name] / self.whole if self.whole else 1.0


@final
class Sweep:
    """One chunk's rows of every layer.

    Args:
        problem: Of the layers' parameters.
        layouts: Each layer's.
        second_order: Whether a curvature part must be seen to be zero.
    """

    def __init__(
        self, problem: Problem, layouts: Mapping[str, Layout], *, second_order: bool
    ) -> None:
        self.layouts = dict(layouts)
        self.second_order = second_order
        self._whole = problem
        self._part: Problem | None = None
        self.scale = math.sqrt(problem.scale)
        self._vectorised = not (
            problem.network.has_convolutions and problem.device.type == "cpu"
        )

    def drop(self, names: Mapping[str, str]) -> None:
        """Forget some layers."""
        for name in names:
            del self.layouts[name]
        self._part = None

    def evaluate(self, batch: Batch) -> Evaluation:
        """Run the network on a chunk."""
        if self._part is None:
            chosen = frozenset(n for one in self.layouts.values() for n in one.names)
            self._part = self._whole.select(lambda name, _: name in chosen)
        return Evaluation(self._part, batch, vectorised=self._vectorised)

    def sites(
        self, evaluation: Evaluation
    ) -> tuple[dict[str, list[Site]], dict[str, str]]:
        """Return where each layer enters, and why some do not enter linearly."""
        found: dict[str, list[Site]] = {}
        wrong: dict[str, str] = {}
        for name, layout in self.layouts.items():
            own = [s for s in evaluation.sites if set(s.names) & set(layout.names)]
            other = next(
                (evaluation.elsewhere[p] for p in layout.names if p in evaluation.elsewhere),
                None,
            )  # fmt: skip
            if other is not None:
                wrong[name] = f"its parameters are used by `{other}`"
            elif any(site.overwritten for site in own):
                wrong[name] = "its input is overwritten in place"
            elif self.second_order and len(own) > 1:
                wrong[name] = "it is used more than once"
            elif not own:
                wrong[name] = "the model does not use it"
            else:
                found[name] = own
        return found, wrong

    def curved(
        self, evaluation: Evaluation, sites: Mapping[str, list[Site]], targets: Any
    ) -> dict[str, str]:
        """Return the layers whose curvature part is not exactly zero on these samples.

        In every bit, for a random direction: piecewise linear functions leave nothing.
        """
        if not self.second_order or not sites:
            return {}
        zeros = [own[0].zero for own in sites.values()]
        residual = output_gradient(self._whole, evaluation.outputs, targets)
        grads = torch.autograd.grad(
            (residual * evaluation.outputs).sum(),
            zeros,
            create_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        if once_differentiable(grads):
            return dict.fromkeys(sites, "a layer behind it has no second derivative")
        foreign = custom_functions(grads)
        if foreign:
            text = f"a custom autograd function is behind it ({', '.join(foreign)})"
            return dict.fromkeys(sites, text)
        seeds = [_signs(g) for g in grads]
        if not _any(evaluation.pull(grads, zeros, seeds)):
            return {}
        text = "its curvature part is not zero"
        return {
            name: text
            for name, grad, zero, seed in zip(sites, grads, zeros, seeds, strict=True)
            if _any(evaluation.pull([grad], [zero], [seed]))
        }

    def factors(
        self,
        evaluation: Evaluation,
        sites: Mapping[str, list[Site]],
        factor: SignedFactor,
    ) -> Iterator[tuple[str, LayerFactor]]:
        """Pull back the loss's factor, and return each layer's own in turn."""
        chosen = list({id(s): s for own in sites.values() for s in own}.values())
        scaled = replace(factor, rows=factor.rows * self.scale)
        found = evaluation.pulled_factor(chosen, scaled, unit_dims=1)
        pulled = {id(s): rows for s, rows in zip(chosen, found, strict=True)}
        signs = None if factor.signs is None else factor.signs.flatten()
        return (
            (
                name,
                LayerFactor(
                    self.layouts[name], own, [pulled[id(s)] for s in own], signs
                ),
            )
            for name, own in sites.items()
        )


def look(
    blocks: DiagonalBlocks, *, second_order: bool, columns: Callable[[int], int]
) -> Look:
    """Try on a few samples which layers have a factor, and count what things take.

    Args:
        blocks: All diagonal blocks.
        second_order: Whether a curvature part must be seen to be zero.
        columns: Products that a block of a given size is likely to take.
    """
    problem = blocks.matrix.problem
    batch = next(iter(problem.own_batches())).part(0, 2)
    found = Look(batch.num_samples)
    with problem.network.running(), torch.enable_grad():
        text = ""
        if problem.network.train:
            text = "train mode may couple samples"
        elif problem.processes.size > 1:
            text = "several processes share the data"
        else:
            text = _try_factors(found, blocks, batch, second_order=second_order)
        if text:
            found.left_out = dict.fromkeys(blocks.num_params, text)
        _weigh(found, blocks, batch, columns)
    return found


def _weigh(
    found: Look, blocks: DiagonalBlocks, batch: Batch, columns: Callable[[int], int]
) -> None:
    """Count products with blocks, until those with factors have shown their worth."""
    graph = blocks.on_batch(batch)
    found.whole = graph.count_whole()
    with_factors = [name for name in blocks.num_params if name not in found.left_out]
    total = 0
    for name in with_factors:
        if total > found.setup:
            break
        found.parts[name] = graph.count(name)
        total += columns(blocks.num_params[name]) * found.parts[name]
    if total <= found.setup:
        text = "products take less work than its factor"
        found.left_out |= dict.fromkeys(with_factors, text)
    for name in found.left_out:
        if name not in found.parts:
            found.parts[name] = graph.count(name)


def count_products(found: Look, blocks: DiagonalBlocks, names: list[str]) -> None:
    """Count the operations of products with some blocks, on the same samples."""
    missing = [name for name in names if name not in found.parts]
    if not missing:
        return
    problem = blocks.matrix.problem
    batch = next(iter(problem.own_batches())).part(0, 2)
    with problem.network.running(), torch.enable_grad():
        graph = blocks.on_batch(batch)
        found.parts.update({name: graph.count(name) for name in missing})


def _try_factors(
    found: Look, blocks: DiagonalBlocks, batch: Batch, *, second_order: bool
) -> str:
    """Find the layers whose factor is right; return what is in the way of all.

    A layer's curvature part must be zero in every bit for a random direction; and with
    a few random rows R for each sample, ``J' R' w`` must be what a backward pass gives:
    neither depends on how large the loss's derivatives are.
    """
    problem = blocks.matrix.problem
    sweep = Sweep(problem, blocks.layouts, second_order=second_order)
    with FlopCount() as count:
        evaluation = sweep.evaluate(batch)
    found.forward = count.total
    outputs, n = evaluation.outputs, evaluation.num_samples
    if outputs.shape[:1] != (n,) or outputs.ndim < 2 or not outputs.requires_grad:
        return "the outputs' first dimension is not that of the samples"
    width = outputs.numel() // n
    if width > MOST_PASSES:
        return f"a sample has {width} outputs, more than {MOST_PASSES}"
    sites, wrong = sweep.sites(evaluation)
    with FlopCount() as count:
        wrong |= sweep.curved(evaluation, sites, batch.targets)
    found.curving = count.total
    found.left_out = wrong
    sites = {name: own for name, own in sites.items() if name not in wrong}
    if not sites:
        return ""
    factor = loss_factor(evaluation)
    num_rows = factor.rows.shape[1]
    found.rows_per_sample, found.signed = num_rows, factor.signs is not None
    sizes = blocks.num_params
    found.shapes = {k: Shape.of(sizes[k], own, n, num_rows) for k, own in sites.items()}
    rank = min(_TRIAL_ROWS, width)
    R = _noise((n, rank, width), problem)
    with FlopCount() as count:
        trial = sweep.factors(evaluation, sites, SignedFactor(rows=R, signs=None))
    found.pulling = count.total * num_rows // rank
    zeros = sum(s.zero.numel() for s in evaluation.sites)
    patches = sum(s.width * s.zero.numel() // s.outputs for s in evaluation.sites)
    held = (found.rows_per_sample + 4) * zeros + patches
    found.bytes_per_sample = problem.dtype.itemsize * held / n
    w = _noise((n, rank), problem).flip(0)
    seed = torch.einsum("nrc,nr->nc", R, w).reshape(outputs.shape)
    truth = _pulled_back(problem, batch, seed)
    slack = 10.0 * math.sqrt(torch.finfo(problem.dtype).eps)
    for name, own_factor in trial:
        layout = blocks.layouts[name]
        expected = layout.join([truth[p] for p in layout.names])[0] * sweep.scale
        difference = own_factor.rows().adjoint(w.reshape(-1, 1))[:, 0] - expected
        if float(difference.norm()) > slack * float(expected.norm()):
            text = "its samples are coupled, or it is used in other ways"
            found.left_out[name] = text
            del found.shapes[name]
    return ""


def _pulled_back(problem: Problem, batch: Batch, seed: Tensor) -> dict[str, Tensor]:
    """Return ``J' seed`` by parameter, each ``(1, *shape)``."""
    leaves, parameters = problem.leaves()
    outputs = problem.outputs(batch, parameters)
    found = pullback((outputs,), leaves, (seed[None],), vectorised=False)
    return dict(zip(problem.layout.names, found, strict=True))


def _signs(like: Tensor) -> Tensor:
    """Return one column of random signs, which cost less than normal numbers."""
    generator = torch.Generator().manual_seed(DEFAULT_SEED)
    bits = torch.randint(0, 2, like.shape, generator=generator, dtype=torch.int8)
    return bits.to(like).mul_(2).sub_(1)[None]


def _any(tensors: list[Tensor]) -> bool:
    return any(bool(t.any()) for t in tensors)


def _noise(shape: tuple[int, ...], problem: Problem) -> Tensor:
    generator = torch.Generator().manual_seed(DEFAULT_SEED)
    return gaussian(shape, generator, dtype=problem.dtype, device=problem.device)


def loss_factor(evaluation: Evaluation) -> SignedFactor:
    """Return the factor of the loss's Hessian by the samples' outputs."""
    factor = evaluation.factor(unit_dims=1)
    assert factor is not None  # a sample's outputs are always one unit
    return factor


def chunks(problem: Problem, bytes_per_sample: float, limit: int) -> Iterator[Batch]:
    """Yield the data in parts whose sweep fits the memory."""
    most = max(2, int(limit // max(bytes_per_sample, 1.0)))
    for batch in problem.batches():
        n = batch.num_samples
        count = math.ceil(n / most)
        # Of equal size: a single sample may be squeezed by the model.
        edges = [i * n // count for i in range(count + 1)]
        for start, stop in pairwise(edges):
            yield batch.part(start, stop)
