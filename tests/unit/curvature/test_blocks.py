"""Products with all diagonal blocks at once, against dense blocks."""

import pytest
import torch
from tests.cases import CASES
from tests.conformance.oracles import Oracle
from torch import nn

from curvescope.curvature import GGN, EmpiricalFisher, FunctionalHessian, Hessian
from curvescope.curvature.blocks import DiagonalBlocks, FlopCount, sublayout
from curvescope.problem import Problem


def columns_for(blocks, num=2):
    return {
        name: torch.randn(size, num, dtype=torch.float64)
        for name, size in blocks.num_params.items()
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_all_blocks_of_any_hessian_are_multiplied_in_one_pass(case):
    D = Oracle(case).hessian()
    model, loss, inputs, targets = case.make()
    problem = Problem(model, loss, case.batches(inputs, targets))
    blocks = DiagonalBlocks(Hessian(problem), problem.layers())
    places = {s.name: range(s.start, s.stop) for s in problem.layout.slices()}
    V = columns_for(blocks)

    W = blocks.multiply(V)

    assert blocks.num_data_passes == 1
    size = float(D.abs().max()) or 1.0
    for name, names in problem.layers().items():
        at = torch.tensor([i for n in names for i in places[n]])
        assert torch.allclose(W[name], D[at][:, at] @ V[name], atol=1e-10 * size)


def small(activation=nn.Tanh, **options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), activation(), nn.Linear(5, 3)).double()
    X, y = torch.randn(9, 4).double(), torch.arange(9) % 3
    return Problem(net, "cross_entropy", (X, y), batch_size=4, **options)


@pytest.mark.parametrize("kind", [GGN, FunctionalHessian, EmpiricalFisher])
def test_blocks_of_other_matrices_are_theirs(kind):
    problem = small(weight_decay=0.3)
    matrix = kind(problem)
    D = matrix.to_dense()
    blocks = DiagonalBlocks(matrix, {"first": ["0.weight", "0.bias"]})
    V = columns_for(blocks)

    W = blocks.multiply(V)

    assert torch.allclose(W["first"], D[:25, :25] @ V["first"], atol=1e-12)


def test_blocks_of_a_mask_are_those_of_its_entries():
    mask = torch.zeros(5, 4, dtype=torch.bool)
    mask[1:3] = True
    problem = small(params={"0.weight": mask, "2.weight": torch.ones(3, 5).bool()})
    matrix = Hessian(problem)
    D = matrix.to_dense()
    blocks = DiagonalBlocks(matrix, {"a": ["0.weight"], "b": ["2.weight"]})
    V = columns_for(blocks)

    W = blocks.multiply(V)

    assert blocks.num_params == {"a": 8, "b": 15}
    assert torch.allclose(W["a"], D[:8, :8] @ V["a"], atol=1e-12)
    assert torch.allclose(W["b"], D[8:, 8:] @ V["b"], atol=1e-12)


def test_a_sublayout_in_another_order_joins_what_it_split():
    mask = torch.zeros(5, 4, dtype=torch.bool)
    mask[0] = True
    layout = small(params={"0.weight": mask, "2.bias": torch.ones(3).bool()}).layout

    part = sublayout(layout, [1, 0])

    V = torch.randn(2, 7)
    assert part.names == ("2.bias", "0.weight")
    assert torch.equal(part.join(part.split(V)), V)


def test_later_blocks_take_less_work_and_all_less_than_the_whole():
    net = nn.Sequential(
        *[m for _ in range(4) for m in (nn.Linear(16, 16), nn.Tanh())], nn.Linear(16, 2)
    )
    data = (torch.randn(8, 16), torch.zeros(8, dtype=torch.long))
    problem = Problem(net, "cross_entropy", data)
    blocks = DiagonalBlocks(Hessian(problem), problem.layers())
    batch = next(problem.batches())

    with problem.network.running(), torch.enable_grad():
        graph = blocks.on_batch(batch)
        counts = [graph.count(name) for name in blocks.num_params]
        whole = graph.count_whole()

    assert whole > counts[0] > counts[1] > counts[2] > counts[3] > counts[4] > 0


def test_operations_of_a_matrix_product_are_counted():
    with FlopCount() as count:
        _ = torch.ones(5, 7) @ torch.ones(7, 3)
        _ = torch.ones(5) + 1.0

    assert count.total == 2 * 5 * 7 * 3


def test_a_second_product_builds_no_graph_again():
    problem = small()
    blocks = DiagonalBlocks(Hessian(problem), problem.layers())
    V = columns_for(blocks)
    first = blocks.multiply(V)
    calls = []
    problem.model.register_forward_hook(lambda *_: calls.append(1))

    second = blocks.multiply(V)

    assert not calls
    assert all(torch.equal(first[name], second[name]) for name in V)


@pytest.mark.parametrize("names", [["3.weight"], []])
def test_blocks_of_unknown_or_no_parameters_are_refused(names):
    with pytest.raises(ValueError, match="`groups` must name selected parameters"):
        DiagonalBlocks(Hessian(small()), {"a": names})
