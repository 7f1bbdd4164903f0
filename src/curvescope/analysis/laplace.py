r"""A network's linearised Laplace posterior: Gaussian, with the GGN as its precision.

With G the GGN of the summed negative log-likelihood and a prior
:math:`\theta \sim N(0, \delta^{-1} I)`, the network is replaced by its linearisation at
the weights, for which

.. math:: \Sigma = (G + \delta I)^{-1},\qquad f(x) \sim N(f_\theta(x),\,
    J(x) \Sigma J(x)^\top)
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, final

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from curvescope._core.checks import instance, message, one_of, positive_int, real
from curvescope._core.errors import ChangedDuringComputationError
from curvescope._core.memory import available_memory, peak_memory
from curvescope._core.random import resolve_generator
from curvescope.autodiff.columns import pullback
from curvescope.bayes.left_out import LeftOut, posterior_sum, probe
from curvescope.bayes.likelihood import Likelihood, likelihood_of, num_outputs
from curvescope.curvature import GGN
from curvescope.exact.factor import factor_triangle, ggn_factor, has_factor
from curvescope.linalg import eigsh
from curvescope.problem import Problem
from curvescope.problem.batches import Batch
from curvescope.results import Cost, Estimate, LaplacePosterior, Predictive

METHODS = ("auto", "exact", "low_rank")
# Beyond this the SVD of a factor takes minutes on two cores.
_EXACT_SIDE = 3000
_NEWTON_NATS = 1.0
_MAKE_PROBLEM = "Make one: `cs.Problem(model, loss, data)`."
# Inputs that share a graph: a row costs a backward pass over all of them.
_GROUP = 4


def laplace(
    problem: Problem,
    *,
    prior_precision: float | None = None,
    noise_variance: float | None = None,
    method: Literal["auto", "exact", "low_rank"] = "auto",
    rank: int = 50,
    num_probes: int = 8,
    num_steps: int = 32,
    tol: float | None = None,
    generator: torch.Generator | None = None,
) -> LaplacePosterior:
    r"""Compute the linearised Laplace posterior of a network, and its evidence.

    .. math:: N_\text{eff} = \sum_i \frac{\lambda_i}{\lambda_i + \delta},\qquad
        \log p(D) \approx \log p(D \mid \theta) - \tfrac\delta2 \|\theta\|^2
        - \tfrac12 \sum_i \ln(1 + \lambda_i / \delta)

    The prior's precision :math:`\delta` belongs to the summed log-likelihood, whatever
    the problem's reduction. Exact, from the singular values of the GGN's factor in
    float64, where that fits; else from the top eigenpairs, with what the others add
    estimated by Lanczos quadrature, or bounded from their sum, whichever is narrower.

    Args:
        problem: Model, loss and data, at trained weights.
        prior_precision: delta; by default what the problem's weight decay amounts to.
        noise_variance: Of every target, for squared errors.
        method: ``"exact"``, ``"low_rank"``, or whichever fits.
        rank: Eigenpairs of the low-rank posterior.
        num_probes: Probes of the eigenvalues left out.
        num_steps: Lanczos steps of each.
        tol: Relative residual of the eigenpairs, as for `eigsh`.
        generator: Source of the randomness; a fresh one with a fixed seed if ``None``.

    Returns:
        The posterior. `laplace_predict` evaluates functions under it.

    Raises:
        ValueError: If an argument is missing or out of range, or an output Hessian is
            indefinite.
        ChangedDuringComputationError: If weights or data change meanwhile.

    Cost:
        Exact: the factor and its SVD, ``O(N K P min(N K, P))``. Low rank: about 3
        ``rank`` + ``num_probes num_steps`` products.

    Example:
        >>> data = (torch.eye(2).double(), torch.zeros(2, 1).double())
        >>> net = torch.nn.Linear(2, 1, bias=False).double()
        >>> problem = Problem(net, "half_squared_error", data, reduction="sum")
        >>> at = laplace(problem, prior_precision=1.0, noise_variance=1.0)
        >>> at.effective_dimension.value, at.variances
        (1.0, tensor([0.5000, 0.5000], dtype=torch.float64))

    References:
        MacKay (1992), doi:10.1162/neco.1992.4.3.448; Khan et al. (2019),
        arXiv:1906.01930; Immer et al. (2021), arXiv:2008.08400.
    """
    instance("problem", problem, Problem, _MAKE_PROBLEM)
    one_of("method", method, METHODS)
    options = {
        "rank": positive_int("rank", rank),
        "num_probes": positive_int("num_probes", num_probes),
        "num_steps": positive_int("num_steps", num_steps),
    }
    began = time.perf_counter()
    fingerprint = problem.refresh()
    likelihood = likelihood_of(problem, noise_variance=noise_variance)
    precision = _precision(problem, prior_precision, likelihood)
    generator = resolve_generator(generator)
    if not has_factor(problem):
        contract = "be convex in the outputs, for the GGN to be a precision"
        raise ValueError(message("loss", contract, problem.loss.name))
    if method == "auto":
        method = "exact" if _fits(problem) else "low_rank"
    if method == "exact":
        spectrum = _exact(problem, likelihood)
    else:
        spectrum = _low_rank(problem, likelihood, options, tol, generator)
    if problem.refresh() != fingerprint:
        contract = "stay the same while its posterior is computed"
        got = "other weights, buffers or data than at the beginning"
        raise ChangedDuringComputationError(message("problem", contract, got))
    settings = {
        "prior_precision": precision,
        "noise_variance": noise_variance,
        "method": method,
    }
    if method == "low_rank":
        settings |= {**options, "seed": generator.initial_seed()}
    found = _posterior(problem, likelihood, spectrum, precision)
    cost = replace(
        spectrum.cost,
        seconds=time.perf_counter() - began,
        peak_memory=peak_memory(problem.device),
    )
    return replace(found, settings=settings, cost=cost)


@final
@dataclass(frozen=True, kw_only=True)
class _Spectrum:
    """Eigenvalues of G, the eigenvectors as rows, and what is known of the others."""

    values: Tensor
    directions: Tensor
    exact: bool
    left_out: LeftOut
    cost: Cost
    notes: tuple[str, ...] = ()


def _precision(problem: Problem, given: float | None, likelihood: Likelihood) -> float:
    if given is None:
        # The objective is scale * sum + wd / 2 ||theta||^2, the likelihood factor * sum.
        given = problem.weight_decay * (likelihood.factor / problem.scale)
    remedy = "It is 1 / prior variance; training's weight decay w on a mean gives N w."
    return real("prior_precision", given, minimum=0.0, strict=True, remedy=remedy)


def _fits(problem: Problem) -> bool:
    """Tell whether the factor, or its triangle, and an SVD fit memory and minutes."""
    rows, size = problem.num_samples * num_outputs(problem), problem.num_params
    if min(rows, size) > _EXACT_SIDE:
        return False
    held = 3 * min(rows, 2 * size) * size * 8
    return held <= available_memory(torch.device("cpu")) // 2


def _exact(problem: Problem, likelihood: Likelihood) -> _Spectrum:
    rows, size = problem.num_samples * num_outputs(problem), problem.num_params
    factor = ggn_factor(problem) if rows <= 2 * size else factor_triangle(problem)
    factor = factor.cpu()
    _, s, directions = torch.linalg.svd(factor, full_matrices=False)
    values = (s * math.sqrt(likelihood.factor / problem.scale)).square()
    return _Spectrum(
        values=values,
        directions=directions,
        exact=True,
        left_out=LeftOut.nothing(size),
        cost=Cost(num_data_passes=1),
    )


def _low_rank(
    problem: Problem,
    likelihood: Likelihood,
    options: Mapping[str, int],
    tol: float | None,
    generator: torch.Generator,
) -> _Spectrum:
    A = GGN(_undecayed(problem))
    unit = likelihood.factor / problem.scale
    rows, size = problem.num_samples * num_outputs(problem), problem.num_params
    most = min(rows, size)
    k = min(options["rank"], most)
    pairs = eigsh(A, k=k, which="LA", tol=tol, generator=generator)
    assert pairs.eigenvectors is not None
    V = pairs.eigenvectors
    values = pairs.eigenvalues.clamp_min(0.0)
    left_out = most - k
    residual = float(pairs.residual_norms.max())
    notes = pairs.notes
    if not bool(pairs.converged.all()):
        notes = (*notes, "some eigenpairs are not converged: see the residuals")
    left = LeftOut.nothing(size)
    if left_out:
        left = probe(
            A,
            V,
            number=left_out,
            bound=(float(values[-1]) + residual) * unit,
            unit=unit,
            num_probes=options["num_probes"],
            num_steps=options["num_steps"],
            generator=generator,
        )
    return _Spectrum(
        values=values * unit,
        directions=V.T.double().cpu().contiguous(),
        exact=False,
        left_out=left,
        cost=pairs.cost + left.cost,
        notes=notes,
    )


def _undecayed(problem: Problem) -> Problem:
    """Return the same problem without weight decay: the prior is apart."""
    other = copy.copy(problem)
    other.weight_decay = 0.0
    return other


def _posterior(
    problem: Problem, likelihood: Likelihood, spectrum: _Spectrum, precision: float
) -> LaplacePosterior:
    of = replace(
        problem.provenance("Laplace posterior"),
        unit="inverse variance of a parameter (negative log-likelihood, summed)",
    )
    theta = problem.parameter_vector().double().cpu()
    loss = problem.evaluate().loss / problem.scale
    log_likelihood = -likelihood.factor * loss - likelihood.constant
    penalty = -0.5 * precision * float(theta.square().sum())
    dimension = _estimate(
        spectrum, "effective dimension", lambda x: x / (x + precision)
    )
    growth = _estimate(spectrum, "growth", lambda x: torch.log1p(x / precision) / 2.0)
    occam = replace(growth, quantity="log Occam factor", value=-growth.value)
    evidence = replace(
        occam,
        quantity="log marginal likelihood",
        value=log_likelihood + penalty + occam.value,
    )
    decrement = _newton_decrement(problem, likelihood, spectrum, precision, theta)
    notes = list(spectrum.notes)
    if not likelihood.proper:
        notes.append("the loss is no normalised likelihood: evidences do not compare")
    if decrement > _NEWTON_NATS:
        notes.append(
            f"the weights are not at the posterior's mode: its quadratic model rises by "
            f"{decrement:.3g} nats from them, so that the evidence is that of a "
            "neighbourhood, not of a peak"
        )
    return LaplacePosterior(
        of=of,
        notes=tuple(notes),
        prior_precision=precision,
        noise_variance=likelihood.noise_variance,
        likelihood=likelihood.name,
        eigenvalues=spectrum.values,
        directions=spectrum.directions,
        method="exact" if spectrum.exact else "low_rank",
        num_left_out=spectrum.left_out.number,
        left_out_bound=spectrum.left_out.bound,
        left_out_nodes=spectrum.left_out.nodes,
        left_out_weights=spectrum.left_out.weights,
        left_out_degrees=spectrum.left_out.degrees,
        effective_dimension=replace(dimension, of=of),
        log_marginal_likelihood=replace(evidence, of=of),
        log_likelihood=log_likelihood,
        log_prior_penalty=penalty,
        log_occam_factor=replace(occam, of=of),
        newton_decrement=decrement,
    )


def _estimate(
    spectrum: _Spectrum, quantity: str, function: Callable[[Tensor], Tensor]
) -> Estimate:
    value, bias, error = posterior_sum(function, spectrum.values, spectrum.left_out)
    return Estimate(
        quantity=quantity,
        value=value,
        standard_error=error,
        degrees_of_freedom=spectrum.left_out.degrees,
        method="exact"
        if spectrum.exact
        else "top eigenpairs, quadrature or bounds for the others",
        bias_bound=bias,
    )


def _newton_decrement(
    problem: Problem,
    likelihood: Likelihood,
    spectrum: _Spectrum,
    precision: float,
    theta: Tensor,
) -> float:
    """Return ``g' (G + delta I)^-1 g / 2``, an upper bound where G is not all there."""
    unit = likelihood.factor / problem.scale
    gradient = _undecayed(problem).gradient().double().cpu() * unit + precision * theta
    inside = spectrum.directions @ gradient
    outside = gradient - spectrum.directions.T @ inside
    along = float((inside.square() / (spectrum.values + precision)).sum())
    return 0.5 * (along + float(outside.square().sum()) / precision)


def laplace_predict(
    posterior: LaplacePosterior,
    problem: Problem,
    inputs: Any,
    *,
    joint: bool = False,
) -> Predictive:
    r"""Return the function's mean and covariance at inputs, under the linearised posterior.

    .. math:: J \Sigma J^\top = \sum_i \frac{(J v_i)(J v_i)^\top}{\lambda_i + \delta}
        + \frac{1}{\delta} J_\perp J_\perp^\top

    where eigenpairs were left out, this is an upper bound, and ``covariance_slack`` says
    how far too high it may be.

    Args:
        posterior: By `laplace`.
        problem: The one it was computed of, with the same weights.
        inputs: As a batch of the problem has them, without targets.
        joint: Whether to keep the covariance of all values at all inputs.

    Returns:
        One row an input; for classifiers, of the logits.

    Raises:
        ValueError: If the problem is not the posterior's, or its weights have changed.

    Cost:
        ``K`` backward passes an input.

    Example:
        >>> data = (torch.eye(2).double(), torch.zeros(2, 1).double())
        >>> net = torch.nn.Linear(2, 1, bias=False).double()
        >>> problem = Problem(net, "half_squared_error", data, reduction="sum")
        >>> at = laplace(problem, prior_precision=1.0, noise_variance=1.0)
        >>> found = laplace_predict(at, problem, torch.ones(1, 2).double())
        >>> round(float(found.variance), 6)
        1.0
    """
    began = time.perf_counter()
    remedy = "Compute one: `laplace(problem, ...)`."
    instance("posterior", posterior, LaplacePosterior, remedy)
    instance("problem", problem, Problem, _MAKE_PROBLEM)
    if problem.refresh() != posterior.of.fingerprint:
        contract = "be the posterior's own, with the weights it was computed at"
        remedy = "Compute the posterior again."
        raise ValueError(message("problem", contract, repr(problem), remedy))
    problem = problem.promoted()
    V, delta = posterior.directions, posterior.prior_precision
    means, blocks, slacks, roots = [], [], [], []
    for outputs, J_MKP in _jacobians(problem, inputs):
        m, width = J_MKP.shape[:2]
        J = J_MKP.reshape(m * width, -1)
        inside = J @ V.T
        outside = J - inside @ V
        outside = outside - (outside @ V.T) @ V
        along = inside * posterior.variances.sqrt()
        means.append(outputs)
        A, B = along.view(m, width, -1), outside.view(m, width, -1)
        beyond = B @ B.mT
        blocks.append(A @ A.mT + beyond / delta)
        slacks.append(_slack(posterior) * torch.linalg.matrix_norm(beyond, 2))
        if joint:
            roots.append(torch.cat([along, outside / math.sqrt(delta)], dim=1))
    root = torch.cat(roots) if joint else None
    return Predictive(
        of=posterior.of,
        cost=Cost(seconds=time.perf_counter() - began),
        settings={"joint": joint},
        notes=posterior.notes,
        mean=torch.cat(means),
        covariance=torch.cat(blocks),
        covariance_slack=torch.cat(slacks),
        noise_variance=posterior.noise_variance or 0.0,
        joint_covariance=None if root is None else root @ root.T,
    )


def _slack(posterior: LaplacePosterior) -> float:
    """Return how much of the variance beyond the stored directions may not be there."""
    bound, delta = posterior.left_out_bound, posterior.prior_precision
    return bound / (bound + delta) / delta


def _jacobians(problem: Problem, inputs: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield outputs ``(m, K)`` and their Jacobians ``(m, K, P)``, some inputs at a time."""
    whole = _as_batch(problem, inputs)
    n = whole.num_samples
    # Batched backward passes lose on convolutions on the CPU.
    vectorised = not (problem.network.has_convolutions and problem.device.type == "cpu")
    count = max(1, n // _GROUP)
    for start, stop in pairwise([i * n // count for i in range(count + 1)]):
        part = whole.part(start, stop)
        leaves, parameters = problem.leaves()
        with problem.network.running(), torch.enable_grad():
            outputs = problem.outputs(part, parameters).reshape(stop - start, -1)
            seeds = torch.eye(outputs.numel()).to(outputs).view(-1, *outputs.shape)
            try:
                grads = pullback((outputs,), leaves, (seeds,), vectorised=vectorised)
            except (RuntimeError, NotImplementedError):
                # Some layers have no batching rule; row by row always works.
                vectorised = False
                grads = pullback((outputs,), leaves, (seeds,), vectorised=False)
        J = problem.layout.join(grads).detach().cpu()
        yield outputs.detach().cpu(), J.view(*outputs.shape, -1)


def _as_batch(problem: Problem, inputs: Any) -> Batch:
    def place(leaf: Any) -> Any:
        leaf = torch.as_tensor(leaf) if isinstance(leaf, np.ndarray) else leaf
        if not isinstance(leaf, Tensor):
            return leaf
        dtype = problem.dtype if leaf.is_floating_point() else leaf.dtype
        return leaf.detach().to(device=problem.device, dtype=dtype)

    inputs = dict(inputs) if isinstance(inputs, Mapping) else inputs
    batch = Batch(0, tree_map(place, inputs), None)
    if batch.num_samples == 0:
        raise ValueError(message("inputs", "hold one sample or more", "none"))
    return batch
