"""Trap 12: wrong weights in stochastic Lanczos quadrature.

The weight of a node is the square of the FIRST entry of its eigenvector. A merged
change in a widely used code squared all entries (they then add up to 1 for every
node), and stood for nine months; the eigenvalues of the symmetric tridiagonal matrix
were taken by a solver for general matrices, and came out complex.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from curvescope.testing.traps.common import attempt, planted, three_term_lanczos

# (matrix, probes, steps, seed) -> nodes and weights, (probes, steps) or flat; each
# probe's weights sum to 1, or all of them together.
Quadrature = Callable[[Tensor, int, int, int], tuple[Tensor, Tensor]]


def check(quadrature: Quadrature) -> None:
    """Check that weights are real, positive, sum to 1, and give the first two moments.

    Raises:
        AssertionError: If they do not.
    """
    n = 200
    spectrum = torch.cat([torch.linspace(0.5, 1.5, n - 1), torch.tensor([100.0])])
    A = planted(spectrum)
    nodes, weights = attempt(quadrature, A, 64, 20, 0)
    assert not torch.is_complex(nodes), "the nodes are complex"
    assert not torch.is_complex(weights), "the weights are complex"
    nodes, weights = nodes.double().reshape(-1), weights.double().reshape(-1)
    assert float(weights.min()) >= -1e-12, "a weight is negative"
    total = float(weights.sum())
    probes = round(total)
    assert probes in (1, 64), f"the weights sum to {total:.4g}"
    assert abs(total - probes) <= 1e-8 * probes, f"the weights sum to {total:.10g}"
    for power in (1, 2):
        moment = float((weights * nodes**power).sum()) / total
        truth = float((spectrum.double() ** power).mean())
        # Four standard errors of the probes.
        spread = 2.0 * float((spectrum.double() ** (2 * power)).sum()) / 64
        bound = 4.0 * spread**0.5 / n
        assert abs(moment - truth) <= bound, (
            f"moment {power} is {moment:.5g} instead of {truth:.5g} +- {bound:.2g}"
        )


def foil(
    matrix: Tensor, num_probes: int, num_steps: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Square all entries of the eigenvectors, which is wrong."""
    nodes, weights = [], []
    for probe in range(num_probes):
        T, _ = three_term_lanczos(
            lambda v: matrix @ v, len(matrix), num_steps, seed=seed + probe
        )
        values, S = torch.linalg.eigh(T)
        nodes.append(values)
        weights.append(S.square().sum(0) / num_steps)
    return torch.stack(nodes), torch.stack(weights)
