"""Comparisons side by side in one run, as ratios with their spread; ``make bench`` runs them. Not tests: nothing asserts."""
