"""What a cluster and the work on it agree on: environment variables, and the resource of the head node."""

STORAGE = "HELIOSTAT_STORAGE"
"""Set in the pods of a cluster: the storage that all of its nodes share, which a relative storage is relative to."""
NODES, NODES_FILE = "HELIOSTAT_NODES", "HELIOSTAT_NODES_FILE"
"""Set by an autoscaling cluster: its nodes at its maximum size, as JSON or as a file with it."""
IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray for the entrypoint of a submitted job, whose working directory is deleted afterwards."""
CACHE = "HELIOSTAT_CACHE"
"""A folder on each node for copies from object stores; by default one in the temporary folder."""
RUN = "HELIOSTAT_RUN"
"""Set for a script under ``heliostat torchrun``: its run folder, for its checkpoints."""
DATASETS = ".datasets"
"""The folder of a storage with the datasets that runs have built."""
RUN_FOLDERS = (("config.yaml", "events.jsonl"), ("sweep.yaml", "trials"), ("script.json", "checkpoints"))
"""The entries by which the folder of a run, a sweep and a torchrun script is recognized: it is never sent to a cluster."""
ON_HEAD = {"node:__internal_head__": 0.001}
"""Resources that place a task or an actor on the head node, which alone has this one (Ray's HEAD_NODE_RESOURCE_NAME)."""
