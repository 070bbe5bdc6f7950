"""Reads the jobs of a trace: a table, what Slurm's ``sacct`` prints, or the log of Philly; also compressed (.gz).

A table is a CSV file with these columns, others are ignored:

====================  ======================================================================================================
``job_id``            a text, different for each job
``submission_time``   seconds, or an ISO time such as 2026-01-31T12:00:00+01:00 (without a zone, the caller says which)
``duration``          seconds of the run itself, without the time in the queue
``num_gpu``           a whole number, 0 for a job on CPUs
``cpu``, ``memory``   optional, of the whole job, as in a profile: 8 or 500m, 64Gi
``gang``              optional, workers: equal parts of the job that may be on different nodes
``min_gpu``,          optional, the range of an elastic job, in which ``num_gpu`` is; each empty or left out: ``num_gpu``
``max_gpu``
====================  ======================================================================================================
"""

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv
from pydantic import TypeAdapter, ValidationError

from heliostat.cluster.field_types import Cpu, Memory, cpus, size
from heliostat.cluster.planner import philly, slurm
from heliostat.cluster.planner.columns import Columns
from heliostat.cluster.planner.jobs import Ints, Jobs
from heliostat.cluster.planner.problems import Problems, opened
from heliostat.config import nearest
from heliostat.errors import UserError

REQUIRED = ("job_id", "submission_time", "duration", "num_gpu")
OPTIONAL = ("cpu", "memory", "gang", "min_gpu", "max_gpu")
BLOCK = 8 * 2**20
"""Bytes that are parsed at a time."""
FORMATS = f"a table needs the columns {', '.join(REQUIRED)}; other formats are sacct --parsable2 and Philly's cluster_job_log"
Batch = Mapping[str, Any]
"""Columns of text as Arrow arrays, by their names here, and ``line``: where each row is."""


@dataclass(frozen=True, eq=False)
class Trace:
    """The jobs of a trace, and rows that are none."""

    jobs: Jobs
    left_out: Mapping[str, int] = field(default_factory=dict)
    """How many rows by the reason: jobs that never ran."""
    notes: tuple[str, ...] = ()
    """What else is to be known about the figures, in sentences."""


def remarks_of(trace: Trace) -> list[str]:
    """What is not in a trace, and what else is to be known, in sentences."""
    return [*(f"{what} are left out: {count:,}" for what, count in trace.left_out.items()), *trace.notes]


def read_trace(path: str | Path, zone: str | None = None, progress: Callable[[int], None] = lambda rows: None) -> Trace:
    """Read a trace; its jobs need not be sorted.

    Args:
        path: of the file.
        zone: the time zone of times that have none, such as Europe/Berlin.
        progress: is called with the number of rows so far.

    Raises:
        UserError: it cannot be read; the message lists all problems.
    """
    path = Path(path)
    if zone and zone not in available_timezones():
        raise UserError(f"--time-zone is {zone}, which is not a time zone", nearest(zone, available_timezones()))
    left_out: dict[str, int] = {}
    try:
        return Trace(_jobs(path, _batches(path, zone, left_out), zone, progress), left_out)
    except OSError as error:
        raise UserError(f"the trace {path} cannot be read: {error.strerror or error}", "give the path of a file") from None
    except (EOFError, zlib.error) as error:
        raise UserError(f"the trace {path} cannot be read: {error}", "copy it again, it is damaged") from None


def _batches(path: Path, zone: str | None, left_out: dict[str, int]) -> Iterator[Batch]:
    with opened(path) as file:
        start = file.read(BLOCK // 64).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start:
        raise UserError(f"the trace {path} is empty", FORMATS)
    if start[:1] in b"[{":
        if not zone:
            raise UserError(
                f"the trace {path} is Philly's log, whose times have no zone", "add --time-zone America/Los_Angeles, its own"
            )
        return philly.batches(path, ZoneInfo(zone), left_out)
    header = start.splitlines()[0].decode("utf-8", "replace")
    if "|" in header:
        return slurm.batches(_tables(path, "|"), path, left_out)
    return _renamed(_tables(path, ","), path)


def _tables(path: Path, delimiter: str) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Blocks of a file with the line of their first row; all columns are texts, and empty ones are empty texts."""
    with pa.input_stream(str(path), compression="gzip" if path.suffix == ".gz" else None) as raw:
        try:
            reading = csv.ReadOptions(block_size=BLOCK)
            parsing = csv.ParseOptions(delimiter=delimiter, quote_char='"' if delimiter == "," else False)
            names = csv.open_csv(raw, reading, parsing).schema.names
        except pa.ArrowInvalid as error:
            raise UserError(f"the trace {path} is not a table: {str(error).splitlines()[0]}", FORMATS) from None
    yield (
        2,
        pa.RecordBatch.from_arrays([pa.array([], pa.string())] * len(names), names=names),
    )  # so that its columns are checked
    texts = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
    with pa.input_stream(str(path), compression="gzip" if path.suffix == ".gz" else None) as raw:
        line = 2
        try:
            for batch in csv.open_csv(raw, reading, parsing, texts):
                yield line, batch
                line += len(batch)
        except pa.ArrowInvalid as error:
            what = str(error).splitlines()[0]
            raise UserError(f"the trace {path} is damaged from about line {line}: {what}", "correct the file") from None


def _renamed(tables: Iterator[tuple[int, pa.RecordBatch]], path: Path) -> Iterator[Batch]:
    for line, table in tables:
        names = [name.strip() for name in table.schema.names]
        if absent := [name for name in REQUIRED if name not in names]:
            hints = [f"for {name}, {nearest(name, names)}" for name in absent if nearest(name, names).endswith("?")]
            found = f"the columns {', '.join(names)}" if len(names) < 30 else f"{len(names)} columns"
            fix = "; ".join([*hints, FORMATS] if hints else [FORMATS])
            raise UserError(f"the trace {path} has no column {', '.join(absent)}; it has {found}", fix)
        if twice := [name for name in (*REQUIRED, *OPTIONAL) if names.count(name) > 1]:
            raise UserError(f"the trace {path} has two columns {', '.join(twice)}", "remove one")
        kept = {name: table.column(names.index(name)) for name in (*REQUIRED, *OPTIONAL) if name in names}
        yield {**kept, "line": np.arange(line, line + len(table))}


def _jobs(path: Path, batches: Iterator[Batch], zone: str | None, progress: Callable[[int], None]) -> Jobs:
    problems = Problems(f"the trace {path}")
    columns = Columns(problems, zone)
    parts: list[dict[str, Any]] = []
    rows = 0
    for batch in batches:
        if len(batch["line"]):
            parts.append(_parsed(columns, batch))
            rows += len(batch["line"])
            progress(rows)
    if not rows:
        raise UserError(f"the trace {path} has no job", FORMATS)
    ids = pa.chunked_array([part.pop("ids") for part in parts], pa.string())
    lines = np.concatenate([part.pop("line") for part in parts])
    hashes = np.concatenate([part.pop("hashes") for part in parts])
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    del parts
    _check_unique(problems, ids, hashes, lines)
    _check_workers(problems, whole, lines)
    _check_ranges(problems, whole, lines)
    problems.refuse()
    order = np.argsort(whole["submitted"], kind="stable")
    if (order[1:] < order[:-1]).any():
        ids = ids.combine_chunks().take(pa.array(order)) if ids.nbytes < 2**31 else ids.cast(pa.large_string()).take(order)
        whole = {name: values[order] for name, values in whole.items()}
    return Jobs(**whole, ids=ids)


def _parsed(columns: Columns, batch: Batch) -> dict[str, Any]:
    from pandas.util import hash_array

    line: Ints = batch["line"]
    ids = pc.utf8_trim_whitespace(batch["job_id"])
    found: dict[str, Any] = {
        "submitted": columns.times("submission_time", batch["submission_time"], line),
        "seconds": columns.numbers("duration", batch["duration"], line),
        "gpus": columns.numbers("num_gpu", batch["num_gpu"], line, whole=True).astype(np.int64),
    }
    if "gang" in batch:
        texts = pc.if_else(pc.equal(batch["gang"], ""), "0", batch["gang"])
        found["workers"] = columns.numbers("gang", texts, line, whole=True).astype(np.int64)
    if "min_gpu" in batch or "max_gpu" in batch:
        for name, to in (("min_gpu", "least"), ("max_gpu", "most")):
            texts = batch.get(name, batch["num_gpu"])
            texts = pc.if_else(pc.equal(texts, ""), batch["num_gpu"], texts)
            found[to] = columns.numbers(name, texts, line, whole=True).astype(np.int64)
    if "cpu" in batch:
        found["cpus"] = columns.quantities("cpu", batch["cpu"], line, _cpus, "8 or 500m")
    if "memory" in batch:
        found["memory"] = columns.quantities("memory", batch["memory"], line, _bytes, "64Gi")
    return {**found, "ids": ids, "line": line, "hashes": hash_array(ids.to_numpy(zero_copy_only=False))}


def _check_unique(problems: Problems, ids: pa.ChunkedArray, hashes: Any, lines: Ints) -> None:
    empty = np.flatnonzero(pc.equal(ids, "").to_numpy())
    problems.add("job_id", "but must be a text", [("", line) for line in lines[empty].tolist()], "give each job an id")
    ordered = np.sort(hashes)
    again = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    seen: set[str] = set()
    for row in np.flatnonzero(np.isin(hashes, again)) if len(again) else ():
        name = ids[int(row)].as_py()
        if name and name in seen:
            problems.add(
                "job_id", "which another job has too", [(name, int(lines[row]))], "give each job its own, or remove the copies"
            )
        seen.add(name)


def _check_workers(problems: Problems, whole: Mapping[str, Any], lines: Ints) -> None:
    if "workers" in whole:
        rows = np.flatnonzero((whole["gpus"] > 0) & (whole["workers"] > whole["gpus"]))
        wrong = zip(whole["workers"][rows].tolist(), lines[rows].tolist(), strict=True)
        problems.add("gang", "more workers than num_gpu", wrong, "give each worker at least one GPU")


def _check_ranges(problems: Problems, whole: Mapping[str, Any], lines: Ints) -> None:
    if "least" not in whole:
        return
    gpus, least, most = whole["gpus"], whole["least"], whole["most"]
    fix = "the duration is that with num_gpu, which has to be in the range"
    for name, values, wrong, why in (
        ("min_gpu", least, least > gpus, "more than num_gpu"),
        ("min_gpu", least, (gpus > 0) & (least < 1), "but a job with GPUs has at least 1"),
        ("max_gpu", most, most < gpus, "less than num_gpu"),
    ):
        rows = np.flatnonzero(wrong)
        problems.add(name, why, zip(values[rows].tolist(), lines[rows].tolist(), strict=True), fix)


def _cpus(text: str) -> float:
    return cpus(_checked(Cpu, text))


def _bytes(text: str) -> float:
    return float(size(_checked(Memory, text)))


def _checked(kind: Any, text: str) -> str:
    try:
        return str(TypeAdapter(kind).validate_python(text))
    except ValidationError as error:
        raise ValueError(str(error)) from None
