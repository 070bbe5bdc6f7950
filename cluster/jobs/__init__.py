"""Ray's dashboard: submits, follows and lists jobs, and reports the usage of nodes."""
