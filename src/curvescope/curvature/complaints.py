"""What is said where a layer has no second derivative, or only its author knows it."""

import warnings
from collections.abc import Sequence

from torch import Tensor

from curvescope._core.checks import message
from curvescope._core.errors import AccuracyWarning
from curvescope.autodiff.graphs import custom_functions


def warn_of_custom_functions(gradients: Sequence[Tensor]) -> None:
    """Say that a backward pass written by the user is taken at its word."""
    names = custom_functions(gradients)
    if names:
        text = (
            f"the model has custom autograd functions ({', '.join(names)}): if their "
            "backward passes leave torch or detach, second derivatives are wrong. "
            "Verify with `curvescope.testing.check_against_central_differences`."
        )
        warnings.warn(text, AccuracyWarning, stacklevel=2)


def not_differentiable(error: BaseException) -> Exception:
    """Say that a layer has no second derivative, in the user's words."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "out of memory" in text or "can't allocate" in text:
        remedy = "Use smaller batches."
        return MemoryError(
            message("data", "fit the memory batch by batch", text, remedy)
        )
    if "derivative" not in text and "not implemented" not in text:
        return RuntimeError(f"while running the model on a batch: {text}")
    remedy = "Replace the layer that torch names by one with a second derivative."
    return RuntimeError(message("model", "be twice differentiable", text, remedy))
