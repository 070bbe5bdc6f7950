"""Targets of a profile: Kubernetes, this machine, a cluster for one job, scheduled runs."""
