"""Make layers' own blocks equally large: the only verb that changes a model."""

import copy
import inspect
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from curvescope._core.checks import describe, message, one_of, positive_int, real
from curvescope._core.memory import peak_memory
from curvescope._core.random import resolve_generator
from curvescope.analysis.balance_bench import (
    Bench,
    Weights,
    root_mean_square,
    write_weights,
)
from curvescope.analysis.balance_search import Found, Search, Trial
from curvescope.analysis.layer_measures import Measures, exactly
from curvescope.analysis.layer_places import Place, draw_recommended, find_places
from curvescope.autodiff.network import unwrapped
from curvescope.problem import Problem
from curvescope.results import Balance, BalanceRow, Cost
from curvescope.results.initialisation import ratio
from curvescope.theory import balancing_scales

_SCALED = "scaled"
_DRAWN = "drawn anew"
_MOST_LOSS = 2.0  # times the first, where the function changes
_OPTIONS = tuple(
    name
    for name, parameter in inspect.signature(Problem).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY
)


def balance_(
    model: nn.Module,
    loss: Any,
    data: Any,
    *,
    method: Literal["measured", "formula"] = "measured",
    tol: float = 0.01,
    max_rounds: int = 60,
    num_probes: int = 12,
    generator: torch.Generator | None = None,
    **options: Any,
) -> Balance:
    r"""Change a model's weights IN PLACE, so that its layers' own blocks are alike.

    ``"measured"``: multiplies each layer's weights by a factor,

    .. math:: \log s_k = \tfrac12 \bigl(\log\|H_k\| -
        \operatorname{mean}_j \log\|H_j\|\bigr)

    and repeats until the largest weights' block is at most ``1 + tol`` times the
    smallest. A chain of positively homogeneous layers (ReLU, max-pooling, no norm layers)
    computes the same function afterwards: the factors' product is 1, biases are
    multiplied by the product up to their layer, and one round is enough. Elsewhere
    biases stay as they are, and the function changes.

    Where it does, the outputs' size is held as well as it can be, no factor changes
    more than tenfold a round, and a loss above twice the first is refused; the best
    factors found are used, or none. A frozen layer or bias parts a chain: each part is
    balanced by itself, its product 1.

    ``"formula"``: draws the weights anew from :math:`\mathcal N(0, 2/(c\,(m_{in} +
    m_{out})))` with the constant c of what stands in front of the layer, and zeroes
    biases that are not frozen; see `initialisation_report` for the reasons.

    Layers are linear and convolutional ones. ``"measured"`` leaves those alone whose
    output a norm layer takes (their scale changes nothing in training), that are frozen,
    tied, used twice, or without any curvature; ``"formula"`` those that are frozen, tied
    or not reached by the data. This is the only verb of the package that changes a model.
    It writes at the end: after an error the model is as it was.

    Args:
        model: The model; its weights (and biases) are changed.
        loss: As for `Problem`.
        data: As for `Problem`; some hundred samples are enough.
        method: ``"measured"`` or ``"formula"``.
        tol: How far the largest norm may lie above the smallest, relative.
        max_rounds: Rounds of measuring and scaling at most.
        num_probes: Probes of layers whose block the chain rule cannot give exactly.
        generator: Source of draws and probes; a fresh one with a fixed seed if ``None``.
        **options: Of the `Problem`, such as ``batch_size`` and ``batch_adapter``.

    Returns:
        What was done to every layer, and the blocks' norms before and after.

    Raises:
        ValueError: If an argument is out of range, the model has no linear or
            convolutional layer, or its blocks cannot be measured.
        TypeError: If an argument is of the wrong kind.

    Cost:
        For every round the blocks of all layers: as many backward passes as outputs,
        and twice that for smooth activations; a failed one may cost one more a layer.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> done = balance_(net, "mse", (torch.eye(2), torch.ones(2, 1)))
        >>> done.converged, done.function_kept, done.ratio_after < 1.01
        (True, True, True)

    References:
        Skorski, Temperoni, Theobald (2021), PMLR 157, for the aim: control of the
        layers' Hessian norms; the factors are derived here (law ``balance``).
    """
    one_of("method", method, ("measured", "formula"))
    tol = real("tol", tol, minimum=0.0, strict=True)
    max_rounds = positive_int("max_rounds", max_rounds)
    num_probes = positive_int("num_probes", num_probes, minimum=2)
    generator = resolve_generator(generator)
    began = time.perf_counter()
    scratch = copied_problem(model, loss, data, **options)
    live = unwrapped(model)
    places = find_places(scratch)
    if not places:
        contract = "hold a linear or convolutional layer"
        raise ValueError(message("model", contract, describe(type(live))))
    bench = Bench(problem=scratch, places=places, num_probes=num_probes)
    first = bench.weights()
    if method == "measured":
        outcome = equalise(bench, tol=tol, max_rounds=max_rounds)
    else:
        outcome = _drawn(bench, tol=tol, generator=generator)
    write_weights(live, bench.weights())
    return Balance(
        of=scratch.provenance("Hessian"),
        cost=Cost(
            num_matvecs=bench.cost.num_matvecs,
            num_data_passes=bench.cost.num_data_passes,
            seconds=time.perf_counter() - began,
            peak_memory=peak_memory(scratch.device),
        ),
        settings={
            "method": method,
            "tol": tol,
            "max_rounds": max_rounds,
            "num_probes": num_probes,
            "seed": generator.initial_seed(),
        },
        notes=outcome.notes,
        layers=_rows(places, outcome, first),
        method=method,
        rounds=outcome.rounds,
        converged=outcome.converged,
        tolerance=tol,
        loss_before=outcome.loss_before,
        loss_after=scratch.evaluate().loss,
        function_kept=outcome.function_kept,
    )


def copied_problem(model: nn.Module, loss: Any, data: Any, **options: Any) -> Problem:
    """Return a problem of a deep copy of the model, whose weights may be changed.

    Raises:
        TypeError: If the model is none, cannot be copied, or an option is unknown.
    """
    for name in options:
        if name not in _OPTIONS:
            contract = f"be one of its own or of the Problem's ({', '.join(_OPTIONS)})"
            raise TypeError(message("options", contract, name))
    if not isinstance(model, nn.Module):
        raise TypeError(message("model", "be a torch.nn.Module", describe(model)))
    try:
        twin = copy.deepcopy(unwrapped(model))
    except (RuntimeError, TypeError) as error:
        contract = "be possible to copy (copy.deepcopy), since other weights are tried"
        got = f"{type(model).__name__}: {error}"
        raise TypeError(message("model", contract, got)) from error
    options.setdefault("params", "all")
    return Problem(twin, loss, data, **options)


@final
@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was done to the bench's model.

    Attributes:
        treatments: Of each layer, in words.
        before: Norms of the weights' blocks before.
        after: And after.
        rounds: Rounds of scaling.
        converged: Whether the norms are equal within the tolerance.
        loss_before: The objective before.
        function_kept: Whether the outputs are the same.
        notes: For the result.
    """

    treatments: Mapping[str, str]
    before: Mapping[str, float]
    after: Mapping[str, float]
    rounds: int
    converged: bool
    loss_before: float
    function_kept: bool
    notes: tuple[str, ...]


def equalise(bench: Bench, *, tol: float, max_rounds: int) -> Outcome:
    """Scale the bench's weights until their blocks are equally large."""
    loss, outputs = bench.problem.evaluate().loss, bench.outputs()
    treatments = {place.name: place.trouble or _SCALED for place in bench.places}
    notes: list[str] = []
    norms = _first_norms(bench, treatments, notes)
    scaled = [p.name for p in bench.places if treatments[p.name] == _SCALED]
    start = {name: norms[name] for name in scaled}
    if len(start) < 2:
        notes.append("fewer than two layers can be scaled: nothing was changed")
        alone = "left: there is no other layer to balance it with"
        return Outcome(
            treatments={**treatments, **dict.fromkeys(start, alone)},
            before=norms,
            after=norms,
            rounds=0,
            converged=True,
            loss_before=loss,
            function_kept=True,
            notes=tuple(notes),
        )
    biases = _biases_may_follow(bench, start, outputs)
    chains = _chains(bench, list(start)) if biases else [list(start)]
    chains = _long_enough(chains, treatments, notes)
    start = {name: start[name] for chain in chains for name in chain}
    final_norms, rounds = start, 0
    if chains:
        first = Trial(norms=start, size=float(outputs.norm()), loss=loss)
        found = _search(
            bench, first, chains, biases=biases, tol=tol, max_rounds=max_rounds
        )
        final_norms, rounds = found.norms, found.rounds
    kept = _same(bench.outputs(), outputs)
    converged = ratio(list(final_norms.values())) <= 1.0 + tol
    if not converged:
        notes.append(_shortfall(start, final_norms, tol=tol, rounds=rounds))
    if not kept:
        notes.append("the network is not positively homogeneous: its function changed")
    elif biases and final_norms != start and any(p.bias_name for p in bench.places):
        notes.append("biases were multiplied by the product of the factors so far")
    return Outcome(
        treatments=treatments,
        before=norms,
        after={**norms, **final_norms},
        rounds=rounds,
        converged=converged,
        loss_before=loss,
        function_kept=kept,
        notes=tuple(notes),
    )


def _first_norms(
    bench: Bench, treatments: dict[str, str], notes: list[str]
) -> Mapping[str, float]:
    """Measure the layers without trouble; one without a norm is left, and told so."""
    chosen = [p for p in bench.places if not p.trouble]
    if not chosen:
        return {}
    first = bench.measure(exactly([p.weight_name for p in chosen]))
    for name, norm in first.norms.items():
        if not (norm > 0.0 and math.isfinite(norm)):
            treatments[name] = f"left: its block's norm is {norm:g}"
    if first.probed:
        errors = [m.frobenius_norm_error / m.frobenius_norm for m in _positive(first)]
        notes.append(
            f"{len(first.probed)} layers were measured by the same {bench.num_probes} "
            f"probes in every round; relative standard error up to {max(errors):.2g}"
        )
    return first.norms


def _long_enough(
    chains: list[list[str]], treatments: dict[str, str], notes: list[str]
) -> list[list[str]]:
    """Return the chains of two layers and more; a layer alone is left, and told so."""
    if len(chains) > 1:
        notes.append(
            f"frozen layers or biases part the network into {len(chains)} chains, each "
            "balanced by itself where it has two layers: the function is kept"
        )
    for name in (chain[0] for chain in chains if len(chain) == 1):
        treatments[name] = "left: a frozen layer or bias parts it from the rest"
    return [chain for chain in chains if len(chain) > 1]


def _shortfall(
    start: Mapping[str, float], end: Mapping[str, float], *, tol: float, rounds: int
) -> str:
    """Say what was achieved instead of equal blocks."""
    if start == end:
        return "nothing was changed: no factors were found that do better"
    return (
        f"not equal within {tol:g} after {rounds} rounds: the best factors are kept "
        f"whose loss is at most {_MOST_LOSS:g} times the first"
    )


def _search(
    bench: Bench,
    start: Trial,
    groups: Sequence[Sequence[str]],
    *,
    biases: bool,
    tol: float,
    max_rounds: int,
) -> Found:
    """Search the best factors; leave the bench's weights multiplied by them."""
    names = exactly([p.weight_name for p in bench.places if p.name in start.norms])
    given = bench.weights()

    def measure(logs: Mapping[str, float]) -> Trial | None:
        bench.restore(given)
        try:
            bench.scale({k: math.exp(v) for k, v in logs.items()}, biases=biases)
            return Trial(
                norms=bench.measure(names).norms,
                size=float(bench.outputs().norm()),
                loss=bench.problem.evaluate().loss,
            )
        except (ArithmeticError, ValueError):  # weights or outputs that are not finite
            return None

    found = Search(
        measure=measure,
        start=start,
        groups=groups,
        bounded=not biases,
        most_loss=start.loss + (_MOST_LOSS - 1.0) * abs(start.loss),
    ).run(tol=tol, max_rounds=max_rounds)
    bench.restore(given)
    if any(found.logs.values()):
        bench.scale({k: math.exp(v) for k, v in found.logs.items()}, biases=biases)
    return found


def _chains(bench: Bench, names: Sequence[str]) -> list[list[str]]:
    """Split layers behind every frozen layer or bias: there the product must be 1."""
    chains: list[list[str]] = [[]]
    for place in bench.places:
        if place.name in names:
            chains[-1].append(place.name)
        if place.pinned:
            chains.append([])
    return [chain for chain in chains if chain]


def _biases_may_follow(
    bench: Bench, norms: Mapping[str, float], outputs: Tensor
) -> bool:
    """Try whether scaled biases keep the function, as in a homogeneous chain."""
    before = bench.weights()
    factors = dict(zip(norms, balancing_scales(list(norms.values())), strict=True))
    try:
        bench.scale(factors, biases=True, pinned_too=True)
        return _same(bench.outputs(), outputs)
    except (ArithmeticError, ValueError):
        return False
    finally:
        bench.restore(before)


def _same(outputs: Tensor, others: Tensor) -> bool:
    """Tell whether outputs agree up to the rounding of float32 weights."""
    scale = float(others.abs().max())
    return bool((outputs - others).abs().max() <= 1e-4 * scale)


def _positive(measures: Measures) -> list[Any]:
    return [m for m in measures.layers.values() if m.frobenius_norm > 0.0]


def _drawn(bench: Bench, *, tol: float, generator: torch.Generator) -> Outcome:
    """Draw the bench's weights anew by the formula."""
    loss, outputs = bench.problem.evaluate().loss, bench.outputs()
    chosen = [p for p in bench.places if not p.fixed]
    treatments = {place.name: place.fixed or _DRAWN for place in bench.places}
    names = exactly([p.weight_name for p in chosen])
    before = bench.measure(names).norms if chosen else {}
    draw_recommended(chosen, generator=generator)
    after = bench.measure(names).norms if chosen else {}
    return Outcome(
        treatments=treatments,
        before=before,
        after=after,
        rounds=0,
        converged=ratio(list(after.values())) <= 1.0 + tol,
        loss_before=loss,
        function_kept=_same(bench.outputs(), outputs),
        notes=("weights were drawn anew, and free biases zeroed",) if chosen else (),
    )


def _rows(
    places: Sequence[Place], outcome: Outcome, before: Weights
) -> tuple[BalanceRow, ...]:
    rows = []
    for place in places:
        now = root_mean_square(place.weight)
        old = before.get(place.weight_name)  # a tied or computed weight has none
        rows.append(
            BalanceRow(
                layer=place.name,
                treatment=outcome.treatments[place.name],
                std_before=now if old is None else root_mean_square(old),
                std_after=now,
                norm_before=outcome.before.get(place.name),
                norm_after=outcome.after.get(place.name),
            )
        )
    return tuple(rows)
