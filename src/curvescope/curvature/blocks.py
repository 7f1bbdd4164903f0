"""Products with all diagonal blocks at once, on the kept graphs of one matrix.

The second derivative by one layer's parameters needs nothing of the graph before that
layer: with the leaves restricted to the layer, autograd leaves it out. So the blocks of
all layers share forward and first backward, and a product with a late block is far
cheaper than one with the whole matrix.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from curvescope._core.checks import message
from curvescope.autodiff.graphs import AutogradRun, BatchGraph
from curvescope.autodiff.layout import Layout
from curvescope.curvature.matrices import CurvatureOperator
from curvescope.problem.batches import Batch


@final
class DiagonalBlocks:
    r"""The diagonal blocks of a curvature matrix, multiplied together.

    .. math:: w_l = A_{ll} v_l \quad \text{for all } l, \text{ with one pass over the data}

    Args:
        matrix: The whole matrix; its kept graphs are used, and shared with it.
        groups: The parameters of every block, by the block's name.

    Attributes:
        layouts: Where each block's parameters lie in the block's own vector.
        num_params: Each block's dimension.
        num_data_passes: Passes over the data so far.

    Raises:
        ValueError: If a block has a parameter that the matrix has not.

    Cost:
        A product with all blocks: about a third of a product with the whole matrix for
        each layer of a deep net; memory for the matrix' own graphs.

    Example:
        >>> from curvescope.curvature import Hessian
        >>> from curvescope.problem import Problem
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
        >>> data = (torch.ones(5, 3), torch.zeros(5, dtype=torch.long))
        >>> problem = Problem(net, "cross_entropy", data)
        >>> blocks = DiagonalBlocks(Hessian(problem), problem.layers())
        >>> blocks.multiply({"1": torch.ones(10, 1)})["1"].shape
        torch.Size([10, 1])
    """

    def __init__(
        self, matrix: CurvatureOperator, groups: Mapping[str, Sequence[str]]
    ) -> None:
        self.matrix = matrix
        whole = matrix.problem.layout
        places = {name: i for i, name in enumerate(whole.names)}
        for name, parameters in groups.items():
            unknown = [p for p in parameters if p not in places]
            if unknown or not parameters:
                got = f"{unknown or 'none'} in {name}"
                raise ValueError(message("groups", "name selected parameters", got))
        self._places = {n: [places[p] for p in sorted(ps, key=places.__getitem__)]
                        for n, ps in groups.items()}  # fmt: skip
        self.layouts = {n: sublayout(whole, at) for n, at in self._places.items()}
        self.num_params = {name: one.size for name, one in self.layouts.items()}
        self.num_data_passes = 0

    def multiply(self, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return ``A_ll V_l`` for some of the blocks.

        Args:
            columns: ``(n_l, k_l)`` by the block's name.

        Returns:
            Products of the same shapes.

        Cost:
            One pass over the data, one message where processes share them.
        """
        flat = torch.cat([V.T.reshape(-1) for V in columns.values()])
        shapes = {name: V.shape for name, V in columns.items()}
        self.num_data_passes += 1
        problem = self.matrix.problem
        with torch.no_grad():
            total = problem.summed(
                lambda: self._own_product(flat, shapes), flat, "diagonal blocks"
            )
            total = total * problem.scale
            if self.matrix._shift:
                total = total + self.matrix._shift * flat
        return self._split(total, shapes)

    def _own_product(self, flat: Tensor, shapes: Mapping[str, torch.Size]) -> Tensor:
        """Return all products, summed over this process's batches, end to end."""
        tangents = {
            name: self.layouts[name].split(V.T)
            for name, V in self._split(flat, shapes).items()
        }
        total = torch.zeros_like(flat)
        graphs = self.matrix._graphs

        def add(graph: BatchGraph, _: int) -> None:
            parts = []
            for name, own in tangents.items():
                product = self._part(graph, name, own)
                parts.append(self.layouts[name].join(product).reshape(-1))
            total.add_(torch.cat(parts))

        with graphs.running():
            for _ in graphs.each(add):
                pass
        return total

    @staticmethod
    def _split(flat: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        pieces = flat.split([n * k for n, k in shapes.values()])
        return {
            name: piece.reshape(k, n).T
            for (name, (n, k)), piece in zip(shapes.items(), pieces, strict=True)
        }

    def _part(self, graph: BatchGraph, name: str, tangents: list[Tensor]) -> Any:
        """Return one batch's product with one block."""
        places = self._places[name]
        part = graph.restricted(places)
        if part is not None:
            return self.matrix._multiply(part, tangents)
        # A graph of another kind: padded with zeros, at the price of a whole product.
        num = tangents[0].shape[0]
        shapes = self.matrix.problem.layout.shapes
        padded = [tangents[0].new_zeros(num, *shape) for shape in shapes]
        for place, tangent in zip(places, tangents, strict=True):
            padded[place] = tangent
        product = self.matrix._multiply(graph, padded)
        return [product[place] for place in places]

    def on_batch(self, batch: Batch) -> "BatchBlocks":
        """Build the graph of one batch alone, to count what products take.

        To be called, and used, inside ``problem.network.running()`` with gradients
        enabled.
        """
        leaves, parameters = self.matrix.problem.leaves()
        outputs = self.matrix.problem.outputs(batch, parameters)
        run = AutogradRun(outputs, leaves)
        graph = self.matrix._build(run, batch.targets, batch.index)
        return BatchBlocks(graph, self._places)


@final
class BatchBlocks:
    """The blocks of one batch; see `DiagonalBlocks.on_batch`."""

    def __init__(self, graph: BatchGraph, places: Mapping[str, list[int]]) -> None:
        self._graph, self._places = graph, places

    def count(self, name: str) -> int:
        """Return the floating-point operations of one product with a block."""
        part = self._graph.restricted(self._places[name])
        return self._operations(self._graph if part is None else part)

    def count_whole(self) -> int:
        """Return those of one product with the whole matrix."""
        return self._operations(self._graph)

    @staticmethod
    def _operations(graph: Any) -> int:
        ones = [torch.ones_like(g)[None] for g in graph.roots()]
        with FlopCount() as count:
            graph.multiply(ones, vectorised=False)
        return count.total


def sublayout(whole: Layout, places: Sequence[int]) -> Layout:
    """Return the layout of some of the tensors, a mask's entries kept."""
    names = tuple(whole.names[i] for i in places)
    shapes = tuple(whole.shapes[i] for i in places)
    if whole.entries is None:
        return Layout(names, shapes)
    starts = [0]
    for shape in whole.shapes:
        starts.append(starts[-1] + shape.numel())
    found, start = [], 0
    for i in places:
        entries = whole.entries
        inside = entries[(entries >= starts[i]) & (entries < starts[i + 1])]
        found.append(inside - starts[i] + start)
        start += whole.shapes[i].numel()
    return Layout(names, shapes, torch.cat(found))


@final
class FlopCount(TorchDispatchMode):
    """Counts what the matrix products and convolutions inside of it take.

    Attributes:
        total: Floating-point operations so far.

    Example:
        >>> with FlopCount() as count:
        ...     _ = torch.ones(2, 3) @ torch.ones(3, 4)
        >>> count.total
        48
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call the function and count it."""
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        formula = flop_registry.get(getattr(func, "_overloadpacket", None))
        if formula is not None:
            self.total += int(formula(*args, **kwargs, out_val=output))
        return output
