"""Numbers that two pages give are the same, and those of a formula."""

import math
import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def mean_cosine(dimension):
    """The mean of ``|cos|`` of two random directions, in closed form."""
    half = dimension / 2.0
    return math.gamma(half) / (math.sqrt(math.pi) * math.gamma(half + 0.5))


def test_the_angle_of_published_planes_is_that_of_two_random_vectors_on_both_pages():
    expected = {f"{mean_cosine(size):.2f}" for size in (2, 10)}
    assert expected == {"0.64", "0.26"}
    for page in ("howto/loss-surfaces.md", "papers/published-artefacts.md"):
        text = " ".join((DOCS / page).read_text(encoding="utf-8").split())
        (said,) = re.findall(
            r"two axes is that of two random vectors: [^;]*", text
        ) or [""]
        assert set(re.findall(r"0\.\d\d", said)) == expected, page
        assert "mean cosine of 0.59" not in text
