"""The trials that the schedulers stop, compared with Ray Tune's own schedulers on the same reports."""

import random
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule, TrialScheduler

from heliostat.tuning.schedulers.asha import Asha
from heliostat.tuning.schedulers.median import Median
from heliostat.tuning.schedulers.pbt import pairs
from heliostat.tuning.trials import Decision, Report, Trial

STEPS = 81


def reports(seed: int, trials: int = 40) -> list[tuple[int, int, float]]:
    """(trial, step, value) of trials that run four at a time, some better than others, at random speeds."""
    source = random.Random(seed)
    level = [source.random() for _ in range(trials)]
    running, waiting, step = list(range(4)), list(range(4, trials)), [0] * trials
    found = []
    while running:
        trial = source.choice(running)
        step[trial] += 1
        found.append((trial, step[trial], level[trial] + 0.1 * source.random() + 0.01 * step[trial]))
        if step[trial] == STEPS:
            running.remove(trial)
            if waiting:
                running.append(waiting.pop(0))
    return found


def stopped(scheduler: Any, mode: str, seed: int) -> set[int]:
    """The trials that our scheduler stops."""
    trials: dict[int, Trial] = {}
    over: set[int] = set()
    for number, step, value in reports(seed):
        if number in over:
            continue
        trial = trials.setdefault(number, Trial(number, {}, state="running"))
        trial.reports.append(Report(step, step / STEPS, {"m": value if mode == "max" else -value}, 0.0))
        if scheduler.report(trial) == Decision.STOP:
            over.add(number)
    return over


def stopped_by_tune(scheduler: Any, mode: str, seed: int, best: bool = False) -> set[int]:
    """The trials that Ray Tune's scheduler stops, given each report or, with ``best``, the best report so far."""
    scheduler.set_search_properties("m", mode)
    trials: dict[int, Any] = {}
    tops: dict[int, float] = {}
    over: set[int] = set()
    controller = SimpleNamespace(get_live_trials=list)
    for number, step, value in reports(seed):
        if number in over:
            continue
        if number not in trials:
            trials[number] = TrialStub(number)
            scheduler.on_trial_add(controller, trials[number])
        if best:
            value = tops[number] = max(value, tops.get(number, value))
        result = {"step": step, "m": value if mode == "max" else -value}
        if step == STEPS:
            scheduler.on_trial_complete(controller, trials[number], result)
        elif scheduler.on_trial_result(controller, trials[number], result) == TrialScheduler.STOP:
            over.add(number)
    return over


class TrialStub:
    """The attributes of a Tune trial that its schedulers use."""

    def __init__(self, number: int) -> None:
        self.trial_id = str(number)


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("seed", range(5))
def test_asha_stops_the_trials_that_ray_tunes_stops(mode: Any, seed: int) -> None:
    """If Tune's gets the best report so far, which ours compares."""
    ours = stopped(Asha("m", mode, grace=1 / STEPS, reduction=3), mode, seed)
    theirs = stopped_by_tune(
        AsyncHyperBandScheduler(time_attr="step", max_t=STEPS, reduction_factor=3, stop_last_trials=False),
        mode,
        seed,
        best=True,
    )
    assert ours == theirs
    assert 15 <= len(ours) < 40


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("seed", range(5))
def test_median_stops_the_trials_that_ray_tunes_stops(mode: Any, seed: int) -> None:
    ours = stopped(Median("m", mode, grace=10 / STEPS, samples=3), mode, seed)
    theirs = stopped_by_tune(MedianStoppingRule(time_attr="step", grace_period=10, min_samples_required=3), mode, seed)
    assert ours == theirs
    assert 5 <= len(ours) < 40


def test_a_repeated_report_after_a_restart_gets_the_same_decision() -> None:
    scheduler = Asha("m", "max", grace=1 / 9, reduction=3)
    for number in range(6):
        scheduler.report(Trial(number, {}, reports=[Report(1, 1 / 9, {"m": number}, 0.0)]))
    good = Trial(9, {}, reports=[Report(1, 1 / 9, {"m": 10.0}, 0.0)])
    bad = Trial(8, {}, reports=[Report(1, 1 / 9, {"m": -1.0}, 0.0)])
    for _ in range(3):
        assert scheduler.report(good) == Decision.CONTINUE
        assert scheduler.report(bad) == Decision.STOP


def test_a_trial_is_compared_once_at_a_rung() -> None:
    scheduler = Asha("m", "max", grace=1 / 9, reduction=3)
    trial = Trial(0, {}, reports=[Report(1, 1 / 9, {"m": 1.0}, 0.0)])
    assert scheduler.report(trial) == Decision.CONTINUE
    for number in range(1, 6):
        scheduler.report(Trial(number, {}, reports=[Report(1, 1 / 9, {"m": 5.0}, 0.0)]))
    trial.reports.append(Report(2, 0.2, {"m": 1.0}, 0.0))
    assert scheduler.report(trial) == Decision.CONTINUE, "it was compared when it reached the rung"
    trial.reports.append(Report(3, 1 / 3, {"m": 1.0}, 0.0))
    assert scheduler.report(trial) == Decision.CONTINUE, "the first at its rung"


def test_a_trial_is_compared_by_its_best_report() -> None:
    scheduler = Asha("m", "min", grace=1 / 3, reduction=3)
    for number in range(6):
        scheduler.report(Trial(number, {}, reports=[Report(3, 1 / 3, {"m": 0.5 + number}, 0.0)]))
    reports = [Report(1, 0.1, {"m": 0.1}, 0.0), Report(2, 0.2, {"m": float("nan")}, 0.0), Report(3, 0.4, {"m": 9.0}, 0.0)]
    assert scheduler.report(Trial(8, {}, reports=reports)) == Decision.CONTINUE
    assert scheduler.report(Trial(9, {}, reports=reports[1:])) == Decision.STOP


def test_no_trial_is_stopped_shortly_before_its_end() -> None:
    scheduler = Asha("m", "max", grace=0.1, reduction=3)
    for number in range(6):
        scheduler.report(Trial(number, {}, reports=[Report(9, 0.95, {"m": 5.0}, 0.0)]))
    trial = Trial(9, {}, reports=[Report(1, 0.35, {"m": 6.0}, 0.0)])
    assert scheduler.report(trial) == Decision.CONTINUE
    trial.reports.append(Report(9, 0.95, {"m": 0.0}, 0.0))
    assert scheduler.report(trial) == Decision.CONTINUE


def test_hyperband_compares_most_trials_early_and_some_late() -> None:
    scheduler = Asha("m", "max", grace=1 / 27, reduction=3, brackets=True)
    counts = [[scheduler.bracket(number) for number in range(51)].count(bracket) for bracket in range(3)]
    assert counts[0] > counts[1] > counts[2] > 0
    late = next(number for number in range(51) if scheduler.bracket(number) == 2)
    for number in range(60):
        if scheduler.bracket(number) == 2 and number != late:
            scheduler.report(Trial(number, {}, reports=[Report(1, 1 / 3, {"m": 1.0}, 0.0)]))
    trial = Trial(late, {}, reports=[Report(1, 1 / 27, {"m": 0.0}, 0.0)])
    assert scheduler.report(trial) == Decision.CONTINUE, "too early in its bracket"
    trial.reports.append(Report(9, 1 / 3, {"m": 0.0}, 0.0))
    assert scheduler.report(trial) == Decision.STOP


NAN = float("nan")


def trial(number: int, *values: float) -> Trial:
    """A trial with reports at equal distances up to a third of its run."""
    count = len(values)
    return Trial(number, {}, reports=[Report(n, n / count / 3, {"m": v}, 0.0) for n, v in enumerate(values, 1)])


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("kind", ["asha", "median"])
def test_a_trial_whose_metric_is_nan_is_stopped_and_stops_no_other(kind: str, mode: Any) -> None:
    scheduler = Asha("m", mode, grace=0.3, reduction=3) if kind == "asha" else Median("m", mode, grace=0.3, samples=3)
    assert scheduler.report(trial(0, NAN)) == Decision.CONTINUE, "nothing to compare it with"
    best = 9.0 if mode == "max" else 0.0
    for number in range(1, 5):
        assert scheduler.report(trial(number, best)) == Decision.CONTINUE
    assert scheduler.report(trial(5, NAN, NAN)) == Decision.STOP
    assert scheduler.report(trial(6, NAN)) == Decision.STOP
    assert scheduler.report(trial(7, best, NAN)) == Decision.CONTINUE, "its best value so far counts"
    assert scheduler.report(trial(8, NAN, best)) == Decision.CONTINUE
    assert scheduler.report(trial(9, 5.0)) == Decision.STOP


@pytest.mark.parametrize("broken", range(6))
def test_in_a_population_broken_members_copy_whole_ones(broken: int) -> None:
    members = [trial(number, NAN if number < broken else float(number)) for number in range(6)]
    copies = pairs(members, "m", "max", 0.25, random.Random(0))
    assert {member.number for member, _ in copies} == set(range(max(2, broken)))
    assert all(donor.number >= max(4, broken) for _, donor in copies)


def test_a_population_without_any_finite_value_exchanges_nothing() -> None:
    assert pairs([trial(number, NAN) for number in range(4)], "m", "max", 0.25, random.Random(0)) == []
