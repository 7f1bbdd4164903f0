"""Layers' own blocks under several initialisations, beside what theory says of them."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, final

import torch
from torch import Tensor, nn

from curvescope._core.checks import describe, message, positive_int
from curvescope._core.memory import peak_memory
from curvescope._core.progress import track
from curvescope.analysis.balance import copied_problem, equalise
from curvescope.analysis.balance_bench import Bench, root_mean_square
from curvescope.analysis.layer_measures import Measures, exactly
from curvescope.analysis.layer_places import (
    Place,
    draw_place,
    draw_recommended,
    find_places,
    recommended_std,
)
from curvescope.exact import feed_forward
from curvescope.losses import BCEWithLogits, CrossEntropy, SquaredError
from curvescope.models.initialisation import check_scheme
from curvescope.problem import Problem
from curvescope.results import (
    Cost,
    InitialisationReport,
    InitialisationRow,
    Recommendation,
)
from curvescope.results.initialisation import spread
from curvescope.theory import (
    LAWS,
    backward_variance,
    bernoulli_output_trace,
    cross_entropy_output_trace,
    forward_variance,
    mean_field,
)

GIVEN, RECOMMENDED, BALANCED = "given", "recommended", "balanced"
CANDIDATES = (
    RECOMMENDED,
    BALANCED,
    "glorot_normal",
    "glorot_uniform",
    "he",
    "lecun",
    "fan_in_uniform",
    "orthogonal",
)
_INPUT_GROUPS = 8
_LAWS = ("forward_variance", "backward_variance", "hessian_variance", "balance")

Candidate = str | tuple[str, float]


def initialisation_report(
    model: nn.Module,
    loss: Any,
    data: Any,
    *,
    candidates: Sequence[Candidate] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    params: Any = "weights",
    num_probes: int = 12,
    **options: Any,
) -> InitialisationReport:
    r"""Measure layers' own blocks as the model is, and under other initialisations.

    Layers are linear and convolutional ones; a block is of the layer's weights (with
    ``params="all"`` of weights and biases). For a fully connected network the trace of
    each block's linearisation part stands beside its mean-field prediction

    .. math:: \operatorname{tr} G_k \approx \mathbb E\,|a^{k-1}|^2 \cdot
        \mathbb E \operatorname{tr} B_k^\top H_z B_k

    at the standard deviations that the weights have. Each layer gets a recommended one,

    .. math:: \sigma_k^2 = \frac{2}{c_k\,(m_{in} + m_{out})}

    with the constant c of what stands in front of it, read off the graph of a forward
    pass. Everything happens on a copy: the model stays as it is.

    Args:
        model: The model; never changed.
        loss: As for `Problem`.
        data: As for `Problem`; some hundred samples are enough.
        candidates: Besides ``"given"``: names of `curvescope.models.SCHEMES`,
            ``("normal", std)``, ``"recommended"`` (normal weights of the recommended
            deviations), ``"balanced"`` (the given weights after `balance_`). Biases are
            zero under all of them but the last. By default all that are not all positive.
        seeds: Of the random candidates' draws; spreads are over them.
        params: Which parameters the blocks are of, as for `Problem`.
        num_probes: Probes of layers whose block the chain rule cannot give exactly.
        **options: Of the `Problem`, such as ``batch_size`` and ``batch_adapter``.

    Returns:
        One row a candidate and layer, and one recommendation a layer with its reason.

    Raises:
        ValueError: If a candidate is unknown, there are no seeds, or the model has no
            linear or convolutional layer among ``params``.
        TypeError: If an argument is of the wrong kind.

    Cost:
        For each candidate and seed the blocks of all layers: as many backward passes as
        outputs, twice that for smooth activations; layers that the chain rule does not
        reach cost ``2 num_probes`` products.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        >>> data = (torch.randn(16, 4), torch.arange(16) % 2)
        >>> found = initialisation_report(net, "cross_entropy", data, candidates=["he"])
        >>> found.candidates, [round(r.std, 3) for r in found.recommendations]
        (('given', 'he'), [0.408, 0.447])

    References:
        Skorski, Temperoni, Theobald (2021), PMLR 157; Glorot, Bengio (2010); He et al.
        (2015); Schoenholz et al. (2017) for the variance map.
    """
    scratch = copied_problem(model, loss, data, params=params, **options)
    return report_of(scratch, candidates=candidates, seeds=seeds, num_probes=num_probes)


def report_of(
    problem: Problem,
    *,
    candidates: Sequence[Candidate] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    num_probes: int = 12,
) -> InitialisationReport:
    """Return the report of a problem whose model may be changed; it is put back.

    Raises:
        ValueError: As `initialisation_report`.
    """
    began = time.perf_counter()
    chosen = _check_candidates(CANDIDATES if candidates is None else candidates)
    seeds = [positive_int("seeds", seed, minimum=0) for seed in seeds]
    if not seeds:
        raise ValueError(message("seeds", "have at least one entry", "none"))
    num_probes = positive_int("num_probes", num_probes, minimum=2)
    bench, selected = _bench(problem, num_probes)
    theory = _Theory.of(problem, bench.places)
    given = bench.weights()
    recommendations = tuple(_recommend(place, problem) for place in bench.places)
    studies: dict[str, list[_Draw]] = {}
    notes: list[str] = []
    try:
        studies[GIVEN] = [_Draw.of(bench, selected)]
        with track("initialisations", total=len(chosen)) as task:
            for name, candidate in chosen.items():
                studies[name] = _study(bench, candidate, seeds, selected, notes)
                bench.restore(given)
                task.advance()
    finally:
        bench.restore(given)
    rows = [
        row for name, draws in studies.items() for row in _rows(name, draws, theory)
    ]
    return InitialisationReport(
        of=problem.provenance("Hessian"),
        cost=Cost(
            num_matvecs=bench.cost.num_matvecs,
            num_data_passes=bench.cost.num_data_passes,
            seconds=time.perf_counter() - began,
            peak_memory=peak_memory(problem.device),
        ),
        settings={
            "candidates": tuple(studies),
            "seeds": tuple(seeds),
            "num_probes": num_probes,
        },
        notes=tuple(notes),
        layers=tuple(rows),
        recommendations=_with_balanced(recommendations, studies),
        losses={
            name: math.fsum(d.loss for d in draws) / len(draws)
            for name, draws in studies.items()
        },
        seeds=tuple(seeds),
        method=studies[GIVEN][0].measures.method,
        prediction=theory.words,
        laws=tuple(str(LAWS[name]) for name in _LAWS),
    )


def _with_balanced(
    recommendations: Sequence[Recommendation], studies: Mapping[str, list["_Draw"]]
) -> tuple[Recommendation, ...]:
    """Add the deviations that the balanced weights have."""
    if BALANCED not in studies:
        return tuple(recommendations)
    stds = studies[BALANCED][0].weight_stds
    return tuple(replace(r, balanced_std=stds[r.layer]) for r in recommendations)


def _check_candidates(candidates: Sequence[Candidate]) -> dict[str, Candidate]:
    if isinstance(candidates, str):
        remedy = f"Pass [{candidates!r}]."
        text = message("candidates", "be a sequence", repr(candidates), remedy)
        raise TypeError(text)
    chosen: dict[str, Candidate] = {}
    for candidate in candidates:
        if candidate in (RECOMMENDED, BALANCED, GIVEN):
            chosen[str(candidate)] = candidate
            continue
        scheme = check_scheme(candidate)
        name = scheme if isinstance(scheme, str) else f"normal {scheme[1]:g}"
        chosen[name] = scheme
    chosen.pop(GIVEN, None)
    return chosen


def _bench(problem: Problem, num_probes: int) -> tuple[Bench, Any]:
    """Return the layers, and the selection of their parameters that is measured."""
    places = find_places(problem)
    own = {n for p in places for n in (p.weight_name, p.bias_name) if n is not None}
    names = [name for name in problem.layout.names if name in own]
    if not names:
        contract = "select parameters of a linear or convolutional layer"
        raise ValueError(message("params", contract, describe(problem.layout.names)))
    bench = Bench(problem=problem, places=places, num_probes=num_probes)
    return bench, exactly(names)


@final
@dataclass(frozen=True)
class _Draw:
    """One set of weights, measured."""

    loss: float
    measures: Measures
    weight_stds: dict[str, float]
    bias_stds: dict[str, float]
    centred: bool

    @staticmethod
    def of(bench: Bench, selected: Any) -> "_Draw":
        weights = {p.name: p.weight.detach().double() for p in bench.places}
        biases = {
            p.name: root_mean_square(p.module.bias)
            for p in bench.places
            if isinstance(p.module.bias, Tensor)
        }
        return _Draw(
            loss=bench.problem.evaluate().loss,
            measures=bench.measure(selected),
            weight_stds={name: root_mean_square(W) for name, W in weights.items()},
            bias_stds=biases,
            centred=all(_is_centred(W) for W in weights.values()),
        )


def _is_centred(weight: Tensor) -> bool:
    """Tell whether the mean is what chance makes of weights with mean zero."""
    chance = root_mean_square(weight) / math.sqrt(weight.numel())
    return abs(float(weight.mean())) <= 4.0 * chance


def _study(
    bench: Bench,
    candidate: Candidate,
    seeds: Sequence[int],
    selected: Any,
    notes: list[str],
) -> list[_Draw]:
    """Measure one candidate, at all seeds where it is random."""
    if candidate == BALANCED:
        outcome = equalise(bench, tol=0.01, max_rounds=60)
        notes += [f"balanced: {note}" for note in outcome.notes]
        return [_Draw.of(bench, selected)]
    draws = []
    free = [place for place in bench.places if not place.fixed]
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        if candidate == RECOMMENDED:
            draw_recommended(free, generator=generator)
        else:
            for place in free:
                draw_place(place, candidate, generator=generator)
        draws.append(_Draw.of(bench, selected))
    return draws


def _rows(
    name: str, draws: Sequence[_Draw], theory: "_Theory"
) -> list[InitialisationRow]:
    predicted = theory.predict(draws)
    rows = []
    for layer, first in draws[0].measures.layers.items():
        found = [draw.measures.layers[layer] for draw in draws]
        columns: dict[str, list[float]] = {
            field: [getattr(one, field) for one in found]
            for field in (
                "frobenius_norm",
                "linearisation_norm",
                "curvature_norm",
                "trace",
                "linearisation_trace",
            )
        }
        means = {key: math.fsum(v) / len(v) for key, v in columns.items()}
        spreads = {f"{key}_spread": spread(v) for key, v in columns.items()}
        errors = math.sqrt(math.fsum(one.trace_error**2 for one in found)) / len(found)
        stds = [draw.weight_stds[layer] for draw in draws]
        rows.append(
            InitialisationRow(
                candidate=name,
                layer=layer,
                num_params=first.num_params,
                std=math.fsum(stds) / len(stds),
                trace_error=errors,
                predicted_trace=predicted.get(layer),
                **means,
                **spreads,
            )
        )
    return rows


@final
@dataclass(frozen=True)
class _Theory:
    """Mean-field theory of the problem's network, or the reason why there is none."""

    words: str
    widths: tuple[int, ...] = ()
    places: tuple[Place, ...] = ()
    input_square_norms: tuple[float, ...] = ()
    output_trace: Callable[[float], float] | None = None
    own_biases: tuple[bool, ...] = ()
    weight_decay: float = 0.0

    @staticmethod
    def of(problem: Problem, places: Sequence[Place]) -> "_Theory":
        net = feed_forward(problem)
        if net is None:
            return _Theory("none: the model is no chain of linear layers")
        by_name = {place.name: place for place in places}
        own = {"linear": "(top)"} if len(places) == 1 and "(top)" in by_name else {}
        chain = tuple(by_name[own.get(layer.name, layer.name)] for layer in net.layers)
        unknown = [p.name for p in chain if p.unit is None]
        if unknown:
            return _Theory(f"none: no moments are known of what {unknown[0]} gets")
        trace = _output_trace(problem, net.widths[-1])
        if trace is None:
            return _Theory(f"none: no law is known of the loss {problem.loss.name}")
        selected = set(problem.layout.names)
        return _Theory(
            "mean-field theory of random weights with the same standard deviations, for "
            "the linearisation part",
            net.widths,
            chain,
            _input_square_norms(problem),
            cache(trace),
            tuple(p.bias_name in selected for p in chain),
            problem.weight_decay,
        )

    def predict(self, draws: Sequence[_Draw]) -> dict[str, float]:
        """Return the traces by layer; none for weights that are not centred."""
        if self.output_trace is None or not all(draw.centred for draw in draws):
            return {}

        def mean(stds: list[float]) -> float:
            return math.sqrt(math.fsum(s * s for s in stds) / len(stds))

        names = [place.name for place in self.places]
        units = [place.unit for place in self.places[1:]]
        field = mean_field(
            self.widths,
            weight_stds=[mean([d.weight_stds[n] for d in draws]) for n in names],
            bias_stds=[mean([d.bias_stds.get(n, 0.0) for d in draws]) for n in names],
            units=[phi for phi in units if phi is not None],
            input_square_norms=self.input_square_norms,
            output_trace=self.output_trace,
            has_bias=self.own_biases,
        )
        decay = {
            place.name: self.weight_decay * self._size(place, with_bias=flag)
            for place, flag in zip(self.places, self.own_biases, strict=True)
        }
        return {n: t + decay[n] for n, t in zip(names, field.traces, strict=True)}

    @staticmethod
    def _size(place: Place, *, with_bias: bool) -> int:
        return place.weight.numel() + (len(place.weight) if with_bias else 0)


def _output_trace(
    problem: Problem, num_outputs: int
) -> Callable[[float], float] | None:
    """Return the trace of the scaled output Hessian from the outputs' variance."""
    loss = problem.loss
    factor = problem.scale * problem.denominator
    if isinstance(loss, CrossEntropy) and num_outputs > 1:
        return lambda v: factor * cross_entropy_output_trace(num_outputs, variance=v)
    if isinstance(loss, SquaredError):
        per = num_outputs if loss.denominator_per == "sample" else 1
        return lambda _: factor * 2.0 * loss.scale * per
    plain = isinstance(loss, BCEWithLogits) and loss.weight is loss.pos_weight is None
    if plain:
        return lambda v: factor * bernoulli_output_trace(variance=v)
    return None


def _input_square_norms(problem: Problem) -> tuple[float, ...]:
    """Return means of the inputs' squared lengths in groups of equally many samples."""
    squares = torch.cat(
        [
            batch.inputs.flatten(1).double().square().sum(1).cpu()
            for batch in problem.batches()
        ]
    )
    groups = squares.sort().values.tensor_split(min(_INPUT_GROUPS, len(squares)))
    return tuple(float(group.mean()) for group in groups)


def _recommend(place: Place, problem: Problem) -> Recommendation:
    forward = math.sqrt(forward_variance(place.fans.fan_in, constant=place.constant))
    backward = math.sqrt(backward_variance(place.fans.fan_out, constant=place.constant))
    std = recommended_std(place)
    reason = (
        f"it gets {place.in_front}, so c = {place.constant:.4g}; between the forward "
        f"law's {forward:.4g} (1 / sqrt(c {place.fans.fan_in})) and the backward law's "
        f"{backward:.4g} (1 / sqrt(c {place.fans.fan_out}))"
    )
    if place.in_front == "the data":
        inputs = next(iter(problem.batches())).inputs
        if isinstance(inputs, Tensor) and inputs.is_floating_point():
            square = root_mean_square(inputs) ** 2
            reason += f" (for data of mean square 1; theirs is {square:.3g})"
    if place.normalised:
        reason += "; a norm layer takes its output, so that the scale hardly matters"
    if place.fixed:
        reason += f"; but it is {place.fixed}"
    return Recommendation(
        layer=place.name,
        fan_in=place.fans.fan_in,
        fan_out=place.fans.fan_out,
        constant=place.constant,
        present_std=root_mean_square(place.weight),
        std=std,
        forward_std=forward,
        backward_std=backward,
        reason=reason,
    )
