"""The journal, and the state that its records give."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heliostat.commands.sweep.trials import headline
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.tuning.cost import most_expensive, trial_capacity
from heliostat.tuning.drive import drive
from heliostat.tuning.journal import open_journal, read_journal
from heliostat.tuning.plan import plan_sweep
from heliostat.tuning.trials import Report, Trial, Trials, best, leader, pareto_front
from heliostat.workloads.run.journal import CHUNK, Journal
from tests.store import Store
from tests.tuning.conftest import Make


def records(journal: Journal, count: int) -> None:
    for number in range(count):
        journal.append(event="trial", trial=number, params={}, key="", twin=None)


def trials_in(folder: Folder) -> list[int]:
    return [record["trial"] for record in read_journal(folder)]


def test_a_write_that_was_interrupted_at_any_byte_costs_that_record_and_no_other(tmp_path: Path) -> None:
    whole = Folder.at(tmp_path / "whole")
    records(open_journal(whole), 3)
    data = (whole / "journal").read("000000.jsonl")
    folder = Folder.at(tmp_path)
    for cut in range(1, len(data.splitlines(keepends=True)[-1]) + 1):
        (folder / "journal").write("000000.jsonl", data[:-cut])
        assert trials_in(folder) == [0, 1]
        records(open_journal(folder), 1)
        assert trials_in(folder) == [0, 1, 0], f"{cut} bytes were missing"


@pytest.mark.parametrize("harm", ["shortened", "changed"])
def test_a_damaged_journal_is_refused_and_named(tmp_path: Path, harm: str) -> None:
    folder = Folder.at(tmp_path)
    records(open_journal(folder), 3)
    (file,) = (tmp_path / "journal").iterdir()
    lines = file.read_text().splitlines()
    lines[1] = lines[1][:20] if harm == "shortened" else lines[1].replace('"trial": 1', '"trial": 7')
    file.write_text("\n".join([*lines, ""]))
    for use in (read_journal, open_journal):
        with pytest.raises(UserError, match=r"000000\.jsonl is damaged at line 2"):
            use(folder)
    assert file.read_text().splitlines() == lines, "nothing was changed"


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda data: None, r"000001\.jsonl is missing"),
        (lambda data: data[:-10], rf"000001\.jsonl is damaged at line {CHUNK}"),
    ],
)
def test_a_file_in_the_middle_that_is_not_whole_is_refused(harm: Callable[[bytes], bytes | None], message: str) -> None:
    store = Store()
    folder = store.folder()
    journal = open_journal(folder)
    records(journal, 2 * CHUNK + 1)
    journal.flush()
    data, at = store.objects.pop("run/journal/000001.jsonl")
    if harmed := harm(data):
        store.objects["run/journal/000001.jsonl"] = harmed, at
    with pytest.raises(UserError, match=message):
        read_journal(folder)


def test_in_an_object_store_no_file_becomes_long_and_ends_are_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heliostat.tuning.journal.WAIT", 300.0)  # a busy machine may need more than a second
    store = Store()
    folder = store.folder()
    journal = open_journal(folder)
    for number in range(CHUNK + 10):
        journal.append(lazily=number % 50 != 0, event="report", trial=0, step=number, progress=0.1, metrics={})
    journal.append(event="end", trial=0)
    found = read_journal(folder)
    assert [record["step"] for record in found[:-1]] == list(range(CHUNK + 10))
    assert found[-1]["event"] == "end"
    assert (folder / "journal").names() == ["000000.jsonl", "000001.jsonl"]


OLD = {
    "000000.jsonl": '{"time": 1.5, "event": "session", "slots": 2}\n{"time": 2.5, "event": "trial", "trial": 0}\n{"time": 3',
    "000001.jsonl": '{"time": 4.5, "event": "session", "slots": 2}\n{"time": 5.5, "event": "trial", "trial": 1}\n',
    "000002.jsonl": "",
}
"""As earlier versions wrote it: a file a session, no checksums, a line that a kill has left incomplete."""


@pytest.mark.parametrize("place", ["disk", "object store"])
def test_a_journal_of_an_earlier_version_is_continued(tmp_path: Path, place: str) -> None:
    folder = Folder.at(tmp_path) if place == "disk" else Store().folder()
    for name, text in OLD.items():
        (folder / "journal").write(name, text.encode())
    assert [record["time"] for record in read_journal(folder)] == [1.5, 2.5, 4.5, 5.5]
    journal = open_journal(folder)
    assert [record["time"] for record in journal.records] == [1.5, 2.5, 4.5, 5.5]
    records(journal, 1)
    journal.flush()
    assert [record["event"] for record in read_journal(folder)] == ["session", "trial", "session", "trial", "trial"]
    assert (folder / "journal").names() == list(OLD)


def at(time: float, **record: Any) -> dict[str, Any]:
    return {"time": time, **record}


def test_an_interrupted_trial_waits_and_its_time_counts_until_its_last_report() -> None:
    start = {"where": "n", "workers": 2, "gpus": 2, "price": 36.0}
    trials = Trials([
        at(0, event="session", slots=2),
        at(1, event="trial", trial=0, params={"a": 1}, key="k", twin=None),
        at(1, event="trial", trial=1, params={"a": 2}, key="l", twin=None),
        at(2, event="start", trial=0, **start),
        at(3, event="start", trial=1, **start),
        at(5, event="report", trial=0, step=10, progress=0.5, metrics={"loss": 1.0}),
        at(8, event="report", trial=0, step=20, progress=0.9, metrics={"loss": None}),
        at(100, event="session", slots=2),
        at(101, event="start", trial=0, **start),
        at(102, event="report", trial=0, step=20, progress=0.9, metrics={"loss": 0.5}),
    ])  # fmt: skip
    first, second = trials.all
    assert (first.state, second.state) == ("running", "waiting")
    assert [(report.step, report.value("loss")) for report in first.reports] == [(10, 1.0), (20, 0.5)]
    assert first.seconds == 6
    assert first.elapsed(111) == 16
    assert first.cost(111) == pytest.approx(16 * 36 / 3600)
    assert second.seconds == 0
    assert trials.seconds(110) == 8 + 10


@pytest.mark.parametrize(("first", "second", "cost"), [(36.0, 360.0, 0.11), (36.0, None, None), (None, 36.0, None)])
def test_a_trial_that_went_on_at_another_price_costs_each_part_at_its_own(
    first: float | None, second: float | None, cost: float | None
) -> None:
    start = {"event": "start", "trial": 0, "where": "n", "workers": 1, "gpus": 0}
    trials = Trials([
        at(0, event="session", slots=1),
        at(0, event="trial", trial=0, params={}, key="k", twin=None),
        at(0, price=first, **start),
        at(1, event="fail", trial=0, message="its node was lost", lost=True),
        at(10, price=second, **start),
    ])  # fmt: skip
    known = sum(seconds * (price or 0.0) / 3600 for seconds, price in ((1, first), (1, second)))
    assert trials.cost(11) == (None if cost is None else pytest.approx(cost))
    assert trials.known_cost(11) == pytest.approx(known)
    trials.apply(at(11, event="end", trial=0, state="finished", step=1, values={}, metrics={}, message=""))
    assert trials.cost(11) == (None if cost is None else pytest.approx(cost))
    assert trials.known_cost(11) == pytest.approx(known)


@pytest.mark.parametrize(
    ("prices", "shown"),
    [
        ((None, None), ""),
        ((36.0, None), " · cost at least 0.01"),
        ((36.0, 36.0), " · cost 0.02"),
        ((3600.0, 3600.0), " · cost 2.00"),
        ((0.001, 0.0), " · cost less than 0.0001"),
        ((0.0, 0.0), " · cost 0"),
    ],
)
def test_the_headline_says_what_a_sweep_costs_if_that_is_known_of_each_trial_that_ran(
    prices: tuple[float | None, ...], shown: str
) -> None:
    records = [at(0, event="session", slots=2)]
    for number, price in enumerate((*prices, None)):
        records.append(at(1, event="trial", trial=number, params={"a": number}, key=str(number), twin=None))
        if number < 2:
            records.append(at(2, event="start", trial=number, where="n", workers=1, gpus=0, price=price))
    trials = Trials(records)
    text = headline(trials, {"loss": "min"}, 3, now=3)
    assert text == f"0 of 3 trials done · 2 running{shown}"
    assert trials.known_cost(3) == pytest.approx(sum(price or 0 for price in prices) / 3600)


def test_an_exchange_that_was_repeated_after_a_kill_is_listed_once() -> None:
    exchange = {"event": "exchange", "trial": 0, "donor": 1, "params": {"a": 2}, "step": 10}
    records = [at(0, event="session", slots=1)]
    records += [at(1, event="trial", trial=number, params={"a": number}, key=str(number), twin=None) for number in range(2)]
    records += [at(2, generation=1, **exchange), at(3, event="session", slots=1), at(4, generation=1, **exchange)]
    records += [at(4, event="exchanged", generation=1), at(5, generation=2, **exchange)]
    assert [(each["generation"], each["time"]) for each in Trials(records).exchanges] == [(1, 4), (2, 5)]


def test_what_trials_with_several_workers_do_not_measure_is_no_objective(folder: Path, config: Make) -> None:
    sweep = config(0.5, train={"workers": 2}, metric={"accuracy": "max", "parameters": "min"})
    with pytest.raises(
        UserError, match="workers is 2, but parameters, an objective, is measured by trials with one worker only"
    ):
        plan_sweep(sweep, [{"CPU": 8.0, "GPU": 0.0}])


def test_a_duplicate_is_over_too_when_the_driver_was_killed_right_after_its_first_trial(folder: Path, config: Make) -> None:
    records = [
        at(0, event="session", slots=1),
        at(1, event="trial", trial=0, params={"model.level": 0.5}, key="k", twin=None),
        at(1, event="trial", trial=1, params={"model.level": 0.5}, key="k", twin=0),
        at(2, event="start", trial=0, where="n", workers=1, gpus=0, price=None),
        at(3, event="end", trial=0, state="finished", step=100, values={"accuracy": 0.5}, metrics={}, message="", cost=None),
    ]
    plan = plan_sweep(config(0.5, algorithm="random", trials=2), [{"CPU": 1.0, "GPU": 0.0}])
    (plan.folder / "journal").write("000000.jsonl", "".join(json.dumps(record) + "\n" for record in records).encode())
    assert drive(plan).states == {"finished": 2}


def test_the_best_is_a_finished_trial_and_duplicates_do_not_count() -> None:
    trials = [
        Trial(0, {}, state="stopped", values={"m": 9.0}),
        Trial(1, {}, state="finished", values={"m": 2.0}),
        Trial(2, {}, state="finished", values={"m": 3.0}),
        Trial(3, {}, state="finished", values={"m": 3.0}, duplicate_of=2),
        Trial(4, {}, state="failed"),
    ]
    assert best(trials, "m", "max") is trials[2]
    assert best(trials, "m", "min") is trials[1]
    assert best(trials[:1], "m", "max") is trials[0]
    assert best(trials[4:], "m", "max") is None


def test_while_no_trial_has_finished_the_one_with_the_best_report_leads() -> None:
    def reported(number: int, state: str, *values: float) -> Trial:
        return Trial(number, {}, state, reports=[Report(n, n / 9, {"m": value}, 0.0) for n, value in enumerate(values)])

    trials = [
        reported(0, "stopped", 1.0),
        reported(1, "running", 3.0, 2.0),
        reported(2, "failed", 9.0),
        reported(3, "waiting"),
        reported(4, "running", float("nan")),
    ]
    assert leader(trials, "m", "max") is trials[1]
    assert leader(trials, "m", "min") is trials[0]
    assert leader(trials[2:], "m", "max") is None


def test_the_pareto_front_has_the_trials_that_no_other_dominates() -> None:
    points = [(1, 5), (2, 4), (2, 6), (3, 3), (3, 4), (0, 9)]
    trials = [Trial(n, {}, state="finished", values={"a": a, "b": b}) for n, (a, b) in enumerate(points)]
    assert [trial.number for trial in pareto_front(trials, {"a": "max", "b": "min"})] == [3]
    assert sorted(trial.number for trial in pareto_front(trials, {"a": "max", "b": "max"})) == [2, 4, 5]


NODES = [
    {"CPU": 8.0, "GPU": 1.0, "nodes": 4, "group": "spot", "price": 1.0},
    {"CPU": 16.0, "GPU": 4.0, "nodes": 1, "group": "big", "price": 16.0},
]


def test_an_estimate_uses_the_most_expensive_node_that_a_worker_fits_on() -> None:
    assert most_expensive(NODES, 1, 1) == 4.0


def test_room_counts_whole_trials() -> None:
    assert trial_capacity(NODES, 1, 1, workers=1) == 8
    assert trial_capacity(NODES, 1, 1, workers=3) == 2
    assert trial_capacity(NODES, 6, 1, workers=1) == 4 + 2
    assert trial_capacity([{"CPU": 2.0, "GPU": 0.0}], 1, 0, workers=2) == 1
