"""What follows a training: each step once, whatever is killed; new data is trained on, and a bad candidate is stopped."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heliostat.cli import main
from heliostat.commands.job.on_cluster import scheduled_command
from heliostat.config import validate
from heliostat.errors import UserError
from heliostat.workloads.config import StartFrom, TrainConfig
from heliostat.workloads.registry import then as steps
from heliostat.workloads.registry.add import add
from heliostat.workloads.registry.gate import gate as gates
from heliostat.workloads.registry.log import Decision
from heliostat.workloads.registry.registry import Moved, Registry
from heliostat.workloads.registry.start import resolved
from heliostat.workloads.then_config import Then
from tests.workloads.training.test_loop import config, train

CONFIG = """
task: gradient-boosting
dataset: {source: table, options: {path: shop.csv, target: bought}}
steps: 4
evaluate_every: 4
then: {steps: [gate, promote], metric: accuracy, margin: 0.05}
"""


def table(seed: int, wrong: bool = False) -> str:
    """800 rows of what was bought, or of the opposite."""
    random = np.random.default_rng(seed)
    a, country = random.normal(size=800), random.choice(["de", "fr"], 800)
    bought = ((a + (country == "fr") + 0.3 * random.normal(size=800) > 0.5) != wrong).tolist()
    rows = [f"{x:.4f},{c},{'yes' if y else 'no'}" for x, c, y in zip(a, country, bought, strict=True)]
    return "\n".join(["a,country,bought", *rows])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("then")
    (place / "shop.csv").write_text(table(0))
    options = {"path": str(place / "shop.csv"), "target": "bought"}
    train(config(
        place, name="a", task="gradient-boosting", model={}, global_batch=64, steps=2, evaluate_every=2, checkpoint_every=2,
        dataset={"source": "table", "options": options},
    ))  # fmt: skip
    return place / "a"


def log_of(registry: Registry, name: str) -> list[tuple[str, int]]:
    return [(entry.what, entry.version) for entry in reversed(registry.history(name))]


class Killed(BaseException):
    """The driver ends here."""


def test_a_killed_driver_continues_at_its_step_and_does_nothing_twice(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, then = Registry(tmp_path), Then(margin=0.1)
    compared: list[str] = []
    whole = cache(gates.gate)

    def killed(*args: Any) -> Any:
        raise Killed

    def gate(*args: Any) -> Any:
        compared.append(args[2])
        return whole(*args)

    steps.follow(registry, str(run), "m", then)
    assert log_of(registry, "m") == [("add", 1), ("gate", 1), ("promote", 1)], "the first one has nothing to be compared with"
    monkeypatch.setattr(steps, "gate", gate)
    monkeypatch.setattr(Registry, "promote", killed)
    again = train(config_of(run, tmp_path, seed=1))
    assert again.state == "finished"
    for step in ("decide", "promote"):
        with monkeypatch.context() as patch:
            patch.setattr(Registry, step, killed)
            with pytest.raises(Killed):
                steps.follow(registry, str(tmp_path / "b"), "m", then)
        assert not steps.is_done(registry, registry.resolve("m@2"), then), "--if-new goes on with it"
    monkeypatch.undo()
    monkeypatch.setattr(steps, "gate", gate)
    done = [("add", 1), ("gate", 1), ("promote", 1), ("add", 2), ("gate", 2), ("promote", 2)]
    for _ in range(2):
        found = steps.follow(registry, str(tmp_path / "b"), "m", then)
        assert (found.version.number, found.champion, found.passed) == (2, True, True)
        assert log_of(registry, "m") == done
        assert steps.is_done(registry, found.version, then)
    assert compared == ["m@1"] * 2, "the comparison that had been recorded is not made again"
    registry.rollback("m")
    found = steps.follow(registry, str(tmp_path / "b"), "m", then)
    assert (found.champion, found.promoted) == (False, True), "what was taken back by hand is not promoted again"


def test_what_a_user_has_decided_by_hand_stays(run: Path, tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    version = add(registry, str(run), "m", alias="champion")
    registry.decide(version, Decision(passed=False, against=None, terms={}), "not good enough")
    found = steps.follow(registry, str(run), "m", Then())
    assert (found.champion, found.passed) == (True, True), "promoted in spite of the gate"
    train(config_of(run, tmp_path, seed=1))
    add(registry, str(tmp_path / "b"), "m", alias="champion")
    registry.rollback("m")
    assert not steps.follow(registry, str(tmp_path / "b"), "m", Then(margin=0.1)).champion


def config_of(run: Path, storage: Path, **changes: Any) -> TrainConfig:
    """The config of a run ``b`` as that of ``run``."""
    options = {"path": str(run.parent / "shop.csv"), "target": "bought"}
    return config(
        storage, name="b", task="gradient-boosting", model={}, global_batch=64, steps=3, evaluate_every=3, checkpoint_every=3,
        dataset={"source": "table", "options": options}, **changes,
    )  # fmt: skip


def test_a_version_is_gated_again_if_the_champion_is_moved_meanwhile(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, promote, calls = Registry(tmp_path), Registry.promote, 0

    def moved(self: Registry, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise Moved("by another", "again")
        return promote(self, *args)

    monkeypatch.setattr(Registry, "promote", moved)
    assert steps.follow(registry, str(run), "m", Then()).champion
    assert calls == 2


def test_start_from_names_a_version_whose_run_is_taken_and_kept(run: Path) -> None:
    registry = Registry(run.parent)
    asked = config(run.parent, name="n", start_from="m@champion", then={"model": "m"})
    first, note = resolved(asked, registry)
    assert (first.start_from, "no champion yet" in note) == (None, True)
    with pytest.raises(UserError, match="model 'o' does not exist"):
        resolved(config(run.parent, name="n", start_from="o@champion", then={"model": "m"}), registry)
    steps.follow(registry, str(run), "m", Then())
    assert resolved(asked, registry)[0].start_from == StartFrom(path=str(run))
    file = config(run.parent, name="n", start_from="w@1.pt")
    assert resolved(file, registry) == (file, "")
    kept = resolved(asked.model_copy(update={"name": "a"}), registry)[0]
    assert kept.start_from is None, "the run a exists, and was started from nothing"


def test_new_data_is_trained_on_and_a_bad_candidate_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shop.yaml").write_text(CONFIG)

    def trained(text: str) -> tuple[int, dict[str, Any]]:
        Path("shop.csv").write_text(text)
        code = main(["train", "shop.yaml", "--in-process", "--if-new", "--json"])
        return code, json.loads(capsys.readouterr().out)

    code, found = trained(table(0))
    assert (code, found["then"]["version"], found["then"]["champion"]) == (0, 1, True)
    code, found = trained(table(0))
    assert (code, found["new"], found["version"]) == (0, False, 1)
    code, found = trained("\n".join([table(0), *table(1, wrong=True).splitlines()[1:]]))
    assert (code, found["then"]["version"], found["then"]["champion"]) == (1, 2, False)
    assert found["name"].startswith("shop-")
    assert found["then"]["gate"]["why"].startswith("By accuracy (higher is better, margin 0.05) the candidate ")
    code, found = trained(table(0))
    assert (code, found["new"], found["version"]) == (0, False, 1), "data that was taken back is not new"
    registry = Registry("runs")
    assert registry.resolve("shop").number == 1
    assert "candidate" not in registry.history("shop")[0].state.aliases, "heliostat model promote shop does not take it"
    assert main(["train", "shop.yaml", "--in-process", "--if-new"]) == 0, "no data, no run"


def test_scheduled_runs_are_named_by_the_time_or_by_their_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So a scheduled run that was killed is continued by the next one, as long as the data is the same."""
    assert scheduled_command("a", ["train", "a.yaml"]) == "train a.yaml --set name=a-$(date +%Y%m%d-%H%M)"
    assert scheduled_command("a", ["train", "a.yaml", "--if-new"]) == "train a.yaml --if-new"
    monkeypatch.chdir(tmp_path)
    cron = ["--on", "gpu", "--cron", "@daily"]
    assert main(["train", "digits", *cron, "--set", "then=[gate]"]) == 2
    assert "then has no model, and each scheduled run has a name of its own" in capsys.readouterr().err
    assert main(["train", "digits", *cron, "--set", "then=[gate]", "--if-drift"]) == 2
    assert "--if-drift reads what a service on this machine has kept" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("then", "says"),
    [
        (["promote"], "only what has passed the gate is promoted"),
        ({"model": "a/b"}, "then.model: 'a/b' cannot be a model's name"),
        ({"against": "newest"}, "then.against: 'newest' is no version"),
        ({"margin": -1}, "then.margin is -1, but must be at least 0"),
    ],
)
def test_steps_that_make_no_sense_are_refused(then: Any, says: str) -> None:
    keys = {"name": "a", "task": "x", "dataset": {"source": "digits"}, "epochs": 1, "then": then}
    with pytest.raises(UserError) as refused:
        validate(keys, TrainConfig)
    assert says in str(refused.value)


def test_columns_that_the_table_does_not_have_are_refused_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shop.yaml").write_text(CONFIG.replace("margin: 0.05", "by: [contry], drift: {ignore: [dat]}"))
    Path("shop.csv").write_text(table(0))
    assert main(["train", "shop.yaml", "--in-process"]) == 2
    err = capsys.readouterr().err
    assert "then.by has 'contry', but the table has no such column" in err
    assert "then.drift.ignore has 'dat'" in err


def test_options_that_exclude_each_other_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "digits", "--if-new", "--dry-run"]) == 2
    err = capsys.readouterr().err
    assert "the config has no then" in err
    assert "--dry-run trains nothing" in err
    assert main(["train", "digits", "--set", "then=[gate]", "--set", "then.against=3", "--in-process"]) == 2
    assert "model 'digits' does not exist" in capsys.readouterr().err
    assert main(["train", "digits", "--set", "then=[gate]", "--set", "then.metric=acuracy", "--in-process"]) == 2
    assert "then.metric is 'acuracy', which no model has\n  fix: did you mean accuracy" in capsys.readouterr().err
    assert not Path("runs").exists()
