"""Shards of an object store are downloaded once for all processes on a node."""

import gc
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from pyarrow import fs

from heliostat.datasets import Dataset, build
from heliostat.datasets.sources import open_source
from heliostat.environment import CACHE
from heliostat.errors import UserError
from heliostat.folder import Folder
from tests.conftest import ROOT

READ = """
import sys
import numpy as np
from pyarrow import fs
from heliostat.datasets import Dataset
from heliostat.datasets.index import Index
from heliostat.folder import Folder
folder = Folder(fs.SubTreeFileSystem(sys.argv[1], fs.LocalFileSystem()), "data")
dataset = Dataset(folder, Index.model_validate_json(folder.read("index.json"), strict=False))
print(dataset.take("train", np.arange(5))["label"].tolist())
"""


@dataclass(frozen=True)
class Store(Folder):
    """A slow store that records its reads."""

    asked: list[str] = field(default_factory=list)

    def read(self, name: str) -> bytes:
        self.asked.append(name)
        time.sleep(0.2)
        return super().read(name)


pytestmark = pytest.mark.usefixtures("cache")


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
    with pytest.raises(UserError, match=f"{path.name} cannot be read: .* has another checksum than in the index"):
        Dataset(store, local.index).columns("train", 0)
    assert [kept.suffix for kept in cache.iterdir()] == [".lock"]
    path.write_bytes(whole)
    assert len(Dataset(store, local.index).columns("train", 0)["label"]) == local.index.splits["train"][0].rows


def test_a_copy_that_was_cut_short_is_fetched_again(tmp_path: Path, cache: Path) -> None:
    store, local = stored(tmp_path)
    shard = local.index.splits["train"][0]
    Dataset(store, local.index).columns("train", 0)
    os.truncate(cache / shard.sha256, shard.bytes // 2)
    assert len(Dataset(store, local.index).columns("train", 0)["label"]) == shard.rows
    assert store.asked == [shard.file, shard.file]


def test_without_disk_space_or_write_permission_shards_are_read_without_a_copy(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, local = stored(tmp_path)
    (small_disk / "others").write_bytes(bytes(2**21 - 2**18))
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    for place in (small_disk / "cache", in_the_way / "cache"):
        monkeypatch.setenv(CACHE, str(place))
        assert len(Dataset(store, local.index).columns("train", 0)["label"]) == local.index.splits["train"][0].rows
        assert not [kept for kept in place.glob("*") if kept.suffix != ".lock"], "it was read without a copy"
    (small_disk / "others").unlink()
    monkeypatch.setenv(CACHE, str(small_disk / "cache"))
    Dataset(store, local.index).columns("train", 0)
    assert (small_disk / "cache" / local.index.splits["train"][0].sha256).exists(), "there is room again"
    gc.collect()  # a file that is mapped keeps its disk busy
