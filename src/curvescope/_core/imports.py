"""Import what the user names: optional packages, and objects such as ``pkg.mod:build``.

Objects come as ``package.module:attribute`` or ``path/to/file.py:attribute``.
"""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from curvescope._core.checks import message
from curvescope._core.errors import MissingExtraError


def require(module: str, *, extra: str | None, purpose: str) -> ModuleType:
    """Import the optional third-party ``module``, or name what to install.

    Args:
        module: The module's dotted name.
        extra: The extra of this package that brings it; ``None`` if none does.
        purpose: What needs it, for the message.

    Returns:
        The module.

    Raises:
        MissingExtraError: If the package is not installed.

    Example:
        >>> require("json", extra=None, purpose="this example").__name__
        'json'
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        command = f"curvescope[{extra}]" if extra else package
        text = f'{purpose} needs {package}: pip install "{command}".'
        raise MissingExtraError(text) from None


def is_object(spec: str) -> bool:
    """Tell whether ``spec`` has the form ``module:attribute`` or ``file.py:attribute``.

    Example:
        >>> is_object("pkg.nets:build"), is_object("nets.py:build"), is_object("mlp")
        (True, True, False)
    """
    place, separator, attribute = spec.rpartition(":")
    if not separator or not all(part.isidentifier() for part in attribute.split(".")):
        return False
    return place.endswith(".py") or all(
        part.isidentifier() for part in place.split(".")
    )


@contextmanager
def importable(spec: str) -> Iterator[None]:
    """Let the block import what lies beside a file, or in the working directory."""
    place = spec.rpartition(":")[0]
    path = Path(place).expanduser()
    folder = path.parent if place.endswith(".py") else Path()
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)


def load_object(spec: str, *, argument: str) -> Any:
    """Return the object that ``spec`` names.

    Args:
        spec: ``package.module:attribute`` or ``path/to/file.py:attribute``.
        argument: The argument's name, for messages.

    Returns:
        The object.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the module cannot be imported or lacks the attribute.

    Example:
        >>> load_object("math:gcd", argument="model")(6, 4)
        2
    """
    place, _, attribute = spec.rpartition(":")
    module = (
        _module_of_file(Path(place).expanduser(), argument)
        if place.endswith(".py")
        else _module_of_name(place, argument)
    )
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            names = sorted(name for name in vars(module) if not name.startswith("_"))
            remedy = f"It has: {', '.join(names[:12]) or 'nothing public'}."
            contract = f"name an attribute of {place}"
            raise ValueError(message(argument, contract, repr(attribute), remedy))
        found = getattr(found, part)
    return found


def call_object(
    function: Any, arguments: Mapping[str, Any], *, spec: str, argument: str
) -> Any:
    """Call what the user named, and say whose error it is if it raises.

    Args:
        function: What `load_object` returned.
        arguments: Keyword arguments.
        spec: How the user named it.
        argument: The argument's name, for messages.

    Returns:
        What the call returns.

    Raises:
        TypeError: If it is not callable.
        ValueError: If it does not take these arguments, or raises.
    """
    if not callable(function):
        got = f"{type(function).__name__} at {spec}"
        raise TypeError(message(argument, "name something callable", got))
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        got = f"{spec}, to be called with {_listed(arguments)} ({error})"
        contract = "name a callable that takes the given arguments"
        raise ValueError(message(argument, contract, got)) from None
    except ValueError:  # builtins without a signature: the call itself will tell
        pass
    try:
        return function(**arguments)
    except Exception as error:
        got = f"{type(error).__name__}: {error}"
        contract = f"name a callable that does not raise ({spec})"
        raise ValueError(message(argument, contract, got)) from error


def _listed(arguments: Mapping[str, Any]) -> str:
    return ", ".join(arguments) or "no arguments"


def _module_of_name(name: str, argument: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        absent = error.name is not None and f"{name}.".startswith(f"{error.name}.")
        if absent:
            remedy = f"There is no module {error.name!r} on the import path."
            text = message(argument, "name an importable module", repr(name), remedy)
            raise ValueError(text) from None
        raise _failed_import(name, argument, error) from error
    except Exception as error:
        raise _failed_import(name, argument, error) from error


def _module_of_file(path: Path, argument: str) -> ModuleType:
    if not path.is_file():
        text = message(argument, "name an existing Python file", str(path))
        raise FileNotFoundError(text)
    resolved = path.resolve()
    content = resolved.read_bytes()
    # One content is one module, so that model and data from one file share classes.
    digest = hashlib.sha256(str(resolved).encode() + b"\0" + content).hexdigest()[:16]
    name = f"_curvescope_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, resolved)
    if spec is None or spec.loader is None:
        raise ValueError(message(argument, "name a Python file", str(path)))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their own module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _failed_import(str(path), argument, error) from error
    return module


def _failed_import(place: str, argument: str, error: Exception) -> ValueError:
    got = f"{type(error).__name__}: {error}"
    contract = f"name a module that can be imported ({place})"
    return ValueError(message(argument, contract, got))
