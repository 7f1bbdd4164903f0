"""Results into a run folder and one self-contained HTML page.

This room sees frozen results and figures; it computes no product with a matrix.
"""

from curvescope.report.environment import collect_environment
from curvescope.report.folder import load_results, report, report_from_folder
from curvescope.report.page import write_report
from curvescope.report.tables import to_csv

__all__ = [
    "collect_environment",
    "load_results",
    "report",
    "report_from_folder",
    "to_csv",
    "write_report",
]
