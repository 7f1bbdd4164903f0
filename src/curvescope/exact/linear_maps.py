"""What the matrices of a linear net are made of: affine maps, and sums over the data.

Layers are counted from 0 to L-1 and layer l maps ``h_l`` to ``h_{l+1}``, with ``h_0 = x``.
Where any layer has a bias the inputs are extended, ``x~ = [x; 1]``; layer l sees
``[h_l; 1]`` if it has a bias itself, and ``h_l`` otherwise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import final

import torch
from torch import Tensor

from curvescope._core.checks import message
from curvescope.exact.network import FeedForward, Samples

# Entries of one chunk's largest temporary: 64 MiB of float64.
_CHUNK_ENTRIES = 2**23
_EPS = torch.finfo(torch.float64).eps


@final
@dataclass(frozen=True, kw_only=True)
class LinearMaps:
    """The affine maps of a linear net between its layers, its inputs and its outputs.

    Attributes:
        weights: ``W_l``, ``(m_{l+1}, m_l)``.
        has_bias: Whether layer l has a bias.
        extended: Whether any layer has one, so that inputs are ``[x; 1]``.
        to_output: ``A_l = W_{L-1} ... W_{l+1}``, ``(K, m_{l+1})``.
        from_input: ``B_l``, what layer l sees of ``x~``: ``(m_l + bias, d + extended)``.
    """

    weights: tuple[Tensor, ...]
    has_bias: tuple[bool, ...]
    extended: bool
    to_output: tuple[Tensor, ...]
    from_input: tuple[Tensor, ...]

    @property
    def num_layers(self) -> int:
        """L."""
        return len(self.weights)

    @property
    def num_inputs(self) -> int:
        """Entries of the extended input."""
        return self.weights[0].shape[1] + self.extended

    def hidden(self, layer: int) -> Tensor:
        """Return ``h_l`` as a map of the extended input, without the constant row."""
        return self.from_input[layer][: self.weights[layer].shape[1]]

    def between(self, late: int, early: int) -> Tensor:
        """Return ``C = W_{late-1} ... W_{early+1}``, from ``h_{early+1}`` to ``h_late``."""
        product = torch.eye(self.weights[early].shape[0]).to(self.weights[0])
        for weight in self.weights[early + 1 : late]:
            product = weight @ product
        return product


def linear_maps(net: FeedForward) -> LinearMaps:
    """Return the maps of a linear net.

    Args:
        net: Its activations must all be the identity.

    Returns:
        The maps, float64.

    Raises:
        ValueError: If an activation is not the identity.

    Cost:
        Products of the weights; no data.
    """
    if not net.is_linear:
        names = sorted({a.name for a in net.activations if not a.linear})
        remedy = "Use the assembly for any activation."
        raise ValueError(message("net", "be linear", ", ".join(names), remedy))
    weights = tuple(layer.weight for layer in net.layers)
    has_bias = tuple(layer.bias is not None for layer in net.layers)
    extended = any(has_bias)
    width = weights[0].shape[1]
    constant = torch.eye(width + 1).to(weights[0])[-1:]
    hidden = torch.eye(width, width + extended).to(weights[0])
    from_input = []
    for layer in net.layers:
        sees = hidden if layer.bias is None else torch.cat([hidden, constant])
        from_input.append(sees)
        hidden = layer.weight @ hidden
        if layer.bias is not None:
            hidden = hidden + torch.outer(layer.bias, constant[0])
    backwards = [torch.eye(weights[-1].shape[0]).to(weights[0])]
    for weight in reversed(weights[1:]):
        backwards.append(backwards[-1] @ weight)
    return LinearMaps(
        weights=weights,
        has_bias=has_bias,
        extended=extended,
        to_output=tuple(reversed(backwards)),
        from_input=tuple(from_input),
    )


def extend(inputs: Tensor, *, extended: bool) -> Tensor:
    """Return ``[x; 1]`` for every sample, or the inputs as they are."""
    return torch.nn.functional.pad(inputs, (0, 1), value=1.0) if extended else inputs


def chunk_size(entries_per_sample: int) -> int:
    """Return how many samples fit a chunk."""
    return max(1, _CHUNK_ENTRIES // max(1, entries_per_sample))


def triangle(rows: Tensor, more: Tensor) -> Tensor:
    """Return an upper triangle T with ``T'T`` that of both stacked, once it pays.

    Householder's QR keeps the digits of every column, however the columns are scaled.
    """
    stacked = torch.cat([rows, more])
    if len(stacked) <= 2 * stacked.shape[1]:
        return stacked
    return torch.linalg.qr(stacked, mode="r").R


@final
@dataclass(frozen=True, kw_only=True)
class DataSums:
    """What one pass over the data leaves of it.

    Attributes:
        inputs: T with ``T'T`` the sum of ``x~ x~'``, at most ``2 d`` rows.
        residual: Omega, the sum of ``delta x~'``, ``(K, d)``.
        noise: Bound of what rounding leaves in an entry of Omega.
        outputs: S with ``S'S`` the sum of the output Hessians, ``(<= 2 K, K)``; of their
            squares where the loss knows no formula for a factor.
        constant: The factor R of the output Hessian that all samples share, or ``None``.
        has_factor: Whether every output Hessian has one.
        shift_invariant: Whether gradients and Hessians of all samples know no shift of
            all outputs by one constant, as with cross-entropy.
    """

    inputs: Tensor
    residual: Tensor
    noise: float
    outputs: Tensor
    constant: Tensor | None
    has_factor: bool
    shift_invariant: bool


def data_sums(
    net: FeedForward, *, extended: bool, stored: FeedForward | None = None
) -> DataSums:
    """Pass over the data once.

    Args:
        net: Any feed-forward net.
        extended: Whether inputs get the constant 1 as a last entry.
        stored: The same net in the coordinates it was given in: its outputs have no
            rounding but that of the numbers themselves, which matters where they meet
            their targets.

    Returns:
        The sums, float64.

    Cost:
        ``O(n (d^2 + K^3))``, memory independent of ``n``.
    """
    width, num_outputs = net.widths[0] + extended, net.widths[-1]
    like = net.layers[0].weight
    inputs, outputs = like.new_zeros(0, width), like.new_zeros(0, num_outputs)
    residual = like.new_zeros(num_outputs, width)
    noise, invariant, has_factor, varies = 0.0, num_outputs > 1, True, False
    first: Tensor | None = None
    most = chunk_size(width + num_outputs**2)
    told = net.samples(most=most) if stored is None else stored.samples(most=most)
    for own_part, part in zip(net.samples(most=most), told, strict=True):
        extended_inputs = extend(own_part.inputs, extended=extended)
        factor = net.output_factors(part)
        has_factor = has_factor and factor is not None
        root = net.output_hessians(part) if factor is None else factor
        own = net.problem.loss.output_factor(part.outputs, part.targets)
        first = root[0] if first is None else first
        varies = varies or not bool((root == first).all())
        curved = net.output_hessians(part) if own is None else own
        # What underflows as a square is nothing in the matrix.
        curved = torch.where(curved**2 > 0, curved, 0.0)
        invariant = invariant and _ignores_shifts(net, part, curved)
        inputs = triangle(inputs, extended_inputs)
        outputs = triangle(outputs, curved.flatten(0, 1))
        residual = residual + part.gradients.T @ extended_inputs
        norms = part.gradients.norm(dim=1) * extended_inputs.norm(dim=1)
        noise += _EPS * float(norms.sum())
    return DataSums(
        inputs=inputs,
        residual=residual,
        noise=noise,
        outputs=outputs,
        constant=None if varies or not has_factor else first,
        has_factor=has_factor,
        shift_invariant=invariant,
    )


def _ignores_shifts(net: FeedForward, part: Samples, curvature: Tensor) -> bool:
    """Tell whether one number added to all outputs changes nothing.

    The loss itself is asked, since its gradients near a minimum are rounding alone.
    """
    loss, outputs = net.problem.loss, part.outputs
    unit = torch.ones_like(outputs[:1])
    ramp = torch.linspace(-1.0, 1.0, outputs.shape[1]).to(outputs)
    with torch.no_grad():
        before = loss.total(outputs, part.targets)
        shifted, bent = (
            max(
                abs(float(loss.total(outputs + c * direction, part.targets) - before))
                for c in (-1.0, 0.37, 1.0)
            )
            for direction in (unit, ramp)
        )
    slack = 16 * outputs.shape[1] * _EPS
    flat = curvature.sum(-1).abs().max() <= slack * curvature.abs().max()
    return shifted <= 1e-9 * bent and bool(flat)


def output_directions(sums: DataSums) -> Tensor:
    """Return an orthonormal basis of the outputs' directions that matter, ``(K, k)``.

    All of them, or those orthogonal to the vector of ones where shifts do not count: no
    direction is dropped for being small.
    """
    num_outputs = sums.residual.shape[0]
    if not sums.shift_invariant:
        return torch.eye(num_outputs).to(sums.residual)
    ones = torch.ones_like(sums.residual[:, :1])
    return torch.linalg.qr(ones, mode="complete").Q[:, 1:].contiguous()


def row_space(rows: Tensor, *, slack: float = 8.0) -> tuple[Tensor, Tensor]:
    """Return an orthonormal basis of the row space, and the singular values behind it.

    Columns are brought to one length first, so that a column of small numbers counts as
    much as one of large numbers; directions at the level of rounding are dropped.

    Args:
        rows: ``(n, d)``.
        slack: Threshold in units of ``d eps sigma_1``.

    Returns:
        The basis ``(d, r)`` and all singular values of the equilibrated matrix.
    """
    scale = rows.norm(dim=0)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    _, values, rows_t = torch.linalg.svd(rows / scale, full_matrices=False)
    largest = float(values[0]) if len(values) else 0.0
    rank = int((values > slack * rows.shape[1] * _EPS * largest).sum())
    basis = torch.linalg.qr(scale[:, None] * rows_t[:rank].T).Q
    return basis, values


def stacked_rows(
    net: FeedForward, *, extended: bool, inputs: Tensor, outputs: Tensor
) -> Tensor:
    """Return Z ``(any, k, r)`` with ``Z'Z`` the sum of ``Lambda kron x x'`` in two bases.

    Every output Hessian must have a factor.
    """
    k, r = outputs.shape[1], inputs.shape[1]
    rows = inputs.new_zeros(0, k * r)
    for part in net.samples(most=chunk_size(outputs.shape[0] * k * r)):
        factor = net.output_factors(part)
        if factor is None:
            msg = "an output Hessian lost the factor that it had"
            raise AssertionError(msg)
        seen = extend(part.inputs, extended=extended) @ inputs
        product = (factor @ outputs)[..., None] * seen[:, None, None, :]
        rows = triangle(rows, product.flatten(2).flatten(0, 1))
    return rows.view(len(rows), k, r)


def starts(sizes: Sequence[int]) -> list[int]:
    """Return where each of consecutive pieces starts, and where the last one ends."""
    return list(accumulate(sizes, initial=0))
