"""Training against torch.optim by hand, against closed forms, and against itself."""

import itertools
import math
import os
import runpy
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from curvescope import models
from curvescope._core.errors import AccuracyWarning
from curvescope.results import TrainingResult, load
from curvescope.training import PerModel, published, train, train_many
from curvescope.training.schedules import SCHEDULES


def classifier(seed, *, norm=False, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)]
        if norm:
            layers.insert(1, nn.BatchNorm1d(5))
        return nn.Sequential(*layers).to(dtype)


def samples(num=20, seed=0):
    source = torch.Generator().manual_seed(seed)
    X = torch.randn(num, 3, generator=source, dtype=torch.float64)
    return X, (X[:, 0] + 0.3 * X[:, 1] ** 2 > 0.2).long()


def weights(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"momentum": 0.9}),
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_full_batch_training_is_torch_optim_by_hand(name):
    kind, options = OPTIMIZERS[name]
    X, y = samples()
    ours, by_hand = classifier(1), classifier(1)
    optimizer = kind(by_hand.parameters(), lr=0.05, weight_decay=0.01, **options)
    losses = []
    for step in range(30):
        optimizer.param_groups[0]["lr"] = 0.05 * published(step / 30)
        optimizer.zero_grad()
        loss = F.cross_entropy(by_hand(X), y)
        loss.backward()
        losses.append(loss.item())
        optimizer.step()

    result = train(
        ours,
        "cross_entropy",
        (X, y),
        steps=30,
        learning_rate=0.05,
        weight_decay=0.01,
        optimizer=name,
        schedule="published",
        evaluate_every=1,
        **options,
    )

    torch.testing.assert_close(weights(ours), weights(by_hand))
    torch.testing.assert_close(
        result.running_loss, torch.tensor(losses, dtype=torch.float64)
    )
    torch.testing.assert_close(result.train_loss[:-1], result.running_loss[1:])
    right = (by_hand(X).argmax(1) == y).double().mean()
    torch.testing.assert_close(result.train_accuracy[-1], right)


def test_least_squares_by_training_is_the_closed_form(generator):
    X = torch.randn(40, 4, generator=generator, dtype=torch.float64)
    y = torch.randn(40, 1, generator=generator, dtype=torch.float64)
    decay = 0.1
    model = nn.Linear(4, 1, bias=False).double()

    train(
        model,
        "half_squared_error",
        (X, y),
        steps=400,
        learning_rate=0.3,
        weight_decay=decay,
    )

    # half_squared_error is a mean over samples of (f - y)^2 / 2.
    expected = torch.linalg.solve(
        X.T @ X / 40 + decay * torch.eye(4, dtype=torch.float64), X.T @ y / 40
    )
    torch.testing.assert_close(model.weight.detach().T, expected)


def test_every_epoch_sees_every_sample_once_in_a_new_order():
    X = torch.arange(10.0)[:, None]
    seen = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            if self.training:
                seen.append(x[:, 0].tolist())
            return x * self.weight

    train(Spy(), "mse", (X, X), epochs=3, batch_size=4, learning_rate=1e-4, seed=5)

    assert [len(batch) for batch in seen] == [4, 4, 2] * 3
    epochs = [list(itertools.chain(*seen[i : i + 3])) for i in (0, 3, 6)]
    assert all(sorted(epoch) == X[:, 0].tolist() for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_batch_of_mini_batches_is_torch_optim_on_the_same_order():
    X, y = samples(21)
    orders = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = classifier(2)

        def forward(self, x):
            if self.training:
                orders.append([int((row == X).all(1).nonzero()) for row in x])
            return self.inner(x)

    spy, by_hand = Spy(), classifier(2)
    train(spy, "cross_entropy", (X, y), epochs=2, batch_size=8, learning_rate=0.1)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    for index in orders:
        optimizer.zero_grad()
        F.cross_entropy(by_hand(X[index]), y[index]).backward()
        optimizer.step()

    torch.testing.assert_close(weights(spy), weights(by_hand))


def test_a_seed_decides_whatever_the_global_stream_is():
    X, y = samples()

    def run(seed):
        torch.manual_seed(1)
        layers = nn.Linear(3, 5), nn.Dropout(0.5), nn.Linear(5, 2)
        model = nn.Sequential(*layers).double()
        torch.manual_seed(time.time_ns() % 1000)
        train(
            model,
            "cross_entropy",
            (X, y),
            epochs=2,
            batch_size=7,
            learning_rate=0.1,
            seed=seed,
        )
        return weights(model)

    a, b, c = run(3), run(3), run(4)

    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_training_draws_nothing_from_the_global_stream():
    X, y = samples()
    model = nn.Sequential(classifier(0), nn.Dropout(0.5))
    state = torch.get_rng_state()

    train(model, "cross_entropy", (X, y), epochs=1, batch_size=3, learning_rate=0.1)

    assert torch.equal(torch.get_rng_state(), state)


def test_modes_and_gradients_are_left_as_they_were():
    X, y = samples()
    model = classifier(0, norm=True)
    model[1].eval()
    kept = torch.ones_like(model[0].weight)
    model[0].weight.grad = kept

    train(model, "cross_entropy", (X, y), epochs=1, batch_size=5, learning_rate=0.1)

    assert [m.training for m in model] == [True, False, True, True]
    assert model[0].weight.grad is kept
    assert model[3].weight.grad is None


def test_batch_norm_is_in_train_mode_in_steps_and_in_eval_mode_when_measured():
    X, y = samples()
    ours, by_hand = classifier(3, norm=True), classifier(3, norm=True)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        F.cross_entropy(by_hand(X), y).backward()
        optimizer.step()

    result = train(
        ours, "cross_entropy", (X, y), steps=4, learning_rate=0.1, test_data=(X, y)
    )

    torch.testing.assert_close(ours.state_dict(), by_hand.state_dict())
    expected = F.cross_entropy(by_hand.eval()(X), y).detach()
    torch.testing.assert_close(result.train_loss[-1], expected)
    torch.testing.assert_close(result.test_loss, result.train_loss)


def test_frozen_parameters_stay():
    X, y = samples()
    model = classifier(0)
    model[0].requires_grad_(requires_grad=False)
    before = model[0].weight.clone()

    result = train(model, "cross_entropy", (X, y), epochs=3, learning_rate=0.5)

    assert torch.equal(model[0].weight, before)
    assert result.num_params == 12


def test_a_sum_loss_has_the_gradient_of_the_sum():
    X, y = samples()
    a, b = classifier(0), classifier(0)

    summed = train(
        a, nn.CrossEntropyLoss(reduction="sum"), (X, y), steps=5, learning_rate=0.01
    )
    mean = train(b, "cross_entropy", (X, y), steps=5, learning_rate=0.2)

    torch.testing.assert_close(weights(a), weights(b))
    torch.testing.assert_close(summed.train_loss, 20 * mean.train_loss)
    torch.testing.assert_close(summed.running_loss, 20 * mean.running_loss)


def test_a_loaders_own_batch_size_is_taken():
    X, y = samples()
    loader = DataLoader(TensorDataset(X, y), batch_size=6)

    result = train(classifier(0), "cross_entropy", loader, epochs=2, learning_rate=0.1)

    assert result.settings["batch_size"] == 6
    assert result.num_steps == 8


@pytest.mark.parametrize("options", [{"steps": 12}, {"epochs": 4, "batch_size": 7}])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_many_networks_at_once_are_trained_as_each_alone(options, norm, optimizer):
    X, y = samples()
    common = {
        "learning_rate": 0.05,
        "optimizer": optimizer,
        "schedule": "published",
        "weight_decay": 0.01,
        "test_data": samples(9, seed=1),
        **options,
    }
    together = [classifier(seed, norm=norm) for seed in range(3)]
    alone = [classifier(seed, norm=norm) for seed in range(3)]

    many = train_many(together, "cross_entropy", (X, y), seeds=(7, 8, 9), **common)

    for index, (one, other) in enumerate(zip(together, alone, strict=True)):
        single = train(other, "cross_entropy", (X, y), seed=7 + index, **common)
        torch.testing.assert_close(one.state_dict(), other.state_dict())
        own = many.of_network(index)
        for name in ("train_loss", "test_loss", "running_loss", "test_accuracy"):
            torch.testing.assert_close(getattr(own, name), getattr(single, name))
    assert many.train_loss.shape == (3, len(many.at))


@pytest.mark.parametrize("count", [2, 11])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("bias", [False, True])
def test_many_perceptrons_on_images_are_trained_as_each_alone(
    count, loss, bias, generator
):
    X = torch.rand(14, 1, 3, 2, generator=generator)
    y = torch.randint(4, (14,), generator=generator)
    target = y if loss == "cross_entropy" else F.one_hot(y, 4).float()

    def networks():
        return [
            models.build(
                "mlp",
                in_features=6,
                hidden=(5, 3),
                num_classes=4,
                activation="elu",
                bias=bias,
                generator=torch.Generator().manual_seed(seed),
            )
            for seed in range(count)
        ]

    together, alone = networks(), networks()
    options = {"epochs": 4, "batch_size": 5, "learning_rate": 0.1, "momentum": 0.9}
    train_many(together, loss, (X, target), **options)

    for index in (0, count - 1):
        train(alone[index], loss, (X, target), seed=index, **options)
        torch.testing.assert_close(weights(together[index]), weights(alone[index]))


def test_a_network_with_a_hook_is_not_taken_for_a_plain_perceptron():
    X, y = samples()
    together = [classifier(0), classifier(1)]
    for model in together:
        model[1].register_forward_hook(lambda module, inputs, output: 2 * output)
    alone = classifier(1)
    alone[1].register_forward_hook(lambda module, inputs, output: 2 * output)

    train_many(together, "cross_entropy", (X, y), steps=5, learning_rate=0.1)
    train(alone, "cross_entropy", (X, y), steps=5, learning_rate=0.1)

    torch.testing.assert_close(weights(together[1]), weights(alone))


def test_each_of_many_networks_may_have_its_own_data():
    sets = [samples(16, seed=s) for s in range(2)]
    together = [classifier(0), classifier(1)]
    alone = [classifier(0), classifier(1)]

    options = {"epochs": 3, "batch_size": 5, "learning_rate": 0.1}
    many = train_many(together, "cross_entropy", PerModel(sets), **options)

    for index, data in enumerate(sets):
        train(alone[index], "cross_entropy", data, seed=index, **options)
        torch.testing.assert_close(weights(together[index]), weights(alone[index]))
    assert many.seeds == (0, 1)


def test_a_network_that_diverges_is_reported_and_does_not_disturb_the_others():
    X, y = samples()
    wild, calm, alone = (nn.Linear(3, 1).double() for _ in range(3))
    alone.load_state_dict(calm.state_dict())
    with torch.no_grad():
        wild.weight.fill_(1e200)
    target = y[:, None].double()

    with pytest.warns(AccuracyWarning, match="diverged: 1 of 2"):
        many = train_many([wild, calm], "mse", (X, target), steps=20, learning_rate=0.1)
    train(alone, "mse", (X, target), steps=20, learning_rate=0.1)

    assert many.diverged.tolist() == [True, False]
    torch.testing.assert_close(weights(calm), weights(alone))


def test_a_training_that_diverges_ends_there():
    X, y = samples()
    model = nn.Linear(3, 1).double()

    with pytest.warns(AccuracyWarning, match="diverged"):
        result = train(
            model, "mse", (X, y[:, None].double()), steps=20_000, learning_rate=1e6
        )

    assert bool(result.diverged)
    assert result.num_steps < 20_000
    assert any("ended after" in note for note in result.notes)


def test_a_callback_sees_every_record_and_may_end_the_training():
    X, y = samples()
    moments = []

    def callback(moment):
        moments.append(moment)
        assert not moment.models[0].training
        expected = F.cross_entropy(moment.models[0](X), y).item()
        assert math.isclose(moment.train_loss[0], expected, rel_tol=1e-12)
        return moment.at == 3

    result = train(
        classifier(0),
        "cross_entropy",
        (X, y),
        epochs=9,
        learning_rate=0.1,
        callbacks=[callback],
    )

    assert [moment.at for moment in moments] == result.at.tolist() == [1, 2, 3]


def test_the_published_schedule_has_its_values():
    rates = [published(epoch / 200) for epoch in (0, 100, 140, 180, 199)]

    assert rates == pytest.approx([1.0, 1.0, 0.505, 0.01, 0.01], abs=1e-12)
    assert SCHEDULES["cosine"](0.5) == pytest.approx(0.5)


def test_the_rate_changes_after_epochs_and_reaches_the_result():
    X, y = samples()

    result = train(
        classifier(0),
        "cross_entropy",
        (X, y),
        epochs=10,
        batch_size=5,
        learning_rate=0.01,
        schedule="published",
    )

    expected = [0.01 * published(epoch / 10) for epoch in range(10)]
    assert result.learning_rate.tolist() == pytest.approx(expected)


def test_a_result_survives_saving(tmp_path):
    X, y = samples()
    result = train_many(
        [classifier(0), classifier(1)],
        "cross_entropy",
        (X, y),
        steps=4,
        learning_rate=1,
    )

    result.save(tmp_path, "training")
    back = load(tmp_path, "training")

    assert isinstance(back, TrainingResult)
    assert torch.equal(back.train_loss, result.train_loss)
    assert back.rows() == result.rows()
    assert len(back.rows()) == 8
    assert "medians of 2 networks" in str(back)


SCRIPT = textwrap.dedent(
    """
    import sys
    import time

    import torch
    from torch import nn

    from curvescope.training import train, train_many

    def run(folder, count, optimizer, pause=0.0, interrupted_at=None):
        source = torch.Generator().manual_seed(0)
        X = torch.randn(60, 3, generator=source)
        y = (X[:, 0] > 0).long()
        kinds = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)
        models = [copy.deepcopy(nn.Sequential(*kinds)) for _ in range(count)]
        for model in models:
            for p in model.parameters():
                p.data = torch.randn(p.shape, generator=source)
        begun = []

        def callback(moment):
            begun.append(moment.at)
            print(moment.at, flush=True)
            time.sleep(pause)
            if moment.at == interrupted_at:
                raise KeyboardInterrupt

        options = dict(
            epochs=30, batch_size=16, learning_rate=0.05, optimizer=optimizer,
            momentum=0.9 if optimizer == "sgd" else 0.0, schedule="published",
            test_data=(X, y), checkpoint=folder, callbacks=[callback],
        )
        if count == 1:
            result = train(models[0], "cross_entropy", (X, y), **options)
        else:
            result = train_many(models, "cross_entropy", (X, y), **options)
        return [m.state_dict() for m in models], result, begun

    if __name__ == "__main__":
        run(sys.argv[1], int(sys.argv[2]), sys.argv[3], pause=0.15)
    """
).replace("import sys", "import copy\nimport sys", 1)


def assert_same_bits(ours, theirs):
    for one, other in zip(ours[0], theirs[0], strict=True):
        assert all(torch.equal(one[name], other[name]) for name in other)
    assert torch.equal(ours[1].train_loss, theirs[1].train_loss)
    assert torch.equal(ours[1].running_loss, theirs[1].running_loss)


def test_a_killed_training_goes_on_to_the_same_bits(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    run = runpy.run_path(str(script))["run"]

    command = [sys.executable, str(script), str(tmp_path / "a"), "1", "sgd"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.stdout.readline().strip() != "12":
            assert process.poll() is None
        time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    resumed = run(tmp_path / "a", 1, "sgd")
    whole = run(tmp_path / "b", 1, "sgd")

    assert resumed[2][0] > 1
    assert whole[2] == list(range(1, 31))
    assert_same_bits(resumed, whole)


def test_many_networks_go_on_after_an_interruption_to_the_same_bits(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    run = runpy.run_path(str(script))["run"]

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", 3, "adam", pause=0.1, interrupted_at=12)
    resumed = run(tmp_path / "a", 3, "adam")
    whole = run(tmp_path / "b", 3, "adam")

    assert 1 < resumed[2][0] <= 12
    assert_same_bits(resumed, whole)


def test_a_finished_training_is_returned_from_its_checkpoint(tmp_path):
    X, y = samples()
    calls = []

    def run(model, learning_rate=0.1):
        return train(
            model,
            "cross_entropy",
            (X, y),
            epochs=4,
            learning_rate=learning_rate,
            checkpoint=tmp_path,
            callbacks=[calls.append],
        )

    a, b, c = classifier(0), classifier(0), classifier(0)
    first, second = run(a), run(b)
    assert len(calls) == 4
    third = run(c, learning_rate=0.2)

    assert torch.equal(weights(a), weights(b))
    assert torch.equal(first.train_loss, second.train_loss)
    assert len(calls) == 8
    assert not torch.equal(third.train_loss, first.train_loss)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "`epochs` must be given, or else `steps`; got neither"),
        ({"epochs": 1, "steps": 1}, "got both"),
        ({"epochs": 0}, "`epochs` must be at least 1"),
        ({"epochs": 1, "learning_rate": 0.0}, "`learning_rate` must be above 0"),
        ({"epochs": 1, "optimizer": "lion"}, "`optimizer` must be one of 'sgd'"),
        ({"epochs": 1, "optimizer": "adam", "momentum": 0.9}, "`momentum` must be 0"),
        ({"epochs": 1, "schedule": "steps"}, "`schedule` must be one of 'constant'"),
        ({"epochs": 1, "weight_decay": -1}, "`weight_decay` must be at least 0"),
    ],
)
def test_wrong_options_are_answered(options, text):
    X, y = samples()

    with pytest.raises(ValueError, match=text):
        train(
            classifier(0), "cross_entropy", (X, y), **{"learning_rate": 0.1, **options}
        )


def test_labels_out_of_range_are_answered_before_the_first_step():
    X, y = samples()
    model = classifier(0)
    y[13] = 2
    before = weights(model)

    with pytest.raises(ValueError, match=r"`targets` must lie in 0..1"):
        train(model, "cross_entropy", (X, y), epochs=1, learning_rate=0.1)

    assert torch.equal(weights(model), before)


def test_networks_that_cannot_be_stacked_are_refused():
    X, y = samples()
    options = {"epochs": 1, "learning_rate": 0.1}
    other = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    dropout = [nn.Sequential(classifier(0), nn.Dropout(0.1)) for _ in range(2)]
    same = classifier(0)

    with pytest.raises(ValueError, match="`models` must have one shape"):
        train_many([classifier(0), other], "cross_entropy", (X, y), **options)
    with pytest.raises(ValueError, match="`models` must draw nothing at random"):
        train_many(dropout, "cross_entropy", (X, y), **options)
    with pytest.raises(ValueError, match="`models` must be different objects"):
        train_many([same, same], "cross_entropy", (X, y), **options)
    with pytest.raises(ValueError, match="`seeds` must be 1 numbers"):
        train_many([same], "cross_entropy", (X, y), seeds=(1, 2), **options)
    with pytest.raises(ValueError, match="`models` must hold at least one"):
        train_many([], "cross_entropy", (X, y), **options)
