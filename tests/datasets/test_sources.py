"""Sources are read in chunks with bounded memory, and what changes in their files is noticed."""

import gc
import os
import pickle
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from heliostat.datasets import build, statistics
from heliostat.datasets.sources import Source, distinct, encoder, files, images, open_source, reader, survey, table
from heliostat.datasets.sources.distinct import KEPT, Distinct
from heliostat.datasets.sources.formats import delimited, parquet
from heliostat.errors import UserError
from heliostat.folder import Folder
from tests.store import Store

ROWS = range(700)
COLUMNS: dict[str, list[Any]] = {
    "whole": [row * 7919 % 101 for row in ROWS],
    "decimal": [row * 7919 % 1009 / 8 for row in ROWS],
    "rounded": [row / 7 for row in ROWS],
    "time": [1_700_000_000 + row * 37 % 5000 for row in ROWS],
    "fine": [1.7e9 + row * 37 % 5000 / 8 for row in ROWS],
    "colour": [("red", "green", "blue")[row * 31 % 3] for row in ROWS],
    "truth": [("true", "False")[row * 17 % 2] for row in ROWS],
    "y": [("a", "b")[row * 13 % 7 % 2] for row in ROWS],
}


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of few rows, so that a small table has many."""
    for module, name, value in (
        (delimited, "BLOCK", 4000), (delimited, "BLOCK_OF_A_COLUMN", 1), (delimited, "FIRST", 500), (parquet, "ROWS", 37),
        (encoder, "CHUNK", 700), (images, "CHUNK_BYTES", 100),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)


def source_of(path: Path | str, **options: Any) -> Source:
    return open_source("table", {"path": str(path), "target": "y", **options})


def written(path: Path, columns: dict[str, list[Any]], rows: slice = slice(None)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame({name: values[rows] for name, values in columns.items()})
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), path, row_group_size=100)
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_table_in_chunks_is_bit_for_bit_what_it_is_as_a_whole_with_any_number_of_threads_or_processes(
    tmp_path: Path, name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / name, COLUMNS)
    whole = build(source_of(path), str(tmp_path / "whole"), 2000).index
    request.getfixturevalue("small_chunks")
    for threads in (1, 3):
        monkeypatch.setattr(encoder, "threads", lambda count=threads: count)
        assert build(source_of(path), str(tmp_path / f"{threads}"), 2000).index == whole
    monkeypatch.setattr(parquet, "SECTION", 8000)
    source, seen = source_of(path, without_label="drop"), list[int]()

    def tasks(function: Callable[[Any], Any], items: Any) -> Iterator[Any]:
        seen.append(len(items))
        return (pickle.loads(pickle.dumps(function))(item) for item in items)

    source.tasks = tasks
    index = build(source, str(tmp_path / "tasks"), 2000).index
    assert (index.fingerprint, index.signature, min(seen) > 1) == (whole.fingerprint, whole.signature, True)
    assert len(whole.splits["train"]) > 9


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_of_plain_numbers_is_bit_for_bit_what_earlier_versions_made_of_it(tmp_path: Path, kind: str) -> None:
    columns = {name: COLUMNS[name] for name in ("whole", "decimal", "rounded", "y")}
    index = build(source_of(written(tmp_path / f"n.{kind}", columns)), str(tmp_path / "out"), 2000).index
    assert index.fingerprint == "e6ef046cc1213d8e6551de9b514663b4"


def test_images_in_chunks_make_the_shards_that_they_make_as_a_whole(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "CHUNK", 16)
    photos(tmp_path / "photos")
    whole = build(open_source("images", {"path": str(tmp_path / "photos"), "size": 4}), str(tmp_path / "whole"), 500).index
    request.getfixturevalue("small_chunks")
    assert (
        build(open_source("images", {"path": str(tmp_path / "photos"), "size": 4}), str(tmp_path / "cut"), 500).index == whole
    )


def photos(folder: Path, count: int = 20) -> None:
    pixels = np.random.RandomState(count).randint(0, 255, (2, count, 4, 4, 3)).astype(np.uint8)
    for name, each in zip(("cat", "dog"), pixels, strict=True):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(each[number]).save(folder / name / f"{number:02d}.png")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_memory_of_a_build_does_not_grow_with_the_table(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (delimited, "BLOCK", 20_000), (parquet, "ROWS", 1000), (encoder, "CHUNK", 8000),
        (encoder, "SAMPLED", 4000), (encoder, "LEAST_SAMPLED", 100), (statistics, "SAMPLED", 500),
        (distinct, "KEPT", 500), (survey, "LISTED", 200), (files, "HASHED", 0),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)

    def peak(rows: int) -> int:
        """Bytes of Python and of Arrow."""
        source, highest = np.random.RandomState(0), 0
        columns = {"a": source.randn(rows).round(3), "b": source.randn(rows), "y": source.randint(0, 2, rows)}
        path = written(tmp_path / f"{rows}.{kind}", {name: values.tolist() for name, values in columns.items()})

        def watch(doing: str, done: int, total: int, unit: str) -> None:
            nonlocal highest
            highest = max(highest, pa.total_allocated_bytes())

        opened = source_of(path)
        opened.progress = watch
        gc.collect()
        before = pa.total_allocated_bytes()
        tracemalloc.start()
        build(opened, str(tmp_path / f"d{rows}"), 100_000)
        used: int = tracemalloc.get_traced_memory()[1] + highest - before
        tracemalloc.stop()
        return used

    few, many = 25_000, 75_000  # of fewer rows, the blocks that Arrow reads ahead are a large part
    peak(few)  # imports
    assert peak(many) - peak(few) < 0.5 * (many - few) * 3 * 8, "the values alone take twice that"


def test_a_plan_reads_no_rows_of_a_large_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "t.parquet", COLUMNS)
    small = source_of(path).preview()
    assert small
    assert {name: str(field) for name, field in small.items()} == {
        "features": "float32[6]",
        "categories": "int32[1]",
        "label": "int64",
    }
    monkeypatch.setattr(table, "CHECKED", 0)
    monkeypatch.setattr(files, "HASHED", 0)
    monkeypatch.setattr(reader.Reader, "batches", lambda *args: pytest.fail("rows are read"))
    monkeypatch.setattr(files.File, "content", lambda file: pytest.fail("the content is read"))
    source = source_of(path)
    assert source.preview() is None
    assert source.identity() == source_of(path).identity()
    with pytest.raises(UserError, match="has no column 'z'"):
        open_source("table", {"path": str(path), "target": "z"})


def touched(path: Path) -> None:
    """The same size and the same time, with another content."""
    before, content = path.stat(), path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], Any]] = {
    "a file is written again": lambda folder: written(folder / "part-0.parquet", COLUMNS, slice(20)),
    "a file is added": lambda folder: written(folder / "part-2.parquet", COLUMNS, slice(20)),
    "a file is removed": lambda folder: (folder / "part-0.parquet").unlink(),
    "a file has another name": lambda folder: (folder / "part-1.parquet").rename(folder / "part-9.parquet"),
    "only the content differs": lambda folder: touched(folder / "part-1.parquet"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("hashed", [0, files.HASHED])
def test_every_change_of_a_folder_is_another_identity(
    tmp_path: Path, change: str, hashed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "HASHED", hashed)
    # Only the files matter.
    monkeypatch.setattr(reader.Reader, "__init__", lambda self, *args, **options: setattr(self, "names", ["y"]))
    monkeypatch.setattr(reader.Reader, "dialect", {})
    parts(tmp_path / "t.parquet")
    before = source_of(tmp_path / "t.parquet").identity()
    assert source_of(tmp_path / "t.parquet").identity() == before
    CHANGES[change](tmp_path / "t.parquet")
    assert source_of(tmp_path / "t.parquet").identity() != before


def parts(folder: Path, suffix: str = ".parquet") -> None:
    for number in (0, 1):
        written(folder / f"part-{number}{suffix}", COLUMNS, slice(number * 350, number * 350 + 350))


def test_a_copy_of_a_small_source_in_another_folder_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So each job that gets a copy of the working directory finds the dataset that the first one has built."""
    for place in ("one", "two"):
        photos(tmp_path / place / "photos", 2)
    found = []
    for place in ("one", "two"):
        monkeypatch.chdir(tmp_path / place)
        found.append(open_source("images", {"path": "photos"}).identity())
    assert found[0] == found[1]
    Image.new("RGB", (4, 4)).save("photos/cat/00.png")
    assert open_source("images", {"path": "photos"}).identity() != found[0]


@pytest.mark.parametrize("change", ["written again", "added", "removed"])
def test_what_changes_while_it_is_read_is_refused_and_leaves_nothing(tmp_path: Path, change: str) -> None:
    photos(tmp_path / "photos")
    source, out = open_source("images", {"path": str(tmp_path / "photos"), "size": 4}), tmp_path / "out"

    def meddle(doing: str, done: int, total: int, unit: str) -> None:
        if done == 5 and change == "removed":
            (tmp_path / "photos/cat/00.png").unlink()
        elif done == 5:
            Image.new("RGB", (4, 4)).save(tmp_path / "photos/cat" / ("00.png" if change == "written again" else "new.png"))

    source.progress = meddle
    with pytest.raises(UserError, match="changed while they were read"):
        build(source, str(out))
    assert not out.exists()


@pytest.mark.parametrize(
    ("make", "place"),
    [
        (lambda folder: parts(folder / "t.parquet"), "t.parquet"),
        (lambda folder: parts(folder / "t.parquet"), "t.parquet/"),
        (lambda folder: parts(folder / "shards"), "shards/*.parquet"),
        (lambda folder: parts(folder / "shards/deep"), "shards/**/*.parquet"),
        (lambda folder: parts(folder / "shards/deep"), "shards"),
        (lambda folder: parts(folder / "csv", ".csv"), "csv"),
        (lambda folder: written(folder / "t.pq", COLUMNS), "t.pq"),
        (lambda folder: written(folder / "T.PARQUET", COLUMNS), "T.PARQUET"),
        (lambda folder: written(folder / "t", COLUMNS), "t"),
        (lambda folder: written(folder / "t.parquet", COLUMNS), "file://{}/t.parquet"),
        (lambda folder: written(folder / "t.parquet", COLUMNS), "${{THERE}}/t.parquet"),
    ],
)
def test_a_table_may_be_many_files_of_any_name(
    tmp_path: Path, make: Callable[[Path], Any], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THERE", str(tmp_path))
    make(tmp_path)
    for left_out in ("_SUCCESS", ".part-0.crc"):
        for folder in ("t.parquet", "shards"):
            if Path(folder).is_dir():
                (tmp_path / folder / left_out).touch()
    dataset = build(source_of(place.format(tmp_path)), "out")
    assert sum(dataset.index.rows(split) for split in dataset.index.splits) == 700
    assert dataset.index.meta["feature_names"][-1] == "truth"


@pytest.mark.parametrize("place", ["h", "h/year=*", "h/*/*/*.parquet"])
def test_the_folders_of_a_hive_table_are_columns(tmp_path: Path, place: str) -> None:
    for number, (year, city) in enumerate([(2023, "Rome"), (2024, "S%C3%A3o")]):
        rows = {name: COLUMNS[name] for name in ("whole", "y")}
        written(tmp_path / f"h/year={year}/city={city}/0.parquet", rows, slice(number * 350, number * 350 + 350))
    dataset = build(source_of(tmp_path / place), str(tmp_path / "out"))
    assert dataset.index.meta["feature_names"] == ["whole", "year"]
    assert [column.categories for column in dataset.index.signature.categorical] == [("Rome", "São")]  # type: ignore[union-attr]
    found = [dataset.take(split, np.arange(dataset.index.rows(split))) for split in dataset.index.splits]
    years, cities = (np.concatenate([each[name][:, -1] for each in found]) for name in ("features", "categories"))
    assert {*zip(years, cities, strict=True)} == {(2023, 0), (2024, 1)}
    assert (years == 2023).sum() == 350


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: (folder / "README.md").touch(), "README.md is no table by its name"),
        (
            lambda folder: written(folder / "more.csv", COLUMNS),
            "has csv files, such as more.csv and Parquet files, such as part",
        ),
        (
            lambda folder: written(folder / "z.parquet", {"y": ["a"], "odd": [1]}),
            "z.parquet also has the columns 'odd': write it",
        ),
        (lambda folder: written(folder / "z.parquet", {"y": ["a"]}), "z.parquet lacks the columns 'whole', 'decimal'"),
        (
            lambda folder: written(folder / "z.parquet", {**COLUMNS, "whole": ["text"] * 700}),
            "column 'whole' is int64 in part-0.parquet and large_string in z.parquet",
        ),
        (lambda folder: (folder / "z.parquet").write_bytes(b"PAR1 and no more"), "cannot be read as Parquet"),
        (lambda folder: (folder / "z.parquet").symlink_to("nowhere"), "z.parquet is a link to a file that does not exist"),
        (lambda folder: [path.unlink() for path in folder.iterdir()], "is a folder without files"),
        (lambda folder: shutil.rmtree(folder), "does not exist"),
    ],
)
def test_a_folder_that_is_no_table_is_refused(tmp_path: Path, make: Callable[[Path], Any], says: str) -> None:
    parts(tmp_path / "t")
    make(tmp_path / "t")
    with pytest.raises(UserError) as caught:
        build(source_of(tmp_path / "t"), str(tmp_path / "out"))
    assert says in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_pattern_that_matches_nothing_and_a_uri_of_a_folder_of_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="matches no file"):
        source_of(tmp_path / "*.parquet")
    with pytest.raises(UserError, match="is a URI, and only tables are read from there"):
        open_source("images", {"path": "s3://bucket/photos"})


def test_broken_images_are_left_out_and_counted_if_that_is_wanted(tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    whole = (tmp_path / "photos/cat/00.png").read_bytes()
    (tmp_path / "photos/cat/00.png").write_bytes(whole[:40])
    (tmp_path / "photos/dog/labels.txt").write_text("no image")
    options = {"path": str(tmp_path / "photos"), "size": 4}
    with pytest.raises(UserError, match=r"has 2 problems[\s\S]*leave them out with dataset.options.skip_broken: true"):
        build(open_source("images", options), str(tmp_path / "out"))
    index = build(open_source("images", {**options, "skip_broken": True}), str(tmp_path / "out")).index
    assert (index.meta["skipped"], sum(index.rows(split) for split in index.splits)) == (2, 39)
    for path in (tmp_path / "photos/cat").iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(UserError, match="classes without an image that can be read: cat"):
        build(open_source("images", {**options, "skip_broken": True}), str(tmp_path / "other"))


def test_a_sample_does_not_depend_on_the_chunks() -> None:
    values, found = pa.array(range(1000)), []
    for size in (1, 7, 1000):
        sample = survey.Sample(10)
        for start in range(0, 1000, size):
            sample.add(values.slice(start, size))
        found.append(sample.values(pa.int64()).to_pylist())
    assert found[0] == found[1] == found[2] == list(range(0, 1000, 64))


def test_different_numbers_are_counted_in_bounded_memory() -> None:
    exact, many = Distinct(), Distinct()
    for start in range(0, 10_000, 1000):
        exact.add(np.arange(start, start + 1000) / 7)
    assert (exact.count, exact.repeated) == (10_000, False)
    exact.add(np.array([0.0, -0.0]))
    assert (exact.count, exact.repeated) == (10_000, True)
    for start in range(0, 5 * KEPT, KEPT):
        many.add(np.arange(start, start + KEPT))
    assert many.count == pytest.approx(5 * KEPT, rel=0.02)
    assert not many.repeated


def test_a_table_in_an_object_store_is_read_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, at = Store(), Folder.at

    def opened(uri: str | Path, *patience: float) -> Folder:
        return store.folder(str(uri).removeprefix("s3://")) if str(uri).startswith("s3://") else at(uri, *patience)

    monkeypatch.setattr(Folder, "at", opened)
    parts(tmp_path / "t")
    for path in (tmp_path / "t").iterdir():
        store.put(f"bucket/t/{path.name}", path.read_bytes())
    identity = source_of("s3://bucket/t").identity()
    index = build(source_of("s3://bucket/t"), str(tmp_path / "out")).index
    assert index.fingerprint == build(source_of(tmp_path / "t"), str(tmp_path / "again")).index.fingerprint
    assert build(source_of("s3://bucket/t/part-0.parquet"), str(tmp_path / "part")).index.rows("train") < 350
    for hashed in (0, files.HASHED):
        monkeypatch.setattr(files, "HASHED", hashed)
        before = source_of("s3://bucket/t").identity()
        store.put("bucket/t/part-0.parquet", store.objects["bucket/t/part-1.parquet"][0])
        assert source_of("s3://bucket/t").identity() != before
        store.put("bucket/t/part-0.parquet", (tmp_path / "t/part-0.parquet").read_bytes())
    assert source_of("s3://bucket/t").identity() == identity
    with pytest.raises(UserError, match="s3://bucket/none does not exist"):
        source_of("s3://bucket/none")
    plain = written(tmp_path / "c.csv", COLUMNS)
    whole = build(source_of(plain), str(tmp_path / "plain")).index.fingerprint
    for ending, codec in (("gz", "gzip"), ("zst", "zstd")):
        with pa.CompressedOutputStream(str(tmp_path / "c"), codec) as file:
            file.write(plain.read_bytes())
        store.put(f"bucket/c.csv.{ending}", (tmp_path / "c").read_bytes())
        assert build(source_of(f"s3://bucket/c.csv.{ending}"), str(tmp_path / ending)).index.fingerprint == whole
