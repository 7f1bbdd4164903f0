r"""Choices of z for ``N_eff(z)``, in the unit of the problem's own eigenvalues.

A prior precision belongs to the SUM of the negative log-likelihood. The problem's matrix
is that sum's Hessian times ``scale / factor``: z must be multiplied likewise.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from curvescope._core.checks import (
    describe,
    instance,
    message,
    one_of,
    real,
    real_tensor,
)
from curvescope.bayes.likelihood import likelihood_of
from curvescope.problem import Problem
from curvescope.results import Eigenpairs, Provenance, RegularisationScale

_POINTS = 96
_FEWEST = 6
# Breaks that explain almost as much as the best one: the range that is reported.
_ALMOST = 0.05
# Typical distance, in natural logarithms, within which a spectrum is one line.
_STRAIGHT = 0.05


def z_from_prior(
    problem: Problem, *, prior_variance: float, noise_variance: float | None = None
) -> RegularisationScale:
    r"""Return the z at which N_eff counts what the data determine against a prior.

    .. math:: \theta \sim N(0, \alpha^2 I),\quad -\log p = c \sum_n \ell_n + \ldots:\qquad
        z = \frac{\text{scale}}{c\,\alpha^2}

    with scale 1 for ``reduction="sum"`` and 1 / denominator for ``"mean"``.

    Args:
        problem: Model, loss and data; its reduction decides the unit.
        prior_variance: Of every parameter, above 0.
        noise_variance: Of every target, for squared errors.

    Returns:
        z with its unit; ``float`` of it goes into `effective_dimension`.

    Raises:
        ValueError: If a variance is missing or not above 0.

    Example:
        >>> data = (torch.eye(4), torch.zeros(4, 1))
        >>> problem = Problem(torch.nn.Linear(4, 1), "half_squared_error", data)
        >>> z_from_prior(problem, prior_variance=2.0, noise_variance=0.4).z  # 0.4 / 2 / 4
        0.05
    """
    prior = real("prior_variance", prior_variance, minimum=0.0, strict=True)
    likelihood = likelihood_of(problem, noise_variance=noise_variance)
    z = problem.scale / likelihood.factor / prior
    noise = likelihood.noise_variance
    meaning = f"prior variance {prior:g}" + (
        "" if noise is None else f", noise variance {noise:g}"
    )
    notes = () if likelihood.proper else (_IMPROPER.format(problem.loss.name),)
    return _scale(problem, z, meaning, notes)


_IMPROPER = "{}, as it is set here, is no normalised likelihood; exp(-loss) is used in its place"


def z_from_weight_decay(
    problem: Problem,
    *,
    weight_decay: float | None = None,
    trained_on: Literal["mean", "sum"] = "mean",
) -> RegularisationScale:
    r"""Return the z that a weight decay in training amounts to.

    An optimiser's ``weight_decay=w`` adds :math:`\tfrac w2 \|\theta\|^2` to the loss that
    it is given. On a mean over N samples that is a prior precision of :math:`N w`:

    .. math:: z = w\ \text{(mean)},\qquad z = N w\ \text{(sum)}

    N is the loss's own denominator. Decoupled decay (AdamW) is no such term.

    Args:
        problem: Model, loss and the training data; its reduction decides the unit.
        weight_decay: Of the optimiser; the problem's own by default.
        trained_on: Which reduction of the loss the optimiser was given.

    Returns:
        z with its unit; ``float`` of it goes into `effective_dimension`.

    Raises:
        ValueError: If there is no weight decay.

    Example:
        >>> data = (torch.eye(4), torch.tensor([0, 1, 0, 1]))
        >>> problem = Problem(torch.nn.Linear(4, 2), "cross_entropy", data, reduction="sum")
        >>> z_from_weight_decay(problem, weight_decay=0.25).z
        1.0
    """
    remedy = "Make one: `cs.Problem(model, loss, data)`."
    instance("problem", problem, Problem, remedy)
    one_of("trained_on", trained_on, ("mean", "sum"))
    if weight_decay is None:
        # The problem's own is added to the problem's objective, as it is reduced.
        decay, trained = problem.weight_decay, problem.reduction
    else:
        decay, trained = weight_decay, trained_on
    remedy = "Give the optimiser's `weight_decay`, or use `z_from_prior`."
    decay = real("weight_decay", decay, minimum=0.0, strict=True, remedy=remedy)
    other = 1.0 if trained == "sum" else 1.0 / problem.denominator
    meaning = f"weight decay {decay:g} on the {trained} of the loss"
    return _scale(problem, decay * (problem.scale / other), meaning, ())


def _scale(
    problem: Problem, z: float, meaning: str, notes: tuple[str, ...]
) -> RegularisationScale:
    return RegularisationScale(
        of=problem.provenance("z"),
        notes=notes,
        z=z,
        reduction=problem.reduction,
        meaning=meaning,
        low=z,
        high=z,
    )


def z_from_kink(spectrum: Any) -> RegularisationScale:
    r"""Return the z at the kink of a spectrum: between few large values and the bulk.

    The logarithms of the positive eigenvalues against the logarithm of their rank are
    fitted by two straight pieces; z is the geometric mean of the two eigenvalues at the
    break. A power law has no kink, and then a note says that z means little.

    Args:
        spectrum: `Eigenpairs`, or eigenvalues in any order; at least six above rounding.

    Returns:
        z in the eigenvalues' own unit, with the range of breaks that fit about as well.

    Raises:
        ValueError: If there are too few positive eigenvalues.

    Example:
        >>> bulk = 1e-3 / torch.arange(1.0, 60.0)
        >>> found = z_from_kink(torch.cat([torch.tensor([5.0, 4.0, 3.0, 2.5]), bulk]))
        >>> 1e-3 < found.z < 2.5
        True
    """
    of = Provenance()
    if isinstance(spectrum, Eigenpairs):
        of, spectrum = spectrum.of, spectrum.eigenvalues
    remedy = "Pass `Eigenpairs`, or their eigenvalues."
    values = real_tensor("spectrum", spectrum, remedy=remedy).flatten()
    if not bool(torch.isfinite(values).all()):
        raise ValueError(message("spectrum", "be finite", describe(values)))
    values = values.sort(descending=True).values
    floor = len(values) * torch.finfo(torch.float64).eps
    largest = float(values[0]) if len(values) else 0.0
    kept = values[values > floor * max(largest, 0.0)]
    if len(kept) < _FEWEST:
        contract = f"have {_FEWEST} eigenvalues above rounding or more"
        raise ValueError(message("spectrum", contract, len(kept)))
    x, y = _evenly(kept)
    errors, flattens = _broken_lines(x, y)
    single = _line_error(x, y)[0]
    clear = bool(flattens.any())
    errors = torch.where(flattens, errors, math.inf) if clear else errors
    best = int(errors.argmin())
    # One line may leave rounding over, and two the half of it.
    bent = single > len(x) * _STRAIGHT**2
    clear = clear and bent and float(errors[best]) < 0.5 * single
    # Relative to what a single line leaves over, the gain of a break.
    close = errors <= errors[best] + _ALMOST * max(single - float(errors[best]), 0.0)
    places = [_widest(kept, x, int(i)) for i in close.nonzero()]
    place = _widest(kept, x, best)
    around = [_between(kept, i) for i in places]
    return RegularisationScale(
        of=of,
        notes=() if clear else (_NO_KINK,),
        z=_between(kept, place),
        reduction=of.reduction,
        meaning=f"kink after {place} of {len(values)} eigenvalues",
        low=min(around),
        high=max(around),
    )


_NO_KINK = (
    "the spectrum has no clear kink, one line on logarithmic axes does about as well: "
    "look at the curve over z instead"
)


def _evenly(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return log rank and log value at ranks that are evenly spaced in the logarithm."""
    n = len(values)
    ranks = torch.logspace(0, math.log10(n), _POINTS, dtype=torch.float64)
    ranks = ranks.round().clamp(1, n).unique()
    return ranks.log(), values[ranks.long() - 1].log()


def _broken_lines(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for a break after each point, the squared error and whether it flattens.

    After a kink the values fall more slowly than at it; where a bulk ends they fall
    faster and faster, which is none.
    """
    errors, flattens = [], []
    for i in range(1, len(x) - 1):
        left, slope_left = _line_error(x[:i], y[:i])
        right, slope_right = _line_error(x[i:], y[i:])
        across = float((y[i] - y[i - 1]) / (x[i] - x[i - 1]))
        errors.append(left + right)
        flattens.append(min(slope_left, across) < slope_right)
    return torch.tensor(errors, dtype=torch.float64), torch.tensor(flattens)


def _line_error(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Return the squared error of a straight line, and its slope."""
    u, v = x - x.mean(), y - y.mean()
    spread = float(u @ u)
    slope = float(u @ v) / spread if spread > 0.0 else 0.0
    return float((v - slope * u).square().sum()), slope


def _widest(values: Tensor, x: Tensor, index: int) -> int:
    """Return after which rank, between two of the fitted points, the fall is largest."""
    first, last = (round(float(x[i].exp())) for i in (index, index + 1))
    logs = values[first - 1 : last].log()
    return first + int(logs.diff().argmin())


def _between(values: Tensor, place: int) -> float:
    """Return the geometric mean of the eigenvalues before and after a break."""
    return math.sqrt(float(values[place - 1])) * math.sqrt(float(values[place]))
