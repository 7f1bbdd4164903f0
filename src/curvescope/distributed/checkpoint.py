"""Checkpoints of several processes: the first writes, all of them read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import torch

from curvescope._core.checkpoint import Checkpoint
from curvescope._core.processes import ALONE, Processes


@final
class SharedCheckpoint(Checkpoint):
    """A checkpoint that the first process keeps for all.

    The state of an iteration is the same in every process and knows nothing of their
    number: what 4 processes saved, 3 go on from. Only the first needs the folder.

    Args:
        folder: Where the state lies.
        key: What the state belongs to.
        processes: Those that share the iteration.
    """

    def __init__(self, folder: Path, key: str, processes: Processes = ALONE) -> None:
        super().__init__(folder, key)
        self._processes = processes

    def due(self) -> bool:
        """Tell whether this process saves now: the others never do."""
        return self._processes.rank == 0 and super().due()

    def save(
        self,
        state: Mapping[str, Any],
        tensors: Mapping[str, torch.Tensor],
        *,
        appended: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Save in the first process; see `Checkpoint.save`."""
        if self._processes.rank == 0:
            super().save(state, tensors, appended=appended)

    def load(
        self, identity: str | None = None
    ) -> tuple[dict[str, Any], dict[str, torch.Tensor]] | None:
        """Return in every process what the first finds, or ``None``."""
        saved: list[tuple[dict[str, Any], dict[str, torch.Tensor]] | None] = [None]

        def look() -> tuple[dict[str, Any], dict[str, Any]] | None:
            saved[0] = super(SharedCheckpoint, self).load(identity)
            if saved[0] is None:
                return None
            state, tensors = saved[0]
            return state, {k: (tuple(v.shape), v.dtype) for k, v in tensors.items()}

        found = self._processes.from_first(look)
        if found is None:
            return None
        state, kinds = found
        tensors = {} if saved[0] is None else saved[0][1]
        # One by one and without pickle: a basis may be as large as the memory.
        for name, (shape, dtype) in kinds.items():
            own = tensors.get(name)
            blank = torch.empty(shape, dtype=dtype) if own is None else own
            tensors[name] = self._processes.tensor_from_first(blank.contiguous())
        return state, tensors

    def clear(self) -> None:
        """Remove the folder, in the first process."""
        if self._processes.rank == 0:
            super().clear()
