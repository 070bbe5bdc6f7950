"""The Ray Train side of a run: the driver, its policies, what a worker's end means."""
