"""The initialisation report against dense blocks, draws of one's own, and theory."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, jacrev

import curvescope as cs
from curvescope.models import initialise_
from curvescope.results import load
from curvescope.theory import mean_field, unit


def net(activation=nn.Tanh):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 7), activation(), nn.Linear(7, 3)).double()


def samples(num=16):
    generator = torch.Generator().manual_seed(4)
    X = torch.randn(num, 5, generator=generator, dtype=torch.float64)
    return X, torch.arange(num) % 3


def dense(model, X, y, names):
    """Return H and its GGN for some parameters together, by autodiff."""
    named = {n: p.detach() for n, p in model.named_parameters()}
    shapes = [named[n].shape for n in names]
    sizes = [s.numel() for s in shapes]

    def outputs(theta):
        pieces = theta.split(sizes)
        own = {n: p.view(s) for n, p, s in zip(names, pieces, shapes, strict=True)}
        return functional_call(model, {**named, **own}, (X,))

    theta = torch.cat([named[n].reshape(-1) for n in names])
    H = jacrev(grad(lambda v: F.cross_entropy(outputs(v), y)))(theta)
    J = jacrev(outputs)(theta)
    p = torch.softmax(outputs(theta), 1)
    middle = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    G = torch.einsum("nip,nij,njq->pq", J, middle, J) / len(X)
    return H, G


@pytest.mark.parametrize("params", ["weights", "all"])
def test_the_given_rows_are_those_of_the_dense_blocks(params):
    model, (X, y) = net(), samples()

    found = cs.initialisation_report(
        model, "cross_entropy", (X, y), candidates=[], params=params
    )

    assert found.candidates == ("given",)
    for row in found.layers:
        names = [f"{row.layer}.weight"]
        names += [f"{row.layer}.bias"] * (params == "all")
        H, G = dense(model, X, y, names)
        assert row.frobenius_norm == pytest.approx(float(H.norm()), rel=1e-9)
        assert row.linearisation_norm == pytest.approx(float(G.norm()), rel=1e-9)
        assert row.curvature_norm == pytest.approx(float((H - G).norm()), abs=1e-9)
        assert row.trace == pytest.approx(float(H.trace()), rel=1e-9)
        assert row.linearisation_trace == pytest.approx(float(G.trace()), rel=1e-9)
        assert row.num_params == len(H)
    assert found.losses["given"] == pytest.approx(
        float(F.cross_entropy(model(X), y).detach())
    )


def test_a_candidate_is_the_mean_over_its_seeds_with_their_spread():
    model, (X, y) = net(), samples()

    found = cs.initialisation_report(
        model, "cross_entropy", (X, y), candidates=["he", ("normal", 0.2)], seeds=(3, 8)
    )

    assert found.candidates == ("given", "he", "normal 0.2")
    for name, scheme in (("he", "he"), ("normal 0.2", ("normal", 0.2))):
        norms, losses = [], []
        for seed in (3, 8):
            twin = copy.deepcopy(model)
            initialise_(twin, scheme, generator=torch.Generator().manual_seed(seed))
            H, _ = dense(twin, X, y, ["2.weight"])
            norms.append(float(H.norm()))
            losses.append(float(F.cross_entropy(twin(X), y).detach()))
        row = found.of_candidate(name)[1]
        assert row.frobenius_norm == pytest.approx(sum(norms) / 2, rel=1e-9)
        half = abs(norms[0] - norms[1]) / math.sqrt(2)
        assert row.frobenius_norm_spread == pytest.approx(half, rel=1e-6)
        assert found.losses[name] == pytest.approx(sum(losses) / 2)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("loss", "trace"), [("mse", 2.0), ("half_squared_error", 2.0)], ids=["mse", "half"]
)
def test_the_prediction_is_exact_for_one_layer_and_a_fixed_output_hessian(
    loss, trace, bias
):
    X, _ = samples()
    model = nn.Linear(5, 2).double()

    found = cs.initialisation_report(
        model,
        loss,
        (X, torch.zeros(len(X), 2, dtype=torch.float64)),
        candidates=["lecun"],
        params="all" if bias else "weights",
    )

    # Of mse the mean is over two outputs each, of the half square over samples.
    expected = trace * (float(X.square().sum(1).mean()) + bias)
    for row in found.layers:
        assert row.layer == "(top)"
        assert row.predicted_trace == pytest.approx(expected, rel=1e-12)
        assert row.linearisation_trace == pytest.approx(expected, rel=1e-12)


def test_the_prediction_is_the_mean_of_many_draws_of_a_wide_network():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(8, 10, generator=generator, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(10, 40), nn.ReLU(), nn.Linear(40, 4)).double()

    found = cs.initialisation_report(
        model,
        "cross_entropy",
        (X, torch.arange(8) % 4),
        candidates=["lecun"],
        seeds=range(12),
    )

    for row in found.of_candidate("lecun"):
        error = row.linearisation_trace_spread / math.sqrt(12)
        allowed = 4 * error + row.linearisation_trace / 40  # the next order
        assert abs(row.linearisation_trace - row.predicted_trace) < allowed


def test_the_prediction_is_theorys_at_the_weights_deviations():
    model = net(nn.GELU)
    X, y = samples(8)  # one group a sample

    found = cs.initialisation_report(model, "cross_entropy", (X, y), candidates=[])

    def std(p):
        return float(p.detach().square().mean().sqrt())

    p = torch.full((3,), 1 / 3)
    field = mean_field(
        (5, 7, 3),
        weight_stds=[std(model[0].weight), std(model[2].weight)],
        bias_stds=[std(model[0].bias), std(model[2].bias)],
        units=[unit("gelu")],
        input_square_norms=sorted(X.square().sum(1).tolist()),
        output_trace=lambda _: float(1 - p.square().sum()),  # small outputs
    )
    for row, trace in zip(found.layers, field.traces, strict=True):
        assert row.predicted_trace == pytest.approx(trace, rel=0.1)


def test_recommendations_follow_fans_and_activation():
    model, data = net(nn.ReLU), samples()

    found = cs.initialisation_report(model, "cross_entropy", data, candidates=[])

    first, second = found.recommendations
    assert first.std == pytest.approx(math.sqrt(2 / 12))
    assert second.std == pytest.approx(math.sqrt(2 / (0.5 * 10)))
    assert second.forward_std == pytest.approx(math.sqrt(2 / 7))
    assert second.backward_std == pytest.approx(math.sqrt(2 / 3))
    assert second.constant == 0.5
    assert "the data" in first.reason
    assert "relu" in second.reason
    assert first.present_std == pytest.approx(
        float(model[0].weight.detach().square().mean().sqrt())
    )


def test_recommended_and_balanced_are_what_balance_does():
    model, data = net(nn.ReLU), samples()

    found = cs.initialisation_report(
        model, "cross_entropy", data, candidates=["recommended", "balanced"], seeds=[5]
    )

    for candidate, arguments in (
        ("balanced", {}),
        (
            "recommended",
            {"method": "formula", "generator": torch.Generator().manual_seed(5)},
        ),
    ):
        twin = copy.deepcopy(model)
        done = cs.balance_(twin, "cross_entropy", data, **arguments)
        rows = found.of_candidate(candidate)
        for row, other in zip(rows, done.layers, strict=True):
            assert row.frobenius_norm == pytest.approx(other.norm_after, rel=1e-9)
            assert row.std == pytest.approx(other.std_after, rel=1e-9)
    for advice, row in zip(
        found.recommendations, found.of_candidate("balanced"), strict=True
    ):
        assert advice.balanced_std == row.std
    assert found.balance("balanced") < 1.01 < found.balance("given")


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.norm = nn.BatchNorm2d(2)
        self.head = nn.Linear(2, 3)

    def forward(self, x):
        return self.head(torch.tanh(x + self.norm(self.conv(x))).mean((2, 3)))


def test_what_theory_and_chain_rule_do_not_reach_is_said_and_measured_by_probes():
    torch.manual_seed(0)
    data = (torch.randn(6, 1, 4, 4), torch.arange(6) % 3)

    found = cs.initialisation_report(
        Residual(), "cross_entropy", data, candidates=["he"], seeds=[0]
    )

    assert all(row.predicted_trace is None for row in found.layers)
    assert "no chain" in found.prediction
    assert "probes" in found.method
    conv = found.recommendations[0]
    assert (conv.fan_in, conv.fan_out) == (9, 18)
    assert "norm layer" in conv.reason
    model = Residual()
    H, _ = dense_conv(model.double(), data)
    probed = cs.initialisation_report(
        model,
        "cross_entropy",
        (data[0].double(), data[1]),
        candidates=[],
        num_probes=80,
    )
    assert probed.layers[0].frobenius_norm == pytest.approx(float(H.norm()), rel=0.3)
    assert probed.layers[0].trace == pytest.approx(
        float(H.trace()), abs=5 * probed.layers[0].trace_error
    )


def dense_conv(model, data):
    model.eval()
    X, y = data[0].double(), data[1]
    return dense(model, X, y, ["conv.weight"])


def test_weights_that_are_not_centred_have_no_prediction():
    found = cs.initialisation_report(
        net(), "cross_entropy", samples(), candidates=["uniform"], seeds=[0]
    )

    assert all(r.predicted_trace is None for r in found.of_candidate("uniform"))
    assert all(r.predicted_trace is not None for r in found.of_candidate("given"))


def test_the_model_stays_bit_for_bit_as_it_was():
    model, (X, y) = net().train(), samples()
    F.cross_entropy(model(X), y).backward()
    before = copy.deepcopy(model.state_dict())
    grads = [p.grad.clone() for p in model.parameters()]
    stream = torch.random.get_rng_state()

    cs.initialisation_report(model, "cross_entropy", (X, y), seeds=[0])

    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(
        torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True)
    )
    assert model.training
    assert not any(m._forward_hooks for m in model.modules())
    assert torch.equal(torch.random.get_rng_state(), stream)


def test_a_report_prints_and_survives_saving(tmp_path):
    found = cs.initialisation_report(
        net(), "cross_entropy", samples(), candidates=["he"], seeds=(0, 1)
    )

    found.save(tmp_path, "report")

    assert load(tmp_path, "report") == found
    assert "recommended std" in str(found)
    assert len(found.rows()) == 4


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"candidates": ["xavier"]}, ValueError, "`scheme` must be one of"),
        ({"candidates": "he"}, TypeError, "`candidates` must be a sequence"),
        ({"candidates": [("normal", -1.0)]}, ValueError, "`scheme` must be at least 0"),
        ({"seeds": ()}, ValueError, "`seeds` must have at least one entry"),
        ({"params": "*.bias", "model": nn.LayerNorm(5)}, ValueError, "`params` must"),
    ],
)
def test_what_cannot_be_reported_is_refused(arguments, kind, text):
    given = {"model": net(), **arguments}

    with pytest.raises(kind, match=text):
        cs.initialisation_report(
            given.pop("model"), "cross_entropy", samples(), **given
        )
