"""Why a run or a sweep waits, is slow or has ended, from its folder alone."""

from pathlib import Path
from typing import Any

import pytest

from heliostat.cause import Cause
from heliostat.folder import Folder
from heliostat.tuning import causes as of_sweeps
from heliostat.tuning.trials import Trials
from heliostat.workloads.run.attempts import ATTEMPTS
from heliostat.workloads.run.causes import causes_of, slow_in
from heliostat.workloads.run.chunks import sealed
from heliostat.workloads.run.record import EVENTS, METRICS, Result

LAUNCHED = {"time": 10.0, "event": "launched", "launched": 9.0, "least": 2, "most": 4}
RUNNING = {"time": 20.0, "event": "running", "workers": 2}
FAILED = {"time": 90.0, "event": "failed", "reason": "rank 1: KeyError: 'x'", "again": False, "failures": 3, "most": 3}
FIRST = {"time": 25.0, "event": "first_step", "step": 1}
TOLD = "worker 1 on gpu-2 is slow: it takes 31.0 ms a step"
SLOW = {"time": 60.0, "event": "slow_worker", "step": 9, "rank": 1, "node": "gpu-2", "data": False, "told": TOLD}
OVER = {"time": 80.0, "event": "slow_worker_over", "step": 12, "rank": 1}


def trained(time: float, step: int, data_wait: float = 0.01) -> dict[str, Any]:
    return {"time": time, "kind": "train", "step": step, "epoch": 0, "loss": 1.0, "data_wait": data_wait}


METRIC = [trained(30.0 + 10 * n, n) for n in range(7)]


Records = list[dict[str, Any]]


def found(tmp_path: Path, state: str, attempts: Records, events: Records, metrics: Records) -> list[Cause]:
    """The causes of a run with these records, at second 100."""
    for name, records in ((ATTEMPTS, attempts), (EVENTS, events), (METRICS, metrics)):
        (tmp_path / name).write_bytes(b"".join(sealed(record) + b"\n" for record in records))
    result = Result(name="r", run=str(tmp_path), state=state, step=7, epoch=0)  # type: ignore[arg-type]
    return causes_of(Folder.at(str(tmp_path)), result, now=100.0)


def waits(**more: Any) -> dict[str, Any]:
    return {"time": 15.0, "event": "waiting", **more}


@pytest.mark.parametrize(
    ("state", "attempts", "events", "metrics", "what", "since"),
    [
        ("running", [LAUNCHED], [], [], "its driver has started, and no worker yet", 10.0),
        (
            "running", [LAUNCHED, waits(workers=2, room=1)], [], [],
            "waits for nodes: it needs room for at least 2 workers, and there is room for 1", 15.0,
        ),
        ("running", [LAUNCHED, waits(reason="timed out")], [], [], "its workers could not be started: timed out", 15.0),
        ("running", [LAUNCHED, RUNNING], [], [], "its workers run, and have not finished their first", 20.0),
        ("running", [LAUNCHED, RUNNING], [FIRST], METRIC, "it trains with 2 workers at step 6", 20.0),
        ("failed", [LAUNCHED, RUNNING, FAILED], [FIRST], METRIC, "it failed at step 7, after 3 failures in a row: ", 90.0),
        ("interrupted", [LAUNCHED, RUNNING], [FIRST], METRIC, "its driver has ended at step 7 without a word", 90.0),
        ("stopped", [LAUNCHED, RUNNING], [FIRST], METRIC, "it was stopped at step 7", 90.0),
        ("finished", [LAUNCHED, RUNNING], [FIRST], METRIC, "it has finished at step 7", 90.0),
        (
            "diverged", [LAUNCHED, RUNNING], [{"time": 91.0, "event": "diverged", "step": 7, "what": "the loss", "at": 7}], [],
            "the loss became NaN or infinite at step 7", 91.0,
        ),
    ],
    ids=[
        "launched", "no room", "no start", "first step", "trains", "failed", "interrupted", "stopped", "finished", "diverged",
    ],
)  # fmt: skip
def test_where_a_run_is(
    tmp_path: Path, state: str, attempts: list[Any], events: list[Any], metrics: list[Any], what: str, since: float
) -> None:
    first = found(tmp_path, state, attempts, events, metrics)[0]
    assert first.what.startswith(what)
    assert first.since == since


def test_a_slow_worker_is_named_while_it_is_slow(tmp_path: Path) -> None:
    slow = found(tmp_path, "running", [LAUNCHED, RUNNING], [FIRST, SLOW], METRIC)
    assert [cause.what for cause in slow[1:]] == [TOLD]
    assert "see what else runs on gpu-2" in slow[1].fix
    assert slow[1].since == 60.0
    assert len(found(tmp_path, "running", [LAUNCHED, RUNNING], [FIRST, SLOW, OVER], METRIC)) == 1
    again = {**RUNNING, "time": 85.0}
    assert len(found(tmp_path, "running", [LAUNCHED, RUNNING, again], [FIRST, SLOW], METRIC)) == 1, "of another attempt"


def test_a_slow_worker_is_found_in_the_output_of_a_job() -> None:
    told = "worker 1 on gpu-2 is slow: it takes 31.0 ms a step, 3.0 times as long as the others (it waits for data)"
    (cause,) = slow_in(["step 10", f"  {told}", "step 20"])
    assert cause.what == told
    assert "reads more slowly" in cause.fix
    assert [*slow_in([told, "step 20", "worker 1 on gpu-2 is not slow any more"])] == []
    assert [*slow_in(["step 20"])] == []


def test_a_run_that_waits_for_data_says_so(tmp_path: Path) -> None:
    causes = found(tmp_path, "running", [LAUNCHED, RUNNING], [FIRST], [*METRIC, trained(99.0, 8, 0.4)])
    assert [cause.what for cause in causes[1:]] == ["its workers wait for data 40% of the time"]


def test_what_an_attempt_before_has_recorded_says_nothing_of_this_one(tmp_path: Path) -> None:
    again = [LAUNCHED, RUNNING, {"time": 97.0, "event": "left", "reason": "drain", "again": True}, {**RUNNING, "time": 99.0}]
    causes = found(tmp_path, "running", again, [FIRST], [*METRIC, trained(96.0, 8, 0.4)])
    assert [cause.what for cause in causes] == [
        "its workers run, and have not finished their first step",
        "before, its workers were started again: drain",
    ]


def test_a_run_that_has_fallen_silent_says_so(tmp_path: Path) -> None:
    causes = found(tmp_path, "running", [LAUNCHED, RUNNING], [FIRST], [trained(26.0, 1), trained(27.0, 2), trained(28.0, 3)])
    assert causes[1].what.startswith("it has recorded nothing for 72 s; usually it takes 1.0 s")
    assert causes[1].since == 28.0


def test_failures_that_were_retried_are_listed_after_what_is_now(tmp_path: Path) -> None:
    left = {"time": 50.0, "event": "left", "reason": "drain", "again": True}
    causes = found(tmp_path, "running", [LAUNCHED, RUNNING, left, {**RUNNING, "time": 55.0}], [FIRST], METRIC)
    assert causes[-1].what == "before, its workers were started again: drain"


def test_a_sweep_names_the_reasons_of_its_failed_trials() -> None:
    records = [{"event": "session", "time": 1.0, "slots": 2}]
    for number in range(3):
        records += [
            {"event": "trial", "time": 2.0, "trial": number, "params": {}, "key": str(number), "twin": None},
            {"event": "start", "time": 3.0, "trial": number, "where": "n", "price": None, "workers": 1, "gpus": 0},
        ]
    for number in range(2):
        end = {"values": {}, "metrics": {}, "step": 0, "message": "Traceback\nKeyError: 'x'"}
        records.append({"event": "end", "time": 4.0, "trial": number, "state": "failed", **end})
    causes = of_sweeps.causes_of(Trials(records), "running", 8)
    assert causes[0].what == "it runs 1 of 2 trials at once; 2 of 8 trials are done (2 failed, 1 running)"
    assert causes[1].what == "2 trials failed, first 0000: KeyError: 'x'"
