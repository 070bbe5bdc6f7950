"""Copies the record of a run or a sweep to trackers: TensorBoard, MLflow, Weights & Biases, or one of the user's own.

A process beside the driver reads the record, and asks each tracker what it has already: so each step is there once, whatever
was killed, and neither a slow nor a missing server stops the run.
"""

from heliostat.workloads.tracking.tracker import Point, Tracked, Tracker

__all__ = ["Point", "Tracked", "Tracker"]
