"""Results of ranks save and load whole: nested ones, mappings of tensors, infinities."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from tests.unit.plots import synthetic, synthetic_ranks

from curvescope.results import RankSweep, SpectrumComparison, load

RESULTS = {
    "report": synthetic_ranks.report,
    "zero_report": synthetic_ranks.zero_report,
    "sweep": synthetic_ranks.sweep,
    "training": synthetic_ranks.training,
    "comparison": synthetic_ranks.comparison,
    "picture": synthetic_ranks.picture,
    "estimate": synthetic.rank,
}


def assert_same(one, other):
    """Compare two results field by field, tensors and infinities bit by bit."""
    assert type(one) is type(other)
    if dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            assert_same(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


def as_saved(result):
    """Lists come back as tuples: a setting is the only place where one may stand."""
    settings = {
        k: tuple(v) if isinstance(v, list) else v for k, v in result.settings.items()
    }
    return dataclasses.replace(result, settings=settings)


@pytest.mark.parametrize("make", RESULTS.values(), ids=RESULTS.keys())
def test_a_saved_result_comes_back_bit_for_bit(tmp_path, make):
    result = make()

    result.save(tmp_path, "a")

    assert_same(load(tmp_path, "a"), as_saved(result))


def test_a_loaded_report_answers_as_the_saved_one(tmp_path):
    synthetic_ranks.report().save(tmp_path, "ranks")

    loaded = load(tmp_path, "ranks")

    assert loaded.agrees
    assert {n: r.rank for n, r in loaded.measured.items()} == synthetic_ranks.PREDICTED
    assert {n: p.value for n, p in loaded.predicted.items()} == (
        synthetic_ranks.PREDICTED
    )
    assert [r.verdict for r in loaded.measured.values()] == ["certified"] * 3
    assert loaded.facts["widths"] == (12, 6, 5, 4)


def test_a_report_from_before_exact_predictions_loads(tmp_path):
    synthetic_ranks.report().save(tmp_path, "a")
    path = tmp_path / "a.json"
    content = json.loads(path.read_text())
    del content["fields"]["exact_predictions"]
    path.write_text(json.dumps(content))

    loaded = load(tmp_path, "a")

    assert loaded.exact_predictions == ()
    assert loaded.rows()[0]["certified_prediction"] is None


def test_an_infinite_gap_comes_back_infinite(tmp_path):
    synthetic_ranks.zero_report().save(tmp_path, "a")

    assert math.isinf(load(tmp_path, "a").hessian.gap)


@pytest.mark.parametrize(
    "labels",
    [("tensor",), ("result", "fields"), ("float",), ("a.b", "a"), ("\u03c3 /",)],
)
def test_any_label_of_a_spectrum_comes_back(tmp_path, labels):
    spectra = {
        label: torch.arange(i + 1.0, dtype=torch.float64)
        for i, label in enumerate(labels)
    }
    result = SpectrumComparison(eigenvalues=spectra)

    result.save(tmp_path, "a")

    assert_same(load(tmp_path, "a"), result)


def test_numbers_of_numpy_stay_numbers(tmp_path):
    record = {
        "width": np.int64(3),
        "seed": 0,
        "hessian_rank": np.int32(2),
        "seconds": np.float32(0.5),
        "agrees": np.bool_(True),
    }
    RankSweep(axis="width", records=(record,)).save(tmp_path, "a")

    loaded = load(tmp_path, "a").records[0]

    assert loaded == {
        "width": 3,
        "seed": 0,
        "hessian_rank": 2,
        "seconds": 0.5,
        "agrees": True,
    }
    assert [type(v) for v in loaded.values()] == [int, int, int, float, bool]
