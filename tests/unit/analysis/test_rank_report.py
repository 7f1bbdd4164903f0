import itertools
import math
import warnings

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jacrev

import curvescope as cs
from curvescope.results import RankReport, load

FLOAT = torch.float64
TRUTH = {"hessian": 104, "ggn": 48, "functional": 72}  # 12-6-5-4, no bias, r = 12


def linear_net(weights):
    layers = []
    for weight in weights:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=FLOAT)
        with torch.no_grad():
            layer.weight.copy_(weight)
        layers.append(layer)
    return nn.Sequential(*layers)


def glorot(widths, generator):
    return [
        torch.randn(b, a, generator=generator, dtype=FLOAT) * math.sqrt(2 / (a + b))
        for a, b in itertools.pairwise(widths)
    ]


def draw(*shape, generator):
    return torch.randn(*shape, generator=generator, dtype=FLOAT)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def ranks(report):
    return {name: rank.rank for name, rank in report.measured.items()}


def exact_ranks(report):
    return {name: rank.certified for name, rank in report.measured.items()}


def dense_ranks(problem, loss):
    """Ranks of the three matrices by NumPy's rule, from torch.func alone."""
    model = problem.model
    names = [name for name, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]
    theta = torch.cat([p.detach().flatten() for p in model.parameters()])
    batch = next(iter(problem.batches()))

    def outputs(vector):
        pieces = vector.split([shape.numel() for shape in shapes])
        state = {
            n: piece.view(s) for n, piece, s in zip(names, pieces, shapes, strict=True)
        }
        return functional_call(model, state, (batch.inputs,))

    H = jacrev(grad(lambda v: loss(outputs(v), batch.targets)))(theta)
    J = jacrev(outputs)(theta).flatten(0, 1)
    f = outputs(theta).detach()
    middle = jacrev(grad(lambda u: loss(u.view_as(f), batch.targets)))(f.flatten())
    G = J.T @ middle @ J
    return {
        "hessian": int(torch.linalg.matrix_rank(H)),
        "ggn": int(torch.linalg.matrix_rank(G)),
        "functional": int(torch.linalg.matrix_rank(H - G)),
    }


@pytest.mark.parametrize("activation", [nn.Identity, nn.ReLU, nn.Tanh, nn.SiLU])
@pytest.mark.parametrize("bias", [False, True])
def test_ranks_are_those_of_dense_matrices_and_certified(activation, bias, generator):
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Linear(5, 4, bias=bias), activation(), nn.Linear(4, 3, bias=bias)
    ).double()
    X, y = draw(40, 5, generator=generator), torch.arange(40) % 3
    problem = cs.Problem(model, "cross_entropy", (X, y), reduction="sum")

    report = cs.rank_report(problem)

    loss = nn.CrossEntropyLoss(reduction="sum")
    assert ranks(report) == dense_ranks(problem, loss)
    assert {r.verdict for r in report.measured.values()} == {"certified"}
    assert report.agrees
    assert report.predicted["hessian"].agrees(report.hessian.rank)


def test_a_convolution_is_measured_without_claims(generator):
    model = nn.Sequential(
        nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 3, 3), nn.Tanh(), nn.Flatten(),
        nn.Linear(12, 2),
    ).double()  # fmt: skip
    X, y = draw(30, 6, generator=generator), torch.arange(30) % 2
    problem = cs.Problem(model, "cross_entropy", (X, y), reduction="sum")

    report = cs.rank_report(problem)

    assert ranks(report) == dense_ranks(problem, nn.CrossEntropyLoss(reduction="sum"))
    assert report.predicted == {}
    assert report.hessian.verdict == "certain"
    assert report.eigenvalues.shape == (problem.num_params,)


def test_a_selection_of_parameters_has_its_own_ranks(generator):
    weights = glorot((4, 3, 2), generator)
    X, Y = draw(20, 4, generator=generator), draw(20, 2, generator=generator)
    problem = cs.Problem(linear_net(weights), "mse", (X, Y), params="0.weight")

    report = cs.rank_report(problem)

    # One layer's own block: A'A (x) X'X, and nothing functional.
    assert ranks(report) == {"hessian": 8, "ggn": 8, "functional": 0}
    assert report.predicted == {}


@pytest.mark.parametrize("scale", [1e-5, 1e-8, 1e-12])
def test_a_column_of_small_numbers_hides_no_direction(scale, generator):
    weights = glorot((12, 6, 5, 4), generator)
    X, Y = draw(60, 12, generator=generator), draw(60, 4, generator=generator)
    X[:, 0] *= scale
    problem = cs.Problem(linear_net(weights), "half_squared_error", (X, Y))

    for certify in (True, False):
        report = cs.rank_report(problem, certify=certify)

        assert ranks(report) == TRUTH
        assert all(rank.certain for rank in report.measured.values())


def _hard_cases():
    """Cases in which NumPy's default tolerance gives wrong ranks."""
    g = torch.Generator().manual_seed(3)
    X, Y = draw(60, 12, generator=g), draw(60, 4, generator=g)
    weights = glorot((12, 6, 5, 4), g)
    f = X
    for weight in weights:
        f = f @ weight.T
    noise = draw(60, 4, generator=g)
    deep = [torch.rand(6, 6, generator=g, dtype=FLOAT) / 6 for _ in range(9)]
    deep.append(torch.rand(4, 6, generator=g, dtype=FLOAT) / 6)
    narrow = glorot((6, *[4] * 20, 3), g)
    return {
        "mean 1e6": (weights, X + 1e6, Y),
        "residual 1e-10": (weights, X, f + 1e-10 * noise),
        "residual 1e-13": (weights, X, f + 1e-13 * noise),
        "uniform, 9 hidden layers": (deep, X[:, :6], Y),
        "glorot, 20 hidden layers": (narrow, X[:, :6], Y[:, :3]),
    }


@pytest.mark.parametrize("name", list(_hard_cases()))
def test_where_float64_cannot_tell_nothing_wrong_is_certain(name):
    weights, X, Y = _hard_cases()[name]
    problem = cs.Problem(linear_net(weights), "half_squared_error", (X, Y))

    report = cs.rank_report(problem)

    predicted = {n: p.value for n, p in report.predicted.items()}
    assert exact_ranks(report) == predicted
    if len(weights) == 3:
        assert predicted == TRUTH
    for matrix, rank in report.measured.items():
        right = rank.rank == predicted[matrix]
        assert right == (rank.verdict == "certified")
        assert right == rank.certain


def test_a_residual_below_rounding_leaves_the_rank_undetermined_without_proof():
    weights, X, Y = _hard_cases()["residual 1e-13"]
    problem = cs.Problem(linear_net(weights), "half_squared_error", (X, Y))

    report = cs.rank_report(problem, certify=False)

    assert report.ggn.verdict == "certain"
    assert report.hessian.verdict == report.functional.verdict == "undetermined"


def test_two_labels_of_four_make_the_residual_poor_and_the_ranks_smaller(generator):
    # The published formula takes s = min(r, K) = 6 and predicts 51 for F.
    weights = glorot((6, 3, 4, 6), generator)
    X = draw(20, 6, generator=generator)
    Y = torch.nn.functional.one_hot(torch.arange(20) % 2, 6).to(FLOAT)
    problem = cs.Problem(linear_net(weights), "half_squared_error", (X, Y))

    report = cs.rank_report(problem)

    assert report.facts["residual_rank"] <= 5
    assert ranks(report) == {"functional": 45, "ggn": 27, "hessian": 51}
    assert report.agrees
    assert report.predicted["functional"].status == "fitted"


def test_a_middle_weight_of_rank_two_is_measured_and_bounded(generator):
    weights = glorot((12, 6, 5, 4), generator)
    left = torch.randint(-3, 4, (5, 2), generator=generator).to(FLOAT)
    right = torch.randint(-3, 4, (2, 6), generator=generator).to(FLOAT)
    weights[1] = left @ right  # integers: the rank is 2 exactly
    X, Y = draw(60, 12, generator=generator), draw(60, 4, generator=generator)
    problem = cs.Problem(linear_net(weights), "half_squared_error", (X, Y))

    report = cs.rank_report(problem)

    assert ranks(report) == {"functional": 68, "ggn": 36, "hessian": 84}
    assert {r.verdict for r in report.measured.values()} == {"certified"}
    assert report.predicted["ggn"].value == 36
    assert report.predicted["ggn"].claim == "equal"
    assert report.agrees


def test_inputs_of_low_rank_up_to_rounding_are_certain_and_explained(generator):
    weights = glorot((12, 6, 5, 4), generator)
    X = draw(60, 6, generator=generator) @ draw(6, 12, generator=generator)
    Y = draw(60, 4, generator=generator)
    problem = cs.Problem(linear_net(weights), "half_squared_error", (X, Y))

    report = cs.rank_report(problem)

    assert report.facts["input_rank"] == 6
    assert report.agrees
    assert all(rank.certain for rank in report.measured.values())
    assert report.hessian.certified == TRUTH["hessian"]  # as stored: r = 12
    assert report.hessian.verdict == "certain"
    assert any("up to rounding" in note for note in report.notes)


def test_what_holds_up_to_rounding_is_predicted_beside_what_is_stored(generator):
    left, right = draw(5, 2, generator=generator), draw(2, 6, generator=generator)
    weights = [*glorot((12, 6), generator), left @ right, *glorot((5, 4), generator)]
    X, Y = draw(60, 12, generator=generator), draw(60, 4, generator=generator)
    problem = cs.Problem(linear_net(weights), "half_squared_error", (X, Y))

    report = cs.rank_report(problem)

    # A middle weight of rank 2 whose product was rounded: 5 as it is stored.
    assert (report.ggn.rank, report.ggn.certified) == (36, TRUTH["ggn"])
    assert report.ggn.verdict == "certain"
    assert {n: p.value for n, p in report.certified_predictions.items()} == TRUTH
    assert exact_ranks(report) == TRUTH
    assert report.rows()[1]["certified_prediction"] == TRUTH["ggn"]
    assert any(
        "ranks of the weights (6, 2, 4) up to rounding, (6, 5, 4) exactly" in note
        for note in report.notes
    )


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("loss", ["half_squared_error", "cross_entropy", "logcosh"])
@pytest.mark.parametrize("activation", [nn.Identity, nn.Tanh])
def test_inputs_that_are_all_zero_leave_what_biases_see(bias, loss, activation):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(3, 4, bias=bias), activation(), nn.Linear(4, 2, bias=bias)
    ).double()
    y = torch.tensor([0, 1, 1, 1])
    targets = y if loss == "cross_entropy" else torch.eye(2, dtype=FLOAT)[y]
    problem = cs.Problem(model, loss, (torch.zeros(4, 3, dtype=FLOAT), targets))

    report = cs.rank_report(problem)

    k = 1 if loss == "cross_entropy" else 2
    # All samples are one: the outputs' Jacobian has their number of directions.
    assert report.ggn.rank == (k if bias else 0)
    assert {r.verdict for r in report.measured.values()} == {"certified"}
    assert report.agrees


def test_a_saturated_loss_claims_no_more_than_ceilings(generator):
    weights = glorot((6, 7, 3, 6), generator)
    X = draw(5, 6, generator=generator) + 100
    problem = cs.Problem(
        linear_net(weights), "logcosh", (X, torch.zeros(5, 6).double())
    )

    report = cs.rank_report(problem)

    assert report.facts["flat_samples"] > 0
    assert report.predicted["ggn"].claim == "at_most"
    assert report.certified_predictions["ggn"].claim == "equal"
    assert report.certified_predictions["ggn"].value == report.ggn.certified


def test_float32_is_promoted_and_said(generator):
    weights = glorot((12, 6, 5, 4), generator)
    X, Y = draw(60, 12, generator=generator), draw(60, 4, generator=generator)
    model = linear_net(weights).float()
    problem = cs.Problem(model, "half_squared_error", (X.float(), Y.float()))

    report = cs.rank_report(problem)

    assert ranks(report) == TRUTH
    assert "promoted" in report.notes[0]
    assert model[0].weight.dtype == torch.float32


def test_ranks_do_not_depend_on_the_unit_of_the_loss(generator):
    weights = glorot((6, 4, 3), generator)
    X, Y = draw(30, 6, generator=generator), draw(30, 3, generator=generator)

    def measured(factor):
        loss = cs.Loss(lambda f, y: factor * ((f - y) ** 2).sum(), reduction="sum")
        return ranks(cs.rank_report(cs.Problem(linear_net(weights), loss, (X, Y))))

    assert measured(1e-12) == measured(1.0) == measured(1e12)


def test_eigenvalues_of_a_compressed_net_are_those_of_its_hessian(generator):
    weights = glorot((7, 4, 5, 3), generator)
    X, Y = draw(20, 7, generator=generator), draw(20, 3, generator=generator)
    problem = cs.Problem(linear_net(weights), "mse", (X, Y))

    report = cs.rank_report(problem)

    dense = torch.linalg.eigvalsh(cs.Hessian(problem).to_dense()).flip(0)
    torch.testing.assert_close(report.eigenvalues, dense, rtol=0, atol=1e-12)
    assert report.hessian.method == "compressed"


def test_an_estimate_says_that_it_is_one_and_holds_the_rank(generator):
    weights = glorot((12, 6, 5, 4), generator)
    X, Y = draw(60, 12, generator=generator), draw(60, 4, generator=generator)
    problem = cs.Problem(linear_net(weights), "half_squared_error", (X, Y))

    report = cs.rank_report(problem, method="estimate", num_probes=8, num_steps=110)

    for name, rank in report.measured.items():
        assert rank.verdict == "estimated"
        assert abs(rank.rank - TRUTH[name]) <= 3 * rank.standard_error + 0.5
    assert report.cost.num_matvecs > 0


def test_nothing_of_the_users_changes(generator):
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.Linear(3, 2)).train()
    X, y = draw(10, 4, generator=generator).float(), torch.arange(10) % 2
    before = {n: t.clone() for n, t in model.state_dict().items()}
    stream = torch.random.get_rng_state()

    cs.rank_report(cs.Problem(model, "cross_entropy", (X, y)))

    assert model.training
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(stream, torch.random.get_rng_state())


def test_a_report_survives_saving(tmp_path, generator):
    weights = glorot((4, 3, 2), generator)
    X, Y = draw(20, 4, generator=generator), draw(20, 2, generator=generator)
    report = cs.rank_report(cs.Problem(linear_net(weights), "mse", (X, Y)))

    report.save(tmp_path, "ranks")
    again = load(tmp_path, "ranks")

    assert isinstance(again, RankReport)
    assert again.rows() == report.rows()
    assert again.predicted["ggn"] == report.predicted["ggn"]


def test_weight_decay_is_refused_since_it_fills_every_rank(generator):
    X, Y = draw(5, 2, generator=generator), draw(5, 1, generator=generator)
    model = nn.Linear(2, 1).double()
    problem = cs.Problem(model, "mse", (X, Y), weight_decay=0.1)

    with pytest.raises(ValueError, match="`weight_decay` must be 0 for ranks"):
        cs.rank_report(problem)


@pytest.mark.parametrize("option", [{"method": "fast"}, {"certify": "perhaps"}])
def test_unknown_options_are_refused(option, generator):
    X, Y = draw(5, 2, generator=generator), draw(5, 1, generator=generator)
    problem = cs.Problem(nn.Linear(2, 1).double(), "mse", (X, Y))

    with pytest.raises(ValueError, match="must be one of"):
        cs.rank_report(problem, **option)


def test_a_loss_without_an_exact_form_says_why_there_is_no_certificate(generator):
    X, Y = draw(20, 3, generator=generator), draw(20, 2, generator=generator)
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    problem = cs.Problem(model, nn.HuberLoss(), (X, Y))

    report = cs.rank_report(problem)

    assert report.hessian.certified is None
    assert any("not certified" in note for note in report.notes)


def test_a_loss_linear_in_the_outputs_has_no_ggn(generator):
    model = nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(1)).double()
    X, y = draw(20, 4, generator=generator), torch.arange(20) % 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = cs.rank_report(cs.Problem(model, "nll", (X, y)))

    assert report.ggn.rank == 0
    assert report.hessian.rank == report.functional.rank == 2 * 5


def test_an_estimate_is_never_above_what_theory_bounds(generator):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 9), nn.Tanh(), nn.Linear(9, 7)).double()
    X, y = draw(12, 8, generator=generator), torch.arange(12) % 7
    problem = cs.Problem(model, "cross_entropy", (X, y))

    report = cs.rank_report(problem, method="estimate", num_probes=4, num_steps=8)

    assert report.agrees
    assert report.ggn.rank == 12 * 6  # from its factor: exact
    assert report.ggn.verdict == "certain"
    assert any("do not resolve zero" in note for note in report.notes)
    truth = cs.rank_report(problem).hessian.rank
    assert abs(report.hessian.rank - truth) <= report.hessian.standard_error


def test_inputs_whose_squares_underflow_are_refused(generator):
    X, Y = draw(9, 5, generator=generator) * 1e-200, draw(9, 2, generator=generator)
    problem = cs.Problem(nn.Linear(5, 2).double(), "mse", (X, Y))

    with pytest.raises(ValueError, match="rescale the inputs"):
        cs.rank_report(problem)


@pytest.mark.parametrize("bias", [False, True])
def test_samples_without_loss_leave_no_equality_claimed(bias, generator):
    weights = [nn.Linear(5, 3, bias=bias), nn.Linear(3, 7, bias=bias)]
    model = nn.Sequential(*weights, nn.Linear(7, 5, bias=bias)).double()
    X = draw(3, 5, generator=generator)
    data = (X, torch.tensor([-100, 1, 2]))  # the first sample is ignored

    report = cs.rank_report(cs.Problem(model, nn.CrossEntropyLoss(), data))

    assert report.ggn.rank == report.ggn.certified == 8
    assert report.predicted["ggn"].claim == "at_most"
    assert report.agrees


def test_gradients_that_sum_to_zero_have_formulas_of_their_own(generator):
    layers = [nn.Linear(6, 4), nn.Linear(4, 3)]
    model = nn.Sequential(*layers).double()
    X = torch.randint(-3, 4, (16, 6), generator=generator).double()
    Y = torch.randint(-3, 4, (16, 3), generator=generator).double()
    with torch.no_grad():
        for layer in layers:
            layer.weight.copy_(torch.randint(-3, 4, layer.weight.shape))
            layer.bias.copy_(torch.randint(-2, 3, layer.bias.shape))
        layers[-1].bias -= (model(X) - Y).mean(0)  # sixteenths: exact

    report = cs.rank_report(cs.Problem(model, "half_squared_error", (X, Y)))

    assert report.facts["balanced"]
    assert report.agrees
    assert {r.verdict for r in report.measured.values()} == {"certified"}
