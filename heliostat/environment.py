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
WORKERS = "HELIOSTAT_WORKERS"
"""Set for rank 0 of such a script: a file that describes the workers, see `heliostat.workloads.torchrun.this_run.workers`."""
JOB_ENVIRONMENT = "HELIOSTAT_JOB_ENVIRONMENT"
"""Set for a job with variables of its own: the key of their values, see `heliostat.job_environment`."""
DATASETS = ".datasets"
"""The folder of a storage with the datasets that runs have built."""
JOBS = ".jobs"
"""The folder of a storage with the output of the jobs of its clusters."""
NODES_RECORD = ".nodes"
"""The folder of a storage with the records of the nodes of its clusters (`heliostat.cluster.in_pod.recorder`)."""
RUN_FOLDERS = (
    ("config.yaml", "events.jsonl", b'{"time": '),
    ("sweep.yaml", "journal/000000.jsonl", b'{"time": '),
    ("checkpoints", "script.json", b'{"arguments": ['),
    ("metrics.jsonl", "script.json", b'{"arguments": ['),
    ("files", "files.json", b'{"files": {'),
)
"""By what the folder of a run, a sweep and a torchrun script is recognized, which is never sent to a cluster: an
entry, and a file with the first bytes that Heliostat writes there. A user's own folder may have files with the same names."""
ON_HEAD = {"node:__internal_head__": 0.001}
"""Resources that place a task or an actor on the head node, which alone has this one (Ray's HEAD_NODE_RESOURCE_NAME)."""
SERVE_TOKEN = "HELIOSTAT_SERVE_TOKEN"
"""Set in the pods of a service: the token that requests need."""
