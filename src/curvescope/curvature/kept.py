"""Graphs kept from product to product, as many batches as the memory plan allows."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from curvescope._core.checks import message
from curvescope._core.errors import AccuracyWarning, ChangedDuringComputationError
from curvescope._core.memory import available_memory, format_bytes
from curvescope.autodiff.graphs import custom_functions, once_differentiable
from curvescope.autodiff.layout import Layout
from curvescope.autodiff.network import preserved_random_state
from curvescope.curvature.building import Differentiate, GraphBuilder
from curvescope.curvature.choices import MOST_COLUMNS, ProductChoices
from curvescope.problem import Problem
from curvescope.problem.batches import Batch

# Columns at once pay while a pass's temporaries stay near the caches; for the whole
# second derivative, only where calls cost more than arithmetic (both measured).
_SHARE_OF_FREE = 0.7
_WORKING_SET = 64 * 2**20
_SMALL_GRAPH = 2 * 2**20


class _SavedBytes:
    """Counts the memory that autograd keeps while a graph is built."""

    def __init__(self) -> None:
        self.total = 0
        self._seen: set[int] = set()

    def pack(self, tensor: Tensor) -> Tensor:
        """Count a saved tensor's storage once."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.total += storage.nbytes()
        return tensor


@final
@dataclass(frozen=True)
class MemoryPlan:
    """What will be kept, and in how many bytes.

    Attributes:
        limit: Bytes allowed for data and graphs.
        data: Bytes of the kept data; 0 if they are read anew for every pass.
        graph: Bytes of the largest batch's graph.
        num_kept: Batches whose graph will be kept.
        num_batches: All batches.
        vector: Bytes of one vector of the parameters' size.
        columns: Columns multiplied at once.
    """

    limit: int
    data: int
    graph: int
    num_kept: int
    num_batches: int
    vector: int
    columns: int

    def __str__(self) -> str:
        data = f"data {format_bytes(self.data)} kept" if self.data else "data read anew"
        return (
            f"{data}; graphs of {self.num_kept} of {self.num_batches} batches kept, "
            f"{format_bytes(self.graph)} each; vectors {format_bytes(self.vector)}; "
            f"limit for data and graphs {format_bytes(self.limit)}"
        )


@final
class KeptGraphs:
    """The graphs of a problem's batches for one kind of matrix.

    The first graph's size is measured; then as many batches keep theirs as fit the
    memory limit, and the others build theirs anew for every product.

    Args:
        problem: What the graphs are of.
        differentiate: From a batch's outputs to its graph.
        second_order: Whether all of the second derivative is needed, or a Jacobian only.
        choices: What the user decided.
    """

    def __init__(
        self,
        problem: Problem,
        differentiate: Differentiate,
        *,
        second_order: bool,
        choices: ProductChoices,
    ) -> None:
        self._problem = problem
        self._builder = GraphBuilder(
            problem, differentiate, second_order=second_order, choices=choices
        )
        self._choices = choices
        self._second_order = second_order
        self._graphs: dict[int, Any] = {}
        self._fingerprint = ""
        self._budget: int | None = None
        self._held = 0.0
        self.bytes_per_sample = 0.0

    @property
    def layout(self) -> Layout:
        """The selected parameters."""
        return self._problem.layout

    def plan(self) -> MemoryPlan:
        """Build one graph to measure it, and say what will be kept."""
        self.refresh()
        if self._budget is None:
            with self.running():
                next(iter(self), None)
        problem = self._problem
        largest = max(self._problem.batch_sizes, default=0)
        graph = int(self.bytes_per_sample * largest)
        fitting = int((self._budget or 0) // max(self.bytes_per_sample, 1.0))
        kept, held = 0, 0
        for size in problem.batch_sizes:
            if held + size <= fitting:
                kept, held = kept + 1, held + size
        return MemoryPlan(
            limit=problem.memory_limit,
            data=problem.kept_data_bytes,
            graph=graph,
            num_kept=kept,
            num_batches=problem.num_batches,
            vector=problem.num_params * problem.dtype.itemsize,
            columns=self.columns,
        )

    @property
    def columns(self) -> int:
        """Columns to multiply at once: few enough that temporaries stay small."""
        if self._choices.columns is not None:
            return self._choices.columns
        largest = self.bytes_per_sample * max(self._problem.batch_sizes, default=0)
        if self._second_order and largest > _SMALL_GRAPH:
            return 1
        return max(1, min(MOST_COLUMNS, int(_WORKING_SET // max(largest, 1.0))))

    @property
    def num_kept(self) -> int:
        """Batches whose graph is kept now."""
        return len(self._graphs)

    def refresh(self) -> str:
        """Drop all graphs if anything changed since they were built."""
        fingerprint = self._problem.refresh()
        if fingerprint != self._fingerprint:
            self.release()
            self._fingerprint = fingerprint
        return fingerprint

    def release(self) -> None:
        """Drop all graphs; the next product builds them anew."""
        self._graphs.clear()
        self._held = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Enter what building graphs and multiplying by them need.

        Not part of the iteration: a suspended generator would keep the model in eval
        mode after an error, as long as somebody holds the traceback.
        """
        try:
            with self._problem.network.running(forward=False), torch.enable_grad():
                yield
        except ChangedDuringComputationError:
            raise
        except (RuntimeError, NotImplementedError) as error:
            raise _not_differentiable(error) from error

    def __iter__(self) -> Iterator[Any]:
        """Yield the graph of every batch of one pass, inside `running`."""
        if len(self._graphs) == self._problem.num_batches:
            yield from self._graphs.values()
            return
        for batch in self._problem.own_batches():
            graph = self._graphs.get(batch.index)
            if graph is None:
                with preserved_random_state(self._problem.device):
                    graph = self._build(batch)
            yield graph

    def _build(self, batch: Batch) -> Any:
        problem = self._problem
        if self._budget is None:
            counter = _SavedBytes()
            with torch.autograd.graph.saved_tensors_hooks(counter.pack, lambda t: t):
                graph = self._builder(batch)
            if once_differentiable(graph.gradients):
                text = "a layer marked `once_differentiable` has no second derivative"
                raise RuntimeError(text)
            _warn_of_custom_functions(graph.gradients)
            # Other operators' graphs may have taken some of what the problem allows.
            free = int(_SHARE_OF_FREE * available_memory(problem.device))
            allowed = problem.memory_limit - problem.kept_data_bytes
            self._budget = min(allowed, free)
            self.bytes_per_sample = counter.total / max(batch.num_samples, 1)
        else:
            graph = self._builder(batch)
        need = self.bytes_per_sample * batch.num_samples
        asked = self._choices.num_kept(problem.num_batches)
        fits = self._held + need <= (self._budget or 0)
        if fits and (asked is None or len(self._graphs) < asked):
            self._graphs[batch.index] = graph
            self._held += need
        return graph


def _warn_of_custom_functions(gradients: Sequence[Tensor]) -> None:
    """Say that a backward pass written by the user is taken at its word."""
    names = custom_functions(gradients)
    if names:
        text = (
            f"the model has custom autograd functions ({', '.join(names)}): if their "
            "backward passes leave torch or detach, second derivatives are wrong. "
            "Verify with `curvescope.testing.check_against_central_differences`."
        )
        warnings.warn(text, AccuracyWarning, stacklevel=2)


def _not_differentiable(error: BaseException) -> Exception:
    """Say that a layer has no second derivative, in the user's words."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "out of memory" in text or "can't allocate" in text:
        remedy = "Use smaller batches."
        return MemoryError(
            message("data", "fit the memory batch by batch", text, remedy)
        )
    if "derivative" not in text and "not implemented" not in text:
        return RuntimeError(f"while running the model on a batch: {text}")
    remedy = "Replace the layer that torch names by one with a second derivative."
    return RuntimeError(message("model", "be twice differentiable", text, remedy))
