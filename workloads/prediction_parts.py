"""Predictions for large files or many: a part for each section of them, in this process or in tasks of Ray, and none twice.

The folder has ``part-00000.parquet`` and so on, in the order of the input's rows, and, so that whoever reads the folder as a
table does not see them, ``_predictions.json`` (what was predicted with what) and ``_parts/`` (what was odd in each part).
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from heliostat.config import Config, differences, digest
from heliostat.datasets.sources.files import identity
from heliostat.datasets.sources.formats.streams import Section
from heliostat.datasets.sources.reader import Place
from heliostat.errors import UserError
from heliostat.folder import Folder, join
from heliostat.modules import enter_working_dir
from heliostat.workloads.inference import Trained, load_run
from heliostat.workloads.prediction.files import Summary, predict_tables, write
from heliostat.workloads.prediction.tables import Tables, open_tables
from heliostat.workloads.ray_tasks import RETRIES, task_errors

MANIFEST, PARTS = "_predictions.json", "_parts"
PART = 64 << 20
"""Bytes of a section of a large file that is a part, at least."""
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
    places: tuple[tuple[int, int | None, int | None], ...] | None = None
    """What each part has: the number of a file, and the section of it, or all; None if it is a file each."""
    content: str
    """What changes with the files."""
    columns: tuple[str, ...] | None
    out: str
    read: dict[str, Any] = {}
    """How the files are written, where that is given."""

    @property
    def parts(self) -> int:
        """How many there are."""
        return len(self.files if self.places is None else self.places)

    def place(self, part: int) -> Place:
        """What a part has."""
        number, start, stop = (part, None, None) if self.places is None else self.places[part]
        return number, None if start is None or stop is None else Section(start, stop)

    def document(self) -> dict[str, Any]:
        """As it is kept in the folder; without what earlier versions did not have where that is not used."""
        unused = {key for key in ("places", "read") if not getattr(self, key)}
        return self.model_dump(mode="json", exclude=unused)


def plan_job(
    trained: Trained, place: str, out: str, columns: Sequence[str] | None, read: Mapping[str, Any] | None = None
) -> tuple[Job, Tables]:
    """The job that predicts the files of a table, and these; creates the folder, or continues in it.

    Raises:
        UserError: there are no files, or the folder has the predictions of other files or of another run.
    """
    tables = open_tables(place, trained.index, read)
    files, found = tables.reader.files, tables.reader.sections(PART)
    places = tuple((number, *((section.start, section.stop) if section else (None, None))) for number, section in found)
    job = Job(
        run=str(trained.folder), step=trained.step, fingerprint=trained.index.fingerprint, input=place,
        files=tuple(file.name for file in files), content=digest(identity(files)),
        places=places if len(places) > len(files) else None,
        columns=None if columns is None else tuple(columns), out=out, read=dict(read or {}),
    )  # fmt: skip
    folder = Folder.at(out)
    if not folder.exists(MANIFEST):
        if folder.names():
            raise UserError(f"--out is {out}, a folder with other files", "give a new folder")
        folder.write(MANIFEST, json.dumps(job.document(), indent=2).encode())
        return job, tables
    before = json.loads(folder.read(MANIFEST))
    if lines := differences(before, job.document()):
        raise UserError(
            f"--out is {out}, which has other predictions:\n    " + "\n    ".join(lines),
            "give a new folder, or delete this one",
        )
    return job, tables


def predict_parts(job: Job, tables: Tables, trained: Trained, parallel: bool, say: Say = lambda done, total: None) -> Summary:
    """Predicts the parts that do not exist yet, with ``parallel`` in tasks of the connected Ray; returns the sum of all.

    Raises:
        UserError: a part cannot be predicted; parts that are done stay.
        JobFailed: a task failed otherwise.
    """
    done = Folder.at(job.out) / PARTS
    finished = {int(name.removesuffix(".json")) for name in done.names()}
    todo = [part for part in range(job.parts) if part not in finished]
    say(len(finished), job.parts)
    gpus = float(trained.record.config.resources.gpu)
    predicted = _on_ray(job, tables, todo, gpus) if parallel else _here(job, tables, trained, todo)
    for count, _ in enumerate(predicted, len(finished) + 1):
        say(count, job.parts)
    total = Summary()
    for part in range(job.parts):
        total.merge(json.loads(done.read(f"{part:05d}.json")))
    return total


def _here(job: Job, tables: Tables, trained: Trained, parts: Sequence[int]) -> Iterator[int]:
    for part in parts:
        yield _predict(job, tables, trained, part)


def _predict(job: Job, tables: Tables, trained: Trained, part: int) -> int:
    """Predicts one part; what is odd in it is written last, which marks the part as done."""
    summary = Summary()
    predicted = predict_tables(trained.predictor, tables.read(job.place(part)), summary, job.columns)
    write(join(job.out, f"part-{part:05d}.parquet"), predicted)
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


def _task(shared: tuple[Job, Tables], part: int, working_dir: str) -> int:
    enter_working_dir(working_dir)
    job, tables = shared
    return _predict(job, tables, _loaded(job.run, job.step), part)


def _on_ray(job: Job, tables: Tables, parts: Sequence[int], gpus: float) -> Iterator[int]:
    """Predicts parts in parallel tasks, each with a CPU and the GPUs of a worker of the run; a lost task is repeated."""
    import ray

    remote = ray.remote(_task).options(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)
    shared = ray.put((job, tables))
    waiting = [remote.remote(shared, part, os.getcwd()) for part in parts]
    try:
        with task_errors("a part could not be predicted"):
            while waiting:
                (ready, *_), waiting = ray.wait(waiting)
                yield ray.get(ready)
    finally:
        for task in waiting:
            ray.cancel(task)
