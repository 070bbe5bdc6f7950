"""Each way to split a dataset keeps its promise, for any rows, in any order and any chunks."""

import io
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliostat.config import validate
from heliostat.datasets.assignment import assign
from heliostat.datasets.ranks import restored, select, sortable
from heliostat.datasets.sources import Chunk, Source
from heliostat.datasets.splits import Split
from heliostat.errors import UserError

TRAIN, VALIDATION, TEST = range(3)
SEEDS = st.integers(0, 2**32 - 2)


class Rows(Source):
    """Some rows: bytes, values of the column by which they are split, and a target, in chunks of a random number."""

    name = "rows"

    def __init__(self, keys: list[bytes], by: pa.Array | None = None, /, seed: int = 0, **split: Any) -> None:
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
            yield Chunk(self.keys[start:stop], columns, by=None if self.by is None else self.by[start:stop])
            start = stop

    def meta(self) -> dict[str, Any]:
        return {"classes": [f"class {number}" for number in range(max(self.target.get("label", [0])) + 1)]}


def codes(source: Source) -> npt.NDArray[np.uint8]:
    """The split of each row; that they are complete is that the counts of `assign` are those of the rows."""
    kept = io.BytesIO()
    rows, _ = assign(source, kept)
    found = np.frombuffer(kept.getvalue(), np.uint8)
    assert rows == np.bincount(found, minlength=3).tolist()
    assert len(found) == sum(len(chunk.keys) for chunk in source.chunks())
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
    groups = pa.array([f"patient {number}" for number in random.randint(100, size=500)])
    few = codes(Rows(keys(300, 300), groups[:300], seed, by="group", column="patient"))
    many = codes(Rows(keys(500, 500), groups, seed + 1, by="group", column="patient"))
    assert (few == many[:300]).all()
    assert len({*zip(groups.to_pylist(), many.tolist(), strict=True)}) == len(groups.unique())


TIMES = {
    "numbers": lambda numbers: pa.array(numbers - 50),
    "floats": lambda numbers: pa.array((numbers - 50) / 7),
    "dates": lambda numbers: pa.array(numbers, pa.int32()).cast(pa.date32()),
    "moments": lambda numbers: pa.array(numbers * 10**9 + 1, pa.timestamp("ns")),
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


def test_by_column_the_values_say_it() -> None:
    column = pa.array(["train", " Val ", "TEST", "dev", "eval", "valid", "validation", "Train"])
    found = codes(Rows(keys(8, 8), column, by="column", column="fold"))
    assert found.tolist() == [0, 1, 2, 1, 1, 1, 1, 0]
    for folds in (pa.array([0, 1, 2, 9]), pa.array([True, False, False, True]), pa.array(["0", "1", "2", "9"])):
        values = {"0": "train", "1": "val", "2": "test", "9": "train", "true": "train", "False": "test"}
        source = Rows(keys(4, 4), folds, by="column", column="fold", values=values)
        if folds.type == pa.bool_():
            with pytest.raises(UserError, match="the validation split would be empty"):
                codes(source)
        else:
            assert codes(source).tolist() == [0, 1, 2, 0]


def test_by_files_what_has_no_files_is_cut_from_training_by_content() -> None:
    rows = keys(1000, 10**6)
    given = pa.array(["validation"] * 100 + [None] * 900, pa.string())
    found = codes(Rows(rows, given, by="files", validation="v.csv", shares={"train": 0.8, "validation": 0.1, "test": 0.1}))
    assert (found[:100] == VALIDATION).all()
    assert {*found[100:].tolist()} == {TRAIN, TEST}
    assert 50 < (found[100:] == TEST).sum() < 130
    both = pa.array(["validation", "test", None])
    assert codes(Rows(keys(3, 3), both, by="files", validation="v.csv", test="t.csv")).tolist() == [1, 2, 0]


REFUSED: dict[str, tuple[Rows, list[str]]] = {
    "no splits": (
        Rows(keys(5, 5), pa.array(["train", "holdout", None, "b", "holdout"]), by="column", column="fold"),
        ["column 'fold' has values that are no split: 'b' (1 rows), 'holdout' (2 rows)", "{b: train}", "1 missing values"],
    ),
    "empty": (
        Rows(keys(2, 2), pa.array(["test", "test"]), by="column", column="fold"),
        ["the train split would be empty", "the validation split would be empty"],
    ),
    "few groups": (
        Rows(keys(9, 9), pa.array(["a"] * 9), by="group", column="patient"),
        ["split would be empty", "too few groups"],
    ),
    "few times": (
        Rows(keys(4, 4), pa.array([1.0, 2.0, float("nan"), None]), by="time", column="year"),
        ["column 'year' has 2 missing values", "has 2 different times", "at least 3"],
    ),
    "too few": (Rows(keys(1, 1)), ["too few samples: the validation split would be empty", "the test split"]),
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
