"""Graphs kept from product to product, as many batches as the memory plan allows."""

from collections.abc import Callable, Iterator
from typing import Any, final

import torch
from torch import Tensor

from curvescope._core.checks import message
from curvescope.autodiff.folding import FoldedEvaluation
from curvescope.autodiff.layout import Layout
from curvescope.problem import Problem
from curvescope.problem.batches import Batch

# Builds a batch's graph: (outputs, targets, leaves, batch index) -> graph.
Builder = Callable[[Tensor, Any, tuple[Tensor, ...], int], Any]


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
class KeptGraphs:
    """The graphs of a problem's batches for one kind of matrix.

    The first graph's size is measured; then as many batches keep theirs as fit the
    memory limit, and the others build theirs anew for every product.

    Args:
        problem: What the graphs are of.
        builder: From a batch's outputs to its graph.
        second_order: Whether all of the second derivative is needed, or a Jacobian only.
    """

    def __init__(
        self, problem: Problem, builder: Builder, *, second_order: bool
    ) -> None:
        self._problem = problem
        self._builder = builder
        self._second_order = second_order
        self._graphs: dict[int, Any] = {}
        self._fingerprint = ""
        self._budget: int | None = None
        self.bytes_per_sample = 0.0

    @property
    def layout(self) -> Layout:
        """The selected parameters."""
        return self._problem.layout

    @property
    def num_kept(self) -> int:
        """Batches whose graph is kept now."""
        return len(self._graphs)

    def refresh(self) -> str:
        """Drop all graphs if anything changed since they were built."""
        fingerprint = self._problem.refresh()
        if fingerprint != self._fingerprint:
            self._graphs.clear()
            self._fingerprint = fingerprint
        return fingerprint

    def __iter__(self) -> Iterator[Any]:
        """Yield the graph of every batch of one pass."""
        with self._problem.network.running(), torch.enable_grad():
            if len(self._graphs) == self._problem.num_batches:
                yield from self._graphs.values()
                return
            for batch in self._problem.batches():
                graph = self._graphs.get(batch.index)
                if graph is None:
                    graph = self._build(batch)
                yield graph

    def _build(self, batch: Batch) -> Any:
        problem = self._problem
        leaves, parameters = problem.leaves()
        folding = None
        network = problem.network
        if network.has_convolutions and not network.train and problem.device.type == "cpu":
            folding = FoldedEvaluation(cheap_second_derivative=self._second_order)
        counter = _SavedBytes()
        hooks = torch.autograd.graph.saved_tensors_hooks(counter.pack, lambda t: t)
        measure = self._budget is None
        try:
            if measure:
                with hooks:
                    graph = self._graph(batch, leaves, parameters, folding)
            else:
                graph = self._graph(batch, leaves, parameters, folding)
        except (RuntimeError, NotImplementedError) as error:
            raise _not_differentiable(error) from error
        if measure:
            self._budget = problem.memory_limit - problem.kept_data_bytes
            self.bytes_per_sample = counter.total / max(batch.num_samples, 1)
        need = self.bytes_per_sample * batch.num_samples
        held = need * len(self._graphs)
        if held + need <= (self._budget or 0):
            self._graphs[batch.index] = graph
        return graph

    def _graph(
        self,
        batch: Batch,
        leaves: tuple[Tensor, ...],
        parameters: dict[str, Tensor],
        folding: FoldedEvaluation | None,
    ) -> Any:
        outputs = self._problem.outputs(batch, parameters, folding=folding)
        return self._builder(outputs, batch.targets, leaves, batch.index)


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
