"""Trap 13: what a call leaves behind.

Libraries leave the model in eval mode, ``.grad`` filled, BatchNorm's statistics moved,
``requires_grad`` flipped, random streams advanced; and most of all after an error.
"""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from curvescope._core.fingerprints import checksum
from curvescope.testing.traps.common import Batches, small_data, split

# Anything that is done with (model, loss, batches).
Use = Callable[[nn.Module, nn.Module, Batches], Any]


class BreaksLater(nn.Module):
    """A network with everything that has state, whose n-th forward pass raises."""

    def __init__(self, *, breaks_at: int | None = None) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 3)
        self.breaks_at = breaks_at
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, or raise."""
        self.calls += 1
        if self.breaks_at is not None and self.calls >= self.breaks_at:
            text = "the model broke"
            raise RuntimeError(text)
        return self.head(self.drop(torch.tanh(self.norm(self.first(x)))))


def state_of(model: nn.Module) -> dict[str, object]:
    """Return everything that a call could change, in comparable form."""
    streams: Any = np.random.get_state()  # noqa: NPY002 - the global stream is the point
    grads = {n: p.grad for n, p in model.named_parameters()}
    return {
        "parameters": checksum(model.parameters()),
        "buffers": checksum(model.buffers()),
        "identity of tensors": [id(t) for t in (*model.parameters(), *model.buffers())],
        "gradients": {
            n: None if g is None else checksum([g]) for n, g in grads.items()
        },
        "requires_grad": {n: p.requires_grad for n, p in model.named_parameters()},
        "train or eval mode": {n: m.training for n, m in model.named_modules()},
        "torch's random stream": checksum([torch.get_rng_state()]),
        "NumPy's random stream": (streams[0], bytes(streams[1]), streams[2:]),
        "Python's random stream": random.getstate(),
        "default dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "grad mode": torch.is_grad_enabled(),
        "attention kernels": (
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
            torch.backends.cuda.math_sdp_enabled(),
        ),
    }


def _model(breaks_at: int | None) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BreaksLater(breaks_at=breaks_at).double()
    model.train()
    model.norm.eval()  # mixed modes must come back mixed
    model.first.bias.requires_grad_(False)
    model.head.weight.grad = torch.full_like(model.head.weight, 0.25)
    return model


def check(use: Use, *, breaks_at: tuple[int | None, ...] = (None, 1, 3, 6, 8)) -> None:
    """Check that a call changes nothing, also where the model raises.

    Args:
        use: What is called.
        breaks_at: The forward passes at which the model raises; ``None`` for never.

    Raises:
        AssertionError: If something changed, or if the call fails by itself.
    """
    X, y = small_data()
    for breaking in breaks_at:
        model = _model(breaking)
        before = state_of(model)
        error: Exception | None = None
        try:
            use(model, nn.CrossEntropyLoss(), split(X, y, (4, 4, 2)))
        except Exception as raised:
            error = raised
        after = state_of(model)  # while the traceback is still held
        assert error is None or breaking is not None, f"the call raised {error!r}"
        changed = [key for key, value in before.items() if after[key] != value]
        when = "" if error is None else " after an error"
        assert not changed, f"the call changed{when}: {', '.join(changed)}"


def foil(model: nn.Module, loss: nn.Module, batches: Batches) -> None:
    """Leave eval mode and gradients behind."""
    model.eval()
    for X, y in batches:
        loss(model(X), y).backward()
