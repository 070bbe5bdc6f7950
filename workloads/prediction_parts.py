"""Predictions for many files: a part for each, in this process or in parallel tasks of Ray, and none twice.

The folder has ``part-00000.parquet`` and so on, in the order of the input's files, and, so that whoever reads the folder as a
table does not see them, ``_predictions.json`` (what was predicted with what) and ``_parts/`` (what was odd in each part).
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from heliostat.config import Config, differences, digest
from heliostat.datasets.sources.files import identity, table_files
from heliostat.errors import HeliostatError, JobFailed, UserError
from heliostat.folder import Folder, join
from heliostat.modules import enter_working_dir
from heliostat.workloads.inference import Trained, load_run
from heliostat.workloads.prediction.files import Summary, predict_tables, write
from heliostat.workloads.prediction.tables import read_tables

MANIFEST, PARTS = "_predictions.json", "_parts"
Say = Callable[[int, int], None]
"""Called with how many parts are done, and how many there are."""


class Job(Config):
    """What is predicted, and where the parts go; the same for all of them."""

    run: str
    step: int
    fingerprint: str
    """Of the dataset of the run."""
    input: str
    files: tuple[str, ...]
    content: str
    """What changes with the files."""
    columns: tuple[str, ...] | None
    out: str


def plan_job(trained: Trained, place: str, out: str, columns: Sequence[str] | None) -> Job:
    """The job that predicts the files of a table; creates the folder, or continues in it.

    Raises:
        UserError: there are no files, or the folder has the predictions of other files or of another run.
    """
    files = table_files(place)
    job = Job(
        run=str(trained.folder), step=trained.step, fingerprint=trained.index.fingerprint, input=place,
        files=tuple(file.name for file in files), content=digest(identity(files)),
        columns=None if columns is None else tuple(columns), out=out,
    )  # fmt: skip
    folder = Folder.at(out)
    if not folder.exists(MANIFEST):
        if folder.names():
            raise UserError(f"--out is {out}, a folder with other files", "give a new folder")
        folder.write(MANIFEST, job.model_dump_json(indent=2).encode())
        return job
    before = json.loads(folder.read(MANIFEST))
    if lines := differences(before, json.loads(job.model_dump_json())):
        raise UserError(
            f"--out is {out}, which has other predictions:\n    " + "\n    ".join(lines),
            "give a new folder, or delete this one",
        )
    return job


def predict_parts(job: Job, trained: Trained, parallel: bool, say: Say = lambda done, total: None) -> Summary:
    """Predicts the parts that do not exist yet, with ``parallel`` in tasks of the connected Ray; returns the sum of all.

    Raises:
        UserError: a file cannot be predicted; parts that are done stay.
        JobFailed: a task failed otherwise.
    """
    done = Folder.at(job.out) / PARTS
    finished = {int(name.removesuffix(".json")) for name in done.names()}
    todo = [part for part in range(len(job.files)) if part not in finished]
    say(len(finished), len(job.files))
    predicted = _on_ray(job, todo, float(trained.record.config.resources.gpu)) if parallel else _here(job, trained, todo)
    for count, _ in enumerate(predicted, len(finished) + 1):
        say(count, len(job.files))
    total = Summary()
    for part in range(len(job.files)):
        total.merge(json.loads(done.read(f"{part:05d}.json")))
    return total


def _here(job: Job, trained: Trained, parts: Sequence[int]) -> Iterator[int]:
    for part in parts:
        yield _predict(job, trained, part)


def _predict(job: Job, trained: Trained, part: int) -> int:
    """Predicts one file; what is odd in it is written last, which marks the part as done."""
    summary = Summary()
    tables = read_tables(job.input, trained.index, part)
    write(join(job.out, f"part-{part:05d}.parquet"), predict_tables(trained.predictor, tables, summary, job.columns))
    (Folder.at(job.out) / PARTS).write(f"{part:05d}.json", json.dumps(summary.document()).encode())
    return part


@lru_cache(1)
def _loaded(run: str, step: int) -> Trained:
    """The run, which a process of Ray keeps for its next parts."""
    trained = load_run(run)
    if trained.step != step:
        raise UserError(
            f"the best checkpoint of run {run} is that of step {trained.step}, and was that of step {step}",
            "predict when the run is finished",
        )
    return trained


def _task(job: dict[str, Any], part: int, working_dir: str) -> int:
    enter_working_dir(working_dir)
    parsed = Job.model_validate(job, strict=False)
    return _predict(parsed, _loaded(parsed.run, parsed.step), part)


def _on_ray(job: Job, parts: Sequence[int], gpus: float) -> Iterator[int]:
    """Predicts parts in parallel tasks, each with a CPU and the GPUs of a worker of the run; a lost task is repeated."""
    import ray

    remote = ray.remote(_task).options(num_cpus=1, num_gpus=gpus, max_retries=3)
    waiting = [remote.remote(job.model_dump(mode="json"), part, os.getcwd()) for part in parts]
    try:
        while waiting:
            (ready, *_), waiting = ray.wait(waiting)
            yield ray.get(ready)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, HeliostatError):
            raise error.cause from None
        raise JobFailed(f"a part could not be predicted:\n{error}") from None
    finally:
        for task in waiting:
            ray.cancel(task)
