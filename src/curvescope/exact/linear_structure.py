"""Facts about the spectra of linear nets, each from a matrix smaller than H."""

import torch
from torch import Tensor

from curvescope._core.checks import message
from curvescope.exact.linear_maps import data_sums, linear_maps
from curvescope.exact.network import FeedForward


def ggn_eigenvalues(net: FeedForward) -> Tensor:
    r"""Return the non-zero eigenvalues of a linear net's GGN from a ``K d`` matrix.

    .. math:: \operatorname{eig}(H_o) \setminus 0 = \operatorname{eig}\Big(\sum_l
        R A_l A_l^\top R^\top \otimes \Sigma^{1/2} B_l^\top B_l \Sigma^{1/2}\Big)

    with :math:`R^\top R = \Lambda` the output Hessian of every sample. Derived.

    Args:
        net: A linear net with a loss of constant output Hessian (squared error).

    Returns:
        At most ``K d`` eigenvalues of the loss sum's GGN, descending.

    Raises:
        ValueError: If the net is not linear, or the output Hessian varies.

    Cost:
        One pass over the data; eigenvalues of a matrix of size ``K d``, not P.
    """
    maps = linear_maps(net)
    sums = data_sums(net, extended=maps.extended)
    if sums.constant is None:
        remedy = "Use `compress` for other losses."
        got = type(net.problem.loss).__name__
        text = message("net", "have a loss of constant output Hessian", got, remedy)
        raise ValueError(text)
    rows = torch.linalg.qr(sums.inputs, mode="r").R
    small = rows.new_zeros(
        len(sums.constant) * len(rows), len(sums.constant) * len(rows)
    )
    for toward, sees in zip(maps.to_output, maps.from_input, strict=True):
        left, right = sums.constant @ toward, rows @ sees.T
        small += torch.kron(left @ left.T, right @ right.T)
    return torch.linalg.eigvalsh(small).flip(0)


def functional_eigenvalues(net: FeedForward) -> Tensor:
    r"""Return the non-zero eigenvalues of H_F of a linear net with one hidden layer.

    They are :math:`\pm \sigma_j(\Omega)`, each as often as the hidden layer is wide. With
    two hidden layers or more the spectrum is not symmetric. Derived.

    Args:
        net: A linear net with one hidden layer.

    Returns:
        ``2 m_1 min(K, d)`` numbers, descending, those of the loss sum.

    Raises:
        ValueError: If the net is not linear or has another depth.

    Cost:
        One pass over the data and the singular values of :math:`\Omega`.
    """
    maps = linear_maps(net)
    if maps.num_layers != 2:
        got = f"{maps.num_layers - 1} hidden layers"
        raise ValueError(message("net", "have one hidden layer", got))
    sums = data_sums(net, extended=maps.extended)
    seen = sums.residual @ maps.from_input[0].T
    values = torch.linalg.svdvals(seen).repeat_interleave(net.widths[1])
    return torch.cat([values, -values.flip(0)])


def plateaus(
    eigenvalues: Tensor, *, relative_tolerance: float = 1e-9
) -> list[tuple[float, int]]:
    """Group eigenvalues that are equal up to rounding.

    With orthogonal weights whose widths do not increase towards the output,
    ``m_1 >= m_2 >= ... >= K``, every eigenvalue of a linear net's GGN is K-fold (squared
    error); with whitened inputs and hidden layers of one width, at least
    ``max(d, K)``, there is one plateau of L.

    Args:
        eigenvalues: Real numbers in any order.
        relative_tolerance: Largest distance of neighbours, relative to the largest
            magnitude.

    Returns:
        Value (the mean) and multiplicity of every plateau, descending.

    Raises:
        ValueError: If ``eigenvalues`` is not a vector.

    Cost:
        A sort.

    Example:
        >>> plateaus(torch.tensor([1.0, 3.0, 1.0]).double())
        [(3.0, 1), (1.0, 2)]
    """
    if eigenvalues.ndim != 1:
        shape = tuple(eigenvalues.shape)
        raise ValueError(message("eigenvalues", "be a vector", f"shape {shape}"))
    values = eigenvalues.sort(descending=True).values
    if not len(values):
        return []
    slack = relative_tolerance * float(values.abs().max())
    breaks = ((values[:-1] - values[1:]) > slack).nonzero()[:, 0] + 1
    groups = torch.tensor_split(values, breaks.cpu())
    return [(float(group.mean()), len(group)) for group in groups]
