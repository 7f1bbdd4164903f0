"""Modules that torch imports in the middle of its first backward pass, imported before.

An import that Ctrl-C breaks off leaves half of a package behind, and every later call
of the process fails on it. Another thread than the main one is never interrupted.
"""

import functools
import importlib
import threading

# `torch.autograd.grad` with vectors imports it, and sympy with it: most of a second.
_MODULE = "torch.fx.experimental.symbolic_shapes"


def import_before_backward() -> None:
    """Import what the first backward pass needs; at once from the second call on.

    An interruption ends the waiting, not the import.
    """
    _importing().join()


@functools.cache
def _importing() -> threading.Thread:
    # Not a daemon: the interpreter waits for it instead of tearing the import apart.
    thread = threading.Thread(target=_import, name="import of symbolic shapes")
    thread.start()
    return thread


def _import() -> None:
    try:
        importlib.import_module(_MODULE)
    except ImportError:  # a torch that has no such module imports none
        return
