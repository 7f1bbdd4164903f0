"""Ticks lie inside the axis, few and in order, with labels that read back."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curvescope.plots.axes import power_label, signed_log_ticks, tick_labels

SUPERSCRIPTS = str.maketrans(
    "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079", "-0123456789"
)


def read(label):
    """Read a label back as the number that a reader sees."""
    text = label.replace("\u2212", "-").replace(",", "")
    if "10" in text and any(ord(c) > 0x2000 or c in "\u00b9\u00b2\u00b3" for c in text):
        mantissa, _, power = text.rpartition("10")
        mantissa = mantissa.rstrip("\u00d7")
        factor = {"": 1.0, "-": -1.0}.get(mantissa) or float(mantissa)
        return factor * 10.0 ** int(power.translate(SUPERSCRIPTS))
    return float(text)


sizes = st.floats(min_value=1e-12, max_value=1e12)


@given(st.tuples(sizes, sizes), st.booleans(), st.floats(1e-8, 1.0))
def test_ticks_are_few_ordered_inside_and_labelled_truly(ends, negative, fraction):
    low, high = sorted(ends)
    low = -low if negative else 0.0
    threshold = fraction * high

    ticks = signed_log_ticks(low, high, threshold)

    slack = 1e-9 * (high - low)
    assert ticks == sorted(set(ticks))
    assert 1 <= len(ticks) <= 15
    assert all(low - slack <= tick <= high + slack for tick in ticks)
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        assert math.isclose(read(label), tick, rel_tol=1e-3)


def test_decades_are_labelled_on_both_sides_of_zero():
    ticks = signed_log_ticks(-100.0, 1000.0, 1.0)

    assert ticks == [-100.0, -10.0, 0.0, 10.0, 100.0, 1000.0]


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (0.0, "0"),
        (1e-7, "10\u207b\u2077"),
        (-1e12, "\u221210\u00b9\u00b2"),
        (2e-5, "2\u00d710\u207b\u2075"),
    ],
)
def test_a_power_is_written_with_superscripts(value, label):
    assert power_label(value) == label
