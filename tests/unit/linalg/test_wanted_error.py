"""Numbers of probes and steps that follow from a wanted error, against known spectra."""

import math
import sys

import numpy as np
import pytest
import torch

from curvescope._core.checkpoint import Checkpoint
from curvescope.linalg import (
    density_from_nodes,
    effective_dimension,
    effective_dimension_from_density,
    frobenius_norm,
    merge,
    slq,
    spectral_density,
    trace,
)
from curvescope.linop import FunctionOperator
from curvescope.testing.matrices import counting, matrix_with_spectrum

N = 900
NOISE = np.random.default_rng(0)
SPECTRA = {
    "flat": np.linspace(-1.0, 1.0, N),
    "semicircle": np.cos(np.pi * (np.arange(N) + 0.5) / N),
    "network": np.r_[
        np.linspace(3, 9, 10),
        NOISE.exponential(0.3, N - 10) * NOISE.choice([-1, 1, 1], N - 10),
    ],
    "logarithmic": np.logspace(-6, 0, N),
    "plateaus": np.r_[np.zeros(N // 2), np.ones(N // 4), np.full(N - 3 * N // 4, 3.0)],
    "normal": NOISE.standard_normal(N),
}


def operator(values):
    """Return a counted operator with these eigenvalues."""
    d = torch.tensor(values)
    return counting(
        FunctionOperator(
            lambda V: d[:, None] * V, len(d), dtype=d.dtype, symmetric=True
        )
    )


def seeded(seed):
    """Return a generator of its own."""
    return torch.Generator().manual_seed(seed)


def distance(result, values):
    """Return the Wasserstein-1 distance to a known spectrum, over its range, by SciPy."""
    from scipy.stats import wasserstein_distance

    used = result.weights > 0
    found = wasserstein_distance(
        result.nodes[used].numpy(), values, result.weights[used].numpy()
    )
    return found / (values.max() - values.min())


@pytest.mark.parametrize("error", [0.05, 0.02])
@pytest.mark.parametrize("name", SPECTRA)
def test_the_true_distance_is_below_the_wanted_one(name, error):
    values, seeds = SPECTRA[name], 10
    good = 0

    for seed in range(seeds):
        counted = operator(values)
        result = spectral_density(counted, error=error, generator=seeded(seed))
        good += distance(result, values) <= error
        assert result.distance <= error
        assert counted.num_matvecs == result.cost.num_matvecs
        assert result.notes == () or "steps" in result.notes[0]

    # 95 % each: fewer than 8 of 10 come with a probability of 1 %.
    assert good >= 8


@pytest.mark.parametrize("name", SPECTRA)
def test_few_products_are_wasted_against_the_best_fixed_choice(name):
    values, error = SPECTRA[name], 0.03
    chosen = [
        spectral_density(operator(values), error=error, generator=seeded(s))
        for s in range(5)
    ]
    spent = sorted(d.cost.num_matvecs for d in chosen)[2]

    def good_enough(probes, steps):
        found = [
            slq(
                operator(values),
                num_probes=probes,
                num_steps=steps,
                generator=seeded(100 + s),
            )
            for s in range(8)
        ]
        return sum(distance(q, values) <= error for q in found) >= 7

    # Choices that cost a fourth of ours do not reach the error, or a few products do.
    smaller = [(p, s) for p in (2, 3, 5) for s in (5, 8, 12, 18, 27)]
    smaller = [(p, s) for p, s in smaller if 4.0 * p * s < spent]
    assert spent <= 40 or not any(good_enough(p, s) for p, s in smaller)


@pytest.mark.slow
def test_the_stated_distance_of_given_numbers_covers_too():
    for name, values in SPECTRA.items():
        for probes, steps in ((2, 12), (6, 30)):
            found = [
                spectral_density(
                    operator(values),
                    num_probes=probes,
                    num_steps=steps,
                    generator=seeded(s),
                )
                for s in range(10)
            ]
            good = sum(distance(d, values) <= d.distance for d in found)
            assert good >= 8, (name, probes, steps)


def test_a_density_merged_with_one_of_fewer_steps_claims_no_less_than_its_error():
    values = SPECTRA["semicircle"]
    few, many = (
        spectral_density(
            operator(values), num_probes=4, num_steps=steps, generator=seeded(steps)
        )
        for steps in (4, 40)
    )

    for joint in (merge(few, many), merge(many, few)):
        assert distance(joint, values) <= joint.distance
        curve = effective_dimension_from_density(joint, z=0.01)
        terms = np.maximum(values, 0.0)
        assert curve.band()[0] <= (terms / (terms + 0.01)).sum() <= curve.band()[1]


def test_a_small_matrix_is_diagonalised_where_probes_would_cost_more():
    matrix = matrix_with_spectrum(torch.linspace(-1, 2, 200))
    counted = counting(matrix)

    result = spectral_density(counted, error=1e-3)

    assert result.distance == 0.0
    assert result.settings["method"].startswith("dense")
    np.testing.assert_allclose(
        result.nodes[0], np.linalg.eigvalsh(matrix.numpy()), atol=1e-12
    )
    assert counted.num_matvecs == result.cost.num_matvecs <= 2 * 200


def test_products_run_out_with_a_note_and_an_honest_distance():
    values = SPECTRA["flat"]
    counted = operator(values)

    result = spectral_density(counted, error=1e-3, max_matvecs=120)

    assert counted.num_matvecs <= 120
    assert result.distance > 1e-3
    assert distance(result, values) <= result.distance
    assert any(
        "not 0.001" in note and "of at most 120" in note for note in result.notes
    )


def test_an_invariant_space_needs_no_more_steps():
    values = SPECTRA["plateaus"]

    result = spectral_density(operator(values), error=0.05)

    # Three eigenvalues make spaces of three vectors.
    assert result.step_distance <= 1e-12
    assert result.cost.num_matvecs <= 2 * 4 * result.nodes.shape[0]


@pytest.mark.parametrize("scale", [2.0**-80, 2.0**80])
def test_the_scale_of_the_matrix_changes_no_choice(scale):
    values = SPECTRA["network"]

    one = spectral_density(operator(values), error=0.01)
    other = spectral_density(operator(values * scale), error=0.01)

    assert other.nodes.shape == one.nodes.shape
    assert other.distance == pytest.approx(one.distance)


class _KilledError(Exception):
    pass


def test_a_killed_run_goes_on_to_the_same_bits_and_the_same_products(tmp_path):
    d = torch.tensor(SPECTRA["network"])
    done = [0, math.inf]

    def product(V):
        if done[0] + V.shape[1] > done[1]:
            raise _KilledError
        done[0] += V.shape[1]
        return d[:, None] * V

    A = FunctionOperator(product, N, dtype=d.dtype, symmetric=True)
    whole = spectral_density(A, error=0.015)
    total = done[0]
    assert total == whole.cost.num_matvecs

    for killed_after in range(1, total, max(1, total // 6)):
        place = tmp_path / str(killed_after)
        done[:] = [0, killed_after]
        with pytest.raises(_KilledError):
            spectral_density(
                A, error=0.015, checkpoint=Checkpoint(place, "key", budget=math.inf)
            )
        done[1] = math.inf
        resumed = spectral_density(
            A, error=0.015, checkpoint=Checkpoint(place, "key", budget=math.inf)
        )

        assert torch.equal(resumed.nodes, whole.nodes)
        assert torch.equal(resumed.weights, whole.weights)
        assert resumed.cost.num_matvecs == done[0] == total


POSITIVE = {
    "network": np.r_[[50.0, 20.0, 10.0], NOISE.uniform(0, 0.3, 700)],
    "harmonic": 1.0 / np.arange(1.0, 704.0),
    "flat": np.linspace(0.5, 1.0, 703),
}


@pytest.mark.parametrize(
    ("quantity", "error"),
    [("xtrace", 0.02), ("hutchinson", 0.05), ("norm", 0.1), ("dimension", 0.1)],
)
@pytest.mark.parametrize("name", POSITIVE)
def test_wanted_errors_of_numbers_are_kept(quantity, error, name):
    values, seeds, z = POSITIVE[name], 10, 0.05
    true = {
        "norm": np.linalg.norm(values),
        "dimension": (values / (values + z)).sum(),
    }.get(quantity, values.sum())
    good = 0

    for seed in range(seeds):
        counted, generator = operator(values), seeded(seed)
        if quantity == "norm":
            result = frobenius_norm(counted, error=error, generator=generator)
        elif quantity == "dimension":
            result = effective_dimension(
                counted, z=z, method="slq", error=error, generator=generator
            )
        else:
            result = trace(counted, method=quantity, error=error, generator=generator)
        good += abs(result.value / true - 1.0) <= error
        assert counted.num_matvecs == result.cost.num_matvecs

    # 95 % each: fewer than 8 of 10 come with a probability of 1 %.
    assert good >= 8


def test_traces_that_run_out_of_products_say_so():
    values = POSITIVE["harmonic"]

    for result in (
        trace(operator(values), error=1e-6, max_matvecs=40),
        frobenius_norm(operator(values), error=1e-6, max_matvecs=40),
    ):
        assert result.cost.num_matvecs <= 40
        assert "not 1e-06" in result.notes[0]


@pytest.mark.parametrize("method", ["xtrace", "hutchinson"])
@pytest.mark.parametrize(
    ("n", "limit"), [(9, 10), (12, 16), (20, 39), (20, 40), (100, 200), (100, 250)]
)
def test_a_trace_that_probes_cannot_give_is_summed_where_columns_can_be_paid(
    n, limit, method
):
    A = torch.randn(n, n, generator=seeded(n), dtype=torch.float64)
    counted = counting(A + A.T)

    result = trace(counted, method=method, error=1e-6, max_matvecs=limit)

    assert result.method == "exact"
    assert counted.num_matvecs == result.cost.num_matvecs <= limit
    assert result.value == pytest.approx(2.0 * np.trace(A.numpy()), rel=1e-12)
    assert result.notes == ()


@pytest.mark.parametrize(("n", "limit"), [(20, 60), (30, 400)])
def test_xtrace_never_takes_as_many_probes_as_dimensions(n, limit, monkeypatch):
    """Even one probe more at a time, where all columns never look cheaper."""
    module = sys.modules["curvescope.linalg.trace"]
    monkeypatch.setattr(module, "next_count", lambda *_: 1)
    A = torch.randn(n, n, generator=seeded(n), dtype=torch.float64)
    A = A + A.T

    result = trace(A, error=1e-6, max_matvecs=limit)

    assert len(result.samples) == n - 1
    assert "not 1e-06" in result.notes[-1]
    low, high = result.interval()
    assert low <= np.trace(A.numpy()) <= high


def test_probes_that_come_later_are_as_good_as_those_at_once():
    """XTrace of the same probes, whether they came in one block or in three."""
    from curvescope.linalg._session import Session
    from curvescope.linalg._xtrace import XTrace

    A = operator(POSITIVE["harmonic"])
    with Session(A, "trace", total=None) as session:
        once, thrice = XTrace(session, seeded(0)), XTrace(session, seeded(0))
        once.add(12)
        for count in (5, 4, 3):
            thrice.add(count)
        # The same probes: the draws of a block are rows of coordinates.
        thrice.Omega, thrice.Y = once.Omega, once.Y
        Q = torch.linalg.qr(once.Y).Q
        thrice.Q, thrice.AQ = Q, session.product(Q)
        value, error, _ = thrice.estimate()

        assert once.estimate()[0] == pytest.approx(value, rel=1e-12)
        assert once.estimate()[1] == pytest.approx(error, rel=1e-9)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda A: spectral_density(A, error=0.0), "`error` must be above 0"),
        (
            lambda A: spectral_density(A, error=0.1, num_probes=4),
            "`num_probes` must be left out",
        ),
        (lambda A: trace(A, error=0.1, num_matvecs=9), "`num_matvecs` must be left"),
        (lambda A: trace(A, error=0.1, max_matvecs=3), "`max_matvecs` must be at lea"),
        (lambda A: trace(A, error=0.1, method="hutch++"), "`method` must take an err"),
        (
            lambda A: effective_dimension(A, z=1.0, error=0.1, num_steps=4),
            "`num_steps` must be left out",
        ),
    ],
)
def test_wrong_arguments_are_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call(torch.eye(901))


def test_smoothing_again_keeps_the_distance():
    density = spectral_density(operator(SPECTRA["normal"]), error=0.02)

    again = density_from_nodes(density, width=0.5)

    assert again.distance == density.distance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "rank"), [(200, 40), (100, 40), (300, 21), (400, 150)])
def test_the_trace_of_a_rank_deficient_matrix_is_exact_once_its_range_is_spanned(
    n, rank, dtype
):
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        J = torch.randn(rank, n, generator=generator, dtype=torch.float64)
        A = (J.T @ J / n).to(dtype)

        found = trace(A, error=1e-3, max_matvecs=n - 1, generator=generator)

        truth = float(A.double().trace())
        low, high = found.interval()
        rounding = 50 * torch.finfo(dtype).eps * truth
        assert low - rounding <= truth <= high + rounding
        if 2 * rank < n:
            assert found.value == pytest.approx(truth, abs=rounding)
