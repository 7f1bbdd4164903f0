"""What the page says of ranks: what was measured, what is predicted, what is proved."""

import math
from collections.abc import Iterator
from typing import Any

from curvescope._core.predictions import PredictedRank
from curvescope.report.formatting import PLUS_MINUS, number
from curvescope.report.kind import Kind
from curvescope.results import (
    BlockPicture,
    RankEstimate,
    RankReport,
    RankSweep,
    Result,
    SpectrumComparison,
)
from curvescope.results.ranks import MATRICES

MATRIX_NAMES = {"hessian": "Hessian", "ggn": "GGN", "functional": "functional Hessian"}
_STATUS = {
    "published": "stated in the published work",
    "derived": "derived, with a proof",
    "fitted": "found by fitting and verified on fresh cases, not proved",
}
CERTIFICATE = (
    "A certified rank is exact for the weights and data as they are stored, computed "
    "modulo primes without rounding; it says nothing of how small a value that is not "
    "zero may be."
)


def rank_text(rank: RankEstimate) -> str:
    """Write a rank, with its error where it is an estimate."""
    error = rank.standard_error
    return f"{rank.rank} {PLUS_MINUS} {error:.2g}" if error else str(rank.rank)


def prediction_text(prediction: PredictedRank) -> str:
    """Write a predicted rank with what it claims."""
    return f"{'at most ' if prediction.claim == 'at_most' else ''}{prediction.value}"


def certificate_differs(rank: RankEstimate) -> bool:
    """Tell whether exact arithmetic finds another rank than the measured one."""
    return rank.certified is not None and rank.certified != rank.rank


def estimate_sureness(rank: RankEstimate) -> str:
    """Say how one rank was decided, and what supports it."""
    if rank.verdict == "estimated":
        return (
            f"The rank is an estimate from random probes, with a standard error of "
            f"{rank.standard_error:.2g}; nothing is proved."
        )
    state = {
        "certified": "is certain, and exact arithmetic confirms it",
        "certain": "is certain",
        "undetermined": "is not certain",
    }[rank.verdict]
    of_factor = " Values are of a factor of the matrix: the squares are the matrix's."
    gap = (
        "nothing but exact zeros was dropped"
        if math.isinf(rank.gap)
        else f"the last value kept is {number(rank.gap, digits=3)} times the first one "
        "dropped"
    )
    text = f"The rank {state}: {gap}; threshold {number(rank.tolerance, digits=3)}."
    if certificate_differs(rank):
        text += (
            f" The exact rank is {rank.certified}: the difference lies in values too "
            "small for this precision, or in structure that the stored numbers have "
            "only up to rounding."
        )
    return text + (of_factor if rank.method == "factor" else "")


def report_headline(report: RankReport) -> str:
    """Say in one sentence each what is measured, predicted, equal and proved."""
    measured = ", ".join(
        f"{MATRIX_NAMES[name]} {rank_text(rank)}"
        for name, rank in report.measured.items()
    )
    parameters = report.facts.get("num_params") or report.of.num_params
    among = f" among {parameters} parameters" if parameters else ""
    return " ".join(
        [
            f"Measured ranks{among}: {measured}.",
            _prediction_sentence(report),
            _certificate_sentence(report),
        ]
    ).removesuffix(".")


def _prediction_sentence(report: RankReport) -> str:
    if not report.predictions:
        return "No theory gives a number for this network."
    predicted = ", ".join(
        f"{MATRIX_NAMES[p.matrix]} {prediction_text(p)}" for p in report.predictions
    )
    broken = [
        MATRIX_NAMES[p.matrix]
        for p in report.predictions
        if not p.agrees(report.measured[p.matrix].rank)
    ]
    if not broken:
        claims = {p.claim for p in report.predictions}
        verdict = "and that is what was measured"
        if claims == {"at_most"}:
            verdict = "and no measured rank exceeds it"
        elif len(claims) > 1:
            verdict = "and the measured ranks agree"
    else:
        verdict = f"but the measured rank of {_listed(broken)} differs"
    return f"Theory predicts {predicted}, {verdict}."


def _certificate_sentence(report: RankReport) -> str:
    certified = {
        name: rank
        for name, rank in report.measured.items()
        if rank.certified is not None
    }
    if not certified:
        return "There is no certificate: the ranks rest on gaps in the spectra."
    exact = ", ".join(
        f"{MATRIX_NAMES[name]} {rank.certified}" for name, rank in certified.items()
    )
    differing = [n for n, rank in certified.items() if certificate_differs(rank)]
    if not differing:
        which = "all of them" if len(certified) == len(MATRICES) else exact
        return f"Exact arithmetic confirms {which}."
    theory = report.certified_predictions
    told = bool(theory) and all(
        name in theory and theory[name].agrees(certified[name].certified or 0)
        for name in differing
    )
    why = ", as theory has it for the numbers as they are stored" if told else ""
    return f"Exact arithmetic gives {exact}{why}."


def _listed(names: list[str]) -> str:
    if len(names) == 1:
        return f"the {names[0]}"
    return f"the {', the '.join(names[:-1])} and the {names[-1]}"


def report_sureness(report: RankReport) -> str:
    """Say how sure the ranks are, and how far the formulas are proved."""
    undetermined = [
        MATRIX_NAMES[name]
        for name, rank in report.measured.items()
        if rank.verdict == "undetermined"
    ]
    parts = []
    if undetermined:
        parts.append(
            f"The rank of {_listed(undetermined)} is undetermined: no gap in the values "
            "is clear enough, or a factor or certificate disagrees."
        )
    else:
        parts.append("Each rank was read from a clear gap around the threshold.")
    if any(rank.certified is not None for rank in report.measured.values()):
        parts.append(CERTIFICATE)
    for prediction in report.predictions:
        name = MATRIX_NAMES[prediction.matrix]
        relation = "=" if prediction.claim == "equal" else "\u2264"
        given = f", given {'; '.join(prediction.assumptions)}"
        parts.append(
            f"Rank of the {name} {relation} {prediction.formula} = {prediction.value} is "
            f"{_STATUS[prediction.status]}{given if prediction.assumptions else ''}."
        )
    return " ".join(parts)


def report_warnings(report: RankReport) -> Iterator[str]:
    """Yield what a reader must know before any number."""
    for name, rank in report.measured.items():
        if rank.verdict == "undetermined":
            exact = (
                ""
                if rank.certified is None
                else f"; the exact rank is {rank.certified}"
            )
            yield f"the rank of the {MATRIX_NAMES[name]} is undetermined{exact}"
        elif certificate_differs(rank):
            yield (
                f"the rank of the {MATRIX_NAMES[name]} is {rank.rank} numerically and "
                f"{rank.certified} exactly"
            )
    for prediction in report.predictions:
        rank = report.measured[prediction.matrix]
        if not prediction.agrees(rank.rank):
            yield (
                f"the rank of the {MATRIX_NAMES[prediction.matrix]} is {rank.rank}, "
                f"where theory claims {prediction_text(prediction)}"
            )


class Tally:
    """How many ranks of a sweep are as predicted, exact, and undetermined."""

    def __init__(self, sweep: RankSweep) -> None:
        self.compared = self.agreeing = self.undetermined = 0
        self.certified = self.exact = self.measured = 0
        for record in sweep.records:
            for name in MATRICES:
                if record.get(f"{name}_rank") is not None:
                    self._count({k: record.get(f"{name}_{k}") for k in _FIELDS})

    def _count(self, one: dict[str, Any]) -> None:
        rank, predicted, certified = one["rank"], one["predicted"], one["certified"]
        self.measured += 1
        self.undetermined += one["verdict"] == "undetermined"
        if predicted is not None:
            self.compared += 1
            ceiling = one["claim"] == "at_most"
            self.agreeing += rank <= predicted if ceiling else rank == predicted
        if certified is not None:
            self.certified += 1
            self.exact += certified == rank


_FIELDS = ("rank", "verdict", "certified", "predicted", "claim")


def sweep_headline(sweep: RankSweep) -> str:
    """Say what was measured along which axis, and how often theory is right."""
    tally, words = Tally(sweep), [f"{sweep.headline()}."]
    if tally.compared:
        words.append(
            f"{tally.agreeing} of {tally.compared} measured ranks are what theory claims."
        )
    else:
        words.append("No theory gives numbers for these networks.")
    if tally.certified:
        words.append(
            f"{tally.exact} of {tally.certified} certificates confirm the measured rank."
        )
    else:
        words.append("There are no certificates.")
    return " ".join(words).removesuffix(".")


def sweep_sureness(sweep: RankSweep) -> str:
    """Say how sure the points of a sweep are."""
    tally = Tally(sweep)
    seeds = {record.get("seed") for record in sweep.records}
    text = (
        f"{tally.undetermined} of {tally.measured} ranks are undetermined (ringed)."
        if tally.undetermined
        else f"All {tally.measured} ranks were read from clear gaps."
    )
    if len(seeds) > 1:
        text += f" The band shows how {len(seeds)} seeds scatter."
    return f"{text} {CERTIFICATE}" if tally.certified else text


def sweep_reading(sweep: RankSweep) -> str:
    """Say how the figure of a sweep is to be read."""
    text = (
        "Lines are measured ranks, one colour a matrix; filled dots are what theory "
        "predicts before anything is measured: a dot on its line is a prediction come "
        "true. Dashed lines are upper bounds."
    )
    if sweep.axis == "epoch":
        text += (
            " Along training the measured rank of H may fall to that of the GGN, because "
            "the functional part shrinks with the residuals until rounding hides it; the "
            "exact rank (dash-dotted) shows what is hidden, not gone."
        )
    return text


_AXES = {
    "num_samples": "the number of samples",
    "width": "width",
    "depth": "depth",
    "epoch": "training",
}


KINDS: dict[type[Result], Kind] = {
    RankEstimate: Kind(
        title=lambda r: f"Rank of the {r.of.matrix}",
        reading=lambda _: (
            "Singular values in descending order: the rank is read from the gap at the "
            "dashed threshold."
        ),
        sureness=estimate_sureness,
        show_table=False,
    ),
    RankReport: Kind(
        title=lambda _: "Ranks of the Hessian and its two parts",
        reading=lambda _: (
            "The rank counts the directions in which the loss bends at all. Each panel "
            "shows one matrix's values in descending order on a logarithmic axis: the "
            "rank is where they fall through the dashed threshold to rounding noise, "
            "and vertical lines stand where theory, without looking at the values, "
            "expects that fall. Dotted verticals are upper bounds only."
        ),
        sureness=report_sureness,
        headline=report_headline,
        warnings=report_warnings,
    ),
    RankSweep: Kind(
        title=lambda r: f"Ranks against {_AXES.get(r.axis, r.axis)}",
        reading=sweep_reading,
        sureness=sweep_sureness,
        headline=sweep_headline,
    ),
    SpectrumComparison: Kind(
        title=lambda _: "Sorted eigenvalues, side by side",
        reading=lambda _: (
            "Magnitudes of all eigenvalues in descending order, one colour a network; "
            "dashed verticals are predicted  Where a linear network's values fall "
            "to rounding noise, a non-linear one's are only small."
        ),
        sureness=lambda _: (
            "Eigenvalues are exact up to rounding in float64; an eigenvalue that is only "
            "small still counts towards the rank."
        ),
        show_table=False,
    ),
    BlockPicture: Kind(
        title=lambda _: "The matrices block by block",
        reading=lambda _: (
            "Each square is one matrix, entry by entry, with lines between the layers; "
            "bright is large, dark is small, hatched paper is exactly zero. One pixel "
            "may stand for several entries, and shows the largest."
        ),
        sureness=lambda _: "Entries are exact up to rounding in float64.",
    ),
}
