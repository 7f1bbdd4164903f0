"""The Hessian and its relatives: one final class a matrix, one product method each.

All are ``scale * sum over batches``, with ``scale`` the objective's reduction, in the
parameters' dtype and order. Cost of one product in forward passes' work over the
data, graphs kept: Hessian and functional Hessian 6, the others 4 (a gradient: 3).
"""

import warnings
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar, Self, Unpack, final

import torch
from torch import Tensor

from curvescope._core.checks import message, positive_int
from curvescope._core.errors import AccuracyWarning
from curvescope._core.random import DEFAULT_SEED
from curvescope.autodiff.graphs import (
    BatchGraph,
    OuterProduct,
    Run,
    per_sample_outer,
)
from curvescope.autodiff.layout import Layout, as_rows
from curvescope.curvature.choices import Choices, ProductChoices
from curvescope.curvature.kept import KeptGraphs, Take
from curvescope.curvature.planner import ProductPlan, make_plan
from curvescope.linop.base import SymmetricOperator
from curvescope.losses import AbstractLoss
from curvescope.losses.base import check_second_derivative
from curvescope.problem import Problem


@final
class _Stacks:
    """Blocks of columns, split into the parameters' shapes when they are asked for."""

    def __init__(self, layout: Layout, columns: Tensor) -> None:
        self._layout = layout
        self._columns = columns
        self._last: tuple[tuple[int, int], list[Tensor]] | None = None

    def __call__(self, start: int, stop: int) -> list[Tensor]:
        # All columns at once are the same for every batch; of several blocks only one
        # is there at a time, since splitting copies.
        if self._last is None or self._last[0] != (start, stop):
            self._last = None
            rows = as_rows(self._columns[start:stop].T)
            self._last = ((start, stop), self._layout.split(rows))
        return self._last[1]


class CurvatureOperator(SymmetricOperator):
    """A symmetric matrix of a problem: the scaled sum of its batches' matrices.

    A subclass says how a batch's graph is built; the rest is here.

    Attributes:
        problem: What the matrix is of.
        choices: How its products are computed, as far as the user said so.
        rounding_error: What bfloat16 does to a product with a random vector,
            relatively; 0 in full precision, where nothing beyond rounding is done.
    """

    _name: ClassVar[str]
    _positive_semidefinite: ClassVar[bool] = False
    _second_order: ClassVar[bool] = False  # all of the second derivative, or a Jacobian
    _regularised: ClassVar[bool] = False  # whether weight decay adds its identity

    def __init__(self, problem: Problem, **choices: Unpack[Choices]) -> None:
        if not isinstance(problem, Problem):
            remedy = "Make one: `cs.Problem(model, loss, data)`."
            raise TypeError(
                message("problem", "be a Problem", type(problem).__name__, remedy)
            )
        size = problem.num_params
        self.choices = ProductChoices.of(choices)
        self._graphs = KeptGraphs(
            problem,
            self._build,
            kind=self._name,
            second_order=self._second_order,
            choices=self.choices,
        )
        super().__init__(
            (size, size),
            dtype=problem.dtype,
            device=problem.device,
            symmetric=True,
            positive_semidefinite=self._positive_semidefinite,
            info=problem.provenance(self._name),
            passes_per_product=1,
            block_size=self._graphs.room.block_size,
        )
        self.problem = problem
        self._options: dict[str, Any] = dict(choices)  # of the constructor, for blocks
        self._shift = problem.weight_decay if self._regularised else 0.0
        self.rounding_error = 0.0
        if self.choices.precision != "full":
            self.rounding_error = self._graphs.rounding_error()
            name = f"{self._name} in {self.choices.precision}"
            error = f"products off by about {self.rounding_error:.0e}, relatively"
            self.info = replace(self.info, matrix=f"{name} ({error})")

    @abstractmethod
    def _build(self, run: Run, targets: Any, index: int) -> BatchGraph:
        """Return the kept graph of one batch."""

    @final
    def refresh(self) -> str:
        """Drop kept graphs if weights or buffers changed; return the fingerprint."""
        return f"{self._identity()}: {self._graphs.refresh()}"

    def _identity(self) -> str:
        """Return what tells this matrix from others of the same problem."""
        return f"{self._name}, {self.choices.precision}"

    @final
    def release(self) -> None:
        """Free the kept graphs; the next product builds them anew."""
        self._graphs.release()

    @final
    def plan(self, columns: int = 1) -> ProductPlan:
        """Say how products will be computed, what they cost, and why so.

        Args:
            columns: Of one product.

        Cost:
            The graph of one batch, and where they were not timed yet, some three
            products of each number of columns at once, on that batch.

        Example:
            >>> import torch
            >>> data = (torch.ones(6, 3), torch.zeros(6, dtype=torch.long))
            >>> H = Hessian(Problem(torch.nn.Linear(3, 2), "cross_entropy", data))
            >>> plan = H.plan(columns=4)
            >>> plan.num_kept, plan.peak < plan.limit
            (1, True)
        """
        self.refresh()
        return make_plan(self._name, self._graphs, positive_int("columns", columns))

    @final
    def memory_plan(self) -> ProductPlan:
        """Return the plan of products of one column, in bytes only: nothing is timed.

        Cost:
            A graph of one batch and, unless it is small, a product through it.
        """
        self.refresh()
        return make_plan(self._name, self._graphs, 1, timed=False)

    @property
    def chosen(self) -> dict[str, Any]:
        """How products are computed, as far as that is known by now; for results."""
        return {"product": self._graphs.chosen} if self._graphs.chosen else {}

    @final
    def reserve(self, num_bytes: int) -> None:
        """Leave so much of the memory limit to an algorithm's own vectors."""
        self._graphs.room.reserved = positive_int("num_bytes", num_bytes, minimum=0)

    @final
    def _matmat(self, V: Tensor) -> Tensor:
        # Of a single batch each block is needed once, and stays in the caches.
        columns = V.T if self.problem.num_batches == 1 else as_rows(V)
        total = self.problem.summed(
            lambda: self._own_product(columns), columns, self._name
        )
        if self._shift:
            total += self._shift * columns
        return total.T

    def _own_product(self, columns: Tensor) -> Tensor:
        """Return the rows' products, summed over this process's batches and scaled."""
        layout, scale = self._graphs.layout, self.problem.scale
        with self._graphs.running():
            # A plain tensor, in inference mode too.
            total = torch.empty_like(columns, memory_format=torch.contiguous_format)
            take, num = _Stacks(layout, columns), len(columns)
            begun = False

            def add(graph: BatchGraph, samples: int) -> None:
                for start, part in self._blocks(graph, take, num, samples):
                    here = total[start : start + len(part[0])]
                    layout.put(here, part, scale, add=begun)

            for _ in self._graphs.each(add):
                begun = True
        return total if begun else total.zero_()

    def _blocks(
        self, graph: BatchGraph, take: Take, num: int, samples: int
    ) -> Iterator[tuple[int, list[Tensor]]]:
        def multiply(block: list[Tensor], vectorised: bool) -> list[Tensor]:  # noqa: FBT001
            return graph.multiply(block, vectorised=vectorised)

        return self._graphs.blocks(multiply, take, num, samples)

    def _multiply(self, graph: BatchGraph, tangents: list[Tensor]) -> list[Tensor]:
        """Return all columns' products with any graph, a part of a batch's too."""

        def take(start: int, stop: int) -> list[Tensor]:
            return [t[start:stop] for t in tangents]

        blocks = self._blocks(graph, take, len(tangents[0]), 0)
        parts = [part for _, part in blocks]
        if len(parts) == 1:
            return parts[0]
        return [torch.cat(column) for column in zip(*parts, strict=True)]

    @final
    def block(self, params: Any) -> Self:
        """Return the diagonal block of one layer or any selection of parameters.

        Args:
            params: As for `Problem`: a layer's name, globs, a predicate, ...

        Example:
            >>> import torch
            >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
            >>> data = (torch.ones(5, 3), torch.zeros(5, dtype=torch.long))
            >>> Hessian(Problem(net, "cross_entropy", data)).block("1").shape
            (10, 10)
        """
        return type(self)(self.problem.select(params), **self._options)


@final
class Hessian(CurvatureOperator):
    r"""Hessian H of the objective with respect to the selected parameters.

    .. math:: H = \nabla^2_\theta L = G + F

    with G the `GGN` and F the `FunctionalHessian`. Symmetric, indefinite. Products by
    double backward: right on every layer, norm layers included.

    Args:
        problem: Model, loss and data.
        **choices: How products are computed, see `ProductChoices`.

    Cost:
        A product is 2 gradients' work with kept graphs, 3 without.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> data = (torch.tensor([[2.0]]), torch.tensor([[0.0]]))
        >>> Hessian(Problem(model, "mse", data)).to_dense()
        tensor([[8.]])

    References:
        Pearlmutter (1994), doi:10.1162/neco.1994.6.1.147, for the product.
    """

    _name = "Hessian"
    _second_order = True
    _regularised = True

    def _build(self, run: Run, targets: Any, index: int) -> BatchGraph:
        loss = self.problem.loss
        if index == 0:
            check_second_derivative(loss, run.outputs, targets)
        return run.second_derivative(
            lambda outputs: loss.total(outputs, targets),
            lambda: loss.output_hessian(run.outputs, targets),
        )


@final
class GGN(CurvatureOperator):
    r"""Generalised Gauss-Newton matrix, the outer-product part of the Hessian.

    .. math:: G = \text{scale} \sum_n J_n^\top \nabla^2_f \ell_n \, J_n

    Positive semidefinite where the loss is convex in the outputs.

    Args:
        problem: Model, loss and data.
        **choices: How products are computed, see `ProductChoices`.

    Cost:
        A product is 4/3 of a gradient's work with kept graphs.

    References:
        Schraudolph (2002), doi:10.1162/08997660260028683; Singh et al. (2021), Eq. (2).
    """

    _name = "GGN"
    _regularised = True

    def __init__(self, problem: Problem, **choices: Unpack[Choices]) -> None:
        super().__init__(problem, **choices)
        self.positive_semidefinite = _is_convex(problem.loss)
        if problem.loss.linear_in_outputs:
            text = (
                f"the GGN vanishes: {problem.loss.name} is linear in the model's outputs. "
                "End the model in logits and use cross_entropy to have G + F = H with "
                "both parts."
            )
            warnings.warn(text, AccuracyWarning, stacklevel=2)

    def _build(self, run: Run, targets: Any, index: int) -> BatchGraph:
        loss = self.problem.loss
        if index == 0:
            check_second_derivative(loss, run.outputs, targets)
        return OuterProduct(run.linearised(), loss.output_hessian(run.outputs, targets))


def _is_convex(loss: AbstractLoss) -> bool:
    """Tell whether a loss is surely convex in the outputs: negative weights spoil it."""
    factors = (getattr(loss, name, None) for name in ("weight", "pos_weight", "scale"))
    signs = (bool((torch.as_tensor(f) >= 0.0).all()) for f in factors if f is not None)
    return loss.convex_in_outputs and all(signs)


@final
class FunctionalHessian(CurvatureOperator):
    r"""Functional Hessian: the loss's gradient times the network's own curvature.

    .. math:: F = \text{scale} \sum_n \sum_k
        \frac{\partial \ell_n}{\partial f_{nk}} \nabla^2_\theta f_{nk} = H - G

    Its own product (the Hessian of ``sum stop_gradient(residual) * outputs``), not a
    difference of two: small F beside a large G keeps its digits.

    Args:
        problem: Model, loss and data.
        **choices: How products are computed, see `ProductChoices`.

    Cost:
        As the Hessian's.

    References:
        Singh, Bachmann, Hofmann (2021), Eq. (2), arXiv:2106.16225.
    """

    _name = "functional Hessian"
    _second_order = True

    def _build(self, run: Run, targets: Any, index: int) -> BatchGraph:
        residual = output_gradient(self.problem, run.outputs, targets)
        return run.second_derivative(
            lambda outputs: (residual * outputs).sum(), lambda: torch.zeros_like
        )


@final
class EmpiricalFisher(CurvatureOperator):
    r"""Empirical Fisher: outer products of the samples' gradients, true labels.

    .. math:: E = \text{scale} \sum_n \nabla\ell_n \nabla\ell_n^\top

    A sample is one entry of the outputs' first dimension. Positive semidefinite.

    Args:
        problem: Model, loss and data.
        **choices: How products are computed, see `ProductChoices`.

    Cost:
        As the GGN's.

    References:
        Kunstner, Balles, Hennig (2019), arXiv:1905.12558, on what it is not.
    """

    _name = "empirical Fisher"
    _positive_semidefinite = True

    def _build(self, run: Run, targets: Any, index: int) -> BatchGraph:
        gradient = output_gradient(self.problem, run.outputs, targets)
        return OuterProduct(run.linearised(), per_sample_outer(gradient[None]))


@final
class MonteCarloFisher(CurvatureOperator):
    r"""Fisher with labels drawn from the model; in the mean the GGN.

    .. math:: M = \frac{\text{scale}}{S} \sum_n \sum_s g_{ns} g_{ns}^\top,\quad
        g_{ns} = J_n^\top \nabla_f \ell(f_n, \tilde y_{ns})

    The labels are drawn once for the operator: the same seed gives the same matrix, as
    long as batches and processes are the same; others give other draws, so that a run is
    not resumed with another number of processes.

    Args:
        problem: Model, loss (a negative log-likelihood) and data.
        num_draws: Labels S drawn for each sample.
        seed: Of the draws; each batch has a stream of its own.
        **choices: How products are computed, see `ProductChoices`.

    Raises:
        TypeError: If the loss has no distribution to draw from.

    Cost:
        As the GGN's.
    """

    _name = "Monte Carlo Fisher"
    _positive_semidefinite = True

    def __init__(
        self,
        problem: Problem,
        *,
        num_draws: int = 1,
        seed: int = DEFAULT_SEED,
        **choices: Unpack[Choices],
    ) -> None:
        self.num_draws = positive_int("num_draws", num_draws)
        self.seed = seed
        super().__init__(problem, **choices)
        self._options |= {"num_draws": num_draws, "seed": seed}

    def _identity(self) -> str:
        shares = self.problem.processes.size  # each has streams of its own
        return f"{super()._identity()}, {self.num_draws} draws, {self.seed}, {shares}"

    def _build(self, run: Run, targets: Any, index: int) -> BatchGraph:
        among = self.problem.processes
        place = index * among.size + among.rank  # no other process has this stream
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * place)
        gradients = self.problem.loss.sampled_gradients(
            run.outputs.detach(), targets, num=self.num_draws, generator=generator
        )
        return OuterProduct(run.linearised(), per_sample_outer(gradients))


def output_gradient(problem: Problem, outputs: Tensor, targets: Any) -> Tensor:
    """Return the loss sum's gradient by the outputs, as a constant."""
    leaf = outputs.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(
        problem.loss.total(leaf, targets),
        leaf,
        allow_unused=True,
        materialize_grads=True,
    )
    return gradient.detach()
