"""The optimiser's metric, and where its steps diverge, against torch's own optimisers."""

import re

import pytest
import torch
from torch import nn

import curvescope as cs
from curvescope.analysis.preconditioning import (
    PreconditionedOperator,
    optimiser_scale,
    stability_limit,
)


def trained(make, *, steps=3, dtype=torch.float64):
    """Return a problem on a small network, and its optimiser after some steps."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(dtype)
    X = torch.randn(10, 3, dtype=dtype)
    y = torch.randint(0, 2, (10,))
    optimizer = make(model)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), y).backward()
        optimizer.step()
    return cs.Problem(model, "cross_entropy", (X, y)), optimizer


def seen_scale(model, optimizer, problem):
    """Return d from what one step with known first moments does: (old - new) m / lr."""
    before = [p.detach().clone() for p in model.parameters()]
    gradients = [torch.full_like(p, 1e-3) for p in before]
    for p, g in zip(model.parameters(), gradients, strict=True):
        p.grad = g.clone()
    optimizer.step()
    moved = [b - p.detach() for b, p in zip(before, model.parameters(), strict=True)]
    return problem.layout.join([m[None] for m in moved])[0]


@pytest.mark.parametrize(
    "make",
    [
        lambda m: torch.optim.RMSprop(m.parameters(), lr=0.01, eps=1e-6),
        lambda m: torch.optim.RMSprop(m.parameters(), lr=0.01, centered=True),
        lambda m: torch.optim.Adagrad(m.parameters(), lr=0.01, lr_decay=0.3),
    ],
    ids=["rmsprop", "centred rmsprop", "adagrad"],
)
def test_the_scale_is_what_the_last_step_was_divided_by(make):
    problem, optimizer = trained(make)

    moved = seen_scale(problem.model, optimizer, problem)

    expected = 0.01 * 1e-3 / optimiser_scale(optimizer, problem)
    torch.testing.assert_close(moved, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_adams_scale_is_what_the_last_step_was_divided_by(kind, amsgrad):
    problem, optimizer = trained(
        lambda m: kind(
            m.parameters(), lr=0.01, betas=(0.0, 0.9), weight_decay=0, amsgrad=amsgrad
        )
    )

    moved = seen_scale(problem.model, optimizer, problem)

    # Without first momentum the step is lr g / d.
    expected = 0.01 * 1e-3 / optimiser_scale(optimizer, problem)
    torch.testing.assert_close(moved, expected, rtol=1e-9, atol=0)


def test_a_slower_group_has_its_scale_raised():
    problem, optimizer = trained(
        lambda m: torch.optim.SGD(
            [
                {"params": m[0].parameters(), "lr": 0.05},
                {"params": m[2].parameters(), "lr": 0.2},
            ]
        )
    )

    scale = optimiser_scale(optimizer, problem)

    assert scale.tolist() == [4.0] * 16 + [1.0] * 10
    assert stability_limit(optimizer).value == 2 / 0.2


def test_frozen_parameters_follow_the_problems_selection():
    problem, optimizer = trained(lambda m: torch.optim.Adam(m.parameters(), lr=0.01))

    whole = optimiser_scale(optimizer, problem)

    part = optimiser_scale(optimizer, problem.select("2.*"))
    assert torch.equal(part, whole[16:])


OPTIMISERS = {
    "plain": lambda p: torch.optim.SGD([p], lr=0.1),
    "momentum": lambda p: torch.optim.SGD([p], lr=0.1, momentum=0.9),
    "dampened": lambda p: torch.optim.SGD([p], lr=0.1, momentum=0.8, dampening=0.5),
    "nesterov": lambda p: torch.optim.SGD([p], lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam([p], lr=0.1, betas=(0.9, 1 - 1e-15)),
    "rmsprop": lambda p: torch.optim.RMSprop([p], lr=0.1, alpha=1 - 1e-15),
    "rmsprop with momentum": lambda p: torch.optim.RMSprop(
        [p], lr=0.1, alpha=1 - 1e-15, momentum=0.7
    ),
}


def final_distance(make, factor):
    """Return how far a descent on a parabola of `factor` times the limit ends."""
    p = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = make(p)
    curvature = factor * stability_limit(optimizer).value
    if isinstance(optimizer, torch.optim.Adam):
        # The scale stands still at 1, and the moments have forgotten their start.
        optimizer.state[p] = {
            "step": torch.tensor(1e17),
            "exp_avg": torch.zeros_like(p),
            "exp_avg_sq": torch.ones_like(p),
        }
    if isinstance(optimizer, torch.optim.RMSprop):
        optimizer.state[p] = {
            "step": torch.tensor(1.0),
            "square_avg": torch.ones_like(p),
            "momentum_buffer": torch.zeros_like(p),
        }
    largest = 0.0
    for step in range(4000):
        p.grad = curvature * p.detach().clone() * 1e-3  # far from moving the scale
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * 1e3
        optimizer.step()
        if step >= 3900:
            largest = max(largest, abs(p.item()))
        if abs(p.item()) > 1e6:
            return p.item() ** 2
    return largest


@pytest.mark.parametrize("name", OPTIMISERS)
def test_descent_stays_just_below_the_limit_and_diverges_just_above(name):
    assert final_distance(OPTIMISERS[name], 0.97) < 1e-2
    assert final_distance(OPTIMISERS[name], 1.03) > 10.0


def test_the_preconditioned_matrix_is_the_dense_one():
    problem, optimizer = trained(lambda m: torch.optim.Adam(m.parameters(), lr=0.01))
    H = cs.Hessian(problem)
    scale = optimiser_scale(optimizer, problem)

    P = PreconditionedOperator(H, scale)

    root = scale.rsqrt()
    expected = root[:, None] * H.to_dense() * root
    torch.testing.assert_close(P.to_dense(), expected, rtol=1e-12, atol=1e-12)
    top = cs.eigsh(P, k=1, which="LA").eigenvalues[0]
    torch.testing.assert_close(top, torch.linalg.eigvalsh(expected)[-1])


def test_a_changed_scale_is_a_changed_matrix():
    problem, _ = trained(lambda m: torch.optim.SGD(m.parameters(), lr=0.1))
    H = cs.Hessian(problem)
    scale = torch.ones(problem.num_params, dtype=torch.float64)

    one, other = PreconditionedOperator(H, scale), PreconditionedOperator(H, 2 * scale)

    assert one.refresh() != other.refresh()


def test_wrapped_optimisers_are_unwrapped():
    _, optimizer = trained(lambda m: torch.optim.SGD(m.parameters(), lr=0.1))

    class Wrapper:
        def __init__(self, inner):
            self.optimizer = inner

    assert stability_limit(Wrapper(Wrapper(optimizer))).value == 20.0


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda m: torch.optim.Adam(m[0].parameters(), lr=0.1),
            ValueError,
            "`optimizer` must update all parameters of the problem; got one without 2",
        ),
        (
            lambda m: torch.optim.SGD(m.parameters(), lr=0.1, maximize=True),
            ValueError,
            "`optimizer` must descend",
        ),
        (
            lambda m: torch.optim.Rprop(m.parameters()),
            TypeError,
            "`optimizer` must be one of SGD, Adam, RMSprop, Adagrad, AdamW; got Rprop",
        ),
    ],
)
def test_optimisers_that_do_not_fit_are_refused(make, error, text):
    problem, optimizer = trained(make)

    with pytest.raises(error, match=re.escape(text)):
        optimiser_scale(optimizer, problem)


def test_an_adaptive_optimiser_needs_a_step():
    problem, optimizer = trained(
        lambda m: torch.optim.Adam(m.parameters(), lr=0.1), steps=0
    )

    with pytest.raises(ValueError, match="must have made a step"):
        optimiser_scale(optimizer, problem)


def test_what_is_no_optimiser_is_refused():
    with pytest.raises(TypeError, match=re.escape("must be a torch.optim.Optimizer")):
        stability_limit("adam")


def normalised(make, *, bias=True, steps=4):
    """Return a problem with BatchNorm behind a layer, and its optimiser."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Linear(3, 6, bias=bias), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)
    )
    X, y = torch.randn(40, 3), torch.randint(0, 2, (40,))
    optimizer = make(model.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), y).backward()
        optimizer.step()
    return cs.Problem(model, "cross_entropy", (X, y)), optimizer


@pytest.mark.parametrize(
    "make",
    [torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad],
    ids=["adam", "rmsprop", "adagrad"],
)
def test_a_sharpness_of_parameters_without_gradient_is_said_to_be_one(make):
    options = {"eps": 1e-6} if make is torch.optim.Adagrad else {"eps": 1e-7}
    problem, optimizer = normalised(lambda p: make(p, lr=1e-3, **options))

    tracker = cs.track(problem, every=1, k=1, optimizer=optimizer)
    tracker.step(4)
    curve = tracker.result()
    single = cs.step_size(problem, preconditioner=optimizer)

    for result in (curve, single):
        (note,) = [n for n in result.notes if "next to no gradient" in n]
        assert "6 of 50 parameters (6 in 0)" in note
        assert "`params=`" in note
    assert note in str(single)


def test_without_such_parameters_nothing_is_said():
    # The bias is left out of the problem, or there is none.
    problem, optimizer = normalised(lambda p: torch.optim.Adam(p, lr=1e-3))
    chosen = cs.Problem(
        problem.model,
        "cross_entropy",
        next((b.inputs, b.targets) for b in problem.batches()),
        params=lambda name, _: name != "0.bias",
    )
    bare = normalised(lambda p: torch.optim.Adam(p, lr=1e-3), bias=False)
    plain = normalised(lambda p: torch.optim.SGD(p, lr=1e-3))

    for problem_, optimizer_ in ((chosen, optimizer), bare, plain):
        found = cs.step_size(problem_, preconditioner=optimizer_)
        assert not any("no gradient in training" in n for n in found.notes)


def test_parameters_without_gradient_and_curvature_are_not_spoken_of():
    # An input that is always zero: its weights have neither.
    model = nn.Linear(3, 2)
    X = torch.randn(20, 3)
    X[:, 1] = 0.0
    y = torch.randint(0, 2, (20,))
    optimizer = torch.optim.Adam(model.parameters())
    nn.functional.cross_entropy(model(X), y).backward()
    optimizer.step()

    found = cs.step_size(
        cs.Problem(model, "cross_entropy", (X, y)), preconditioner=optimizer
    )

    assert not any("no gradient in training" in n for n in found.notes)
