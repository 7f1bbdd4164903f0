"""Tracking under the trainer of transformers: rows, logs, and the same bits without it."""

import re
import warnings

import pytest
import torch

pytest.importorskip(
    "transformers", reason="make test-integrations installs transformers"
)
pytest.importorskip("accelerate", reason="make test-integrations installs accelerate")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import transformers

from tests.unit.callbacks.training import (
    assert_same_tensors,
    random_states,
    same_random_states,
    seed_everything,
)

import curvescope as cs
from curvescope.callbacks.huggingface import CurvatureCallback

pytestmark = pytest.mark.filterwarnings("ignore")

NUM = 48


def samples():
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(1, 30, (NUM, 7), generator=generator)
    labels = torch.randint(0, 3, (NUM,), generator=generator)
    return [
        {"input_ids": i, "attention_mask": torch.ones_like(i), "labels": y}
        for i, y in zip(ids, labels, strict=True)
    ]


def probe(rows):
    """Return two batches of the first samples."""
    return [transformers.default_data_collator(rows[a : a + 12]) for a in (0, 12)]


def classifier():
    config = transformers.BertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=16,
        num_labels=3,
    )
    return transformers.BertForSequenceClassification(config)


def fit(tmp_path, callback=None):
    seed_everything(3)
    model = classifier()
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=8,
        per_device_train_batch_size=8,
        learning_rate=1e-3,
        logging_steps=100,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        seed=3,
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=samples())
    if callback is not None:
        trainer.add_callback(callback)
    trainer.train()
    return model, trainer


def test_weights_optimiser_and_random_streams_are_the_same_bits(tmp_path):
    plain, plain_trainer = fit(tmp_path)
    after_plain = random_states()
    callback = CurvatureCallback(probe(samples()), every=2, k=2)
    tracked, tracked_trainer = fit(tmp_path, callback)

    assert_same_tensors(plain.state_dict(), tracked.state_dict())
    assert same_random_states(after_plain, random_states())
    states = [
        trainer.optimizer.state_dict()["state"]
        for trainer in (plain_trainer, tracked_trainer)
    ]
    for one, other in zip(states[0].values(), states[1].values(), strict=True):
        assert_same_tensors(one, other)
    curve = callback.result()
    assert curve.at.tolist() == [0, 2, 4, 6, 8]
    assert bool(torch.isfinite(curve.preconditioned_sharpness[1:]).all())


def test_the_loss_is_the_models_own(tmp_path):
    batches = probe(samples())
    callback = CurvatureCallback(batches, every=8, k=1)
    model, _ = fit(tmp_path, callback)

    model.eval()
    with torch.no_grad():
        losses = [float(model(**batch).loss) for batch in batches]
    expected = sum(losses) / 2
    assert callback.result().loss[-1].item() == pytest.approx(expected, rel=1e-5)


def test_rows_are_in_the_trainers_history(tmp_path):
    callback = CurvatureCallback(probe(samples()), every=4, k=1)
    _, trainer = fit(tmp_path, callback)

    rows = [r for r in trainer.state.log_history if "curvature/eigenvalue_1" in r]
    assert [row["step"] for row in rows] == [0, 4, 8]


def test_rows_go_through_the_trainers_log_to_its_other_callbacks(tmp_path):
    seen = []

    class Listener(transformers.TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            seen.append((state.global_step, dict(logs)))

    seed_everything(3)
    callback = CurvatureCallback(probe(samples()), every=4, k=1)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=4,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(
        model=classifier(), args=arguments, train_dataset=samples()
    )
    trainer.add_callback(Listener())
    trainer.add_callback(callback)
    callback.log_through(trainer)
    trainer.train()

    steps = [step for step, row in seen if "curvature/eigenvalue_1" in row]
    assert steps == [0, 4]


def causal():
    config = transformers.GPT2Config(
        vocab_size=30, n_positions=16, n_embd=16, n_layer=1, n_head=2
    )
    return transformers.GPT2LMHeadModel(config)


def test_a_causal_language_models_own_loss_is_found():
    seed_everything(0)
    model = causal()
    ids = torch.randint(0, 30, (4, 6))
    labels = ids.clone()
    labels[:, 4:] = -100
    callback = CurvatureCallback([{"input_ids": ids, "labels": labels}], every=1, k=1)

    problem = callback._tracking.make_problem(model)

    model.eval()
    expected = float(model(input_ids=ids, labels=labels).loss)
    assert problem.evaluate().loss == pytest.approx(expected, rel=1e-5)
    assert problem.loss.name == "causal_lm"


def test_a_token_classifiers_own_loss_is_found():
    seed_everything(0)
    config = transformers.BertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        num_labels=5,
    )
    model = transformers.BertForTokenClassification(config)
    ids, labels = torch.randint(0, 30, (4, 6)), torch.randint(0, 5, (4, 6))
    callback = CurvatureCallback([{"input_ids": ids, "labels": labels}], every=1)

    problem = callback._tracking.make_problem(model)

    model.eval()
    expected = float(model(input_ids=ids, labels=labels).loss)
    assert problem.evaluate().loss == pytest.approx(expected, rel=1e-5)


def test_a_model_whose_loss_is_another_one_is_refused():
    class Weighted(transformers.BertForSequenceClassification):
        def forward(self, *args, labels=None, **kwargs):
            output = super().forward(*args, labels=labels, **kwargs)
            if labels is not None:
                output.loss = 2 * output.loss
            return output

    class WeightedForSequenceClassification(Weighted):
        pass

    model = WeightedForSequenceClassification(classifier().config)
    callback = CurvatureCallback(probe(samples()), every=1)

    with pytest.raises(ValueError, match="must be the model's own loss on the first"):
        callback._tracking.make_problem(model)


def test_an_unknown_head_needs_a_loss():
    config = classifier().config
    model = transformers.BertForMultipleChoice(config)
    text = "`loss` must be given for this model; got BertForMultipleChoice."

    with pytest.raises(ValueError, match=re.escape(text)):
        CurvatureCallback(probe(samples()))._tracking.make_problem(model)


def test_any_other_loss_can_be_given():
    callback = CurvatureCallback(
        probe(samples()), cs.losses.CrossEntropy(label_smoothing=0.1)
    )

    problem = callback._tracking.make_problem(classifier())

    assert problem.loss.label_smoothing == 0.1


def with_labels(labels):
    """Return two batches of the probe with these labels."""
    rows = [
        {**row, "labels": y.tolist()} for row, y in zip(samples(), labels, strict=True)
    ]
    return probe(rows)


NUMBERS = torch.linspace(-1.0, 1.0, NUM)
SEVERAL = (torch.arange(3 * NUM).reshape(NUM, 3) % 5 < 2).float()


@pytest.mark.parametrize(
    ("num_labels", "labels", "loss"),
    [
        (1, NUMBERS, "mse"),
        (1, NUMBERS[:, None], "mse"),
        (3, SEVERAL, "bce_with_logits"),
        (3, torch.arange(NUM) % 3, "cross_entropy"),
    ],
)
@pytest.mark.parametrize("once", [False, True])
def test_what_labels_mean_is_inferred_as_the_model_does(num_labels, labels, loss, once):
    seed_everything(0)
    config = classifier().config
    config.num_labels = num_labels
    model = transformers.BertForSequenceClassification(config).eval()
    batches = with_labels(labels)
    callback = CurvatureCallback(iter(batches) if once else batches, every=1)

    problem = callback._tracking.make_problem(model)

    assert problem.loss.name == loss
    assert model.config.problem_type is None, "the user's configuration was changed"
    with torch.no_grad():
        losses = [float(model(**batch).loss) for batch in batches]
    assert problem.evaluate().loss == pytest.approx(sum(losses) / 2, rel=1e-5)


def test_an_images_labels_are_taken_in_the_same_way():
    seed_everything(0)
    config = transformers.ViTConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        image_size=8,
        patch_size=4,
        num_labels=1,
    )
    model = transformers.ViTForImageClassification(config).eval()
    batch = {"pixel_values": torch.randn(4, 3, 8, 8), "labels": torch.randn(4)}

    problem = CurvatureCallback([batch])._tracking.make_problem(model)

    expected = float(model(**batch).loss)
    assert problem.evaluate().loss == pytest.approx(expected, rel=1e-5)


def test_a_regression_is_tracked_by_the_trainer(tmp_path):
    config = classifier().config
    config.num_labels = 1
    rows = [{**r, "labels": float(y)} for r, y in zip(samples(), NUMBERS, strict=True)]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
    )
    callback = CurvatureCallback(probe(rows), every=1, k=1)
    transformers.Trainer(
        model=transformers.BertForSequenceClassification(config),
        args=arguments,
        train_dataset=rows,
        callbacks=[callback],
    ).train()

    assert callback.result().at.tolist() == [0, 1, 2]
