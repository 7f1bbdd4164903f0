"""The problems that every operator is tested on: the only list of them.

A case is small, in float64 and smooth (but for its in-place ReLUs), with batches of
several sizes. Its `oracle_loss` is torch's own mean over all the data at once.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import curvescope.losses as losses


@dataclass(frozen=True)
class Case:
    """A model, a loss and data; the sizes are those of its ragged batches."""

    id: str
    model: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    targets: Callable[[], Tensor]
    loss: object
    oracle_loss: Callable[[Tensor, Tensor], Tensor]
    sizes: tuple[int, ...] = (3, 1, 4)
    samples_are_rows: bool = True

    def make(self):
        """Return (model, loss, inputs, targets), the same at every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            model = self.model().double()
            _unfreeze_statistics(model)
            inputs = self.inputs()
            inputs = inputs.double() if inputs.is_floating_point() else inputs
            targets = self.targets()
        targets = targets.double() if targets.is_floating_point() else targets
        return model, self.loss, inputs, targets

    def batches(self, inputs, targets):
        """Split the data into batches of unequal sizes."""
        return list(
            zip(inputs.split(self.sizes), targets.split(self.sizes), strict=True)
        )


def _unfreeze_statistics(model):
    """Give norm layers statistics and weights that are not those of an identity."""
    with torch.no_grad():
        for module in model.modules():
            if getattr(module, "running_mean", None) is not None:
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
            if "Norm" in type(module).__name__:
                for parameter in module.parameters(recurse=False):
                    parameter.add_(0.3 * torch.randn_like(parameter))


class SmallCNN(nn.Module):
    """Stride, dilation, groups and a bias; BatchNorm after each convolution but one."""

    def __init__(self):
        super().__init__()
        self.c1 = nn.Conv2d(1, 2, 3, padding=1, stride=2)
        self.b1 = nn.BatchNorm2d(2)
        self.c2 = nn.Conv2d(2, 4, 3, groups=2, dilation=2, padding=2, bias=False)
        self.b2 = nn.BatchNorm2d(4)
        self.c3 = nn.Conv2d(4, 2, 1)
        self.head = nn.Linear(2, 3)

    def forward(self, x):
        x = torch.tanh(self.b1(self.c1(x)))
        x = F.softplus(self.b2(self.c2(x)))
        return self.head(torch.tanh(self.c3(x)).mean((2, 3)))


class AwkwardCNN(nn.Module):
    """What a folding of BatchNorm into convolutions can get wrong, all in one net."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 3, padding=1)
        self.first = nn.BatchNorm2d(2)  # not directly after a convolution
        self.twice = nn.Conv2d(2, 2, 1)  # its output is used twice
        self.second = nn.BatchNorm2d(2, affine=False)
        self.third = nn.Conv2d(2, 2, 3, padding="same", padding_mode="circular")
        self.up = nn.ConvTranspose2d(2, 2, 2)
        self.fourth = nn.BatchNorm2d(2)
        self.register_buffer("mean", torch.tensor([0.2, -0.1]))
        self.register_buffer("variance", torch.tensor([0.7, 1.2]))
        self.gain = nn.Parameter(torch.tensor([1.1, -0.6]))
        self.head = nn.Linear(2, 3)

    def forward(self, x):
        x = self.first(torch.tanh(self.stem(x)))
        y = self.twice(x)
        z = self.second(y) + 0.5 * y + x
        z = F.batch_norm(self.third(z), self.mean, self.variance, weight=self.gain)
        z = z.add_(0.1).sigmoid_() + 0.1 * y
        z = self.fourth(self.up(z))
        return self.head(torch.tanh(z).mean((2, 3)))


class InplaceReLU(nn.Module):
    """ReLUs and a residual sum in place."""

    def __init__(self):
        super().__init__()
        self.c1 = nn.Conv2d(1, 2, 3, padding=1, bias=False)
        self.b1 = nn.BatchNorm2d(2)
        self.c2 = nn.Conv2d(2, 2, 3, padding=1)
        self.b2 = nn.BatchNorm2d(2)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(2, 3)

    def forward(self, x):
        x = torch.tanh(self.b1(self.c1(x)))
        y = self.b2(self.c2(x))
        y += x
        return self.head(self.relu(y).mean((2, 3)))


class GRUNet(nn.Module):
    """A recurrent layer."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 4, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.gru(x)[0][:, -1])


class EncoderLM(nn.Module):
    """A transformer layer of torch, with the head tied to the embedding."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.layer = nn.TransformerEncoderLayer(
            4, 2, 6, batch_first=True, activation="gelu"
        )
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.layer(self.embed(x)))


class CausalLM(nn.Module):
    """Causal attention by `scaled_dot_product_attention`, head and embedding tied."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.qkv = nn.Linear(4, 12)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        h = self.embed(x)
        q, k, v = self.qkv(self.norm(h)).unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.head(h + mixed.transpose(1, 2).flatten(2))


class Norms(nn.Module):
    """Every norm layer whose derivatives torch can get wrong (and one unused layer)."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.layer = nn.LayerNorm(8)
        self.group = nn.GroupNorm(2, 8)
        self.rms = nn.RMSNorm(8)
        self.instance = nn.InstanceNorm1d(2, affine=True)
        self.running = nn.InstanceNorm1d(2, affine=True, track_running_stats=True)
        self.head = nn.Linear(8, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        x = torch.tanh(self.layer(self.first(x)))
        x = self.rms(torch.tanh(self.group(x)))
        x = torch.tanh(self.instance(x.unflatten(1, (2, 4))))
        return self.head(self.running(x).flatten(1))


class Partly(nn.Module):
    """Unused parameters, and ones that enter linearly only."""

    def __init__(self):
        super().__init__()
        self.never = nn.Parameter(torch.ones(3))
        self.shift = nn.Parameter(torch.zeros(2))
        self.hidden = nn.Linear(4, 3)
        self.head = nn.Linear(3, 2, bias=False)

    def forward(self, x):
        return self.head(torch.tanh(self.hidden(x))) + self.shift


def mlp(outputs=3):
    """A small tanh network."""
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, outputs))


def token_mean(logits, labels):
    """Torch's mean over the tokens of sequence logits (N, T, V)."""
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def _labels(classes, *shape):
    return lambda: torch.randint(0, classes, shape)


def _randn(*shape):
    return lambda: torch.randn(shape)


def _padded():
    labels = torch.randint(0, 6, (8, 3))
    labels[0, 1:] = labels[4, 2:] = labels[7] = -100
    return labels


def _partly_ignored():
    labels = torch.randint(0, 3, (8,))
    labels[[1, 5, 6]] = -100
    return labels


_WEIGHT = torch.tensor([0.3, 2.0, 5.0], dtype=torch.float64)
_ROWS, _CE = _labels(3, 8), F.cross_entropy
_X, _IMAGES = _randn(8, 4), _randn(8, 1, 6, 6)

CASES = (
    Case("mlp-ce", mlp, _X, _ROWS, "cross_entropy", _CE),
    Case(
        "mlp-weighted-ce",
        mlp,
        _X,
        _ROWS,
        nn.CrossEntropyLoss(weight=_WEIGHT),
        lambda f, y: F.cross_entropy(f, y, weight=_WEIGHT),
    ),
    Case(
        "mlp-ignored-smoothed-ce",
        mlp,
        _X,
        _partly_ignored,
        losses.CrossEntropy(weight=_WEIGHT, label_smoothing=0.2),
        lambda f, y: F.cross_entropy(f, y, weight=_WEIGHT, label_smoothing=0.2),
    ),
    Case(
        "mlp-soft-ce",
        mlp,
        _X,
        lambda: torch.rand(8, 3).softmax(-1),
        losses.CrossEntropy(weight=_WEIGHT, label_smoothing=0.1),
        lambda f, y: F.cross_entropy(f, y, weight=_WEIGHT, label_smoothing=0.1),
    ),
    Case(
        "mlp-mse",
        mlp,
        _X,
        _randn(8, 3),
        "mse",
        lambda f, y: (f - y).square().mean(),
    ),
    Case(
        "mlp-half-squared-error",
        mlp,
        _X,
        _randn(8, 3),
        "half_squared_error",
        lambda f, y: 0.5 * (f - y).square().sum() / len(f),
    ),
    Case(
        "mlp-bce",
        mlp,
        _X,
        lambda: torch.rand(8, 3),
        nn.BCEWithLogitsLoss(pos_weight=_WEIGHT),
        lambda f, y: F.binary_cross_entropy_with_logits(f, y, pos_weight=_WEIGHT),
    ),
    Case(
        "mlp-logcosh",
        mlp,
        _X,
        _randn(8, 3),
        "logcosh",
        lambda f, y: torch.log(torch.cosh(f - y)).sum() / len(f),
    ),
    Case(
        "mlp-nll",
        lambda: nn.Sequential(mlp(), nn.LogSoftmax(-1)),
        _X,
        _ROWS,
        nn.NLLLoss(weight=_WEIGHT),
        lambda f, y: F.nll_loss(f, y, weight=_WEIGHT),
    ),
    Case(
        "mlp-poisson",
        mlp,
        _X,
        lambda: torch.randint(0, 4, (8, 3)).float(),
        nn.PoissonNLLLoss(),
        F.poisson_nll_loss,
    ),
    Case(
        "mlp-callable",
        mlp,
        _X,
        _randn(8, 3),
        losses.Loss(
            lambda f, y: ((f - y) ** 4).mean(), reduction="mean", denominator="elements"
        ),
        lambda f, y: ((f - y) ** 4).mean(),
    ),
    Case("cnn", SmallCNN, _IMAGES, _ROWS, "cross_entropy", _CE, sizes=(5, 3)),
    Case(
        "cnn-awkward",
        AwkwardCNN,
        _randn(8, 1, 4, 4),
        _ROWS,
        "cross_entropy",
        _CE,
        sizes=(5, 3),
    ),
    Case("cnn-inplace", InplaceReLU, _randn(8, 1, 4, 4), _ROWS, "cross_entropy", _CE),
    Case("gru", GRUNet, _randn(8, 3, 3), _ROWS, "cross_entropy", _CE),
    Case("norms", Norms, _X, _ROWS, "cross_entropy", _CE),
    Case(
        "partly-used",
        Partly,
        _X,
        _randn(8, 2),
        "mse",
        lambda f, y: (f - y).square().mean(),
    ),
    Case(
        "encoder-padded",
        EncoderLM,
        _labels(6, 8, 3),
        _padded,
        losses.CrossEntropy(class_dim=-1),
        token_mean,
        samples_are_rows=False,
    ),
    Case(
        "causal-lm",
        CausalLM,
        _labels(6, 8, 4),
        _labels(6, 8, 4),
        "causal_lm",
        lambda f, y: token_mean(f[:, :-1], y[:, 1:]),
        samples_are_rows=False,
    ),
)
