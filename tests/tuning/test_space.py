"""Search spaces: what they sample, and what they refuse."""

import math
import random
from pathlib import Path
from typing import Any

import pytest

from heliostat.config import validate
from heliostat.errors import UserError
from heliostat.tuning.algorithms.grid import Grid
from heliostat.tuning.algorithms.optuna import Optuna
from heliostat.tuning.algorithms.random import Random
from heliostat.tuning.config import Mode, SweepConfig
from heliostat.tuning.plan import plan_sweep
from heliostat.tuning.preview import preview
from heliostat.tuning.schedulers.pbt import perturbed
from heliostat.tuning.space import Parameter, assign, check_conditions, draw, flatten, sample
from heliostat.tuning.trials import Trial, Trials

SPACE: dict[str, Any] = {
    "model.layers": {"integer": [0, 2]},
    "model.hidden": {"choice": [16, 32], "when": {"model.layers": [1, 2]}},
    "optimizer.lr": {"loguniform": [1e-4, 1e-1]},
    "optimizer.beta1": {"quniform": [0.5, 0.9, 0.1]},
    "optimizer.weight_decay": {"uniform": [0, 0.5]},
}


def config(**changes: Any) -> SweepConfig:
    return validate({"name": "s", "train": {}, "space": SPACE, "trials": 20, **changes}, SweepConfig)


@pytest.mark.parametrize("algorithm", ["random", "tpe"])
def test_samples_stay_in_their_ranges_and_conditions_hold(algorithm: str) -> None:
    asked = Random(config(), {}) if algorithm == "random" else Optuna(config(), {}, {"loss": "min"}, None, [])
    seen = [asked.ask(number) for number in range(60)]
    for params in seen:
        assert params is not None
        assert params["model.layers"] in (0, 1, 2)
        assert ("model.hidden" in params) == (params["model.layers"] > 0)
        assert 1e-4 <= params["optimizer.lr"] <= 1e-1
        assert min(abs(params["optimizer.beta1"] - step) for step in (0.5, 0.6, 0.7, 0.8, 0.9)) < 1e-9
        assert 0 <= params["optimizer.weight_decay"] <= 0.5
    assert {params["model.layers"] for params in seen if params} == {0, 1, 2}
    below = sum(params["optimizer.lr"] < 10**-2.5 for params in seen if params)
    assert 15 <= below <= 45, "uniform on a logarithmic scale"


def test_random_trials_do_not_depend_on_the_order_of_requests() -> None:
    first, again, other = (Random(config(seed=seed), {}) for seed in (1, 1, 2))
    assert [first.ask(n) for n in range(5)] == [again.ask(n) for n in reversed(range(5))][::-1]
    assert first.ask(0) != other.ask(0)


def test_a_grid_has_each_combination_once_with_conditions_too() -> None:
    space = {"a": {"integer": [0, 2]}, "b": {"choice": ["x", "y"], "when": {"a": [1, 2]}}, "c": {"quniform": [0, 1, 0.5]}}
    grid = Grid(config(space=space, algorithm="grid"), {})
    points: list[dict[str, Any]] = []
    while (point := grid.ask(len(points))) is not None:
        points.append(point)
    assert len(points) == (1 + 2 * 2) * 3
    assert len({tuple(sorted(point.items())) for point in points}) == len(points)
    assert all(("b" in point) == (point["a"] > 0) for point in points)
    assert points[:3] == [{"a": 0, "c": 0.0}, {"a": 0, "c": 0.5}, {"a": 0, "c": 1.0}]


def test_a_condition_can_depend_on_a_key_that_is_not_searched() -> None:
    space = {"b": Parameter(choice=[1, 2], when={"model.kind": "big"})}
    assert sample(space, {"model": {"kind": "big"}}, lambda name, _: 1) == {"b": 1}
    assert sample(space, {"model": {"kind": "small"}}, lambda name, _: 1) == {}


def test_nested_and_dotted_spaces_are_the_same() -> None:
    nested = {"optimizer": {"lr": {"uniform": [0, 1]}}, "model": {"a": {"b": {"choice": [1]}}}}
    assert flatten(nested) == {"optimizer.lr": {"uniform": [0, 1]}, "model.a.b": {"choice": [1]}}
    assert flatten(flatten(nested)) == flatten(nested)


def test_assign_changes_a_copy() -> None:
    base = {"optimizer": {"lr": 1, "beta1": 2}, "seed": 0}
    assert assign(base, {"optimizer.lr": 3, "model.hidden": 4}) == {
        "optimizer": {"lr": 3, "beta1": 2}, "seed": 0, "model": {"hidden": 4},
    }  # fmt: skip
    assert base == {"optimizer": {"lr": 1, "beta1": 2}, "seed": 0}


@pytest.mark.parametrize(
    ("parameter", "says"),
    [
        ({"uniform": [1, 0.1]}, r"uniform is \[1.0, 0.1\], an empty range\n  fix: write uniform: \[0.1, 1.0\]"),
        ({"integer": [3, 3]}, "an empty range"),
        ({"loguniform": [0, 1]}, "a logarithm needs numbers above 0"),
        ({"quniform": [0, 1, 2]}, "whose step does not fit"),
        ({"integer": [8, 64, 0]}, "whose step does not fit"),
        ({"logint": [0, 8]}, "a logarithm needs numbers above 0; raise the low end, or use integer".replace("; ", "\n  fix: ")),
        ({"choice": []}, "choice is"),
        ({"choice": [1, 1]}, "a value twice"),
        ({}, "has no kind, but needs exactly one of choice"),
        ({"uniform": [0, 1], "choice": [1]}, "has choice and uniform"),
        ({"choise": [1]}, "did you mean choice"),
    ],
)
def test_a_wrong_parameter_is_named_with_its_fix(parameter: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        config(space={"optimizer.lr": parameter})
    assert "space.optimizer.lr" in str(caught.value)


def test_a_range_of_many_steps_is_drawn_from_as_its_list_of_values_is() -> None:
    values = Parameter(quniform=[0.5, 0.9, 0.1]).values or []
    assert list(values) == [0.5, 0.6, 0.7, 0.8, 0.9]
    assert (values[-1], values[1:3], values.index(0.6)) == (0.9, [0.6, 0.7], 1)
    few, many = Parameter(quniform=[0, 1, 0.01]), Parameter(quniform=[0, 0.9, 1e-9])
    assert [draw(few, random.Random(seed)) for seed in range(20)] == [
        random.Random(seed).choice([n / 100 for n in range(101)]) for seed in range(20)
    ]
    assert all(0 <= draw(many, random.Random(seed)) <= 0.9 for seed in range(200))


@pytest.mark.parametrize("algorithm", ["random", "tpe", "cmaes"])
@pytest.mark.filterwarnings("error")
def test_steps_that_do_not_divide_a_range_are_those_of_a_decimal_ruler(algorithm: str) -> None:
    settings = config(space={"optimizer.weight_decay": {"quniform": [0.1, 1, 0.2]}}, algorithm=algorithm, scheduler="none")
    search = Random(settings, {}) if algorithm == "random" else Optuna(settings, {}, {"loss": "min"}, None, [])
    assert {search.ask(number)["optimizer.weight_decay"] for number in range(60)} <= {0.1, 0.3, 0.5, 0.7, 0.9}


@pytest.mark.parametrize("algorithm", ["random", "tpe", "cmaes"])
def test_whole_numbers_have_a_step_and_a_logarithmic_scale(algorithm: str) -> None:
    space = {"a": {"integer": [8, 60, 8]}, "b": {"logint": [1, 1000]}, "c": {"quniform": [8, 64, 8]}}
    whole = config(space=space, algorithm=algorithm)
    search = Random(whole, {}) if algorithm == "random" else Optuna(whole, {}, {"loss": "min"}, None, [])
    seen = [search.ask(number) or {} for number in range(60)]
    assert {type(value) for params in seen for value in params.values()} == {int}
    assert {params["a"] for params in seen} <= {8, 16, 24, 32, 40, 48, 56}
    assert {params["c"] % 8 for params in seen} == {0}
    assert all(1 <= params["b"] <= 1000 for params in seen)
    assert algorithm == "cmaes" or 15 <= sum(params["b"] <= 31 for params in seen) <= 45, "half of the scale"
    points = Grid(config(space={"a": space["a"], "c": {"quniform": [0, 20, 10]}}, algorithm="grid"), {})
    assert [points.ask(number) for number in (0, 1)] == [{"a": 8, "c": 0}, {"a": 8, "c": 10}]


IMAGES = {"task": "image-classification", "dataset": {"source": "digits"}, "epochs": 1}


@pytest.mark.parametrize(
    ("space", "train", "says"),
    [
        ({"model.width": {"integer": [8, 64]}}, {}, "set space.model.width to {integer: [8, 64, 8]}"),
        ({"model.width": {"logint": [8, 64]}}, {}, "such as model.width"),
        (
            {"model.width": {"integer": [8, 64], "when": {"model.stages": [2]}}, "model.stages": {"choice": [2]}},
            {},
            "set space.model.width to {integer: [8, 64, 8], when: {model.stages: [2]}}",
        ),
        ({"global_batch": {"integer": [12, 36]}}, {"workers": 3}, "set space.global_batch to {integer: [12, 36, 3]}"),
        (
            {"global_batch": {"integer": [70, 201]}, "workers": {"integer": [2, 40]}},
            {},
            "narrow the space to values that fit together",
        ),
    ],
)
def test_a_space_of_mostly_impossible_trials_is_refused_with_its_fix(
    tmp_path: Path, space: dict[str, Any], train: dict[str, Any], says: str
) -> None:
    train = {**IMAGES, **train, "global_batch": 2520, "storage": str(tmp_path)}
    with pytest.raises(UserError, match=r"space: most trials are impossible, .* points tried, such as") as caught:
        plan_sweep(config(space=space, train=train))
    assert says in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("kind", "whole"), [("uniform", "integer"), ("loguniform", "logint")])
def test_a_whole_number_is_searched_in_whole_numbers(tmp_path: Path, kind: str, whole: str) -> None:
    space = {"model.stages": {kind: [1, 4]}}
    with pytest.raises(UserError, match=r"space.model.stages has 1.0: .* must be a whole number") as caught:
        plan_sweep(config(space=space, train={**IMAGES, "storage": str(tmp_path)}))
    assert caught.value.fix == f"set space.model.stages to {{{whole}: [1, 4]}}"


def test_the_preview_counts_the_impossible_trials_of_a_space(tmp_path: Path) -> None:
    space = {"model.width": {"integer": [8, 64, 4]}, "optimizer.lr": {"uniform": [1e-4, 1]}}
    shown = preview(plan_sweep(config(space=space, train={**IMAGES, "storage": str(tmp_path)}, algorithm="random")))
    found, line = shown["impossible"], shown["says"]["impossible"]
    assert found["tried"] == 200
    assert 60 < found["impossible"] <= 100
    assert f"{found['impossible']} of 200 points tried" in line
    assert "must be a multiple of 8; set space.model.width to {integer: [8, 64, 8]}" in line
    assert line.startswith(f"{sum(params['model.width'] % 8 > 0 for params in shown['first_trials'])} of 5 trials shown")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"space": {}}, "space is empty"),
        ({"trials": None}, "needs a limit: trials, seconds or budget"),
        ({"algorithm": "grid"}, "which has infinitely many values, but algorithm grid needs finitely many"),
        ({"algorithm": "cmaes"}, "algorithm cmaes searches only unconditional numbers"),
        ({"metric": {"loss": "min", "seconds": "min"}}, "set scheduler: none"),
        ({"metric": {"loss": "min"}, "mode": "min"}, "metric includes its modes"),
        ({"algorithm": "bohb"}, "set scheduler: hyperband"),
        ({"scheduler": "pbt"}, "set algorithm: random"),
        ({"scheduler": {"kind": "asha", "reduction": 1}}, "scheduler.reduction is 1"),
        ({"concurrency": 0}, "concurrency is 0"),
    ],
)
def test_contradictory_settings_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        config(**changes)


def test_conditions_are_checked() -> None:
    space = {"a": Parameter(choice=[1, 2]), "b": Parameter(choice=[1], when={"a": 3})}
    with pytest.raises(UserError, match=r"needs a to be 3, but its values are those of choice: \[1, 2\]"):
        check_conditions(space, {})
    typed = {"a": space["a"], "b": Parameter(choice=[1], when={"a": [1, "2"]})}
    with pytest.raises(UserError, match="needs a to be '2', but its values"):
        check_conditions(typed, {})
    between = {"a": Parameter(loguniform=[1e-4, 1e-1]), "b": Parameter(choice=[1], when={"a": 0.01})}
    with pytest.raises(UserError, match=r"needs a to be 0\.01: a number of a range never is"):
        check_conditions(between, {})
    with pytest.raises(UserError, match=r"depends on aa, which the config does not set\n  fix: did you mean a\?"):
        check_conditions({"a": space["a"], "b": Parameter(choice=[1], when={"aa": 1})}, {})
    circle = {"a": Parameter(choice=[1], when={"b": 1}), "b": Parameter(choice=[1], when={"a": 1})}
    with pytest.raises(UserError, match="depend on each other"):
        check_conditions(circle, {})


def test_a_perturbed_value_is_near_and_in_range() -> None:
    source = random.Random(0)
    lr = Parameter(loguniform=[1e-4, 1e-1])
    assert {round(perturbed(lr, 0.01, source), 6) for _ in range(20)} == {0.008, 0.0125}
    assert perturbed(lr, 1e-4, source) >= 1e-4
    assert {perturbed(Parameter(choice=[1, 2, 4, 8]), 4, source) for _ in range(20)} == {2, 8}
    assert {perturbed(Parameter(logint=[1, 100]), 1, source) for _ in range(20)} == {1, 2}
    assert {perturbed(Parameter(logint=[1, 100]), 50, source) for _ in range(20)} == {40, 62}
    assert draw(Parameter(integer=[2, 2 + 1]), source) in (2, 3)


def ended(number: int, params: dict[str, Any], value: float) -> Trial:
    return Trial(number, params, state="finished", values={"loss": value})


@pytest.mark.parametrize("algorithm", ["tpe", "cmaes"])
def test_outcomes_guide_the_search(algorithm: str) -> None:
    space = {"optimizer.lr": {"uniform": [0, 1]}, "optimizer.beta1": {"uniform": [0, 0.99]}}
    search = Optuna(config(space=space, algorithm=algorithm), {}, {"loss": "min"}, None, [])
    for number in range(60):
        params = search.ask(number)
        search.tell(ended(number, params, (params["optimizer.lr"] - 0.3) ** 2))
    late = [search.ask(number)["optimizer.lr"] for number in range(60, 70)]
    assert sum(abs(lr - 0.3) < 0.15 for lr in late) >= 7


@pytest.mark.parametrize("state", ["diverged", "failed", "finished"])
@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("objectives", [{"loss": "min"}, {"loss": "min", "seconds": "min"}])
def test_trials_without_a_value_count_as_the_worst(state: str, resumed: bool, objectives: dict[str, Mode]) -> None:
    """Of six decades of learning rates, those above 0.1 diverge; ``finished`` is a trial whose metric is NaN."""
    settings = config(space={"optimizer.lr": {"loguniform": [1e-4, 1e2]}}, scheduler="none")
    search, trials = Optuna(settings, {}, objectives, None, []), Trials()
    for number in range(60):
        if resumed and number == 30:
            search = Optuna(settings, {}, objectives, None, trials.all)
        trial = Trial(number, search.ask(number), state=state)
        if trial.params["optimizer.lr"] < 0.1:
            value = (math.log10(trial.params["optimizer.lr"]) + 1.5) ** 2
            trial = Trial(number, trial.params, state="finished", values=dict.fromkeys(objectives, value))
        trials.all.append(trial)
        search.tell(trial)
    assert sum(trial.params["optimizer.lr"] >= 0.1 for trial in trials.all[-30:]) < 15


def test_a_resumed_search_knows_the_earlier_trials(tmp_path: Any) -> None:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    from heliostat.folder import Folder

    space = {"optimizer.lr": {"uniform": [0, 1]}, "model.hidden": {"choice": [16, 32], "when": {"optimizer.lr": 0.5}}}
    trials = Trials()
    for number in range(30):
        trials.all.append(ended(number, {"optimizer.lr": number / 30}, (number / 30 - 0.3) ** 2))
    trials.all.append(Trial(30, {"optimizer.lr": 0.31}, state="waiting"))
    search = Optuna(config(space=space), {}, {"loss": "min"}, Folder.at(tmp_path), trials.all)
    assert sum(abs(search.ask(number)["optimizer.lr"] - 0.3) < 0.2 for number in range(31, 41)) >= 7
    search.tell(ended(30, {"optimizer.lr": 0.31}, -1.0))
    study = optuna.load_study(
        study_name="s", storage=optuna.storages.JournalStorage(JournalFileBackend(str(tmp_path / "optuna.log")))
    )
    assert study.best_trial.params == {"optimizer.lr": 0.31}, "what optuna-dashboard shows"
    assert len(study.trials) == 41
