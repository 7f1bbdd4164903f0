"""Which eigenvalues are asked for."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class End:
    """One end of the spectrum: its key is larger for what is more wanted."""

    kind: str
    count: int

    def key(self, values: Tensor) -> Tensor:
        """Return the numbers by which values are ranked at this end."""
        if self.kind == "magnitude":
            return values.abs()
        return values if self.kind == "high" else -values

    def values(self, key: float) -> tuple[float, ...]:
        """Return the values that have a key."""
        if self.kind == "magnitude":
            return key, -key
        return (key,) if self.kind == "high" else (-key,)


def ends(which: str, k: int) -> list[End]:
    """Return the ends that ``which`` names, with how many values of each."""
    if which == "BE":
        # As SciPy: half from each end, one more from the high end if k is odd.
        both = [End("high", k - k // 2), End("low", k // 2)]
        return [end for end in both if end.count]
    kind = {"LM": "magnitude", "LA": "high", "SA": "low"}[which]
    return [End(kind, k)]


def order(values: Tensor, which: str) -> Tensor:
    """Return the indices of ``values``, the most wanted first."""
    if which != "BE":
        return torch.argsort(
            ends(which, 1)[0].key(values), descending=True, stable=True
        )
    down = torch.argsort(values, descending=True, stable=True).tolist()
    chosen = [
        down[i // 2] if i % 2 == 0 else down[-1 - i // 2] for i in range(len(down))
    ]
    return torch.tensor(chosen, dtype=torch.int64)


def edge(end: End, wanted: Tensor) -> float:
    """Return the key of the last wanted value at ``end``."""
    return float(end.key(wanted).sort(descending=True).values[end.count - 1])
