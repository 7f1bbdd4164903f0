"""Trap 15: fused attention has no second derivative.

Torch chooses a fused kernel for `scaled_dot_product_attention`, whose double backward
does not exist; every library fell. The plain kernel has one, and must be chosen in the
product only, not for the whole process.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from curvescope.testing.traps.common import (
    Batches,
    MakeHessian,
    attempt,
    reference_hessian,
    require_close,
)


class Attention(nn.Module):
    """One causal attention layer, fused or written out."""

    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 2)
        self.qkv = nn.Linear(2, 6)
        self.head = nn.Linear(2, 4)
        self.fused = fused

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (N, C, T)."""
        # One head of its own: fused kernels take four dimensions only.
        q, k, v = self.qkv(self.embed(tokens))[:, None].chunk(3, dim=-1)
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            length = q.shape[-2]
            future = torch.ones(length, length, dtype=torch.bool).triu(1)
            scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(future, -torch.inf)
            mixed = scores.softmax(-1) @ v
        return self.head(mixed[:, 0]).transpose(1, 2)


def check(make_hessian: MakeHessian) -> None:
    """Check fused attention's Hessian against that of attention written out.

    Raises:
        AssertionError: If they differ.
    """
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 4, (6, 4), generator=generator)
    labels = torch.randint(0, 4, (6, 4), generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fused = Attention(fused=True).double()
    plain = Attention(fused=False).double()
    plain.load_state_dict(fused.state_dict())
    loss = nn.CrossEntropyLoss()
    expected = reference_hessian(plain, loss, tokens, labels)
    got = attempt(make_hessian, fused, loss, [(tokens, labels)])
    require_close(got, expected, 1e-12, "fused attention")


def foil(model: nn.Module, loss: nn.Module, batches: Batches) -> Tensor:
    """Differentiate twice through whatever kernel torch chooses, which fails."""
    parameters = list(model.parameters())
    ((X, y),) = list(batches)
    grads = torch.autograd.grad(loss(model(X), y), parameters, create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in grads])
    rows = [torch.autograd.grad(e, parameters, retain_graph=True) for e in flat]
    return torch.stack([torch.cat([r.reshape(-1) for r in row]) for row in rows])
