"""Spectra of all layers' own blocks in one sweep: the data are read together for all."""

import dataclasses
import time
import warnings
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from curvescope._core.checks import message, one_of, positive_int, real
from curvescope._core.errors import AccuracyWarning, ChangedDuringComputationError
from curvescope._core.memory import available_memory, format_bytes, peak_memory
from curvescope._core.progress import track
from curvescope._core.random import resolve_generator
from curvescope.analysis.all_layers_chains import Space, top_basis_size
from curvescope.analysis.all_layers_factors import FactorBlocks
from curvescope.analysis.all_layers_rows import Asked, LayerRun
from curvescope.analysis.all_layers_sweep import Look, count_products, look
from curvescope.analysis.layer_groups import Groups, resolve_groups
from curvescope.curvature import GGN, Hessian
from curvescope.curvature.blocks import DiagonalBlocks
from curvescope.problem import Problem
from curvescope.results import Cost, LayerSpectra, LayerSpectrum, SpectralDensity

_MATRICES = {"hessian": Hessian, "ggn": GGN}
_MEMORY_SHARE = 0.5
# A guess, for the choice of the way only: steps until a top eigenvalue is converged.
_TYPICAL_STEPS = 12
# Up to this side a factor's block is formed: less work than its products; and where a
# density takes many more products.
_FORMED_BELOW = 512
_FORMED_FOR_DENSITY = 1536


def all_layers(
    problem: Problem,
    *,
    k: int = 1,
    matrix: str = "hessian",
    density: bool = False,
    groups: Groups | None = None,
    num_probes: int = 12,
    num_steps: int = 64,
    tol: float | None = None,
    max_matvecs: int | None = None,
    generator: torch.Generator | None = None,
) -> LayerSpectra:
    r"""Measure the spectrum of every layer's own block, all layers together.

    .. math:: A_{ll} = \nabla^2_{\theta_l} L \quad \text{or} \quad
        \text{scale} \sum_n J_{nl}^\top \nabla^2_f \ell_n J_{nl}

    All layers share forward and first backward, and all their products the passes over
    the data. A layer whose curvature part is exactly zero (all behind it is piecewise
    linear), and any layer of a GGN, has a factor, ``J' J`` with one row for each sample
    and output: one sweep gives those of all layers, and products need the network no
    more. The other blocks are multiplied on one kept graph, of which a block needs only
    what lies behind its layer. Small blocks are formed. The plan in the result says
    which layer went which way; a sample of the data decides, by work.

    Args:
        problem: Model, loss and data.
        k: Eigenvalues of largest magnitude of each block.
        matrix: ``"hessian"`` or ``"ggn"``.
        density: Whether to compute every block's spectral density.
        groups: Blocks other than the layers', as for `layer_curvature`.
        num_probes: Random vectors for traces, norms and densities that are not exact,
            at least 2.
        num_steps: Lanczos steps of each probe of a density.
        tol: Relative residual of the eigenpairs; by default 1e-3 in float32 and below,
            1e-8 in float64.
        max_matvecs: Products with a block for its eigenvalues at most; by default
            ``max(300, 60 k)``.
        generator: Source of starts and probes; a fresh one with a fixed seed if
            ``None``.

    Returns:
        One row a layer, with true residuals and standard errors; densities by name.

    Raises:
        ValueError: If an argument is out of range, a product is not finite, or the
            memory does not hold the bases.
        ChangedDuringComputationError: If weights or data change meanwhile.

    Cost:
        Factors: as many backward passes (without weights) as outputs, once. Else a
        third of a product with the whole matrix for each layer and step. Memory: for
        all layers together one basis of ``max(40, 2 k + 20)`` network vectors, and for a
        density ``num_probes * num_steps``, in groups where they do not fit; kept rows
        and graphs as the problem's ``memory_limit`` allows.

    Example:
        >>> data = (torch.eye(4), torch.tensor([0, 1, 0, 1]))
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
        >>> spectra = all_layers(Problem(net, "cross_entropy", data), matrix="ggn")
        >>> [row.num_params for row in spectra.layers]
        [15, 8]

    References:
        Pearlmutter (1994), doi:10.1162/neco.1994.6.1.147; Schraudolph (2002),
        doi:10.1162/08997660260028683.
    """
    one_of("matrix", matrix, tuple(_MATRICES))
    k = positive_int("k", k)
    limit = max(300, 60 * k) if max_matvecs is None else max_matvecs
    tol = (1e-8 if problem.dtype == torch.float64 else 1e-3) if tol is None else tol
    generator = resolve_generator(generator)
    asked = Asked(
        k=k,
        tol=real("tol", tol, minimum=0.0),
        density=density,
        num_probes=positive_int("num_probes", num_probes, minimum=2),
        num_steps=positive_int("num_steps", num_steps, minimum=2),
        max_matvecs=positive_int("max_matvecs", limit, minimum=3 * k),
        generator=generator,
    )
    began = time.perf_counter()
    chosen = resolve_groups(problem, groups)
    run = _Run(problem, chosen, matrix, asked)
    run.measure()
    layers, densities = run.rows(), run.densities()
    unconverged = [row.name for row in layers if not row.converged]
    notes = _warned(unconverged, asked)
    return LayerSpectra(
        of=run.blocks.matrix.info,
        cost=Cost(
            num_matvecs=sum(row.num_matvecs for row in layers),
            num_data_passes=run.num_data_passes,
            seconds=time.perf_counter() - began,
            peak_memory=peak_memory(problem.device),
        ),
        settings={
            "k": k,
            "matrix": matrix,
            "density": density,
            "num_probes": num_probes,
            "num_steps": num_steps if density else None,
            "tol": asked.tol,
            "max_matvecs": asked.max_matvecs,
            "groups": {name: list(names) for name, names in chosen.items()}
            if groups is not None
            else None,
            "seed": generator.initial_seed(),
        },
        notes=notes,
        layers=layers,
        densities=densities,
        plan=tuple(run.plan),
        whole_products=run.work,
        tolerance=asked.tol,
    )


def _warned(unconverged: list[str], asked: Asked) -> tuple[str, ...]:
    """Warn of layers that are not converged, and return the note."""
    if not unconverged:
        return ()
    shown = ", ".join(unconverged[:5]) + (", ..." if len(unconverged) > 5 else "")
    text = (
        f"{len(unconverged)} layers' eigenpairs did not reach the relative residual "
        f"{asked.tol:g} in {asked.max_matvecs} products with their block: {shown}. "
        "Raise `max_matvecs` or `tol`."
    )
    warnings.warn(text, AccuracyWarning, stacklevel=3)
    return (text,)


@final
class _Run:
    """One sweep: which layers go which way, and the rounds that they share."""

    def __init__(
        self,
        problem: Problem,
        groups: Mapping[str, tuple[str, ...]],
        matrix: str,
        asked: Asked,
    ) -> None:
        self.problem, self.asked = problem, asked
        self.second_order = matrix == "hessian"
        self.blocks = DiagonalBlocks(_MATRICES[matrix](problem), groups)
        self.fingerprint = problem.refresh()
        self.seen = self._look()
        self.plan: list[str] = []
        self.factors: FactorBlocks | None = None
        self.layers: dict[str, LayerRun] = {}

    def _look(self) -> Look:
        """Look at a few samples; every process goes by the first that has some."""

        def own() -> Look | None:
            if self.problem.num_batches == 0:
                return None
            return look(
                self.blocks, second_order=self.second_order, columns=self._columns
            )

        found = [one for one in self.problem.processes.gather(own) if one is not None]
        return found[0]

    def measure(self) -> None:
        """Build the factors, then advance all layers round by round."""
        names = [n for n in self.blocks.num_params if n not in self.seen.left_out]
        limit = _FORMED_FOR_DENSITY if self.asked.density else _FORMED_BELOW
        if names:
            self.factors = FactorBlocks(
                self.blocks,
                names,
                self.seen,
                second_order=self.second_order,
                formed_below=limit,
            )
            if not self._sweeping_pays(self.factors):
                self.factors.leave_multiplied(
                    "its factor does not fit the memory, and sweeps take more work"
                )
            self.factors.build()
            self.seen.left_out |= self.factors.left_out
            self.blocks.matrix.reserve(self.factors.num_bytes)
            count_products(self.seen, self.blocks, list(self.factors.left_out))
        self._begin()
        self._describe()
        with track("all layers", total=len(self.layers)) as task:
            while True:
                active = [run for run in self.layers.values() if not run.done]
                done = len(self.layers) - len(active)
                task.update(completed=done, status=f"{done} done")
                if not active:
                    break
                self._round(active)
        self._check()

    def _columns(self, size: int) -> int:
        """Return how many products a block is likely to take."""
        asked = self.asked
        probes = asked.num_probes * (asked.num_steps if asked.density else 1)
        return min(size, _TYPICAL_STEPS * asked.k + probes)

    def _sweeping_pays(self, factors: FactorBlocks) -> bool:
        """Tell whether rows that do not fit are still cheaper, swept in every round."""
        names, asked = factors.multiplied, self.asked
        if factors.fits or not names:
            return True
        count_products(self.seen, self.blocks, names)
        sizes = self.blocks.num_params
        products = sum(self.seen.parts[n] * self._columns(sizes[n]) for n in names)
        rounds = max(_TYPICAL_STEPS, asked.num_steps if asked.density else 0)
        work = factors.work_of_a_sweep + rounds * factors.work_again
        return work * self.seen.whole <= products

    def _begin(self) -> None:
        """Start the chains of every layer that is not formed."""
        formed = {} if self.factors is None else self.factors.formed
        traces = {} if self.factors is None else self.factors.traces
        rest = {n: s for n, s in self.blocks.num_params.items() if n not in formed}
        basis, probes = self._basis(rest)
        matrix = self.blocks.matrix
        for name, size in self.blocks.num_params.items():
            of = dataclasses.replace(
                matrix.info,
                matrix=f"block {name} of the {matrix.info.matrix}",
                num_params=size,
                slices=(),
            )
            self.layers[name] = LayerRun(
                name,
                Space(size, matrix.dtype, matrix.device, of),
                self.asked,
                shift=matrix._shift,
                formed=formed.get(name),
                trace=traces.get(name),
                basis_size=min(basis, top_basis_size(size, self.asked.k)),
                probes_at_once=probes,
                positive=matrix.positive_semidefinite,
            )

    def _basis(self, rest: Mapping[str, int]) -> tuple[int, int]:
        """Return how many vectors a basis may hold, and how many probes run at once."""
        total = sum(rest.values()) * self.problem.dtype.itemsize
        if not total:
            return 1, 1
        k, steps = self.asked.k, self.asked.num_steps
        # All processes must decide alike.
        rooms = self.problem.processes.gather(
            lambda: available_memory(self.problem.device)
        )
        room = _MEMORY_SHARE * min(rooms)
        fits = int(room // total)
        fullest = max(top_basis_size(size, k) for size in rest.values())
        others = 2 * k + 2 + (0 if self.asked.density else self.asked.num_probes)
        basis = min(fullest, fits - others)
        if basis < min(max(rest.values()), 3 * k + 2):
            need = format_bytes((3 * k + 2 + others) * total)
            got = f"{k} ({need} for all layers' bases together)"
            contract = f"let them fit into {format_bytes(room)}"
            raise ValueError(message("k", contract, got, "Measure fewer layers."))
        probes = max(1, (fits - basis) // (steps + 4)) if self.asked.density else 1
        return basis, min(probes, self.asked.num_probes)

    def _describe(self) -> None:
        """Say how the layers are done."""
        ways: dict[tuple[str, str], list[str]] = {}
        for name, run in self.layers.items():
            reason = self.seen.left_out.get(name, "")
            ways.setdefault((self._method(name, run), reason), []).append(name)
        texts = {
            "formed": "formed and diagonalised",
            "factor": "by its factor",
            "products": "by products on the kept graphs",
        }
        for (method, reason), names in ways.items():
            shown = names[0] if len(names) == 1 else f"{len(names)} layers"
            why = f" ({reason})" if reason else ""
            self.plan.append(f"{shown}: {texts[method]}{why}")
        if self.factors is not None:
            kept = (
                "kept" if self.factors.fits else "swept in every round where not kept"
            )
            work = self.factors.work_of_a_sweep
            self.plan.append(
                f"the sweep for factors is the work of {work:.3g} products; factors are {kept}"
            )

    def _method(self, name: str, run: LayerRun) -> str:
        if run.formed:
            return "formed"
        return "products" if name in self.seen.left_out else "factor"

    def _round(self, active: list[LayerRun]) -> None:
        """Multiply what all layers want, once, and hand it out."""
        self._check()
        by_factor: dict[str, Tensor] = {}
        by_product: dict[str, Tensor] = {}
        for run in active:
            way = by_product if run.name in self.seen.left_out else by_factor
            way[run.name] = run.wanted()
        found: dict[str, Tensor] = {}
        if by_factor:
            assert self.factors is not None
            found |= self.factors.multiply(by_factor)
        if by_product:
            found |= self.blocks.multiply(by_product)
        for run in active:
            run.give(found.pop(run.name))

    def _check(self) -> None:
        if self.problem.refresh() != self.fingerprint:
            text = "weights, buffers or data changed while layers were measured"
            raise ChangedDuringComputationError(text)

    def rows(self) -> tuple[LayerSpectrum, ...]:
        """Return one row a layer."""
        return tuple(
            run.row(
                method=self._method(name, run),
                work=self._work(name),
                reason=self.seen.left_out.get(name, ""),
            )
            for name, run in self.layers.items()
        )

    def densities(self) -> dict[str, SpectralDensity]:
        """Return every block's density, if asked for."""
        if not self.asked.density:
            return {}
        return {name: run.density() for name, run in self.layers.items()}

    def _work(self, name: str) -> float:
        """Return the work of a product with a block, in whole products."""
        if name in self.seen.left_out or self.factors is None:
            return self.seen.share(name)
        return self.factors.work_of_a_product(name)

    @property
    def work(self) -> float:
        """The work of everything, in products with the whole matrix."""
        by_products = [n for n in self.layers if n in self.seen.left_out]
        total = sum(self.layers[n].num_matvecs * self._work(n) for n in by_products)
        return total + (0.0 if self.factors is None else self.factors.work)

    @property
    def num_data_passes(self) -> int:
        """Passes over the data, of sweeps and of rounds on the graphs."""
        sweeps = 0 if self.factors is None else self.factors.num_sweeps
        return sweeps + self.blocks.num_data_passes
