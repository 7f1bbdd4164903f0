"""The file that a tracking grows by one line a measurement, whatever interrupts it.

The first line is a header with the settings, every other one a measurement. A line is
written by one call and synced: after a kill the file ends in whole lines and at most
one torn one, which is dropped when the file is opened again.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from curvescope._core import files
from curvescope._core.checks import message

FILE = "tracking.jsonl"
_REPLACED = "tracking-replaced.jsonl"
_FORMAT = 1

Row = dict[str, Any]


@final
class TrackingFile:
    """The measurements in a folder; opened, read and repaired when it is made.

    Args:
        folder: The run folder; made if it is not there.
        settings: What the measurements belong to. A file of others is refused.

    Attributes:
        rows: The measurements that are there, ascending in their steps.

    Raises:
        ValueError: If the folder has measurements with other settings, or a line that is
            no measurement before the last one.
    """

    def __init__(self, folder: str | Path, settings: Mapping[str, Any]) -> None:
        self.path = Path(folder) / FILE
        self.rows: list[Row] = []
        header = {"format": _FORMAT, "settings": dict(settings)}
        self._header = files.json_line(header)
        lines, torn = _whole_lines(self.path)
        if torn:
            _rewrite(self.path, lines)
        if not lines:
            _rewrite(self.path, [self._header])
            return
        self._check_header(lines[0], header)
        self.rows = [_parsed(self.path, n, line) for n, line in enumerate(lines[1:], 2)]

    def _check_header(self, line: str, header: Mapping[str, Any]) -> None:
        there = files.read_json_line(line) if _is_json(line) else None
        if not isinstance(there, dict) or "settings" not in there:
            contract = "hold a tracking file, or none"
            got = f"{self.path} with another first line"
            raise ValueError(message("out", contract, got, "Choose another folder."))
        wanted = files.read_json_line(self._header)
        if there == wanted:
            return
        old, new = there["settings"], wanted["settings"]
        names = sorted(k for k in {*old, *new} if old.get(k) != new.get(k))
        got = f"one with another {', '.join(names) or 'format'}"
        remedy = "Choose another folder, or the settings that it was begun with."
        contract = "be a folder without measurements, or with the same settings"
        raise ValueError(message("out", contract, got, remedy))

    def append(self, row: Row) -> None:
        """Write one measurement behind the others, durably."""
        line = (files.json_line(row) + "\n").encode("utf-8")
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            written = os.write(handle, line)
            while written < len(line):  # a full disk or a signal
                written += os.write(handle, line[written:])
            os.fsync(handle)
        finally:
            os.close(handle)
        self.rows.append(row)

    def replace_from(self, step: int) -> int:
        """Move the measurements at ``step`` and later into a file of their own.

        Returns:
            How many there were.
        """
        late = [row for row in self.rows if row["step"] >= step]
        if not late:
            return 0
        aside = self.path.with_name(_REPLACED)
        before, _ = _whole_lines(aside)
        _rewrite(aside, [*before, *map(files.json_line, late)])
        self.rows = [row for row in self.rows if row["step"] < step]
        _rewrite(self.path, [self._header, *map(files.json_line, self.rows)])
        return len(late)


def _whole_lines(path: Path) -> tuple[list[str], bool]:
    """Return the lines that end, are UTF-8 and hold JSON, and whether a last was torn."""
    if not path.exists():
        return [], False
    *whole, rest = path.read_bytes().split(b"\n")
    torn = bool(rest)
    if whole and not _is_json(whole[-1]):
        # The newline of a torn write may have come before the lost middle.
        whole, torn = whole[:-1], True
    return [line.decode("utf-8") for line in whole], torn


def _is_json(line: str | bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _parsed(path: Path, number: int, line: str) -> Row:
    row = files.read_json_line(line) if _is_json(line) else None
    if not isinstance(row, dict) or "step" not in row:
        contract = "hold a tracking file of whole lines"
        got = f"{path} with a broken line {number}"
        remedy = "Only a last line can be repaired; choose another folder."
        raise ValueError(message("out", contract, got, remedy))
    return row


def _rewrite(path: Path, lines: list[str]) -> None:
    files.write_text(path, "".join(f"{line}\n" for line in lines))
