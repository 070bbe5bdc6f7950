"""The environment variables by which a cluster and the work on it speak to each other."""

STORAGE = "HELIOSTAT_STORAGE"
"""Set in the pods of a cluster: the place that all of its nodes share, to which a relative storage is relative."""
NODES, NODES_FILE = "HELIOSTAT_NODES", "HELIOSTAT_NODES_FILE"
"""Set by a cluster that can grow: the nodes that it can have at most, as JSON or as a file of it."""
IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets it for the entrypoint of a submitted job, whose working directory is deleted afterwards."""
