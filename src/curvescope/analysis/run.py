"""The whole analysis: every part a result, each saved when done, resumable."""

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack, final

import torch
from torch import Tensor

from curvescope._core import files
from curvescope._core.checkpoint import Checkpoint
from curvescope._core.checks import message, one_of, positive_int, real
from curvescope._core.fingerprints import combine
from curvescope._core.random import resolve_generator
from curvescope.analysis.layers import layer_curvature
from curvescope.analysis.plan import AnalysisPlan, plan_analysis, vectors_of
from curvescope.curvature import GGN, FunctionalHessian, Hessian
from curvescope.curvature.choices import Choices, ProductChoices
from curvescope.curvature.matrices import CurvatureOperator
from curvescope.distributed import SharedCheckpoint
from curvescope.linalg import (
    Quadrature,
    density_from_nodes,
    dimension_bounds,
    effective_dimension_from_density,
    eigsh,
    frobenius_norm,
    slq,
    spectral_density,
    trace,
    with_bounds,
)
from curvescope.problem import Problem
from curvescope.results import (
    EffectiveDimension,
    Eigenpairs,
    Estimate,
    Result,
    SpectralDensity,
    load,
)

MATRICES: dict[str, type[CurvatureOperator]] = {
    "hessian": Hessian,
    "ggn": GGN,
    "functional": FunctionalHessian,
}
PARTS = (
    "eigenpairs",
    "density",
    "trace",
    "frobenius_norm",
    "effective_dimension",
    "layers",
)
_CURVE_POINTS = 41


@final
@dataclass(frozen=True, kw_only=True)
class _Settings:
    """What every part reads its own settings from."""

    k: int
    which: str
    tol: float | None
    max_matvecs: int | None
    num_probes: int
    num_steps: int
    z: tuple[float, ...]
    eigenvectors: bool
    seed: int

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


def analyze(
    problem: Problem,
    *,
    matrix: str = "hessian",
    parts: Collection[str] = PARTS,
    k: int = 10,
    which: str = "BE",
    tol: float | None = None,
    max_matvecs: int | None = None,
    num_probes: int = 8,
    num_steps: int = 64,
    z: float | Sequence[float] | None = None,
    eigenvectors: bool = False,
    folder: str | Path | None = None,
    explain: bool = False,
    generator: torch.Generator | None = None,
    **choices: Unpack[Choices],
) -> dict[str, Result]:
    """Compute eigenpairs, density, trace, norm, effective dimension and layer table.

    With a ``folder``, every result is saved there when it is done, and the eigenpairs'
    and the density's iterations save their state as they go: the same call after a
    kill goes on where the last one was, to the same answer.

    Args:
        problem: Model, loss and data.
        matrix: ``"hessian"``, ``"ggn"`` or ``"functional"``.
        parts: Which of `PARTS`.
        k: Eigenpairs; at most the dimension.
        which: Which end, as for `eigsh`; ``"BE"`` takes both.
        tol: Relative residual of the eigenpairs.
        max_matvecs: Products to spend on the eigenpairs at most.
        num_probes: Probes of the density, and of each layer.
        num_steps: Lanczos steps of the density.
        z: Where the effective dimension is asked for, in the unit of an eigenvalue;
            by default a hundredth of the largest eigenvalue. The curve is always there.
        eigenvectors: Whether the eigenpairs keep their vectors.
        folder: Where to save and resume.
        explain: Whether to print, before anything starts, how products will be computed
            and why, and about how many seconds and bytes each part takes.
        generator: Source of all randomness; a fixed seed if ``None``.
        **choices: How products are computed, see `ProductChoices`. The layer table goes
            its own ways.

    Returns:
        Results by name: the parts, and the density on a second, signed-log axis.

    Raises:
        ValueError: If an argument is out of range.

    Cost:
        About 3 ``k`` + ``num_probes num_steps`` + 96 products, and the layer table's.

    Example:
        >>> import torch
        >>> data = (torch.eye(6, 4), torch.tensor([0, 1, 0, 1, 1, 0]))
        >>> problem = Problem(torch.nn.Linear(4, 2), "cross_entropy", data)
        >>> sorted(analyze(problem, parts=["trace"], num_probes=4))
        ['trace']
    """
    settings = check_settings(
        problem,
        matrix=matrix,
        parts=parts,
        k=k,
        which=which,
        tol=tol,
        max_matvecs=max_matvecs,
        num_probes=num_probes,
        num_steps=num_steps,
        z=z,
        eigenvectors=eigenvectors,
        generator=generator,
        **choices,
    )
    known = {"matrix": matrix, "parts": parts, "k": k, "max_matvecs": max_matvecs}
    known |= {"num_probes": num_probes, "num_steps": num_steps}
    if explain:
        print(explained(problem, {**known, **choices}))
    operator = operator_of(problem, {**known, **choices})
    run = _Run(problem, operator, settings, folder)
    for part in PARTS:
        if part in parts:
            run.add(part)
    run.compare()
    return run.results


def check_settings(
    problem: Problem,
    *,
    matrix: str,
    parts: Collection[str],
    k: int,
    which: str,
    tol: float | None,
    max_matvecs: int | None,
    num_probes: int,
    num_steps: int,
    z: float | Sequence[float] | None,
    eigenvectors: bool,
    generator: torch.Generator | None,
    **choices: Unpack[Choices],
) -> _Settings:
    """Check the arguments of `analyze`, before anything is computed or written.

    Raises:
        ValueError: If one is out of range.
    """
    one_of("matrix", matrix, tuple(MATRICES))
    ProductChoices.of(choices)
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        raise ValueError(message("parts", f"be among {', '.join(PARTS)}", unknown))
    size = problem.num_params
    if positive_int("k", k) > size and "eigenpairs" in parts:
        remedy = f"The matrix has {size} eigenvalues."
        text = message("k", f"be at most {size}, the dimension", k, remedy)
        raise ValueError(text)
    one_of("which", which, ("LM", "LA", "SA", "BE"))
    return _Settings(
        k=k,
        which=which,
        tol=None if tol is None else real("tol", tol, minimum=0.0),
        max_matvecs=None
        if max_matvecs is None
        else positive_int("max_matvecs", max_matvecs),
        num_probes=positive_int("num_probes", num_probes, minimum=2),
        num_steps=positive_int("num_steps", num_steps, minimum=2),
        z=_places(z),
        eigenvectors=eigenvectors,
        seed=resolve_generator(generator).initial_seed(),
    )


def operator_of(problem: Problem, arguments: Mapping[str, Any]) -> CurvatureOperator:
    """Return the matrix of an analysis, which leaves room for the parts' vectors."""
    names = ProductChoices.__dataclass_fields__
    choices = {name: arguments[name] for name in names if name in arguments}
    operator = MATRICES[arguments["matrix"]](problem, **choices)
    vector = problem.num_params * problem.dtype.itemsize
    wanted = peak_vectors(problem, arguments) * vector
    operator.reserve(min(wanted, problem.memory_limit // 2))
    return operator


def explained(problem: Problem, arguments: Mapping[str, Any]) -> AnalysisPlan:
    """Return what `analyze` with these arguments will do, and about what that costs."""
    operator = operator_of(problem, arguments)
    try:
        return plan_analysis(operator, arguments)
    finally:
        operator.release()


def peak_vectors(problem: Problem, arguments: Mapping[str, Any]) -> int:
    """Return how many vectors the parts hold at most; they run one after another."""
    return max(vectors_of(problem.num_params, arguments).values(), default=0)


def _places(z: float | Sequence[float] | None) -> tuple[float, ...]:
    if z is None:
        return ()
    values = z if isinstance(z, Sequence) else (z,)
    return tuple(sorted(real("z", value, minimum=0.0, strict=True) for value in values))


@final
class _Run:
    """One analysis: what is done, and where it is saved."""

    def __init__(
        self,
        problem: Problem,
        operator: CurvatureOperator,
        settings: _Settings,
        folder: str | Path | None,
    ) -> None:
        self.problem = problem
        self.operator = operator
        self.settings = settings
        self.folder = None if folder is None else Path(folder)
        self.results: dict[str, Result] = {}
        self._hidden: SpectralDensity | None = None

    def add(self, part: str) -> None:
        """Compute a part, or load it where it is already done."""
        names = ("density", "density_signed_log") if part == "density" else (part,)
        key = self._key(part)
        for name in names:
            done = self._saved(name, key)
            if done is None:
                done = getattr(self, f"_{name}")()
                how = {**done.settings, **self.operator.chosen}
                done = replace(done, settings=how)
                self._save(name, key, done)
            self.results[name] = done

    def compare(self) -> None:
        """Put what eigenpairs and trace say about the effective dimension beside it."""
        curve = self.results.get("effective_dimension")
        pairs, total = (self.results.get(name) for name in ("eigenpairs", "trace"))
        if not isinstance(curve, EffectiveDimension) or curve.bounds is not None:
            return
        if isinstance(pairs, Eigenpairs):
            bounds = dimension_bounds(
                pairs,
                z=curve.z,
                trace=total if isinstance(total, Estimate) else None,
                positive_semidefinite=self.operator.positive_semidefinite,
                dtype=self.operator.dtype,
            )
            self.results["effective_dimension"] = with_bounds(curve, bounds)

    def _key(self, part: str) -> str:
        return combine(
            part, self.operator.refresh(), self.operator.info.matrix, self.settings
        )

    def _saved(self, name: str, key: str) -> Result | None:
        # All processes compute a part, or none: the first one's files decide.
        return self.problem.processes.from_first(lambda: self._found(name, key))

    def _found(self, name: str, key: str) -> Result | None:
        if self.folder is None:
            return None
        marker = self.folder / "results" / f".{name}.key"
        if not marker.exists() or marker.read_text() != key:
            return None
        return load(self.folder / "results", name)

    def _save(self, name: str, key: str, result: Result) -> None:
        if self.folder is None or self.problem.processes.rank > 0:
            return
        result.save(self.folder / "results", name)
        files.write_text(self.folder / "results" / f".{name}.key", key)
        # The effective dimension's iterations are the density's, also where none is asked.
        state = "density" if name == "effective_dimension" else name
        checkpoint = self._checkpoint(state)
        if checkpoint is not None:
            checkpoint.clear()
            with contextlib.suppress(OSError):  # other parts may still need the folder
                checkpoint.folder.parent.rmdir()

    def _checkpoint(self, part: str) -> Checkpoint | None:
        if self.folder is None:
            return None
        place = self.folder / "checkpoints" / part
        return SharedCheckpoint(place, self._key(part), self.problem.processes)

    def _eigenpairs(self) -> Result:
        s = self.settings
        return eigsh(
            self.operator,
            k=s.k,
            which=s.which,
            tol=s.tol,
            max_matvecs=s.max_matvecs,
            eigenvectors=s.eigenvectors,
            checkpoint=self._checkpoint("eigenpairs"),
            generator=s.generator(),
        )

    def _density(self) -> SpectralDensity:
        if self._hidden is None:
            self._hidden = spectral_density(
                self.operator,
                num_probes=self.settings.num_probes,
                num_steps=min(self.settings.num_steps, self.problem.num_params),
                checkpoint=self._checkpoint("density"),
                generator=self.settings.generator(),
            )
        return self._hidden

    def _nodes(self) -> SpectralDensity:
        density = self.results.get("density")
        return density if isinstance(density, SpectralDensity) else self._density()

    def _density_signed_log(self) -> Result:
        return density_from_nodes(self._nodes(), axis="signed-log")

    def _trace(self) -> Result:
        budget = min(12 * self.settings.num_probes, self.problem.num_params)
        return trace(
            self.operator, num_matvecs=budget, generator=self.settings.generator()
        )

    def _frobenius_norm(self) -> Result:
        budget = min(4 * self.settings.num_probes, self.problem.num_params)
        return frobenius_norm(
            self.operator, num_probes=budget, generator=self.settings.generator()
        )

    def _effective_dimension(self) -> Result:
        size = self.problem.num_params
        # Exact where all columns cost at most twice what the probes would.
        exact = size <= 2 * self.settings.num_probes * self.settings.num_steps
        source: Quadrature | SpectralDensity
        if exact:
            source = slq(self.operator, num_probes=size, num_steps=size)
        else:
            source = self._nodes()
        asked, grid = self._grid(source.nodes)
        curve = effective_dimension_from_density(source, z=grid)
        return replace(curve, settings={**curve.settings, "z": asked})

    def _grid(self, eigenvalues: Tensor) -> tuple[list[float], list[float]]:
        largest = float(eigenvalues.nan_to_num(0.0).abs().max())
        if largest == 0.0:
            largest = 1.0  # the zero matrix has no scale; its curve is 0 everywhere
        asked = list(self.settings.z) or [largest * 1e-2]
        curve = torch.logspace(-4, 0, _CURVE_POINTS, dtype=torch.float64) * largest
        return asked, sorted({*asked, *curve.tolist()})

    def _layers(self) -> Result:
        self.operator.release()  # the layers keep graphs of their own
        return layer_curvature(
            self.problem,
            num_probes=self.settings.num_probes,
            tol=self.settings.tol,
            generator=self.settings.generator(),
        )
