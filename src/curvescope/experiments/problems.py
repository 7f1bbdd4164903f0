"""From words, as a command line has them, to a problem."""

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import nn

from curvescope import models
from curvescope._core import imports
from curvescope._core.checks import message
from curvescope._core.memory import GIB
from curvescope._core.processes import ALONE, Processes
from curvescope.data import resolve as resolve_data
from curvescope.distributed import data_parallel
from curvescope.losses.resolve import names as loss_names
from curvescope.models.resolve import resolve as resolve_model
from curvescope.models.weights import load_weights
from curvescope.problem import Problem


class Described(Protocol):
    """The words: see `ModelSettings`, and the options of ``curvescope analyze``."""

    @property
    def model(self) -> str:
        """The model."""

    @property
    def data(self) -> str:
        """The data."""

    @property
    def loss(self) -> str:
        """The loss."""

    @property
    def weights(self) -> Path | None:
        """The weights."""

    @property
    def model_arg(self) -> tuple[str, ...]:
        """The model's arguments."""

    @property
    def params(self) -> tuple[str, ...]:
        """The parameters."""

    @property
    def data_root(self) -> Path | None:
        """The folder of data sets."""

    @property
    def split(self) -> Literal["train", "test"] | None:
        """The split."""

    @property
    def num_samples(self) -> int | None:
        """The first so many samples."""

    @property
    def batch_size(self) -> int:
        """Samples of a batch."""

    @property
    def normalize(self) -> str | None:
        """Pixel statistics."""

    @property
    def vocab(self) -> Path | None:
        """A vocabulary file."""

    @property
    def context(self) -> int | None:
        """Length of a window."""

    @property
    def reduction(self) -> Literal["mean", "sum"] | None:
        """The unit."""

    @property
    def weight_decay(self) -> float:
        """Adds this times the identity."""

    @property
    def device(self) -> str | None:
        """Where to compute."""

    @property
    def dtype(self) -> Literal["float32", "float64"] | None:
        """In what to compute."""

    @property
    def memory_limit(self) -> float | None:
        """In GiB."""

    @property
    def seed(self) -> int:
        """Of random weights."""


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Which model, weights and data an experiment is about."""

    model: str = "mlp"
    """package.module:callable, file.py:callable, timm:name, hf:path, or built in, such
    as mlp, lenet, resnet20."""
    data: str = "digits"
    """package.module:callable, file.py:callable, text:FILE, or a data set, such as
    digits, mnist, cifar10."""
    loss: str = "cross_entropy"
    """cross_entropy, causal_lm, mse, half_squared_error, bce_with_logits, logcosh, nll,
    or package.module:object."""
    weights: Path | None = None
    """A .safetensors file, or .pt, .pth, .th (read without running code). Without it the
    weights of a built-in network are random."""
    model_arg: tuple[str, ...] = ()
    """Arguments of the model as KEY=VALUE, such as hidden=[32,32]."""
    params: tuple[str, ...] = ()
    """Only the parameters that match a glob, or lie in a module of that name."""
    data_root: Path | None = None
    """The folder that holds one folder a data set."""
    split: Literal["train", "test"] | None = None
    """Which split; train by default."""
    num_samples: int | None = None
    """The first so many samples of the split."""
    batch_size: int = 256
    """Samples in a batch; smaller ones take less memory."""
    normalize: str | None = None
    """Pixel statistics; by default those that a built-in model's weights need."""
    vocab: Path | None = None
    """JSON file from characters to ids, for text:FILE."""
    context: int | None = None
    """Length of a window, for text:FILE."""
    reduction: Literal["mean", "sum"] | None = None
    """The unit of the loss; its own by default."""
    weight_decay: float = 0.0
    """Adds half of this times the squared length of the parameters."""
    device: str | None = None
    """Where to compute, such as cuda."""
    dtype: Literal["float32", "float64"] | None = None
    """In what to compute; the model's own by default."""
    memory_limit: float | None = None
    """GiB for kept data and graphs; half of what is free by default."""
    seed: int = 0
    """Of random weights, directions and start vectors."""


@dataclass(frozen=True)
class Built:
    """A problem and what a reader must know of how it came about.

    Attributes:
        problem: The problem.
        checks: Loss, accuracy, preprocessing: what shows that the parts agree.
        normalize: The pixel statistics that were applied.
    """

    problem: Problem
    checks: dict[str, str]
    normalize: str | None = None


def build_problem(
    options: Described, *, data: Any = None, processes: Processes = ALONE
) -> Built:
    """Load model, weights and data, and put them together.

    Args:
        options: The words.
        data: Instead of those that the words name.
        processes: Those that share the data.

    Raises:
        ValueError: If any of the options does not fit.
    """
    known = options.model.replace("_", "-")
    declared = models.info(known) if known in models.names() else None
    normalize = options.normalize
    takes_pixels = not options.data.startswith("text:") and not imports.is_object(
        options.data
    )
    if normalize is None and declared is not None and takes_pixels:
        normalize = declared.normalize
    if data is None:
        data = _first_there(lambda: _data(options, normalize), processes)
    arguments = parse_arguments(options.model_arg)
    sizes = {} if declared is None else _fitting(declared.arguments, data)
    generator = torch.Generator().manual_seed(options.seed)
    try:
        model = resolve_model(
            options.model, generator=generator, **{**sizes, **arguments}
        )
    except ValueError as error:
        taken = {k: v for k, v in sizes.items() if k not in arguments}
        if not any(f"`{name}`" in str(error) for name in taken):
            raise
        text = f"{error} The data gave {taken}; `--model-arg` overrides."
        raise ValueError(text) from None
    if options.weights is not None:
        load_weights(model, options.weights)
    problem = _problem(options, model, data, processes)
    checks = _checks(options, problem, model, data, normalize)
    return Built(problem, checks, normalize)


def other_split(options: ModelSettings, built: Built, num_samples: int) -> Problem:
    """Return the same network on the first samples of its data set's test split.

    Raises:
        ValueError: If the data are no data set by name, or have no such split.
    """
    words = replace(options, split="test", num_samples=num_samples)
    data = _data(words, built.normalize)
    return _problem(words, built.problem.model, data)


def _data(options: Described, normalize: str | None) -> Any:
    return resolve_data(
        options.data,
        root=options.data_root,
        split=options.split,
        num_samples=options.num_samples,
        normalize=normalize,
        vocab=options.vocab,
        context=options.context,
    )


def _first_there(load: Callable[[], Any], processes: Processes) -> Any:
    """Load the data in the first process, which may download them, then in the others."""
    held: list[Any] = []
    processes.from_first(lambda: held.append(load()))
    return held[0] if held else load()


def _problem(
    options: Described, model: nn.Module, data: Any, processes: Processes = ALONE
) -> Problem:
    dtype, limit = options.dtype, options.memory_limit
    settings: dict[str, Any] = {
        "params": list(options.params) or None,
        "reduction": options.reduction,
        "weight_decay": options.weight_decay,
        "batch_size": options.batch_size,
        "device": options.device,
        "dtype": None if dtype is None else getattr(torch, dtype),
        "memory_limit": None if limit is None else int(limit * GIB),
    }
    loss = _loss(options.loss)
    if processes is ALONE:
        return Problem(model, loss, data, **settings)
    return data_parallel(model, loss, data, processes, **settings)


def parse_arguments(words: tuple[str, ...]) -> dict[str, Any]:
    """Read KEY=VALUE words; a value is a Python literal, or else text.

    Raises:
        ValueError: If a word has no ``=``.

    Example:
        >>> parse_arguments(("hidden=[8,8]", "activation=tanh"))
        {'hidden': [8, 8], 'activation': 'tanh'}
    """
    arguments: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(message("--model-arg", "be KEY=VALUE", repr(word)))
        try:
            arguments[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            arguments[key] = text
    return arguments


def _fitting(accepted: tuple[str, ...], data: Any) -> dict[str, Any]:
    """Return the sizes of a built-in model that the data set decides."""
    classes = getattr(data, "num_classes", None)
    if classes is None:
        return {}
    image = data[0][0]
    sizes = {
        "in_features": image.numel(),
        "in_channels": image.shape[0],
        "image_size": image.shape[-1],
        "num_classes": classes,
    }
    return {name: size for name, size in sizes.items() if name in accepted}


def _loss(word: str) -> Any:
    if word in loss_names() or not imports.is_object(word):
        return word  # an unknown name is refused by the problem, with the choices
    with imports.importable(word):
        return imports.load_object(word, argument="loss")


def _checks(
    options: Described,
    problem: Problem,
    model: nn.Module,
    data: Any,
    normalize: str | None,
) -> dict[str, str]:
    total = sum(p.numel() for p in model.parameters())
    checks: Mapping[str, str | None] = {
        "model": f"{options.model}, {total:,} parameters",
        "weights": "random" if options.weights is None else str(options.weights),
        "data": f"{options.data}, {problem.num_samples:,} samples",
        "data notes": "; ".join(getattr(data, "notes", ())) or None,
        "pixel statistics": normalize or "none",
    }
    known = {name: text for name, text in checks.items() if text is not None}
    return known | describe_fit(problem)


def describe_fit(problem: Problem) -> dict[str, str]:
    """Return loss and accuracy at the present weights, as a reader wants them."""
    found = problem.evaluate()
    fit = {"loss": f"{found.loss:.5g} ({problem.reduction}, {problem.loss.name})"}
    if found.accuracy is not None:
        right = _count(found.accuracy, problem)
        fit["accuracy"] = f"{found.accuracy:.3%} ({right})"
    return fit


def _count(accuracy: float, problem: Problem) -> str:
    counted = problem.denominator if problem.loss.name != "mse" else problem.num_samples
    if (
        abs(counted - round(counted)) > 1e-9
    ):  # class weights: the denominator counts nothing
        return f"of {problem.num_samples:,} samples"
    return f"{round(accuracy * counted):,} of {round(counted):,} right"
