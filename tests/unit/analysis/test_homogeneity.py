"""Steps along kinds of directions: copies of the model, linear nets, known subspaces."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from curvescope.analysis import homogeneity
from curvescope.curvature import GGN, Hessian
from curvescope.linalg import eigsh
from curvescope.problem import Problem
from curvescope.results import load


def net():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def data(num=23, seed=4):
    torch.manual_seed(seed)
    return torch.randn(num, 4).double(), torch.arange(num) % 3


def make(model=None, seed=4, num=23, **options):
    return Problem(
        model or net(), "cross_entropy", data(num, seed), batch_size=7, **options
    )


def test_along_one_eigenvector_every_number_is_that_of_a_copy_with_these_weights():
    problem = make()
    X, y = data()
    model = problem.model
    theta = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    values, vectors = torch.linalg.eigh(Hessian(problem).to_dense())
    v = vectors[:, values.abs().argmax()]

    found = homogeneity(
        problem, num_top=1, directions=["top"], step_lengths=[2.0, 0.5], num_draws=4
    )

    own = model(X).argmax(-1)
    truth = {}
    for sign in (1.0, -1.0):
        rows = []
        for step in (0.5, 2.0):
            other = copy.deepcopy(model)
            moved = theta + sign * step * v
            torch.nn.utils.vector_to_parameters(moved, other.parameters())
            outputs = other(X).detach()
            labels = outputs.argmax(-1)
            rows.append(
                (
                    float(cross_entropy(outputs, y)),
                    float((labels == own).double().mean()),
                    float((labels == y).double().mean()),
                )
            )
        truth[sign] = rows
    for draw in range(4):
        measured = [
            tuple(
                float(by_kind["top"][draw, place])
                for by_kind in (found.losses, found.agreements, found.accuracies)
            )
            for place in range(2)
        ]
        assert any(
            torch.allclose(torch.tensor(measured), torch.tensor(truth[sign]), atol=1e-9)
            for sign in truth
        )
        assert float(found.curvatures["top"][draw]) == pytest.approx(
            float(values.abs().max()), rel=1e-8
        )
    assert found.step_lengths.tolist() == [0.5, 2.0]


def test_a_linear_model_without_bias_is_flat_where_the_inputs_are_not():
    torch.manual_seed(0)
    X = torch.zeros(10, 6).double()
    X[:, :2] = torch.randn(10, 2)
    model = nn.Linear(6, 3, bias=False).double()
    problem = Problem(model, "cross_entropy", (X, torch.arange(10) % 3))

    # Rank 2 x (3 - 1) = 4: 14 directions are flat, whatever the step.
    found = homogeneity(problem, num_top=4, num_bottom=14, step_lengths=[1.0, 1e4])

    assert found.num_vectors == {"top": 4, "bottom": 14, "random": 18}
    base = torch.full((5, 2), found.loss, dtype=torch.float64)
    torch.testing.assert_close(found.losses["bottom"], base, rtol=1e-6, atol=1e-8)
    assert bool((found.agreements["bottom"] == 1.0).all())
    assert bool((found.losses["top"][:, 1] > 100.0).any())
    assert bool((found.agreements["top"][:, 1] < 1.0).any())


def test_the_complement_is_orthogonal_to_the_top(monkeypatch):
    monkeypatch.setattr("curvescope.analysis.directions._DENSE_AUTODIFF", 8)
    monkeypatch.setattr("curvescope.analysis.directions._DENSE_CLOSED_FORM", 8)
    problem = make()
    values = torch.linalg.eigvalsh(Hessian(problem).to_dense())
    rest = values[values.abs().argsort(descending=True)][6:]

    found = homogeneity(problem, num_pairs=6, num_draws=20, step_lengths=[0.1])

    assert found.kinds == ("top", "complement", "random")
    assert found.num_vectors["complement"] == problem.num_params - 6
    bends = found.curvatures["complement"]
    assert float(bends.max()) <= float(rest.max()) + 1e-9
    assert float(bends.min()) >= float(rest.min()) - 1e-9
    assert any(
        "orthogonal to the computed eigenvectors" in note for note in found.notes
    )


def test_the_control_has_the_mean_curvature_of_the_whole_space():
    problem = make()
    H = Hessian(problem).to_dense()

    found = homogeneity(
        problem, directions=["random"], num_draws=400, step_lengths=[0.1]
    )

    draws = found.curvatures["random"]
    mean = float(H.trace()) / problem.num_params
    error = float(draws.std()) / 20
    assert abs(float(draws.mean()) - mean) < 4 * error
    assert error < 0.3 * mean


def test_top_directions_bend_most_and_the_control_lies_between():
    found = homogeneity(make(), num_top=2, num_bottom=10, step_lengths=[0.1, 1.0])

    top, control, flat = (
        found.curvatures[k].abs().mean() for k in ("top", "random", "bottom")
    )
    assert top > control > flat
    rise = {
        kind: float((found.losses[kind][:, 1] - found.loss).mean())
        for kind in found.kinds
    }
    assert rise["top"] > rise["random"] > rise["bottom"]


def test_other_data_are_evaluated_along_the_same_directions():
    model = net()
    problem, test = make(model), make(model, seed=9, num=11)

    both = homogeneity(problem, test=test, num_draws=2, step_lengths=[0.3])
    alone = homogeneity(problem, num_draws=2, step_lengths=[0.3])
    itself = homogeneity(problem, test=problem, num_draws=2, step_lengths=[0.3])

    for kind in both.kinds:
        assert torch.equal(both.losses[kind], alone.losses[kind])
        assert torch.equal(itself.test_losses[kind], itself.losses[kind])
    assert both.test_loss == pytest.approx(test.evaluate().loss)
    assert "test_label_agreement" in both.rows()[0]
    assert "test_label_agreement" not in alone.rows()[0]


def test_binary_labels_agree_by_the_sign_of_the_logit():
    torch.manual_seed(0)
    X = torch.randn(30, 2).double()
    y = (X[:, :1] > 0).double()
    model = nn.Linear(2, 1).double()
    problem = Problem(model, "bce_with_logits", (X, y))

    found = homogeneity(
        problem, directions=["top"], num_top=1, step_lengths=[3.0], num_draws=1
    )

    theta = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    _, vectors = torch.linalg.eigh(Hessian(problem).to_dense())
    agreements, losses = [], []
    for sign in (-3.0, 3.0):
        other = copy.deepcopy(model)
        torch.nn.utils.vector_to_parameters(
            theta + sign * vectors[:, -1], other.parameters()
        )
        agreements.append(float(((other(X) > 0) == (model(X) > 0)).double().mean()))
        losses.append(float(binary_cross_entropy_with_logits(other(X), y).detach()))
    side = min((0, 1), key=lambda i: abs(losses[i] - float(found.losses["top"])))
    assert float(found.losses["top"]) == pytest.approx(losses[side])
    assert float(found.agreements["top"]) == pytest.approx(agreements[side])


def test_a_regression_has_no_labels_to_agree():
    model = nn.Linear(2, 1).double()
    problem = Problem(model, "mse", (torch.eye(2).double(), torch.ones(2, 1).double()))

    found = homogeneity(problem, num_top=1, step_lengths=[1.0])

    assert found.agreements == {}
    assert found.accuracies == {}
    assert set(found.measures()) == {"loss"}


def test_ignored_positions_count_in_no_agreement():
    model = nn.Linear(2, 2, bias=False).double()
    X = torch.randn(8, 2).double()
    y = torch.tensor([0, 1, 0, 1, -100, -100, -100, -100])
    half = Problem(copy.deepcopy(model), "cross_entropy", (X[:4], y[:4]))
    whole = Problem(model, "cross_entropy", (X, y))

    left, right = (homogeneity(p, step_lengths=[2.0], num_top=1) for p in (half, whole))

    torch.testing.assert_close(left.agreements["random"], right.agreements["random"])


class Interrupting(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.left = net(), 10**9

    def forward(self, x):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return self.inner(x)


def test_an_interrupted_run_leaves_the_model_and_goes_on_with_its_draws(tmp_path):
    model = Interrupting()
    problem = Problem(model, "cross_entropy", data(), batch_size=23)
    pairs = eigsh(Hessian(problem), k=4)
    options = {"eigenpairs": pairs, "step_lengths": [0.1, 1.0], "num_draws": 4}
    whole = homogeneity(problem, **options)
    before = {n: p.clone() for n, p in model.state_dict().items()}

    model.left = 20
    with pytest.raises(KeyboardInterrupt):
        homogeneity(problem, **options, folder=tmp_path)
    after = model.state_dict()
    resumed = homogeneity(problem, **options, folder=tmp_path)

    assert all(torch.equal(after[name], before[name]) for name in before)
    assert (tmp_path / "rows" / "state.json").is_file()
    for kind in whole.kinds:
        assert torch.equal(resumed.losses[kind], whole.losses[kind])
    # 12 draws of 3 passes each; six draws were there.
    assert -model.left <= 36 - 18 + 4


def test_results_save_load_and_print(tmp_path):
    found = homogeneity(make(), step_lengths=[0.1, 1.0])
    found.save(tmp_path, "homogeneity")

    back = load(tmp_path, "homogeneity")

    assert str(back) == str(found)
    assert back.rows() == found.rows()
    row = found.rows()[0]
    assert row["loss_low"] <= row["loss"] <= row["loss_high"]
    draws = found.losses["top"][:, 0]
    assert row["loss"] == pytest.approx(float(draws.median()))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"step_lengths": []}, "`step_lengths` must be finite"),
        ({"step_lengths": [0.0]}, "`step_lengths` must be finite"),
        ({"num_draws": 0}, "`num_draws` must be at least 1"),
        ({"num_top": 1000}, "`num_top` must be at most 43"),
        ({"num_bottom": 1000}, "`num_bottom` must be at most 43"),
        ({"directions": ["up"]}, "`directions` must be one of"),
        ({"directions": ["top", "top"]}, "have no repetition"),
        ({"directions": ["complement"], "num_top": 43}, "leave directions outside"),
    ],
)
def test_wrong_arguments_are_named(options, text):
    with pytest.raises(ValueError, match=text):
        homogeneity(make(), **options)


def test_other_data_must_be_of_the_same_model():
    with pytest.raises(ValueError, match="`test` must be the same model"):
        homogeneity(make(), test=make())
    with pytest.raises(TypeError, match="`test` must be a Problem"):
        homogeneity(make(), test=net())


def test_saved_rows_of_other_eigenpairs_are_not_taken(tmp_path):
    problem = make()
    of_ggn = eigsh(GGN(problem), k=6)
    of_hessian = eigsh(Hessian(problem), k=6)

    def measure(pairs, folder=None):
        return homogeneity(
            problem,
            num_top=2,
            directions=["top"],
            num_draws=2,
            step_lengths=[1.0],
            eigenpairs=pairs,
            folder=folder,
        ).losses["top"]

    first = measure(of_ggn, tmp_path)
    second = measure(of_hessian, tmp_path)

    assert not torch.allclose(first, measure(of_hessian), atol=1e-6)
    assert torch.equal(second, measure(of_hessian))
    # The same values with other vectors are others too.
    turned = dataclasses.replace(
        of_hessian, eigenvectors=of_hessian.eigenvectors.flip(1)
    )
    assert torch.equal(measure(turned, tmp_path), measure(turned))


def test_eigenvectors_that_are_not_orthonormal_are_refused():
    problem = make()
    pairs = eigsh(Hessian(problem), k=4)
    for vectors in (3.0 * pairs.eigenvectors, pairs.eigenvectors * math.nan):
        other = dataclasses.replace(pairs, eigenvectors=vectors)
        with pytest.raises(ValueError, match="hold orthonormal eigenvectors"):
            homogeneity(problem, eigenpairs=other)


def test_bottom_of_a_large_net_is_refused_before_anything_is_computed(monkeypatch):
    def never(*_, **__):
        raise AssertionError

    monkeypatch.setattr("curvescope.analysis.directions._DENSE_AUTODIFF", 8)
    monkeypatch.setattr("curvescope.analysis.directions._DENSE_CLOSED_FORM", 8)
    monkeypatch.setattr("curvescope.analysis.directions.eigsh", never)

    with pytest.raises(ValueError, match="not need the flattest eigenvectors"):
        homogeneity(make(), directions=["random", "bottom"])


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"step_lengths": "ab"}, TypeError, "`step_lengths` must hold real numbers"),
        ({"directions": []}, ValueError, "`directions` must name one or more"),
        ({"directions": 3}, TypeError, "`directions` must name one or more"),
        ({"generator": 3}, TypeError, "`generator` must be a Generator"),
        ({"folder": 5}, TypeError, "`folder` must be a path"),
        ({"folder": "/proc/x"}, OSError, "`folder` must be a folder that can"),
    ],
)
def test_wrong_kinds_of_arguments_are_named(options, kind, text):
    with pytest.raises(kind, match=text):
        homogeneity(make(), **options)
