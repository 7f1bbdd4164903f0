"""Double descent, widths and depths, two spirals: what is measured, kept and planned."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from curvescope.data import load
from curvescope.experiments import experiment, small_nets, spiral_nets
from curvescope.experiments.base import filled
from curvescope.experiments.conv_nets import build_conv
from curvescope.experiments.dimension_records import (
    main_z,
    peak_distances,
    verdicts,
)
from curvescope.experiments.double_descent import FAMILY as RESNETS
from curvescope.experiments.double_descent import DoubleDescent, double_descent
from curvescope.experiments.two_spirals import TwoSpirals, points_of, two_spirals
from curvescope.experiments.width_depth import FAMILY as CONVNETS
from curvescope.experiments.width_depth import WidthDepth, width_depth
from curvescope.models import build
from curvescope.results import DimensionMap, DimensionSweep, Provenance
from curvescope.training import published

TOY = {"seeds": 2, "epochs": 15, "num_samples": 24, "jobs": 1, "label_noise": 0.5}


def by_hand(point, seed):
    """Train one network with plain torch; return losses and GGN eigenvalues."""
    (X, y), _ = small_nets.noisy_images(point, seed)
    model = build(
        "mlp",
        generator=torch.Generator().manual_seed(2 * seed),
        hidden=point.hidden,
        activation="relu",
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(point.epochs):
        optimizer.param_groups[0]["lr"] = 0.01 * published(step / point.epochs)
        optimizer.zero_grad()
        F.cross_entropy(model(X), y).backward()
        optimizer.step()
    model.double()
    X = X.double()
    names = [name for name, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]

    def outputs(vector):
        parts = vector.split([s.numel() for s in shapes])
        state = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return torch.func.functional_call(model, state, (X,))

    theta = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    J = torch.func.jacrev(outputs)(theta)
    p = outputs(theta).softmax(1)
    second = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    ggn = torch.einsum("nkp,nkl,nlq->pq", J, second, J) / len(y)
    return float(F.cross_entropy(outputs(theta), y)), torch.linalg.eigvalsh(ggn)


def test_a_width_is_what_plain_torch_trains_and_measures():
    config = DoubleDescent(widths=(3,), **TOY)
    sweep = double_descent(config)["double_descent"]
    point = small_nets.point_of(filled(config), hidden=(3,))

    for seed, record in enumerate(sweep.records):
        loss, eigenvalues = by_hand(point, seed)
        assert record["train_loss"] == pytest.approx(loss, rel=1e-4)
        expected = [
            float((e := eigenvalues.clamp_min(0)) @ (1 / (e + z))) for z in sweep.z
        ]
        assert record["effective_dimension"] == pytest.approx(expected, rel=1e-3)


def estimated(record):
    """A record whose effective dimension is an estimate, with its interval."""
    value = [float(record["width"]), 80.7737]
    return record | {
        "effective_dimension": value,
        "effective_dimension_low": [v - 4.0 for v in value],
        "effective_dimension_high": [v + 150.5 for v in value],
    }


@pytest.mark.parametrize("kind", [DimensionSweep, DimensionMap])
def test_an_estimate_is_printed_with_its_interval(kind):
    common = {"train_loss": 0.1, "test_loss": 0.2, "num_params": 7, "depth": 1}
    records = [
        estimated({"width": width, "seed": seed, **common})
        for width in (1, 2)
        for seed in (0, 1)
    ]
    options = {"axis": "width"} if kind is DimensionSweep else {}
    found = kind(
        of=Provenance(), z=(1e-3, 1e-2), main_z=1e-3, records=tuple(records), **options
    )

    assert "80.77 (76.77 to 231.3)" in str(found)
    assert "2 (-2 to 152.5)" in str(found)
    exact = [
        {k: v for k, v in record.items() if k[-4:] not in ("_low", "high")}
        for record in records
    ]
    assert " to " not in str(dataclasses.replace(found, records=tuple(exact)))


def test_the_published_z_stands_for_all_where_it_is_among_them():
    assert main_z(filled(DoubleDescent(preset="paper")).z) == 1 / 391
    assert main_z(filled(WidthDepth(preset="paper")).z) == 1 / 391
    assert main_z(filled(DoubleDescent()).z) == 1e-2


def test_label_noise_changes_the_part_that_was_asked_for_and_no_image():
    clean = small_nets.point_of(
        filled(DoubleDescent(label_noise=0.0, num_samples=400)), hidden=(1,)
    )
    noisy = dataclasses.replace(clean, label_noise=0.5)
    (X, y), (X_test, y_test) = small_nets.noisy_images(clean, 3)
    (X_noisy, y_noisy), _ = small_nets.noisy_images(noisy, 3)

    assert torch.equal(X, X_noisy)
    changed = int((y != y_noisy).sum())
    # 200 labels drawn anew, of which a tenth stays; four standard deviations around it.
    assert abs(changed - 180) <= 4 * np.sqrt(200 * 0.1 * 0.9)
    # Together they are the training split, each image once, with its own label.
    both = torch.cat([X, X_test]).flatten(1)
    images, labels = load("digits").tensors()
    pixels = torch.cat([images.flatten(1), labels[:, None]], dim=1)
    found = torch.cat([both, torch.cat([y, y_test])[:, None]], dim=1)
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, pixels.tolist()))
    assert not torch.equal(X, small_nets.noisy_images(clean, 4)[0][0])


@pytest.mark.parametrize("name", ["double-descent", "width-depth", "two-spirals"])
def test_a_sweep_goes_on_in_its_folder(name, tmp_path):
    row = experiment(name)
    more = {"widths": (1, 2), "seeds": 1, "epochs": 3, "num_samples": 12, "jobs": 1}
    if name == "width-depth":
        more["depths"] = (1,)
    if name == "two-spirals":
        more |= {"sweep": "width", "depth": 1}
    first = next(iter(row.run(row.config(**more), folder=tmp_path).values()))
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("points/*.json")}
    assert len(kept) == 2

    more["widths"] = (1, 2, 3)
    second = next(iter(row.run(row.config(**more), folder=tmp_path).values()))

    assert second.records[:2] == first.records
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(list(tmp_path.glob("points/*.json"))) == 3


def test_widths_and_depths_are_all_there_and_compared_by_the_mean_of_seeds():
    config = WidthDepth(widths=(2, 3), depths=(1, 2), **TOY)
    results = width_depth(config)
    found = results["width_depth"]

    places = {(r["width"], r["depth"], r["seed"]) for r in found.records}
    assert places == {(w, d, s) for w in (2, 3) for d in (1, 2) for s in (0, 1)}
    assert found.means("num_params").tolist() == [[160.0, 235.0], [166.0, 247.0]]
    points = results["comparison"].records
    assert len(points) == 4
    for point in points:
        own = [
            r
            for r in found.records
            if (r["width"], r["depth"]) == (point["width"], point["depth"])
        ]
        mean = sum(r["test_loss"] for r in own) / 2
        assert point["test_loss"] == pytest.approx(mean)
    measures = {row.measure for row in results["correlations"].correlations}
    assert measures == {"effective dimension N_eff(z = 0.01)", "number of parameters"}


@pytest.mark.parametrize(
    ("channels", "count"),
    [(1, 3757), (2, 12862), (4, 47416), (8, 181900), (64, 11217316)],
)
def test_the_published_resnets_have_the_published_numbers_of_parameters(
    channels, count
):
    config = DoubleDescent(preset="paper", widths=(channels,))
    ((place, point),) = RESNETS.paper_points(config)
    assert place == {"width": channels}
    assert sum(p.numel() for p in build_conv(point).parameters()) == count
    (row,) = experiment("double-descent").plan(config).rows
    assert row.num_params == count
    # 200 epochs of 391 batches; 4 probes of 100 steps.
    assert (row.num_steps, row.num_matvecs) == (200 * 391, 400)


def test_the_published_convolutional_networks_have_the_published_numbers():
    config = WidthDepth(preset="paper", widths=(4,))
    found = [
        sum(p.numel() for p in build_conv(point).parameters())
        for _, point in CONVNETS.paper_points(config)
    ]
    assert found == [620, 1332, 3332, 9636, 9792, 10392, 12744, 12900, 13500]
    plan = experiment("width-depth").plan(WidthDepth(preset="paper"))
    assert plan.runs == 16 * 9
    assert max(row.num_params for row in plan.rows) == 2564580
    assert plan.hours > 0


def test_the_published_spirals_mirror_each_other_and_wind_as_published():
    X, y = spiral_nets.published_spirals(
        4000, noise=0.0, generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(X[:2000], -X[2000:])
    assert y.tolist() == [0.0] * 2000 + [1.0] * 2000
    radius = X[:2000].norm(dim=1) / 1.5
    # |x| = 1.5 a with a up to 600 degrees; the angle of the point is pi - a.
    assert float(radius.max()) <= 600 * 2 * np.pi / 360 + 1e-4
    angle = torch.atan2(X[:2000, 1], X[:2000, 0])
    turned = torch.remainder(angle + radius - np.pi, 2 * np.pi)
    assert torch.minimum(turned, 2 * np.pi - turned).max() < 1e-3
    # a is 600 degrees times the root of a uniform number.
    share = (radius / (600 * 2 * np.pi / 360)) ** 2
    assert abs(float(share.mean()) - 0.5) < 4 * np.sqrt(1 / 12 / 2000)


def test_the_published_network_of_the_spirals_is_the_default():
    (point,) = points_of(TwoSpirals()).values()
    assert spiral_nets.num_params(point) == 2181
    assert (point.num_samples, point.noise, point.epochs) == (1000, 1.3, 4000)
    assert point.weight_decay == 1e-4
    widths = points_of(TwoSpirals(preset="paper", sweep="width"))
    sizes = [spiral_nets.num_params(point) for point in widths.values()]
    assert (sizes[0], sizes[-1]) == (15, 4467)
    depths = points_of(TwoSpirals(preset="paper", sweep="depth"))
    sizes = [spiral_nets.num_params(point) for point in depths.values()]
    assert (sizes[0], sizes[-1]) == (501, 5961)
    assert {point.noise for point in depths.values()} == {1.5}


def test_one_network_on_the_spirals_gives_steps_surfaces_and_boundaries(tmp_path):
    config = TwoSpirals(width=4, depth=2, num_samples=60, epochs=150, grid=3, noise=0.3)
    results = two_spirals(config, folder=tmp_path)

    eigenvalues = results["eigenvalues"].eigenvalues
    assert len(eigenvalues) == 57
    assert results["eigenvalues"].eigenvectors is None
    z = 0.1
    kept = eigenvalues.clamp_min(0)
    expected = float((kept / (kept + z)).sum())
    table = results["effective_dimension"]
    at = int((table.z - z).abs().argmin())
    assert float(table.values[at]) == pytest.approx(expected, rel=1e-9)
    directions = results["directions"]
    assert directions.kinds == ("top", "bottom", "random")
    top, bottom = (directions.losses[kind].median() for kind in ("top", "bottom"))
    assert top > bottom
    boundaries = results["classifiers"]
    assert boundaries.perturbed.shape == (12, 121, 121)
    assert set(results["surfaces"].surfaces) == {
        "all eigenvectors",
        "top 3",
        "bottom 52",
    }
    for surface in results["surfaces"].surfaces.values():
        assert surface.losses.shape == (3, 3)
        assert float(surface.losses[1, 1]) == pytest.approx(surface.loss, rel=1e-5)
        assert [float(axis[-1]) for axis in surface.coordinates] == [0.5, 0.5]
    again = two_spirals(config, folder=tmp_path)
    assert torch.equal(again["training"].train_loss, results["training"].train_loss)


@pytest.mark.parametrize(
    ("name", "fields", "match"),
    [
        ("double-descent", {"widths": ()}, "`widths` must hold at least one number"),
        ("double-descent", {"widths": (2, 2)}, "`widths` must have no repetition"),
        ("double-descent", {"label_noise": 1.5}, "`label_noise` must be from 0 to 1"),
        ("double-descent", {"z": (0.1, 0.01)}, "`z` must ascend"),
        ("double-descent", {"num_samples": 1500}, "`num_samples` must be below 1500"),
        ("double-descent", {"z": ()}, "`z` must hold at least one number"),
        (
            "double-descent",
            {"preset": "paper", "label_noise": 0.2},
            "`label_noise` must be 0 in the published setting",
        ),
        (
            "width-depth",
            {"preset": "paper", "label_noise": 0.2},
            "`label_noise` must be 0 in the published setting",
        ),
        ("width-depth", {"depths": (0,)}, "`depths` must be .*at least 1"),
        ("two-spirals", {"num_samples": 5}, "`num_samples` must be even"),
        ("two-spirals", {"width": 100}, "at most 8000 parameters"),
        ("two-spirals", {"width": 1, "depth": 1}, "at least 20 parameters"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_computed(name, fields, match):
    row = experiment(name)
    with pytest.raises(ValueError, match=match):
        row.check(row.config(**fields))


def test_records_are_plain_values_that_a_file_keeps(tmp_path):
    point = spiral_nets.SpiralPoint(
        width=1,
        depth=1,
        num_samples=8,
        noise=1.0,
        epochs=2,
        weight_decay=0.0,
        seeds=2,
        z=(1.0,),
    )
    value = spiral_nets.measure_spirals(point)
    assert json.loads(json.dumps(value)) == value
    assert [record["seed"] for record in value["records"]] == [0, 1]
    losses = [record["train_loss"] for record in value["records"]]
    assert losses[0] != losses[1]  # each seed has its own data and weights


def sweep_of(losses, dimensions, seeds):
    """A sweep with these values, one row a width and one column a seed."""
    records = [
        {
            "width": 2**place,
            "seed": seed,
            "num_params": place,
            "train_loss": 0.0,
            "test_loss": losses[place][seed],
            "effective_dimension": [dimensions[place][seed]],
        }
        for place in range(len(losses))
        for seed in range(seeds)
    ]
    return DimensionSweep(
        of=Provenance(), axis="width", z=(0.5,), main_z=0.5, records=tuple(records)
    )


def test_the_distance_of_the_peaks_has_the_uncertainty_of_the_seeds():
    # Seed 0 has its largest loss at the first width, seed 1 at the third, and more so.
    losses = [[3.0, 0.0], [0.0, 0.0], [0.0, 5.0]]
    dimensions = [[9.0, 9.0], [1.0, 1.0], [0.0, 0.0]]
    drawn = peak_distances(sweep_of(losses, dimensions, 2), z=0.5)

    # Of two draws of two seeds a quarter is seed 0 twice: only then both peaks agree.
    part = float((drawn == 0).double().mean())
    assert set(drawn.tolist()) == {0, 2}
    assert abs(part - 0.25) < 4 * np.sqrt(0.25 * 0.75 / len(drawn))


def test_the_verdict_is_told_in_words():
    losses = [[0.0, 0.0], [3.0, 3.0], [0.0, 0.0], [1.0, 1.0]]
    near, far = [[1.0] * 2, [2.0] * 2, [3.0] * 2, [0.0] * 2], losses[::-1]
    text = verdicts(sweep_of(losses, near, 2))
    assert text[0] == (
        "mean test loss is largest at width 2; N_eff is largest there or at the next "
        "width at all 1 z"
    )
    assert text[1].startswith(
        "z = 0.5: N_eff is largest at width 4, 1 width from the test loss's peak; of "
        "2,000 bootstrap draws of the 2 seeds 100 % are at most one width apart"
    )
    far = [[0.0] * 2, [0.0] * 2, [0.0] * 2, [5.0] * 2]
    text = verdicts(sweep_of(losses, far, 2))
    assert "at 0 of 1 z" in text[0]
    assert "at width 8, 2 widths from" in text[1]
    assert "0 % are at most one width apart, 95 % at most 2" in text[1]
    one = verdicts(sweep_of(losses, far, 1))
    assert "bootstrap" not in one[1]
    assert one[-1].startswith("one seed:")


@pytest.mark.slow
def test_the_peaks_of_test_loss_and_dimension_are_at_most_one_width_apart():
    sweep = double_descent(DoubleDescent())["double_descent"]
    assert sweep.places[0] < sweep.peak("test_loss") < sweep.places[-1]
    for z in (1e-4, 1e-3, 1e-2, 1e-1):
        distance = sweep.peak_distance("test_loss", "effective_dimension", z=z)
        assert distance <= 1, z


@pytest.mark.slow
@pytest.mark.parametrize("name", ["double-descent", "width-depth"])
def test_the_first_published_network_runs_on_real_images(name, tmp_path):
    root = Path(os.environ.get("CURVESCOPE_TEST_DATA", "../shared/data"))
    if not (root / "cifar100").is_dir():
        pytest.skip(f"no folder {root / 'cifar100'}")
    row = experiment(name)
    first = filled(row.config(preset="paper")).widths[0]
    more = {"widths": (first,), "epochs": 2, "num_samples": 256, "num_steps": 3}
    if name == "width-depth":
        more["depths"] = (1,)
    config = row.config(preset="paper", data_root=root, num_probes=2, **more)
    row.check(config)
    found = next(iter(row.run(config, folder=tmp_path).values()))

    (record,) = found.records
    assert record["num_params"] == {"double-descent": 3757, "width-depth": 1332}[name]
    # Untrained networks of a hundred classes are about as good as chance.
    assert abs(record["train_loss"] - np.log(100)) < 0.5
    low, high = (record[f"effective_dimension_{end}"] for end in ("low", "high"))
    values = record["effective_dimension"]
    assert all(a <= v <= b for a, v, b in zip(low, values, high, strict=True))
    assert values == sorted(values, reverse=True)
    assert list((tmp_path / "trainings").iterdir())
