"""Small traces for the tests."""

import numpy as np

from heliostat.cluster.planner.jobs import Jobs


def jobs(*rows: tuple[float, float, int]) -> Jobs:
    """Jobs from when they were submitted, how long they run, and their GPUs."""
    submitted, seconds, gpus = zip(*rows, strict=True)
    return Jobs(np.array(submitted, float), np.array(seconds, float), np.array(gpus, np.int64))
