"""Checkpoints of long iterations: small state rewritten, large basis appended.

A checkpoint is a folder. ``state.json`` names the files that belong to it, and is
written last: whatever a kill leaves behind, the folder holds one whole state.
"""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from curvescope._core import files


@dataclass
class Checkpoint:
    """Saves an iteration's state into ``folder``, and gives it back after a kill.

    Attributes:
        folder: Where the state lies.
        key: What the state belongs to (settings and fingerprint); a state of another
            key is ignored, never resumed.
        budget: The fraction of the run's time that saving may cost. The first state
            is always saved.
    """

    folder: Path
    key: str
    budget: float = 0.05
    _spent: float = field(default=0.0, init=False)
    _began: float = field(default_factory=time.perf_counter, init=False)
    _appended: dict[str, str] = field(default_factory=dict, init=False)

    def due(self) -> bool:
        """Tell whether saving now stays within the budget."""
        elapsed = time.perf_counter() - self._began
        return self._spent <= self.budget * elapsed

    def save(
        self,
        state: Mapping[str, Any],
        tensors: Mapping[str, torch.Tensor],
        *,
        appended: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Save ``state`` (JSON) and ``tensors``; tensors of ``appended`` only once.

        ``appended`` names all the large tensors the state needs. One whose name was
        saved before is not written again, so a name must mean one content for ever.
        """
        start, stamp = time.perf_counter(), time.time_ns()
        self.folder.mkdir(parents=True, exist_ok=True)
        kept: dict[str, str] = {}
        for name, tensor in (appended or {}).items():
            # Never over a file of the state that is there until this one is whole.
            kept[name] = self._appended.get(name) or f"{name}-{stamp}.safetensors"
            if name not in self._appended:
                files.write_tensors(self.folder / kept[name], {"value": tensor})
        small = f"small-{stamp}.safetensors"
        files.write_tensors(self.folder / small, tensors)
        manifest = {
            "key": self.key,
            "state": dict(state),
            "small": small,
            "large": kept,
        }
        files.write_json(self.folder / "state.json", manifest)
        self._appended = kept
        needed = {"state.json", small, *kept.values()}
        for path in self.folder.iterdir():
            if path.name not in needed:
                path.unlink(missing_ok=True)
        self._spent += time.perf_counter() - start

    def load(
        self, identity: str | None = None
    ) -> tuple[dict[str, Any], dict[str, torch.Tensor]] | None:
        """Return state and tensors (small and large together), or ``None``.

        Where an ``identity`` is given, a state with another one under that name is
        ignored, as one of another key is: none of its tensors counts as saved.
        """
        self._appended = {}
        manifest_path = self.folder / "state.json"
        if not manifest_path.exists():
            return None
        manifest = files.read_json(manifest_path)
        if manifest["key"] != self.key:
            return None
        if identity is not None and manifest["state"].get("identity") != identity:
            return None
        tensors = files.read_tensors(self.folder / manifest["small"])
        for name, file in manifest["large"].items():
            tensors[name] = files.read_tensors(self.folder / file)["value"]
        self._appended = dict(manifest["large"])
        return manifest["state"], tensors

    def clear(self) -> None:
        """Remove the folder: the run is done."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._appended = {}
