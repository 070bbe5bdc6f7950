"""What workers print: kept in the run folder, and read by the driver."""

import sys
from pathlib import Path

import pytest

from heliostat.folder import Folder
from heliostat.workloads.run.journal import read_journal
from heliostat.workloads.run.output import OutputTail, recorded_output
from tests.store import Store


@pytest.mark.parametrize("place", ["disk", "object store"])
def test_lines_arrive_whole_with_their_rank_and_those_of_an_earlier_attempt_do_not(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("heliostat.workloads.run.output.HERE_POLL", 0.0)
    for module in ("output", "journal"):
        monkeypatch.setattr(f"heliostat.workloads.run.{module}.REMOTE_POLL", 0.0)
    folder = Folder.at(tmp_path) if place == "disk" else Store().folder()
    clock = iter(range(1_000, 2_000))
    monkeypatch.setattr("time.time", lambda: float(next(clock)))
    with recorded_output(folder, 0):
        print("before")
    tail = OutputTail(folder)
    assert tail.new() == []
    with recorded_output(folder, 0), recorded_output(folder, 1):
        print("one", end=" ")
        print("line\nand another")
        sys.stdout.write("0 %\r50 %\r100 %\nno newline")
    found = [(record["rank"], record["printed"]) for record in tail.new()]
    assert [text for rank, text in found if rank == 1] == ["one line", "and another", "100 %", "no newline"]
    assert [text for rank, text in found if rank == 0] == ["one line", "and another", "100 %", "no newline"]
    assert tail.new() == []
    assert read_journal(folder, "output-0.jsonl")[0]["printed"] == "before"
    assert capsys.readouterr().out.startswith("before\none line\n"), "Ray's logs have them, too"
