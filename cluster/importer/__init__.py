"""A profile from a RayCluster or RayJob of others: the inverse of `heliostat.cluster.documents`."""
