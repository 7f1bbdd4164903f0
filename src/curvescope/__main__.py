"""``python -m curvescope`` is the command line; so is ``torchrun -m curvescope``."""

import sys

from curvescope.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
