"""From the command line's words to a problem."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from curvescope import models
from curvescope._core import imports
from curvescope._core.checks import message
from curvescope._core.memory import GIB
from curvescope.cli.options import ProblemOptions
from curvescope.data import resolve as resolve_data
from curvescope.losses.resolve import names as loss_names
from curvescope.models.resolve import resolve as resolve_model
from curvescope.models.weights import load_weights
from curvescope.problem import Problem


@dataclass(frozen=True)
class Built:
    """A problem and what a reader must know of how it came about.

    Attributes:
        problem: The problem.
        checks: Loss, accuracy, preprocessing: what shows that the parts agree.
    """

    problem: Problem
    checks: dict[str, str]


def build_problem(options: ProblemOptions) -> Built:
    """Load model, weights and data, and put them together.

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
    data = resolve_data(
        options.data,
        root=options.data_root,
        split=options.split,
        num_samples=options.num_samples,
        normalize=normalize,
        vocab=options.vocab,
        context=options.context,
    )
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
    problem = Problem(
        model,
        _loss(options.loss),
        data,
        params=list(options.params) or None,
        reduction=options.reduction,
        weight_decay=options.weight_decay,
        batch_size=options.batch_size,
        device=options.device,
        dtype=None if options.dtype is None else getattr(torch, options.dtype),
        memory_limit=None
        if options.memory_limit is None
        else int(options.memory_limit * GIB),
    )
    return Built(problem, _checks(options, problem, model, data, normalize))


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
    options: ProblemOptions,
    problem: Problem,
    model: nn.Module,
    data: Any,
    normalize: str | None,
) -> dict[str, str]:
    evaluation = problem.evaluate()
    total = sum(p.numel() for p in model.parameters())
    checks: Mapping[str, str | None] = {
        "model": f"{options.model}, {total:,} parameters",
        "weights": "random" if options.weights is None else str(options.weights),
        "data": f"{options.data}, {problem.num_samples:,} samples",
        "data notes": "; ".join(getattr(data, "notes", ())) or None,
        "pixel statistics": normalize or "none",
        "loss": f"{evaluation.loss:.5g} ({problem.reduction}, {problem.loss.name})",
        "accuracy": None
        if evaluation.accuracy is None
        else f"{evaluation.accuracy:.3%} ({_count(evaluation.accuracy, problem)})",
    }
    return {name: text for name, text in checks.items() if text is not None}


def _count(accuracy: float, problem: Problem) -> str:
    counted = problem.denominator if problem.loss.name != "mse" else problem.num_samples
    if (
        abs(counted - round(counted)) > 1e-9
    ):  # class weights: the denominator counts nothing
        return f"of {problem.num_samples:,} samples"
    return f"{round(accuracy * counted):,} of {round(counted):,} right"
