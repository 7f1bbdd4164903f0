"""A number of the whole, of its linearisation part and of its curvature part."""

from typing import Literal, NamedTuple

Part = Literal["whole", "linearisation", "curvature"]
PARTS: tuple[Part, ...] = ("whole", "linearisation", "curvature")
# What the parts are called as matrices of their own.
MATRICES: dict[Part, str] = {
    "whole": "Hessian",
    "linearisation": "GGN",
    "curvature": "functional Hessian",
}


class Parts(NamedTuple):
    """A number of a layer's own block and of its two parts.

    Attributes:
        whole: Of H.
        linearisation: Of the GGN.
        curvature: Of the functional Hessian.
    """

    whole: float
    linearisation: float
    curvature: float
