"""Each loss against torch: sum, denominator, output Hessian, sampled gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import grad, jacrev

import curvescope.losses as losses

WEIGHT = torch.tensor([0.3, 2.0, 5.0], dtype=torch.float64)
PIXELS = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)


def logits(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def labels(*shape, ignored=()):
    drawn = torch.randint(0, 3, shape)
    drawn.reshape(-1)[list(ignored)] = -100
    return drawn


def make(kind):
    """Return (loss, torch's own mean, outputs, targets)."""
    ce = losses.CrossEntropy
    f, y = logits(6, 3), labels(6)
    seen = {
        "plain": (ce(), F.cross_entropy, f, y),
        "one sample without a batch": (ce(), F.cross_entropy, f[0], y[0]),
        "weights": (
            ce(weight=WEIGHT),
            lambda f, y: F.cross_entropy(f, y, weight=WEIGHT),
            f,
            y,
        ),
        "ignored": (ce(), F.cross_entropy, f, labels(6, ignored=[1, 4])),
        "weights, ignored, smoothed": (
            ce(weight=WEIGHT, label_smoothing=0.3),
            lambda f, y: F.cross_entropy(f, y, weight=WEIGHT, label_smoothing=0.3),
            f,
            labels(6, ignored=[0]),
        ),
        "soft": (ce(), F.cross_entropy, f, logits(6, 3).softmax(-1)),
        "soft, weights, smoothed": (
            ce(weight=WEIGHT, label_smoothing=0.2),
            lambda f, y: F.cross_entropy(f, y, weight=WEIGHT, label_smoothing=0.2),
            f,
            logits(6, 3).softmax(-1),
        ),
        "torch's (N, C, T)": (ce(), F.cross_entropy, logits(4, 3, 5), labels(4, 5)),
        "sequence (N, T, C)": (
            ce(),
            lambda f, y: F.cross_entropy(f.transpose(1, 2), y),
            logits(4, 5, 3),
            labels(4, 5, ignored=[2, 9]),
        ),
        "soft sequence": (
            ce(class_dim=-1),
            lambda f, y: F.cross_entropy(f.flatten(0, 1), y.flatten(0, 1)),
            logits(4, 5, 3),
            logits(4, 5, 3).softmax(-1),
        ),
        "images (N, C, H, W)": (
            ce(weight=WEIGHT),
            lambda f, y: F.cross_entropy(f, y, weight=WEIGHT),
            logits(2, 3, 2, 4),
            labels(2, 2, 4),
        ),
        "causal": (
            losses.resolve("causal_lm"),
            lambda f, y: F.cross_entropy(f[:, :-1].flatten(0, 1), y[:, 1:].flatten()),
            logits(4, 5, 3),
            labels(4, 5, ignored=[3]),
        ),
        "mse": (losses.resolve("mse"), F.mse_loss, f, logits(6, 3)),
        "half squared error": (
            losses.half_squared_error(),
            lambda f, y: 0.5 * (f - y).square().sum(1).mean(),
            f,
            logits(6, 3),
        ),
        "bce": (
            losses.BCEWithLogits(weight=PIXELS, pos_weight=WEIGHT),
            lambda f, y: F.binary_cross_entropy_with_logits(
                f, y, weight=PIXELS, pos_weight=WEIGHT
            ),
            f,
            torch.rand(6, 3, dtype=torch.float64),
        ),
        "logcosh": (
            losses.LogCosh(),
            lambda f, y: torch.log(torch.cosh(f - y)).sum(1).mean(),
            f,
            logits(6, 3),
        ),
        "nll": (
            losses.NLL(weight=WEIGHT),
            lambda f, y: F.nll_loss(f, y, weight=WEIGHT),
            f.log_softmax(-1),
            labels(6, ignored=[2]),
        ),
        "nll of images": (
            losses.NLL(),
            F.nll_loss,
            logits(2, 3, 4).log_softmax(1),
            labels(2, 4),
        ),
    }
    return seen[kind] if kind is not None else tuple(seen)


KINDS = make(None)


@pytest.mark.parametrize("kind", KINDS)
def test_sum_over_denominator_is_torch_s_mean(kind):
    loss, mean, f, y = make(kind)

    loss.check(f, y)
    ours = loss.total(f, y) / loss.denominator(f, y)

    torch.testing.assert_close(ours, mean(f, y), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_output_hessian_is_the_sum_s_own(kind):
    loss, _, f, y = make(kind)
    U = torch.randn(4, *f.shape, dtype=torch.float64)

    H = jacrev(grad(lambda flat: loss.total(flat.view_as(f), y)))(f.reshape(-1))
    expected = (U.reshape(4, -1) @ H).reshape(U.shape)

    got = loss.output_hessian(f, y)(U)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("logcosh",)])
def test_the_outer_products_of_sampled_gradients_have_the_output_hessian_as_mean(kind):
    if kind == "one sample without a batch":
        pytest.skip("samples are rows")
    loss, _, f, y = make(kind)
    num = 40_000
    generator = torch.Generator().manual_seed(0)

    g = loss.sampled_gradients(f, y, num=num, generator=generator)
    flat = g.reshape(num, -1)
    mean = flat.T @ flat / num
    H = jacrev(grad(lambda v: loss.total(v.view_as(f), y)))(f.reshape(-1))
    if kind.startswith("nll"):  # its Fisher is that of the probabilities
        target = torch.diagonal(mean)
        p = f.exp()
        counted = (y != -100).double()
        w = counted if loss.weight is None else WEIGHT[y.clamp(0)] * counted
        expected = (p * w[:, None]).reshape(-1)
        bound = 6 * (expected.max() / num**0.5)
        assert float((target - expected).abs().max()) < float(bound)
        return

    # Fourth moments: six standard errors of the largest entry.
    spread = float((flat**4).mean(0).max()) ** 0.5
    assert float((mean - H).abs().max()) < 6 * spread / num**0.5 + 1e-12


def test_sampled_gradients_repeat_with_the_seed():
    loss, _, f, y = make("plain")

    def draw(seed):
        g = torch.Generator().manual_seed(seed)
        return loss.sampled_gradients(f, y, num=3, generator=g)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@pytest.mark.parametrize("name", ["logcosh"])
def test_a_loss_without_a_likelihood_says_so(name):
    loss, f = losses.resolve(name), logits(2, 3)

    with pytest.raises(TypeError, match="`loss` must be a negative log-likelihood"):
        loss.sampled_gradients(f, f, num=1, generator=torch.Generator())


MODULES = [
    nn.HuberLoss(delta=0.7),
    nn.SmoothL1Loss(beta=0.5),
    nn.L1Loss(),
    nn.PoissonNLLLoss(),
    nn.SoftMarginLoss(),
    nn.KLDivLoss(reduction="batchmean"),
    nn.KLDivLoss(reduction="mean", log_target=True),
    nn.MultiLabelSoftMarginLoss(),
    nn.HuberLoss(reduction="sum"),
    nn.MSELoss(),
    nn.BCEWithLogitsLoss(pos_weight=WEIGHT),
]


def targets_for(module, f):
    if isinstance(module, nn.SoftMarginLoss):
        return f.sign().roll(1, 0)
    if isinstance(module, (nn.MultiLabelSoftMarginLoss, nn.PoissonNLLLoss)):
        return (f > 0).double().roll(1, 0)
    if isinstance(module, nn.KLDivLoss):
        soft = f.roll(1, 0).softmax(-1)
        return soft.log() if module.log_target else soft
    return torch.rand_like(f)


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
@pytest.mark.parametrize("module", MODULES, ids=repr)
def test_any_torch_loss_module_is_a_sum_over_its_terms(module):
    f = logits(6, 3)
    y = targets_for(module, f)
    loss = losses.resolve(module)
    f = f.log_softmax(-1) if isinstance(module, nn.KLDivLoss) else f

    loss.check(f, y)
    scale = 1.0 if loss.reduction == "sum" else loss.denominator(f, y)

    torch.testing.assert_close(loss.total(f, y) / scale, module(f, y))
    halves = loss.total(f[:2], y[:2]) + loss.total(f[2:], y[2:])
    torch.testing.assert_close(halves, loss.total(f, y))


@pytest.mark.parametrize("module", MODULES[:5], ids=repr)
def test_the_output_hessian_of_a_module_is_by_double_backward(module):
    f = logits(4, 3)
    y = targets_for(module, f)
    loss = losses.resolve(module)
    U = torch.randn(2, 4, 3, dtype=torch.float64)

    H = jacrev(grad(lambda v: loss.total(v.view(4, 3), y)))(f.reshape(-1))

    expected = (U.reshape(2, -1) @ H).view_as(U)
    torch.testing.assert_close(loss.output_hessian(f, y)(U), expected)


def test_a_module_s_weights_follow_the_outputs_dtype_and_stay_as_they_are():
    module = nn.MultiMarginLoss(weight=torch.tensor([1.0, 2.0, 3.0]))

    total = losses.resolve(module).total(logits(4, 3), labels(4))

    assert total.dtype == torch.float64
    assert module.weight.dtype == torch.float32
    assert module.reduction == "mean"


def test_a_callable_s_mean_is_multiplied_by_its_denominator():
    def fourth(f, y):
        return ((f - y) ** 4).mean()

    f, y = logits(4, 3), logits(4, 3)
    loss = losses.Loss(fourth, reduction="mean", denominator="elements")
    weighted = losses.Loss(fourth, reduction="mean", denominator=lambda f, y: 5.0)

    torch.testing.assert_close(loss.total(f, y), ((f - y) ** 4).sum())
    torch.testing.assert_close(weighted.total(f, y), 5.0 * fourth(f, y))
    assert loss.denominator(f, y) == 12.0
    assert loss.name == "fourth"


def test_a_callable_s_sum_stays_a_sum():
    f, y = logits(4, 3), logits(4, 3)
    loss = losses.Loss(lambda f, y: (f - y).abs().sum(), reduction="sum")

    torch.testing.assert_close(loss.total(f, y), (f - y).abs().sum())
    assert loss.reduction == "sum"
    assert loss.denominator(f, y) == 4.0


@pytest.mark.parametrize("name", losses.names())
def test_every_name_resolves(name):
    assert losses.resolve(name).name == name


@pytest.mark.parametrize(
    "function",
    [
        F.cross_entropy,
        F.mse_loss,
        F.binary_cross_entropy_with_logits,
        F.nll_loss,
    ],
)
def test_torch_s_own_functions_are_their_modules(function):
    assert losses.resolve(function).reduction == "mean"


BAD = [
    ("nonsense", ValueError, "`loss` must be one of"),
    (3, TypeError, "be a name, a torch.nn loss or a wrapped function; got 3"),
    (lambda f, y: f.sum(), TypeError, "tell its reduction.*cs.Loss"),
    (nn.CrossEntropyLoss(reduction="none"), ValueError, "be a module that reduces"),
    (nn.GaussianNLLLoss(), ValueError, "take outputs and targets; got Gaussian"),
    (nn.TripletMarginLoss(), ValueError, "take outputs and targets; got Triplet"),
]


@pytest.mark.parametrize(("loss", "error", "text"), BAD, ids=lambda v: str(v)[:25])
def test_what_is_no_loss_is_refused(loss, error, text):
    with pytest.raises(error, match=text):
        losses.resolve(loss)


def test_an_unknown_denominator_is_refused():
    with pytest.raises(ValueError, match="`denominator` must be one of"):
        losses.Loss(lambda f, y: f.sum(), reduction="mean", denominator="rows")
    with pytest.raises(ValueError, match="`reduction` must be one of"):
        losses.Loss(lambda f, y: f.sum(), reduction="none")


MISFITS = [
    ("cross_entropy", (6, 3), labels(5), r"have shape \(6,\)"),
    ("cross_entropy", (6, 3), torch.tensor([0, 1, 2, 3, 0, 0]), r"lie in 0\.\.2"),
    ("cross_entropy", (6, 3), torch.tensor([0, 1, 2, -1, 0, 0]), "from -1 to 2"),
    ("cross_entropy", (4, 4, 4), labels(4, 4), "tell where the classes are"),
    ("cross_entropy", (2, 4, 3), logits(2, 4, 3).softmax(-1), "class_dim=-1"),
    ("cross_entropy", (6, 3), logits(6, 2), "be labels of shape"),
    ("mse", (6, 3), logits(6), "have the outputs' shape"),
    ("mse", (6, 1), logits(6), "nothing is broadcast"),
    ("bce_with_logits", (6, 3), 2 + logits(6, 3).abs(), r"lie in \[0, 1\]"),
    ("nll", (6, 3), labels(6), "be log-probabilities"),
    ("logcosh", (6, 3), logits(6, 2), "have the outputs' shape"),
]


@pytest.mark.parametrize(("name", "shape", "targets", "text"), MISFITS)
def test_targets_that_do_not_fit_are_refused(name, shape, targets, text):
    with pytest.raises(ValueError, match=text):
        losses.resolve(name).check(logits(*shape), targets)


def test_wrong_kinds_of_targets_are_refused():
    with pytest.raises(TypeError, match="be a tensor for cross-entropy"):
        losses.resolve("cross_entropy").check(logits(2, 3), [0, 1])
    with pytest.raises(TypeError, match="be floating point for mse"):
        losses.resolve("mse").check(logits(2, 3), torch.zeros(2, 3, dtype=torch.long))
    short = losses.CrossEntropy(weight=torch.ones(2))
    with pytest.raises(ValueError, match="one entry for each of the 3 classes"):
        short.check(logits(2, 3), labels(2))
    pair = losses.Loss(lambda f, y: f.sum(1), reduction="sum")
    with pytest.raises(TypeError, match="`fn` must return one number"):
        pair.check(logits(2, 3), logits(2, 3))


def test_right_predictions_are_counted_without_ignored_ones():
    f = torch.eye(3, dtype=torch.float64)
    y = torch.tensor([0, 2, -100])

    assert losses.resolve("cross_entropy").correct(f, y) == (1, 2)
    assert losses.resolve("mse").correct(f, f) is None
    assert losses.BCEWithLogits().correct(f - 0.5, f) == (9, 9)


def test_the_identity_of_a_loss_is_all_it_depends_on():
    identity = losses.base.fingerprint
    weight = WEIGHT.clone()
    weighted = losses.CrossEntropy(weight=weight)
    first = identity(weighted)
    weight[0] = 7.0

    assert identity(weighted) != first
    assert identity(losses.CrossEntropy()) == identity(losses.resolve("cross_entropy"))
    assert identity(losses.CrossEntropy(label_smoothing=0.1)) != identity(
        losses.CrossEntropy()
    )
    huber = [losses.resolve(nn.HuberLoss(delta=d)) for d in (1.0, 2.0)]
    assert identity(huber[0]) != identity(huber[1])
    f, g = (losses.Loss(fn, reduction="sum", name="same") for fn in (torch.sum, max))
    assert identity(f) == identity(f)
    one = losses.Loss(lambda f, y: (f * 2.0).sum(), reduction="sum", name="same")
    two = losses.Loss(lambda f, y: (f * 3.0).sum(), reduction="sum", name="same")
    assert identity(one) != identity(two)
    assert identity(g) != identity(one)
