"""The effective dimension from nodes, factors and top eigenvalues."""

import numpy as np
import pytest
import torch

from curvescope._core.errors import AccuracyWarning
from curvescope.linalg import effective_dimension, eigsh
from curvescope.linop import aslinearoperator
from curvescope.testing.matrices import matrix_with_spectrum


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _network_like(n=120):
    bulk = torch.rand(n - 5, generator=_generator(5), dtype=torch.float64) ** 4 / 2
    return torch.cat([torch.tensor([30.0, 12, 8, 5, 3]).double(), bulk])


def test_effective_dimension_agrees_over_all_routes():
    factor = torch.randn(40, 150, generator=_generator(), dtype=torch.float64)
    A = factor.T @ factor
    z = torch.tensor([0.1, 10.0, 1000.0])
    values = np.linalg.eigvalsh(A.numpy()).clip(0)
    truth = (values[:, None] / (values[:, None] + z.numpy())).sum(axis=0)

    exact = effective_dimension(A, z=z)
    factors = effective_dimension(factor, z=z, method="factors")
    wide = effective_dimension(factor.T @ factor, z=z, method="slq", num_probes=30)
    given = effective_dimension(torch.as_tensor(values), z=z)

    np.testing.assert_allclose(exact.values, truth, rtol=1e-9)
    np.testing.assert_allclose(factors.values, truth, rtol=1e-9)
    np.testing.assert_allclose(given.values, truth, rtol=1e-9)
    assert exact.method == given.method == "exact"
    assert (exact.standard_errors == 0).all()
    low, high = wide.band(level=0.999)
    assert ((low.numpy() <= truth) & (truth <= high.numpy())).all()
    assert factors.cost.num_matvecs == 40


def test_factors_of_either_shape_give_the_same():
    tall = aslinearoperator(
        torch.randn(90, 20, generator=_generator(), dtype=torch.float64)
    )
    exact = effective_dimension(tall.adjoint() @ tall, z=1.0)

    assert effective_dimension(tall, z=1.0, method="factors").value == pytest.approx(
        exact.value
    )


def test_negative_eigenvalues_are_clipped_and_reported():
    values = torch.tensor([3.0, 1.0, -2.0, -0.5])

    clipped = effective_dimension(values, z=1.0)
    absolute = effective_dimension(values, z=1.0, negative="abs")
    kept = effective_dimension(values, z=5.0, negative="keep")

    assert clipped.value == pytest.approx(3 / 4 + 1 / 2)
    assert absolute.value == pytest.approx(3 / 4 + 1 / 2 + 2 / 3 + 1 / 3)
    assert kept.value == pytest.approx(3 / 8 + 1 / 6 - 2 / 3 - 0.5 / 4.5)
    assert (clipped.negative_mass, clipped.negative_count) == (2.5, 2)
    with pytest.raises(ValueError, match="stay away from -lambda"):
        effective_dimension(values, z=2.0, negative="keep")


def test_top_eigenvalues_give_a_lower_bound_that_says_when_it_is_saturated():
    A = matrix_with_spectrum(_network_like())
    pairs = eigsh(A, k=5)
    truth = effective_dimension(A, z=[1.0, 5.0])

    bound = effective_dimension(pairs, z=[1.0, 5.0])

    assert bound.method == "lower_bound"
    assert (bound.values <= truth.values).all()
    with pytest.warns(AccuracyWarning, match="saturated"):
        saturated = effective_dimension(pairs, z=1e-3)
    assert any("saturated" in note for note in saturated.notes)


def test_too_few_steps_for_a_small_z_are_said():
    spectrum = torch.logspace(-8, 0, 400, dtype=torch.float64)
    result = effective_dimension(
        matrix_with_spectrum(spectrum), z=1e-7, method="slq", num_steps=8
    )

    assert any("use more steps" in note for note in result.notes)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"z": 0.0}, "`z` must be finite and above 0"),
        ({"z": [1.0, -1.0]}, "`z` must be finite and above 0"),
        ({"z": 1.0, "method": "magic"}, "`method` must be one of"),
        ({"z": 1.0, "negative": "drop"}, "`negative` must be one of"),
        ({"z": 1.0, "method": "lower_bound"}, "`A` must be eigenpairs"),
    ],
)
def test_wrong_arguments_of_the_effective_dimension_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        effective_dimension(torch.eye(4), **arguments)
