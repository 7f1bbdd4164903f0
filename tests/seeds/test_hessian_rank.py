"""The published rank experiments on their real data, measured and certified."""

from pathlib import Path

import pytest

from curvescope.experiments.rank import RankPoint, report_of

# results/store/width/cross/MNIST of the published code, by width of two hidden layers.
STORED = {
    4: (88, 184, 216),
    8: (208, 336, 464),
    12: (351, 369, 639),
    16: (495, 369, 783),
    20: (639, 369, 927),
    24: (783, 369, 1071),
    28: (927, 369, 1215),
    32: (1071, 369, 1359),
    36: (1215, 369, 1503),
}
NUM_PARAMS = (312, 656, 1032, 1440, 1880, 2352, 2856, 3392, 3960)


def have(root: Path, name: str) -> Path:
    if not (root / name).is_dir():
        pytest.skip(f"no {name} in {root}")
    return root


@pytest.mark.parametrize(
    ("loss", "functional", "ggn", "hessian"),
    [
        ("mse", 175, 150, 250),
        ("logcosh", 175, 150, 250),
        ("cross_entropy", 165, 145, 245),
    ],
)
def test_ranks_on_cifar10_are_the_published_ones(
    loss, functional, ggn, hessian, data_root
):
    point = RankPoint(
        data="cifar10",
        data_root=have(data_root, "cifar10"),
        dim=25,
        num_samples=50,
        units=(5, 10),
        loss=loss,
        certify="always",
    )

    report = report_of(point)

    assert report.facts["input_rank"] == 25
    measured = report.measured
    assert measured["functional"].rank == measured["functional"].certified == functional
    assert measured["ggn"].rank == measured["ggn"].certified == ggn
    assert measured["hessian"].rank == measured["hessian"].certified == hessian
    assert report.agrees


def _check_width(width, root, certify):
    point = RankPoint(
        data="mnist",
        data_root=have(root, "mnist"),
        units=(width, width),
        loss="cross_entropy",
        certify=certify,
    )

    report = report_of(point)

    found = tuple(
        report.measured[name].rank for name in ("functional", "ggn", "hessian")
    )
    assert found == STORED[width]
    assert report.facts["input_rank"] == 41
    assert report.facts["num_params"] == NUM_PARAMS[width // 4 - 1]
    assert all(rank.certain for rank in report.measured.values())
    assert report.agrees


@pytest.mark.parametrize("width", [4, 12, 20])
def test_stored_width_results_on_mnist_are_measured_and_certified(width, data_root):
    _check_width(width, data_root, "always")


@pytest.mark.slow
@pytest.mark.parametrize("width", list(STORED))
def test_all_27_stored_width_results_on_mnist_are_measured(width, data_root):
    _check_width(width, data_root, "always")
