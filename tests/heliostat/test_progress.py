"""The progress of a run, in a pipe and on a narrow terminal."""

import io
import math
import re
import time
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from heliostat.commands.dataset import building
from heliostat.commands.sweep import trials
from heliostat.commands.terminal import live, phases, progress
from heliostat.commands.terminal.progress import Display
from heliostat.interface.followed import drawing, drawing_trials
from heliostat.interface.notebook import FollowedSweep
from heliostat.tuning.trials import Trial, Trials

CONFIG = SimpleNamespace(name="a-run", most_workers=2)
PLAN = SimpleNamespace(
    total_steps=120, uri="/runs/a-run", config=CONFIG, folder=SimpleNamespace(exists=lambda name: False)
)  # fmt: skip


def trained(step: int, time: float) -> dict[str, Any]:
    return {"kind": "train", "step": step, "time": time, "loss": 1.5, "samples_per_second": 1234.5}


RECORDS = [
    {"event": "starting", "workers": 2, "room": 2},
    trained(10, 1.0),
    {"printed": "mine: [bold]x[/] :warning:", "rank": 1},
    trained(20, 2.0),
    {"event": "evaluating", "step": 20},
    {"kind": "eval", "step": 20, "time": 2.5, "metrics": {"accuracy": 0.5}},
]


def test_an_error_with_brackets_is_printed_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    """As gloo words it: rich would take the source location for a tag."""
    reason = "worker 0: [/src/gloo/pair.cc:545] Connection closed by peer"
    record = {"event": "failed", "reason": reason, "again": True, "wait": 0.0, "saved": 5, "failures": 1, "most": 3}
    with Display(PLAN) as display:
        display.update([record])
    assert f"{reason}; resumes from step 5 (failure 1 of 3)" in capsys.readouterr().err


def test_building_shows_what_is_done_how_fast_and_what_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "FIRST", 0.0)
    monkeypatch.setattr(building, "LINES", 0.0)
    shown = building.Building()
    for done in (0, 500):
        shown("reading photos", done, 2000, "images")
    shown("", 0, 0, "")
    first, second = capsys.readouterr().err.splitlines()
    assert first == "reading photos: 0 of 2,000 images"
    assert second.startswith("reading photos: 500 of 2,000 images, ")
    text = building.progress_text("checking t.csv", 10 << 20, 40 << 20, "bytes", 5.0)
    assert text == "checking t.csv: 10.0 MB of 40.0 MB, 2.0 MB/s, 15 s left"


def test_a_pipe_gets_a_line_each_record_and_what_the_task_prints(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(PLAN) as display:
        display.connected()
        display.update(RECORDS)
    assert capsys.readouterr().err.splitlines() == [
        "a-run in /runs/a-run",
        "step     10  loss 1.5000  1,234 samples/s",
        "[rank 1] mine: [bold]x[/] :warning:",
        "step     20  loss 1.5000  1,234 samples/s  10 s left",
        "step     20  validation  accuracy 0.5000",
    ]
    with Display(PLAN, quiet=True) as display:  # with --json
        display.connected()
        display.update(RECORDS)
    assert capsys.readouterr().err.splitlines() == ["[rank 1] mine: [bold]x[/] :warning:"]


def test_the_curves_of_a_run_on_a_cluster_are_those_of_the_lines_of_its_job(capsys: pytest.CaptureFixture[str]) -> None:
    evaluated = {"kind": "eval", "step": 20, "time": 3.0, "metrics": {"log loss": None, "accuracy": 0.25}}
    with Display(PLAN) as display:
        display.connected()
        display.update([*RECORDS, evaluated])
    drawn, written = list[dict[str, Any]](), list[str]()
    take = drawing(drawn.extend, written.append)
    for line in [*capsys.readouterr().err.splitlines(keepends=True), "step 3  validation  of mine\n"]:
        take(line)
    assert written == ["a-run in /runs/a-run\n", "[rank 1] mine: [bold]x[/] :warning:\n", "step 3  validation  of mine\n"]
    wanted = [{**record, "time": 0} for record in [*RECORDS, evaluated] if "kind" in record]
    assert [{**record, "time": 0} for record in drawn] == [
        {**record, "samples_per_second": 1234} if record["kind"] == "train" else record for record in wanted
    ]


def test_the_table_of_a_sweep_on_a_cluster_is_that_of_the_lines_of_its_job(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "LINE_SECONDS", math.inf)
    plan: Any = SimpleNamespace(
        uri="/runs/a-sweep", objectives={"log loss": "min"}, config=SimpleNamespace(name="a-sweep", trials=3)
    )
    points: list[dict[str, Any]] = [{"optimizer.lr": 0.0123456, "model.kind": "a  b=c"}, {"optimizer.lr": 0.1}, {}]
    found = Trials()
    found.all = [Trial(number, params) for number, params in enumerate(points)]
    first, second, _ = found.all
    with trials.Display(plan) as display:
        first.state, first.started = "running", 1.0
        display.update(found)
        first.state, first.step, first.seconds, first.price, first.spent = "finished", 40, 8.25, 3600.0, 8.25
        first.started, first.values = None, {"log loss": 0.25}
        second.state = "failed"
        display.update(found)  # sooner than the next line: shown at the end
    rows, said, written = list[Any](), list[str](), list[str]()
    take = drawing_trials(rows.append, said.append, written.append)
    shown = capsys.readouterr().err.splitlines(keepends=True)
    for line in [*shown, "trial 3  running  of mine\n"]:
        take(line)
    assert written == ["trial 3  running  of mine\n"]
    assert [text.split(" · ")[0] for text in said] == ["0 of 3 trials done", "2 of 3 trials done"]
    params = {"param.optimizer.lr": "0.01235", "param.model.kind": "a b=c"}
    ended = {"trial": 0, "state": "finished", "log loss": 0.25, "step": 40.0, "seconds": 8.2, "cost": 8.25}
    failed = {"trial": 1, "state": "failed", "step": 0.0, "seconds": 0.0, "param.optimizer.lr": "0.1"}
    assert rows == [{"trial": 0, "state": "running", **params}, {**ended, **params}, failed]
    picture = FollowedSweep(plan)
    for row in rows:
        picture._rows[row["trial"]] = row
    assert [text for text in ("finished", "failed", "0.01235", "log loss", "8.25") if text not in picture.table()] == []


def test_a_phase_that_takes_long_is_said_in_a_pipe_and_a_short_one_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(phases, "LONG", math.inf)
        with phases.phase("building the dataset"):
            pass
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(phases, "LONG", 0.0)
    monkeypatch.setattr(phases, "AGAIN", math.inf)
    monkeypatch.setattr(phases, "POLL", 0.01)
    shown: list[str] = []
    with phases.phase("building the dataset"):
        while not shown:  # until the thread has said it, which a busy loop would delay
            time.sleep(0.01)
            shown = [text] if (text := capsys.readouterr().err) else []
    assert shown == ["building the dataset\n"]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_live_line_fits_on_the_terminal_and_names_one_time_left(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    file = io.StringIO()
    terminal = Console(file=file, force_terminal=True, width=width, markup=False, emoji=False)
    for module in (phases, progress):
        monkeypatch.setattr(module, "err", terminal)
    with Display(PLAN) as display:
        display.connected()
        display.update(RECORDS[:4])
    last = re.split(r"\x1b\[2K|\n|\r", file.getvalue())
    lines = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in last]
    live = [line for line in lines if line.startswith("training  20/120")]
    assert live
    assert all(len(line) <= width and line.count("left") <= 1 for line in live)
    assert width < 60 or "10 s left" in live[-1]


def test_no_color_means_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    file = io.StringIO()
    monkeypatch.setattr(live, "err", Console(file=file, force_terminal=True, color_system="standard"))
    with live.line() as shown:
        shown.say("waiting for nodes")
    assert "waiting for nodes" in file.getvalue()
    assert not re.search(r"\x1b\[(\d+;)*(3|4|9|10)[0-7]m", file.getvalue())


@pytest.mark.parametrize("width", [40, 60, 120])
def test_the_trials_of_a_sweep_are_shown_in_whole_cells_at_any_width(width: int) -> None:
    found = Trials()
    found.all = [Trial(n, {"optimizer.lr": 0.00123, "model.hidden": 64}, "finished", values={"loss": 0.5}) for n in range(3)]
    terminal = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width)
    with terminal.capture() as shown:
        terminal.print(trials.rendered(found, {"loss": "min"}, 3, driven=False))
    assert "…" not in shown.get()
    assert all(len(line) <= width for line in shown.get().splitlines())
    assert ("not shown" in shown.get()) == (width < 120)
    assert shown.get().count("finished") == 3
