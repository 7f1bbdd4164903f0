"""The character GPT: attention, causality, both ways of computing it."""

import math

import pytest
import torch

from curvescope import models


@pytest.fixture
def tokens(generator):
    return torch.randint(0, 169, (3, 32), generator=generator)


def _pair(generator):
    seed = generator.initial_seed()
    return tuple(
        models.build(
            "char-gpt",
            attention=kind,
            generator=torch.Generator().manual_seed(seed),
        )
        .double()
        .eval()
        for kind in ("sdpa", "plain")
    )


def test_sdpa_and_plain_attention_give_equal_logits(generator, tokens):
    fused, plain = _pair(generator)

    torch.testing.assert_close(fused(tokens), plain(tokens), rtol=1e-12, atol=1e-12)


def test_sdpa_and_plain_attention_give_equal_gradients(generator, tokens):
    gradients = []
    for network in _pair(generator):
        network(tokens).logsumexp(-1).square().mean().backward()
        gradients.append([p.grad for p in network.parameters()])

    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["sdpa", "plain"])
def test_no_position_sees_a_later_one(kind, tokens):
    network = models.build("char-gpt", attention=kind).eval()
    changed = tokens.clone()
    changed[:, 20:] = (changed[:, 20:] + 1) % 169

    before, after = network(tokens), network(changed)

    torch.testing.assert_close(before[:, :20], after[:, :20])
    assert not torch.allclose(before[:, 20:], after[:, 20:])


@pytest.mark.parametrize("kind", ["sdpa", "plain"])
def test_scores_are_divided_by_the_root_of_the_models_width(kind):
    network = models.build("char-gpt", attention=kind).double().requires_grad_(False)
    head = network.blocks[0].sa.heads[0]
    x = torch.randn(1, 2, 64, dtype=torch.float64)

    q, k, v = (x[0] @ m.weight.T for m in (head.query, head.key, head.value))
    a, b = math.exp(q[1] @ k[0] / 8), math.exp(q[1] @ k[1] / 8)
    expected = torch.stack([v[0], (a * v[0] + b * v[1]) / (a + b)])

    torch.testing.assert_close(head(x)[0], expected)


def test_a_short_sequence_is_taken_and_a_long_one_is_refused(tokens):
    network = models.build("char-gpt").eval()

    assert network(tokens[:, :5]).shape == (3, 5, 169)
    with pytest.raises(ValueError, match="`tokens` must have at most 32 positions"):
        network(torch.zeros(1, 33, dtype=torch.long))


def test_a_width_that_the_heads_cannot_share_is_refused():
    with pytest.raises(ValueError, match="`width` must be a multiple of `num_heads`"):
        models.build("char-gpt", width=10, num_heads=4)
