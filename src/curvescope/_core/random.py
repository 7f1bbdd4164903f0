"""Random streams: every draw comes from a generator with a recorded seed."""

import torch
from torch import Tensor

from curvescope._core.checks import instance

DEFAULT_SEED = 20200720


def resolve_generator(generator: torch.Generator | None) -> torch.Generator:
    """Return ``generator``, or a fresh one on the CPU with the fixed default seed.

    Draws are made on the generator's own device and moved: the same seed gives the
    same probes on every device.
    """
    if generator is not None:
        remedy = "Make one: `torch.Generator().manual_seed(0)`."
        return instance("generator", generator, torch.Generator, remedy)
    return torch.Generator().manual_seed(DEFAULT_SEED)


def rademacher(
    shape: tuple[int, ...],
    generator: torch.Generator,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Draw independent signs, +1 or -1 with equal probability."""
    signs = torch.randint(
        0, 2, shape, generator=generator, device=generator.device, dtype=torch.int8
    )
    return signs.to(device=device, dtype=dtype).mul_(2).sub_(1)


def gaussian(
    shape: tuple[int, ...],
    generator: torch.Generator,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Draw independent standard normal numbers."""
    draw = torch.randn(
        shape, generator=generator, device=generator.device, dtype=torch.float64
    )
    return draw.to(device=device, dtype=dtype)
