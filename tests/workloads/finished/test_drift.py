"""Drift: what a service keeps of its rows is bounded and private, and only what chance does not explain is drift."""

import shutil
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from heliostat.cli import main
from heliostat.errors import UserError
from heliostat.workloads.registry import drift
from heliostat.workloads.registry.registry import Registry
from heliostat.workloads.registry.then import follow
from heliostat.workloads.serve import sample
from heliostat.workloads.serve.sample import Sample, folder_of, read
from heliostat.workloads.serve.servable import Servable
from heliostat.workloads.serve.sources import ModelSource
from heliostat.workloads.then_config import Then
from tests.workloads.training.test_loop import config, train


def test_the_index_is_that_of_its_formula() -> None:
    new, old = np.array([200, 800]), np.array([500, 500])
    assert drift.psi(new, old) == pytest.approx(0.3 * np.log(5 / 2) + 0.3 * np.log(8 / 5), abs=2e-3)
    assert drift.psi(old, old) == 0
    quantiles = {(1, 0.05): 3.8415, (1, 1e-5): 19.5114, (2, 0.001): 13.8155, (3, 1e-5): 25.9017, (9, 0.05): 16.919}
    for (degrees, level), wanted in quantiles.items():  # of chi-squared
        found = 1000 * drift.by_chance(degrees + 1, 1000, 10**12, level)
        assert found == pytest.approx(wanted, rel=1e-4 if degrees < 3 else 0.06)


@pytest.mark.parametrize("kind", ["numbers", "few numbers", "codes"])
def test_chance_is_no_drift_and_a_shift_is(kind: str) -> None:
    random = np.random.default_rng(0)

    def drawn(rows: int, shift: float = 0.0) -> Any:
        if kind == "codes":
            return random.choice(4, rows, p=np.array([0.4 - shift / 3, 0.3, 0.2, 0.1 + shift / 3]))
        numbers = random.normal(size=rows) + shift
        return (numbers if kind == "numbers" else numbers.round()).astype(np.float32)

    def passed(rows: int, shift: float) -> float:
        shifts = [drift._shift("a", drawn(rows, shift), drawn(2000), 0.1, 0.001) for _ in range(100)]
        return sum(each.drifted for each in shifts) / 100

    assert passed(40, 0) <= 0.03
    assert passed(1000, 0) == 0
    assert passed(1000, 0.9) == 1


def test_missing_and_unknown_values_and_those_below_all_others_have_bins_of_their_own() -> None:
    old = np.array([*range(1, 9), *[np.nan] * 2], np.float32)
    new, known = drift.counted(np.array([-5, np.nan, 3], np.float32), old)
    assert known.sum() == 10
    assert (new[0], known[0]) == (1, 0), "-5 is below all"
    assert (new[-1], known[-1]) == (1, 2), "missing"
    new, known = drift.counted(np.array([-2, -2, 1]), np.array([0] * 60 + [1] * 40))
    assert known.tolist() == [60, 40, 0], "the last has what is unknown"
    assert new.tolist() == [0, 1, 2]


def test_a_shift_among_categories_of_which_each_is_rare_is_drift() -> None:
    random = np.random.default_rng(0)
    old = random.integers(0, 150, 20_000)

    def drifted(new: Any) -> bool:
        return drift._shift("city", new, old, 0.1, 0.001).drifted

    for value in (-2, -1, 7):  # all unknown, all missing, all the same
        assert drifted(np.full(1000, value))
    assert drifted(random.integers(0, 75, 1000))
    assert not any(drifted(random.integers(0, 150, rows)) for rows in (100, 1000) for _ in range(50))


def model(folder: str, *columns: str) -> Servable:
    """A version of a model of the registry."""
    signature = {"columns": [{"name": name, "source": None} for name in columns]}
    return Servable("shop", "1", f"s3://runs/models/shop/versions/{folder}", signature, lambda arrays: arrays)


def test_the_files_of_a_sample_are_bounded_private_and_readable_after_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sample, "BYTES", 2000)
    kept = Sample(tmp_path / "rows", 1.0)
    for number in range(200):
        kept.add(model("2-b" if number % 2 else "1-a", "a"), [{"a": number}], [{"prediction": "yes"}])
    files = [*(tmp_path / "rows").iterdir()]
    assert len(files) == 2
    assert sum(path.stat().st_size for path in files) <= 4000
    assert stat.S_IMODE((tmp_path / "rows").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    with (tmp_path / "rows" / sample.FILE).open("a") as file:
        file.write('{"time": 1, "vers')
    rows = read(tmp_path / "rows", "2-b", 5)
    assert [each.row["a"] for each in rows] == [191, 193, 195, 197, 199]
    assert {each.prediction["prediction"] for each in rows} == {"yes"}
    with pytest.raises(UserError, match="start the service with --sample"):
        read(tmp_path / "none", "2-b", 5)
    with monkeypatch.context() as patch:
        patch.setattr(kept, "shouldRollover", lambda record: 1 / 0)
        for _ in range(2):
            kept.add(model("1-a", "a"), [{"a": 1}], [{"a": 1}])
    assert capsys.readouterr().err.count("rows are not kept in") == 1, "and the answers are not lost"
    none = Sample(tmp_path / "none", 0.0)
    none.add(model("1-a", "a"), [{"a": 1}], [{}])
    assert (tmp_path / "none" / sample.FILE).read_text() == ""


def test_a_sample_goes_on_after_its_folder_was_deleted_and_after_a_full_disk_has_closed_its_file(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir(mode=0o755)
    kept = Sample(folder, 1.0)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700, "also if it was there"
    for number in range(3):
        kept.add(model("1-a", "a"), [{"a": number}], [{"prediction": "yes"}])
        if number == 0:
            shutil.rmtree(folder)
        else:
            cast(Any, kept.stream).close()
    assert [each.row["a"] for each in read(folder, "1-a", 5)] == [1, 2]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_no_row_is_missed_or_read_twice_while_the_newer_file_takes_the_place_of_the_older(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer, older = tmp_path / sample.FILE, tmp_path / f"{sample.FILE}.1"
    kept = Sample(tmp_path, 1.0)
    kept.add(model("1-a", "a"), [{"a": 1}, {"a": 2}], [{"prediction": "yes"}] * 2)
    open_ = Path.open

    def renamed(path: Path, mode: str) -> Any:
        file = open_(path, mode)
        if path == newer:
            newer.rename(older)
        return file

    monkeypatch.setattr(Path, "open", renamed)
    assert [each.row["a"] for each in read(tmp_path, "1-a", 5)] == [1, 2]
    assert [each.row["a"] for each in read(tmp_path, "1-a", 5)] == [1, 2], "and while there is no newer one"


def test_a_sample_has_no_columns_that_the_model_does_not_take(tmp_path: Path) -> None:
    rows = [{"a": 1, "email": "anna@x.org", "bought": "no"}]
    Sample(tmp_path, 1.0).add(model("1-a", "a"), rows, [{"prediction": "yes"}])
    assert [each.row for each in read(tmp_path, "1-a", 5)] == [{"a": 1}]


def test_the_sample_of_a_service_shows_which_columns_have_drifted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)

    def drawn(rows: int, shift: float) -> list[dict[str, Any]]:
        a, countries = random.normal(size=rows) + shift, random.choice(["de", "fr"], rows)
        return [{"a": round(float(x), 4), "country": str(c)} for x, c in zip(a, countries, strict=True)]

    lines = [f"{row['a']},{row['country']},{'yes' if row['a'] > 0 else 'no'}" for row in drawn(800, 0)]
    Path("shop.csv").write_text("\n".join(["a,country,bought", *lines]))
    data = {"source": "table", "options": {"path": str(tmp_path / "shop.csv"), "target": "bought"}}
    train(config(
        tmp_path / "runs", name="shop", task="gradient-boosting", model={}, global_batch=64, steps=2, evaluate_every=2,
        checkpoint_every=2, dataset=data,
    ))  # fmt: skip
    registry = Registry(tmp_path / "runs")
    follow(registry, str(tmp_path / "runs" / "shop"), "shop", Then())
    _, served = ModelSource(registry, "shop").load()
    of_another_storage = replace(served, source="elsewhere/models/shop/versions/1-0123456789abcdef")

    def keep(by: Servable, rows: list[dict[str, Any]]) -> None:
        codec = served.codec
        assert codec
        kept.add(by, rows, codec.name(codec.compute(codec.encode(rows))))

    assert main(["model", "drift", "shop"]) == 2, "the service has kept nothing"
    folder_of("shop").write_text("a file")
    assert main(["serve", "shop@champion", "--port", "0", "--sample", "0.1"]) == 2
    assert main(["model", "drift", "shop"]) == 2
    err = capsys.readouterr().err
    assert (err.count("rows cannot be kept in"), err.count("there are no rows in")) == (1, 2)
    folder_of("shop").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(ModelSource, "load", lambda source: ("1", replace(served, codec=None)))
        assert main(["serve", "shop@champion", "--port", "0", "--sample", "0.1"]) == 2
    assert "--sample keeps rows of a table, and shop takes none" in capsys.readouterr().err
    kept = Sample(folder_of("shop"), 1.0)
    arguments = ["train", "--in-process", "--if-drift", *(f"--set={each}" for each in ("name=shop", "then=[gate]", "steps=2"))]
    Path("train.yaml").write_text(f"task: gradient-boosting\ndataset: {data}\n")
    keep(of_another_storage, drawn(300, 3.0))
    capsys.readouterr()
    assert main(["model", "drift", "shop"]) == 2, "none of them is of this version"
    assert main(arguments) == 0, "and a schedule goes on"
    assert capsys.readouterr().out.count("nothing can be said yet") == 2
    keep(served, drawn(299, 0))
    keep(served, [{"a": True, "country": "de"}])  # of another client: a number, but as a text beside others none
    assert main(["model", "drift", "shop"]) == 0
    assert "shop@1 has not drifted (300 rows" in capsys.readouterr().out
    assert main(arguments) == 0
    assert "shop@1 has not drifted" in capsys.readouterr().out
    keep(served, drawn(300, 1.5))
    assert main(["model", "drift", "shop", "--rows", "300"]) == 1
    out = capsys.readouterr().out
    assert "shop@1 has drifted: a, p" in out
    assert "country" not in out.split("(")[0]
    assert main(["model", "drift", "shop", "--rows", "300", "--threshold", "90"]) == 0
    assert main(["model", "drift", "shop", "--ignore", "countri"]) == 2
    assert "did you mean country?" in capsys.readouterr().err
    assert main(arguments) == 1, "it has drifted, and there is nothing new to train on"
    assert "but there is no new data" in capsys.readouterr().err
