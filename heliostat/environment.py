"""What a cluster and the work on it agree on: environment variables, and the resource of the head node."""

STORAGE = "HELIOSTAT_STORAGE"
"""Set in the pods of a cluster: the place that all of its nodes share, to which a relative storage is relative."""
NODES, NODES_FILE = "HELIOSTAT_NODES", "HELIOSTAT_NODES_FILE"
"""Set by a cluster that can grow: the nodes that it can have at most, as JSON or as a file of it."""
IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets it for the entrypoint of a submitted job, whose working directory is deleted afterwards."""
CACHE = "HELIOSTAT_CACHE"
"""A folder of each node for what is fetched from object stores; by default one in the temporary folder."""
RUN = "HELIOSTAT_RUN"
"""Set for a script that ``heliostat torchrun`` runs: its run folder, for checkpoints if it makes any."""
ON_HEAD = {"node:__internal_head__": 0.001}
"""Resources that place a task or an actor on the head node, which alone has this one (Ray's HEAD_NODE_RESOURCE_NAME)."""
