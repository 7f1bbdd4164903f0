"""A set's files on this machine: where they lie, whether they are the published ones.

Archives are read in place: nothing of them is written anywhere.
"""

import hashlib
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from curvescope._core.errors import DownloadError
from curvescope._core.imports import require
from curvescope._core.progress import Task, track
from curvescope.data.catalog import Entry, Layout
from curvescope.data.formats import broken

_TIMEOUT = 30  # seconds without a byte
_LARGEST_MEMBER = 2**30  # no file of a known set is near it


@dataclass(frozen=True, kw_only=True)
class Located:
    """A split's files, found but not yet read.

    Attributes:
        layout: The form that they have.
        folder: Where they lie; inside the archive if there is one.
        names: The files that are there.
        absent: The files of the split that are not.
        archive: The archive that they lie in, if they do.
    """

    layout: Layout
    folder: str
    names: tuple[str, ...]
    absent: tuple[str, ...] = ()
    archive: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files on the disk."""
        if self.archive is not None:
            return (self.archive,)
        return tuple(Path(self.folder) / name for name in self.names)


def locate(entry: Entry, folder: Path, split: str) -> Located | None:
    """Find a split's files in the set's folder; loose files come before archives."""
    for layout in entry.layouts:
        for below in layout.folders:
            place = folder / below
            names = layout.files[split]
            there = tuple(name for name in names if (place / name).is_file())
            if there == names or (there and layout.parts):
                absent = tuple(name for name in names if name not in there)
                return Located(
                    layout=layout, folder=str(place), names=there, absent=absent
                )
    for layout in entry.layouts:
        if layout.archive and (folder / layout.archive).is_file():
            return Located(
                layout=layout,
                folder=layout.archive_folder,
                names=layout.files[split],
                archive=folder / layout.archive,
            )
    return None


def contents(found: Located) -> tuple[list[tuple[bytes, str]], list[str]]:
    """Read the files; return contents with origins, and which are not official."""
    if found.archive is None:
        files = [(path.read_bytes(), str(path)) for path in found.paths]
        doubtful = [
            name
            for name, (content, _) in zip(found.names, files, strict=True)
            if _md5(content) != found.layout.hashes.get(name)
        ]
        return files, doubtful
    official = _md5_of_file(found.archive) == found.layout.archive_hash
    return _members(found), [] if official else [found.archive.name]


def _members(found: Located) -> list[tuple[bytes, str]]:
    """Read the wanted members of an archive, into memory only."""
    archive = found.archive
    assert archive is not None
    wanted = {f"{found.folder}/{name}": name for name in found.names}
    read: dict[str, bytes] = {}
    contract = "hold a whole archive"
    try:
        with tarfile.open(archive, "r:*") as file:
            for member in file:
                name = wanted.get(member.name.removeprefix("./"))
                if name is None or not member.isfile():
                    continue
                if member.size > _LARGEST_MEMBER:
                    raise broken(str(archive), contract, f"{name} is too large")
                stream = file.extractfile(member)
                read[name] = b"" if stream is None else stream.read()
                if len(read) == len(wanted):
                    break
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise broken(str(archive), contract, str(error)) from None
    absent = [name for name in found.names if name not in read]
    if absent:
        reason = f"it lacks {', '.join(absent)} in {found.folder}"
        raise broken(str(archive), contract, reason)
    return [(read[name], f"{archive}:{name}") for name in found.names]


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _md5_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(
            file, lambda: hashlib.md5(usedforsecurity=False)
        ).hexdigest()


def download(name: str, md5: str, folder: Path, mirrors: Sequence[str]) -> Path:
    """Download one file whole, or raise and leave nothing.

    Args:
        name: The file's name.
        md5: Its published hash.
        folder: Where it goes.
        mirrors: Folders on the web, tried in this order.

    Returns:
        The file.

    Raises:
        DownloadError: If no mirror gave the file.
        MissingExtraError: If pooch is not installed.
    """
    pooch = require("pooch", extra="experiments", purpose="a download")
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    failures = []
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("WARNING")  # our own progress says what is going on
    try:
        for mirror in mirrors:
            url = f"{mirror.rstrip('/')}/{name}"
            try:
                with track(f"downloading {name}", total=None) as task:
                    fetcher = pooch.HTTPDownloader(
                        progressbar=_Bar(task), chunk_size=2**18, timeout=_TIMEOUT
                    )
                    pooch.retrieve(
                        url,
                        known_hash=f"md5:{md5}",
                        fname=name,
                        path=folder,
                        downloader=fetcher,
                    )
                return folder / name
            except (OSError, ValueError) as error:
                failures.append(f"{url}: {_reason(error)}")
    finally:
        logger.setLevel(level)
        if not (folder / name).exists():
            for path in created:  # the deepest first
                if path.is_dir() and not any(path.iterdir()):
                    path.rmdir()
    listed = "; ".join(failures)
    text = (
        f"{name} could not be downloaded whole, or is not the published file "
        f"({listed}). Try again, or put it into {folder} by hand."
    )
    raise DownloadError(text)


def _reason(error: BaseException) -> str:
    """Return the error at the bottom of a chain, in one line."""
    while True:
        inner = getattr(error, "reason", None) or next(iter(error.args), None)
        if not isinstance(inner, BaseException):
            break
        error = inner
    return str(error).splitlines()[0] if str(error) else type(error).__name__


class _Bar:
    """Pooch's progress bar, shown as ours."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self.total = 0

    def update(self, amount: int) -> None:
        self._task.update(total=self.total or None)
        self._task.advance(amount)

    def reset(self) -> None:
        self._task.update(completed=0)

    def close(self) -> None:
        """Do nothing: the task ends with its block."""
