"""Text as characters: windows of ids, and the ids that follow them."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from curvescope._core.checks import message, positive_int
from curvescope.data.images import first_count


class CharacterDataset(Dataset[tuple[Tensor, Tensor]]):
    """Windows of a text: ids ``(context,)`` and the next ids ``(context,)``.

    A window takes ``context + 1`` characters and windows share none, so that each
    character is predicted at most once.

    Attributes:
        name: The set's name.
        vocabulary: From characters to ids.
        notes: What was dropped.
    """

    def __init__(
        self,
        ids: Tensor,
        *,
        context: int,
        name: str,
        vocabulary: Mapping[str, int],
        notes: tuple[str, ...] = (),
    ) -> None:
        count = len(ids) // (context + 1)
        windows = ids[: count * (context + 1)].reshape(count, context + 1)
        self._windows = windows
        self.context = context
        self.name = name
        self.vocabulary = dict(vocabulary)
        self.notes = notes

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        window = self._windows[index]
        return window[:-1], window[1:]

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Return all inputs and targets, each ``(windows, context)``."""
        return self._windows[:, :-1].clone(), self._windows[:, 1:].clone()

    def first(self, num_samples: int | None) -> "CharacterDataset":
        """Return the first ``num_samples`` windows; all of them for ``None``."""
        if num_samples is None:
            return self
        count = first_count(num_samples, len(self), f"{self.name}, in windows")
        return CharacterDataset(
            self._windows[:count].reshape(-1).clone(),
            context=self.context,
            name=self.name,
            vocabulary=self.vocabulary,
            notes=self.notes,
        )

    def __repr__(self) -> str:
        return f"CharacterDataset({self.name}, {len(self)} windows of {self.context})"


def load_text(
    path: str | Path,
    *,
    vocabulary: str | Path | Mapping[str, int] | None = None,
    context: int = 32,
    num_samples: int | None = None,
    marker: str = "<|endoftext|>",
) -> CharacterDataset:
    """Read a text as ids of characters, in windows that do not overlap.

    Args:
        path: A UTF-8 text.
        vocabulary: From characters to ids: a mapping, or a JSON file that holds one,
            bare or under ``stoi``. Characters that it lacks are dropped. ``None``
            numbers the text's own characters in their order.
        context: Length of a window.
        num_samples: Only the first so many windows.
        marker: A mark between documents, which is no text and is taken out; empty for
            none.

    Returns:
        A torch ``Dataset`` of (ids, next ids).

    Raises:
        FileNotFoundError: If a file does not exist.
        TypeError: If the vocabulary is no mapping.
        ValueError: If the text is too short or not UTF-8, or the vocabulary is wrong.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "text.txt"
        ...     _ = file.write_text("abcab")
        ...     load_text(file, context=4)[0]
        (tensor([0, 1, 2, 0]), tensor([1, 2, 0, 1]))
    """
    positive_int("context", context)
    place = Path(path).expanduser()
    text = _read(place, "path")
    notes = []
    if marker and marker in text:
        notes.append(f"{text.count(marker)} marks {marker!r} taken out")
        text = text.replace(marker, "")
    if vocabulary is None:
        table = {character: i for i, character in enumerate(sorted(set(text)))}
    else:
        table = _vocabulary(vocabulary)
    ids = [table[character] for character in text if character in table]
    if len(ids) < len(text):
        lost = sorted({repr(c) for c in text if c not in table})
        count = len(text) - len(ids)
        shown = ", ".join(lost[:8])
        notes.append(f"{count} of {len(text)} characters dropped: {shown}")
    if len(ids) <= context:
        contract = f"hold more than {context} characters of the vocabulary"
        raise ValueError(message("path", contract, f"{len(ids)} in {place}"))
    whole = CharacterDataset(
        torch.tensor(ids),
        context=context,
        name=place.name,
        vocabulary=table,
        notes=tuple(notes),
    )
    return whole.first(num_samples)


def _read(path: Path, argument: str) -> str:
    if not path.is_file():
        raise FileNotFoundError(message(argument, "name an existing file", str(path)))
    try:
        # Bytes, since reading as text would turn "\r\n" into "\n".
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        contract = "be a text in UTF-8"
        raise ValueError(message(argument, contract, f"{path} ({error})")) from None


def _vocabulary(source: str | Path | Mapping[str, int]) -> dict[str, int]:
    found: object = source
    if isinstance(source, (str, Path)):
        place = Path(source).expanduser()
        try:
            found = json.loads(_read(place, "vocabulary"))
        except json.JSONDecodeError as error:
            text = message("vocabulary", "be a JSON file", f"{place} ({error})")
            raise ValueError(text) from None
        if isinstance(found, dict) and isinstance(found.get("stoi"), dict):
            found = found["stoi"]
    if not isinstance(found, Mapping):
        contract = "map characters to ids"
        raise TypeError(message("vocabulary", contract, type(found).__name__))
    wrong = [
        key
        for key, value in found.items()
        if not (isinstance(key, str) and len(key) == 1)
        or type(value) is not int
        or value < 0
    ]
    if wrong or not found or len(set(found.values())) < len(found):
        contract = "map single characters to different integers of at least 0"
        got = f"{wrong[0]!r}: {found[wrong[0]]!r}" if wrong else f"{len(found)} entries"
        raise ValueError(message("vocabulary", contract, got))
    return dict(found)
