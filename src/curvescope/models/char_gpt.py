"""A small decoder-only transformer over characters.

Its attention has one query, key and value map per head, and divides the scores by the
root of the model's width, not of the head's: the published weights were trained so.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curvescope._core.checks import message, one_of, positive_int


class Head(nn.Module):
    """One head of causal self-attention, through SDPA or written out."""

    def __init__(self, width: int, size: int, context: int, attention: str) -> None:
        super().__init__()
        self.key = nn.Linear(width, size, bias=False)
        self.query = nn.Linear(width, size, bias=False)
        self.value = nn.Linear(width, size, bias=False)
        self.register_buffer("tril", torch.ones(context, context).tril())
        self.tril: Tensor
        self.scale = width**-0.5
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, time, width)`` to ``(batch, time, size)``."""
        query, key, value = self.query(x), self.key(x), self.value(x)
        if self.attention == "sdpa":
            return F.scaled_dot_product_attention(
                query, key, value, is_causal=True, scale=self.scale
            )
        time = x.shape[1]
        scores = query @ key.transpose(-2, -1) * self.scale
        hidden = self.tril[:time, :time] == 0
        return scores.masked_fill(hidden, float("-inf")).softmax(dim=-1) @ value


class MultiHead(nn.Module):
    """Heads beside each other, and a map of what they say together."""

    def __init__(self, width: int, num_heads: int, context: int, kind: str) -> None:
        super().__init__()
        size = width // num_heads
        self.heads = nn.ModuleList(
            Head(width, size, context, kind) for _ in range(num_heads)
        )
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, time, width)`` to the same shape."""
        return self.proj(torch.cat([head(x) for head in self.heads], dim=-1))


class FeedForward(nn.Module):
    """Two linear maps with a ReLU between, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, time, width)`` to the same shape."""
        return self.net(x)


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, num_heads: int, context: int, kind: str) -> None:
        super().__init__()
        self.sa = MultiHead(width, num_heads, context, kind)
        self.ffwd = FeedForward(width)
        self.ln1 = nn.LayerNorm(width)
        self.ln2 = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, time, width)`` to the same shape."""
        x = x + self.sa(self.ln1(x))
        return x + self.ffwd(self.ln2(x))


class CharGPT(nn.Module):
    """Token and position embeddings, pre-norm blocks, an untied head with bias."""

    def __init__(
        self,
        vocabulary_size: int,
        context: int,
        width: int,
        num_heads: int,
        num_blocks: int,
        attention: str,
    ) -> None:
        super().__init__()
        self.context = context
        self.token_embedding_table = nn.Embedding(vocabulary_size, width)
        self.position_embedding_table = nn.Embedding(context, width)
        self.blocks = nn.Sequential(
            *(Block(width, num_heads, context, attention) for _ in range(num_blocks))
        )
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, vocabulary_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ids ``(batch, time)`` to logits ``(batch, time, vocabulary_size)``."""
        time = tokens.shape[-1]
        if time > self.context:
            contract = f"have at most {self.context} positions, the context"
            raise ValueError(message("tokens", contract, time))
        positions = self.position_embedding_table.weight[:time]
        x = self.token_embedding_table(tokens) + positions
        return self.lm_head(self.ln_f(self.blocks(x)))


def char_gpt(
    *,
    vocabulary_size: int = 169,
    context: int = 32,
    width: int = 64,
    num_heads: int = 4,
    num_blocks: int = 4,
    attention: str = "sdpa",
) -> CharGPT:
    r"""Build a character-level GPT (223,145 parameters with the defaults).

    .. math:: \operatorname{softmax}(Q K^\top / \sqrt{\text{width}}) V

    Args:
        vocabulary_size: Number of tokens.
        context: Longest sequence.
        width: Width of the model, a multiple of ``num_heads``.
        num_heads: Heads in each block.
        num_blocks: Blocks.
        attention: ``sdpa`` (PyTorch's fused function) or ``plain`` (written out); the
            same numbers up to rounding.

    Returns:
        The network: ids ``(batch, time)`` to logits ``(batch, time, vocabulary_size)``.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> sum(p.numel() for p in char_gpt().parameters())
        223145

    References:
        Vaswani et al. (2017), arXiv:1706.03762; Radford et al. (2019), section 2.3
        (the pre-norm blocks).
    """
    positive_int("vocabulary_size", vocabulary_size)
    positive_int("context", context)
    positive_int("width", width)
    positive_int("num_heads", num_heads)
    positive_int("num_blocks", num_blocks)
    one_of("attention", attention, ("sdpa", "plain"))
    if width % num_heads:
        contract = f"be a multiple of `num_heads` = {num_heads}"
        raise ValueError(message("width", contract, width))
    return CharGPT(vocabulary_size, context, width, num_heads, num_blocks, attention)
