"""Measures of a trained classifier that are said to foretell how it generalises.

They see a network and its training data, never a test set. Networks are perceptrons, or
convolutional networks with batch norm in eval mode, with ReLU; whatever is random is
drawn once and shared by all steps of a search.
"""

import copy
import math

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.utils.fusion import fuse_conv_bn_eval

from curvescope._core.checks import message

# As published: the accuracy that a perturbation may cost.
DROP = 0.1
# Of parameters that are zero, in magnitude-aware perturbations.
_FLOOR = 1e-3
_SMALLEST, _LARGEST = 1e-6, 1e6
_ROUNDS = 10


def path_norm(model: nn.Module, shape: int | tuple[int, ...]) -> float:
    r"""Return the square root of the sum over all paths of their squared weights.

    .. math:: \Bigl(\sum_k f_{\theta^2}(1)_k\Bigr)^{1/2}

    one pass of an input of ones through the network with squared parameters. Biases
    count as paths that begin at their layer. Where paths are alternatives (max-pooling)
    the largest counts, as published. Batch norms are taken into their convolutions
    first: the published code squares scale and shift and keeps the running moments, so
    that a shift of the mean enters with a negative sign.

    Args:
        model: Linear layers, convolutions with or without batch norm, pooling, ReLU.
        shape: Of one input, without the batch.

    Returns:
        The norm; unlike the published code's it does not grow with a batch.

    Raises:
        ValueError: If a batch norm follows no convolution.

    Example:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> with torch.no_grad():
        ...     _ = net.weight.copy_(torch.tensor([[3.0, -4.0]]))
        >>> path_norm(net, 2)
        5.0

    References:
        Neyshabur, Salakhutdinov, Srebro (2015), arXiv:1506.02617.
    """
    model = without_batch_norm(model)
    squares = {
        name: p.detach().double().square() for name, p in model.named_parameters()
    }
    sizes = (shape,) if isinstance(shape, int) else shape
    device = next(model.parameters()).device
    ones = torch.ones(1, *sizes, dtype=torch.float64, device=device)
    with torch.no_grad():
        return math.sqrt(float(functional_call(model, squares, (ones,)).sum()))


def without_batch_norm(model: nn.Module) -> nn.Module:
    """Return the same function in eval mode, batch norms taken into convolutions.

    Args:
        model: Batch norms stand right after their convolutions, in a sequence.

    Returns:
        A copy in eval mode; the model itself if there is no batch norm.

    Raises:
        ValueError: If a batch norm follows no convolution.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval()
        >>> images = torch.ones(1, 1, 4, 4)
        >>> torch.allclose(without_batch_norm(net)(images), net(images), atol=1e-5)
        True
    """
    if not any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
        return model
    model = copy.deepcopy(model).eval()
    for sequence in [m for m in model.modules() if isinstance(m, nn.Sequential)]:
        for i in range(1, len(sequence)):
            conv, norm = sequence[i - 1], sequence[i]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                sequence[i - 1] = fuse_conv_bn_eval(conv, norm)
                sequence[i] = nn.Identity()
    if any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
        contract = "have each batch norm right after a convolution, in a sequence"
        raise ValueError(message("model", contract, type(model).__name__))
    return model


def spectral_complexity(
    model: nn.Module, inputs: Tensor, labels: Tensor, *, quantile: float = 0.1
) -> float:
    r"""Return the margin-normalised product of spectral norms.

    .. math:: \frac1\gamma \prod_l \|W_l\|_2
        \Bigl(\sum_l \frac{\|W_l\|_F^2}{\|W_l\|_2^2}\Bigr)^{1/2}

    Args:
        model: Linear layers and ReLU.
        inputs: Of the training data.
        labels: Likewise.
        quantile: The margin :math:`\gamma` is this quantile of the training margins.

    Returns:
        The measure; NaN where the margin is not above 0.

    References:
        Neyshabur, Bhojanapalli, Srebro (2018), arXiv:1707.09564.
    """
    with torch.no_grad():
        outputs = model(inputs).double()
        own = outputs.gather(1, labels[:, None])[:, 0]
        others = outputs.scatter(1, labels[:, None], -math.inf).amax(dim=1)
        margin = float((own - others).quantile(quantile))
        weights = [p.double() for p in model.parameters() if p.ndim == 2]
        spectral = torch.stack([torch.linalg.matrix_norm(W, 2) for W in weights])
        frobenius = torch.stack([torch.linalg.matrix_norm(W) for W in weights])
    if margin <= 0.0:
        return math.nan
    ratios = float((frobenius / spectral).square().sum())
    return float(spectral.prod()) * math.sqrt(ratios) / margin


def sharpness(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    magnitude_aware: bool = False,
    drop: float = DROP,
    num_draws: int = 20,
    seed: int = 0,
    batch_size: int | None = None,
) -> float:
    r"""Return :math:`1/\sigma^2` of the noise on the weights that costs some accuracy.

    .. math:: \theta_i + \sigma\,\varepsilon_i \quad\text{or}\quad
        \theta_i + (\sigma^2 \theta_i^2 + 10^{-6})^{1/2} \varepsilon_i,\qquad
        \varepsilon_i \sim N(0, 1)

    sigma is found by bisection so that the mean training accuracy over the draws falls
    by ``drop``; each draw keeps its direction, so that the search is of one function.

    Args:
        model: The network.
        inputs: Of the training data.
        labels: Likewise.
        magnitude_aware: Which of the two noises.
        drop: Of the accuracy.
        num_draws: Perturbations.
        seed: Of these.
        batch_size: Inputs at once, one perturbation after the other; by default all of
            both at once, which only small networks bear.

    Returns:
        The measure; NaN where no noise up to 1e6 costs so much accuracy.

    References:
        Jiang et al. (2020), arXiv:1912.02178; Dziugaite, Roy (2017), arXiv:1703.11008.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    noise = {
        name: torch.randn((num_draws, *p.shape), generator=generator, dtype=p.dtype)
        for name, p in weights.items()
    }

    def accuracy(sigma: float) -> float:
        moved = {}
        for name, p in weights.items():
            scale: Tensor | float = sigma
            if magnitude_aware:
                scale = (p.square() * sigma**2 + _FLOOR**2).sqrt()
            moved[name] = p + scale * noise[name].to(p.device)
        with torch.no_grad():
            right = (
                _right_at_once(model, moved, inputs, labels)
                if batch_size is None
                else _right_in_batches(model, moved, inputs, labels, batch_size)
            )
        return right / (num_draws * len(labels))

    own = {name: p[None] for name, p in weights.items()}
    with torch.no_grad():
        right = _right_in_batches(
            model, own, inputs, labels, batch_size or max(1, len(labels))
        )
    wanted = right / len(labels) - drop
    if wanted <= 0.0:
        return math.nan
    low, high = _SMALLEST, _SMALLEST
    while accuracy(high) > wanted:
        low, high = high, 4.0 * high
        if high > _LARGEST:
            return math.nan
    for _ in range(_ROUNDS):
        middle = math.sqrt(low * high)
        if accuracy(middle) > wanted:
            low = middle
        else:
            high = middle
    return 1.0 / (low * high)


def _right_at_once(
    model: nn.Module, moved: dict[str, Tensor], inputs: Tensor, labels: Tensor
) -> float:
    """Count right predictions of all networks whose weights are stacked."""
    outputs = vmap(lambda w: functional_call(model, w, (inputs,)))(moved)
    return float((outputs.argmax(dim=2) == labels).sum())


def _right_in_batches(
    model: nn.Module,
    moved: dict[str, Tensor],
    inputs: Tensor,
    labels: Tensor,
    batch_size: int,
) -> float:
    """Count the same, one network and batch after the other."""
    device, found = next(model.parameters()).device, 0.0
    for draw in range(len(next(iter(moved.values())))):
        own = {name: p[draw] for name, p in moved.items()}
        for start in range(0, len(labels), batch_size):
            part = slice(start, start + batch_size)
            outputs = functional_call(model, own, (inputs[part].to(device),))
            found += float((outputs.argmax(dim=1).cpu() == labels[part].cpu()).sum())
    return found
