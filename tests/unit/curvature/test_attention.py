"""Attention by torch's kernels and written out: the same matrix, the same eigenpairs."""

import torch

import curvescope as cs
from curvescope import models


def problem(attention):
    model = models.build(
        "char-gpt", attention=attention, generator=torch.Generator().manual_seed(0)
    )
    generator = torch.Generator().manual_seed(1)
    text = torch.randint(0, 169, (3, 33), generator=generator)
    return cs.Problem(
        model,
        "cross_entropy",
        (text[:, :-1], text[:, 1:]),
        dtype=torch.float64,
    )


def test_products_through_sdpa_and_plain_attention_agree():
    V = torch.randn(223145, 2, generator=torch.Generator().manual_seed(2)).double()

    for matrix in (cs.Hessian, cs.GGN, cs.FunctionalHessian):
        sdpa, plain = matrix(problem("sdpa")) @ V, matrix(problem("plain")) @ V
        assert float((sdpa - plain).norm() / plain.norm()) < 1e-12
