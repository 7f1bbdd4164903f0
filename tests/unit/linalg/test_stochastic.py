import dataclasses
import math
import sys

import numpy as np
import pytest
import torch

from curvescope._core import memory
from curvescope._core.checkpoint import Checkpoint
from curvescope.linalg import (
    density_from_nodes,
    diagonal,
    effective_dimension_from_density,
    frobenius_norm,
    lanczos,
    logdet,
    merge,
    slq,
    spectral_density,
    trace,
)
from curvescope.linop import FunctionOperator
from curvescope.results import load
from curvescope.testing.matrices import counting, matrix_with_spectrum


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _network_like(n=120):
    bulk = torch.rand(n - 5, generator=_generator(5), dtype=torch.float64) ** 4 / 2
    return torch.cat([torch.tensor([30.0, 12, 8, 5, 3]).double(), bulk])


SPECTRA = {
    "network": _network_like(),
    "power law": 1.0 / torch.arange(1, 121).double(),
    "indefinite": torch.cat([_network_like()[:60], -2 * _network_like()[60:]]),
    "one outlier": torch.cat(
        [torch.tensor([100.0]), torch.full((119,), 0.01)]
    ).double(),
}
SEEDS = 200


def _matrix(name, dtype=torch.float64):
    return matrix_with_spectrum(SPECTRA[name], generator=_generator(77), dtype=dtype)


def _assert_nominal(covered, *, upper=0.99):
    """A 95 % interval is asked to cover in 90 to 99 % of the seeds."""
    share = np.asarray(covered) / SEEDS
    # Three standard deviations of 200 draws around the ends of that range.
    assert (share >= 0.90 - 3 * math.sqrt(0.9 * 0.1 / SEEDS) / 2).all(), share
    assert (share <= upper + 1e-9).all(), share


def _coverage(estimate, truth):
    covered = 0
    for seed in range(SEEDS):
        low, high = estimate(_generator(1000 + seed)).interval()
        covered += low <= truth <= high
    return covered


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("method", ["hutchinson", "hutch++", "xtrace"])
def test_intervals_of_the_trace_cover(name, method):
    A, truth = _matrix(name), float(SPECTRA[name].sum())

    def estimate(generator):
        return trace(A, method=method, num_matvecs=36, generator=generator)

    _assert_nominal(_coverage(estimate, truth), upper=0.995)


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("num_probes", [5, 20])
def test_intervals_of_the_frobenius_norm_cover(name, num_probes):
    A, truth = _matrix(name), float(SPECTRA[name].norm())

    def estimate(generator):
        return frobenius_norm(A, num_probes=num_probes, generator=generator)

    _assert_nominal(_coverage(estimate, truth))


def _independent_quadratures(A, num_probes):
    """Draw 100 probes at once, and hand them out in groups."""
    for seed in range(SEEDS * num_probes // 100):
        many = slq(A, num_probes=100, num_steps=40, generator=_generator(seed))
        for start in range(0, 100, num_probes):
            rows = slice(start, start + num_probes)
            yield dataclasses.replace(
                many, nodes=many.nodes[rows], weights=many.weights[rows]
            )


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("num_probes", [5, pytest.param(10, marks=pytest.mark.slow)])
def test_bands_of_density_and_effective_dimension_cover_the_exact_curves(
    name, num_probes
):
    spectrum = SPECTRA[name]
    A = _matrix(name)
    z = torch.tensor([1e-3, 1e-2, 1e-1, 1.0]).double() * spectrum.abs().max()
    grid = torch.linspace(float(spectrum.min()), float(spectrum.max()), 12)
    clipped = spectrum.clamp_min(0.0)[:, None]
    true_curve = (clipped / (clipped + z)).sum(dim=0)
    curve_hits, density_hits = np.zeros(4), np.zeros(12)

    for nodes in _independent_quadratures(A, num_probes):
        low, high = effective_dimension_from_density(nodes, z=z).band()
        curve_hits += ((low <= true_curve) & (true_curve <= high)).numpy()
        width = 0.02 * float(spectrum.max() - spectrum.min())
        density = density_from_nodes(nodes, grid=grid, width=width)
        low, high = density.band()
        kernel = torch.exp(-0.5 * ((density.grid[:, None] - spectrum) / width) ** 2)
        exact = kernel.mean(dim=1) / (width * math.sqrt(2 * math.pi))
        # Where there is no eigenvalue near, both are zero up to rounding.
        empty = exact < 1e-12
        density_hits += ((low <= exact) & (exact <= high) & ~empty).numpy()

    _assert_nominal(curve_hits)
    _assert_nominal(density_hits[~empty.numpy()], upper=0.995)


@pytest.mark.parametrize("method", ["hutchinson", "hutch++", "xtrace"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_trace_estimate_counts_its_products_and_is_near(method, dtype):
    counted = counting(_matrix("network", dtype))

    result = trace(counted, method=method, num_matvecs=60)

    assert counted.num_matvecs == result.cost.num_matvecs <= 60
    truth = float(SPECTRA["network"].sum())
    assert abs(result.value - truth) <= 5 * result.standard_error


@pytest.mark.parametrize("method", ["hutch++", "xtrace"])
def test_a_low_rank_trace_is_exact_once_the_range_is_spanned(method):
    spectrum = torch.zeros(100).double()
    spectrum[:4] = torch.tensor([5.0, 3.0, -2.0, 1.0])
    A = matrix_with_spectrum(spectrum)

    result = trace(A, method=method, num_matvecs=36)

    assert abs(result.value - 7.0) < 1e-10
    assert result.standard_error < 1e-10


@pytest.mark.parametrize("method", ["hutchinson", "hutch++", "xtrace"])
def test_the_zero_operator_has_trace_zero(method):
    result = trace(torch.zeros(90, 90), method=method, num_matvecs=24)

    assert (result.value, result.standard_error) == (0.0, 0.0)


def test_variance_reduction_pays_on_a_decaying_spectrum():
    A, truth = _matrix("network"), float(SPECTRA["network"].sum())

    def error(method):
        values = [
            trace(A, method=method, num_matvecs=60, generator=_generator(s)).value
            for s in range(30)
        ]
        return np.median(np.abs(np.array(values) - truth))

    assert error("xtrace") < error("hutchinson") / 3
    assert error("hutch++") < error("hutchinson") / 2


def test_hutchinson_also_takes_matrices_that_are_not_symmetric():
    matrix = torch.randn(80, 80, generator=_generator(), dtype=torch.float64)

    result = trace(matrix, method="hutchinson", num_matvecs=60)

    assert abs(result.value - float(matrix.trace())) <= 4 * result.standard_error
    with pytest.raises(ValueError, match="be symmetric for xtrace"):
        trace(matrix, num_matvecs=20)


@pytest.mark.parametrize(
    ("call", "truth"),
    [
        (lambda A: trace(A, num_matvecs=120), lambda s: s.sum()),
        (lambda A: frobenius_norm(A, num_probes=120), lambda s: s.norm()),
        (
            lambda A: logdet(A, damping=0.5, num_probes=120),
            lambda s: (s + 0.5).log().sum(),
        ),
    ],
)
def test_as_many_probes_as_dimensions_give_the_exact_value(call, truth):
    counted = counting(_matrix("power law"))

    result = call(counted)

    assert result.method == "exact"
    assert result.standard_error == 0.0
    assert result.value == pytest.approx(float(truth(SPECTRA["power law"])), rel=1e-10)
    assert counted.num_matvecs == result.cost.num_matvecs == 120


def test_the_diagonal_has_an_error_at_each_entry():
    A = _matrix("network")

    result = diagonal(A, num_probes=60)
    exact = diagonal(A, num_probes=120)

    deviation = (result.values - A.diagonal()).abs() / result.standard_errors
    assert float((deviation < 2.0).double().mean()) > 0.88
    torch.testing.assert_close(exact.values, A.diagonal())
    assert exact.method == "exact"


def test_blocks_narrower_than_the_probes_give_the_same_estimate():
    matrix = _matrix("network")
    narrow = FunctionOperator(
        lambda V: matrix @ V, 120, dtype=torch.float64, symmetric=True, block_size=7
    )
    for call in (
        lambda A: diagonal(A, num_probes=20).standard_errors,
        lambda A: frobenius_norm(A, num_probes=20).samples,
    ):
        generatorless = call(matrix)
        assert call(narrow).shape == generatorless.shape
    torch.testing.assert_close(
        frobenius_norm(narrow, num_probes=20).samples,
        frobenius_norm(matrix, num_probes=20).samples,
    )


def test_the_frobenius_norm_of_a_rectangular_operator_is_estimated():
    J = torch.randn(30, 200, generator=_generator(), dtype=torch.float64)

    result = frobenius_norm(J, num_probes=100)

    assert abs(result.value - float(J.norm())) < 5 * result.standard_error


def test_logdet_covers_the_exact_value():
    A = _matrix("power law")
    truth = float((SPECTRA["power law"] + 0.1).log().sum())

    def estimate(generator):
        return logdet(A, damping=0.1, num_probes=8, num_steps=15, generator=generator)

    _assert_nominal(_coverage(estimate, truth))


def test_logdet_refuses_what_is_not_positive_definite():
    with pytest.raises(ValueError, match="make the matrix positive definite"):
        logdet(_matrix("indefinite"), damping=0.1)
    with pytest.raises(ValueError, match="larger damping"):
        logdet(torch.diag(torch.tensor([*[1.0] * 50, *[0.0] * 50])), damping=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quadrature_weights_sum_to_one_and_moments_are_those_of_the_matrix(dtype):
    A = _matrix("indefinite", dtype)

    result = slq(A, num_probes=60, num_steps=20)

    nodes = torch.where(result.weights > 0, result.nodes, 0.0)
    first = 120 * (result.weights * nodes).sum(dim=1)
    second = 120 * (result.weights * nodes**2).sum(dim=1)
    torch.testing.assert_close(
        result.weights.sum(dim=1), torch.ones(60, dtype=torch.float64)
    )
    for moments, power in ((first, 1), (second, 2)):
        truth = float((SPECTRA["indefinite"] ** power).sum())
        error = float(moments.std()) / math.sqrt(60)
        assert abs(float(moments.mean()) - truth) < 4 * error


def test_lockstep_products_are_blocks_and_are_counted():
    counted = counting(_matrix("network"))

    result = slq(counted, num_probes=6, num_steps=15)

    assert counted.num_calls == 15
    assert counted.num_matvecs == result.cost.num_matvecs == 90


def test_each_probe_equals_its_own_lanczos():
    A = _matrix("network")
    result = slq(A, num_probes=3, num_steps=12)
    probes = torch.randn(3, 120, generator=_generator(20200720), dtype=torch.float64)

    for i in range(3):
        alone = lanczos(A, 12, start=probes[i])
        torch.testing.assert_close(
            result.nodes[i].flip(0), alone.eigenvalues, rtol=1e-9, atol=1e-11
        )


def test_many_steps_make_no_ghosts():
    spectrum = torch.cat([torch.tensor([50.0, 20, 10]), torch.linspace(0, 1, 197)])
    result = slq(matrix_with_spectrum(spectrum), num_probes=2, num_steps=120)

    for planted in (50.0, 20.0, 10.0):
        near = (result.nodes - planted).abs() < 1e-3
        assert near.sum(dim=1).tolist() == [1, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_rank_deficient_matrix_ends_early_with_a_spike_at_zero(dtype):
    spectrum = torch.zeros(200, dtype=torch.float64)
    spectrum[:3] = torch.tensor([5.0, 2.0, -1.0])
    A = matrix_with_spectrum(spectrum, dtype=dtype)

    result = slq(A, num_probes=4, num_steps=20)

    used = result.weights > 1e-12
    assert (used.sum(dim=1) == 4).all()
    assert float(result.weights[result.nodes.abs() < 1e-4].sum()) / 4 > 0.9
    density = density_from_nodes(result)
    assert float(torch.trapezoid(density.density, density.grid)) == pytest.approx(
        1.0, abs=1e-3
    )


def test_the_zero_operator_has_all_weight_at_zero():
    density = spectral_density(torch.zeros(100, 100), num_probes=2, num_steps=10)

    used = density.weights > 0
    assert (density.nodes[used] == 0).all()
    assert density.nodes.isnan().any()
    assert torch.isfinite(density.density).all()


@pytest.mark.parametrize("axis", ["linear", "signed-log"])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_density_integrates_to_one_at_any_scale(axis, scale):
    density = spectral_density(_matrix("indefinite") * scale, axis=axis, num_probes=4)

    x = density.grid
    if axis == "signed-log":
        x = torch.asinh(x / density.linear_threshold)
    assert float(torch.trapezoid(density.density, x)) == pytest.approx(1.0, abs=1e-3)
    reference = spectral_density(_matrix("indefinite"), axis=axis, num_probes=4)
    torch.testing.assert_close(
        density.grid / scale, reference.grid, rtol=1e-6, atol=1e-9
    )


def test_smoothing_again_takes_no_products_and_says_what_steps_left():
    counted = counting(_matrix("network"))
    density = spectral_density(counted, num_probes=4, num_steps=30)
    before = counted.num_matvecs

    wide = density_from_nodes(density, width=10 * density.width)
    same = density_from_nodes(
        density, width=density.width, grid=density.grid, axis="linear"
    )

    assert counted.num_matvecs == before
    assert wide.quadrature_error < density.quadrature_error
    torch.testing.assert_close(same.density, density.density)


def test_fewer_steps_follow_from_more_without_products():
    A = _matrix("power law")
    many = density_from_nodes(slq(A, num_probes=3, num_steps=16), width=0.1)
    few = density_from_nodes(
        slq(A, num_probes=3, num_steps=14), grid=many.grid, width=0.1
    )

    change = float((many.density - few.density).abs().max())
    assert many.quadrature_error == pytest.approx(change, rel=1e-6)


def test_densities_of_different_seeds_merge():
    A = _matrix("network")
    one, other = (
        spectral_density(A, num_probes=4, num_steps=s, generator=_generator(s))
        for s in (20, 25)
    )

    joint = merge(one, other)

    assert joint.nodes.shape == (8, 20)
    assert joint.settings["num_steps"] == 20
    assert joint.notes[-1] == "probes of 25 steps were cut to the others' 20"
    assert joint.cost.num_matvecs == 4 * 45
    short = spectral_density(
        A, num_probes=4, num_steps=20, generator=_generator(25), grid=one.grid
    )
    short = density_from_nodes(short, width=one.width, grid=one.grid)
    torch.testing.assert_close(joint.density, (one.density + short.density) / 2)
    assert merge(joint, spectral_density(A, generator=_generator(3))).settings[
        "seed"
    ] == [20, 25, 3]
    with pytest.raises(ValueError, match="come from another seed"):
        merge(joint, other)
    with pytest.raises(ValueError, match="be of the same"):
        merge(one, spectral_density(torch.eye(50)))


def test_as_many_probes_as_dimensions_give_the_exact_density():
    A = matrix_with_spectrum([1.0, 2.0, 4.0])

    density = spectral_density(A, num_probes=3)

    torch.testing.assert_close(density.nodes[0], torch.tensor([1.0, 2, 4]).double())
    assert (density.standard_error == 0).all()
    assert torch.equal(density.band()[0], density.density)


def test_no_errors_are_estimated_of_an_exact_density(monkeypatch):
    # They would take a loop over the columns, for n eigenvalues of order n^3.
    module = sys.modules["curvescope.linalg.density"]
    monkeypatch.setattr(module, "density_errors", None)

    density = spectral_density(matrix_with_spectrum([1.0, 2.0, 4.0]), num_probes=3)

    assert density.distance == density.step_distance == density.quadrature_error == 0.0


def test_a_density_saves_and_loads(tmp_path):
    density = spectral_density(_matrix("network"), num_probes=3, num_steps=10)

    density.save(tmp_path, "density")
    again = load(tmp_path, "density")

    torch.testing.assert_close(again.density, density.density)
    assert again.degrees_of_freedom == density.degrees_of_freedom


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"axis": "log"}, "`axis` must be one of"),
        ({"width": 0.0}, "`width` must be above 0"),
        ({"num_probes": 1}, "`num_probes` must be at least 2"),
        ({"num_steps": 0}, "`num_steps` must be at least 1"),
        ({"grid": torch.tensor([1.0, 0.0])}, "`grid` must be finite and ascending"),
    ],
)
def test_wrong_arguments_of_a_density_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        spectral_density(_matrix("network"), **arguments)


def test_probes_go_in_groups_where_memory_is_short(monkeypatch):
    A = _matrix("network")
    whole = slq(A, num_probes=5, num_steps=10)
    vector = 120 * 8
    monkeypatch.setattr(
        memory, "available_memory", lambda d: int(2.5 * 14 * vector / 0.6)
    )

    grouped = slq(A, num_probes=5, num_steps=10)

    assert any("groups of 2" in note for note in grouped.notes)
    torch.testing.assert_close(grouped.nodes, whole.nodes)
    monkeypatch.setattr(memory, "available_memory", lambda d: 5 * vector)
    with pytest.raises(ValueError, match="let one probe's basis fit"):
        slq(A, num_probes=5, num_steps=10)


class _KilledError(Exception):
    pass


@pytest.mark.parametrize("group", [4, 2])
def test_a_killed_density_goes_on_to_the_same_bits(tmp_path, monkeypatch, group):
    matrix = _matrix("network")
    room = int((group + 0.5) * 12 * 120 * 8 / 0.6)
    monkeypatch.setattr(memory, "available_memory", lambda d: room)
    done = [0, None]

    def product(V):
        if done[1] is not None and done[0] + V.shape[1] > done[1]:
            raise _KilledError
        done[0] += V.shape[1]
        return matrix @ V

    A = FunctionOperator(product, 120, dtype=torch.float64, symmetric=True)
    arguments = {"num_probes": 4, "num_steps": 8}
    whole = spectral_density(A, **arguments)

    for killed_after in range(group, 32, group):
        done[:] = [0, killed_after]
        folder = tmp_path / str(killed_after)
        with pytest.raises(_KilledError):
            spectral_density(A, checkpoint=Checkpoint(folder, "k", np.inf), **arguments)
        done[1] = None
        resumed = spectral_density(
            A, checkpoint=Checkpoint(folder, "k", np.inf), **arguments
        )

        assert torch.equal(resumed.nodes, whole.nodes)
        assert torch.equal(resumed.weights, whole.weights)
        assert resumed.cost.num_matvecs == done[0] == 32
