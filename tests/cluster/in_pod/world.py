"""A cluster with a clock, whose recorder writes into memory."""

from typing import Any

from heliostat.cluster.in_pod.record import Record, read
from heliostat.cluster.in_pod.recorder import Recorder
from heliostat.cluster.in_pod.store import Store

T0 = 1_764_187_000.0
JOB = {"run": "", "command": "", "status": "SUCCEEDED", "labels": {}, "begin": T0, "end": T0, "driver": ""}


class World:
    """A cluster with a clock: nodes by id, each with its times of begin, first use and end."""

    def __init__(self) -> None:
        self.now: float = T0
        self.lives: dict[str, tuple[float, float, float]] = {}
        self.jobs: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}
        self.recorder: Recorder | None = None

    def look(self) -> tuple[dict[str, Any], dict[str, Any]]:
        alive = {node: life for node, life in self.lives.items() if life[0] <= self.now < life[2]}
        nodes = {
            node: {
                "name": node, "group": "gpu", "market": "spot", "price": 2.0, "gpus": 1, "asked": begin, "begin": begin,
                "until": None, "state": "starting" if self.now < used else "busy",
                "work": {} if self.now < used else {"job": 1.0},
            }
            for node, (begin, used, _) in alive.items()
        }  # fmt: skip
        return nodes, self.jobs

    def run(self, seconds: float, step: float = 2.0) -> "World":
        until = self.now + seconds
        while self.now < until:
            self.recorder = self.recorder or Recorder(self.look, self.files.__setitem__, lambda: self.now)
            self.recorder.step()
            self.now += step
        return self

    def stop(self, off: bool | None) -> "World":
        """End the recorder; ``off`` is None after a kill."""
        if self.recorder and off is not None:
            self.recorder.finish(off)
        self.recorder = None
        return self

    def record(self) -> Record:
        found = read(self.files)
        assert found
        return found


def charged(record: Record) -> float:
    return sum(each.seconds * (each.price or 0) / 3600 for each in record.intervals)


class InMemory(Store):
    """The files of a world's profile; ``reads`` are the names of those that were read."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__("")
        self.files, self.reads = files, list[str]()

    def versions(self, folder: str, suffix: str) -> dict[str, Any]:
        assert suffix == ".jsonl"
        return {f"gpu/{name}": hash(data) for name, data in self.files.items() if f"gpu/{name}".startswith(folder)}

    def read(self, name: str) -> bytes | None:
        self.reads.append(name)
        return self.files[name.removeprefix("gpu/")]
