"""Shards of a store that is not this machine's disk are fetched once for all who read them here."""

import hashlib
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from pyarrow import fs

from datasets import Dataset, build
from datasets.cache import fetched
from datasets.sources import open_source
from heliostat.environment import CACHE
from heliostat.errors import UserError
from heliostat.folder import Folder
from tests.conftest import ROOT

READ = """
import sys
import numpy as np
from pyarrow import fs
from datasets import Dataset
from datasets.format import Index
from heliostat.folder import Folder
folder = Folder(fs.SubTreeFileSystem(sys.argv[1], fs.LocalFileSystem()), "data")
dataset = Dataset(folder, Index.model_validate_json(folder.read("index.json"), strict=False))
print(dataset.take("train", np.arange(5))["label"].tolist())
"""


@dataclass(frozen=True)
class Store(Folder):
    """A store that takes its time, and remembers what it was asked for."""

    asked: list[str] = field(default_factory=list)

    def read(self, name: str) -> bytes:
        self.asked.append(name)
        time.sleep(0.2)
        return super().read(name)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def stored(tmp_path: Path) -> tuple[Store, Dataset]:
    """A dataset in a store, and the same on this disk."""
    local = build(open_source("digits", {}), str(tmp_path / "data"), shard_bytes=30_000)
    return Store(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "data"), local


def test_all_readers_at_once_cause_one_fetch_of_each_shard(tmp_path: Path) -> None:
    store, local = stored(tmp_path)
    ids = np.arange(local.index.rows("train"))
    with ThreadPoolExecutor(4) as readers:
        datasets = [Dataset(store, local.index) for _ in range(4)]
        for rows in readers.map(lambda dataset: dataset.take("train", ids), datasets):
            assert np.array_equal(rows["image"], local.take("train", ids)["image"])
    assert sorted(store.asked) == sorted(shard.file for shard in local.index.splits["train"])
    assert len(store.asked) > 1


def test_another_process_reads_what_this_one_has_fetched(tmp_path: Path) -> None:
    store, local = stored(tmp_path)
    labels = Dataset(store, local.index).take("train", np.arange(5))["label"].tolist()
    for shard in local.index.splits["train"]:
        (tmp_path / "data" / shard.file).unlink()
    done = subprocess.run([sys.executable, "-c", READ, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"{labels}\n", done.stderr


def test_a_damaged_shard_is_never_kept(tmp_path: Path, cache: Path) -> None:
    store, local = stored(tmp_path)
    path = tmp_path / "data" / local.index.splits["train"][0].file
    whole = path.read_bytes()
    path.write_bytes(whole[:-5] + b"x" + whole[-4:])
    with pytest.raises(UserError, match=f"{path.name} cannot be read: .* has another checksum than the index says"):
        Dataset(store, local.index).columns("train", 0)
    assert [kept.suffix for kept in cache.iterdir()] == [".lock"]
    path.write_bytes(whole)
    assert len(Dataset(store, local.index).columns("train", 0)["label"]) == local.index.splits["train"][0].rows


def test_what_nobody_has_asked_for_the_longest_goes_when_the_disk_is_full(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE, str(small_disk))
    store = Store(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "data")
    (tmp_path / "data").mkdir()

    def fetch(name: str, size: int) -> Path | None:
        data = name.encode() * size
        (tmp_path / "data" / name).write_bytes(data)
        return fetched(store, name, hashlib.sha256(data).hexdigest(), size)

    first, second = fetch("a", 500_000), fetch("b", 500_000)
    assert first
    assert second
    time.sleep(0.02)
    assert fetch("a", 500_000) == first
    assert store.asked == ["a", "b"]
    third = fetch("c", 600_000)
    assert third
    assert [path.exists() for path in (first, second, third)] == [True, False, True]
    assert fetch("d", 1_500_000) is None, "it is read past the disk"
