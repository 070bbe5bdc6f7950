"""An index and its shards may come from anywhere, and a cache may be where others write: nothing is used unchecked."""

import json
import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import fs

from heliostat.cli import main
from heliostat.datasets import Dataset, Shard, build
from heliostat.datasets.index import Index
from heliostat.datasets.inspection import inspect
from heliostat.datasets.sources import open_source
from heliostat.environment import CACHE
from heliostat.errors import UserError
from heliostat.folder import Folder

INPUTS = int(os.environ.get("FUZZ_INPUTS", "300"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))

HOSTILE: list[Any] = [
    "../victim/x", "/etc/passwd", "..", ".", "", "a/b", "a\\b", "\0", "index.json", "x" * 10_000, "é", "train-00000.arrow",
    -1, 0, 1, 2**31, 2**40, 2**63, 2**64, 1e308, 0.5, None, True, [], {}, [[]], [1] * 40, [2**40, 2**40],
    "object", "uint8", "float64",
]  # fmt: skip


def in_a_store(place: Path) -> Folder:
    """A dataset as if it were in an object store, so that its shards are cached."""
    return Folder(fs.SubTreeFileSystem(str(place.parent), fs.LocalFileSystem()), place.name)


def read_all(dataset: Dataset) -> None:
    """Read a dataset as training does, and compare what comes with what the index says."""
    for split in dataset.index.splits:
        rows = dataset.index.rows(split)
        taken = dataset.take(split, np.arange(rows))
        wanted = {name: (field.dtype, (rows, *field.shape)) for name, field in dataset.index.fields.items()}
        assert {name: (str(values.dtype), values.shape) for name, values in taken.items()} == wanted
    inspect(dataset)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A dataset of three small shards."""
    (tmp_path / "t.csv").write_text("x,y\n" + "\n".join(f"{i},{'ab'[i % 2]}" for i in range(60)))
    build(open_source("table", {"path": str(tmp_path / "t.csv"), "target": "y"}), str(tmp_path / "data"))
    return tmp_path / "data"


def change(place: Path, edit: Callable[[Any], None]) -> None:
    """Edit the index of a dataset."""
    index = json.loads((place / "index.json").read_text())
    edit(index)
    (place / "index.json").write_text(json.dumps(index))


def without_xxh3(index: Any) -> None:
    for shards in index["splits"].values():
        for shard in shards:
            del shard["xxh3"]


def test_every_problem_of_an_index_is_listed(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def edit(index: Any) -> None:
        train, test = index["splits"]["train"][0], index["splits"]["test"][0]
        train.update(file="../x.arrow", rows=-1, sha256="../victim/x")
        test.update(xxh3="no", bytes=2**63)
        index["fields"]["features"]["dtype"] = "object"

    change(table, edit)
    assert main(["dataset", "info", str(table)]) == 2
    message = capsys.readouterr().err
    for problem in (
        'splits.train.0.file is "../x.arrow"', "splits.train.0.rows is -1", 'splits.train.0.sha256 is "../victim/x"',
        'splits.test.0.xxh3 is "no"', f"splits.test.0.bytes is {2**63}", 'fields.features.dtype is "object"', "fix:",
    ):  # fmt: skip
        assert problem in message


def test_what_cannot_fit_together_is_listed(table: Path) -> None:
    def edit(index: Any) -> None:
        index["fields"]["features"]["shape"] = [1 << 30]
        index["splits"]["test"] = index["splits"]["train"]
        index["splits"]["extra"] = []
        del index["splits"]["validation"]
        index["meta"]["classes"] = 7

    change(table, edit)
    with pytest.raises(UserError) as caught:
        Dataset.open(str(table))
    for problem in (
        "splits.validation has no shards", "'extra'", "splits.train.0.bytes", "'train-00000.arrow' 2 times",
        "stats.features has {'mean': 1, 'std': 1} values", "meta.classes is 7",
    ):  # fmt: skip
        assert problem in str(caught.value)


def test_the_classes_are_those_of_the_signature(table: Path) -> None:
    change(table, lambda index: index["meta"]["classes"].pop())
    with pytest.raises(UserError, match=r"meta.classes has 1 names, but must have the 2 of signature.target.classes"):
        Dataset.open(str(table))


@pytest.mark.parametrize("old", [False, True], ids=["xxh3", "sha256"])
def test_a_shard_with_a_flipped_bit_is_never_trained_on(table: Path, old: bool) -> None:
    if old:  # as the first versions built it
        change(table, without_xxh3)
    read_all(Dataset.open(str(table)))
    shard = table / "train-00000.arrow"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(UserError, match=r"train-00000.arrow cannot be read: it has another checksum"):
        read_all(Dataset.open(str(table)))


def test_a_copy_of_the_right_size_with_other_contents_is_downloaded_again(table: Path, cache: Path) -> None:
    dataset = Dataset.open(str(table))
    shard = dataset.index.splits["train"][0]
    (cache / shard.sha256).write_bytes(bytes(shard.bytes))
    assert np.array_equal(
        Dataset(in_a_store(table), dataset.index).columns("train", 0)["features"], dataset.columns("train", 0)["features"]
    )
    assert shard.has_sha256((cache / shard.sha256).read_bytes())


def test_copies_are_kept_where_no_other_user_can_place_files(table: Path, cache: Path) -> None:
    dataset = Dataset(in_a_store(table), Dataset.open(str(table)).index)
    cache.chmod(0o777)  # as a volume of a pod
    read_all(dataset)
    (own,) = cache.iterdir()
    assert (own.name, own.stat().st_mode & 0o777) == (f"heliostat-cache-{os.getuid()}", 0o700)


@pytest.mark.parametrize("kind", ["writable", "link"])
def test_a_cache_that_another_user_may_have_placed_is_refused(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    dataset = Dataset(in_a_store(table), Dataset.open(str(table)).index)
    place = tmp_path / f"heliostat-cache-{os.getuid()}"
    (tmp_path / "victim").mkdir()
    place.mkdir() if kind == "writable" else place.symlink_to(tmp_path / "victim")
    place.chmod(0o777)
    monkeypatch.delenv(CACHE, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(UserError, match=f"{place}, belongs to another user.*\n.*{CACHE}"):
        read_all(dataset)
    assert list(place.iterdir()) == []


def test_no_index_and_no_shard_makes_heliostat_crash_or_touch_another_file(table: Path, cache: Path) -> None:
    """Mutations of the index, of shards, and of shards with sums that fit; a longer one is part of make soak."""
    files = {path.name: path.read_bytes() for path in table.iterdir()}
    (table.parent / "victim").mkdir()
    (table.parent / "victim" / "x").write_text("precious")
    others = others_than(table)
    chance = random.Random(SEED)
    read = 0
    for number in range(INPUTS):
        changed = mutated(chance, files)
        for name, data in changed.items():
            (table / name).write_bytes(data)
        try:
            folder = Folder.at(table) if number % 2 else in_a_store(table)
            dataset = Dataset(folder, Index.parse(folder.read("index.json"), "data"))
            damage = dataset.verify()
            read_all(dataset)
            # Of a store, an earlier copy may be whole; and only verify compares the SHA-256.
            assert not damage or not folder.is_local or "index.json" in changed
            read += 1
        except UserError:
            pass
        except BaseException:
            print(f"input {number} of seed {SEED}: {changed}")
            raise
        for name in changed:
            (table / name).write_bytes(files[name])
    assert others_than(table) == others
    assert 0 < read < INPUTS / 2


def others_than(table: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in table.parent.rglob("*") if path.is_file() and path.parent != table}


def mutated(chance: random.Random, files: dict[str, bytes]) -> dict[str, bytes]:
    """Some of the files, changed."""
    index = json.loads(files["index.json"])
    shard: dict[str, Any] = chance.choice(chance.choice(list(index["splits"].values())))
    kind = chance.choice(["values", "values", "bytes", "shard", "consistent"])
    if kind == "values":
        for _ in range(chance.choice([1, 1, 3])):
            replace_one(chance, index)
    if kind == "bytes":
        return {"index.json": scrambled(chance, files["index.json"])}
    if kind == "values":
        return {"index.json": json.dumps(index).encode()}
    data = scrambled(chance, files[shard["file"]])
    if kind == "shard" or not data:
        return {shard["file"]: data}
    shard.update(Shard.of(shard["file"], shard["rows"], pa.py_buffer(data)).model_dump())
    return {shard["file"]: data, "index.json": json.dumps(index).encode()}


def replace_one(chance: random.Random, index: Any) -> None:
    """Replace, delete or add one value somewhere."""
    place: Any = index
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = chance.choice(keys)
        if isinstance(place[key], dict | list) and place[key] and chance.random() < 0.8:
            place = place[key]
            continue
        match chance.randrange(4):
            case 0:
                del place[key]
            case 1 if isinstance(place, dict):
                place[chance.choice(["extra", "../x", ""])] = place[key]
            case _:
                place[key] = chance.choice(HOSTILE)
        return


def scrambled(chance: random.Random, data: bytes) -> bytes:
    """Bytes with a few of them flipped, cut out or repeated."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 2, 8])):
        start = chance.randrange(len(changed) or 1)
        stop = start + chance.choice([1, 4, 16, 200])
        match chance.randrange(4):
            case 0:
                del changed[start:stop]
            case 1:
                changed[start:start] = changed[start:stop]
            case _ if start < len(changed):
                changed[start] ^= 1 << chance.randrange(8)
    return bytes(changed)
