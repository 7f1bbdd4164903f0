"""Run folders: one configuration each, resumed or returned by a second call."""

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Any

from curvescope._core import files
from curvescope._core.checks import message
from curvescope.cli.options import (
    GROUPS,
    Computing,
    Initialisation,
    Layers,
    StepSizeOptions,
)

_CONFIG = "config.json"
_DONE = "report.html"


def configuration(
    command: str, options: Computing | Initialisation | Layers | StepSizeOptions
) -> dict[str, Any]:
    """Return what decides a run's numbers, flat; where it is written plays no part."""
    flat: dict[str, Any] = {"command": command}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        inner = isinstance(value, GROUPS)
        flat.update(dataclasses.asdict(value) if inner else {field.name: value})
    for how in ("out", "process_timeout", "explain", "dry_run"):
        flat.pop(how, None)
    return {key: _plain(value) for key, value in flat.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def open_folder(path: Path, config: dict[str, Any]) -> bool:
    """Check that a folder is new or of this configuration; return whether it is done.

    The fingerprint of weights, data and code (``problem``) is compared where both sides
    have one: it is not known before they are loaded.

    Raises:
        ValueError: If it holds something else. Nothing is written here.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(message("--out", "be a folder", str(path)))
    saved_path = path / _CONFIG
    if not saved_path.exists():
        if path.is_dir() and any(path.iterdir()):
            remedy = "Choose a new folder with `--out`."
            got = f"{path}, which holds other files"
            raise ValueError(
                message("--out", "be a new folder or a run's", got, remedy)
            )
        _check_writable(path)
        return False
    saved = _saved(saved_path)
    if saved.get("command") != config["command"]:
        got = f"{saved.get('command')} there, {config['command']} now"
        remedy = "Choose another folder with `--out`."
        text = message(
            "--out", f"be a folder of the same command ({path})", got, remedy
        )
        raise ValueError(text)
    names = {*saved, *config} - ({"problem"} if "problem" not in config else set())
    changed = [k for k in sorted(names) if saved.get(k) != config.get(k)]
    if changed == ["problem"]:
        got = "other weights, data or code under the same names"
        remedy = "Choose another folder with `--out`."
        raise ValueError(
            message("--out", f"be a run of the same problem ({path})", got, remedy)
        )
    if changed:
        got = ", ".join(
            f"{k}: {saved.get(k)!r} there, {config.get(k)!r} now" for k in changed
        )
        remedy = "Choose another folder with `--out`, or repeat the options."
        contract = f"be a folder of the same configuration ({path})"
        raise ValueError(message("--out", contract, got, remedy))
    return (path / _DONE).exists()


def _saved(path: Path) -> dict[str, Any]:
    """Return a folder's configuration; any other content is no run's."""
    found: Any = None
    why = "something else"
    try:
        found = files.read_json(path)
    except (ValueError, OSError) as error:
        why = f"{type(error).__name__}: {error}"
    if not isinstance(found, dict):
        contract = "be a folder whose config.json a run has written"
        remedy = "Choose another folder with `--out`."
        raise ValueError(message("--out", contract, f"{path} ({why})", remedy))  # noqa: TRY004
    return found


def _check_writable(path: Path) -> None:
    """Refuse a folder that cannot be made, before hours are spent; leave nothing.

    Where there is none yet, only the nearest one above can be asked.
    """
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK) and _holds_files(there):
        return
    got = f"{path}, and nothing can be written in {there}"
    remedy = "Choose another folder."
    raise ValueError(message("--out", "be a folder that can be written", got, remedy))


def _holds_files(path: Path) -> bool:
    """Tell whether a file can be made: a superuser may write where nothing can be."""
    try:
        with tempfile.TemporaryFile(dir=path):
            return True
    except OSError:
        return False


def default_folder(command: str, model: str, data: str) -> Path:
    """Return ``runs/COMMAND-MODEL-DATA``, in letters that every file system knows."""
    words = (command, Path(model).name, Path(data).name)
    text = "-".join(words)
    return Path("runs") / "".join(c if c.isalnum() or c in "-_." else "-" for c in text)
