"""The users' verbs: a problem goes in, frozen results come out."""

from curvescope.analysis.all_layers import all_layers
from curvescope.analysis.balance import balance_
from curvescope.analysis.block_norms import block_norms
from curvescope.analysis.homogeneity import homogeneity
from curvescope.analysis.initialisation import initialisation_report
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
from curvescope.analysis.start_vectors import start_vectors
from curvescope.analysis.step_size import step_size
from curvescope.analysis.tracking import Tracker, track
from curvescope.analysis.tracking_schedule import log_spaced

__all__ = [
    "PublishedSpectrum",
    "Tracker",
    "all_layers",
    "analyze",
    "balance_",
    "block_norms",
    "effective_dimension_of_file",
    "homogeneity",
    "initialisation_report",
    "laplace",
    "laplace_predict",
    "layer_curvature",
    "load_published_spectrum",
    "log_spaced",
    "loss_surface",
    "rank_report",
    "read_spectrum",
    "start_vectors",
    "step_size",
    "track",
    "write_spectrum",
]
