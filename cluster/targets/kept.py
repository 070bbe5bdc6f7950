"""The jobs whose output is kept on a storage (`heliostat.job_output`)."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heliostat.environment import JOBS

RECORDS = f"{JOBS}/*/job.json"
"""The pattern of their records, for `heliostat.cluster.targets.storage`."""


@dataclass(frozen=True)
class KeptJob:
    """A job, from its record; times are in seconds since the epoch."""

    id: str
    cluster: str
    run: str
    """The name of its run or of its scheduled runs; empty for another command."""
    command: str
    started: float
    ended: float | None
    """None: it still runs, or was lost with its node."""
    exit_code: int | None

    @property
    def pattern(self) -> str:
        """The pattern of its output."""
        return f"{JOBS}/{self.id}/*.log"

    def output(self, storage: Path) -> bytes:
        """Its output, in a folder with a copy of its files."""
        return b"".join(path.read_bytes() for path in sorted((storage / JOBS / self.id).glob("*.log")))


def kept_jobs(storage: Path) -> list[KeptJob]:
    """The jobs in a folder with a copy of their records, the oldest first."""
    records: list[dict[str, Any]] = [json.loads(path.read_text()) for path in storage.glob(RECORDS)]
    known = KeptJob.__dataclass_fields__
    jobs = [KeptJob(**{key: record[key] for key in known}) for record in records]
    return sorted(jobs, key=lambda job: job.started)


def chosen(jobs: list[KeptJob], cluster: str, name: str | None) -> KeptJob | None:
    """The last job of a cluster, or the last one with an id, or of a run."""
    mine = [job for job in jobs if job.cluster == cluster] if name is None else [j for j in jobs if name in (j.id, j.run)]
    return mine[-1] if mine else None
