"""What the page says about posteriors, predictions, evidence and identities."""

from collections.abc import Iterator

from curvescope.report.formatting import number
from curvescope.report.kind import Kind
from curvescope.results import (
    EvidenceFit,
    FunctionSpaceHomogeneity,
    IdentityTable,
    LaplacePosterior,
    LinearPosterior,
    PosteriorContraction,
    Predictive,
    Result,
)

POSTERIOR_READING = (
    "Each direction of the parameters has an eigenvalue: how much the data say of it. "
    "Where it is large against the prior's precision (dashed) the posterior's variance "
    "has left the prior's; the shaded area is how many directions are determined, the "
    "effective dimension."
)
PREDICTIVE_READING = (
    "The mean of the function at each input, with the 95 % interval of its posterior; "
    "the noise of a new observation is not in it. A classifier's values are logits."
)
EVIDENCE_READING = (
    "MacKay's updates move both variances to where the evidence, the probability of the "
    "targets with all coefficients integrated out, is largest. They need not rise at "
    "every step."
)
IDENTITIES_READING = (
    "Each line is one equation of the theory whose two sides were computed in different "
    "ways; the mark is how far apart they came out."
)
HOMOGENEITY_READING = (
    "In the null space of the Jacobian predictions on the data cannot change: at any "
    "step where the outputs are linear in the parameters, to first order for a network "
    "(a change with the square of the step). Random directions of the same length are "
    "the control."
)


def laplace_sureness(result: LaplacePosterior) -> str:
    """Say what of a Laplace posterior is exact, and what it stands for."""
    how = (
        "All eigenvalues are there, exact up to rounding in float64"
        if result.method == "exact"
        else f"{len(result.eigenvalues)} eigenpairs are stored; the other "
        f"{result.num_left_out:,} are at most {number(result.left_out_bound, digits=3)} "
        "each, and what they add stands in the intervals"
    )
    return (
        f"{how}. The posterior is that of the network's linearisation at the weights: "
        "it knows of no other mode."
    )


def laplace_warnings(result: LaplacePosterior) -> Iterator[str]:
    """Warn where the weights are no mode, in case the notes do not."""
    if result.newton_decrement > 1.0 and not any("mode" in n for n in result.notes):
        yield (
            f"the weights are {number(result.newton_decrement, digits=3)} nats from the "
            "mode that the formula takes them for"
        )


def linear_sureness(result: LinearPosterior) -> str:
    """Say how exact a linear posterior is."""
    error = number(result.rounding, digits=2)
    return f"Exact: a direction's share is right to {error}, which is rounding."


def predictive_sureness(result: Predictive) -> str:
    """Say whether variances are exact or upper bounds."""
    slack = (
        float(result.covariance_slack.max()) if len(result.covariance_slack) else 0.0
    )
    if slack == 0.0:
        return "Exact under the posterior, up to rounding."
    return (
        "Variances are upper bounds, since eigenpairs were left out: too high by at "
        f"most {number(slack, digits=2)}."
    )


def evidence_sureness(result: EvidenceFit) -> str:
    """Say whether the updates arrived."""
    off = number(result.stationarity, digits=2)
    if result.converged:
        return f"Converged: the evidence's relative derivative is {off}."
    return (
        f"NOT converged: the evidence's relative derivative is {off}. There may be no "
        "maximum inside."
    )


def contraction_sureness(result: PosteriorContraction) -> str:
    """Say whether a contraction's curves are exact, of a linearisation, or of samples."""
    if result.posterior == "nuts":
        r_hat = max(chain.weights_r_hat for chain in result.chains)
        size = min(chain.weights_sample_size for chain in result.chains)
        diverged = sum(chain.divergences for chain in result.chains)
        return (
            "Every number is of samples: few or dependent ones make a covariance's "
            "effective dimension too small, and the total of the variances they do not. "
            f"Largest R-hat of a weight {number(r_hat, digits=3)}, smallest effective "
            f"sample size {number(size, digits=3)}, {diverged} divergences."
        )
    if result.model == "linear":
        return "Each curve is exact for its draw."
    return (
        "Each curve is exact for its draw, of the posterior of the linearised network "
        "(Laplace)."
    )


def homogeneity_sureness(result: FunctionSpaceHomogeneity) -> str:
    """Say what the verdict rests on."""
    return (
        f"Measured in float64; changes below {number(result.tolerance, digits=2)} of the "
        f"outputs count as rounding. The rank {result.rank} of the Jacobian is numerical."
    )


KINDS: dict[type[Result], Kind] = {
    PosteriorContraction: Kind(
        title=lambda _: "How far the posterior has contracted",
        reading=lambda r: (
            "Every direction that the observations determine leaves the covariance of the "
            "parameters and enters the Hessian: the left curve falls from its value under "
            "the prior as the right one rises."
            + (
                ""
                if r.model == "linear"
                else " Of a network most directions stay as the prior has them."
            )
        ),
        sureness=lambda r: (
            f"Bands reach over {len(r.seeds)} draws. {contraction_sureness(r)}"
        ),
    ),
    LinearPosterior: Kind(
        title=lambda _: "Posterior of the linear model",
        reading=lambda _: POSTERIOR_READING,
        sureness=linear_sureness,
    ),
    LaplacePosterior: Kind(
        title=lambda _: "Linearised Laplace posterior",
        reading=lambda _: POSTERIOR_READING,
        sureness=laplace_sureness,
        warnings=laplace_warnings,
    ),
    Predictive: Kind(
        title=lambda _: "The function under the posterior",
        reading=lambda _: PREDICTIVE_READING,
        sureness=predictive_sureness,
    ),
    EvidenceFit: Kind(
        title=lambda _: "Variances of largest evidence",
        reading=lambda _: EVIDENCE_READING,
        sureness=evidence_sureness,
    ),
    IdentityTable: Kind(
        title=lambda _: "Identities of the linear model",
        reading=lambda _: IDENTITIES_READING,
        sureness=lambda _: (
            "Both sides are in float64; a difference of 1e-16 is one digit."
        ),
    ),
    FunctionSpaceHomogeneity: Kind(
        title=lambda r: f"Function-space homogeneity: {r.verdict}",
        reading=lambda _: HOMOGENEITY_READING,
        sureness=homogeneity_sureness,
    ),
}
