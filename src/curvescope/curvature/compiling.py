"""Products by a traced program instead of autograd, checked against it.

Tracing takes seconds and compiling tens of seconds, so both are for long runs. A
program is made once for all batches of a shape, whatever the weights; on every batch
its first product is compared with autograd's, and a program that is not right, or
cannot be made, is dropped with a warning.
"""

import shutil
import time
import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, fx
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from curvescope.autodiff.folding import FoldedEvaluation
from curvescope.autodiff.graphs import BatchGraph
from curvescope.autodiff.simplify import fused, simplified
from curvescope.autodiff.tracing import TracedProduct, trace
from curvescope.curvature.building import GraphBuilder
from curvescope.problem import Problem
from curvescope.problem.batches import Batch
from curvescope.problem.metering import AllocationMeter

# Rounding that another order of summation explains; flipped ReLUs are part of it.
_AGREEMENT = {torch.float64: 1e-9, torch.float32: 2e-3}
_COARSE = 5e-2  # float16 and bfloat16
_TRIALS = 3
Apply = Callable[..., Sequence[Tensor]]


@final
@dataclass
class Program:
    """The programs for the batches of one shape.

    Attributes:
        traced: To prepare a batch with.
        apply: The product.
        num_temporary_bytes: What a product takes and gives back.
    """

    traced: TracedProduct
    apply: Apply
    num_temporary_bytes: int


@final
@dataclass
class ProgramGraph(BatchGraph):
    """One batch, as a program and what it keeps.

    Attributes:
        program: The product.
        kept: What it needs of this batch.
        num_bytes: Memory that is held for it.
    """

    program: Program
    kept: list[Tensor]
    num_bytes: int

    def multiply(self, tangents: Sequence[Tensor], *, vectorised: bool) -> list[Tensor]:
        """Return the batch's matrix times each of the k vectors, one after the other."""
        del vectorised
        num = tangents[0].shape[0]
        with torch.no_grad():
            columns = [
                self.program.apply(*(t[j] for t in tangents), *self.kept)
                for j in range(num)
            ]
        if num == 1:
            return [part[None] for part in columns[0]]
        return [torch.stack(parts) for parts in zip(*columns, strict=True)]


@final
@dataclass
class CompiledBuilder:
    """Builds batches' programs, and checks each against autograd's graph.

    Attributes:
        problem: What the products are of.
        build: Autograd's way.
        failure: Why programs were given up, if they were.
        discrepancy: The largest relative difference to autograd that was seen.
    """

    problem: Problem
    build: GraphBuilder
    failure: str = ""
    discrepancy: float = 0.0
    _programs: dict[Hashable, Program] = field(default_factory=dict)
    _checked: set[int] = field(default_factory=set)

    def forget(self) -> None:
        """Weights or data changed: batches are checked anew; programs stay valid."""
        self._checked.clear()

    def __call__(self, batch: Batch, reference: BatchGraph | None = None) -> BatchGraph:
        """Return the batch's program, or autograd's graph where that failed.

        Args:
            batch: Any.
            reference: Its graph, if it is there already.
        """
        if self.failure:
            return self.build(batch) if reference is None else reference
        checked = batch.index in self._checked
        if reference is None and not checked:
            reference = self.build(batch)
        try:
            graph = self._graph(batch)
            if not checked and reference is not None:
                self._check(graph, reference)
        except RuntimeError as error:
            self._give_up(str(error))
            return self.build(batch) if reference is None else reference
        self._checked.add(batch.index)
        return graph

    def _give_up(self, reason: str) -> None:
        lines = [line.strip() for line in reason.splitlines() if line.strip()]
        self.failure = " ".join(lines[:2]) or "no reason was given"
        self._programs.clear()
        text = (
            f"`compile=True` has no effect: {self.failure}. Products are computed as "
            "without it: as right, and slower in long runs."
        )
        self._say(text)

    def _graph(self, batch: Batch) -> ProgramGraph:
        call = _Call.of(self.problem, batch)
        program = self._programs.get(call.key)
        if program is None:
            program = self._programs[call.key] = self._make(call)
        with torch.no_grad():
            kept = list(program.traced.prepare(*call.constants))
        held = _bytes_beside(kept, call.constants)
        return ProgramGraph(program, kept, held)

    def _make(self, call: "_Call") -> Program:
        def product(constants: list[Tensor], tangents: list[Tensor]) -> list[Tensor]:
            folding = (
                FoldedEvaluation(second_order=self.build.second_order)
                if self.build.folds
                else None
            )
            graph = call.differentiated(constants, self.build, folding)
            rows = graph.multiply([t[None] for t in tangents], vectorised=False)
            return [row[0] for row in rows]

        vector = [
            torch.zeros(s, dtype=self.problem.dtype, device=self.problem.device)
            for s in self.problem.layout.shapes
        ]
        traced = trace(product, call.constants, vector)
        program = simplified(traced.apply)
        plain = self._plain(traced, fused(program), call, vector)
        # Only the shape of most batches is worth a compiler's time.
        if call.num_samples < max(self.problem.batch_sizes, default=0):
            return plain
        if self.problem.device.type == "cpu" and not shutil.which("g++"):
            self._say(
                "there is no C++ compiler `g++`: the traced program runs as it is"
            )
            return plain
        compiled = Program(traced, _compiled(program), plain.num_temporary_bytes)
        return self._faster(call, compiled, plain, vector)

    def _plain(
        self, traced: TracedProduct, apply: Apply, call: "_Call", vector: list[Tensor]
    ) -> Program:
        """Return the program as it is, its memory measured; compiled it takes less."""
        with torch.no_grad():
            kept = traced.prepare(*call.constants)
            with AllocationMeter() as meter:
                apply(*vector, *kept)
        return Program(traced, apply, int(meter.peak))

    def _faster(
        self, call: "_Call", one: Program, other: Program, vector: list[Tensor]
    ) -> Program:
        """Return what takes less time; dense nets gain little from a compiler."""
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's own
            arguments = (*vector, *one.traced.prepare(*call.constants))
            one.apply(*arguments)
            times = [
                min(_seconds(p.apply, arguments) for _ in range(_TRIALS))
                for p in (one, other)
            ]
        return one if times[0] <= times[1] else other

    def _say(self, text: str) -> None:
        warnings.warn(text, RuntimeWarning, stacklevel=2)

    def _check(self, graph: ProgramGraph, reference: BatchGraph) -> None:
        """Compare two products of a batch with a fixed random vector.

        Raises:
            RuntimeError: If they differ.
        """
        problem = self.problem
        generator = torch.Generator().manual_seed(len(problem.layout.shapes))
        vector = [
            torch.randn(1, *s, generator=generator, dtype=torch.float64).to(
                dtype=problem.dtype, device=problem.device
            )
            for s in problem.layout.shapes
        ]
        with torch.enable_grad():
            expected = reference.multiply(vector, vectorised=False)
        for _ in range(2):  # a program that spoils what it keeps fails the second time
            found = graph.multiply(vector, vectorised=False)
            error, size = _distance(found, expected)
            allowed = _AGREEMENT.get(problem.dtype, _COARSE)
            if self.build.coarse:
                allowed = _COARSE
            if not error <= allowed * size:
                text = (
                    "the program's product differs from autograd's by "
                    f"{error / max(size, 1e-300):.1e}, relatively"
                )
                raise RuntimeError(text)
            self.discrepancy = max(self.discrepancy, error / max(size, 1e-300))


@final
@dataclass(frozen=True)
class _Call:
    """All that a batch's product depends on, flat: weights, buffers, inputs, targets."""

    problem: Problem
    batch: Batch
    constants: list[Tensor]
    spec: TreeSpec
    fixed: list[Any]
    key: Hashable

    @staticmethod
    def of(problem: Problem, batch: Batch) -> "_Call":
        _, parameters = problem.leaves()
        weights = {name: p.detach() for name, p in parameters.items()}
        tree = (weights, dict(problem.buffers), batch.inputs, batch.targets)
        leaves, spec = tree_flatten(tree)
        constants = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        fixed = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        shapes = tuple((t.shape, t.stride(), t.dtype) for t in constants)
        key = (shapes, repr(fixed), str(spec))
        return _Call(problem, batch, constants, spec, fixed, key)

    @property
    def num_samples(self) -> int:
        return self.batch.num_samples

    def differentiated(
        self,
        constants: Sequence[Tensor],
        build: GraphBuilder,
        folding: FoldedEvaluation | None,
    ) -> BatchGraph:
        """Run model and loss on other constants of the same shapes."""
        given = iter(constants)
        leaves = [next(given) if x is None else x for x in self.fixed]
        weights, buffers, inputs, targets = tree_unflatten(leaves, self.spec)
        for name in self.problem.layout.names:
            weights[name] = weights[name].detach().requires_grad_()
        selected = tuple(weights[name] for name in self.problem.layout.names)
        batch = Batch(self.batch.index, inputs, targets)
        graph: BatchGraph = build.differentiated(
            batch, selected, weights, buffers, folding
        )
        return graph


def _compiled(program: fx.GraphModule) -> Apply:
    """Return a program that is compiled at its first call."""
    compiled: Any = torch.compile(program, dynamic=False, fullgraph=True)

    def apply(*arguments: Tensor) -> Sequence[Tensor]:
        # What surrounds it may have told torch to run everything uncompiled.
        with torch.compiler.set_stance("default"):
            result: Sequence[Tensor] = compiled(*arguments)
        return result

    return apply


def _seconds(apply: Apply, arguments: Sequence[Tensor]) -> float:
    began = time.perf_counter()
    last = apply(*arguments)[-1]
    if last.is_cuda:
        torch.cuda.synchronize(last.device)
    return time.perf_counter() - began


def _bytes_beside(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> int:
    """Return the memory of ``tensors`` that is not that of ``others``, each once."""
    known = {t.untyped_storage().data_ptr() for t in others}
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors}
    return sum(s.nbytes() for place, s in storages.items() if place not in known)


def _distance(
    found: Sequence[Tensor], expected: Sequence[Tensor]
) -> tuple[float, float]:
    """Return the norms of difference and expectation."""
    difference = [
        torch.linalg.vector_norm(f.double() - e.double())
        for f, e in zip(found, expected, strict=True)
    ]
    size = [torch.linalg.vector_norm(e.double()) for e in expected]
    return float(torch.stack(difference).norm()), float(torch.stack(size).norm())
