"""Goodput, from records as a run writes them."""

from typing import Any

import pytest

from heliostat.workloads.run.goodput import KINDS, account


def at(time: float, **record: Any) -> dict[str, Any]:
    return {"time": time, **record}


def start(time: float, step: int, born: float) -> dict[str, Any]:
    return at(time, event="start", step=step, workers=[{"born": born}, {"born": born}])


ATTEMPTS = [
    at(2, event="launched", launched=0, least=2, most=2),
    at(3, event="starting", workers=2, room=1),
    at(20, event="running", workers=2),
    at(50, event="failed", reason="worker 1 was killed", saved=100, again=True),
    at(50, event="starting", workers=2, room=2),
    at(58, event="running", workers=2),
    at(80, event="ended", state="finished"),
]
EVENTS = [
    start(22, 0, born=13),
    at(23, event="first_step", step=1),
    at(41, event="checkpoint", step=100, seconds=1),
    start(59, 100, born=52),
    at(60, event="first_step", step=101),
]
METRICS = [
    at(40, kind="train", step=100, loss=1.0, data_wait=0.1),
    at(49, kind="train", step=150, loss=1.0, data_wait=0.0),
    at(78, kind="eval", step=200, metrics={}, seconds=2),
]


def test_every_second_of_every_worker_is_in_one_span() -> None:
    spans = account(ATTEMPTS, EVENTS, METRICS).spans
    assert [span.begin for span in spans[1:]] == [span.end for span in spans[:-1]]
    assert (spans[0].begin, spans[-1].end) == (0, 80)
    assert sum(span.worker_seconds for span in spans) == 2 * 80


def test_what_was_computed_after_the_checkpoint_of_the_next_attempt_is_lost() -> None:
    totals = account(ATTEMPTS, EVENTS, METRICS).worker_seconds
    assert totals == pytest.approx(
        {
            **dict.fromkeys(KINDS, 0.0),
            "starting": 2 * (3 + (20 - 13) + 3 + 8 + 2),
            "nodes": 2 * (13 - 3),
            "productive": 2 * ((40 - 23) * 0.9 + (76 - 60) + 2),
            "data": 2 * (40 - 23) * 0.1,
            "checkpointing": 2 * 1,
            "recomputed": 2 * 9,
            "evaluating": 2 * 2,
        }
    )


def test_a_restart_after_a_checkpoint_loses_nothing() -> None:
    attempts = [{**a, "event": "left", "reason": "drain"} if a["event"] == "failed" else a for a in ATTEMPTS]
    events = [*EVENTS[:3], at(49.5, event="drain", step=150), start(59, 150, born=52), *EVENTS[4:]]
    totals = account(attempts, events, METRICS).worker_seconds
    assert totals["recomputed"] == 0


def test_the_time_between_two_commands_is_idle() -> None:
    """The first driver was killed at 30: its journal just ends."""
    killed = [a for a in ATTEMPTS if a["time"] <= 20]
    again = [{**a, "time": a["time"] + 100, **({"launched": 100} if "launched" in a else {})} for a in ATTEMPTS[:3]]
    events = [*EVENTS[:2], start(122, 0, born=113), at(123, event="first_step", step=1)]
    metrics = [at(30, kind="train", step=50, loss=1.0, data_wait=0.0), at(140, kind="train", step=50, loss=1.0, data_wait=0.0)]
    found = account([*killed, *again], events, metrics)
    assert found.marks == [(30, "the driver was killed")]
    assert [(span.begin, span.end, span.workers) for span in found.spans if span.kind == "idle"] == [(30, 100, 0)]
    assert found.worker_seconds["recomputed"] == 2 * (30 - 23)


def test_a_run_that_never_started_has_no_goodput() -> None:
    found = account([], [], [])
    assert found.spans == []
    assert found.share == 0
