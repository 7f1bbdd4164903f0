"""The public names: a change is meant, never an accident, and each has its words.

A meant change: ``import curvescope as cs; print(*sorted(cs.__all__), sep="\\n")`` into
``public_names.txt``.
"""

import importlib
import pkgutil
from pathlib import Path

import pytest

import curvescope as cs

SNAPSHOT = Path(__file__).with_name("public_names.txt")
ROOMS = sorted(
    info.name
    for info in pkgutil.iter_modules(cs.__path__)
    if not info.name.startswith("_")
)


def test_public_names_are_those_of_the_snapshot():
    names = [line for line in SNAPSHOT.read_text().splitlines() if line]

    assert sorted(cs.__all__) == names


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_exists_and_is_documented(room):
    module = importlib.import_module(f"curvescope.{room}")

    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)
        if callable(value):
            assert (value.__doc__ or "").strip(), f"{room}.{name} has no docstring"


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_says_what_it_knows(room):
    module = importlib.import_module(f"curvescope.{room}")

    assert (module.__doc__ or "").strip()
