"""A script's run as trackers get it."""

from collections.abc import Sequence

from heliostat.config import digest
from heliostat.folder import Folder
from heliostat.workloads.run.goodput import share_of
from heliostat.workloads.run.journal import read_journal
from heliostat.workloads.run.record import METRICS, REPORT
from heliostat.workloads.torchrun.arguments import ARGUMENTS
from heliostat.workloads.torchrun.record import read_script, script_result, values_of
from heliostat.workloads.tracking.runs import named, tags_of
from heliostat.workloads.tracking.tracker import Point, Tracked


class ScriptReader:
    """Reads the run of a script that has ended."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def __call__(self, state: str) -> Sequence[Tracked]:
        """The run in a state, with all points."""
        folder, record, result = self._folder, read_script(self._folder), script_result(self._folder)
        points = []
        for entry in read_journal(folder, METRICS):
            for split, name, value in values_of(entry):
                points.append(Point(entry["step"], entry["time"], named(split, {name: value})))
        tags = {"folder": str(folder), "state": state, **tags_of(result.cost, share_of(result.goodput) or None)}
        params = {"script": record.script, "arguments": " ".join(record.arguments), "workers": record.workers}
        ended = max([record.created, *(point.time for point in points)])
        return [
            Tracked(
                id=digest([folder.name, record.created]), name=folder.name, folder=folder, created=record.created,
                params=params, tags=tags, points=[point for point in points if point.values], state=state, ended=ended,
                files=(ARGUMENTS, REPORT),
            )
        ]  # fmt: skip
