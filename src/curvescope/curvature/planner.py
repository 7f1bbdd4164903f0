"""The plan of a matrix's products: what was chosen, what it costs, what else there was.

All choices give the same matrix. Times come from a few products of one batch, bytes
from the tensors that these made.
"""

from dataclasses import dataclass
from typing import final

from curvescope._core.memory import format_bytes
from curvescope.curvature.choices import ProductChoices
from curvescope.curvature.kept import KeptGraphs
from curvescope.curvature.measurements import LIBRARIES


@final
@dataclass(frozen=True, kw_only=True)
class Alternative:
    """One way to compute a product.

    Attributes:
        columns: At once.
        num_kept: Batches whose graph is kept.
        seconds: Of one product of all its columns, once graphs are built.
        peak: Bytes at the peak.
        fits: Whether that is within the limit.
    """

    columns: int
    num_kept: int
    seconds: float
    peak: int
    fits: bool


@final
@dataclass(frozen=True, kw_only=True)
class ProductPlan:
    """How products with a matrix are computed, and what one costs.

    Attributes:
        matrix: What is multiplied.
        num_columns: Columns of the product that the plan is for.
        columns: Columns multiplied at once.
        num_kept: Batches whose graph is kept between products.
        num_batches: All batches.
        fold: Whether layers run in forms that are cheaper to differentiate twice.
        chain: Whether the whole network does: a chain of linear layers, multiplied
            without autograd.
        limit: Bytes allowed for data, graphs, and what comes and goes.
        data: Bytes of the kept data; 0 if they are read anew for every pass.
        graph: Bytes of the largest batch's graph.
        vector: Bytes of one vector of the parameters' size.
        held: Bytes of data and graphs that stay between products.
        peak: Bytes at the peak of a product, besides libraries and model.
        seconds: Time of one product, once graphs are built; 0 if nothing was timed.
        first_seconds: Time that building the graphs adds to the first one.
        trial_peak: Bytes at the peak of the products on which columns at once are tried.
        alternatives: What else there was; the first one is what was chosen.
        reasons: Why.
    """

    matrix: str
    num_columns: int
    columns: int
    num_kept: int
    num_batches: int
    fold: bool
    chain: bool
    limit: int
    data: int
    graph: int
    vector: int
    held: int
    peak: int
    seconds: float
    first_seconds: float
    trial_peak: int
    alternatives: tuple[Alternative, ...]
    reasons: tuple[str, ...]

    @property
    def choices(self) -> ProductChoices:
        """The choices, to fix them for another run."""
        return ProductChoices(columns=self.columns, kept=self.num_kept, fold=self.fold)

    @property
    def seconds_per_column(self) -> float:
        """Time of one column of the product."""
        return self.seconds / self.num_columns

    @property
    def summary(self) -> str:
        """Memory in one line."""
        data = f"data {format_bytes(self.data)} kept" if self.data else "data read anew"
        return (
            f"{data}; graphs of {self.num_kept} of {self.num_batches} batches kept, "
            f"{format_bytes(self.graph)} each; vectors {format_bytes(self.vector)}; "
            f"limit for data and graphs {format_bytes(self.limit)}"
        )

    @property
    def _layers(self) -> str:
        if self.chain:
            return "a chain of linear ones, multiplied without autograd"
        return "in cheaper forms, BatchNorm folded"

    def __str__(self) -> str:
        plural = "s" if self.num_columns > 1 else ""
        share = 100.0 * self.peak / max(self.limit, 1)
        graphs = f"{self.num_kept} of {self.num_batches}"
        one, once = f"{self.seconds_per_column:.3g} s", f"{self.first_seconds:.3g} s"
        time = f"{self.seconds:.3g} s a product, {one} a column; graphs once {once}"
        time = time if self.seconds else "not measured"
        held, peak = format_bytes(self.held), format_bytes(self.peak)
        limit = f"{share:.2g} % of {format_bytes(self.limit)}"
        rows = [
            (f"plan of the {self.matrix}", f"{self.num_columns} column{plural}"),
            ("  columns at once", str(self.columns)),
            ("  graphs kept", f"{graphs}, {format_bytes(self.graph)} each"),
            ("  data", "kept" if self.data else "read anew for every pass"),
            *([("  layers", self._layers)] if self.fold else []),
            ("  time", time),
            ("  memory", f"{held} held, {peak} at the peak: {limit}"),
        ]
        lines = [f"{name:22s}{value}" for name, value in rows]
        if self.trial_peak > self.peak:
            text = (
                f"up to {format_bytes(self.trial_peak)} while columns at once are timed"
            )
            lines.append(f"{'':22s}{text}")
        lines += [f"  because {reason}" for reason in self.reasons]
        lines.append("  at once   kept   s a product        peak")
        for i, other in enumerate(self.alternatives):
            note = "  chosen" if i == 0 else ("" if other.fits else "  too large")
            lines.append(
                f"  {other.columns:7d} {other.num_kept:6d} {other.seconds:13.3g}"
                f" {format_bytes(other.peak):>11s}{note}"
            )
        return "\n".join(lines)


def make_plan(
    matrix: str, graphs: KeptGraphs, columns: int, *, timed: bool = True
) -> ProductPlan:
    """Measure what is missing, and return the plan of a product of ``columns``.

    Args:
        matrix: Its name.
        graphs: Of the operator.
        columns: Of one product.
        timed: Whether to time products; memory alone is cheaper to know.
    """
    graphs.measure(columns, timed=timed)
    problem = graphs.problem
    num_kept = graphs.room.num_fitting()
    width = graphs.planned_columns(columns, num_kept)
    vector = problem.num_params * problem.dtype.itemsize
    chosen = _alternative(graphs, width, num_kept, columns)
    others = [
        _alternative(graphs, w, kept, columns)
        for kept in sorted({num_kept, problem.num_batches, 0}, reverse=True)
        for w in sorted({width, *graphs.measured.seconds})
        if w <= columns and (w, kept) != (width, num_kept)
    ]
    tried = (chosen, *others) if graphs.widths(num=columns).explores else (chosen,)
    kept_bytes = sum(map(graphs.measured.graph, problem.batch_sizes[:num_kept]))
    build = graphs.measured.one_build
    return ProductPlan(
        matrix=matrix,
        num_columns=columns,
        columns=width,
        num_kept=num_kept,
        num_batches=problem.num_batches,
        fold=graphs.folds,
        chain=graphs.chains,
        limit=problem.memory_limit,
        data=problem.kept_data_bytes,
        graph=graphs.measured.graph(max(problem.batch_sizes, default=0)),
        vector=vector,
        held=problem.kept_data_bytes + kept_bytes,
        peak=chosen.peak,
        seconds=chosen.seconds,
        first_seconds=build * sum(problem.batch_sizes[:num_kept]),
        trial_peak=max(o.peak for o in tried if o.num_kept == num_kept),
        alternatives=(chosen, *others),
        reasons=tuple(_reasons(graphs, chosen, others)),
    )


def _alternative(
    graphs: KeptGraphs, width: int, num_kept: int, columns: int
) -> Alternative:
    """Return what one way costs."""
    problem, measured = graphs.problem, graphs.measured
    sizes = problem.batch_sizes
    one = measured.column_seconds(width) or measured.column_seconds(1) or 0.0
    seconds = one * columns * sum(sizes) + measured.one_build * sum(sizes[num_kept:])
    every = num_kept == len(sizes)
    held = sum(map(measured.graph, sizes[:num_kept]))
    working = graphs.room.working(every=every, columns=width)
    vectors = problem.num_params * problem.dtype.itemsize * 2 * (columns + width)
    return Alternative(
        columns=width,
        num_kept=num_kept,
        seconds=seconds,
        peak=problem.kept_data_bytes + held + working + vectors,
        fits=held + working <= graphs.room.limit,
    )


def _reasons(
    graphs: KeptGraphs, chosen: Alternative, others: list[Alternative]
) -> list[str]:
    """Say why in words."""
    choices, reasons = graphs.choices, []
    batches = graphs.problem.num_batches
    if choices.kept is not None:
        reasons.append(f"`kept={choices.kept!r}` was asked for")
    elif chosen.num_kept == batches:
        reasons.append("all graphs fit the limit beside a product's temporaries")
    else:
        room = format_bytes(max(graphs.room.limit, 0))
        reasons.append(f"graphs and temporaries have {room}: the others are built anew")
    same = [o for o in others if o.num_kept == chosen.num_kept and o.fits]
    if choices.columns is not None:
        reasons.append(f"`columns={choices.columns}` was asked for")
    elif graphs.measured.loops_only:
        reasons.append("a layer has no rule for several columns at once")
    elif same:
        timed = ", ".join(f"{o.columns}: {o.seconds:.3g} s" for o in same)
        reasons.append(
            f"other numbers of columns at once gain nothing, or too little ({timed})"
            if graphs.widths(num=chosen.columns).explores
            else f"columns at once go by the graph's size, not by a clock ({timed})"
        )
    excess = chosen.peak - graphs.problem.memory_limit
    if excess > LIBRARIES:
        reasons.append(
            f"so many vectors exceed the limit by {format_bytes(excess)}: use fewer columns"
        )
    elif excess > 0:
        reasons.append(
            f"the limit is exceeded by less than the {format_bytes(LIBRARIES)} that "
            "libraries take at their first use: no limit is kept more exactly"
        )
    return reasons
