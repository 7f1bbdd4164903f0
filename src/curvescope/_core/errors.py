"""The package's own exceptions and warnings; everything else is a builtin."""


class ConvergenceError(RuntimeError):
    """An iteration did not reach its tolerance and ``strict=True`` was asked."""


class ChangedDuringComputationError(RuntimeError):
    """Weights, buffers or data changed while a computation was running."""


class MissingExtraError(ImportError):
    """An optional dependency is needed; the message names the extra to install."""


class ProcessError(RuntimeError):
    """Another process of a distributed computation failed or fell out of step."""


class LostProcessError(ProcessError):
    """Another process of a distributed computation died or stopped answering."""


class DownloadError(OSError):
    """A file could not be downloaded whole, or is not the file that was asked for."""


class AccuracyWarning(RuntimeWarning):
    """A number is returned, but is less certain than was asked for."""
