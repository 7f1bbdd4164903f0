"""Which parameters: every way to say it, and what is refused."""

import re

import pytest
import torch
from torch import nn

from curvescope.curvature import Hessian
from curvescope.problem import Problem


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 5)
        self.block = nn.Sequential(nn.Tanh(), nn.Linear(5, 3))

    def forward(self, x):
        return self.block(self.first(x))


ALL = ["first.weight", "first.bias", "block.1.weight", "block.1.bias"]
SIZES = {"first.weight": 20, "first.bias": 5, "block.1.weight": 15, "block.1.bias": 3}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Net().double()


@pytest.fixture
def data():
    X = torch.randn(6, 4, dtype=torch.float64)
    return X, torch.randint(0, 3, (6,))


SELECTIONS = {
    "None": (None, ALL),
    "all": ("all", ALL),
    "weights": ("weights", ["first.weight", "block.1.weight"]),
    "a name": ("first.bias", ["first.bias"]),
    "a module's name": ("first", ["first.weight", "first.bias"]),
    "a glob": ("*.bias", ["first.bias", "block.1.bias"]),
    "globs": (["first.*", "block.1.bias"], [*ALL[:2], ALL[3]]),
    "a pattern": (re.compile(r"block\..*weight"), ["block.1.weight"]),
    "a predicate": (lambda name, p: p.numel() < 10, ["first.bias", "block.1.bias"]),
    "a mask of names": (
        {"first.bias": torch.ones(5, dtype=torch.bool)},
        ["first.bias"],
    ),
}


@pytest.mark.parametrize("kind", SELECTIONS)
def test_a_selection_is_the_matrix_s_block(kind, model, data):
    params, names = SELECTIONS[kind]
    whole = Hessian(Problem(model, "cross_entropy", data)).to_dense()

    problem = Problem(model, "cross_entropy", data, params=params)

    assert list(problem.layout.names) == names
    keep = torch.cat(
        [torch.full((SIZES[name],), name in names, dtype=torch.bool) for name in ALL]
    )
    torch.testing.assert_close(
        Hessian(problem).to_dense(), whole[keep][:, keep], rtol=1e-12, atol=1e-14
    )


def test_a_submodule_selects_its_parameters(model, data):
    problem = Problem(model, "cross_entropy", data, params=model.block)

    assert list(problem.layout.names) == ALL[2:]


def test_a_boolean_vector_selects_entries(model, data):
    mask = torch.rand(43) < 0.4
    whole = Hessian(Problem(model, "cross_entropy", data)).to_dense()

    problem = Problem(model, "cross_entropy", data, params=mask)

    assert problem.num_params == int(mask.sum())
    torch.testing.assert_close(
        Hessian(problem).to_dense(), whole[mask][:, mask], rtol=1e-12, atol=1e-14
    )
    sizes = [s.num_params for s in problem.layout.slices()]
    assert sum(sizes) == problem.num_params


def test_frozen_parameters_are_left_out_unless_all_are_asked_for(model, data):
    model.first.requires_grad_(requires_grad=False)

    assert Problem(model, "cross_entropy", data).num_params == 18
    everything = Problem(model, "cross_entropy", data, params="all")
    H = Hessian(everything).to_dense()

    assert everything.num_params == 43
    assert float(H[:25, :25].norm()) > 0
    assert not model.first.weight.requires_grad


def test_an_all_frozen_model_says_what_to_pass(model, data):
    model.requires_grad_(requires_grad=False)

    with pytest.raises(ValueError, match='All are frozen; pass `params="all"`'):
        Problem(model, "cross_entropy", data)


def test_tied_weights_count_once(data):
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    model[2].weight = model[0].weight

    problem = Problem(model, "cross_entropy", data)

    assert list(problem.layout.names) == ["0.weight", "0.bias", "2.bias"]


def test_layers_group_parameters_by_their_owner(model, data):
    layers = Problem(model, "cross_entropy", data).layers()

    assert layers == {"first": tuple(ALL[:2]), "block.1": tuple(ALL[2:])}


def test_a_problem_of_other_parameters_shares_the_rest(model, data):
    problem = Problem(model, "cross_entropy", data)
    other = problem.select("first.bias")

    assert other.num_params == 5
    assert problem.num_params == 43
    assert other.denominator == problem.denominator
    assert other.refresh() != problem.refresh()


BAD = [
    ("nothing.*", ValueError, r"select at least one parameter; got 'nothing"),
    (["first.*", "nix"], ValueError, r"match parameters of the model; got \['nix'\]"),
    (torch.ones(7, dtype=torch.bool), ValueError, "boolean vector over all 43"),
    (torch.ones(43), ValueError, "boolean vector over all 43"),
    (torch.zeros(43, dtype=torch.bool), ValueError, "select at least one parameter"),
    ({"nix": torch.ones(5, dtype=torch.bool)}, ValueError, r"got \['nix'\]"),
    ({"first.bias": torch.ones(5)}, ValueError, "boolean masks of the parameters"),
    (3.5, TypeError, "be a glob, a pattern, a predicate, a submodule or a mask"),
    (nn.Linear(2, 2), ValueError, "select at least one parameter"),
]


@pytest.mark.parametrize(("params", "error", "text"), BAD, ids=lambda v: str(v)[:20])
def test_bad_selections_are_refused(params, error, text, model, data):
    with pytest.raises(error, match=text):
        Problem(model, "cross_entropy", data, params=params)


def test_integer_parameters_are_refused(model, data):
    model.codes = nn.Parameter(torch.ones(3, dtype=torch.long), requires_grad=False)

    assert Problem(model, "cross_entropy", data).num_params == 43
    with pytest.raises(ValueError, match="floating-point parameters; got codes"):
        Problem(model, "cross_entropy", data, params="all")


def test_a_model_without_parameters_is_refused(data):
    with pytest.raises(ValueError, match="`model` must have parameters; got Tanh"):
        Problem(nn.Tanh(), "cross_entropy", data)
