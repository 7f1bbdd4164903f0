"""Bounds of the effective dimension: by eigenpairs, and of the quadrature's own error."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curvescope.linalg import (
    dimension_bounds,
    effective_dimension,
    effective_dimension_from_density,
    eigsh,
    merge,
    slq,
    spectral_density,
    trace,
    with_bounds,
)
from curvescope.linalg.slq import from_below
from curvescope.linop import aslinearoperator
from curvescope.results import Eigenpairs, Provenance, load
from curvescope.testing.matrices import counting, matrix_with_spectrum


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def semidefinite(values):
    A = matrix_with_spectrum(torch.as_tensor(values).double(), generator=seeded(9))
    return aslinearoperator(A, positive_semidefinite=True)


def dense_sum(values, z, negative="clip"):
    x = np.asarray(values, dtype=np.float64)[:, None]
    x = np.abs(x) if negative == "abs" else np.clip(x, 0.0, None)
    return (x / (x + np.asarray(z))).sum(axis=0)


SPECTRA = {
    "eight decades": torch.logspace(-8, 0, 150).double(),
    "network": torch.cat(
        [torch.tensor([30.0, 9.0, 4.0]).double(), torch.logspace(-7, -1, 147).double()]
    ),
    "low rank": torch.cat(
        [torch.logspace(-3, 1, 40).double(), torch.zeros(110).double()]
    ),
}
PLACES = torch.logspace(-9, 1, 11).double()


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("num_steps", [1, 2, 5, 12])
def test_gauss_and_radau_bracket_every_probe_at_any_z(name, num_steps):
    A, n = semidefinite(SPECTRA[name]), 150
    whole = slq(A, num_probes=4, num_steps=n, generator=seeded(3))
    few = slq(A, num_probes=4, num_steps=num_steps, generator=seeded(3))

    def per_probe(nodes, weights):
        x = torch.where(weights > 0, nodes, 0.0)[..., None]
        return n * (weights[..., None] * x / (x + PLACES)).sum(dim=1)

    truth = per_probe(whole.nodes, whole.weights)
    above = per_probe(few.nodes, few.weights)
    below = per_probe(*from_below(few.nodes, few.weights, 0.0))

    # Down to what rounding makes of eigenvalues far below the largest one.
    assert bool((below[:, 2:] <= truth[:, 2:] + 1e-6).all())
    assert bool((truth[:, 2:] <= above[:, 2:] + 1e-6).all())


def test_a_radau_rule_has_its_node_and_the_moments_that_it_must():
    few = slq(semidefinite(SPECTRA["network"]), num_probes=3, num_steps=6)

    nodes, weights = from_below(few.nodes, few.weights, -0.25)

    assert nodes[:, 0] == pytest.approx(-0.25, abs=1e-9)
    for power in range(11):  # 2 s - 2 moments, of the Gauss rule's 2 s - 1
        gauss = (few.weights * few.nodes**power).sum(dim=1)
        radau = (weights * nodes**power).sum(dim=1)
        torch.testing.assert_close(radau, gauss, rtol=1e-8, atol=1e-12)


def test_rows_whose_krylov_space_ended_stay_exact():
    A = semidefinite(torch.cat([torch.ones(5), torch.zeros(45)]))
    found = slq(A, num_probes=3, num_steps=10)

    nodes, weights = from_below(found.nodes, found.weights, 0.0)

    torch.testing.assert_close(nodes, found.nodes, equal_nan=True)
    torch.testing.assert_close(weights, found.weights)


@pytest.mark.parametrize("name", SPECTRA)
def test_the_band_covers_far_below_what_the_steps_resolve(name):
    A, truth = semidefinite(SPECTRA[name]), dense_sum(SPECTRA[name], PLACES.numpy())
    hits, draws = np.zeros(len(PLACES)), 35
    many = slq(A, num_probes=4 * draws, num_steps=8, generator=seeded(1))

    for start in range(0, 4 * draws, 4):
        rows = slice(start, start + 4)
        part = type(many)(
            settings=many.settings,
            nodes=many.nodes[rows],
            weights=many.weights[rows],
            dimension=many.dimension,
        )
        curve = effective_dimension_from_density(part, z=PLACES)
        low, high = curve.band()
        assert curve.bracketed
        hits += (low.numpy() <= truth * (1 + 1e-9)) & (truth <= high.numpy() + 1e-6)

    # 95 % less three standard deviations of 35 draws.
    assert (hits / draws >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / draws)).all(), hits


def test_brackets_close_with_the_steps():
    A = semidefinite(SPECTRA["network"])
    widths = [
        float(
            effective_dimension(
                A, z=1e-2, method="slq", num_steps=steps
            ).quadrature_errors[0]
        )
        for steps in (4, 16, 64)
    ]

    assert widths[0] > 4 * widths[1] > 16 * widths[2]
    assert widths[2] < 0.05


def test_a_density_of_a_semidefinite_matrix_keeps_its_brackets():
    A = semidefinite(SPECTRA["network"])
    densities = [
        spectral_density(A, num_probes=3, num_steps=8, generator=seeded(s))
        for s in (0, 1)
    ]

    curve = effective_dimension_from_density(densities[0], z=1e-4)
    direct = effective_dimension(
        A, z=1e-4, method="slq", num_probes=3, num_steps=8, generator=seeded(0)
    )

    assert curve.bracketed
    assert curve.band() == direct.band()
    assert not effective_dimension_from_density(merge(*densities), z=1e-4).bracketed


def test_of_an_indefinite_matrix_the_error_of_the_steps_never_falls_with_z():
    values = torch.cat([SPECTRA["network"], -SPECTRA["network"][3:]])
    z = torch.logspace(-7, 1, 33).double()

    curve = effective_dimension(
        matrix_with_spectrum(values, generator=seeded(2)), z=z, num_steps=12
    )

    assert not curve.bracketed
    assert bool((curve.quadrature_errors.diff() <= 0).all())
    alone = effective_dimension(
        matrix_with_spectrum(values, generator=seeded(2)), z=float(z[7]), num_steps=12
    )
    # What stands beside in the curve plays no part, but for where it is looked at.
    assert float(alone.quadrature_errors) == pytest.approx(
        float(curve.quadrature_errors[7]), rel=0.1
    )


def by_hand(A, V, **options):
    """Eigenpairs as somebody might hold them: orthonormal vectors, true residuals."""
    values = np.einsum("ij,ij->j", V, A @ V)
    order = np.argsort(-values)
    V, values = V[:, order], values[order]
    return Eigenpairs(
        of=Provenance(num_params=len(A)),
        eigenvalues=torch.from_numpy(values),
        eigenvectors=torch.from_numpy(V),
        residual_norms=torch.from_numpy(np.linalg.norm(A @ V - V * values, axis=0)),
        converged=torch.ones(len(values), dtype=torch.bool),
        which="LA",
        tolerance=1e-8,
        norm=float(np.linalg.norm(A, 2)),
        **options,
    )


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    k=st.integers(1, 8),
    noise=st.sampled_from([0.0, 1e-6, 1e-2, 0.3, 10.0]),
    negative=st.sampled_from(["clip", "abs"]),
    indefinite=st.booleans(),
)
def test_the_lower_bound_holds_for_any_orthonormal_vectors(
    seed, k, noise, negative, indefinite
):
    rng = np.random.default_rng(seed)
    n = 12
    values = rng.exponential(1.0, n) ** 3 * np.where(
        indefinite & (rng.random(n) < 0.4), -1.0, 1.0
    )
    Q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    A = (Q * values) @ Q.T
    top = Q[:, np.argsort(-values)[:k]]
    V, _ = np.linalg.qr(top + noise * rng.standard_normal((n, k)))
    z = np.logspace(-3, 2, 6)

    bounds = dimension_bounds(by_hand(A, V), z=torch.from_numpy(z), negative=negative)

    truth = dense_sum(values, z, negative)
    assert (bounds.lower.numpy() <= truth + 1e-9).all()
    if noise == 0.0:  # then they are the top pairs
        if negative == "clip":
            assert (truth <= bounds.upper.numpy() + 1e-9).all()
        known = dense_sum(np.sort(values)[::-1][:k], z)
        if negative == "clip":
            np.testing.assert_allclose(bounds.lower, known, rtol=1e-6, atol=1e-9)


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), noise=st.sampled_from([0.0, 1e-5, 1e-3]))
def test_both_bounds_hold_for_nearly_converged_top_pairs(seed, noise):
    rng = np.random.default_rng(seed)
    values = np.sort(rng.exponential(1.0, 15) ** 3)[::-1]
    values[:4] += 5.0  # apart from the others, so that the pairs are the top ones
    Q, _ = np.linalg.qr(rng.standard_normal((15, 15)))
    A = (Q * values) @ Q.T
    V, _ = np.linalg.qr(Q[:, :4] + noise * rng.standard_normal((15, 4)))
    z = np.logspace(-3, 2, 6)
    total = trace(torch.from_numpy(A), num_matvecs=15)

    number = dimension_bounds(by_hand(A, V), z=torch.from_numpy(z))
    summed = dimension_bounds(
        by_hand(A, V), z=torch.from_numpy(z), trace=total, positive_semidefinite=True
    )

    truth = dense_sum(values, z)
    for bounds in (number, summed):
        assert (bounds.lower.numpy() <= truth + 1e-9).all()
        assert (truth <= bounds.upper.numpy() + 1e-9).all()
    assert bool((summed.upper <= number.upper).all())
    assert (number.upper_from, summed.upper_from) == ("number", "sum")


def test_pairs_that_did_not_converge_bound_from_below_only():
    A = np.diag(np.arange(10.0))
    pairs = by_hand(A, np.eye(10)[:, 7:])
    unsure = type(pairs)(
        **{
            **{f: getattr(pairs, f) for f in pairs.__dataclass_fields__},
            "converged": torch.tensor([True, True, False]),
        }
    )

    bounds = dimension_bounds(unsure, z=1.0)

    assert bounds.upper_from == "nothing"
    assert float(bounds.upper) > 7 + float(bounds.lower)


def test_one_call_gives_the_estimate_between_its_bounds():
    A = semidefinite(SPECTRA["network"])
    operator = counting(A)
    truth = dense_sum(SPECTRA["network"], [1e-2, 1.0])

    found = effective_dimension(
        operator, z=[1e-2, 1.0], method="slq", num_probes=4, num_steps=30, top=5
    )

    assert found.bounds.num_pairs == 5
    assert found.settings["top"] == 5
    assert found.cost.num_matvecs == operator.num_matvecs
    assert (found.bounds.lower.numpy() <= truth).all()
    assert (truth <= found.bounds.upper.numpy()).all()
    assert found.bounds.verdict.startswith("checked: at all 2 z")
    assert found.bounds.verdict in str(found)
    assert not any("checked" in note for note in found.notes)
    row = found.rows()[0]
    assert row["lower_bound"] == float(found.bounds.lower[0])
    assert row["upper_bound"] == float(found.bounds.upper[0])


def test_bounds_save_and_load_with_their_curve(tmp_path):
    found = effective_dimension(semidefinite(SPECTRA["low rank"]), z=[0.1, 1.0], top=3)

    found.save(tmp_path, "curve")

    assert str(load(tmp_path, "curve")) == str(found)
    found.bounds.save(tmp_path, "bounds")
    assert load(tmp_path, "bounds").rows() == found.bounds.rows()


def test_an_estimate_that_contradicts_its_bounds_says_so():
    values = SPECTRA["network"]
    curve = effective_dimension(values, z=[1e-2, 1.0])
    pairs = eigsh(semidefinite(100.0 * values), k=5, which="LA")

    wrong = with_bounds(curve, dimension_bounds(pairs, z=[1e-2, 1.0]))

    assert wrong.bounds.verdict.startswith("CONTRADICTION: at z = 1 ")
    assert wrong.notes[-1] == wrong.bounds.verdict


@pytest.mark.parametrize(
    ("A", "arguments", "match"),
    [
        (torch.eye(4), {"top": -1}, "`top` must be at least 1"),
        (torch.ones(4), {"top": 2}, "`top` must be 0 where eigenvalues are given"),
        (torch.eye(4), {"top": 2, "method": "factors"}, "`top` must be 0"),
        (torch.eye(4), {"top": 2, "negative": "keep"}, "`top` must be 0"),
    ],
)
def test_pairs_are_asked_only_where_they_say_something(A, arguments, match):
    with pytest.raises(ValueError, match=match):
        effective_dimension(A, z=1.0, **arguments)


def test_bounds_at_another_z_are_refused():
    pairs = eigsh(torch.eye(4), k=2)
    with pytest.raises(ValueError, match="`bounds` must be at the same z"):
        with_bounds(
            effective_dimension(torch.eye(4), z=1.0), dimension_bounds(pairs, z=2.0)
        )


def test_a_semidefinite_matrix_that_was_not_declared_so_keeps_its_coverage():
    """Few steps far below what they resolve: every rule is wrong there, alike."""
    values = torch.cat(
        [
            torch.tensor([60.0, 40, 30, 22, 15, 11, 9, 7]),
            torch.logspace(0.5, -6, 392),
        ]
    ).double()
    places = [1e-4, 1e-3, 1e-2]
    truth = torch.tensor(dense_sum(values, np.array(places)))
    hits, draws = torch.zeros(3), 40
    many = slq(torch.diag(values), num_probes=4 * draws, num_steps=15)

    for start in range(0, 4 * draws, 4):
        rows = slice(start, start + 4)
        part = type(many)(
            settings=many.settings,
            nodes=many.nodes[rows],
            weights=many.weights[rows],
            dimension=many.dimension,
        )
        low, high = effective_dimension_from_density(part, z=places).band()
        hits += ((low <= truth) & (truth <= high)).float()

    # 95 % less two standard deviations of 40 draws.
    assert (hits / draws >= 0.88).all(), hits


def test_only_a_z_that_the_steps_do_not_see_is_told_apart_by_a_note():
    values = torch.logspace(1, -6, 300).double()
    operator = aslinearoperator(torch.diag(values))

    def note(z):
        (text,) = effective_dimension(operator, z=z, method="slq", num_steps=12).notes
        return text

    assert "may be too narrow" in note(1e-6)
    assert "may be too narrow" not in note(0.05)
    assert "exceeds that of the probes" in note(0.05)


def test_a_band_that_few_steps_leave_wide_is_called_so_in_the_verdict():
    A = semidefinite(SPECTRA["network"])
    options = {"z": 1e-4, "method": "slq", "num_probes": 2, "top": 3}

    vague = effective_dimension(A, num_steps=3, **options)
    sharp = effective_dimension(A, num_steps=150, **options)

    assert vague.bounds.verdict.startswith("the interval says little: at z = 0.0001")
    assert "more steps" in vague.bounds.verdict
    assert vague.bounds.verdict in str(vague)
    assert sharp.bounds.verdict.startswith("checked")
    alone = replace(vague, bounds=None)
    assert "the interval says little" in str(alone)
    assert list(alone.rows()[0]) == [
        "z",
        "effective_dimension",
        "low_95",
        "high_95",
        "standard_error",
        "step_error",
    ]


@pytest.mark.parametrize("z", ["x", None, ["a"], torch.tensor(1j)])
def test_what_is_no_number_is_no_place(z):
    with pytest.raises(TypeError, match="`z` must be a real number or several"):
        effective_dimension(torch.eye(3), z=z)
