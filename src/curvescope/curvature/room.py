"""Memory for graphs and products: how much there is, what fits, what is refused."""

from typing import final

from curvescope._core.checks import message
from curvescope._core.memory import available_memory, format_bytes
from curvescope.curvature.choices import MOST_COLUMNS, ProductChoices
from curvescope.curvature.measurements import LIBRARIES, Measurements, small
from curvescope.problem import Problem

_SHARE_OF_FREE = 0.7
_AMPLE = 4


@final
class Room:
    """What a problem's limit leaves to the graphs and products of one operator.

    Args:
        problem: Whose limit, data and other operators count.
        measured: Of this kind of matrix.
        choices: What the user decided.

    Attributes:
        account: What is held for graphs, seen by the problem's other operators.
        reserved: Bytes left to an algorithm's vectors.
        block_size: Columns of a product whose vectors take a small part of the limit.
        largest: Samples of the largest batch.
    """

    def __init__(
        self, problem: Problem, measured: Measurements, choices: ProductChoices
    ) -> None:
        self._problem = problem
        self._measured = measured
        self._choices = choices
        self._free: int | None = None
        self._small: bool | None = None
        self.account = problem.open_account()
        self.reserved = 0
        self.largest = max(problem.batch_sizes, default=0)
        vector = max(problem.num_params * problem.dtype.itemsize, 1)
        fits = problem.memory_limit // (16 * vector)
        self.block_size = max(1, min(MOST_COLUMNS, fits))

    def forget(self) -> None:
        """Graphs are gone; look anew at what is free."""
        self.account.num_bytes = 0
        self._free = self._small = None

    @property
    def limit(self) -> int:
        """Bytes for graphs and temporaries, beside data, vectors and other operators."""
        problem = self._problem
        others = problem.graph_bytes - self.account.num_bytes
        stated = problem.memory_limit - problem.kept_data_bytes - self.reserved
        # Asked once: reading what is free costs as much as a small product.
        if self._free is None:
            self._free = int(_SHARE_OF_FREE * available_memory(problem.device))
        return min(stated - self.vectors(self.block_size) - others, self._free)

    def vectors(self, columns: int) -> int:
        """Return the bytes of a product's columns and of their sum over the batches."""
        return 2 * columns * self._problem.num_params * self._problem.dtype.itemsize

    def beside(self, held: int, num_kept: int, columns: int = 1) -> int:
        """Return the bytes for temporaries beside so many kept graphs."""
        every = num_kept == self._problem.num_batches
        fresh = 0 if every else self._measured.graph(self.largest)
        return (
            self.limit - held - fresh - self.vectors(max(columns - self.block_size, 0))
        )

    @property
    def ample(self) -> bool:
        """Whether a pass that builds every graph anew is far from the limit."""
        if self._problem.device.type != "cpu" or not self._measured.temporaries:
            return False
        anew = self._measured.anew(self.largest, 1)
        return self.account.num_bytes + _AMPLE * anew < self.limit

    @property
    def plenty(self) -> bool:
        """Whether all columns at once are far from the limit, and not worth timing."""
        if self._small is None:
            graph = self._measured.graph(self.largest)
            # A column's own vectors, results and their parts on top of what is inside.
            column = 8 * graph + 2 * self.vectors(1)
            self._small = small(graph) and MOST_COLUMNS * column < self.limit
        return self._small

    def fits(self, held: int, count: int, *, last: bool) -> bool:
        """Tell whether so many graphs of so many bytes leave room for what comes."""
        batches = self._problem.num_batches
        asked = self._choices.num_kept(batches)
        if asked is not None and count > asked:
            return False
        # Only what was asked for may exceed the limit, and only by so little.
        forgiven = LIBRARIES if asked else 0
        working = self.working(every=last and count == batches)
        return held + working <= self.limit + forgiven

    def num_fitting(self) -> int:
        """Return how many batches will keep their graph, as far as is measured."""
        sizes = self._problem.batch_sizes
        held = kept = 0
        for place, size in enumerate(sizes):
            need = held + self._measured.graph(size)
            if self.fits(need, kept + 1, last=place + 1 == len(sizes)):
                held, kept = need, kept + 1
        return kept

    def working(self, *, every: bool, columns: int = 1) -> int:
        """Return the bytes that come and go in a pass over the data.

        Args:
            every: Whether all graphs are kept, so that none is built.
            columns: Columns at once.
        """
        if every:
            return self._measured.product(self.largest, columns)
        return self._measured.anew(self.largest, columns)

    def most_columns(self, room: int) -> int:
        """Return how many columns' temporaries fit."""
        if not self._measured.temporaries:  # the first block is measured: one column
            return MOST_COLUMNS if self.plenty else 1
        need = self._measured.product
        sizes = range(MOST_COLUMNS, 1, -1)
        return next((w for w in sizes if need(self.largest, w) <= room), 1)

    def refuse_columns(self, asked: int, room: int) -> None:
        """Refuse columns that were asked for and do not fit.

        Raises:
            MemoryError: If so.
        """
        needed = self._measured.product(self.largest, asked)
        if needed > room + LIBRARIES:
            got = f"{asked}, whose temporaries need {format_bytes(needed)}"
            remedy = f"There is room for {format_bytes(room)}; leave `columns` unset."
            raise MemoryError(message("columns", "fit `memory_limit`", got, remedy))

    def refuse_if_too_large(self) -> None:
        """Refuse a limit that one batch, or what was asked for, breaks.

        Raises:
            MemoryError: If so.
        """
        measured, room = self._measured, self.limit + LIBRARIES
        product = measured.graph(self.largest) + measured.product(self.largest, 1)
        needed = max(measured.build(self.largest), product)
        if needed > room:
            stated = self._problem.memory_limit
            whole = format_bytes(needed + stated - self.limit)
            got = f"{format_bytes(stated)}, and they need {whole}"
            contract = (
                "hold one batch's graph, a product's temporaries, vectors and data"
            )
            remedy = f"Use batches of less than {self.largest} samples, or raise it."
            raise MemoryError(message("memory_limit", contract, got, remedy))
        batches = self._problem.num_batches
        asked = self._choices.num_kept(batches) or 0
        total = sum(map(measured.graph, self._problem.batch_sizes[:asked]))
        if asked and total + self.working(every=asked == batches) > room:
            got = f"{self._choices.kept!r}, which needs {format_bytes(total)}"
            remedy = (
                f"There is room for {format_bytes(self.limit)}; leave `kept` unset."
            )
            raise MemoryError(message("kept", "fit `memory_limit`", got, remedy))
