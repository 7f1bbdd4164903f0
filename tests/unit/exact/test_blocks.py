"""Blocks of layers, and their picture."""

import numpy as np
import pytest
import torch
from tests.unit.exact.truth import PARTS, mlp
from torch import nn

from curvescope.exact.assembly import ExactMatrices, hessian, matrices
from curvescope.exact.blocks import block_picture, layer_blocks
from curvescope.linop import DenseOperator, aslinearoperator
from curvescope.problem import Problem
from curvescope.results import Cost


def problem_of(model, num_samples=12):
    data = (torch.randn(num_samples, 4).double(), torch.randn(num_samples, 3).double())
    return Problem(model, "mse", data)


def test_blocks_are_views_named_by_pairs_of_layers():
    H = hessian(problem_of(mlp((4, 5, 2, 3))))

    blocks = layer_blocks(H)

    assert set(blocks) == {(a, b) for a in ("0", "2", "4") for b in ("0", "2", "4")}
    assert torch.equal(blocks["2", "0"], H.matrix[25:37, :25])
    assert torch.equal(blocks["0", "4"], H.matrix[:25, 37:])
    assert all(
        b.untyped_storage().data_ptr() == H.matrix.untyped_storage().data_ptr()
        for b in blocks.values()
    )


def test_layers_without_selected_parameters_have_no_block():
    problem = problem_of(mlp((4, 5, 2, 3))).select(["0", "4.bias"])

    blocks = layer_blocks(hessian(problem))

    assert {name for name, _ in blocks} == {"0", "4"}
    assert blocks["4", "0"].shape == (3, 25)


def test_parameters_of_the_model_itself_are_the_top_layer():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(3))
            self.inner = nn.Linear(4, 3)

        def forward(self, x):
            return self.gain * self.inner(x)

    blocks = layer_blocks(hessian(problem_of(Scaled().double())))

    assert blocks["(top)", "inner"].shape == (3, 15)


def test_a_plain_matrix_has_no_layers():
    with pytest.raises(ValueError, match="`matrix` must name its parameters"):
        layer_blocks(aslinearoperator(torch.eye(3)))


@pytest.mark.parametrize("activation", [nn.Identity, nn.ReLU])
def test_the_functional_hessian_of_piecewise_linear_nets_is_block_hollow(activation):
    found = matrices(problem_of(mlp((4, 5, 2, 3), activation)))

    picture = block_picture(found)

    assert picture.ranks["functional"].diagonal().tolist() == [0, 0, 0]
    assert picture.norms["functional"].diagonal().tolist() == [0.0, 0.0, 0.0]
    assert bool((picture.ranks["functional"].fill_diagonal_(1) > 0).all())


def test_ranks_and_norms_are_those_of_numpy():
    found = matrices(problem_of(mlp((4, 5, 2, 3), nn.Identity)))

    picture = block_picture(found)

    norm = max(np.linalg.norm(A.matrix.numpy(), 2) for A in found.computed.values())
    tolerance = found.hessian.shape[0] * np.finfo(float).eps * norm
    layers = picture.layers
    for part in PARTS:
        blocks = layer_blocks(found.computed[part])
        for i, row in enumerate(layers):
            for j, column in enumerate(layers):
                block = blocks[row, column].numpy()
                assert picture.norms[part][i, j] == pytest.approx(
                    np.linalg.norm(block), rel=1e-12
                )
                expected = np.linalg.matrix_rank(block, tol=tolerance)
                assert picture.ranks[part][i, j] == expected


@pytest.mark.parametrize("side", [7, 20, 1000])
def test_a_pixel_is_the_largest_magnitude_inside(side):
    found = matrices(problem_of(mlp((4, 5, 2, 3))), parts=("hessian",))
    size = found.hessian.shape[0]

    picture = block_picture(found, side=side, ranks=False)

    shown = picture.pictures["hessian"]
    pixels = min(side, size)
    assert shown.shape == (pixels, pixels)
    edges = [-(-i * size // pixels) for i in range(pixels + 1)]
    i, j = pixels // 2, pixels // 3
    inside = found.hessian.matrix[edges[i] : edges[i + 1], edges[j] : edges[j + 1]]
    assert float(shown[i, j]) == float(inside.abs().max())
    assert float(shown.max()) == float(found.hessian.matrix.abs().max())
    assert picture.ranks == {}
    assert picture.borders == pytest.approx((0.0, 25 / size, 37 / size, 1.0))


def test_a_picture_needs_a_matrix():
    nothing = ExactMatrices(
        hessian=None, ggn=None, functional=None, method="autodiff", cost=Cost()
    )

    with pytest.raises(ValueError, match="`matrices` must hold a matrix"):
        block_picture(nothing)


def test_a_picture_can_be_saved_and_loaded(tmp_path):
    import curvescope.results as results

    picture = block_picture(matrices(problem_of(mlp((4, 3, 3)))))
    picture.save(tmp_path, "blocks")

    again = results.load(tmp_path, "blocks")

    assert torch.equal(again.pictures["ggn"], picture.pictures["ggn"])
    assert again.rows() == picture.rows()


def test_blocks_take_any_dense_operator_with_named_parameters():
    H = hessian(problem_of(mlp((4, 3, 3))))
    double = DenseOperator(2.0 * H.matrix, symmetric=True, info=H.info)

    assert torch.equal(layer_blocks(double)["2", "0"], 2.0 * layer_blocks(H)["2", "0"])
