"""Each way to split a dataset keeps its promise, for any rows, in any order and any chunks."""

import io
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliostat.config import validate
from heliostat.datasets import Dataset, build
from heliostat.datasets.assignment import assign
from heliostat.datasets.index import SPLITS
from heliostat.datasets.ranks import restored, select, sortable
from heliostat.datasets.sources import Chunk, Source, hashes_of, open_source
from heliostat.datasets.splits import Split, described
from heliostat.errors import UserError

TRAIN, VALIDATION, TEST = range(3)
SEEDS = st.integers(0, 2**32 - 2)


class Rows(Source):
    """Some rows: bytes, values of the column by which they are split, and a target, in chunks of a random number."""

    name = "rows"

    def __init__(self, keys: list[bytes], by: npt.NDArray[Any] | None = None, /, seed: int = 0, **split: Any) -> None:
        super().__init__(None)
        self.split = validate(split, Split, "dataset.options.split")
        self.keys, self.by = keys, by
        self.target: dict[str, npt.NDArray[Any]] = {}
        self._random = np.random.RandomState(seed)

    def chunks(self) -> Iterator[Chunk]:
        start = 0
        while start < len(self.keys):
            stop = start + self._random.randint(1, 60)
            columns = {name: values[start:stop] for name, values in self.target.items()}
            yield Chunk(hashes_of(self.keys[start:stop]), columns, by=None if self.by is None else self.by[start:stop])
            start = stop

    def meta(self) -> dict[str, Any]:
        return {"classes": [f"class {number}" for number in range(max(self.target.get("label", [0])) + 1)]}


def codes(source: Source) -> npt.NDArray[np.uint8]:
    """The split of each row; that they are complete is that the counts of `assign` are those of the rows."""
    kept = io.BytesIO()
    rows, _ = assign(source, kept)
    found = np.frombuffer(kept.getvalue(), np.uint8)
    assert rows == np.bincount(found, minlength=3).tolist()
    assert len(found) == sum(len(chunk.hashes) for chunk in source.chunks())
    return found


def keys(rows: int, different: int, seed: int = 0) -> list[bytes]:
    return [b"%d" % number for number in np.random.RandomState(seed).randint(different, size=rows)]


@given(seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_by_content_equal_rows_stay_together_and_no_row_moves_when_others_are_added(seed: int) -> None:
    rows = keys(600, 300, seed)
    few, many = codes(Rows(rows[:400], seed=seed)), codes(Rows(rows, seed=seed + 1))
    assert (few == many[:400]).all()
    assert len({*zip(rows, many.tolist(), strict=True)}) == len({*rows})


def test_shares_are_what_was_asked_for() -> None:
    rows = [b"%d" % number for number in range(20_000)]
    for shares in ({}, {"train": 0.5, "validation": 0.1, "test": 0.4}):
        found = np.bincount(codes(Rows(rows, shares=shares))) / len(rows)
        assert found == pytest.approx([*({"train": 0.7, "validation": 0.15, "test": 0.15} | shares).values()], abs=0.01)


@given(seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_a_group_is_on_one_side_and_does_not_move_when_others_are_added(seed: int) -> None:
    random = np.random.RandomState(seed)
    groups = random.randint(100, size=500).astype(np.uint64)
    few = codes(Rows(keys(300, 300), groups[:300], seed, by="group", column="patient"))
    many = codes(Rows(keys(500, 500), groups, seed + 1, by="group", column="patient"))
    assert (few == many[:300]).all()
    assert len({*zip(groups, many, strict=True)}) == len({*groups})


TIMES: dict[str, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]] = {
    "numbers": lambda numbers: numbers - 50,
    "floats": lambda numbers: (numbers - 50) / 7,
    "dates": lambda numbers: numbers.astype("datetime64[D]").astype("datetime64[us]"),
}


@given(seed=SEEDS, kind=st.sampled_from([*TIMES]), different=st.sampled_from([3, 4, 10, 10_000]))
@settings(max_examples=50, deadline=None)
def test_by_time_each_split_is_after_the_one_before_and_no_time_is_in_two(seed: int, kind: str, different: int) -> None:
    numbers = np.concatenate([np.arange(3), np.random.RandomState(seed).randint(different, size=400)])
    found = codes(Rows(keys(403, 403), TIMES[kind](numbers), seed, by="time", column="date"))
    parts = [numbers[found == code] for code in range(3)]
    assert parts[TRAIN].max() < parts[VALIDATION].min()
    assert parts[VALIDATION].max() < parts[TEST].min()
    if different == 10_000:
        assert np.abs(np.bincount(found) / 403 - [0.7, 0.15, 0.15]).max() < 0.02


def test_the_first_times_of_validation_and_of_the_test_are_recorded() -> None:
    source = Rows(keys(100, 100), TIMES["dates"](np.arange(100)), by="time", column="date")
    assert assign(source, io.BytesIO())[1] == {"validation_from": "1970-03-12", "test_from": "1970-03-27"}


@given(seed=SEEDS, different=st.sampled_from([3, 50, 10**6]), number=st.booleans(), train=st.sampled_from([0.7, 0.34, 0.9]))
@settings(max_examples=20, deadline=None)
def test_strata_have_their_shares_to_within_a_row_and_by_content(seed: int, different: int, number: bool, train: float) -> None:
    random = np.random.RandomState(seed)
    rows, shares = random.randint(50, 500), {"train": train, "validation": (1 - train) / 2, "test": (1 - train) / 2}
    label = np.concatenate([np.arange(200) % 5, random.choice(5, size=rows, p=[0.6, 0.2, 0.1, 0.05, 0.05])])
    source = Rows(keys(len(label), different, seed), seed=seed, by="stratified", shares=shares)
    source.target = {"target": random.permutation(len(label)) / 7} if number else {"label": label}
    found = codes(source)
    strata = label if not number else np.argsort(np.argsort(source.target["target"])) * 10 // len(label)
    for stratum in range(strata.max() + 1):
        part = found[strata == stratum]
        assert np.abs(np.bincount(part, minlength=3) - len(part) * np.array([*shares.values()])).max() <= 1 + 1e-9
    order = random.permutation(len(label))
    other = Rows([source.keys[at] for at in order], seed=seed + 1, by="stratified", shares=shares)
    other.target = {name: values[order] for name, values in source.target.items()}
    (name, values), again = next(iter(source.target.items())), codes(other)
    assert Counter(zip(source.keys, values, found, strict=True)) == Counter(
        zip(other.keys, other.target[name], again, strict=True)
    )


def test_by_files_what_has_no_files_is_cut_from_training_by_content() -> None:
    rows = keys(1000, 10**6)
    given = np.array([VALIDATION] * 100 + [-1] * 900)
    found = codes(Rows(rows, given, by="files", validation="v.csv", shares={"train": 0.8, "validation": 0.1, "test": 0.1}))
    assert (found[:100] == VALIDATION).all()
    assert {*found[100:].tolist()} == {TRAIN, TEST}
    assert 50 < (found[100:] == TEST).sum() < 130
    assert codes(Rows(keys(3, 3), np.array([1, 2, -1]), by="files", validation="v.csv", test="t.csv")).tolist() == [1, 2, 0]


REFUSED: dict[str, tuple[Rows, list[str]]] = {
    "empty": (
        Rows(keys(2, 2), np.array([TEST, TEST]), by="column", column="fold"),
        ["the train split would be empty", "the validation split would be empty"],
    ),
    "few groups": (
        Rows(keys(9, 9), np.zeros(9, np.uint64), by="group", column="patient"),
        ["split would be empty", "too few groups"],
    ),
    "few times": (Rows(keys(4, 4), np.array([1.0, 2.0, 2.0]), by="time", column="year"), ["2 different times", "at least 3"]),
    "too few": (Rows(keys(1, 1)), ["too few different samples: the validation split would be empty", "the test split"]),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_split_is_refused_with_all_that_is_wrong(kind: str) -> None:
    source, says = REFUSED[kind]
    with pytest.raises(UserError) as caught:
        codes(source)
    assert [text for text in says if text not in str(caught.value)] == []


def test_classes_with_too_few_rows_are_refused_with_their_names() -> None:
    source = Rows(keys(45, 10**6), by="stratified")
    source.target = {"label": np.array([0] * 40 + [1] * 3 + [2] * 2)}
    with pytest.raises(UserError) as caught:
        codes(source)
    message = str(caught.value)
    assert "class 'class 1' has 3 rows, of which validation and test would have none" in message
    assert "class 'class 2' has 2 rows" in message


@pytest.mark.parametrize(
    ("recorded", "says"),
    [
        ({}, "by content, 70/15/15"),
        ({"by": "group", "column": "patient", "shares": {"train": 0.6, "test": 0.25}}, "by group patient, 60/15/25"),
        (
            {"by": "time", "column": "date", "validation_from": "2024-01-02", "test_from": "2024-02-03"},
            "by time date: validation from 2024-01-02, test from 2024-02-03",
        ),
        ({"by": "column", "column": "fold"}, "by column fold"),
        ({"by": "files", "test": "t.csv"}, "by files: test, the other cut from training by content, 70/15/15"),
    ],
)
def test_how_a_dataset_is_split_is_said_in_words(recorded: dict[str, Any], says: str) -> None:
    assert described(recorded) == says


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"by": "random"}, ["dataset.options.split.by", "random"]),
        ({"by": "group"}, ["by is group, but column is missing", "{by: group, column: patient}"]),
        ({"column": "fold"}, ["column is of no use with by: content"]),
        ({"by": "files", "learn": True}, ["learn is of no use with by: files", "neither validation nor test"]),
        ({"by": "column", "column": "x", "shares": {"train": 0.5, "validation": 0.25, "test": 0.25}}, ["shares is of no use"]),
        ({"shares": {"test": 0.3}}, ["0.7 + 0.15 + 0.3 = 1.15", "must add up to 1", "set train to 0.55"]),
        ({"by": "column", "column": "x", "values": {"0": "trian"}}, ["split.values.0", "trian"]),
        ({"train": 0.8}, ["split.train is not a known key", "shares.train"]),
    ],
)
def test_options_that_say_no_split_are_refused(option: dict[str, Any], says: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        Rows([], **option)
    assert [text for text in says if text not in str(caught.value)] == []


@given(st.lists(st.floats(allow_nan=False) | st.sampled_from([0.0, -0.0]), min_size=1, max_size=50), SEEDS)
@settings(max_examples=50, deadline=None)
def test_numbers_are_ordered_and_selected_as_by_sorting(values: list[float], seed: int) -> None:
    numbers = np.array(values)
    bits = sortable(numbers)
    assert (numbers[np.argsort(bits, kind="stable")] == np.sort(numbers)).all()
    assert [restored(int(each), np.float64) for each in bits] == values
    groups, ordered = np.zeros(len(bits), np.int64), np.sort(bits)
    ranks = np.random.RandomState(seed).randint(len(bits), size=(1, 3))
    found, equal = select(lambda: [(groups, bits)], ranks)
    assert (found == ordered[ranks]).all()
    assert (equal == ranks - np.searchsorted(ordered, found)).all()


# --- tables -----------------------------------------------------------------------------------------------------


def table(folder: Path, columns: dict[str, Any], kind: str = "csv", **split: Any) -> Dataset:
    """The dataset of a table, which has a column ``x`` that numbers the rows in tenths."""
    rows = len(next(iter(columns.values())))
    columns = {"x": np.arange(rows) / 10, "y": ["ab"[row % 2] for row in range(rows)]} | columns
    path = folder / f"t.{kind}"
    pq.write_table(pa.table(columns), path) if kind == "parquet" else pyarrow.csv.write_csv(pa.table(columns), path)
    return build(open_source("table", {"path": str(path), "target": "y", "split": split}), str(folder / f"out-{kind}"))


def rows_of(dataset: Dataset) -> list[set[int]]:
    """The numbers of the rows in each split."""
    parts = [dataset.take(split, np.arange(dataset.index.rows(split)))["features"] for split in SPLITS]
    at = dataset.index.meta["feature_names"].index("x")
    return [{*np.rint(part[:, at] * 10).astype(int).tolist()} for part in parts]


FOLDS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "words": (["train", " Val", "TEST", "dev", "eval", "valid"], {}),
    "numbers": ([0, 1, 2, 1, 1, 1], {"values": {0: "train", 1: "val", 2: "test"}}),
    "mixed": (["fit", "b", "Test", "b", "b", "b"], {"values": {"FIT": "train", "b": "validation"}}),
}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("folds", FOLDS)
def test_a_column_of_a_table_says_the_split_and_is_not_learnt_from(tmp_path: Path, folds: str, kind: str) -> None:
    values, options = FOLDS[folds]
    dataset = table(tmp_path, {"fold": values * 10}, kind, by="column", column="fold", **options)
    assert rows_of(dataset) == [{*range(0, 60, 6)}, {row for row in range(60) if row % 6 not in (0, 2)}, {*range(2, 60, 6)}]
    assert dataset.index.meta["feature_names"] == ["x"]
    assert dataset.index.signature
    assert dataset.index.signature.left_out == {"fold": "is what the table is split by"}


DAYS = [f"2024-{1 + day // 28:02d}-{1 + day % 28:02d}" for day in range(300)]
WHEN: dict[str, list[Any]] = {
    "texts": DAYS,
    "with points": [".".join(reversed(day.split("-"))) for day in DAYS],
    "dates": [date.fromisoformat(day) for day in DAYS],
    "moments": [datetime.fromisoformat(day) for day in DAYS],
    "numbers": [*range(1000, 1300)],
}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("when", WHEN)
def test_a_table_is_split_by_its_times_however_they_are_written(tmp_path: Path, when: str, kind: str) -> None:
    order = np.random.RandomState(0).permutation(300)
    dataset = table(tmp_path, {"when": [WHEN[when][at] for at in order]}, kind, by="time", column="when")
    parts = [sorted(order[row] for row in part) for part in rows_of(dataset)]
    assert parts == [[*range(210)], [*range(210, 255)], [*range(255, 300)]]
    shown: dict[str, Any] = (
        {"validation_from": DAYS[210], "test_from": DAYS[255]} if when != "numbers" else {"validation_from": 1210}
    )
    assert dataset.index.meta["split"].items() >= shown.items()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_is_split_by_groups_which_are_learnt_from_if_asked(tmp_path: Path, kind: str) -> None:
    patients = [f"patient {row % 60}" for row in range(300)]
    dataset = table(tmp_path, {"patient": patients}, kind, by="group", column="patient", learn=True)
    groups = [{row % 60 for row in part} for part in rows_of(dataset)]
    assert sum(map(len, groups)) == 60
    assert dataset.index.signature
    assert [column.name for column in dataset.index.signature.columns] == ["x", "patient"]


def test_a_table_is_split_by_strata_of_its_classes(tmp_path: Path) -> None:
    dataset = table(tmp_path, {"y": ["rare" if row % 10 == 0 else "often" for row in range(400)]}, by="stratified")
    counts = [np.bincount(dataset.take(split, np.arange(dataset.index.rows(split)))["label"]).tolist() for split in SPLITS]
    assert counts == [[252, 28], [54, 6], [54, 6]]


def test_all_that_is_wrong_with_the_split_of_a_table_is_in_one_message(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, list[Any]], dict[str, Any], list[str]]] = [
        ({"fold": ["train", "holdout", "b"]}, {"by": "column", "column": "fold"}, ["no split: 'b', 'holdout'", "{b: train}"]),
        ({"fold": ["test", None, "train"]}, {"by": "column", "column": "fold"}, ["'fold' has 10 empty values", "split by it"]),
        ({"odd": [1, 2, 3]}, {"by": "group", "column": "patients"}, ["split.column is 'patients'", "no column"]),
        ({"odd": [1, 2, 3]}, {"by": "group", "column": "y"}, ["split.column is 'y', which is the target"]),
        (
            {"when": ["a", "b", "c"]},
            {"by": "time", "column": "when"},
            ["'when' has no dates, and the table is split by its time: choose a column of dates"],
        ),
        ({"when": ["1/2/24", "3/4/24", "5/6/24"]}, {"by": "time", "column": "when"}, ["day and month", "day-month-year"]),
    ]
    for columns, split, says in cases:
        with pytest.raises(UserError) as caught:
            table(
                tmp_path, {"w": ["Red", "red", "blue"] * 10, **{name: values * 10 for name, values in columns.items()}}, **split
            )
        message = str(caught.value)
        assert [text for text in [*says, "differ only in case"] if text not in message] == []
        assert not (tmp_path / "out-csv").exists()


def test_another_split_is_another_dataset(tmp_path: Path) -> None:
    table(tmp_path, {"patient": [*range(100)] * 2})
    path = {"path": str(tmp_path / "t.csv"), "target": "y"}
    split = {"by": "group", "column": "patient"}
    sources = [open_source("table", {**path, **more}) for more in ({}, {"split": {"by": "content"}}, {"split": split})]
    identities = [source.identity() for source in sources]
    assert identities[0] == identities[1] != identities[2]
    with pytest.raises(UserError, match="already holds another dataset"):
        build(sources[2], str(tmp_path / "out-csv"))


def csv(folder: Path, name: str, first: int, rows: int) -> str:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("x,y\n" + "".join(f"{row / 10},{'ab'[row % 2]}\n" for row in range(first, first + rows)))
    return str(path)


def test_files_are_for_one_split_also_where_they_lie_among_those_for_training(tmp_path: Path) -> None:
    csv(tmp_path, "data/a.csv", 0, 200)
    csv(tmp_path, "data/b.csv", 200, 100)
    validation, test = csv(tmp_path, "data/val.csv", 300, 50), csv(tmp_path, "other/b.csv", 350, 40)
    options = {"path": str(tmp_path / "data"), "target": "y"}
    split = {"by": "files", "validation": validation}
    both = build(open_source("table", {**options, "split": {**split, "test": test}}), str(tmp_path / "both"))
    assert rows_of(both) == [{*range(300)}, {*range(300, 350)}, {*range(350, 390)}]
    train, found, cut = rows_of(build(open_source("table", {**options, "split": split}), str(tmp_path / "one")))
    assert found == {*range(300, 350)}
    assert (train | cut, train & cut) == ({*range(300)}, set())
    assert 25 < len(cut) < 70


def test_files_that_cannot_be_for_a_split_are_all_listed(tmp_path: Path) -> None:
    one = csv(tmp_path, "one.csv", 0, 10)
    with pytest.raises(UserError) as caught:
        open_source("table", {"path": one, "target": "y", "split": {"by": "files", "validation": one, "test": "no.csv"}})
    message = str(caught.value)
    assert "one.csv has no file for training alone" in message
    assert "dataset.options.split.test no.csv does not exist" in message
    with pytest.raises(UserError, match=r"split.test .*one.csv has files that are for validation, too: one.csv"):
        open_source("table", {"path": str(tmp_path), "target": "y", "split": {"by": "files", "validation": one, "test": one}})
