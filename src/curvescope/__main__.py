"""``python -m curvescope`` is the command line; so is ``torchrun -m curvescope``."""

import sys

try:
    from curvescope.cli.main import main
except ModuleNotFoundError as error:
    if error.name != "tyro":
        raise
    sys.exit('`curvescope` needs tyro: pip install "curvescope[cli]".')

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
