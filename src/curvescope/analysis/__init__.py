"""The users' verbs: a problem goes in, frozen results come out."""

from curvescope.analysis.homogeneity import homogeneity
from curvescope.analysis.landscape import loss_surface
from curvescope.analysis.laplace import laplace, laplace_predict
from curvescope.analysis.layers import layer_curvature
from curvescope.analysis.rank_report import rank_report
from curvescope.analysis.run import analyze
from curvescope.analysis.spectra_files import (
    PublishedSpectrum,
    effective_dimension_of_file,
    load_published_spectrum,
    read_spectrum,
    write_spectrum,
)

__all__ = [
    "PublishedSpectrum",
    "analyze",
    "effective_dimension_of_file",
    "homogeneity",
    "laplace",
    "laplace_predict",
    "layer_curvature",
    "load_published_spectrum",
    "loss_surface",
    "rank_report",
    "read_spectrum",
    "write_spectrum",
]
