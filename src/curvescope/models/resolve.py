"""A network from what stands on a command line: a name, an import path, a hub."""

from typing import Any

import torch
from torch import nn

from curvescope._core import imports
from curvescope._core.checks import message
from curvescope.models.registry import build, names, seeded


def resolve(
    spec: str, *, generator: torch.Generator | None = None, **arguments: Any
) -> nn.Module:
    """Return the network that ``spec`` names.

    Args:
        spec: A built-in name; ``package.module:callable`` or ``path/file.py:callable``
            (a function, a class, or a ready ``nn.Module``); ``timm:name``; or
            ``hf:path`` (a folder or a hub's name, of the architecture in its config).
        generator: Source of random weights; without it torch's global one.
        arguments: Keyword arguments for what ``spec`` names.

    Returns:
        The network.

    Raises:
        FileNotFoundError: If the named file does not exist.
        MissingExtraError: If timm or transformers is needed and not installed.
        TypeError: If the callable returns something else.
        ValueError: If the name, the attribute or an argument is unknown, or the
            callable raises.

    Example:
        >>> resolve("torch.nn:Linear", in_features=2, out_features=1).weight.shape
        torch.Size([1, 2])
    """
    kind, separator, rest = spec.partition(":")
    if separator and kind == "timm":
        with seeded(generator):
            return _timm(rest, arguments)
    if separator and kind == "hf":
        with seeded(generator):
            return _hugging_face(rest, arguments)
    if imports.is_object(spec):
        return _user(spec, arguments, generator)
    if spec.replace("_", "-") not in names():
        contract = (
            f"be one of {', '.join(names())}, `package.module:callable`, "
            "`file.py:callable`, `timm:name` or `hf:path`"
        )
        raise ValueError(message("model", contract, repr(spec)))
    return build(spec, generator=generator, **arguments)


def _user(
    spec: str, arguments: dict[str, Any], generator: torch.Generator | None
) -> nn.Module:
    with imports.importable(spec):
        found = imports.load_object(spec, argument="model")
        if isinstance(found, nn.Module):
            if arguments:
                contract = f"take no arguments, since {spec} is a ready network"
                raise ValueError(message("arguments", contract, ", ".join(arguments)))
            return found
        # Not around the import: a file is imported once and called often.
        with seeded(generator):
            made = imports.call_object(found, arguments, spec=spec, argument="model")
    if not isinstance(made, nn.Module):
        contract = f"name a callable that returns an nn.Module ({spec})"
        raise TypeError(message("model", contract, type(made).__name__))
    return made


def _timm(name: str, arguments: dict[str, Any]) -> nn.Module:
    timm = imports.require("timm", extra=None, purpose="a `timm:` model")
    try:
        return timm.create_model(name, **arguments)
    except Exception as error:
        got = f"{name!r} ({type(error).__name__}: {error})"
        text = message("model", "name a model that timm can create", got)
        raise ValueError(text) from error


def _hugging_face(path: str, arguments: dict[str, Any]) -> nn.Module:
    purpose = "an `hf:` model"
    transformers = imports.require("transformers", extra=None, purpose=purpose)
    try:
        config = transformers.AutoConfig.from_pretrained(path)
        declared = getattr(config, "architectures", None) or ("AutoModel",)
        architecture = getattr(transformers, declared[0])
        return architecture.from_pretrained(path, **arguments)
    except Exception as error:
        got = f"{path!r} ({type(error).__name__}: {error})"
        text = message("model", "name a model that transformers can load", got)
        raise ValueError(text) from error
