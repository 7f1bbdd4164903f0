"""Trap 2: the mean's denominator is not the number of samples.

With class weights, an ignored label, padded tokens or label smoothing beside them, a
mean divides by the weights of the labels that count. Weighting batches by their sizes
is then wrong: by 9.5 % and 30 % in a careful library.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from curvescope.testing.traps.common import (
    Batches,
    MakeHessian,
    attempt,
    reference_hessian,
    require_close,
    small_data,
    small_net,
    split,
)

SPLITS = ((10,), (8, 2), (1, 9), (4, 3, 2, 1))


class _Tagger(nn.Module):
    """Tokens (N, T) to logits (N, C, T)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embed(tokens))).transpose(1, 2)


def problems() -> dict[str, tuple[nn.Module, nn.Module, Tensor, Tensor]]:
    """Return (model, loss, inputs, targets) of every kind of denominator."""
    X, y = small_data()
    weight = torch.tensor([0.2, 1.0, 6.0], dtype=torch.float64)
    ignored = y.clone()
    ignored[[0, 3, 8]] = -100
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 5, (10, 4), generator=generator)
    tags = torch.randint(0, 4, (10, 4), generator=generator)
    for row, length in enumerate((4, 1, 3, 2, 4, 4, 1, 2, 3, 1)):
        tags[row, length:] = -1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tagger = _Tagger().double()
    smooth = nn.CrossEntropyLoss(weight=weight, label_smoothing=0.1)
    return {
        "class weights": (small_net(), nn.CrossEntropyLoss(weight=weight), X, y),
        "ignored labels": (small_net(), nn.CrossEntropyLoss(), X, ignored),
        "label smoothing": (small_net(), smooth, X, ignored),
        "padded tokens": (tagger, nn.CrossEntropyLoss(ignore_index=-1), tokens, tags),
    }


def check(
    make_hessian: MakeHessian, *, splits: Sequence[Sequence[int]] = SPLITS
) -> None:
    """Check that every split gives the full batch's Hessian, for every denominator.

    Raises:
        AssertionError: If one does not, to 1e-12 in float64.
    """
    for kind, (model, loss, X, y) in problems().items():
        expected = reference_hessian(model, loss, X, y)
        for sizes in splits:
            got = attempt(make_hessian, model, loss, split(X, y, sizes))
            require_close(got, expected, 1e-12, f"{kind}, batches of {tuple(sizes)}")


def foil(model: nn.Module, loss: nn.Module, batches: Batches) -> Tensor:
    """Weight the batches' matrices by their sizes, which is right for plain means only."""
    pairs = [(len(y), reference_hessian(model, loss, X, y)) for X, y in batches]
    total = sum(size for size, _ in pairs)
    return torch.stack([size / total * H for size, H in pairs]).sum(0)
