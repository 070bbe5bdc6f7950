"""The metrics of runs and sweeps, from records as they are written."""

from collections import deque
from pathlib import Path
from typing import Any

import pytest

from heliostat.folder import Folder
from heliostat.tuning.monitored import SWEEP, samples
from heliostat.tuning.trials import Trials
from heliostat.workloads.ray_train.gauges import _Reader
from heliostat.workloads.run.attempts import ATTEMPTS
from heliostat.workloads.run.goodput import KINDS, account
from heliostat.workloads.run.journal import Journal
from heliostat.workloads.run.monitored import RUN, RunState
from heliostat.workloads.run.record import EVENTS, METRICS


def at(time: float, **record: Any) -> dict[str, Any]:
    return {"time": time, **record}


FIRST = [
    at(0, event="launched", launched=0, least=2, most=2),
    at(0, event="waiting", workers=2, room=1),
    at(10, event="starting", workers=2, room=2),
    at(14, event="running", workers=2),
    at(15, event="start", step=0, total=400, workers=[{"born": 11}, {"born": 12}]),
    at(16, event="first_step", step=1),
    at(26, kind="train", step=100, loss=0.5, samples_per_second=640.0, data_wait=0.1),
    at(31, kind="train", step=150, loss=0.4, samples_per_second=650.0, data_wait=0.2),
    at(32, event="checkpoint", step=150, seconds=0.1, written=0.5, bytes=9),
]
LOST = [
    at(40, event="failed", reason="worker 1 was lost with its node", cause="node_lost", saved=150, again=True),
    at(40, event="starting", workers=2, room=2),
]


def values(state: RunState, now: float) -> dict[str, float]:
    """Without the label of the run, as ``name`` or ``name/label``."""
    found = {}
    for name, labels, value in state.samples(now):
        assert labels.keys() == {*RUN[name][0]}
        assert labels["run"] == "digits"
        found["/".join([name.removeprefix("heliostat_run_"), *(text for key, text in labels.items() if key != "run")])] = value
    return found


def test_a_run_shows_its_progress_workers_and_last_checkpoint() -> None:
    state = RunState("digits")
    state.add(FIRST[:2])
    waiting = values(state, 5)
    assert (waiting["workers_desired"], waiting["workers_ready"]) == (2, 0)
    assert waiting["goodput_seconds/nodes"] == 2 * 5, "a wait counts while it goes on"
    state.add(FIRST[2:])
    found = values(state, 36)
    assert {name: found[name] for name in found if "/" not in name} == {
        "workers_desired": 2, "workers_ready": 2, "step": 150, "steps": 400, "steps_per_second": 10.0, "loss": 0.4,
        "samples_per_second": 650.0, "data_wait_ratio": 0.2, "progress_timestamp_seconds": 32,
        "checkpoint_timestamp_seconds": 32, "checkpoint_seconds": 0.5,
    }  # fmt: skip
    by_kind = {kind: found[f"goodput_seconds/{kind}"] for kind in KINDS}
    assert (by_kind["nodes"], by_kind["starting"], by_kind["productive"]) == (2 * 10, 2 * 6, 2 * 20)


def test_what_is_not_known_is_left_out() -> None:
    state = RunState("digits")
    state.add([*FIRST, at(33, kind="train", step=160, loss=None, samples_per_second=1.0, data_wait=0.0)])
    assert "loss" not in values(state, 34), "it was infinite"
    state.add(LOST)
    found = values(state, 41)
    assert found.keys() & {"steps_per_second", "samples_per_second", "data_wait_ratio"} == set()
    assert (found["workers_ready"], found["workers_desired"], found["restarts/node_lost"]) == (0, 2, 1)


def test_restarts_count_by_cause_also_those_of_earlier_versions() -> None:
    state = RunState("digits")
    state.add([
        at(1, event="left", reason="drain", saved=3, again=True), at(2, event="failed", reason="it broke", saved=3, again=True),
        at(3, event="failed", reason="it broke", cause="mistake", saved=3, again=False),
    ])  # fmt: skip
    assert {name: n for name, n in values(state, 4).items() if name.startswith("restarts")} == {
        "restarts/drain": 1, "restarts/unknown": 1,
    }  # fmt: skip


def test_workers_that_begin_from_an_old_checkpoint_have_nothing_to_lose_yet() -> None:
    state = RunState("digits")
    state.add([*FIRST, at(5000, event="running", workers=2)])
    assert values(state, 5001)["checkpoint_timestamp_seconds"] == 5000


def test_the_goodput_is_the_records_own_as_soon_as_it_is_known() -> None:
    again = [
        at(44, event="running", workers=2),
        at(45, event="start", step=150, total=400, workers=[{"born": 41}, {"born": 41}]),
        at(46, event="first_step", step=151),
    ]
    records = [*FIRST, *LOST, *again]
    attempts = [r for r in records if r.get("event") in ("launched", "waiting", "starting", "running", "failed")]
    events = [r for r in records if r.get("event") in ("start", "first_step", "checkpoint")]
    counted = account(attempts, events, [r for r in records if "kind" in r])
    state = RunState("digits")
    state.add(records)
    assert state.recount, "what was lost is known when the workers have begun again"
    state.count(counted)
    expected = {**counted.worker_seconds}
    expected["productive"] += 2 * 4
    found = values(state, 50)
    assert {kind: found[f"goodput_seconds/{kind}"] for kind in KINDS} == pytest.approx(expected)
    assert expected["recomputed"] > 0
    state.add([at(60, kind="eval", step=300, metrics={}, seconds=1, goodput={"productive": 77.0})])
    assert values(state, 60)["goodput_seconds/productive"] == 77.0


def test_the_driver_reads_what_was_before_once_and_survives_an_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder.at(str(tmp_path / "digits"))
    of = {ATTEMPTS: FIRST[:4], EVENTS: [FIRST[4], FIRST[5], FIRST[8]], METRICS: FIRST[6:8]}
    for name, records in of.items():
        for record in records:
            Journal(folder, name).append(**{key: value for key, value in record.items() if key != "time"})
    new: deque[dict[str, Any]] = deque([at(2e9, event="left", reason="grow", saved=150, again=True)])
    reader = _Reader(folder.once, new, since=1.99e9)
    with monkeypatch.context() as outage:
        outage.setattr("heliostat.workloads.ray_train.gauges.read_journal", _unavailable)
        assert list(reader.read()) == []
    found = {(name, labels.get("cause")): value for name, labels, value in reader.read()}
    assert found["heliostat_run_restarts", "grow"] == 1
    assert found["heliostat_run_step", None] == 150
    assert not new


def _unavailable(*_: Any) -> None:
    raise OSError("the storage does not answer")


def test_a_sweep_shows_its_trials_by_state_and_the_best_value() -> None:
    trials = Trials([
        at(0, event="session", slots=2), *(at(1, event="trial", trial=n, params={}, key=f"{n}", twin=None) for n in range(3)),
        at(2, event="start", trial=0, where="a", workers=1, gpus=0, price=None),
    ])  # fmt: skip
    objectives = {"accuracy": "max", "seconds": "min"}
    counts = {labels["state"]: value for _, labels, value in samples("s", objectives, trials)}
    assert counts == {"waiting": 2, "running": 1, "finished": 0, "stopped": 0, "failed": 0, "diverged": 0}
    end = {"event": "end", "trial": 0, "state": "finished", "step": 9, "metrics": {}, "message": "", "cost": None}
    trials.apply(at(3, **end, values={"accuracy": 0.9}))
    found = [*samples("s", objectives, trials)]
    assert all(labels.keys() == {*SWEEP[name][0]} for name, labels, _ in found)
    assert [each for each in found if each[0] == "heliostat_sweep_best_value"] == [
        ("heliostat_sweep_best_value", {"sweep": "s", "metric": "accuracy"}, 0.9)
    ]
