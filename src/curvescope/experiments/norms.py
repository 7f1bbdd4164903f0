"""Measures of a trained classifier that are said to foretell how it generalises.

They see a network and its training data, never a test set. Networks are perceptrons
with ReLU; whatever is random is drawn once and shared by all steps of a search.
"""

import math

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

# As published: the accuracy that a perturbation may cost.
DROP = 0.1
# Of parameters that are zero, in magnitude-aware perturbations.
_FLOOR = 1e-3
_SMALLEST, _LARGEST = 1e-6, 1e6
_ROUNDS = 10


def path_norm(model: nn.Module, num_inputs: int) -> float:
    r"""Return the square root of the sum over all paths of their squared weights.

    .. math:: \Bigl(\sum_k f_{\theta^2}(1)_k\Bigr)^{1/2}

    one pass of an input of ones through the network with squared parameters. Biases
    count as paths that begin at their layer.

    Args:
        model: Linear layers and ReLU.
        num_inputs: Width of the input.

    Returns:
        The norm; unlike the published code's it does not grow with a batch.

    Example:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> with torch.no_grad():
        ...     _ = net.weight.copy_(torch.tensor([[3.0, -4.0]]))
        >>> path_norm(net, 2)
        5.0

    References:
        Neyshabur, Salakhutdinov, Srebro (2015), arXiv:1506.02617.
    """
    squares = {
        name: p.detach().double().square() for name, p in model.named_parameters()
    }
    ones = torch.ones(1, num_inputs, dtype=torch.float64)
    with torch.no_grad():
        return math.sqrt(float(functional_call(model, squares, (ones,)).sum()))


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
    outputs_of = vmap(lambda w: functional_call(model, w, (inputs,)))

    def accuracy(sigma: float) -> float:
        moved = {}
        for name, p in weights.items():
            scale: Tensor | float = sigma
            if magnitude_aware:
                scale = (p.square() * sigma**2 + _FLOOR**2).sqrt()
            moved[name] = p + scale * noise[name]
        with torch.no_grad():
            return float((outputs_of(moved).argmax(dim=2) == labels).double().mean())

    with torch.no_grad():
        right = model(inputs).argmax(dim=1) == labels
    wanted = float(right.double().mean()) - drop
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
