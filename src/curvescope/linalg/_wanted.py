"""Which eigenvalues are asked for, and whether larger ones may still hide."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# A random start has less than 1/30 of its expected share of a hidden eigenvector
# with probability 3 %: the chain must amplify it by that much more.
_SAFETY = 30.0


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


def growth(steps: int, top: float, bottom: float, edge: float) -> float:
    """Return the logarithm of the amplification of a value at ``edge``.

    After ``steps`` steps a Krylov space holds the Chebyshev polynomial that is at most
    1 on ``[bottom, top]`` and ``cosh(steps acosh(x))`` at ``edge``. The interval must
    hold the rest of the spectrum: Ritz values with their residuals around them, since
    a first step alone has one Ritz value and knows no width.
    """
    if edge <= top:
        return 0.0
    width = top - bottom
    if width <= 0.0:
        return math.inf
    x = 1.0 + 2.0 * (edge - top) / width
    return steps * math.acosh(x) - math.log(2.0)


def enough(steps: int, top: float, bottom: float, edge: float, n: int) -> bool:
    """Tell whether a hidden value above ``edge`` would by now be seen."""
    needed = math.log(_SAFETY * math.sqrt(n))
    return growth(steps, top, bottom, edge) >= needed
