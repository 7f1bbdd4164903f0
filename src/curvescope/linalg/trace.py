"""Trace, diagonal and Frobenius norm from random probes, with honest errors."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from curvescope._core.checks import message, one_of, positive_int
from curvescope._core.random import gaussian, rademacher, resolve_generator
from curvescope.linalg._products import float64_gram
from curvescope.linalg._session import Session, square_operator
from curvescope.linalg._wanted_error import (
    next_count,
    relative_half_width,
    wanted_settings,
)
from curvescope.linalg._xtrace import XTrace, columns_dot, without
from curvescope.linop.convert import aslinearoperator
from curvescope.results import Estimate, VectorEstimate

_FEW = 8
_FIRST_PROBES = 6


def trace(
    A: Any,
    *,
    method: str = "xtrace",
    num_matvecs: int | None = None,
    error: float | None = None,
    max_matvecs: int | None = None,
    generator: torch.Generator | None = None,
) -> Estimate:
    r"""Estimate the trace.

    .. math:: \operatorname{tr} A = \operatorname{tr} Q^\top A Q +
        \operatorname{E} z^\top (I - Q Q^\top) A (I - Q Q^\top) z

    with ``Q`` empty (``"hutchinson"``), from one third of the products
    (``"hutch++"``), or from all other probes in turn (``"xtrace"``). Below about 60
    products there is little to choose; at 300 the latter two err several times less
    where the spectrum decays.

    Args:
        A: Square operator, or anything `aslinearoperator` takes; symmetric for
            ``"xtrace"`` and ``"hutch++"``.
        method: The method.
        num_matvecs: Products to spend, 100 by default; if at least ``n``, the trace is
            exact.
        error: What is wanted instead: half the width of the 95 % interval, relative to
            the value. Where the trace nearly vanishes, that takes many products.
        max_matvecs: Products to spend on that at most, 10000 by default.
        generator: Source of the probes; a fresh one with a fixed seed if ``None``.

    Returns:
        The estimate; its 95 % interval is tested for coverage.

    Raises:
        ValueError: If ``A`` is not square, or an argument is out of range.

    Cost:
        At most ``num_matvecs`` products in 1 or 2 blocks. Memory: ``num_matvecs``
        vectors (Hutchinson: two blocks).

    Example:
        >>> trace(torch.eye(3), num_matvecs=3).value
        3.0

    References:
        Hutchinson (1989), doi:10.1080/03610918908812806; Meyer et al. (2021),
        arXiv:2010.09649; Epperly, Tropp and Webber (2024), arXiv:2301.07825.
    """
    one_of("method", method, ("xtrace", "hutch++", "hutchinson"))
    operator = square_operator(A)
    n = operator.shape[0]
    least = {"xtrace": 8, "hutch++": 12, "hutchinson": 4}[method]
    settings: dict[str, Any] = {"method": method}
    if error is None:
        count = 100 if num_matvecs is None else positive_int("num_matvecs", num_matvecs)
        if count < n:
            positive_int("num_matvecs", count, minimum=least)
        settings["num_matvecs"] = limit = count
    else:
        error, limit = wanted_settings(error, max_matvecs, num_matvecs=num_matvecs)
        settings |= {"error": error, "max_matvecs": limit}
        positive_int("max_matvecs", limit, minimum=least)
        if method == "hutch++":
            remedy = 'Use `method="xtrace"`, to which probes can come.'
            raise ValueError(message("method", "take an error", method, remedy))
    if method != "hutchinson" and not operator.symmetric:
        remedy = 'Use `method="hutchinson"`.'
        raise ValueError(message("A", f"be symmetric for {method}", operator, remedy))
    generator = resolve_generator(generator)
    settings["seed"] = generator.initial_seed()
    total = None if error is not None else min(limit, n)
    with Session(operator, "trace", total=total) as session:
        if n <= (least if error is not None else limit):
            found: _Found | None = None
        elif error is not None:
            found = _until(session, method, error, limit, generator)
        else:
            found = _of_count(session, method, limit, generator)
        if found is None:
            value, deviation, samples = float(session.dense().trace()), 0.0, None
            method = "exact"
        else:
            value, deviation, samples = found
        cost, scale = session.cost(), session.scale or 1.0
    degrees = math.inf if samples is None else _degrees(method, len(samples))
    result = Estimate(
        of=operator.info,
        cost=cost,
        settings=settings,
        quantity="trace",
        value=value * scale,
        standard_error=deviation * scale,
        degrees_of_freedom=degrees,
        method=method,
        samples=None if samples is None else samples * scale,
    )
    return said_if_missed(result, error)


def _of_count(
    session: Session, method: str, num_matvecs: int, generator: torch.Generator
) -> "_Found":
    """Spend a given number of products."""
    if method == "hutch++":
        return _hutch_plus(session, num_matvecs // 3, generator)
    run: _Hutchinson | XTrace
    if method == "hutchinson":
        run = _Hutchinson(session, generator)
        run.add(num_matvecs)
    else:
        run = XTrace(session, generator)
        run.add(num_matvecs // 2)
    return run.estimate()


def _until(
    session: Session,
    method: str,
    error: float,
    limit: int,
    generator: torch.Generator,
) -> "_Found | None":
    """Add probes until the interval is narrow; ``None`` where all columns are cheaper."""
    n = session.n
    run: _Hutchinson | XTrace
    run = (XTrace if method == "xtrace" else _Hutchinson)(session, generator)
    each = 2 if method == "xtrace" else 1
    # Left out in turn, as many probes as dimensions leave nothing to judge an error by.
    most = n - 1 if method == "xtrace" else limit
    count = min(_FIRST_PROBES, limit // each, most)
    while True:
        affordable, missing = limit - session.num_matvecs, each * count
        # All columns always reach the error; soon they may be too dear.
        last_chance = affordable - missing < n
        if n <= affordable and missing >= (n / 2 if last_chance else n):
            return None
        session.expect(session.num_matvecs + missing)
        run.add(count)
        value, deviation, samples = run.estimate()
        degrees = _degrees(method, len(samples))
        half = relative_half_width(value, deviation, degrees)
        left = min((limit - session.num_matvecs) // each, most - len(samples))
        if half <= error or run.complete or left < 1:
            return value, deviation, samples
        count = min(next_count(len(samples), half, error), left)


def said_if_missed(result: Estimate, error: float | None) -> Estimate:
    """Note that an interval is wider than was wanted, if it is."""
    if error is None or result.standard_error == 0.0:
        return result
    half = relative_half_width(
        result.value, result.standard_error, result.degrees_of_freedom
    )
    if half <= error:
        return result
    text = (
        f"the 95 % interval reaches {half:.2g} of the value to both sides, not "
        f"{error:g}: {result.cost.num_matvecs} of at most "
        f"{result.settings['max_matvecs']} products were made"
    )
    return replace(result, notes=(*result.notes, text))


_Found = tuple[float, float, Tensor]


def _degrees(method: str, m: int) -> float:
    """Return the degrees of freedom of the standard error; calibrated, not derived.

    Hutchinson's error rests on a variance that theory gives, and is steadier than the
    spread of ``m`` samples; XTrace's samples share their basis.
    """
    few = 2.0 * m if m < _FEW else m - 1.0
    return {"hutchinson": 2.0 * m, "hutch++": few, "xtrace": m / 2.0}[method]


class _Hutchinson:
    """Mean, standard error and samples of ``z'Az`` for signs ``z``, to which more come.

    ``Q`` (columns) is projected out. The variance ``2 (||A||_F^2 - sum a_ii^2)`` of one
    sample is estimated without bias from the same products, and the larger of it and
    the samples' spread is used: a few samples of a sum that one outlier dominates have
    a spread that is too small just when their mean is.
    """

    complete = False

    def __init__(
        self, session: Session, generator: torch.Generator, Q: Tensor | None = None
    ) -> None:
        self.session, self.generator, self.Q = session, generator, Q
        self.samples: list[Tensor] = []
        self.squares = self.diagonal_squares = 0.0
        self.total = torch.zeros(session.n, dtype=session.dtype, device=session.device)

    def add(self, count: int) -> None:
        """Draw ``count`` probes more, for as many products."""
        session, Q = self.session, self.Q
        width = min(count, session.A.block_size)
        for start in range(0, count, width):
            Z = rademacher(
                (session.n, min(width, count - start)),
                self.generator,
                dtype=session.dtype,
                device=session.device,
            )
            if Q is None:
                W = session.product(Z)
            else:
                W = without(Q, session.product(without(Q, Z)))
            products = Z * W
            self.samples.append(products.sum(dim=0, dtype=torch.float64).cpu())
            self.squares += float(W.square().sum(dtype=torch.float64))
            self.total += products.sum(dim=1)
            square = products.square().sum(dtype=torch.float64)
            self.diagonal_squares += float(square)

    def estimate(self) -> "_Found":
        """Return value, standard error and samples."""
        sample = torch.cat(self.samples)
        m, symmetric = len(sample), self.session.A.symmetric
        whole = float(self.total.square().sum(dtype=torch.float64))
        exact_part = (whole - self.diagonal_squares) / (m * (m - 1))
        theory = 2.0 * (self.squares / m - exact_part) if symmetric else 0.0
        variance = float(sample.var())
        # With many samples and a flat remainder the spread itself is good enough.
        if self.Q is None or m < _FEW:
            variance = max(variance, theory)
        return float(sample.mean()), math.sqrt(variance / m), sample


def _hutch_plus(session: Session, m: int, generator: torch.Generator) -> _Found:
    shape = (session.n, m)
    S = rademacher(shape, generator, dtype=session.dtype, device=session.device)
    Q = torch.linalg.qr(session.product(S)).Q
    captured = float(columns_dot(Q, session.product(Q)).sum())
    rest = _Hutchinson(session, generator, Q)
    rest.add(m)
    value, error, samples = rest.estimate()
    return captured + value, error, captured + samples


def diagonal(
    A: Any, *, num_probes: int, generator: torch.Generator | None = None
) -> VectorEstimate:
    r"""Estimate the diagonal from random signs.

    .. math:: \operatorname{diag} A = \operatorname{E}\, z \odot A z

    Args:
        A: Square operator, or anything `aslinearoperator` takes.
        num_probes: Probes, at least 2; if at least ``n``, the diagonal is exact.
        generator: Source of the probes; a fresh one with a fixed seed if ``None``.

    Returns:
        The entries, each with its standard error.

    Raises:
        ValueError: If ``A`` is not square, or ``num_probes`` is below 2.

    Cost:
        ``num_probes`` products; memory of a few blocks.

    Example:
        >>> diagonal(torch.eye(2), num_probes=2).values
        tensor([1., 1.], dtype=torch.float64)

    References:
        Bekas, Kokiopoulou and Saad (2007), doi:10.1016/j.apnum.2007.01.003.
    """
    operator = square_operator(A)
    n = operator.shape[0]
    num_probes = positive_int("num_probes", num_probes, minimum=min(2, n))
    generator = resolve_generator(generator)
    seed = generator.initial_seed()
    with Session(operator, "diagonal", total=min(num_probes, n)) as session:
        if num_probes >= n:
            values, method = _exact_diagonal(session), "exact"
            errors = torch.zeros_like(values)
        else:
            values, errors = _sampled_diagonal(session, num_probes, generator)
            method = "signs"
        cost = session.cost()
        scale = session.scale or 1.0
    return VectorEstimate(
        of=operator.info,
        cost=cost,
        settings={"num_probes": num_probes, "seed": seed},
        quantity="diagonal",
        values=values * scale,
        standard_errors=errors * scale,
        method=method,
    )


def _exact_diagonal(session: Session) -> Tensor:
    return session.dense().diagonal().clone()


def _sampled_diagonal(
    session: Session, num_probes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    n, width = session.n, min(num_probes, session.A.block_size)
    mean = torch.zeros(n, dtype=torch.float64, device=session.device)
    spread = torch.zeros_like(mean)
    seen = 0
    for start in range(0, num_probes, width):
        shape = (n, min(width, num_probes - start))
        Z = rademacher(shape, generator, dtype=session.dtype, device=session.device)
        products = (Z * session.product(Z)).double()
        # Chan's update of mean and squared deviations, block by block.
        count = shape[1]
        centre = products.mean(dim=1)
        step = centre - mean
        spread += (products - centre[:, None]).square().sum(dim=1)
        spread += step.square() * (seen * count / (seen + count))
        mean += step * (count / (seen + count))
        seen += count
    errors = (spread / (seen - 1) / seen).sqrt()
    return mean.cpu(), errors.cpu()


def frobenius_norm(
    A: Any,
    *,
    num_probes: int | None = None,
    error: float | None = None,
    max_matvecs: int | None = None,
    generator: torch.Generator | None = None,
) -> Estimate:
    r"""Estimate the Frobenius norm; its square is estimated without bias.

    .. math:: \|A\|_F^2 = \operatorname{E} \|A z\|^2, \qquad
        \operatorname{Var} \|A z\|^2 = 2 \|A^\top A\|_F^2

    The variance is estimated without bias from the products of different probes,
    ``E (z_a' A'A z_b)^2``; the delta method takes it to the norm.

    Args:
        A: Operator, also rectangular, or anything `aslinearoperator` takes.
        num_probes: Gaussian probes, at least 2, 32 by default; if at least ``n``, the
            norm is exact.
        error: What is wanted instead: half the width of the 95 % interval, relative to
            the value.
        max_matvecs: Products to spend on that at most, 10000 by default.
        generator: Source of the probes; a fresh one with a fixed seed if ``None``.

    Returns:
        The estimate; ``samples`` are the squares, one a probe.

    Raises:
        ValueError: If ``num_probes`` is below 2.

    Cost:
        ``num_probes`` products; memory for as many vectors.

    Example:
        >>> round(frobenius_norm(torch.eye(4), num_probes=4).value, 6)
        2.0

    References:
        Girard (1989), doi:10.1007/BF01395775.
    """
    operator = aslinearoperator(A)
    n = operator.shape[1]
    settings: dict[str, Any] = {}
    if error is None:
        count = 32 if num_probes is None else num_probes
        count = positive_int("num_probes", count, minimum=min(2, n))
        settings["num_probes"] = limit = count
    else:
        error, limit = wanted_settings(error, max_matvecs, num_probes=num_probes)
        settings |= {"error": error, "max_matvecs": limit}
        count = min(_FIRST_PROBES, limit)
    generator = resolve_generator(generator)
    settings["seed"] = generator.initial_seed()
    degrees, samples = math.inf, None
    with Session(operator, "Frobenius norm", total=min(count, n)) as session:
        rows = torch.zeros(
            0, operator.shape[0], dtype=session.dtype, device=session.device
        )
        while 0 < count < n:
            rows = torch.cat([rows, _images(session, count, generator)])
            value, deviation, samples = _norm_of(rows)
            degrees = (len(rows) - 1) / 1.5
            half = relative_half_width(value, deviation, degrees)
            left = limit - session.num_matvecs
            if error is None or half <= error or left < 1:
                break
            count = min(next_count(len(rows), half, error), left)
            session.expect(session.num_matvecs + count)
        method = "gaussian probes"
        if count >= n:
            value, deviation, method = float(session.dense().norm()), 0.0, "exact"
            degrees, samples = math.inf, None
        cost, scale = session.cost(), session.scale or 1.0
    result = Estimate(
        of=operator.info,
        cost=cost,
        settings=settings,
        quantity="Frobenius norm",
        value=value * scale,
        standard_error=deviation * scale,
        degrees_of_freedom=degrees,
        method=method,
        samples=None if samples is None else samples * scale**2,
    )
    return said_if_missed(result, error)


def _images(session: Session, count: int, generator: torch.Generator) -> Tensor:
    """Return the products with Gaussian probes as rows."""
    shape = (session.n, count)
    Z = gaussian(shape, generator, dtype=session.dtype, device=session.device)
    return session.product(Z).T.contiguous()


def _norm_of(rows: Tensor) -> _Found:
    """Return the norm, its standard error, and the squares.

    Degrees of freedom are fewer than probes - 1: the squares are skewed where few
    eigenvalues dominate. Calibrated: 95 % intervals of 4 to 32 probes cover 91 to 99 %.
    """
    p = rows.shape[0]
    gram = float64_gram(rows, rows)
    samples = gram.diagonal().clone()
    value = math.sqrt(float(samples.mean()))
    mixed = float(gram.square().sum() - samples.square().sum())
    theory = 2.0 * mixed / (p * (p - 1))
    variance = max(float(samples.var()), theory) / p
    return value, math.sqrt(variance) / (2.0 * value) if value else 0.0, samples
