"""A table is read in tasks of a Ray: the same dataset, also when a worker dies."""

import json

import pyarrow as pa
import pyarrow.csv

from heliostat.datasets import build
from heliostat.datasets.sources import open_source
from tests.conftest import Command

KILLED = """
import json, os, pathlib, signal
from heliostat.cli import main
from heliostat.datasets.sources.formats import delimited
from heliostat.datasets.sources.formats import parquet
from heliostat.workloads import ray_tasks

parquet.SECTION = delimited.BLOCK = delimited.FIRST = 20_000
in_tasks, sections = ray_tasks.in_tasks, []

class Dies:
    def __init__(self, work, marker):
        self.work, self.marker, self.pickled = work, marker, parquet.SECTION
    def __call__(self, place):
        delimited.BLOCK = delimited.FIRST = self.pickled  # as in the process that has divided the file
        if place[1].start and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.work(place)

def dying(work, places):
    sections.append(len(places))
    return in_tasks(Dies(work, pathlib.Path(f"{os.getcwd()}/killed-{len(sections)}")), places)

ray_tasks.in_tasks = dying
code = main(["dataset", "build", "table", "out", "--set", "path=t.csv", "--set", "target=y", "--json"])
print(json.dumps([code, sections]))
"""


def test_a_table_is_read_in_tasks_to_the_same_dataset_also_when_workers_are_killed(on_ray: Command) -> None:
    rows = {"x": [number / 7 for number in range(9000)], "y": ["no", "yes", "no"] * 3000}
    pyarrow.csv.write_csv(pa.table(rows), on_ray.cwd / "t.csv")
    (on_ray.cwd / "killed.py").write_text(KILLED)
    with on_ray.python("killed.py") as process:
        out, err = process.communicate(timeout=300)
    *_, last = out.splitlines()
    assert json.loads(last)[0] == 0, err
    assert min(json.loads(last)[1]) > 3
    assert sorted(path.name for path in on_ray.cwd.glob("killed-*")) == ["killed-1", "killed-2"]
    here = build(open_source("table", {"path": str(on_ray.cwd / "t.csv"), "target": "y"}), str(on_ray.cwd / "here")).index
    assert json.loads((on_ray.cwd / "out/index.json").read_text())["fingerprint"] == here.fingerprint
