"""Every Python block of the README and of the documentation runs.

The blocks of one page run in order and share their names, as a reader would type them.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(path):
    """Return a page's Python blocks, each padded so that errors name the page's line."""
    text = path.read_text(encoding="utf-8")
    return [
        "\n" * (text.count("\n", 0, match.start(1))) + match[1]
        for match in FENCE.finditer(text)
    ]


PAGES = [
    path
    for path in sorted((REPOSITORY / "docs").rglob("*.md"))
    if "_build" not in path.parts and "generated" not in path.parts and blocks(path)
]


@pytest.mark.parametrize(
    "page", PAGES, ids=lambda p: p.relative_to(REPOSITORY).as_posix()
)
def test_python_blocks_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}

    for block in blocks(page):
        exec(compile(block, str(page), "exec"), names)


def test_the_quickstart_of_the_readme_is_short_and_leaves_a_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = blocks(REPOSITORY / "README.md")

    done = subprocess.run(
        [sys.executable, "-c", block], capture_output=True, text=True, check=False
    )

    lines = [line for line in block.strip().splitlines() if line.strip()]
    assert done.returncode == 0, done.stderr
    assert len(lines) <= 12
    assert list(tmp_path.rglob("report.html"))


def test_a_block_that_fails_is_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "text\n```python\nx = 1\n```\n```console\nno\n```\n```python\nx / 0\n```\n"
    )

    first, second = blocks(page)

    names = {}
    exec(compile(first, str(page), "exec"), names)
    with pytest.raises(ZeroDivisionError):
        exec(compile(second, str(page), "exec"), names)
