"""Loss surfaces and homogeneity of any model, as experiments."""

from dataclasses import replace

import pytest
import torch

from curvescope.data import load
from curvescope.experiments import experiment
from curvescope.experiments.around_weights import UNTRAINED
from curvescope.experiments.homogeneity import (
    HomogeneitySettings,
    homogeneity_experiment,
)
from curvescope.experiments.loss_surface import (
    SurfaceSettings,
    surface_experiment,
)
from curvescope.models import build

ARGUMENTS = ("hidden=[3]", "activation=relu")


@pytest.fixture
def weights(tmp_path):
    """Weights of a small network in a file."""
    model = build(
        "mlp",
        hidden=(3,),
        activation="relu",
        generator=torch.Generator().manual_seed(5),
    )
    path = tmp_path / "weights.pt"
    torch.save(model.state_dict(), path)
    return path, model


def test_the_surface_is_around_the_weights_of_the_file(weights, tmp_path):
    path, model = weights
    config = SurfaceSettings(
        model="mlp",
        model_arg=ARGUMENTS,
        weights=path,
        num_samples=30,
        directions="random",
        num_points=3,
        extent=2.0,
    )
    found = surface_experiment(config, folder=tmp_path / "run")["loss_surface"]

    X, y = load("digits", num_samples=30).tensors()
    expected = torch.nn.functional.cross_entropy(model(X), y).item()
    assert float(found.losses[1, 1]) == pytest.approx(expected, rel=1e-5)
    assert found.losses.shape == (3, 3)
    assert float(found.coordinates[0][-1]) == 2.0
    assert UNTRAINED not in found.notes
    again = surface_experiment(config, folder=tmp_path / "run")["loss_surface"]
    assert torch.equal(again.losses, found.losses)


def test_random_weights_are_told_to_the_reader():
    config = SurfaceSettings(
        model_arg=ARGUMENTS,
        epochs=0,
        num_samples=10,
        directions="gradient",
        num_dims=1,
        num_points=3,
    )
    assert UNTRAINED in surface_experiment(config)["loss_surface"].notes


def test_steps_are_measured_on_the_test_split_too(weights):
    path, model = weights
    config = HomogeneitySettings(
        model="mlp",
        model_arg=ARGUMENTS,
        weights=path,
        num_samples=20,
        directions=("top", "random"),
        step_lengths=(0.1, 1.0),
        num_draws=2,
        test_samples=15,
    )
    found = homogeneity_experiment(config)["homogeneity"]

    X, y = load("digits", split="test", num_samples=15).tensors()
    expected = torch.nn.functional.cross_entropy(model(X), y).item()
    assert found.test_loss == pytest.approx(expected, rel=1e-5)
    assert found.losses["top"].shape == (2, 2)
    assert found.kinds == ("top", "random")


@pytest.mark.parametrize(
    ("name", "fields", "error", "match"),
    [
        ("loss-surface", {"num_points": 1}, ValueError, "`num_points` must be"),
        ("loss-surface", {"directions": "up"}, ValueError, "`directions` must be"),
        ("loss-surface", {"num_dims": 3}, ValueError, "`num_dims` must be 1 or 2"),
        ("loss-surface", {"model_arg": ("x",)}, ValueError, "KEY=VALUE"),
        ("homogeneity", {"step_lengths": ()}, ValueError, "at least one number"),
        ("homogeneity", {"step_lengths": (0.0,)}, ValueError, "`step_lengths` must be"),
        ("homogeneity", {"num_draws": 0}, ValueError, "`num_draws` must be"),
    ],
)
def test_a_wrong_setting_is_refused(name, fields, error, match):
    row = experiment(name)
    with pytest.raises(error, match=match):
        row.check(row.config(**fields))


def test_absent_weights_are_refused(tmp_path):
    row = experiment("loss-surface")
    config = row.config(weights=tmp_path / "none.pt")
    with pytest.raises(FileNotFoundError, match="`weights` must be a file"):
        row.check(config)


@pytest.mark.parametrize(
    ("name", "directions"),
    [("loss-surface", "bottom"), ("homogeneity", ("top", "bottom"))],
)
@pytest.mark.parametrize("step", ["plan", "prepare"])
def test_bottom_of_a_large_model_is_refused_before_training_and_in_plans(
    name, directions, step
):
    row = experiment(name)
    config = row.config(
        model="lenet", data="mnist", num_samples=4, epochs=1, directions=directions
    )
    if step == "prepare":
        config = replace(config, data="digits", model="mlp", model_arg=("hidden=[80]",))

    with pytest.raises(ValueError, match="not need the flattest eigenvectors"):
        getattr(row, step)(config)
