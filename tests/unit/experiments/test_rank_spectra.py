"""Sorted eigenvalues between activations, and one network's blocks."""

from dataclasses import replace

import numpy as np
import pytest

from curvescope.curvature import Hessian
from curvescope.experiments.rank import build_rank_problem
from curvescope.experiments.rank_spectra import RankSpectra, check_spectra, rank_spectra
from curvescope.linop.base import LinearOperator

SMALL = RankSpectra(
    data="digits",
    classes=4,
    units=(4, 3),
    num_samples=60,
    activations=("linear", "tanh"),
    jobs=1,
)


def test_eigenvalues_are_those_of_h_sorted_by_magnitude():
    spectra = rank_spectra(SMALL)["spectra"]

    for name in SMALL.activations:
        operator = Hessian(build_rank_problem(SMALL.of(name)))
        assert isinstance(operator, LinearOperator)
        exact = np.linalg.eigvalsh(np.asarray(operator.to_dense()))
        expected = exact[np.argsort(-abs(exact))]
        found = spectra.eigenvalues[name].numpy()
        scale = abs(exact).max()
        assert np.allclose(abs(found), abs(expected), rtol=0, atol=1e-12 * scale)


def test_only_an_equality_marks_where_a_spectrum_ends():
    spectra = rank_spectra(SMALL)["spectra"]

    rank = spectra.predicted["linear"]
    values = spectra.eigenvalues["linear"].abs()
    assert float(values[rank - 1]) > 1e-12 * float(values[0]) > float(values[rank])
    assert "tanh" not in spectra.predicted


def test_all_networks_start_from_the_same_weights():
    first, second = (build_rank_problem(SMALL.of(n)).model for n in SMALL.activations)

    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert a.equal(b)


def test_the_blocks_of_one_network_are_pictured():
    blocks = rank_spectra(SMALL)["blocks"]

    assert len(blocks.layers) == 3
    # The functional Hessian of a linear network is hollow.
    assert not blocks.norms["functional"].diagonal().any()
    assert blocks.norms["hessian"].diagonal().all()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"activations": ()}, "`activations` must hold at least one name"),
        ({"activations": ("tanh", "tanh")}, "`activations` must have no repetition"),
        ({"activations": ("sine",)}, "`activation` must be one of"),
        ({"jobs": 0}, "`jobs` must be at least 1"),
        ({"dim": 15}, "`dim` must be a square number"),
    ],
)
def test_wrong_configurations_are_refused(change, text):
    with pytest.raises(ValueError, match=text):
        check_spectra(replace(SMALL, **change))
