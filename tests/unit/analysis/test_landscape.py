"""Surfaces against copies of the model that were written into, and closed forms."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from curvescope._core.errors import ChangedDuringComputationError
from curvescope.analysis import loss_surface
from curvescope.analysis.directions import filter_normalised
from curvescope.curvature import Hessian
from curvescope.linalg import eigsh
from curvescope.losses import Loss
from curvescope.problem import Problem
from curvescope.results import load

NAMES = ["top", "bottom", "complement", "random", "gradient", "filter"]


def net(dtype=torch.float64):
    torch.manual_seed(3)
    layers = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    return layers.to(dtype)


def data(num=23, dtype=torch.float64):
    torch.manual_seed(4)
    return torch.randn(num, 4, dtype=dtype), torch.arange(num) % 3


def make(**options):
    return Problem(net(), "cross_entropy", data(), batch_size=7, **options)


def written(model, vector):
    """Return a copy of the model whose parameters are ``vector``."""
    other = copy.deepcopy(model)
    torch.nn.utils.vector_to_parameters(vector, other.parameters())
    return other.eval()


def bits(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_bits(model, before):
    after = model.state_dict()
    return all(torch.equal(after[name], before[name]) for name in before)


def quadratic(curvatures):
    """A loss that is a known quadratic form of a linear model's weights."""
    rows = torch.diag(torch.tensor(curvatures, dtype=torch.float64).sqrt())
    model = nn.Linear(len(curvatures), 1, bias=False).double()
    targets = (rows @ model.weight.detach().T).clone()
    return Problem(model, "half_squared_error", (rows, targets), reduction="sum")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dims", [1, 2])
def test_every_point_is_the_loss_of_a_copy_with_these_weights(name, dims):
    problem = make()
    X, y = data()
    before = bits(problem.model)

    surface = loss_surface(
        problem, directions=name, num_dims=dims, num_points=4, keep_directions=True
    )

    theta = torch.nn.utils.parameters_to_vector(problem.model.parameters()).detach()
    grid = torch.stack(torch.meshgrid(*surface.coordinates, indexing="ij"), -1)
    for place in np.ndindex(*grid.shape[:-1]):
        other = written(problem.model, theta + surface.directions @ grid[place])
        with torch.no_grad():
            loss = float(cross_entropy(other(X), y))
            right = float((other(X).argmax(-1) == y).double().mean())
        assert float(surface.losses[place]) == pytest.approx(loss, rel=1e-12)
        assert float(surface.accuracies[place]) == pytest.approx(right, abs=1e-12)
    assert same_bits(problem.model, before)
    assert len(surface.names) == dims
    assert surface.num_forward_passes == 4**dims


@pytest.mark.parametrize("name", NAMES)
def test_planes_are_orthonormal(name):
    V = loss_surface(
        make(), directions=name, num_points=2, keep_directions=True
    ).directions

    torch.testing.assert_close(V.T @ V, torch.eye(2, dtype=V.dtype))


def test_on_a_quadratic_loss_surface_and_quadratic_model_are_the_closed_form():
    problem = quadratic([9.0, 4.0, 1.0, 0.25])

    surface = loss_surface(problem, extent=(0.5, 2.0), num_points=(5, 9))

    a, b = torch.meshgrid(*surface.coordinates, indexing="ij")
    torch.testing.assert_close(surface.losses, 0.5 * (9.0 * a**2 + 4.0 * b**2))
    torch.testing.assert_close(surface.quadratic_losses(), surface.losses)
    torch.testing.assert_close(
        surface.curvature, torch.diag(torch.tensor([9.0, 4.0], dtype=torch.float64))
    )
    assert [float(axis[-1]) for axis in surface.coordinates] == [0.5, 2.0]
    assert surface.losses.shape == (5, 9)


def test_the_coordinate_is_the_distance_in_parameter_space():
    problem = make()
    given_direction = 37.0 * torch.arange(1.0, problem.num_params + 1).double()

    surface = loss_surface(
        problem,
        directions=given_direction,
        extent=2.5,
        num_points=3,
        keep_directions=True,
    )

    far = surface.coordinates[0][-1] * surface.directions[:, 0]
    assert float(far.norm()) == pytest.approx(2.5)
    assert surface.direction_norms == pytest.approx((float(given_direction.norm()),))
    cosine = far @ given_direction / (far.norm() * given_direction.norm())
    assert float(cosine) == pytest.approx(1.0)


def test_slope_and_curvature_are_those_of_dense_autodiff():
    problem = make()
    X, y = data()
    model = problem.model
    shapes = {name: p.shape for name, p in model.named_parameters()}
    theta = torch.nn.utils.parameters_to_vector(model.parameters()).detach()

    def objective(vector):
        pieces = vector.split([s.numel() for s in shapes.values()])
        state = {
            n: p.reshape(s) for (n, s), p in zip(shapes.items(), pieces, strict=True)
        }
        return cross_entropy(torch.func.functional_call(model, state, (X,)), y)

    gradient = torch.func.grad(objective)
    H = torch.func.jacrev(gradient)(theta)

    surface = loss_surface(problem, num_points=2, keep_directions=True)

    V = surface.directions
    torch.testing.assert_close(surface.gradient, V.T @ gradient(theta))
    torch.testing.assert_close(surface.curvature, V.T @ H @ V)
    values = torch.linalg.eigvalsh(H)
    values = values[values.abs().argsort(descending=True)][:2]
    torch.testing.assert_close(surface.curvature.diagonal(), values)


def test_top_and_bottom_are_by_magnitude_and_a_large_net_has_no_bottom(monkeypatch):
    problem = make()
    values = torch.linalg.eigvalsh(Hessian(problem).to_dense()).abs().sort().values

    flat = loss_surface(problem, directions="bottom", num_points=2)
    monkeypatch.setattr("curvescope.analysis.directions._DENSE_AUTODIFF", 8)
    monkeypatch.setattr("curvescope.analysis.directions._DENSE_CLOSED_FORM", 8)
    top = loss_surface(problem, num_points=2)

    torch.testing.assert_close(
        flat.curvature.diagonal().abs(), values[:2], rtol=1e-6, atol=1e-12
    )
    torch.testing.assert_close(
        top.curvature.diagonal().abs(), values.flip(0)[:2], rtol=1e-6, atol=1e-12
    )
    with pytest.raises(ValueError, match='Use "complement"'):
        loss_surface(problem, directions="bottom", num_points=2)


def test_given_eigenpairs_are_used_and_those_of_other_weights_refused():
    problem = make()
    pairs = eigsh(Hessian(problem), k=4)

    surface = loss_surface(problem, eigenpairs=pairs, num_points=2)

    top = pairs.eigenvalues[pairs.eigenvalues.abs().argsort(descending=True)][:2]
    torch.testing.assert_close(surface.curvature.diagonal(), top)
    assert surface.cost.num_matvecs == 2
    with torch.no_grad():
        problem.model[0].weight.add_(1.0)
    with pytest.raises(ValueError, match="be of this very problem"):
        loss_surface(problem, eigenpairs=pairs, num_points=2)


def test_filter_normalisation_gives_each_filter_the_length_of_its_weights():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2)
    )
    problem = Problem(
        model, "cross_entropy", (torch.randn(6, 2, 4, 4), torch.arange(6) % 2)
    )
    V = filter_normalised(problem, torch.randn(problem.num_params, 2))

    place = 0
    for parameter in model.parameters():
        pieces = V[place : place + parameter.numel()].reshape(*parameter.shape, 2)
        place += parameter.numel()
        if parameter.ndim < 2:
            assert float(pieces.abs().max()) == 0.0
            continue
        for filter_, piece in zip(parameter.detach(), pieces, strict=True):
            for column in range(2):
                assert float(piece[..., column].norm()) == pytest.approx(
                    float(filter_.norm()), rel=1e-5
                )


def test_the_extent_of_a_filter_normalised_line_is_its_own_length():
    surface = loss_surface(make(), directions="filter", num_dims=1, num_points=3)

    assert float(surface.coordinates[0][-1]) == pytest.approx(
        surface.direction_norms[0]
    )


def test_batch_norm_runs_in_eval_mode_and_its_statistics_stay():
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)
    )
    X, y = data(dtype=torch.float32)
    model(X)  # statistics of its own
    before = bits(model)
    problem = Problem(model.train(), "cross_entropy", (X, y), batch_size=5)

    surface = loss_surface(problem, directions="random", num_dims=1, num_points=3)

    assert model.training
    assert same_bits(model, before)
    with torch.no_grad():
        centre = float(cross_entropy(copy.deepcopy(model).eval()(X), y))
    assert float(surface.losses[1]) == pytest.approx(centre, rel=1e-6)


def test_weights_and_decay_enter_the_objective_and_selections_move_alone():
    problem = make(params="0.*", weight_decay=0.3)
    X, y = data()

    surface = loss_surface(
        problem, directions="random", num_dims=1, num_points=3, keep_directions=True
    )

    for coordinate, loss in zip(surface.coordinates[0], surface.losses, strict=True):
        step = coordinate * surface.directions[:, 0]
        other = copy.deepcopy(problem.model)
        first = torch.nn.utils.parameters_to_vector(other[0].parameters()) + step
        torch.nn.utils.vector_to_parameters(first, other[0].parameters())
        with torch.no_grad():
            truth = cross_entropy(other(X), y) + 0.15 * first.square().sum()
        assert float(loss) == pytest.approx(float(truth), rel=1e-12)
    assert surface.loss == pytest.approx(float(surface.losses[1]), rel=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_reduction_is_the_unit_and_batches_play_no_part(reduction):
    whole = Problem(net(), "cross_entropy", data(), batch_size=23, reduction=reduction)
    ragged = Problem(net(), "cross_entropy", data(), batch_size=4, reduction=reduction)

    one, other = (
        loss_surface(p, directions="random", num_points=3) for p in (whole, ragged)
    )

    torch.testing.assert_close(one.losses, other.losses)
    assert one.loss == pytest.approx(whole.evaluate().loss)


class Interrupting(nn.Module):
    """A model that is interrupted in one of its passes."""

    def __init__(self, error):
        super().__init__()
        self.inner, self.error, self.left = net(), error, 10**9

    def forward(self, x):
        self.left -= 1
        if self.left == 0:
            raise self.error
        return self.inner(x)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("broken")])
def test_parameters_are_the_same_bits_after_an_interruption(error):
    model = Interrupting(error).train()
    problem = Problem(model, "cross_entropy", data(), batch_size=7)
    before, mode = bits(model), model.training
    random = torch.random.get_rng_state()
    gradients = [p.grad for p in model.parameters()]

    model.left = 30
    with pytest.raises(type(error)):
        loss_surface(problem, directions="random", num_points=9)

    assert same_bits(model, before)
    assert model.training == mode
    assert torch.equal(torch.random.get_rng_state(), random)
    assert [p.grad for p in model.parameters()] == gradients
    assert all(p.requires_grad for p in model.parameters())


def test_an_interrupted_surface_goes_on_with_its_rows(tmp_path):
    model = Interrupting(KeyboardInterrupt())
    problem = Problem(model, "cross_entropy", data(), batch_size=23)
    whole = loss_surface(problem, directions="random", num_points=8)

    model.left = 30
    with pytest.raises(KeyboardInterrupt):
        loss_surface(problem, directions="random", num_points=8, folder=tmp_path)
    assert model.left == 0
    resumed = loss_surface(problem, directions="random", num_points=8, folder=tmp_path)
    spent = -model.left

    assert torch.equal(resumed.losses, whole.losses)
    again = loss_surface(problem, directions="random", num_points=8, folder=tmp_path)
    assert torch.equal(again.losses, whole.losses)
    # Of 64 points at least three rows were there; a finished surface costs no pass of them.
    assert spent <= 64 - 24 + 8
    assert -model.left - spent <= 8


def test_another_surface_in_the_same_folder_starts_anew(tmp_path):
    problem = make()
    loss_surface(problem, directions="random", num_points=3, folder=tmp_path)

    other = loss_surface(problem, directions="top", num_points=3, folder=tmp_path)

    plain = loss_surface(problem, directions="top", num_points=3)
    assert torch.equal(other.losses, plain.losses)


def test_weights_that_change_meanwhile_are_noticed():
    model = net()
    live = model[0].bias

    class Trained(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.calls = model, 0

        def forward(self, x):
            self.calls += 1
            if self.calls == 20:
                live.data.add_(1.0)
            return self.inner(x)

    problem = Problem(Trained(), "cross_entropy", data(), batch_size=23)

    with pytest.raises(ChangedDuringComputationError, match="must stay the same"):
        loss_surface(problem, directions=torch.ones(problem.num_params), num_points=40)


def test_losses_that_are_not_finite_stay_so_and_are_named():
    model = nn.Linear(1, 1, bias=False).double()
    loss = Loss(
        lambda f, y: torch.exp(f).sum(), reduction="sum", denominator=lambda f, y: 1.0
    )
    ones = torch.ones(1, 1, dtype=torch.float64)
    problem = Problem(model, loss, (ones, ones))

    surface = loss_surface(
        problem, directions=torch.ones(1), extent=1000.0, num_points=3
    )

    assert surface.losses.isinf().tolist() == [False, False, True]
    assert "not finite at 1 of 3" in surface.notes[0]
    assert surface.accuracies is None


@settings(max_examples=15)
@given(
    st.lists(st.floats(0.01, 100.0), min_size=2, max_size=5),
    st.floats(0.01, 10.0),
    st.integers(2, 6),
)
def test_any_quadratic_loss_equals_its_quadratic_model(curvatures, extent, points):
    problem = quadratic(curvatures)

    surface = loss_surface(
        problem, directions="random", extent=extent, num_points=points
    )

    torch.testing.assert_close(
        surface.losses, surface.quadratic_losses(), rtol=1e-9, atol=1e-9
    )


def test_results_save_load_and_print(tmp_path):
    surface = loss_surface(make(), num_points=3, keep_directions=True)
    surface.save(tmp_path, "surface")

    back = load(tmp_path, "surface")

    assert str(back) == str(surface)
    assert back.rows() == surface.rows()
    assert len(surface.rows()) == 9
    assert set(surface.rows()[0]) == {
        "coordinate_1",
        "coordinate_2",
        "loss",
        "quadratic_loss",
        "accuracy",
    }


def test_two_directions_may_be_of_two_kinds():
    problem = make()

    surface = loss_surface(problem, directions=["gradient", "top"], num_points=2)

    assert surface.names[0] == "gradient"
    assert surface.names[1].startswith("top eigenvector 1")
    norm = float(problem.gradient().norm())
    assert float(surface.gradient[0]) == pytest.approx(norm)
    assert abs(float(surface.gradient[1])) < 1e-12 * norm
    assert "cosine" in surface.notes[0]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"directions": "up"}, "`directions` must be one of"),
        ({"directions": torch.ones(3)}, "rows, one a selected parameter"),
        ({"directions": torch.zeros(38)}, "be finite and not zero"),
        ({"directions": torch.ones(38, 2)}, "linearly independent"),
        ({"directions": ["top", "top", "top"]}, "`num_dims` must be 1 or 2"),
        ({"num_dims": 3}, "`num_dims` must be 1 or 2"),
        ({"directions": torch.ones(38), "num_dims": 2}, "`num_dims` must be 1 or 2"),
        ({"extent": -1.0}, "`extent` must be above 0"),
        ({"extent": (1.0, 2.0, 3.0)}, "`extent` must be one length"),
        ({"num_points": 1}, "`num_points` must be at least 2"),
        ({"num_points": (3, 3, 3)}, "`num_points` must be one number"),
        ({"num_top": 1}, "`num_top` must be at least 2"),
    ],
)
def test_wrong_arguments_are_named(options, text):
    problem = make()
    V = options.get("directions")
    if isinstance(V, torch.Tensor) and V.shape[0] == 38:
        options["directions"] = V.new_ones(problem.num_params, *V.shape[1:]) * V[0]

    with pytest.raises(ValueError, match=text):
        loss_surface(problem, **options)
    with pytest.raises(TypeError, match="`problem` must be a Problem"):
        loss_surface(problem.model)


def test_saved_directions_of_other_eigenvectors_are_not_taken(tmp_path):
    problem = make()
    pairs = eigsh(Hessian(problem), k=4)
    turned = dataclasses.replace(pairs, eigenvectors=pairs.eigenvectors.flip(1))
    options = {"num_dims": 1, "num_points": 3, "folder": tmp_path}
    loss_surface(problem, eigenpairs=pairs, **options)

    found = loss_surface(problem, eigenpairs=turned, **options)

    options["folder"] = None
    fresh = loss_surface(problem, eigenpairs=turned, **options)
    assert torch.equal(found.losses, fresh.losses)
    other = loss_surface(problem, eigenpairs=pairs, **options)
    assert not torch.allclose(found.losses, other.losses, atol=1e-6)


@pytest.mark.parametrize("directions", ["bottom", ["gradient", "bottom"]])
def test_bottom_of_a_large_net_is_refused_before_the_eigensolver(
    monkeypatch, directions
):
    def never(*_, **__):
        raise AssertionError

    monkeypatch.setattr("curvescope.analysis.directions._DENSE_AUTODIFF", 8)
    monkeypatch.setattr("curvescope.analysis.directions._DENSE_CLOSED_FORM", 8)
    monkeypatch.setattr("curvescope.analysis.directions.eigsh", never)

    with pytest.raises(ValueError, match="not need the flattest eigenvectors"):
        loss_surface(make(), directions=directions)


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"directions": [None, "top"]}, TypeError, "`directions` must be a name"),
        (
            {"directions": torch.ones(43, dtype=torch.complex64)},
            TypeError,
            "`directions` must hold real numbers",
        ),
        ({"generator": 3}, TypeError, "`generator` must be a Generator"),
        ({"extent": "1"}, TypeError, "`extent` must be a number"),
        ({"folder": 5}, TypeError, "`folder` must be a path"),
        ({"folder": "/proc/x"}, OSError, "`folder` must be a folder that can"),
    ],
)
def test_wrong_kinds_of_arguments_are_named(options, kind, text):
    with pytest.raises(kind, match=text):
        loss_surface(
            make(), **{"num_dims": 1 if "extent" in options else None, **options}
        )
