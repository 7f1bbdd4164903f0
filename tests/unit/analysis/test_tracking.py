"""Tracking: the same bits without it, true numbers, and the price that was named."""

import random
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import curvescope as cs
from curvescope import data, models, results
from curvescope._core.errors import AccuracyWarning
from curvescope.analysis.tracking_file import FILE

torch.manual_seed(11)
X, Y = torch.randn(120, 5), torch.randint(0, 3, (120,))
PROBE = (X[:50], Y[:50])


def network(dtype=torch.float32):
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Linear(5, 9), nn.BatchNorm1d(9), nn.Tanh(), nn.Dropout(0.4), nn.Linear(9, 3)
    ).to(dtype)


def train(model, optimizer, steps, *, after=None, begin=0):
    """Train with a shuffling loader; `after` sees every step."""
    torch.manual_seed(8)
    random.seed(8)
    np.random.seed(8)  # noqa: NPY002
    loader = DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True)
    step = 0
    model.train()
    while step < steps:
        for x, y in loader:
            if step >= steps:
                break
            step += 1
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            if after is not None:
                after(step)


def everything(model, optimizer):
    """Return all that training goes on from, and the global streams."""
    state = optimizer.state_dict()["state"]
    return {
        "weights": [t.clone() for t in model.state_dict().values()],
        "gradients": [p.grad.clone() for p in model.parameters()],
        "optimizer": [
            torch.as_tensor(v).clone() for s in state.values() for v in s.values()
        ],
        "streams": [
            torch.get_rng_state(),
            torch.tensor(random.getstate()[1]),
            torch.from_numpy(np.random.get_state()[1].copy()),  # noqa: NPY002
        ],
        "modes": [torch.tensor(m.training) for m in model.modules()],
        "flags": [torch.tensor(torch.backends.cudnn.enabled)],
    }


MAKERS = {
    "adam": lambda m: torch.optim.Adam(m.parameters(), lr=0.01),
    "sgd": lambda m: torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9),
}


@pytest.mark.parametrize("name", MAKERS)
def test_training_is_the_same_bits_with_tracking(name, tmp_path):
    plain = network()
    optimizer = MAKERS[name](plain)
    train(plain, optimizer, 21)
    expected = everything(plain, optimizer)

    model = network()
    optimizer = MAKERS[name](model)
    problem = cs.Problem(model, "cross_entropy", PROBE)
    tracker = cs.track(
        problem,
        every=5,
        k=2,
        optimizer=optimizer,
        z=0.01,
        measures=None,
        num_steps=8,
        num_probes=4,
        out=tmp_path,
    )
    train(model, optimizer, 21, after=tracker.step)

    found = everything(model, optimizer)
    for part, tensors in expected.items():
        for one, other in zip(tensors, found[part], strict=True):
            assert torch.equal(one, other), part
    assert tracker.result().at.tolist() == [5, 10, 15, 20]


def dense(problem):
    """Return loss, gradient and Hessian by autograd in float64."""
    H = cs.Hessian(problem.promoted()).to_dense()
    return (H + H.T) / 2


def test_every_number_is_the_dense_ones():
    model = network(torch.float64)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    x, y = PROBE[0].double(), PROBE[1]
    problem = cs.Problem(model, "cross_entropy", (x, y))
    tracker = cs.track(
        problem, every=1, k=3, optimizer=optimizer, z=[0.01, 0.1], tol=1e-9
    )
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()

    tracker.step(1)

    curve = tracker.result()
    model.eval()
    loss = nn.functional.cross_entropy(model(x), y)
    g = torch.cat([v.flatten() for v in torch.autograd.grad(loss, model.parameters())])
    names = dict(model.named_parameters())

    def objective(flat):
        parts, place = {}, 0
        for name, p in names.items():
            parts[name] = flat[place : place + p.numel()].reshape(p.shape)
            place += p.numel()
        out = torch.func.functional_call(model, parts, (x,))
        return nn.functional.cross_entropy(out, y)

    flat = torch.cat([p.detach().flatten() for p in names.values()])
    H = torch.func.jacrev(torch.func.grad(objective))(flat)
    values, vectors = torch.linalg.eigh((H + H.T) / 2)
    V = vectors[:, -3:]
    close = {"rtol": 1e-7, "atol": 1e-10}

    torch.testing.assert_close(curve.loss[0], loss.detach(), **close)
    torch.testing.assert_close(curve.gradient_norm[0], g.norm(), **close)
    torch.testing.assert_close(curve.eigenvalues[0], values[-3:].flip(0), **close)
    alignment = (V.T @ g).square().sum() / g.square().sum()
    torch.testing.assert_close(curve.alignment[0], alignment, rtol=1e-6, atol=1e-9)
    dimension = [
        sum(v / (v + z) for v in values.tolist() if v > 0) for z in (0.01, 0.1)
    ]
    assert curve.effective_dimension[0].tolist() == pytest.approx(dimension, rel=1e-6)
    v_hat = torch.cat(
        [optimizer.state[p]["exp_avg_sq"].flatten() / 0.001 for p in names.values()]
    )
    root = (v_hat.sqrt() + 1e-8).rsqrt()
    sharpness = torch.linalg.eigvalsh(root[:, None] * H * root)[-1]
    torch.testing.assert_close(curve.preconditioned_sharpness[0], sharpness, **close)
    assert curve.limit[0].item() == pytest.approx(38 / 0.01)


def test_the_trace_is_within_its_interval():
    model = network()
    problem = cs.Problem(model, "cross_entropy", PROBE)
    exact = float(dense(problem).trace())
    inside = 0
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        tracker = cs.track(
            problem,
            every=1,
            k=2,
            tol=1e-4,
            measures=["trace", "eigenvalues"],
            generator=generator,
        )
        row = tracker.measure(0)
        # Student's t for as many degrees of freedom as Hutchinson's error has.
        half = results.student_t_quantile(0.975, 16.0) * row["trace_error"]
        inside += abs(row["trace"] - exact) <= half

    # 95 % of 30, less three standard deviations.
    assert inside >= 25


def test_layers_norms_are_those_of_the_dense_blocks():
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    problem = cs.Problem(model, "cross_entropy", (PROBE[0].double(), PROBE[1]))
    H, G = dense(problem), cs.GGN(problem).to_dense()

    tracker = cs.track(problem, every=1, measures=["layers"])
    tracker.step(0)

    curve = tracker.result()
    places = {"0": slice(0, 24), "2": slice(24, 39)}
    for i, name in enumerate(curve.layers):
        own = (places[name], places[name])
        blocks = [H[own], G[own], H[own] - G[own]]
        expected = torch.stack([block.norm() for block in blocks])
        torch.testing.assert_close(
            curve.layer_norms[0, i], expected, rtol=1e-9, atol=1e-12
        )
    assert curve.layers == ("0", "2")


def test_layers_that_are_not_exact_are_left_out_with_a_word_and_the_others_are_there():
    model = network(torch.float64)  # BatchNorm in front of tanh has no exact norm
    problem = cs.Problem(model, "cross_entropy", (PROBE[0].double(), PROBE[1]))
    H = dense(problem)
    tracker = cs.track(problem, every=1, k=1)

    (note,) = tracker.plan().notes
    tracker.step(0)
    curve = tracker.result()

    assert "1 without an exact one are left out: 1 (its curvature part" in note
    assert note in str(tracker.plan())
    assert note in curve.notes
    assert curve.layers == ("0", "4")
    for i, own in enumerate((slice(0, 54), slice(72, 102))):
        expected = float(H[own, own].norm())
        assert float(curve.layer_norms[0, i, 0]) == pytest.approx(expected, rel=1e-9)
    assert not bool(curve.layer_norm_errors.any())
    spent = tracker.rows[0]["cost"]["layers"]
    planned = {part.name: part.gradients for part in tracker.plan().first}
    assert spent["num_matvecs"] == 0
    assert spent["gradients"] == pytest.approx(planned["layers"])

    asked = cs.track(problem, every=1, measures=["layers"])
    asked.step(0)
    assert asked.result().layers == ("0", "1", "4")
    assert asked.plan().notes == asked.result().notes == ()


def test_where_no_layer_is_exact_the_plan_says_so():
    model = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(8, 3))
    problem = cs.Problem(
        model,
        "cross_entropy",
        (torch.randint(0, 7, (9, 2)), Y[:9]),
        params=lambda name, _: name.startswith("0"),
    )
    tracker = cs.track(problem, every=1, k=1)
    tracker.step(0)

    assert tracker.result().layer_norms is None
    assert "1 without an exact one are left out: 0 (" in tracker.result().notes[0]


def test_norms_of_a_masked_layer_are_those_of_its_selected_entries():
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[:2, :3] = True
    data = (PROBE[0].double(), PROBE[1])
    problem = cs.Problem(model, "cross_entropy", data, params={"0.weight": mask})
    expected = float(dense(problem).norm())

    # Six entries take six columns: nothing is left to chance.
    tracker = cs.track(problem, every=1, k=1, measures=["layers"], num_probes=6)
    tracker.step(0)

    assert tracker.result().layer_norms[0, 0, 0].item() == pytest.approx(expected)


def test_warm_starts_save_a_third_of_the_products_on_a_network_in_training():
    images, labels = data.load("digits", num_samples=400, normalize="half").tensors()
    products = {}
    for warm in (False, True):
        model = models.build(
            "mlp", hidden=(32, 16), generator=torch.Generator().manual_seed(0)
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        problem = cs.Problem(model, "cross_entropy", (images[:256], labels[:256]))
        tracker = cs.track(
            problem, every=5, k=5, measures=["eigenvalues"], warm_start=warm
        )
        for step in range(1, 46):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            tracker.step(step)
        products[warm] = tracker.result()

    cold, warm = products[False], products[True]
    # The first measurement has no vectors to start from.
    assert bool(warm.converged.all())
    torch.testing.assert_close(warm.eigenvalues, cold.eigenvalues, rtol=1e-2, atol=0)
    assert int(warm.num_matvecs[1:].sum()) <= 0.67 * int(cold.num_matvecs[1:].sum())


PLANNED = {
    "eigenvalues alone": {"k": 5, "measures": ["eigenvalues"]},
    "one eigenvalue": {"k": 1, "measures": ["eigenvalues", "gradient"]},
    "ten, cold": {"k": 10, "measures": ["eigenvalues"], "warm_start": False},
    "everything": {"k": 4, "z": 0.1, "num_probes": 4, "num_steps": 12},
    "layers": {"measures": ["layers"]},
}


@pytest.mark.parametrize("name", PLANNED)
def test_measurements_cost_what_the_plan_says_beforehand(name):
    images, labels = data.load("digits", num_samples=300, normalize="half").tensors()
    model = models.build(
        "mlp", hidden=(24,), generator=torch.Generator().manual_seed(1)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    problem = cs.Problem(model, "cross_entropy", (images[:200], labels[:200]))
    tracker = cs.track(problem, every=10, optimizer=optimizer, **PLANNED[name])

    plan = tracker.plan()
    for step in range(1, 81):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        tracker.step(step)

    curve = tracker.result()
    first, later = float(curve.gradients[0]), float(curve.gradients[1:].mean())
    # About: within a factor of 2, whatever the spectrum; at most: always.
    assert 0.5 <= first / plan.first_gradients <= 2.0
    assert 0.5 <= later / plan.gradients <= 2.0
    assert float(curve.gradients.max()) <= plan.most
    # Afterwards the plan rests on what happened.
    again = tracker.plan()
    assert again.gradients == pytest.approx(later, rel=0.2)


def test_the_plan_prints_parts_and_share():
    problem = cs.Problem(network(), "cross_entropy", PROBE)
    plan = cs.track(problem, k=2).plan()

    assert "gradients of its 50 probe samples" in str(plan)
    assert {row["measure"] for row in plan.rows()} >= {"loss", "eigenvalues", "trace"}
    share = plan.share(every=100, batch_size=50)
    assert share == pytest.approx(plan.gradients / 100)


def tracked(folder, steps, *, upto, model=None, optimizer=None):
    """Track up to a step, in a training that always starts at the same weights."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    problem = cs.Problem(model, "cross_entropy", PROBE)
    tracker = cs.track(problem, every=4, k=1, optimizer=optimizer, out=folder)
    train(model, optimizer, upto, after=tracker.step)
    return tracker


def test_a_resumed_run_measures_no_step_twice(tmp_path):
    tracked(tmp_path, 4, upto=10)
    before = (tmp_path / FILE).read_bytes()

    tracker = tracked(tmp_path, 4, upto=17)

    assert (tmp_path / FILE).read_bytes().startswith(before)
    assert tracker.result().at.tolist() == [4, 8, 12, 16]
    assert not (tmp_path / "tracking-replaced.jsonl").exists()


def test_a_torn_row_is_measured_again(tmp_path):
    whole = tracked(tmp_path / "whole", 4, upto=12).result()
    tracked(tmp_path / "torn", 4, upto=12)
    path = tmp_path / "torn" / FILE
    path.write_bytes(path.read_bytes()[:-30])

    again = tracked(tmp_path / "torn", 4, upto=12).result()

    assert again.at.tolist() == [4, 8, 12]
    assert torch.equal(again.loss, whole.loss)
    torch.testing.assert_close(again.eigenvalues, whole.eigenvalues, rtol=1e-3, atol=0)


def test_another_training_in_the_folder_replaces_the_rows(tmp_path):
    tracked(tmp_path, 4, upto=12)
    model = network()
    with torch.no_grad():
        model[0].weight.mul_(2.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    problem = cs.Problem(model, "cross_entropy", PROBE)
    tracker = cs.track(problem, every=4, k=1, optimizer=optimizer, out=tmp_path)

    train(model, optimizer, 8, after=tracker.step)

    assert tracker.result().at.tolist() == [4, 8]
    aside = (tmp_path / "tracking-replaced.jsonl").read_text().splitlines()
    assert len(aside) == 3


def test_a_training_that_diverges_goes_on_and_is_marked():
    model = network()
    problem = cs.Problem(model, "cross_entropy", PROBE)
    tracker = cs.track(problem, every=1, k=1)
    tracker.step(0)
    with torch.no_grad():
        model[0].weight.fill_(torch.nan)

    with pytest.warns(AccuracyWarning, match="nothing could be measured at step 1"):
        tracker.step(1)
    tracker.step(2)

    curve = tracker.result()
    assert curve.loss.isnan().tolist() == [False, True, True]
    assert "2 steps could not be measured, first 1" in curve.notes[0]


def test_the_curve_is_saved_loaded_printed_and_drawn(tmp_path):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    problem = cs.Problem(model, "cross_entropy", PROBE)
    with cs.track(
        problem, every=2, k=2, optimizer=optimizer, out=tmp_path, z=0.1, num_steps=8
    ) as tracker:
        train(model, optimizer, 6, after=tracker.step)

    curve = results.load(tmp_path, "tracking")

    assert curve.rows() == tracker.result().rows()
    assert "3 measurements of the Hessian; at step 6" in str(curve)
    assert curve.formula == "2 / eta"
    assert curve.limit.tolist() == [40.0] * 3
    page = cs.report([curve], path=tmp_path / "page")
    assert "edge of stability" in page.read_text()


def test_numbers_go_to_every_log():
    problem = cs.Problem(network(), "cross_entropy", PROBE)
    one, other = [], []
    tracker = cs.track(
        problem,
        every=3,
        k=2,
        log=[lambda n, s: one.append((s, n)), lambda n, s: other.append(s)],
    )

    for step in range(7):
        with torch.no_grad():
            problem.model[0].bias.add_(0.1)
        tracker(step)

    assert [step for step, _ in one] == other == [0, 3, 6]
    assert {"loss", "eigenvalue_1", "eigenvalue_2", "trace"} <= set(one[0][1])


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"k": 100}, ValueError, "`k` must be at most 102, the dimension"),
        ({"measures": ["size"]}, ValueError, "`measures` must be among loss, gradient"),
        (
            {"measures": ["effective_dimension"]},
            ValueError,
            "`z` must be given for the effective dimension",
        ),
        (
            {"measures": ["preconditioned"]},
            ValueError,
            "`optimizer` must be adaptive (Adam, ...)",
        ),
        ({"tol": 0.0}, ValueError, "`tol` must be above 0"),
        ({"optimizer": "adam"}, TypeError, "`optimizer` must be a torch.optim"),
    ],
)
def test_arguments_out_of_range_are_refused(options, error, text):
    problem = cs.Problem(network(), "cross_entropy", PROBE)
    options = {**options, "k": 200} if options.get("k") else options

    with pytest.raises(
        error, match=re.escape(text.replace("102", str(problem.num_params)))
    ):
        cs.track(problem, **options)


def test_what_is_no_problem_is_refused():
    with pytest.raises(TypeError, match=re.escape("`problem` must be a Problem")):
        cs.track(network())
