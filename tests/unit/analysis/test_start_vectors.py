"""Start vectors of a problem, against gradients of each class by plain autograd."""

import pytest
import torch
from torch import nn

import curvescope as cs
from curvescope import data, models


def network(classes=3, seed=0):
    """Return a model with unequal classes, one of them without samples."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, classes)).double()
    X = torch.randn(11, 4, dtype=torch.float64)
    y = torch.tensor([0, 0, 1, 0, 2, 2, 0, 1, 0, 2, 0])
    return model, X, y


def flat_gradient(model, value):
    grads = torch.autograd.grad(value, list(model.parameters()))
    return torch.cat([g.reshape(-1) for g in grads])


@pytest.mark.parametrize("batch_size", [2, 11])
def test_class_means_are_the_classes_gradients_around_their_mean(batch_size):
    model, X, y = network(classes=4)
    problem = cs.Problem(model, "cross_entropy", (X, y), batch_size=batch_size)

    means = cs.start_vectors(problem, "class-means")

    loss = nn.functional.cross_entropy
    whole = flat_gradient(model, loss(model(X), y))
    expected = [
        flat_gradient(model, loss(model(X[y == c]), y[y == c])) - whole
        for c in range(3)
    ]
    # The fourth class has no samples.
    torch.testing.assert_close(means, torch.stack(expected, dim=1))
    both = cs.start_vectors(problem)
    torch.testing.assert_close(both[:, 0], whole)
    torch.testing.assert_close(both[:, 1:], means)
    assert cs.start_vectors(problem, "gradient").shape == (problem.num_params, 1)


def test_nothing_of_the_users_changes():
    model, X, y = network()
    model.train()
    problem = cs.Problem(model, "cross_entropy", (X, y))
    before = [p.detach().clone() for p in model.parameters()]

    cs.start_vectors(problem)

    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(map(torch.equal, before, model.parameters()))


def test_class_means_save_products_on_a_network_in_training():
    images, labels = data.load("digits", num_samples=500, normalize="half").tensors()
    model = models.build(
        "mlp", hidden=(32,), generator=torch.Generator().manual_seed(0)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    problem = cs.Problem(model, "cross_entropy", (images, labels))
    H = cs.Hessian(problem)
    spent = {}

    for name, start in (
        ("random", None),
        ("class means", cs.start_vectors(problem, "class-means")),
    ):
        found = [
            cs.eigsh(
                H,
                k=9,
                start=start,
                check_multiplicity=False,
                generator=torch.Generator().manual_seed(seed),
            )
            for seed in range(4)
        ]
        spent[name] = sum(pairs.cost.num_matvecs for pairs in found)
        assert all(pairs.converged.all() for pairs in found)

    assert spent["class means"] < spent["random"]


@pytest.mark.parametrize(
    ("loss", "targets"),
    [("mse", torch.zeros(11, 3)), ("cross_entropy", torch.full((11, 3), 1 / 3))],
)
def test_problems_without_labels_have_no_class_means(loss, targets):
    model, X, _ = network()
    problem = cs.Problem(model, loss, (X, targets.double()))

    with pytest.raises(ValueError, match="one label a sample"):
        cs.start_vectors(problem)
    assert cs.start_vectors(problem, "gradient").shape[1] == 1


def test_unknown_kinds_are_refused():
    model, X, y = network()

    with pytest.raises(ValueError, match="`kind` must be one of"):
        cs.start_vectors(cs.Problem(model, "cross_entropy", (X, y)), "means")
