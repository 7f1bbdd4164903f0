"""Ranks of H, GGN and functional Hessian: measured, certified, beside the theory."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch

from curvescope._core.checks import message, one_of
from curvescope._core.errors import ChangedDuringComputationError
from curvescope._core.memory import available_memory, peak_memory
from curvescope._core.predictions import PredictedRank
from curvescope._core.random import resolve_generator
from curvescope.analysis.rank_decisions import certified, decided_again
from curvescope.analysis.rank_estimates import estimates
from curvescope.analysis.rank_facts import Theory, theory_of
from curvescope.analysis.rank_values import values_of
from curvescope.exact.network import FeedForward, feed_forward
from curvescope.problem import Problem
from curvescope.results import Cost, RankEstimate, RankReport

METHODS = ("auto", "exact", "estimate")
CERTIFY = ("auto", True, False)
# Dense float64 matrices that are held at once: two matrices and the solver's copy.
_MATRICES_AT_ONCE = 4
_SMALLEST_INPUT = 1e-140


def rank_report(
    problem: Problem,
    *,
    method: Literal["auto", "exact", "estimate"] = "auto",
    certify: Literal["auto"] | bool = "auto",
    num_probes: int = 8,
    num_steps: int = 128,
    generator: torch.Generator | None = None,
) -> RankReport:
    r"""Measure the ranks of H, GGN and functional Hessian, and say what theory predicts.

    .. math:: H = \underbrace{\sum_n J_n^\top \Lambda_n J_n}_{\text{GGN}}
        + \underbrace{\sum_{n,k} \delta_{nk} \nabla^2_\theta f_{nk}}_{\text{functional}}

    Everything is computed in float64. The GGN's rank is read from its factor
    :math:`\sqrt{\Lambda} J`, whose singular values have twice the digits; those of H and
    F from their eigenvalues at one common tolerance :math:`P \varepsilon \|H\|_2`. A
    rank is ``certain`` where the last value kept lies a factor of 1,000 above the
    tolerance; one that is not is decided again in standardised inputs, a congruence,
    which keeps ranks. For feed-forward nets exact arithmetic modulo two primes gives the
    rank of the very matrix that the stored weights and data define (see
    `curvescope.exact.modular.certified_ranks` for what that means); where it disagrees
    the rank is ``undetermined``, unless rounding explains it: in coordinates of the
    inputs' numerical rank the certificate agrees, or theory claims both ranks, each at its
    facts (up to rounding, and exact). Such a rank stays ``certain``: it is that of a
    problem which differs from the stored one by rounding.

    Args:
        problem: Model, loss and data, without weight decay.
        method: ``"exact"``, ``"estimate"`` (matrix-free, of an effective rank with its
            standard error), or whichever the memory allows.
        certify: Whether to certify; ``"auto"`` where it takes about as long as the rest.
        num_probes: Random probes of an estimate.
        num_steps: Lanczos steps of an estimate.
        generator: Source of the probes; a fresh one with a fixed seed if ``None``.

    Returns:
        Ranks with gaps, verdicts and certificates, the predictions, the spectrum of H.

    Raises:
        ValueError: If an argument is unknown, the problem has weight decay (its identity
            would fill every rank), or the matrices do not fit into memory.

    Cost:
        Two symmetric eigenvalue problems and one singular value decomposition of
        dimension P; for linear nets of dimension about the rank of H.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 2, bias=False), torch.nn.Linear(2, 3, bias=False)
        ... )
        >>> data = (torch.randn(20, 4), torch.randn(20, 3))
        >>> report = rank_report(Problem(net, "mse", data))
        >>> [(r.rank, r.verdict) for r in report.measured.values()]
        [(14, 'certified'), (10, 'certified'), (12, 'certified')]

    References:
        Singh, Bachmann, Hofmann (2021), arXiv:2106.16225.
    """
    one_of("method", method, METHODS)
    one_of("certify", certify, CERTIFY)
    if problem.weight_decay:
        remedy = "Make the problem without `weight_decay`; it adds P to every rank."
        got = f"{problem.weight_decay:g}"
        raise ValueError(message("weight_decay", "be 0 for ranks", got, remedy))
    began = time.perf_counter()
    fingerprint = problem.refresh()
    net = feed_forward(problem)
    whole = net is not None and net.problem.num_params == net.num_params
    if net is not None:
        _check_scale(net)
    notes, exact = _precision_notes(problem), Theory()
    theory = theory_of(problem, net if whole else None)
    if method == "estimate" or (method == "auto" and not _fits(problem, net)):
        ranks = estimates(
            problem.promoted(),
            theory.predicted,
            num_probes=num_probes,
            num_steps=num_steps,
            generator=resolve_generator(generator),
        )
        notes += tuple(f"{k}: {note}" for k, r in ranks.items() for note in r.notes)
        eigenvalues = torch.zeros(0, dtype=torch.float64)
    else:
        values = values_of(problem.promoted(), net if whole else None)
        ranks = values.estimates()
        if net is not None:
            if whole:
                ranks = decided_again(ranks, net)
            beside = certified(
                ranks, net, certify=certify, measured=theory if whole else None
            )
            ranks, exact = beside.ranks, beside.theory
            notes += beside.notes
        eigenvalues = values.all_eigenvalues
    provenance = problem.provenance("Hessian")
    if provenance.fingerprint != fingerprint:
        contract = "stay the same while its ranks are computed"
        got = "other weights, buffers or data than at the beginning"
        raise ChangedDuringComputationError(message("problem", contract, got))
    return RankReport(
        of=provenance,
        cost=_cost(ranks, time.perf_counter() - began, problem),
        settings={"method": method, "certify": certify},
        notes=notes + _disagreements(ranks, theory.predicted),
        **{name: _labelled(rank, name, problem) for name, rank in ranks.items()},
        predictions=tuple(theory.predicted.values()),
        exact_predictions=tuple(exact.predicted.values()),
        eigenvalues=eigenvalues,
        facts=dict(theory.facts),
    )


def _fits(problem: Problem, net: FeedForward | None) -> bool:
    """Tell whether the dense matrices fit; a linear net's are of about the rank of H."""
    if net is not None and net.is_linear:
        return True
    need = _MATRICES_AT_ONCE * 8 * problem.num_params**2
    return need <= available_memory(torch.device("cpu"))


def _check_scale(net: FeedForward) -> None:
    """Refuse inputs whose squares are no float64 numbers: every rank would be 0."""
    largest = max(float(part.inputs.abs().max()) for part in net.samples(most=4096))
    if 0.0 < largest < _SMALLEST_INPUT:
        contract = f"have inputs with magnitudes above {_SMALLEST_INPUT:g} for ranks"
        remedy = "Their squares underflow: rescale the inputs; ranks do not change."
        raise ValueError(message("problem", contract, f"{largest:g}", remedy))


def _precision_notes(problem: Problem) -> tuple[str, ...]:
    if problem.dtype == torch.float64:
        return ()
    text = (
        f"weights and data in {problem.dtype} were promoted to float64 as they are: "
        "the ranks are those of these rounded numbers"
    )
    return (text,)


def _labelled(rank: RankEstimate, name: str, problem: Problem) -> RankEstimate:
    label = {"ggn": "GGN", "functional": "functional Hessian"}.get(name, "Hessian")
    return replace(rank, of=problem.provenance(label))


def _cost(ranks: Mapping[str, RankEstimate], seconds: float, problem: Problem) -> Cost:
    return Cost(
        num_matvecs=sum(rank.cost.num_matvecs for rank in ranks.values()),
        num_data_passes=sum(rank.cost.num_data_passes for rank in ranks.values()),
        seconds=seconds,
        peak_memory=peak_memory(problem.device),
    )


def _disagreements(
    ranks: Mapping[str, RankEstimate], predicted: Mapping[str, PredictedRank]
) -> tuple[str, ...]:
    """Say where a claim does not hold, and what that means."""
    notes = []
    for name, prediction in predicted.items():
        rank = ranks[name]
        if rank.standard_error or prediction.agrees(rank.rank):
            continue
        exact = rank.certified
        if exact is not None and prediction.agrees(exact):
            why = "the exact rank is as predicted: the difference is numerical"
        elif not rank.certain:
            why = "the measured rank is undetermined"
        else:
            why = "an assumption of the prediction does not hold here"
        sign = "=" if prediction.claim == "equal" else "<="
        notes.append(
            f"{name}: measured {rank.rank}, predicted {sign} {prediction.value}; {why}"
        )
    return tuple(notes)
