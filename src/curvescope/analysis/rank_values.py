"""Where the singular values come from that a rank is read from: one route a net."""

import math
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from curvescope.autodiff.layout import Layout
from curvescope.exact.assembly import PARTS, matrices
from curvescope.exact.factor import factor_triangle, ggn_factor, has_factor
from curvescope.exact.linear import compress, standardised
from curvescope.exact.mlp import mlp_matrices
from curvescope.exact.network import FeedForward
from curvescope.linalg.rank import rank_of_values
from curvescope.problem import Problem
from curvescope.results import RankEstimate

_EPS = torch.finfo(torch.float64).eps
_ROOT_OF_TINY = torch.finfo(torch.float64).tiny ** 0.5
# Up to so many floating-point operations the GGN's rank comes from its factor at once;
# beyond, from the matrix, and from the factor only where that leaves a doubt.
_FACTOR_FLOPS = 2e11


@final
@dataclass(frozen=True, kw_only=True)
class RankValues:
    """Eigenvalues of H and of the functional Hessian, and the GGN's singular values.

    Attributes:
        hessian: Eigenvalues that are not zero by structure, descending.
        functional: Likewise.
        ggn: Singular values of a factor of the GGN, or of the matrix, descending.
        ggn_is_factor: Which of the two.
        size: Number of parameters: the dimension with the zeros by structure.
        method: ``"matrix"`` or ``"compressed"``.
    """

    hessian: Tensor
    functional: Tensor
    ggn: Tensor
    ggn_is_factor: bool
    size: int
    method: str

    @property
    def all_eigenvalues(self) -> Tensor:
        """Eigenvalues of H with those that are zero by structure, descending."""
        zeros = torch.zeros(self.size - len(self.hessian), dtype=torch.float64)
        return torch.cat([self.hessian, zeros]).sort(descending=True).values

    def estimates(self) -> dict[str, RankEstimate]:
        """Decide the three ranks: one tolerance, from the scale of H, for H and F.

        The GGN's factor has a tolerance of its own: its singular values are square
        roots, and below the matrix's tolerance they still have half their digits. Where
        F has another rank on its own scale, part of it lies below the rounding of H,
        and neither rank is certain.
        """
        functional = _magnitudes(self.functional)
        largest = float(self.hessian.abs().max()) if len(self.hessian) else 0.0
        common = self._tolerance(largest)
        own = common
        if self.ggn_is_factor:
            own = self._tolerance(float(self.ggn[0]) if len(self.ggn) else 0.0)
            own = max(own, _ROOT_OF_TINY)  # below, the matrix itself is zero
        ranks = {
            "hessian": rank_of_values(
                _magnitudes(self.hessian), tolerance=common, method=self.method
            ),
            "ggn": rank_of_values(
                self.ggn,
                tolerance=own,
                method="factor" if self.ggn_is_factor else self.method,
            ),
            "functional": rank_of_values(
                functional, tolerance=common, method=self.method
            ),
        }
        alone = self._tolerance(float(functional[0]) if len(functional) else 0.0)
        hidden = int((functional > alone).sum())
        if hidden == ranks["functional"].rank:
            return ranks
        note = (
            f"part of the functional Hessian lies below the rounding of H: on its own "
            f"scale its rank is {hidden}"
        )
        for name in ("hessian", "functional"):
            ranks[name] = replace(ranks[name], certain=False, notes=(note,))
        return ranks

    def _tolerance(self, largest: float) -> float:
        return self.size * _EPS * largest


def _magnitudes(eigenvalues: Tensor) -> Tensor:
    return eigenvalues.abs().sort(descending=True).values


def values_of(problem: Problem, net: FeedForward | None) -> RankValues:
    """Return the values by the cheapest exact route.

    Args:
        problem: The problem, in float64.
        net: The same as a feed-forward net with all parameters selected, or ``None``.
    """
    if net is not None and net.is_linear:
        return _values_of_linear(net, standardise=False)
    ggn = _factor_values(problem)
    parts = PARTS if ggn is None else ("hessian", "functional")
    found = matrices(problem, parts=parts)
    assert found.hessian is not None
    assert found.functional is not None
    is_factor = ggn is not None
    if ggn is None:
        assert found.ggn is not None
        ggn = _magnitudes(_eigenvalues(found.ggn.matrix))
    return RankValues(
        hessian=_eigenvalues(found.hessian.matrix),
        functional=_eigenvalues(found.functional.matrix),
        ggn=ggn,
        ggn_is_factor=is_factor,
        size=problem.num_params,
        method="matrix",
    )


def standardised_values(net: FeedForward) -> RankValues:
    """Return the values in coordinates in which the inputs are orthonormal.

    A congruence, which keeps ranks and inertia, not eigenvalues.
    """
    if net.is_linear:
        return _values_of_linear(net, standardise=True)
    other = standardised(net)
    shapes: dict[str, Tensor] = {}
    for layer in other.layers:
        shapes[layer.weight_name] = layer.weight
        if layer.bias is not None and layer.bias_name is not None:
            shapes[layer.bias_name] = layer.bias
    layout, scale = Layout.of(shapes), net.problem.scale
    found = mlp_matrices(other, layout, PARTS, scale=scale)
    return RankValues(
        hessian=_eigenvalues(found["hessian"]),
        functional=_eigenvalues(found["functional"]),
        ggn=_magnitudes(_eigenvalues(found["ggn"])),
        ggn_is_factor=False,
        size=net.num_params,
        method="matrix",
    )


def _factor_values(problem: Problem) -> Tensor | None:
    """Return the singular values of the GGN's factor; ``None`` where it is no way.

    There is none of an indefinite loss, and one of very many rows costs more than the
    matrix, from whose eigenvalues the rank is then read.
    """
    if not has_factor(problem):
        return None
    rows = problem.num_samples * num_outputs(problem)
    if rows <= problem.num_params:
        return torch.linalg.svdvals(ggn_factor(problem).cpu())
    if 2.0 * rows * problem.num_params**2 > _FACTOR_FLOPS:
        return None
    return torch.linalg.svdvals(factor_triangle(problem).cpu())


def num_outputs(problem: Problem) -> int:
    """Return the number of outputs of one sample."""
    batch = next(iter(problem.batches())).part(0, 1)
    _, parameters = problem.leaves()
    with problem.network.running(), torch.no_grad():
        return problem.outputs(batch, parameters).numel()


def _values_of_linear(net: FeedForward, *, standardise: bool) -> RankValues:
    """Return the values of a linear net, from the subspace that holds all ranges."""
    small, scale = compress(net, standardise=standardise), net.problem.scale
    factor = small.ggn_factor
    if factor is not None:
        kept = factor[:, small.ggn_support]
        ggn = math.sqrt(scale) * torch.linalg.svdvals(kept.cpu())
    else:
        ggn = scale * _magnitudes(_eigenvalues(small.core("ggn")))
    return RankValues(
        hessian=scale * _eigenvalues(small.hessian),
        functional=scale * _eigenvalues(small.core("functional")),
        ggn=ggn,
        ggn_is_factor=factor is not None,
        size=small.num_params,
        method="compressed",
    )


def _eigenvalues(matrix: Tensor) -> Tensor:
    # On the CPU: GPU solvers lose digits on matrices of low rank.
    return torch.linalg.eigvalsh(matrix.cpu()).flip(0)
