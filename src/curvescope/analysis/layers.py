"""Curvature of each layer's own diagonal block, split into its two parts."""

import time
from collections import Counter
from collections.abc import Iterator
from typing import final

import torch

from curvescope._core.checks import message, one_of, positive_int
from curvescope._core.memory import peak_memory
from curvescope._core.progress import track
from curvescope._core.random import resolve_generator
from curvescope.analysis.layer_groups import Groups, resolve_groups, restricted
from curvescope.analysis.layer_rows import Measured, exact_row, probed_row
from curvescope.exact import formed_block, own_blocks_in_turn
from curvescope.problem import Problem
from curvescope.results import Cost, LayerTable

METHODS = ("auto", "exact", "probes")
# Blocks up to this size are formed; `eigsh` alone would spend as many products.
_FORMED_BELOW = 64
_FORMED_IF_ASKED = 4096
_NAMES = {
    "kronecker": "by the chain rule",
    "patches": "by the chain rule over positions",
    "formed": "formed",
    "probes": "by {} Gaussian probes",
}


def layer_curvature(
    problem: Problem,
    *,
    groups: Groups | None = None,
    num_probes: int = 12,
    tol: float | None = None,
    method: str = "auto",
    generator: torch.Generator | None = None,
) -> LayerTable:
    r"""Measure every layer's own block of the Hessian and its two parts.

    .. math:: H_{ll} = G_{ll} + F_{ll}

    A layer is a module's own parameters, weight and bias together. Linear maps, and
    convolutions and norm layers whose curvature part vanishes (all behind them is
    piecewise linear), are exact, by the Hessian chain rule (`exact.own_blocks`) and in
    float64, without their block being formed; small blocks of any kind are formed; for
    the others one Gaussian block of probes serves all norms and traces.

    Args:
        problem: Model, loss and data.
        groups: Blocks other than the layers': by name globs of parameters or modules, or
            a predicate of name and parameter; or a function from a parameter's name to
            its group's. Only these are measured.
        num_probes: Probes of each layer that has no exact way, at least 2.
        tol: Relative residual of the top eigenvalues; by default 1e-6 for exact blocks,
            and `eigsh`'s own for the others.
        method: ``"auto"``; ``"exact"`` for no probes at all; ``"probes"`` for nothing
            else, in the problem's own precision.
        generator: Source of the probes; a fresh one with a fixed seed if ``None``.

    Returns:
        One row a layer: Frobenius norms of the block, of its linearisation part and of
        its curvature part, their traces, the eigenvalue of largest magnitude, each with
        its standard error (the eigenvalue: its true residual), and how it was computed.

    Raises:
        ValueError: If ``num_probes`` is below 2, a group holds no parameter, or a layer
            has no exact way and ``method="exact"``.

    Cost:
        For all exact layers together as many backward passes as the network has outputs,
        and as many more as a layer has outputs where its curvature part does not vanish.
        For each layer by probes ``num_probes`` products with the GGN's and the functional
        Hessian's block, and those of one `eigsh` with ``k=1``.

    Example:
        >>> import torch
        >>> data = (torch.eye(4), torch.tensor([0, 1, 0, 1]))
        >>> problem = Problem(torch.nn.Linear(4, 2), "cross_entropy", data)
        >>> layer_curvature(problem).layers[0].curvature_norm  # linear in its weights
        0.0

    References:
        Skorski, Temperoni, Theobald (2021), PMLR 157, for the split.
    """
    num_probes = positive_int("num_probes", num_probes, minimum=2)
    one_of("method", method, METHODS)
    generator = resolve_generator(generator)
    began = time.perf_counter()
    run = _Run(problem, resolve_groups(problem, groups), num_probes, tol, generator)
    found: dict[str, Measured] = {}
    with track("layers", total=len(run.groups)) as task:
        for name, measured in run.measure(method):
            found[name] = measured
            task.advance()
    ordered = [found[name] for name in run.groups]
    cost = sum((m.cost for m in ordered), run.cost)
    return LayerTable(
        of=problem.provenance("Hessian"),
        cost=Cost(
            num_matvecs=cost.num_matvecs,
            num_data_passes=cost.num_data_passes,
            seconds=time.perf_counter() - began,
            peak_memory=peak_memory(problem.device),
        ),
        settings={
            "num_probes": num_probes,
            "tol": tol,
            "method": method,
            "groups": {name: list(names) for name, names in run.groups.items()}
            if groups is not None
            else None,
            "seed": generator.initial_seed(),
        },
        notes=tuple(note for m in ordered for note in m.notes),
        layers=tuple(m.row for m in ordered),
        method=_described([m.row.method for m in ordered], num_probes),
    )


def _described(methods: list[str], num_probes: int) -> str:
    """Say how many layers were done how."""
    counts = Counter(methods)
    words = [
        f"{counts[key]} {text.format(num_probes)}"
        for key, text in _NAMES.items()
        if counts[key]
    ]
    return ", ".join(words)


@final
class _Run:
    """One table: which layers go which way."""

    def __init__(
        self,
        problem: Problem,
        groups: dict[str, tuple[str, ...]],
        num_probes: int,
        tol: float | None,
        generator: torch.Generator,
    ) -> None:
        self.problem = problem
        self.groups = groups
        self.num_probes = num_probes
        self.tol = tol
        self.generator = generator
        self.cost = Cost()

    def measure(self, method: str) -> Iterator[tuple[str, Measured]]:
        """Yield the rows as they are done, exact ones first."""
        rest = dict.fromkeys(self.groups, "probes were asked for")
        if method != "probes":
            rest = {}
            yield from self._exact(method, rest)
        limit = 0 if method == "probes" else max(_FORMED_BELOW, self.num_probes)
        for name, reason in rest.items():
            part = restricted(self.problem, self.groups[name])
            size = part.num_params
            if method == "exact":
                limit = _FORMED_IF_ASKED
                if size > limit:
                    raise _no_exact_way(name, size, reason)
            if size <= limit:
                yield name, self._formed(part, name)
            else:
                yield (
                    name,
                    probed_row(
                        name,
                        part,
                        num_probes=self.num_probes,
                        tol=self.tol,
                        generator=self.generator,
                    ),
                )

    def _exact(
        self, method: str, rest: dict[str, str]
    ) -> Iterator[tuple[str, Measured]]:
        """Yield the rows of the chain rule; collect in ``rest`` why others have none."""
        by_parameters = {names: name for name, names in self.problem.layers().items()}
        layers = {
            by_parameters[names]: name
            for name, names in self.groups.items()
            if names in by_parameters
        }
        for name, names in self.groups.items():
            if layers.get(by_parameters.get(names, "")) != name:
                rest[name] = "it is a group of layers, not one"
        options = {} if method == "auto" else {"most_passes": None}
        for blocks in own_blocks_in_turn(self.problem, layers=list(layers), **options):
            self.cost = self.cost + Cost(num_data_passes=blocks.num_data_passes)
            rest.update({layers[k]: reason for k, reason in blocks.left_out.items()})
            while blocks:
                # One at a time, so that what a block keeps for its norms is freed.
                layer, block = blocks.popitem()
                block.name = layers[layer]
                row = exact_row(block, tol=self.tol, generator=self.generator)
                yield layers[layer], row

    def _formed(self, part: Problem, name: str) -> Measured:
        block = formed_block(part, name)
        measured = exact_row(block, tol=self.tol, generator=self.generator)
        size = part.num_params
        cost = Cost(num_matvecs=2 * size, num_data_passes=2 * -(-size // 32))
        return measured._replace(cost=cost)


def _no_exact_way(name: str, size: int, reason: str) -> ValueError:
    contract = 'be "auto" or "probes" where a layer has no exact way'
    remedy = f"Blocks of more than {_FORMED_IF_ASKED} parameters are not formed."
    got = f'"exact", for {name} of {size} parameters: {reason}'
    return ValueError(message("method", contract, got, remedy))
