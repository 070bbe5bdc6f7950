"""The log of Microsoft's Philly clusters, ``cluster_job_log`` of msr-fiddle/philly-traces: a JSON list of jobs.

A job has one or more attempts, each with its nodes and their GPUs; its duration is the sum of theirs. One without an attempt
that has both a start and an end never ran, and is left out and counted.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from heliostat.cluster.planner.problems import opened
from heliostat.errors import UserError

KEYS = ("jobid", "submitted_time", "attempts")


def batches(path: Path, zone: ZoneInfo, left_out: dict[str, int]) -> Iterator[dict[str, Any]]:
    """The columns of a trace from Philly's; adds to ``left_out`` how many jobs never ran.

    Raises:
        UserError: it is not such a log.
    """
    with opened(path) as file:
        try:
            jobs = json.load(file)
        except ValueError as error:
            raise UserError(f"the trace {path} is not JSON: {error}", "give Philly's cluster_job_log, or a table") from None
    wrong = next((n for n, job in enumerate(jobs) if not _is_job(job)), None) if isinstance(jobs, list) else 0
    if wrong is not None:
        raise UserError(
            f"the trace {path} is not a list of jobs with {', '.join(KEYS)}: item {wrong} is not one",
            "give Philly's cluster_job_log, or a table",
        )
    rows = [_row(job, zone) for job in jobs]
    kept = [n for n, row in enumerate(rows) if row[2] is not None]
    if never := len(rows) - len(kept):
        left_out["jobs that never ran"] = never
    names = ("job_id", "submission_time", "duration", "num_gpu")
    columns = {name: pa.array([str(rows[n][at]) for n in kept], pa.string()) for at, name in enumerate(names)}
    yield {**columns, "line": np.array(kept, np.int64)}


def _is_job(job: Any) -> bool:
    return isinstance(job, Mapping) and all(key in job for key in KEYS) and isinstance(job["attempts"], list)


def _row(job: Mapping[str, Any], zone: ZoneInfo) -> tuple[str, float | str, float | None, int]:
    """Its id, submission in seconds since the epoch, seconds of all attempts (None: it never ran), and GPUs."""
    spans = [(_time(a.get("start_time"), zone), _time(a.get("end_time"), zone), a) for a in job["attempts"]]
    ended = [(begin, end, attempt) for begin, end, attempt in spans if begin is not None and end is not None]
    gpus = [sum(len(node["gpus"]) for node in attempt.get("detail", [])) for _, _, attempt in ended]
    submitted = _time(job["submitted_time"], zone)
    duration = sum(end - begin for begin, end, _ in ended) if ended else None
    return str(job["jobid"]), job["submitted_time"] if submitted is None else submitted, duration, max(gpus, default=0)


def _time(text: Any, zone: ZoneInfo) -> float | None:
    try:
        return datetime.strptime(str(text), "%Y-%m-%d %H:%M:%S").replace(tzinfo=zone).timestamp()
    except ValueError:
        return None
