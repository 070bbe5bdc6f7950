"""The gate: what may replace a champion is decided on rows that neither has learnt from, and by more than chance."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from heliostat.cli import main
from heliostat.datasets import Dataset
from heliostat.datasets.build import build
from heliostat.datasets.decoding import decode
from heliostat.datasets.signature import UNKNOWN
from heliostat.datasets.sources import open_source
from heliostat.errors import UserError
from heliostat.workloads.registry.gate import statistics
from heliostat.workloads.registry.gate.rows import chunks, translation, unseen
from heliostat.workloads.registry.gate.statistics import holm, mcnemar, of_decisions, of_resamples, rows_needed
from heliostat.workloads.tabular.metrics import class_formulas
from tests.workloads.training.test_loop import config, train


def test_the_exact_test_counts_wins_and_losses_alone() -> None:
    assert mcnemar(8, 2) == pytest.approx(56 / 1024)
    assert mcnemar(0, 5) == 1.0
    assert mcnemar(5, 0) == 1 / 32
    assert mcnemar(0, 0) == 1.0
    assert 0.47 < mcnemar(50_000, 50_000) < 0.51


def test_holm_corrects_for_the_number_of_tests() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_margin_passes_an_equal_model_if_there_are_rows_enough() -> None:
    """Of models that decide alike the statistic of Tango (1998) is -sqrt(n m / (1 - m)), from 381 rows on below -1.96."""
    for rows, shown in ((380, False), (381, True)):
        same = np.ones(rows, bool)
        assert (of_decisions(same, same, margin=0.01).p_better <= statistics.ALPHA) == shown
        assert of_decisions(same, same).p_better == 1.0
    right = np.arange(1000) >= 100
    worse = np.arange(1000) >= 150
    found = of_decisions(worse, right, margin=0.01)
    assert found.p_worse < 1e-4
    assert found.gain == pytest.approx(-0.05)
    assert found.low < -0.05 < found.high


def test_it_says_how_many_rows_would_decide() -> None:
    random = np.random.default_rng(0)
    champion = random.random(300) < 0.9
    candidate = champion.copy()
    candidate[np.flatnonzero(~champion)[:6]] = True
    candidate[np.flatnonzero(champion)[:3]] = False
    found = of_decisions(candidate, champion)
    assert found.p_better > statistics.ALPHA
    needed = rows_needed(found, 0.0)
    assert needed is not None
    assert 2000 < needed < 3000  # (1.960 + 0.842)^2 * (0.03 - 0.01^2) / 0.01^2
    assert rows_needed(of_decisions(champion, candidate), 0.0) is None


def simulated(random: np.random.Generator, rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two models that are equally good: the same score, each with a noise of its own; and the truth."""
    score = random.normal(size=rows)
    truth = (random.random(rows) < 1 / (1 + np.exp(-2 * score))).astype(np.int64)
    both = []
    for _ in range(2):
        chance = 1 / (1 + np.exp(-(2 * score + 0.5 * random.normal(size=rows))))
        both.append(torch.from_numpy(np.stack([1 - chance, chance], 1)))
    return both[0], both[1], torch.from_numpy(truth)


def false_promotions(metric: str, rows: int, times: int, seed: int) -> int:
    """How often one of two equal models is promoted."""
    random, promoted = np.random.default_rng(seed), 0
    for _ in range(times):
        candidate, champion, truth = simulated(random, rows)
        if metric == "accuracy":
            found: Any = of_decisions((candidate.argmax(1) == truth).numpy(), (champion.argmax(1) == truth).numpy())
        else:
            part, whole = class_formulas(2, 1)[metric]

            def value(answer: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
                made = part(answer, truth, weights)  # noqa: B023
                return whole(made) if whole else made  # noqa: B023

            higher = metric != "log_loss"
            found = of_resamples(lambda w: value(candidate, w), lambda w: value(champion, w), rows, higher)  # noqa: B023
        promoted += found.p_better <= statistics.ALPHA
    return promoted


@pytest.mark.parametrize(("metric", "times"), [("accuracy", 300), ("log_loss", 40)])
def test_at_most_one_equal_model_in_twenty_is_promoted(metric: str, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """``python -m tests.benchmarks.gate`` simulates 1,000 of each; the seed is fixed."""
    monkeypatch.setattr(statistics, "RESAMPLES", 400)
    assert false_promotions(metric, 200, times, seed=1) <= times / 20


def dataset(folder: Path, name: str, rows: list[str], **options: Any) -> Dataset:
    """A dataset of rows ``age,colour,day,left``, of which the colours are those that it lists."""
    (folder / f"{name}.csv").write_text("\n".join(["age,colour,day,left", *rows]))
    source = open_source("table", {"path": str(folder / f"{name}.csv"), "target": "left", **options})
    return build(source, str(folder / name))


def people(year: int, count: int, colours: tuple[str, ...]) -> list[str]:
    return [
        f"{1e9 * (year - 1999) + row},{colours[row % len(colours)]},{year}-{row % 12 + 1:02}-{row % 28 + 1:02},{'yn'[row % 2]}"
        for row in range(count)
    ]


def test_a_row_is_recognized_in_another_dataset_and_translated_for_its_model(tmp_path: Path) -> None:
    """The datasets list other colours, in another order, and have other offsets."""
    before = people(2000, 200, ("red", "green", "blue"))
    old = dataset(tmp_path, "old", before)
    new = dataset(tmp_path, "new", [*people(2003, 300, ("pink", "green", "red")), *before[:100]], split={"by": "stratified"})
    one, two = new.index.signature, old.index.signature
    assert one is not None
    assert two is not None
    assert one.columns[0].offset != two.columns[0].offset
    assert set(one.columns[1].categories) != set(two.columns[1].categories)

    def days(of: Dataset, splits: tuple[str, ...]) -> set[str]:
        signature = of.index.signature
        assert signature is not None
        return {row["day"] for split in splits for _, arrays in chunks(of, split) for row in decode(signature, arrays)}

    left = unseen(new, [new, old])
    took = new.take("test", left)
    kept = {row["day"] for row in decode(one, took)}
    learnt = days(old, ("train", "validation")) | days(new, ("train", "validation"))
    assert kept == days(new, ("test",)) - learnt
    assert any(day.startswith("2000") for day in days(new, ("test",)) & learnt), "some were left out"
    translate = translation(new.index, old.index, ["features", "categories"])
    _, good = translate(took)
    np.testing.assert_array_equal(good, took["categories"][:, 0] != UNKNOWN, "blue is not listed by the new one")
    raw = pa.table({"age": ["1000000007"], "colour": ["green"], "day": ["2001-03-04"]})
    mine, theirs = (each.encode(raw)[0] for each in (one, two))
    found, _ = translate(mine)
    np.testing.assert_array_equal(found["categories"], theirs["categories"])
    np.testing.assert_allclose(found["features"], theirs["features"], rtol=1e-6, atol=300)  # float32 of a billion


def test_rows_that_the_champion_cannot_take_are_refused(tmp_path: Path) -> None:
    old, new = (
        dataset(tmp_path, name, people(2000, 60, ("red", "green")), drop=drop) for name, drop in (("o", []), ("n", ["age"]))
    )
    with pytest.raises(UserError, match=r"the champion cannot take the rows .* which differ in column 'age'"):
        translation(new.index, old.index, ["features", "categories"])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs ``weak`` of one round and ``good``, which has other splits of the same table and has learnt from ``weak``'s test."""
    place = tmp_path_factory.mktemp("gate")
    random = np.random.default_rng(0)
    numbers, countries = random.normal(size=(1200, 2)), random.choice(["de", "fr"], 1200)
    bought = np.where(numbers[:, 0] + (countries == "fr") + 0.5 * random.normal(size=1200) > 0.5, "yes", "no")
    rows = [f"{a:.4f},{b:.4f},{c},{y}" for (a, b), c, y in zip(numbers, countries, bought, strict=True)]
    (place / "shop.csv").write_text("\n".join(["a,b,country,bought", *rows]))
    few, many = (0.7, 0.1, 0.2), (0.4, 0.1, 0.5)
    for name, steps, shares, target in (
        ("weak", 1, few, "bought"), ("good", 40, many, "bought"), ("other", 1, few, "country"),
    ):  # fmt: skip
        split = {"shares": dict(zip(("train", "validation", "test"), shares, strict=True))}
        options = {"path": str(place / "shop.csv"), "target": target, "split": split}
        train(config(
            place, name=name, task="gradient-boosting", model={}, global_batch=64, steps=steps, evaluate_every=steps,
            checkpoint_every=steps, log_every=steps, dataset={"source": "table", "options": options},
        ))  # fmt: skip
    return place


def test_a_better_model_passes_and_a_worse_one_does_not(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def heliostat(*words: str) -> tuple[int, str, str]:
        code = main(["model", *words, "--storage", str(runs)])
        return code, *capsys.readouterr()

    assert heliostat("gate", "good", "--name", "shop")[0] == 2, "there is no such model"
    assert heliostat("add", "weak", "--name", "shop", "--alias", "champion")[0] == 0
    for word in ("add", "gate"):
        code, _, err = heliostat(word, "other", "--name", "shop")
        assert (code, "run other predicts 'country' (de, fr), but model shop@1 'bought' (no, yes)" in err) == (2, True), err
    page = runs / "pages" / "gate.md"
    code, out, _ = heliostat("gate", "good", "--name", "shop", "--by", "country", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["verdict"] == "better"
    rows = found["rows"]
    assert rows["test"] > rows["used"] > 200
    assert rows["used"] + rows["learnt_from"] == rows["test"], "the rows that weak has trained on do not count"
    assert {"calibration error", "country = fr", "country = de"} < {check["check"] for check in found["checks"]}
    assert heliostat("add", "good", "--name", "shop", "--alias", "candidate")[0] == 0
    assert heliostat("promote", "shop", "--expect", "1", "--why", "the gate has passed")[0] == 0
    code, out, _ = heliostat("gate", "weak", "--name", "shop", "--markdown", str(page))
    assert code == 1
    assert "gate not passed: weak (step 1) against shop@2" in out
    assert "the candidate is worse" in page.read_text()
    _, out, _ = heliostat("list", "shop")
    assert "the gate has passed" in out
    assert heliostat("rollback", "shop")[0] == 0
    _, out, _ = heliostat("diff", "shop@champion", "shop@2")
    assert "steps: 1 -> 40" in out
    assert "rows.test:" in out


def test_terms_that_make_no_sense_are_refused_together(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, says in (
        (["--margin", "-1", "--slower", "0"], ["--margin is -1", "--slower is 0"]),
        (
            ["--by", "town", "--by", "contry"],
            ["--by has 'town'", "--by has 'contry', but the table has no such column: did you"],
        ),
        (["--metric", "accuracy", "--margin", "1"], ["--margin is 1, but accuracy is a share"]),
        (["--metric", "aucc"], ["--metric is 'aucc'", "did you mean auc?"]),
    ):
        assert main(["model", "gate", "good", "--name", "shop", "--storage", str(runs), *words]) == 2
        err = capsys.readouterr().err
        assert all(each in err for each in says), err
