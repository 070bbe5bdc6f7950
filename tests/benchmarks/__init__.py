"""Comparisons side by side in one run, as ratios with their spread; ``make bench`` runs them. Not tests: nothing asserts."""

import statistics
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median, and in brackets the least and the most."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
