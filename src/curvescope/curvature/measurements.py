"""What a short look at one kind of matrix told about its time and memory."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import final

import torch

from curvescope.curvature.choices import MOST_COLUMNS

# Holes that temporaries leave in the C library's heap: resident bytes are 1.5 to 2.2 times
# those of the tensors, up to 3.5 times after many products if nobody gives them back
# (measured; on a GPU torch's own allocator does better).
_HOLES = {"cpu": 2.2, "cuda": 1.2}
_MANY_HOLES = 4.0
# What libraries take at their first use (kernels, threads' stacks), and an idle limit.
LIBRARIES = 64 * 2**20
# Below this calls cost more than arithmetic, and timing tells nothing.
_SMALL_GRAPH = 2 * 2**20
_WORKING_SET = 64 * 2**20
_CHAIN_SET = 32 * 2**20
# A column whose temporaries are beyond the caches alone gains nothing from others: timed
# at width 4, a GPT of 70 MiB took twice as long, and a network of 3 MiB a tenth less.
_TIMED_BELOW = {"cpu": 32 * 2**20, "cuda": 2**31}
CANDIDATES = (1, 4, 8, 16, MOST_COLUMNS)
# A wider block must gain this much: it takes more memory, and clocks are noisy.
_GAIN = 0.95
# What disturbs a clock only ever adds to it: of several times the least is the truest.
SAMPLES = 3
# Beyond this loss no wider block is tried.
_WORSE = 1.15
_HOPELESS = 1.6


def _line(points: Mapping[int, float], place: int) -> float:
    """Continue what was measured at one or two numbers of samples."""
    if not points:
        return 0.0
    low, high = min(points), max(points)
    if low == high:
        return points[low] * place / max(low, 1)
    slope = max((points[high] - points[low]) / (high - low), 0.0)
    return max(points[high] + slope * (place - high), 0.0)


@final
@dataclass
class Measurements:
    """Bytes and seconds of a problem's graphs and products; shared by its operators.

    Attributes:
        device: Where they were taken.
        graphs: Bytes of a batch's graph, by number of samples.
        building: Bytes that are free again when it is built.
        temporaries: Bytes of a product of one column, by number of samples.
        excess: Bytes of a column among so many, over those of one alone.
        seconds: Of one column and one sample, by columns at once.
        build_seconds: Of one sample's share of a graph.
        loops_only: Whether a layer has no batching rule.
    """

    device: torch.device
    graphs: dict[int, float] = field(default_factory=dict)
    building: dict[int, float] = field(default_factory=dict)
    temporaries: dict[int, float] = field(default_factory=dict)
    excess: dict[int, float] = field(default_factory=dict)
    seconds: dict[int, list[float]] = field(default_factory=dict)
    build_seconds: list[float] = field(default_factory=list)
    loops_only: bool = False

    @property
    def holes(self) -> float:
        """Resident bytes over those of tensors that come and go."""
        return _HOLES.get(self.device.type, 1.2)

    def graph(self, samples: int) -> int:
        """Bytes of the graph of a batch of so many samples."""
        return int(_line(self.graphs, samples))

    def product(self, samples: int, columns: int) -> int:
        """Bytes of the temporaries of so many columns at once, holes included."""
        worst = max((e for w, e in self.excess.items() if w > 1), default=1.25)
        factor = 1.0 if columns == 1 else self.excess.get(columns, worst)
        return int(self.holes * columns * factor * _line(self.temporaries, samples))

    def anew(self, samples: int, columns: int) -> int:
        """Bytes of a pass that builds a graph, multiplies by it and drops it."""
        own = self.graph(samples) + self.product(samples, columns) / self.holes
        return max(self.build(samples), int(min(self.holes, 2.1) * own))

    def leaves_holes(self, samples: int, columns: int, room: int) -> bool:
        """Tell whether what products leave behind may exceed ``room``, unless returned."""
        if self.device.type != "cpu":
            return False
        return _MANY_HOLES / self.holes * self.product(samples, columns) > room

    def build(self, samples: int) -> int:
        """Bytes at the peak of building a graph, the graph and holes included."""
        return int(self.holes * (self.graph(samples) + _line(self.building, samples)))

    @property
    def worth_timing(self) -> bool:
        """Whether several columns at once may be faster."""
        largest = max(self.temporaries.values(), default=0.0)
        return largest <= _TIMED_BELOW.get(self.device.type, 0)

    @property
    def one_build(self) -> float:
        """Time of one sample's share of a graph."""
        return median(self.build_seconds) if self.build_seconds else 0.0

    def column_seconds(self, columns: int) -> float | None:
        """Time of one column and one sample, ``columns`` at once, if it was measured."""
        times = self.seconds.get(columns)
        return min(times) if times else None

    def weigh(self, columns: int, samples: int, peak: float) -> None:
        """Remember the bytes that ``columns`` at once took."""
        if columns == 1:
            self.temporaries[samples] = peak
        alone = _line(self.temporaries, samples)
        self.excess[columns] = peak / (columns * alone) if alone else 1.0

    def judge(self, columns: int, samples: int, seconds: float) -> None:
        """Give a width up whose first product, warming up included, took far too long."""
        alone = self.column_seconds(1)
        here = seconds / max(columns * samples, 1)
        if columns > 1 and alone is not None and here > _HOPELESS * alone:
            self.seconds[columns] = [here] * SAMPLES

    def record(self, columns: int, samples: int, seconds: float) -> None:
        """Remember how long ``columns`` at once took."""
        times = self.seconds.setdefault(columns, [])
        if len(times) < 9:
            times.append(seconds / max(columns * samples, 1))


def small(graph: int) -> bool:
    """Tell whether a graph is so small that timing its products tells nothing."""
    return graph <= _SMALL_GRAPH


def by_rule(
    graph: int,
    *,
    columns: int,
    second_order: bool,
    convolutions: bool,
    chain: bool = False,
) -> int:
    """Return the columns at once where nothing was timed.

    Together they pay while temporaries stay near the caches; of the whole second
    derivative only where calls cost more than arithmetic; of convolutions on a CPU
    never (all measured). A chain's matrix products gain until their results leave the
    caches; what they gain is less than what a clock is off by, so that they go by this
    rule alone, in equal blocks.
    """
    if chain:
        widest = max(1, min(MOST_COLUMNS, _CHAIN_SET // max(graph, 1)))
        return math.ceil(columns / math.ceil(columns / widest))
    if convolutions or (second_order and not small(graph)):
        return 1
    return max(1, min(MOST_COLUMNS, _WORKING_SET // max(graph, 1)))


@final
class Widths:
    """How many columns go at once: timed on the products that are asked for anyway.

    Each width is tried while the one before it was worth it; the first block of a width
    warms up. Small nets, and those of which few columns are asked, keep to the rule.

    Args:
        measured: Where times are kept.
        rule: Columns where nothing is timed.
        explores: Whether to time others.
        most: What memory allows.
    """

    def __init__(
        self, measured: Measurements, *, rule: int, explores: bool, most: int
    ) -> None:
        self._measured = measured
        self._rule = rule
        self.explores = explores
        self.most = most

    def next(self, remaining: int) -> int:
        """Return how many of ``remaining`` columns to multiply now."""
        if self._measured.loops_only:
            return 1
        if not self.explores:
            return min(self._rule, remaining, self.most)
        trial = self.trial()
        if trial is not None and trial <= remaining:
            return trial
        return min(self.best(), remaining)

    @property
    def widest(self) -> int:
        """The widest block that may be chosen."""
        return min(self.most, MOST_COLUMNS if self.explores else self._rule)

    def trial(self) -> int | None:
        """Return the width to be timed next, or ``None`` if all is known."""
        times = self._measured.seconds
        fastest = float("inf")
        for width in self._allowed():
            if len(times.get(width, ())) < SAMPLES:
                return width
            here = min(times[width])
            if here > _WORSE * fastest:
                return None
            fastest = min(here, fastest)
        return None

    def best(self) -> int:
        """Return the fastest width that was timed, the smallest of equals."""
        if self._measured.loops_only:
            return 1
        if not self.explores:
            return min(self._rule, self.most)
        found = self._allowed()[0]
        for width in self._allowed():
            here = self._measured.column_seconds(width)
            best = self._measured.column_seconds(found)
            if here is not None and best is not None and here < _GAIN * best:
                found = width
        return found

    def _allowed(self) -> list[int]:
        return [w for w in CANDIDATES if w <= self.most] or [1]
