"""Every command and option that the README and the documentation name exists."""

import functools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def commands(text):
    """Return the ``curvescope`` commands of a page's console blocks, as words."""
    found = []
    for block in FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words[:1] == ["curvescope"]:
                found.append(tuple(words[1:]))
    return found


SHOWN = sorted({command for page in PAGES for command in commands(page.read_text())})


@functools.cache
def help_of(subcommand):
    done = subprocess.run(
        [sys.executable, "-m", "curvescope", *subcommand, "--help"],
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", SHOWN, ids=" ".join)
def test_shown_command_and_its_options_exist(command):
    of_a_file = any(word.endswith(".npz") for word in command[1:2])
    length = 2 if command[0] in {"data", "experiment"} or of_a_file else 1

    text = help_of(command[:length])

    for option in [word for word in command if word.startswith("--")]:
        assert re.search(rf"{option}\b", text), f"`{option}` is not in the help"


def test_commands_are_found_in_a_page():
    page = "```console\n$ curvescope a m \\\n    --x 1\n^C\n$ make demo   # it's fine\n```\n"

    assert commands(page.replace("it's", "its")) == [("a", "m", "--x", "1")]
