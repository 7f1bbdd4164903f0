"""Layers' own blocks by the chain rule against dense second derivatives."""

import pytest
import torch
import torch.nn.functional as F
from tests.unit.exact.chain_rule_truth import (
    ACTIVATIONS,
    assert_blocks,
    cross_entropy_sum,
    labelled,
    mlp,
)
from torch import nn

import curvescope.losses as losses
from curvescope.exact import own_blocks, own_blocks_in_turn
from curvescope.problem import Problem


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_linear_layers_have_the_blocks_of_dense_autodiff(name, bias):
    problem = Problem(mlp(ACTIVATIONS[name], bias=bias), "cross_entropy", labelled())

    blocks = assert_blocks(problem, cross_entropy_sum, method="kronecker")

    if name in ("relu", "leaky-relu", "linear"):
        for block in blocks.values():
            assert block.frobenius_norms().curvature == 0.0
            assert block.traces().whole == block.traces().linearisation
            assert not block.to_dense("curvature").any()


class ConvNet(nn.Module):
    """Stride, padding, dilation, groups, both poolings, BatchNorm and a residual sum."""

    def __init__(self, *, activation=nn.ReLU, padding="same"):
        super().__init__()
        self.c1 = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.b1 = nn.BatchNorm2d(4)
        self.c2 = nn.Conv2d(4, 4, (3, 2), dilation=2, groups=2, padding=padding)
        self.c3 = nn.Conv2d(4, 6, 3, padding=(1, 0), bias=False)
        self.b3 = nn.BatchNorm2d(6, affine=True)
        self.act = activation()
        self.maximum = nn.MaxPool2d(2)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.act(self.b1(self.c1(x)))
        x = x + self.c2(x)
        x = self.maximum(self.act(x))
        x = self.act(self.b3(self.c3(x)))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


def with_statistics(model):
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model.double()


def images(n=7, side=11):
    return torch.randn(n, 2, side, side).double(), torch.randint(0, 3, (n,))


def test_convolutions_and_norm_layers_have_the_blocks_of_dense_autodiff():
    problem = Problem(with_statistics(ConvNet()), "cross_entropy", images())

    blocks = assert_blocks(problem, cross_entropy_sum)

    assert blocks["c2"].method == "patches"  # more parameters than rows
    assert blocks["b1"].method == "formed"
    assert blocks["head"].method == "kronecker"
    assert all(block.frobenius_norms().curvature == 0.0 for block in blocks.values())


def test_padding_modes_and_one_dimensional_convolutions_are_right():
    model = nn.Sequential(
        nn.Conv1d(2, 3, 3, padding=2, padding_mode="circular", dilation=2),
        nn.ReLU(),
        nn.Conv1d(3, 4, 3, padding="same", groups=1),
        nn.AvgPool1d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 3),
    ).double()
    data = (torch.randn(5, 2, 8).double(), torch.randint(0, 3, (5,)))

    assert_blocks(Problem(model, "cross_entropy", data), cross_entropy_sum)


def test_a_smooth_convolution_at_one_position_is_exact_and_others_are_left_out():
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(),
        nn.Linear(4, 3),
    ).double()  # fmt: skip
    problem = Problem(model, "cross_entropy", images(6, side=5))

    blocks = assert_blocks(problem, cross_entropy_sum, layers=["2", "5"])

    assert blocks["2"].frobenius_norms().curvature > 1e-3
    left_out = own_blocks(problem).left_out
    assert list(left_out) == ["0"]
    assert "its curvature part is not zero" in left_out["0"]


class Positions(nn.Module):
    """Layer norms and linear maps of sequences, one output vector a position or a sample."""

    def __init__(self, *, pooled):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.mix = nn.Linear(6, 6, bias=False)  # across positions
        self.norm = nn.LayerNorm(4)
        self.up = nn.Linear(4, 5)
        self.head = nn.Linear(5, 3)
        self.pooled = pooled

    def forward(self, tokens):
        x = self.embed(tokens)
        x = x + self.mix(x.transpose(1, 2)).transpose(1, 2)
        x = self.head(torch.relu(self.up(self.norm(x))))
        return x.mean(1) if self.pooled else x


def test_linear_maps_of_sequences_are_exact_where_their_positions_are_independent():
    model = Positions(pooled=False).double()
    data = (torch.randint(0, 7, (8, 6)), torch.randint(0, 3, (8, 6)))
    data[1][::2, 1] = -100  # ignored positions
    problem = Problem(model, "cross_entropy", data)

    def total(z, y):
        return F.cross_entropy(z.flatten(0, 1), y.flatten(), reduction="sum")

    blocks = assert_blocks(problem, total, layers=["norm", "up", "head"])

    assert blocks["up"].method == blocks["head"].method == "kronecker"
    assert blocks["norm"].method == "formed"
    left_out = own_blocks(problem).left_out
    assert set(left_out) == {"embed", "mix"}
    assert "used by `embedding`" in left_out["embed"]


def test_linear_maps_of_pooled_sequences_are_done_by_their_factor():
    model = Positions(pooled=True).double()
    data = (torch.randint(0, 7, (8, 6)), torch.randint(0, 3, (8,)))
    problem = Problem(model, "cross_entropy", data)

    assert_blocks(problem, cross_entropy_sum, layers=["norm", "up", "head"])


def weighted_sum(z, y):
    weight = torch.tensor([0.3, 2.0, 5.0]).double()
    return F.cross_entropy(
        z, y, weight=weight, label_smoothing=0.1, ignore_index=1, reduction="sum"
    )


def test_the_objective_is_the_problems_own_whatever_loss_batches_and_decay():
    loss = nn.CrossEntropyLoss(
        torch.tensor([0.3, 2.0, 5.0]).double(), ignore_index=1, label_smoothing=0.1
    )
    for options in ({}, {"reduction": "sum"}, {"weight_decay": 0.37}):
        problem = Problem(mlp(nn.Tanh), loss, labelled(17), batch_size=5, **options)

        assert_blocks(problem, weighted_sum)


def huber_sum(z, y):
    return F.huber_loss(z, y, reduction="sum")


def wavy(z, y):
    return (torch.cos(z - y) + 0.1 * (z - y) ** 2).sum()


def test_other_losses_are_exact_also_those_that_are_not_convex():
    x, _ = labelled(12)
    y = 2 * torch.randn(12, 3).double()
    for loss, total in (
        ("mse", lambda z, y: ((z - y) ** 2).sum()),
        (nn.HuberLoss(), huber_sum),
        (losses.Loss(wavy, reduction="sum"), wavy),
    ):
        for activation in (nn.Tanh, nn.ReLU):
            assert_blocks(Problem(mlp(activation), loss, (x, y)), total)


def test_a_loss_that_is_not_convex_is_exact_for_convolutions_too():
    x, _ = images(5)
    y = 2 * torch.randn(5, 3).double()
    problem = Problem(
        with_statistics(ConvNet()), losses.Loss(wavy, reduction="sum"), (x, y)
    )

    assert_blocks(problem, wavy)


def test_selected_parameters_alone_make_up_a_layer():
    model = mlp(nn.Tanh)
    for params, layers in (
        ("*.weight", ["0", "2", "4"]),
        ("*.bias", ["0", "2", "4"]),
        (["2.weight", "4.bias"], ["2", "4"]),
    ):
        problem = Problem(model, "cross_entropy", labelled(), params=params)

        assert_blocks(problem, cross_entropy_sum, layers=layers)


def test_parameters_in_another_order_keep_it():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.randn(3))
            self.weight = nn.Parameter(torch.randn(3, 5))

        def forward(self, x):
            return torch.tanh(F.linear(x, self.weight, self.bias)) ** 2

    problem = Problem(Turned().double(), "cross_entropy", labelled())

    assert_blocks(problem, cross_entropy_sum)


class Shared(nn.Module):
    """One layer that is used twice, two tied ones, one in the open, one of its own."""

    def __init__(self):
        super().__init__()
        self.twice = nn.Linear(5, 5)
        self.first = nn.Linear(5, 5, bias=False)
        self.second = nn.Linear(5, 5, bias=False)
        self.second.weight = self.first.weight
        self.open = nn.Linear(5, 5)
        self.alone = nn.Linear(5, 3)

    def forward(self, x):
        x = self.twice(torch.tanh(self.twice(x)))
        x = self.second(torch.tanh(self.first(x)))
        x = torch.tanh(self.open(x)) + x @ self.open.weight
        return self.alone(x)


def test_shared_tied_and_openly_used_parameters_are_left_out_with_the_reason():
    problem = Problem(Shared().double(), "cross_entropy", labelled())

    blocks = assert_blocks(problem, cross_entropy_sum, layers=["alone"])

    blocks = own_blocks(problem)
    assert set(blocks) == {"alone"}
    assert blocks.left_out["twice"] == "it is used more than once"
    assert blocks.left_out["first"] == "it is used more than once"
    assert "used by `matmul`" in blocks.left_out["open"]


class Unseen(torch.autograd.Function):
    """A custom function, which no mode sees."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x @ w

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g @ w.T, x.T @ g


class Hidden(nn.Module):
    def __init__(self, *, custom):
        super().__init__()
        self.a = nn.Linear(5, 5, bias=False)
        self.b = nn.Linear(5, 3)
        self.custom = custom

    def forward(self, x):
        u = self.a(x)
        if self.custom == "same weight":
            u = u + Unseen.apply(x, self.a.weight)
        if self.custom == "downstream":
            u = Unseen.apply(u, torch.eye(5).double())
        return self.b(torch.tanh(u))


def test_a_use_that_no_function_of_torch_shows_is_found_by_the_gradient():
    problem = Problem(
        Hidden(custom="same weight").double(), "cross_entropy", labelled()
    )

    left_out = own_blocks(problem, layers=["a"]).left_out

    assert left_out == {"a": "its parameters are used in another place too"}


def test_custom_backward_passes_are_left_to_the_general_way():
    problem = Problem(Hidden(custom="downstream").double(), "cross_entropy", labelled())

    left_out = own_blocks(problem).left_out

    assert "custom autograd function" in left_out["a"]


class Mixing(nn.Module):
    """Samples in the second dimension, as torch's recurrent layers have them."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(5, 4)
        self.b = nn.Linear(4, 3)

    def forward(self, x):
        x = torch.tanh(self.a(x.transpose(0, 1)))  # positions first
        return self.b(x.sum(0))


def test_another_order_of_samples_and_positions_is_noticed():
    data = (torch.randn(6, 6, 5).double(), torch.randint(0, 3, (6,)))
    problem = Problem(Mixing().double(), "cross_entropy", data)

    blocks = own_blocks(problem)

    assert set(blocks) == {"b"}
    assert "another sample" in blocks.left_out["a"]


def test_transformed_weights_and_masked_entries_are_left_out():
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(5, 4)),
        nn.Tanh(),
        nn.Linear(4, 3),
    ).double()
    blocks = own_blocks(Problem(model, "cross_entropy", labelled()))
    assert set(blocks) == {"0", "2"}  # the bias of layer 0 is its own
    assert blocks["0"].num_params == 4
    assert "0.parametrizations.weight" in blocks.left_out

    plain = mlp(nn.Tanh)
    mask = {"0.weight": torch.rand(6, 5) > 0.5, "4.weight": torch.rand(3, 4) > -1}
    problem = Problem(plain, "cross_entropy", labelled(), params=mask)
    left_out = own_blocks(problem).left_out
    assert left_out == {"0": "only some of its entries are selected"}


def test_train_mode_is_left_to_the_general_way():
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
    problem = Problem(model, "cross_entropy", labelled(), mode="train")

    assert set(own_blocks(problem).left_out) == {"0", "1", "2"}


def test_unknown_layers_are_refused():
    problem = Problem(mlp(nn.Tanh), "cross_entropy", labelled())

    with pytest.raises(ValueError, match="`layers` must name layers; got"):
        own_blocks(problem, layers=["7"])


def test_nothing_of_the_users_is_changed():
    model = with_statistics(ConvNet()).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    problem = Problem(model, "cross_entropy", images())
    state = torch.get_rng_state()

    own_blocks(problem)

    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_layers_that_do_not_fit_the_memory_together_come_in_turn():
    model = mlp(nn.Tanh, widths=(5, 40, 30, 3))
    problem = Problem(model, "cross_entropy", labelled(60))
    sizes = {k: b.num_bytes for k, b in own_blocks(problem).items()}
    data = problem.kept_data_bytes
    limited = Problem(
        model,
        "cross_entropy",
        labelled(60),
        memory_limit=data + int(1.3 * max(sizes.values())),
    )

    turns = list(own_blocks_in_turn(limited))
    together = own_blocks(limited)
    tiny = Problem(model, "cross_entropy", labelled(60), memory_limit=data + 60_000)

    assert len(turns) == 2
    assert sorted(name for turn in turns for name in turn) == ["0", "2", "4"]
    assert "ask for it alone" in " ".join(together.left_out.values())
    assert "of memory" in own_blocks(tiny).left_out["0"]
