"""Tracking under Lightning's own trainer: rows, loggers, and the same bits without it."""

import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("lightning", reason="make test-integrations installs lightning")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import lightning.pytorch as pl
    from lightning.pytorch.loggers import CSVLogger, Logger

from tests.unit.callbacks.training import (
    assert_same_tensors,
    random_states,
    same_random_states,
    seed_everything,
)

from curvescope import results
from curvescope.callbacks.lightning import CurvatureCallback

pytestmark = pytest.mark.filterwarnings("ignore")

torch.manual_seed(5)
X, Y = torch.randn(96, 6), torch.randint(0, 3, (96,))
PROBE = (X[:40], Y[:40])


class Module(pl.LightningModule):
    """A network with all that draws and all that remembers."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(6, 8),
            nn.BatchNorm1d(8),
            nn.Tanh(),
            nn.Dropout(0.3),
            nn.Linear(8, 3),
        )

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Memory(Logger):
    """Keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    name = "memory"
    version = 0

    def log_hyperparams(self, params, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        self.seen.append((step, dict(metrics)))


def fit(tmp_path, *callbacks, logger=False, accumulate=1):
    seed_everything(3)
    module = Module()
    loader = DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True)
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=logger,
        callbacks=list(callbacks),
        accumulate_grad_batches=accumulate,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        log_every_n_steps=1,
    )
    trainer.fit(module, loader)
    return module, trainer


def test_weights_optimiser_and_random_streams_are_the_same_bits(tmp_path):
    plain, plain_trainer = fit(tmp_path)
    after_plain = random_states()
    callback = CurvatureCallback(PROBE, "cross_entropy", every=4, k=2, z=0.1)
    tracked, tracked_trainer = fit(tmp_path, callback)

    assert_same_tensors(plain.state_dict(), tracked.state_dict())
    assert same_random_states(after_plain, random_states())
    states = [
        trainer.optimizers[0].state_dict()["state"]
        for trainer in (plain_trainer, tracked_trainer)
    ]
    for one, other in zip(states[0].values(), states[1].values(), strict=True):
        assert_same_tensors(one, other)
    assert callback.result().at.tolist() == [0, 4, 8, 12, 16]


def test_rows_go_to_the_trainers_logger(tmp_path):
    logger = Memory()
    callback = CurvatureCallback(PROBE, "cross_entropy", every=6, k=2)
    fit(tmp_path, callback, logger=logger)

    rows = {s: m for s, m in logger.seen if "curvature/eigenvalue_1" in m}
    curve = callback.result()
    assert sorted(rows) == [0, 6, 12, 18]
    seen = [rows[step]["curvature/eigenvalue_1"] for step in sorted(rows)]
    assert seen == curve.eigenvalues[:, 0].tolist()
    assert "curvature/preconditioned_sharpness" in rows[6]
    assert rows[6]["curvature/limit"] == pytest.approx(38 / 0.01)


def test_lightnings_own_file_logger_takes_the_rows(tmp_path):
    callback = CurvatureCallback(PROBE, "cross_entropy", every=9, k=1)
    fit(tmp_path, callback, logger=CSVLogger(tmp_path, name="csv"))

    (file,) = tmp_path.rglob("metrics.csv")
    assert "curvature/eigenvalue_1" in file.read_text().splitlines()[0]


def test_the_loss_is_that_of_the_network_inside(tmp_path):
    callback = CurvatureCallback(
        PROBE, "cross_entropy", model=lambda module: module.net, every=18, k=1
    )
    module, _ = fit(tmp_path, callback)

    module.eval()
    expected = nn.functional.cross_entropy(module(PROBE[0]), PROBE[1])
    assert callback.result().loss[-1].item() == pytest.approx(expected.item(), rel=1e-5)


def test_accumulated_batches_count_as_one_step(tmp_path):
    callback = CurvatureCallback(PROBE, "cross_entropy", every=1, k=1)
    fit(tmp_path, callback, accumulate=3)

    assert callback.result().at.tolist() == list(range(7))


def test_an_interrupted_training_leaves_its_curve(tmp_path):
    class Stops(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            if trainer.global_step == 7:
                raise RuntimeError("power cut")

    callback = CurvatureCallback(
        PROBE, "cross_entropy", every=2, k=1, out=tmp_path / "run"
    )
    with pytest.raises(RuntimeError, match="power cut"):
        fit(tmp_path, callback, Stops())

    curve = results.load(tmp_path / "run", "tracking")
    assert curve.at.tolist() == [0, 2, 4, 6]


def test_a_result_before_any_training_is_refused():
    callback = CurvatureCallback(PROBE, "cross_entropy")

    with pytest.raises(RuntimeError, match="`result` must follow a training"):
        callback.result()
