"""Slurm's accounting, as ``sacct --parsable2`` prints it (Slurm 20.11 and later).

Needed are the columns JobID, Submit, State, ElapsedRaw or Elapsed, and AllocTRES or ReqTRES, in which GPUs are ``gres/gpu=8``.
Steps (``12.batch``, ``12.0``) are parts of their job. An element of an array (``12_3``) is a job, and so is a component of a
heterogeneous job (``12+1``). A job that was cancelled while it ran is a job; one that never ran is left out and counted.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from heliostat.errors import UserError

COMMAND = (
    "sacct --allusers --starttime 2026-01-01 --state CD,F,TO,CA,NF,OOM,PR,BF,DL --parsable2 "
    "--format JobID,Submit,State,ElapsedRaw,ReqTRES,AllocTRES > jobs.txt"
)
GPUS = r"gres/gpu(?::[^=,]+)?=(?P<found>\d+)"
CPUS = r"(?:^|,)cpu=(?P<found>\d+)"
MEMORY = r"(?:^|,)mem=(?P<found>[\d.]+[KMGT]?)"


def batches(tables: Iterator[tuple[int, pa.RecordBatch]], path: Path, left_out: dict[str, int]) -> Iterator[dict[str, Any]]:
    """The columns of a trace from Slurm's; adds to ``left_out`` how many jobs never ran.

    Raises:
        UserError: columns are missing, or jobs have not ended.
    """
    for line, table in tables:
        columns = {name: table.column(name) for name in table.schema.names}
        _check_columns(path, columns)
        rows = {**columns, "line": pa.array(np.arange(line, line + len(table)))}
        kept = _jobs(path, pa.table(rows), left_out)
        tres = _tres(kept)
        yield {
            "job_id": _text(kept["JobID"]),
            "submission_time": _text(kept["Submit"]),
            "duration": _durations(kept),
            "num_gpu": _found(tres, GPUS, "0"),
            "cpu": _found(tres, CPUS, ""),
            "memory": _memory(_found(tres, MEMORY, "")),
            "line": kept["line"].to_numpy(),
        }


def _check_columns(path: Path, columns: dict[str, Any]) -> None:
    either = (("JobID",), ("Submit",), ("State",), ("ElapsedRaw", "Elapsed"), ("AllocTRES", "ReqTRES"))
    if absent := [" or ".join(names) for names in either if not any(name in columns for name in names)]:
        raise UserError(f"the trace {path} of Slurm has no column {', '.join(absent)}", COMMAND)


def _jobs(path: Path, rows: pa.Table, left_out: dict[str, int]) -> pa.Table:
    """The jobs that ran, without their steps."""
    rows = rows.filter(pc.invert(pc.match_substring(rows["JobID"], ".")))
    open_ = pc.match_substring_regex(rows["State"], "^(PENDING|RUNNING|SUSPENDED|REQUEUED|RESIZING|CONFIGURING|COMPLETING)")
    if unfinished := rows.filter(open_)["JobID"].to_pylist():
        more = f" and {len(unfinished) - 3} more" if len(unfinished) > 3 else ""
        raise UserError(
            f"the trace {path} has jobs that have not ended, so how long they run is not known: "
            f"{', '.join(unfinished[:3])}{more}",
            f"leave them out: {COMMAND}",
        )
    # An array of which nothing has started is one row, 12_[0-9], and one element that never started has no time.
    ran = pc.not_equal(_durations(rows), "0")
    if never := len(rows) - pc.sum(ran).as_py() if len(rows) else 0:
        left_out["jobs that never ran"] = left_out.get("jobs that never ran", 0) + never
    return rows.filter(ran)


def _durations(rows: pa.Table) -> pa.Array:
    if "ElapsedRaw" in rows.column_names:
        return _text(rows["ElapsedRaw"])
    encoded = _text(rows["Elapsed"]).dictionary_encode()
    words = pa.array([_seconds(word) for word in encoded.dictionary.to_pylist()], pa.string())
    return words.take(encoded.indices)


def _seconds(text: str) -> str:
    """``1-02:03:04`` as seconds; what is none stays as it is, for a message."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)(\.\d+)?", text)
    if not match:
        return text
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups()[:4])
    return str(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def _tres(rows: pa.Table) -> pa.Array:
    """What each job has got, or where that is not known, requested."""
    names = [name for name in ("AllocTRES", "ReqTRES") if name in rows.column_names]
    first, last = _text(rows[names[0]]), _text(rows[names[-1]])
    return pc.if_else(pc.equal(first, ""), last, first)


def _found(texts: pa.Array, pattern: str, default: str) -> pa.Array:
    """The first match in each text."""
    found = pc.extract_regex(texts, pattern)
    return pc.fill_null(pc.struct_field(found, "found"), default)


def _memory(texts: pa.Array) -> pa.Array:
    """Slurm's 64G as 64Gi; a number alone is in MiB."""
    united = pc.replace_substring_regex(texts, r"^([\d.]+)$", r"\1M")
    return pc.replace_substring_regex(united, r"([KMGT])$", r"\1i")


def _text(column: Any) -> pa.Array:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return pc.utf8_trim_whitespace(array)
