"""Where a profile's cluster runs: Kubernetes, this machine, a cluster for one job, a schedule."""
