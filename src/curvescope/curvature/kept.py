"""Graphs kept from product to product, as many batches as the memory limit allows."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar, final

import torch
from torch import Tensor

from curvescope._core.errors import ChangedDuringComputationError
from curvescope._core.nodes import once_differentiable
from curvescope._core.random import DEFAULT_SEED, gaussian
from curvescope.autodiff.layout import Layout
from curvescope.autodiff.network import plain_arithmetic, preserved_random_state
from curvescope.curvature.building import Differentiate, GraphBuilder, one_product
from curvescope.curvature.choices import ProductChoices
from curvescope.curvature.compiling import CompiledBuilder, ProgramGraph
from curvescope.curvature.complaints import (
    not_differentiable,
    warn_of_custom_functions,
)
from curvescope.curvature.measurements import (
    CANDIDATES,
    SAMPLES,
    Measurements,
    Widths,
    by_rule,
    small,
)
from curvescope.curvature.room import Room
from curvescope.problem import Problem
from curvescope.problem.batches import Batch
from curvescope.problem.metering import (
    AllocationMeter,
    retained_heap,
    return_free_memory,
    settle_heap,
)

_T = TypeVar("_T")
# Of a product's vectors, (num_params, k) -> several such; vectorised or one by one.
Multiply = Callable[[list[Tensor], bool], list[Tensor]]
Take = Callable[[int, int], list[Tensor]]

# Graph and temporaries stay below so many times what a forward pass makes (1.5 measured).
_GUESS = 6
_WORTH_TRIMMING = 16 * 2**20
_TIMED = 5
# Products in bfloat16 are held against others: with random vectors, on some batches.
_VECTORS, _COMPARED = 2, 4


@final
class KeptGraphs:
    """The graphs of a problem's batches for one kind of matrix.

    The first graph is measured; then as many batches keep theirs as fit the memory
    limit beside a product's temporaries, and the others build theirs anew for every
    product. A batch that does not fit at all is refused before its graph is built.

    Args:
        problem: What the graphs are of.
        differentiate: From a batch's outputs to its graph.
        kind: Of the matrix: what is measured is remembered for it.
        second_order: Whether all of the second derivative is needed, or a Jacobian only.
        choices: What the user decided.
        explores: Whether to time several numbers of columns at once.
    """

    def __init__(
        self,
        problem: Problem,
        differentiate: Differentiate,
        *,
        kind: str,
        second_order: bool,
        choices: ProductChoices,
        explores: bool = True,
    ) -> None:
        self.problem = problem
        self._builder = GraphBuilder(
            problem, differentiate, second_order=second_order, choices=choices
        )
        self._programs = (
            CompiledBuilder(problem, self._builder) if choices.compile else None
        )
        self._second_order = second_order
        self._explores = explores
        self.choices = choices
        self._graphs: dict[int, Any] = {}
        self._fingerprint = ""
        self._checked = False
        way = (self.folds, choices.compile, choices.precision)
        self.measured = problem.remembered(
            (kind, *way), lambda: Measurements(problem.device)
        )
        self.room = Room(problem, self.measured, choices)

    def planned_columns(self, num: int, num_kept: int) -> int:
        """Return how many of ``num`` columns go at once when so many graphs are kept."""
        held = sum(map(self.measured.graph, self.problem.batch_sizes[:num_kept]))
        widths = self.widths(num=num, held=held, num_kept=num_kept)
        return min(widths.best(), num)

    @property
    def layout(self) -> Layout:
        """The selected parameters."""
        return self.problem.layout

    @property
    def folds(self) -> bool:
        """Whether layers run in forms that are cheaper to differentiate twice."""
        return self._builder.folds or self.chains

    @property
    def chains(self) -> bool:
        """Whether the whole network is multiplied as a chain of linear layers."""
        programs = self._programs
        return self._builder.chains and (programs is None or bool(programs.failure))

    def rounding_error(self) -> float:
        """Return by how much products in bfloat16 are off, relative to random products.

        Of all batches what the products are, of some by how much they are off: batches'
        products may cancel where their errors do not.
        """
        problem = self.problem
        generator = torch.Generator().manual_seed(DEFAULT_SEED)
        size = (_VECTORS, problem.num_params)
        V = gaussian(size, generator, dtype=torch.float32, device=problem.device)
        like = torch.cat([V, V])
        sums = problem.summed(
            lambda: self._with_deviation(V), like, "products in bfloat16"
        )
        total, deviation = sums.double().split(_VECTORS)
        size = torch.linalg.vector_norm(total).clamp_min(torch.finfo(V.dtype).tiny)
        return float(torch.linalg.vector_norm(deviation) / size)

    def _with_deviation(self, V: Tensor) -> Tensor:
        """Return this process's products in bfloat16, and below them their errors."""
        sizes, tangents = self.problem.batch_sizes, self.layout.split(V)
        last = max(len(sizes) - 1, 0)
        compared = {round(i * last / (_COMPARED - 1)) for i in range(_COMPARED)}
        total, deviation = torch.zeros_like(V), torch.zeros_like(V)
        random = preserved_random_state(self.problem.device)
        with self.running(), random:
            for batch in self.problem.own_batches():
                product = self._builder.product(batch, tangents, coarse=True)
                total += product
                if batch.index in compared:
                    exact = self._builder.product(batch, tangents, coarse=False)
                    deviation += product.sub_(exact)
        # The mean error stands for that of the others: too much where errors cancel.
        num_compared = sum(sizes[i] for i in compared if i < len(sizes))
        deviation *= sum(sizes) / max(num_compared, 1)
        return torch.cat([total, deviation])

    @property
    def num_kept(self) -> int:
        """Batches whose graph is kept now."""
        return len(self._graphs)

    def widths(
        self, *, num: int = 1, held: int | None = None, num_kept: int | None = None
    ) -> Widths:
        """Return the rule by which columns are put together.

        Args:
            num: Columns of the product.
            held: Bytes of the kept graphs; what is held now by default.
            num_kept: How many these are.

        Raises:
            MemoryError: If so many were asked for that their temporaries do not fit.
        """
        kept = len(self._graphs) if num_kept is None else num_kept
        held = self.room.account.num_bytes if held is None else held
        room = self.room.beside(held, kept, num)
        asked, most = self.choices.columns, self.room.most_columns(room)
        if self._programs is not None and not self._programs.failure:
            asked = 1  # a program takes one column
        if asked is not None and (self.measured.temporaries or self.room.plenty):
            self.room.refuse_columns(min(asked, num), room)
            most = asked
        graph = self.measured.graph(self.room.largest)
        slow = self.problem.network.has_convolutions and self._on_cpu
        rule = by_rule(
            graph,
            columns=num,
            second_order=self._second_order,
            convolutions=slow,
            chain=self.chains,
        )
        return Widths(
            self.measured,
            rule=rule if asked is None else asked,
            explores=asked is None
            and self._explores
            and not (self.chains and self._on_cpu)
            and not small(graph)
            and self.measured.worth_timing,
            most=most,
        )

    def _return_free_memory(self, columns: int) -> None:
        """Give back what a product left in the heap, where memory is short."""
        room = self.room.beside(self.room.account.num_bytes, len(self._graphs))
        if self.measured.leaves_holes(self.room.largest, columns, room):
            return_free_memory()

    @property
    def _on_cpu(self) -> bool:
        return self.problem.device.type == "cpu"

    def refresh(self) -> str:
        """Drop all graphs if anything changed since they were built."""
        fingerprint = self.problem.refresh()
        if fingerprint != self._fingerprint:
            self.release()
            self._fingerprint = fingerprint
        return fingerprint

    def release(self) -> None:
        """Drop all graphs; the next product builds them anew."""
        if self._programs is not None:
            self._programs.forget()
        self._builder.forget()
        self._graphs.clear()
        self.room.forget()

    @contextmanager
    def running(self, *, builds: bool = False) -> Iterator[None]:
        """Enter what multiplying by graphs needs, and building those that are not kept.

        With ``builds``, building any. Not part of the iteration: a suspended generator
        would keep the model in eval mode after an error, as long as somebody holds the
        traceback.
        """
        try:
            with self._surroundings(builds=builds):
                yield
        except (ChangedDuringComputationError, MemoryError):
            raise
        except (RuntimeError, NotImplementedError) as error:
            raise not_differentiable(error) from error

    @contextmanager
    def _surroundings(self, *, builds: bool) -> Iterator[None]:
        if self.room.ample:
            settle_heap()
        every = len(self._graphs) == self.problem.num_batches
        if self.chains and every and not builds:
            with plain_arithmetic(self.problem.device):  # neither model nor autograd
                yield
            return
        heap = nullcontext() if every or not self.room.ample else retained_heap()
        with heap, self.problem.network.running(forward=False), torch.enable_grad():
            yield

    def each(self, compute: Callable[[Any, int], _T]) -> Iterator[_T]:
        """Yield ``compute(graph, samples)`` of every batch of one pass, inside `running`.

        A graph that is not kept is gone before the next one is built.
        """
        sizes = self.problem.batch_sizes
        if len(self._graphs) == self.problem.num_batches:
            for index, kept in self._graphs.items():
                yield compute(kept, sizes[index])
            return
        for batch in self.problem.own_batches():
            graph = self._graphs.get(batch.index)
            if graph is None:
                graph = self._build(batch)
                result = compute(graph, batch.num_samples)
                self._settle(batch, graph)
            else:
                result = compute(graph, batch.num_samples)
            del graph
            yield result
            del result

    def _settle(self, batch: Batch, graph: Any) -> None:
        """Keep a graph, if what is measured by now leaves room for it."""
        held = self.room.account.num_bytes + self.measured.graph(batch.num_samples)
        last = batch.index + 1 == self.problem.num_batches
        if self.room.fits(held, len(self._graphs) + 1, last=last):
            self._graphs[batch.index] = graph
            self.room.account.num_bytes = held
            if self._on_cpu and held > _WORTH_TRIMMING:
                return_free_memory()

    def _build(self, batch: Batch) -> Any:
        with preserved_random_state(self.problem.device):
            return self._built(batch)

    def _built(self, batch: Batch) -> Any:
        if not self._checked:
            self._check(batch)
        samples, began = batch.num_samples, time.perf_counter()
        if self._programs is not None and self._checked:
            return self._compiled(self._programs, batch)
        if samples in self.measured.graphs or len(self.measured.graphs) > 1:
            graph = self._builder(batch)
            if len(self.measured.build_seconds) < _TIMED:
                self.measured.build_seconds.append(self._since(began) / max(samples, 1))
        else:
            graph = self._weighed(batch)
        if not self._checked:
            if once_differentiable(graph.roots()):
                text = "a layer marked `once_differentiable` has no second derivative"
                raise RuntimeError(text)
            warn_of_custom_functions(graph.roots())
            self._checked = True
            self.room.refuse_if_too_large()
            if self._programs is not None:
                return self._compiled(self._programs, batch, graph)
        return graph

    def _compiled(
        self, programs: CompiledBuilder, batch: Batch, reference: Any = None
    ) -> Any:
        """Return a batch's program, whose memory is known without measuring."""
        graph, samples = programs(batch, reference), batch.num_samples
        if isinstance(graph, ProgramGraph):
            data = 0 if self.problem.kept_data_bytes else batch.num_bytes
            self.measured.graphs[samples] = graph.num_bytes + data
            if samples not in self.measured.temporaries:
                self.measured.weigh(1, samples, graph.program.num_temporary_bytes)
        return graph

    def _weighed(self, batch: Batch) -> Any:
        """Build a graph and measure its memory."""
        with AllocationMeter() as meter:
            graph = self._builder(batch)
        data = 0 if self.problem.kept_data_bytes else batch.num_bytes
        self.measured.graphs[batch.num_samples] = meter.live + data
        self.measured.building[batch.num_samples] = meter.peak - meter.live
        return graph

    def _since(self, began: float) -> float:
        if self.problem.device.type == "cuda":
            torch.cuda.synchronize(self.problem.device)
        return time.perf_counter() - began

    def _check(self, batch: Batch) -> None:
        """Look at a few samples, where the whole batch may not fit the memory."""
        problem = self.problem
        if batch.num_samples in self.measured.graphs:
            self.room.refuse_if_too_large()
            return
        part = max(2, batch.num_samples // 32)
        few = 4 * part > batch.num_samples or problem.network.train
        guess = _GUESS * (problem.forward_bytes or problem.memory_limit)
        if few or guess < self.room.limit:
            return
        for stop in (part, 2 * part):
            piece = batch.part(0, stop)
            graph = self._weighed(piece)
            ones = torch.ones(1, problem.num_params, dtype=problem.dtype)
            tangents = self.layout.split(ones.to(problem.device))
            with AllocationMeter() as meter:
                one_product(graph, tangents)
            self.measured.temporaries[stop] = meter.peak
            del graph
        self.room.refuse_if_too_large()
        # The batch's own numbers, which come next, are better than a continuation.
        seen = self.measured
        for numbers in (seen.graphs, seen.building, seen.temporaries):
            del numbers[part]

    def blocks(
        self, multiply: Multiply, take: Take, num: int, samples: int
    ) -> Iterator[tuple[int, list[Tensor]]]:
        """Yield products of blocks of columns with their place, inside `running`.

        Args:
            multiply: With stacks, at once or one by one.
            take: Gives the stacks of the columns between two places.
            num: Columns.
            samples: Of the batch; 0 where nothing can be learned from the product.
        """
        start = 0
        while start < num:
            width = 1 if num == 1 else self.widths(num=num).next(num - start)
            block = take(start, start + width)
            try:
                part = self._observed(multiply, block, width, samples)
            except (RuntimeError, NotImplementedError):
                if width == 1:
                    raise
                # Some layers have no batching rule; column by column always works.
                self.measured.loops_only = True
                continue
            yield start, part
            del part, block
            if not self.room.plenty:
                self._return_free_memory(width)
            start += width

    def _observed(
        self, multiply: Multiply, block: list[Tensor], width: int, samples: int
    ) -> list[Tensor]:
        """Multiply; the first time measure the memory, then some times the time."""
        if (
            self.room.plenty
            or 2 * samples <= self.room.largest
            or self._programs is not None
        ):
            return multiply(block, width > 1)
        if len(self.measured.seconds.get(width, ())) >= _TIMED:
            return multiply(block, width > 1)
        return self._measured(multiply, block, width, samples)

    def _measured(
        self, multiply: Multiply, block: list[Tensor], width: int, samples: int
    ) -> list[Tensor]:
        measured = self.measured
        if width not in measured.excess:
            began = time.perf_counter()
            with AllocationMeter() as meter:
                part = multiply(block, width > 1)
            measured.weigh(width, samples, meter.peak)
            measured.judge(width, samples, self._since(began))
            if width > 1 and self._on_cpu:
                return_free_memory()
            return part
        self._since(0.0)
        began = time.perf_counter()
        part = multiply(block, width > 1)
        measured.record(width, samples, self._since(began))
        return part

    @property
    def chosen(self) -> str:
        """How products are computed, in words; nothing before the first one."""
        if not self.measured.graphs:
            return ""
        batches = self.problem.num_batches
        width = self.planned_columns(self.room.block_size, len(self._graphs))
        layers = ", layers in their cheaper forms" if self.folds else ""
        layers = (
            ", without autograd: a chain of linear layers" if self.chains else layers
        )
        return (
            f"graphs of {len(self._graphs)} of {batches} batches kept, up to {width} "
            f"columns at once{layers}"
        )

    def measure(self, columns: int, *, timed: bool = True) -> None:
        """Take what is missing on one batch, for products of up to so many columns."""
        with self.running(builds=True):
            generator = torch.Generator().manual_seed(0)
            problem = self.problem
            size = (columns, problem.num_params)
            random = gaussian(
                size, generator, dtype=problem.dtype, device=problem.device
            )
            tangents = self.layout.split(random)
            for batch in problem.own_batches():
                kept = self._graphs.get(batch.index)
                graph = self._build(batch) if kept is None else kept
                self._measure_widths(graph, tangents, batch.num_samples, timed=timed)
                if kept is None:
                    self._settle(batch, graph)
                if timed and not self.measured.build_seconds:
                    del graph, kept
                    self._build(batch)
                return

    def _measure_widths(
        self, graph: Any, tangents: list[Tensor], samples: int, *, timed: bool
    ) -> None:
        def multiply(block: list[Tensor], vectorised: bool) -> list[Tensor]:  # noqa: FBT001
            return graph.multiply(block, vectorised=vectorised)

        measured = self.measured
        if not timed:
            if not self.room.plenty and not measured.temporaries:
                self._measured(multiply, [t[:1] for t in tangents], 1, samples)
            return
        self._time(multiply, tangents, 1, samples)
        num = tangents[0].shape[0]
        most = min(num, self.widths(num=num).widest)
        for width in sorted({*(w for w in CANDIDATES if w < most), most} - {1}):
            if measured.loops_only:
                return
            try:
                self._time(multiply, tangents, width, samples)
            except (RuntimeError, NotImplementedError):
                measured.loops_only = True

    def _time(
        self, multiply: Multiply, tangents: list[Tensor], width: int, samples: int
    ) -> None:
        block = [t[:width] for t in tangents]
        while len(self.measured.seconds.get(width, ())) < SAMPLES:
            self._measured(multiply, block, width, samples)
