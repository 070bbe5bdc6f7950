"""``python -m heliostat``: the same command, for places where only the working directory is known."""

import sys

from heliostat.cli import main

sys.exit(main())
