"""Problem: its numbers, its settings, and hostile models."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

import curvescope.losses as losses
from curvescope._core.errors import AccuracyWarning
from curvescope.curvature import GGN, Hessian, Jacobian
from curvescope.problem import Problem


def net(**kwargs):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    return model.to(**kwargs) if kwargs else model.double()


G = torch.Generator().manual_seed(0)
X = torch.randn(10, 4, generator=G, dtype=torch.float64)
Y = torch.randint(0, 3, (10,), generator=G)


def dense(model, **options):
    return Hessian(Problem(model, "cross_entropy", (X, Y), **options)).to_dense()


TRUTH = dense(net())


def test_the_objective_and_accuracy_are_torch_s():
    model = net()
    seen = Problem(model, "cross_entropy", (X, Y), batch_size=3).evaluate()

    f = model(X)
    assert seen.loss == pytest.approx(float(F.cross_entropy(f, Y).detach()), rel=1e-12)
    assert seen.accuracy == pytest.approx(float((f.argmax(1) == Y).double().mean()))
    assert str(seen).startswith("loss ")


def test_the_gradient_is_torch_s():
    model = net()
    g = Problem(model, "cross_entropy", (X, Y), batch_size=3).gradient()

    expected = torch.autograd.grad(
        F.cross_entropy(model(X), Y), list(model.parameters())
    )
    torch.testing.assert_close(g, torch.cat([e.reshape(-1) for e in expected]))
    assert all(p.grad is None for p in model.parameters())


def test_double_precision_on_a_single_precision_model_leaves_it_as_it_is():
    model = net(dtype=torch.float32)
    exact = net(dtype=torch.float32).double()

    got = Hessian(Problem(model, "cross_entropy", (X, Y), dtype=torch.float64))

    torch.testing.assert_close(got.to_dense(), dense(exact), rtol=1e-13, atol=1e-15)
    assert next(model.parameters()).dtype == torch.float32


@pytest.mark.parametrize("kind", [Hessian, GGN])
def test_weight_decay_adds_its_identity(kind):
    plain = kind(Problem(net(), "cross_entropy", (X, Y))).to_dense()
    decayed = Problem(net(), "cross_entropy", (X, Y), weight_decay=0.25)

    expected = plain + 0.25 * torch.eye(43, dtype=torch.float64)
    torch.testing.assert_close(kind(decayed).to_dense(), expected)
    difference = decayed.gradient() - Problem(net(), "cross_entropy", (X, Y)).gradient()
    torch.testing.assert_close(difference, 0.25 * decayed.parameter_vector())


def test_a_reduction_given_wins_over_the_loss_s_own():
    total = nn.CrossEntropyLoss(reduction="sum")

    assert Problem(net(), total, (X, Y)).reduction == "sum"
    problem = Problem(net(), total, (X, Y), reduction="mean")
    torch.testing.assert_close(Hessian(problem).to_dense(), TRUTH)
    torch.testing.assert_close(dense(net(), reduction="sum"), 10 * TRUTH)


@pytest.mark.parametrize("limit", [700, 4_000, 12_000, 2**30])
def test_the_memory_limit_changes_no_number(limit):
    problem = Problem(net(), "cross_entropy", (X, Y), batch_size=2, memory_limit=limit)
    H = Hessian(problem)

    torch.testing.assert_close(H.to_dense(), TRUTH, rtol=1e-12, atol=1e-14)
    plan = H.memory_plan()
    assert H._graphs.num_kept == plan.num_kept <= plan.num_batches == 5
    assert plan.num_kept == {700: 0, 12_000: 5, 2**30: 5}.get(limit, plan.num_kept)
    assert f"{plan.num_kept} of 5" in str(plan)


def test_the_model_is_evaluated_in_eval_mode_and_restored():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Tanh(), nn.Linear(5, 3)
    ).double()
    model[1].running_var.uniform_(0.5, 2.0)
    expected = dense(model.eval())
    model.train()
    model[2].eval()

    got = dense(model)

    assert torch.equal(got, expected)
    assert [m.training for m in model] == [True, True, False, True, True]
    assert float(model[1].num_batches_tracked) == 0


def test_train_mode_is_right_for_one_batch_with_batch_norm():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh()).double()
    problem = Problem(model, "cross_entropy", (X, Y), mode="train")
    before = model[1].running_mean.clone()

    H, G_ = Hessian(problem).to_dense(), GGN(problem).to_dense()

    v = torch.randn(problem.num_params, dtype=torch.float64)
    theta = problem.parameter_vector()

    def gradient(flat):
        torch.nn.utils.vector_to_parameters(flat, model.parameters())
        value = F.cross_entropy(model.train()(X), Y)
        grads = torch.autograd.grad(value, list(model.parameters()))
        return torch.cat([g.reshape(-1) for g in grads])

    expected = (gradient(theta + 1e-5 * v) - gradient(theta - 1e-5 * v)) / 2e-5
    torch.testing.assert_close(H @ v, expected, rtol=1e-5, atol=1e-7)
    assert float(G_.diagonal().min()) >= -1e-14
    assert not torch.equal(model[1].running_mean, before)  # by `gradient`, not by us


def test_train_mode_is_refused_where_batches_are_coupled():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double()

    with pytest.raises(
        ValueError, match=r'"train" with BatchNorm \(1\) over 2 batches'
    ):
        Problem(model, "cross_entropy", (X, Y), mode="train", batch_size=5)


def test_train_mode_is_refused_with_active_dropout():
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.1)).double()

    with pytest.raises(ValueError, match=r'be "eval" with active dropout; got 1 with'):
        Problem(model, "cross_entropy", (X, Y), mode="train")


def test_a_functional_dropout_is_seen_as_not_deterministic():
    class Draws(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(F.dropout(x, 0.5, training=True))

    with pytest.raises(ValueError, match="`model` must be deterministic"):
        Problem(Draws().double(), "cross_entropy", (X, Y))


def test_a_batch_coupled_loss_is_refused():
    def contrastive(f, y):
        return (f @ f.T).logsumexp(1).sum()

    with pytest.raises(ValueError, match=r"add up over samples.*Contrastive"):
        Problem(net(), losses.Loss(contrastive, reduction="sum"), (X, Y))


def test_a_wrong_denominator_is_refused():
    loss = losses.Loss(
        lambda f, y: F.cross_entropy(f, y), reduction="mean", denominator=lambda f, y: 1
    )

    with pytest.raises(ValueError, match=r"add up over samples.*denominator"):
        Problem(net(), loss, (X, Y))


def test_weights_that_are_not_finite_are_refused():
    model = net()
    model[0].weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"have finite parameters; got .* 0\.weight"):
        Problem(model, "cross_entropy", (X, Y))

    model = net()
    H = Hessian(Problem(model, "cross_entropy", (X, Y)))
    model[2].bias.data[0] = torch.inf
    with pytest.raises(ValueError, match=r"have finite parameters; got .* 2\.bias"):
        H @ torch.ones(43, dtype=torch.float64)


def test_outputs_that_are_not_finite_are_refused():
    class Divides(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(x) / 0.0

    with pytest.raises(ValueError, match="give finite outputs"):
        Problem(Divides().double(), "cross_entropy", (X, Y))


def test_half_precision_is_refused_unless_a_dtype_is_given():
    model = net(dtype=torch.float16)
    with pytest.raises(TypeError, match=r"`dtype` must be torch\.float32 or .*float16"):
        Problem(model, "cross_entropy", (X, Y))

    H = Hessian(Problem(model, "cross_entropy", (X, Y), dtype=torch.float64))
    assert H.to_dense().dtype == torch.float64


BAD = [
    ({"mode": "test"}, ValueError, "`mode` must be one of"),
    ({"reduction": "none"}, ValueError, "`reduction` must be one of"),
    ({"weight_decay": -1.0}, ValueError, "`weight_decay` must be at least 0"),
    ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1"),
    ({"memory_limit": 0}, ValueError, "`memory_limit` must be at least 1"),
    ({"dtype": torch.int32}, TypeError, "`dtype` must be torch.float32"),
    ({"device": "cuda:99"}, ValueError, "`device` must be there"),
]


@pytest.mark.parametrize(("options", "error", "text"), BAD, ids=lambda v: str(v)[:25])
def test_bad_settings_are_refused(options, error, text):
    if "device" in options and torch.cuda.is_available():
        pytest.skip("a CUDA device is there")
    with pytest.raises(error, match=text):
        Problem(net(), "cross_entropy", (X, Y), **options)


def test_what_is_no_model_or_problem_is_refused():
    with pytest.raises(TypeError, match=r"`model` must be a torch\.nn\.Module"):
        Problem(lambda x: x, "cross_entropy", (X, Y))
    for kind in (Hessian, Jacobian):
        with pytest.raises(TypeError, match="`problem` must be a Problem; got Seq"):
            kind(net())


def test_a_model_that_returns_a_tuple_says_what_to_do():
    with pytest.raises(TypeError, match="return a tensor, or an object with `logits`"):
        Problem(nn.LSTM(4, 3, batch_first=True).double(), "mse", (X[:, None], X))


def test_the_model_s_own_error_comes_through_with_the_batch_s_shapes():
    match = r"must run on the data; got .*cannot be multiplied.*\(10, 3\), \(10,\)"
    with pytest.raises(ValueError, match=match):
        Problem(net(), "cross_entropy", (X[:, :3], Y))


class Language(nn.Module):
    """A model as Hugging Face's: keywords in, an object with logits out."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7)

    def forward(self, input_ids, attention_mask=None):
        h = self.embed(input_ids) * attention_mask[..., None]
        mixed = h.cumsum(1) / attention_mask.cumsum(1)[..., None].clamp_min(1)
        return SimpleNamespace(logits=self.head(torch.tanh(mixed)), loss=None)


def test_language_models_with_masks_and_padded_labels_are_understood():
    torch.manual_seed(0)
    model = Language().double()
    ids = torch.randint(0, 7, (6, 5))
    mask = (torch.arange(5) < torch.tensor([5, 2, 3, 5, 1, 4])[:, None]).double()
    targets = ids.masked_fill(mask == 0, -100)
    batches = [
        {"input_ids": ids[s], "attention_mask": mask[s], "labels": targets[s]}
        for s in (slice(0, 1), slice(1, 6))
    ]

    problem = Problem(model, "causal_lm", batches)

    f = model(ids, mask).logits[:, :-1].flatten(0, 1)
    expected = F.cross_entropy(f, targets[:, 1:].flatten())
    assert problem.evaluate().loss == pytest.approx(float(expected.detach()), rel=1e-12)
    assert problem.denominator == float((targets[:, 1:] != -100).sum())


def test_products_work_whatever_the_caller_s_grad_mode():
    problem = Problem(net(), "cross_entropy", (X, Y))
    H = Hessian(problem)
    with torch.no_grad():
        assert torch.equal(H.to_dense(), TRUTH)
    with torch.inference_mode():
        inside = H.to_dense()
        made_inside = dense(net())
        assert (H @ torch.ones(43, dtype=torch.float64)).norm() > 0
    assert torch.equal(inside, TRUTH)
    assert torch.equal(made_inside, TRUTH)
    assert torch.equal(H.to_dense(), TRUTH)  # what was kept is not spoilt
    assert torch.is_grad_enabled()


def test_data_and_weights_made_in_inference_mode_are_taken():
    with torch.inference_mode():
        model = net()
        data = (X * 1.0, Y + 0)

    got = Hessian(Problem(model, "cross_entropy", data, params="all")).to_dense()

    torch.testing.assert_close(got, TRUTH)


def test_data_parallel_models_are_unwrapped():
    assert torch.equal(dense(nn.DataParallel(net())), TRUTH)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_models_run_eagerly():
    compiled = torch.compile(net(), backend="aot_eager")
    compiled(X)
    inside = net()
    inside[0].compile(backend="aot_eager")
    inside(X)

    names = Problem(compiled, "cross_entropy", (X, Y)).layout.names
    assert names[0] == "0.weight"
    assert torch.equal(dense(compiled), TRUTH)
    assert torch.equal(dense(inside), TRUTH)


class Squares(torch.autograd.Function):
    """x^2 with a proper backward pass."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * x * grad


class OnceSquares(Squares):
    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * x * grad


class Applies(nn.Module):
    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(4, 3).double()
        self.function = function

    def forward(self, x):
        return self.function(self.head(x))


def test_custom_functions_are_differentiated_twice_and_named_in_a_warning():
    plain = dense(Applies(lambda x: x * x))

    with pytest.warns(AccuracyWarning, match=r"custom autograd functions \(Squares\)"):
        custom = dense(Applies(Squares.apply))

    torch.testing.assert_close(custom, plain)


@pytest.mark.parametrize("kind", [Hessian, GGN, Jacobian])
def test_a_layer_that_is_once_differentiable_is_an_error_and_not_a_zero(kind):
    A = kind(Problem(Applies(OnceSquares.apply), "cross_entropy", (X, Y)))

    with pytest.raises(RuntimeError, match=r"be twice differentiable.*once_diff"):
        A @ torch.ones(15, dtype=torch.float64)


def test_activation_checkpointing_changes_no_number():
    class Checkpointed(nn.Sequential):
        def forward(self, x):
            hidden = torch.utils.checkpoint.checkpoint(
                lambda h: self[1](self[0](h)), x, use_reentrant=False
            )
            return self[2](hidden)

    torch.testing.assert_close(dense(Checkpointed(*net())), TRUTH)


FINGERPRINTS = {
    "the loss": lambda: Problem(
        net(), losses.CrossEntropy(label_smoothing=0.1), (X, Y)
    ),
    "the unit": lambda: Problem(net(), "cross_entropy", (X, Y), reduction="sum"),
    "weight decay": lambda: Problem(net(), "cross_entropy", (X, Y), weight_decay=0.1),
    "the data": lambda: Problem(net(), "cross_entropy", (X + 1.0, Y)),
    "the selection": lambda: Problem(net(), "cross_entropy", (X, Y), params="weights"),
    "the dtype": lambda: Problem(net(), "cross_entropy", (X, Y), dtype=torch.float32),
    "the architecture": lambda: Problem(
        nn.Sequential(net()[0], nn.Sigmoid(), net()[2]), "cross_entropy", (X, Y)
    ),
}


@pytest.mark.parametrize("what", FINGERPRINTS)
def test_the_fingerprint_knows(what):
    plain = Problem(net(), "cross_entropy", (X, Y)).refresh()

    assert plain == Problem(net(), "cross_entropy", (X, Y)).refresh()
    assert FINGERPRINTS[what]().refresh() != plain


@pytest.mark.parametrize("seed", range(5))
def test_a_perfect_fit_whose_loss_is_rounding_is_no_coupled_loss(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)).double()
    X = torch.randn(31, 6).double()
    Y = torch.cat([model(x[None]).detach() for x in X])  # equal up to rounding

    assert Problem(model, "mse", (X, Y)).evaluate().loss < 1e-28


def test_a_loss_that_reads_the_parameters_itself_is_refused():
    net = torch.nn.Linear(3, 2)

    def penalised(outputs, targets):
        penalty = sum(p.square().sum() for p in net.parameters())
        return outputs.square().sum() + len(outputs) * penalty

    data = (torch.ones(4, 3), torch.zeros(4))
    with pytest.raises(
        ValueError, match=r"outputs alone; got .* parameters weight, bias"
    ):
        Problem(net, losses.Loss(penalised, reduction="sum"), data)
