"""From a batch to its graph: the one place where a product's choices take effect."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from curvescope._core.checks import message
from curvescope._core.random import DEFAULT_SEED, gaussian
from curvescope.autodiff.chain import ChainRun
from curvescope.autodiff.folding import FoldedEvaluation
from curvescope.autodiff.graphs import AutogradRun, BatchGraph, Run
from curvescope.autodiff.recording import ChainRecorder
from curvescope.curvature.choices import ProductChoices
from curvescope.problem import Problem
from curvescope.problem.batches import Batch

# Between a chain's product and autograd's: some roundings. Where they differ by more,
# autograd is used, so that a tight tolerance costs time at worst.
_AGREEMENT = {torch.float64: 1e-10, torch.float32: 2e-5}
# Builds a batch's graph: (run of the model, targets, batch index) -> graph.
Differentiate = Callable[[Run, Any, int], Any]


@final
class GraphBuilder:
    """Builds batches' graphs of one kind of matrix, as the choices say.

    Args:
        problem: What the graphs are of.
        differentiate: From a run on a batch to its graph.
        second_order: Whether all of the second derivative is needed, or a Jacobian only.
        choices: How; what is left open is decided here.

    Raises:
        ValueError: If folding is asked for and statistics are not frozen, or bfloat16 and
            the problem is not in float32.
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
        self.differentiate = differentiate
        self.second_order = second_order
        self._insists = choices.fold is True
        network = problem.network
        if self._insists and network.train:
            remedy = 'Use `mode="eval"`, or leave `fold` unset.'
            contract = "be False in train mode, where statistics are not frozen"
            raise ValueError(message("fold", contract, choices.fold, remedy))
        # It stops at the first layer it cannot see; its convolutions are made for CPUs.
        pays = network.has_own_derivatives and not network.train
        by_default = pays and problem.device.type == "cpu"
        self.folds = by_default if choices.fold is None else choices.fold
        self._compared: set[tuple[int, int]] = set()  # of a batch, or a part of one
        self.coarse = choices.precision == "bfloat16"
        possible = not (network.train or self.coarse) and network.is_dense
        self.chains = possible and choices.fold is not False
        if self.coarse and problem.dtype != torch.float32:
            remedy = "Leave `precision` unset, or use `Problem(dtype=torch.float32)`."
            contract = f'be "full" for a problem in {problem.dtype}'
            raise ValueError(message("precision", contract, choices.precision, remedy))

    def __call__(self, batch: Batch) -> Any:
        """Build the graph: as a chain, with folded layers, or as autograd has it.

        Raises:
            ValueError: If folding was asked for and a layer does not see it.
        """
        if self.chains:
            graph = self._chain(batch)
            if graph is not None:
                return graph
            self.chains = False
        if self.folds:
            folding = FoldedEvaluation(second_order=self.second_order)
            try:
                graph = self._graph(batch, folding)
            except (RuntimeError, NotImplementedError):
                graph = None
            if graph is not None and _finite(graph.roots()):
                return graph
            self.folds = False
        graph = self._graph(batch, None)
        if self._insists and not self.folds:
            contract = "be False or unset for a model whose layers cannot be folded"
            remedy = "A custom or scripted function sees a convolution's output."
            raise ValueError(message("fold", contract, "True", remedy))
        return graph

    def product(
        self, batch: Batch, tangents: Sequence[Tensor], *, coarse: bool
    ) -> Tensor:
        """Return one batch's product in bfloat16 or in full precision, keeping nothing."""
        chosen, self.coarse = self.coarse, coarse
        try:
            parts = self(batch).multiply(tangents, vectorised=False)
        finally:
            self.coarse = chosen
        return self._problem.layout.join(parts)

    def _graph(self, batch: Batch, folding: FoldedEvaluation | None) -> Any:
        leaves, parameters = self._problem.leaves()
        return self.differentiated(batch, leaves, parameters, None, folding)

    def _chain(self, batch: Batch) -> Any:
        """Return the batch's products without autograd; ``None`` if it needs that."""
        leaves, parameters = self._problem.leaves()
        recorder = ChainRecorder(leaves)
        outputs = self._problem.outputs(batch, parameters, folding=recorder)
        try:
            chain = recorder.chain(outputs)
            if chain is None:
                return None
            graph = self.differentiate(ChainRun(chain), batch.targets, batch.index)
            key = (batch.index, batch.num_samples)
            if key in self._compared:
                return graph
            run = AutogradRun(outputs, leaves)
            reference = self.differentiate(run, batch.targets, batch.index)
            if not agree(graph, reference, leaves):
                return None
        except (RuntimeError, NotImplementedError):
            return None
        self._compared.add(key)
        return graph

    def forget(self) -> None:
        """Weights changed: batches' chains are compared with autograd anew."""
        self._compared.clear()

    def differentiated(
        self,
        batch: Batch,
        leaves: tuple[Tensor, ...],
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor] | None,
        folding: FoldedEvaluation | None,
    ) -> Any:
        """Run the model, in the chosen precision, and build the graph of its outputs."""
        # The loss and all after it are in the problem's own precision.
        kind = self._problem.device.type
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=self.coarse):
            outputs = self._problem.outputs(
                batch, parameters, buffers=buffers, folding=folding
            )
        if self.coarse:
            outputs = outputs.float()
        run = AutogradRun(outputs, leaves)
        return self.differentiate(run, batch.targets, batch.index)


def agree(graph: Any, reference: Any, leaves: Sequence[Tensor]) -> bool:
    """Tell whether two graphs of one batch have the same product with a random vector."""
    tolerance = _AGREEMENT.get(leaves[0].dtype if leaves else torch.float64)
    if tolerance is None:  # too few digits to tell
        return False
    generator = torch.Generator().manual_seed(DEFAULT_SEED)

    def drawn(like: Tensor) -> Tensor:
        shape = (1, *like.shape)
        return gaussian(shape, generator, dtype=like.dtype, device=like.device)

    tangents = [drawn(leaf) for leaf in leaves]
    outwards = None if isinstance(graph, BatchGraph) else drawn(graph.outputs)
    found = one_product(graph, tangents, outwards)
    expected = one_product(reference, tangents, outwards)
    return all(
        bool(torch.linalg.vector_norm(a - b) <= tolerance * torch.linalg.vector_norm(b))
        for a, b in zip(_joined(found), _joined(expected), strict=True)
    )


def one_product(
    graph: Any, tangents: Sequence[Tensor], outwards: Tensor | None = None
) -> list[Tensor]:
    """Multiply by any graph once: a Jacobian in both directions.

    Args:
        graph: A matrix's, or a Jacobian's.
        tangents: Shape ``(1, *leaf.shape)`` each.
        outwards: What a Jacobian's adjoint is multiplied by; J v itself if ``None``.
    """
    if isinstance(graph, BatchGraph):
        return graph.multiply(tangents, vectorised=False)
    along = graph.jacobian_product(tangents, vectorised=False)
    outwards = along if outwards is None else outwards
    return [along, *graph.adjoint_product(outwards, vectorised=False)]


def _joined(parts: list[Tensor]) -> list[Tensor]:
    return [torch.cat([part.detach().reshape(-1) for part in parts])]


def _finite(tensors: Sequence[Tensor]) -> bool:
    return all(bool(torch.isfinite(t).all()) for t in tensors)
