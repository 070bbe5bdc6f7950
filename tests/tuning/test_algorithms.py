"""Algorithms and schedulers on real trials, one at a time, so that the order is deterministic."""

from pathlib import Path
from typing import Any

import pytest

from tests.tuning.conftest import Make, run, trials_of

pytestmark = pytest.mark.usefixtures("ray_here", "nothing_left")


def test_median_stops_trials_below_the_median_and_no_others(folder: Path, config: Make) -> None:
    scheduler = {"kind": "median", "grace": 0.25, "samples": 3}
    result = run(config(0.7, 0.9, 0.8, 0.1, 1.0, 0.75, scheduler=scheduler, concurrency=1))
    assert result.values == {"accuracy": pytest.approx(1.0)}
    ended = [(trial.state, trial.step) for trial in trials_of(folder).all]
    whole = ("finished", 100)
    # The first three have too few others to compare with; 0.75 is below the median of 0.7, 0.8, 0.9 and 1.0.
    assert ended == [whole, whole, whole, ("stopped", 30), whole, ("stopped", 30)]


def test_hyperband_stops_bad_trials_early_in_one_bracket_and_late_in_the_other(folder: Path, config: Make) -> None:
    result = run(config(1.0, 0.1, 0.2, 0.9, 0.15, scheduler="hyperband", concurrency=1))
    assert result.values == {"accuracy": pytest.approx(1.0)}
    ended = [(trial.state, trial.step) for trial in trials_of(folder).all]
    # Rungs at a ninth and a third of the run for the first three trials, at a third only for the next two.
    assert ended == [("finished", 100), ("stopped", 20), ("stopped", 20), ("finished", 100), ("stopped", 40)]


@pytest.mark.parametrize(
    "changes",
    [{"algorithm": "tpe"}, {"algorithm": "cmaes"}, {"algorithm": "bohb", "scheduler": "hyperband"}],
    ids=lambda changes: changes["algorithm"],
)
def test_outcomes_of_trials_guide_the_search(folder: Path, config: Make, changes: dict[str, Any]) -> None:
    space = {"model.level": {"uniform": [0, 1]}, "optimizer.beta1": {"uniform": [0, 0.99]}}
    train = {"steps": 20, "evaluate_every": 2, "checkpoint_every": 20}
    run(config(space=space, train=train, trials=40, concurrency=1, **changes))
    trials = trials_of(folder).all
    levels = [trial.params["model.level"] for trial in trials]
    early, late = levels[:10], levels[-10:]
    assert sum(late) / 10 > max(0.75, sum(early) / 10), levels
    stopped = [trial for trial in trials if trial.state == "stopped"]
    assert bool(stopped) == (changes["algorithm"] == "bohb")
    assert all(trial.step < 20 for trial in stopped)


def test_a_slot_opens_the_data_once_for_all_its_trials(folder: Path, config: Make) -> None:
    """The dataset is moved away after the first trial; the others still have it open."""

    def watch(trials: Any) -> None:
        if trials.states().get("finished") and built.exists():
            built.rename(folder / "moved")

    built = folder / "runs" / ".datasets"
    result = run(config(0.2, 0.4, 0.6, train={"model": {"seconds": 0.02}}, concurrency=1), watch)
    assert result.states == {"finished": 3}
    assert (folder / "moved").exists()
