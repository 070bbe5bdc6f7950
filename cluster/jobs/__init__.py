"""Ray's dashboard: what runs on a cluster, and how jobs get there and are followed."""
