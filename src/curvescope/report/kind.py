"""How the page presents one kind of result."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """How one kind of result is presented.

    ``headline`` is the sentence below the figure, ``warnings`` what a reader must see
    before any number.
    """

    title: Callable[[Any], str]
    reading: Callable[[Any], str]
    sureness: Callable[[Any], str]
    show_table: bool = True
    headline: Callable[[Any], str] = lambda result: result.headline()
    warnings: Callable[[Any], Iterable[str]] = lambda _: ()
