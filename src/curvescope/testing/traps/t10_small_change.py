"""Trap 10: stopping because the running mean changed little.

Asked for a tolerance of 1e-3, a widely used trace estimator stopped after 3 to 30
probes with a relative error of 12 % in the mean and 49 % at worst: successive means
are close to each other long before they are close to the truth.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from curvescope.testing.traps.common import attempt, planted

# (matrix, seed) -> estimate and the half width of its 95 % interval
Estimate = Callable[[Tensor, int], tuple[float, float]]


def check(estimate_trace: Estimate, *, num_seeds: int = 200) -> None:
    """Check that 95 % intervals cover the trace for at least 90 % of the seeds.

    Raises:
        AssertionError: If they do not.
    """
    spectrum = torch.cat(
        [torch.linspace(0.0, 1.0, 47), torch.tensor([30.0, -20.0, 12.0])]
    )
    A = planted(spectrum)
    truth = float(A.trace())
    covered = 0
    for seed in range(num_seeds):
        value, half_width = attempt(estimate_trace, A, seed)
        covered += abs(value - truth) <= half_width
    share = covered / num_seeds
    assert share >= 0.9, f"95 % intervals cover the truth for {share:.1%} of the seeds"


def foil(matrix: Tensor, seed: int) -> tuple[float, float]:
    """Stop when the mean changes by less than 1e-3 of itself, and believe that."""
    generator = torch.Generator().manual_seed(seed)
    total, mean = 0.0, 0.0
    for num in range(1, 101):
        v = torch.randint(0, 2, (len(matrix),), generator=generator) * 2.0 - 1.0
        v = v.double()
        total += float(v @ matrix @ v)
        change, mean = abs(total / num - mean), total / num
        if num > 1 and change <= 1e-3 * abs(mean):
            break
    return mean, 1e-3 * abs(mean)
