"""The choices that a product leaves open."""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self, TypedDict, final

from curvescope._core.checks import message, one_of, positive_int

Kept = int | Literal["all", "none"]
Precision = Literal["full", "bfloat16"]
# At once, under vmap; more gains nothing that was measured and costs memory.
MOST_COLUMNS = 32


class Choices(TypedDict, total=False):
    """`ProductChoices` as keyword arguments of an operator."""

    columns: int | None
    kept: Kept | None
    fold: bool | None
    compile: bool
    precision: Precision


@final
@dataclass(frozen=True, kw_only=True)
class ProductChoices:
    """How products are computed; ``None`` leaves a choice to the planner.

    Every operator of `curvescope.curvature` takes them as keyword arguments. They say
    what a product costs in time and memory, and but for the last never what it is.

    Attributes:
        columns: Columns multiplied at once in a backward pass; 1 is a loop.
        kept: Batches whose graph is kept between products: a number, ``"all"`` or
            ``"none"``.
        fold: Whether frozen BatchNorm is folded into convolutions, these and layer
            norms have second derivatives of their own, and a network of linear layers
            with elementwise functions between them is multiplied without autograd.
        compile: Whether a batch's product is traced once and compiled, which takes tens
            of seconds and pays in long runs. Each batch's first product is checked
            against autograd's; where the program is not right or cannot be made, a
            warning says so and autograd goes on.
        precision: ``"bfloat16"`` multiplies in half the bytes, where the problem is in
            float32; sums over batches stay in float32. Faster, and wrong by about 1e-2:
            the operator's `rounding_error` says by how much. The one choice that
            changes the numbers.

    Example:
        >>> ProductChoices(columns=1, kept="none")
        ProductChoices(columns=1, kept='none', fold=None, compile=False, precision='full')
    """

    columns: int | None = None
    kept: Kept | None = None
    fold: bool | None = None
    compile: bool = False
    precision: Precision = "full"

    def __post_init__(self) -> None:
        """Check them.

        Raises:
            ValueError: If one is out of range.
            TypeError: If one is of another kind.
        """
        if self.columns is not None:
            positive_int("columns", self.columns)
        if isinstance(self.kept, str):
            one_of("kept", self.kept, ("all", "none"))
        elif self.kept is not None:
            positive_int("kept", self.kept, minimum=0)
        if self.fold is not None and not isinstance(self.fold, bool):
            raise TypeError(message("fold", "be True, False or None", self.fold))
        if not isinstance(self.compile, bool):
            raise TypeError(message("compile", "be True or False", self.compile))
        one_of("precision", self.precision, ("full", "bfloat16"))

    @classmethod
    def of(cls, choices: Choices) -> Self:
        """Return the choices of keyword arguments.

        Raises:
            TypeError: If one is unknown.
        """
        names = [f.name for f in fields(cls)]
        unknown = sorted(set(choices) - set(names))
        if unknown:
            contract = f"be arguments, or choices of products: {', '.join(names)}"
            raise TypeError(message("keywords", contract, ", ".join(unknown)))
        return cls(**choices)

    @property
    def given(self) -> dict[str, Any]:
        """What is not left to the planner: the keyword arguments of an equal operator."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def or_else(self, **chosen: Any) -> Self:
        """Return these, with ``chosen`` where nothing was said."""
        return replace(self, **{**chosen, **self.given})

    def num_kept(self, num_batches: int) -> int | None:
        """Return for how many of so many batches a graph is to be kept."""
        if isinstance(self.kept, str):
            return num_batches if self.kept == "all" else 0
        return None if self.kept is None else min(self.kept, num_batches)
