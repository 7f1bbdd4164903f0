"""What the page says about layers and the blocks between them."""

from curvescope.report.kind import Kind
from curvescope.results import (
    BlockNorms,
    LayerSpectra,
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
    LayerSpectra: Kind(
        title=lambda _: "Spectra of all layers",
        reading=lambda r: (
            f"Each line is one layer's own diagonal block of the {r.of.matrix}, the first "
            "layer on top. Left its eigenvalues of largest magnitude (the layer whose "
            "bar is longest limits the step size of a step in that layer alone), right its "
            "trace. What couples the layers is in neither."
        ),
        sureness=lambda r: (
            "An eigenvalue's error is the norm of its true residual, and it was asked to "
            f"be at most {r.tolerance:g} of it. Errors of traces and norms are standard "
            f"errors, 0 where a number is exact. {'; '.join(r.plan)}."
        ),
        warnings=lambda r: r.notes,
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
