"""Runs on Ray Train: the driver, the policies of its controller, and what follows a failure."""
