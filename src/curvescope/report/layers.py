"""What the page says about layers and the blocks between them."""

from curvescope.report.kind import Kind
from curvescope.results import (
    BlockNorms,
    LayerTable,
    Result,
)

KINDS: dict[type[Result], Kind] = {
    BlockNorms: Kind(
        title=lambda _: "The blocks between layers",
        reading=lambda _: (
            "Each cell is the norm of one block: on the diagonal a layer's own, elsewhere "
            "how strongly two layers act together. Bright is large, dark is small, hatched "
            "paper is exactly zero. What lies off the diagonal is what a block-diagonal "
            "approximation of the matrix leaves out."
        ),
        sureness=lambda r: (
            f"Method: {r.method}. Errors are standard errors, 0 where a norm is exact."
        ),
    ),
    LayerTable: Kind(
        title=lambda _: "Curvature layer by layer",
        reading=lambda _: (
            "First panel: how large each layer's own diagonal block is, and how much of it "
            "comes from the linearised network and from the network's own curvature (which "
            "is exactly zero where all behind the layer is piecewise linear); "
            "second panel: the block's eigenvalue of largest magnitude."
        ),
        sureness=lambda r: (
            f"Errors are standard errors, 0 where a number is exact; a top eigenvalue's is "
            f"its residual norm. "
            f"Method: {r.method}."
        ),
    ),
}
