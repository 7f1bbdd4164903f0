"""One call for the dense matrices of any problem."""

import pytest
import torch
import torch.nn.utils.prune
from tests.cases import CASES
from tests.unit.exact.truth import (
    CROSS_ENTROPY,
    LOSSES,
    PARTS,
    assert_matrices,
    mlp,
    truth,
)
from torch import nn

from curvescope.exact import assembly
from curvescope.exact.assembly import functional_hessian, ggn, hessian, matrices
from curvescope.linalg import eigsh, numerical_rank
from curvescope.problem import Problem


def dense(found):
    return {part: A.matrix for part, A in found.computed.items()}


def ce_problem(model, **options):
    inputs, labels = torch.randn(9, 4).double(), torch.randint(0, 3, (9,))
    problem = Problem(model, "cross_entropy", (inputs, labels), batch_size=4, **options)
    return problem, truth(model, CROSS_ENTROPY.total, inputs, labels)


@pytest.mark.parametrize(
    ("activation", "route"), [(nn.Tanh, "closed form"), (nn.Identity, "kronecker")]
)
@pytest.mark.parametrize("case", LOSSES, ids=lambda c: c.id)
def test_scale_and_weight_decay_are_applied(activation, route, case):
    model = mlp((4, 5, 2, 3), activation)
    inputs, targets = torch.randn(8, 4).double(), case.targets(8)
    problem = Problem(
        model, case.loss, (inputs, targets), batch_size=3, weight_decay=0.25
    )

    found = matrices(problem)

    expected = truth(model, case.total, inputs, targets)
    undecayed = dense(found)
    for part in ("hessian", "ggn"):
        undecayed[part] = undecayed[part] - 0.25 * torch.eye(problem.num_params)
    assert found.method == route
    assert_matrices(undecayed, expected, scale=1.0 / case.denominator(targets))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_reduction_is_the_unit(reduction):
    problem, expected = ce_problem(mlp((4, 5, 3)), reduction=reduction)

    found = matrices(problem)

    scale = 1.0 if reduction == "sum" else 1.0 / 9.0
    assert_matrices(dense(found), expected, scale=scale)
    assert found.hessian.info.unit == problem.provenance("Hessian").unit


@pytest.mark.parametrize("method", ["auto", "closed form", "kronecker", "autodiff"])
def test_every_method_gives_the_same_matrices_of_a_linear_net(method):
    problem, expected = ce_problem(mlp((4, 5, 2, 3), nn.Identity), reduction="sum")

    found = matrices(problem, method=method)

    assert found.method == ("kronecker" if method == "auto" else method)
    assert_matrices(dense(found), expected)
    for part in PARTS:
        alone = matrices(problem, parts=(part,), method=method)
        assert_matrices(dense(alone), expected)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Identity])
@pytest.mark.parametrize(
    "params", ["weights", "*.bias", "2", ["0.weight", "4.bias"], "mask"]
)
def test_a_selection_is_the_principal_block(activation, params):
    problem, expected = ce_problem(mlp((4, 5, 2, 3), activation), reduction="sum")
    if params == "mask":
        params = torch.rand(problem.num_params) < 0.3
    chosen = problem.select(params)
    theta = torch.arange(problem.num_params).float()
    pieces = problem.layout.split(theta[None])
    named = dict(zip(problem.layout.names, pieces, strict=True))
    if isinstance(params, torch.Tensor):
        where = params.nonzero()[:, 0]
    else:
        where = torch.cat([named[n].flatten() for n in chosen.layout.names]).long()

    found = matrices(chosen)

    selected = {part: A[where][:, where] for part, A in expected.items()}
    assert found.hessian.shape == (len(where), len(where))
    assert_matrices(dense(found), selected)


def test_a_few_entries_of_a_large_net_need_no_large_matrix():
    model = mlp((4, 200, 200, 3))
    data = (torch.randn(5, 4).double(), torch.randint(0, 3, (5,)))
    problem = Problem(model, "cross_entropy", data, memory_limit=2**28)
    mask = torch.zeros(problem.num_params, dtype=torch.bool)
    mask[::5000] = True
    theta, some = problem.parameter_vector(), mask.nonzero()[:, 0]

    found = matrices(problem.select(mask), parts=("hessian",))

    def objective(entries):
        state, position = {}, 0
        for name, p in model.named_parameters():
            whole = theta.index_put((some,), entries)
            state[name] = whole[position : position + p.numel()].view(p.shape)
            position += p.numel()
        outputs = torch.func.functional_call(model, state, (data[0],))
        return nn.functional.cross_entropy(outputs, data[1])

    expected = torch.func.jacrev(torch.func.grad(objective))(theta[some])
    assert found.method == "autodiff"
    assert_matrices(dense(found), {"hessian": expected})


def test_each_matrix_alone_is_the_same_as_all_together():
    problem, _ = ce_problem(mlp((4, 5, 3)))

    together = matrices(problem)

    largest = float(together.hessian.matrix.abs().max())
    for part, function in zip(PARTS, (hessian, ggn, functional_hessian), strict=True):
        alone = function(problem)
        off = (alone.matrix - together.computed[part].matrix).abs().max()
        assert float(off) <= 1e-14 * largest
        assert alone.info.matrix == together.computed[part].info.matrix
        assert matrices(problem, parts=(part,)).computed.keys() == {part}


def test_a_module_that_is_no_feed_forward_net_is_differentiated():
    case = next(c for c in CASES if c.id == "partly-used")
    model, loss, inputs, targets = case.make()
    problem = Problem(model, loss, case.batches(inputs, targets))

    found = matrices(problem)

    expected = truth(model.eval(), case.oracle_loss, inputs, targets)
    assert found.method == "autodiff"
    assert found.cost.num_matvecs == 2 * problem.num_params
    assert_matrices(dense(found), expected)


def test_single_precision_is_promoted_with_a_note():
    model = mlp((4, 5, 3)).float()
    inputs, labels = torch.randn(6, 4), torch.randint(0, 3, (6,))
    problem = Problem(model, "cross_entropy", (inputs, labels), reduction="sum")

    found = matrices(problem)

    expected = truth(mlp_copy(model), CROSS_ENTROPY.total, inputs.double(), labels)
    assert found.hessian.dtype == torch.float64
    assert any("promoted" in note for note in found.notes)
    assert_matrices(dense(found), expected)


def mlp_copy(model):
    double = mlp((4, 5, 3))
    double.load_state_dict(model.state_dict())
    return double


def test_every_algorithm_takes_the_operators():
    problem, expected = ce_problem(mlp((4, 5, 3)), reduction="sum")
    H = hessian(problem)

    largest = float(torch.linalg.eigvalsh(expected["hessian"])[-1])

    assert H.symmetric
    assert float(eigsh(H, k=1, which="LA").eigenvalues[0]) == pytest.approx(largest)
    assert numerical_rank(H).rank == torch.linalg.matrix_rank(expected["hessian"])
    assert [s.name for s in H.info.slices] == list(problem.layout.names)


def test_nothing_of_the_model_changes():
    model = mlp((4, 5, 3)).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    problem, _ = ce_problem(model)
    for method in ("closed form", "autodiff"):
        matrices(problem, method=method)

    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_the_matrices_are_of_the_weights_as_they_are_now():
    model = mlp((4, 5, 3))
    problem, _ = ce_problem(model)
    before = hessian(problem).matrix
    with torch.no_grad():
        model[0].weight.mul_(2.0)

    assert not torch.allclose(hessian(problem).matrix, before)


@pytest.mark.parametrize("method", ["auto", "autodiff"])
def test_matrices_that_do_not_fit_are_refused_before_the_work(method):
    model = mlp((4, 40, 3))
    data = (torch.randn(3, 4).double(), torch.randint(0, 3, (3,)))
    problem = Problem(model, "cross_entropy", data, memory_limit=2**20)

    with pytest.raises(MemoryError, match=r"About \d+ parameters would fit"):
        matrices(problem, method=method)


def test_the_memory_that_is_free_counts_too(monkeypatch):
    problem, _ = ce_problem(mlp((4, 5, 3)))
    monkeypatch.setattr(assembly.memory, "available_memory", lambda device: 10_000)

    with pytest.raises(MemoryError, match="must have matrices that fit"):
        matrices(problem)


def test_wrong_arguments_say_what_is_right():
    problem, _ = ce_problem(mlp((4, 5, 3)))
    recurrent = next(c for c in CASES if c.id == "partly-used")
    model, loss, inputs, targets = recurrent.make()
    other = Problem(model, loss, (inputs, targets))

    with pytest.raises(ValueError, match="`parts` must be one of"):
        matrices(problem, parts=("fisher",))
    with pytest.raises(ValueError, match="`parts` must name some of"):
        matrices(problem, parts=())
    with pytest.raises(ValueError, match="`parts` must have no repetition"):
        matrices(problem, parts=("ggn", "ggn"))
    with pytest.raises(ValueError, match="`method` must be one of"):
        matrices(problem, method="magic")
    with pytest.raises(ValueError, match="net that is not linear"):
        matrices(problem, method="kronecker")
    with pytest.raises(ValueError, match="no feed-forward net"):
        matrices(other, method="closed form")
    with pytest.raises(TypeError, match="`problem` must be a Problem"):
        matrices(torch.eye(3))


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Identity])
@pytest.mark.parametrize("decay", [0.0, 0.25])
def test_a_bias_may_come_before_its_weight(activation, decay):
    # Pruning and weight norm leave it so, when they are removed.
    model = mlp((4, 5, 2, 3), activation)
    for layer in (model[0], model[-1]):
        nn.utils.prune.l1_unstructured(layer, "weight", 3)
        nn.utils.prune.remove(layer, "weight")
    assert next(iter(model.named_parameters()))[0].endswith("bias")

    problem, expected = ce_problem(model, reduction="sum", weight_decay=decay)
    found = matrices(problem)

    assert found.method == ("kronecker" if activation is nn.Identity else "closed form")
    got = dense(found)
    for part in ("hessian", "ggn"):
        got[part] = got[part] - decay * torch.eye(problem.num_params)
    assert_matrices(got, expected)


def test_one_layer_with_its_bias_first_is_in_the_order_of_its_parameters():
    model = mlp((4, 3))
    nn.utils.prune.l1_unstructured(model[0], "weight", 3)
    nn.utils.prune.remove(model[0], "weight")

    problem, expected = ce_problem(model, reduction="sum")

    assert_matrices(dense(matrices(problem)), expected)
