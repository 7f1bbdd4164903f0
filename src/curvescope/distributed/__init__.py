"""Several processes, one problem: data-parallel products by `torch.distributed`.

Every process holds a share of the data and the whole of everything else; one sum over
all processes a block product makes the operators those of all data. It knows problems,
not algorithms: these run in every process on the same numbers.
"""

from curvescope.distributed.checkpoint import SharedCheckpoint
from curvescope.distributed.parallel import data_parallel
from curvescope.distributed.shares import share
from curvescope.distributed.torch_processes import (
    TorchProcesses,
    launched,
    processes,
)

__all__ = [
    "SharedCheckpoint",
    "TorchProcesses",
    "data_parallel",
    "launched",
    "processes",
    "share",
]
