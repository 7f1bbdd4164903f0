"""Memory that is freed and taken again in the middle of a pass."""

import resource
import sys
from pathlib import Path

import pytest
import torch

from curvescope.problem.metering import retained_heap, settle_heap

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="glibc's heap is Linux'"
)


def _cleared_pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _take_and_free():
    """Take 128 MiB in pieces, and free them from the last to the first."""
    pieces = [torch.ones(2**22) for _ in range(8)]
    while pieces:
        pieces.pop()


def test_pages_of_a_retained_heap_are_cleared_once():
    pages = 128 * 2**20 // resource.getpagesize()

    with retained_heap():
        _take_and_free()
        before = _cleared_pages()
        for _ in range(4):
            _take_and_free()
        again = _cleared_pages() - before

    assert again < pages / 2  # and not four times all of them


def test_a_retained_heap_is_given_back():
    def resident():
        pages = Path("/proc/self/statm").read_text().split()[1]
        return int(pages) * resource.getpagesize()

    before = resident()
    with retained_heap():
        _take_and_free()
        inside = resident()

    assert inside - before > 100 * 2**20
    assert resident() - before < 40 * 2**20


def test_a_settled_heap_keeps_the_pages_of_what_is_freed_again_and_again():
    settle_heap()
    size = 24 * 2**20 // 4

    def take_and_free():
        taken = torch.ones(size)
        assert float(taken[-1]) == 1.0

    for _ in range(4):  # what other tests have left goes first
        take_and_free()
    before = _cleared_pages()
    for _ in range(8):
        take_and_free()

    # Not eight times all of them: at most half of those of one.
    assert _cleared_pages() - before < 4 * size / resource.getpagesize() / 2


def test_a_retained_heap_ends_with_an_error_too():
    with pytest.raises(KeyError), retained_heap():
        raise KeyError
    with retained_heap():
        _take_and_free()
