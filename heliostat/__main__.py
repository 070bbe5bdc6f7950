"""``python -m heliostat``: the same command without an installed script."""

import sys

from heliostat.cli import main

sys.exit(main())
