"""The registry of models: versions that are whole or absent, aliases that one process moves at a time, on every storage."""

import hashlib
import multiprocessing
import threading
from pathlib import Path
from typing import Any

import pytest

from heliostat.errors import HeliostatError, UserError
from heliostat.folder import Folder
from heliostat.workloads.export import SUMS
from heliostat.workloads.registry.registry import Registry, document
from heliostat.workloads.registry.version import Data, Manifest, checksum_of
from heliostat.workloads.run import lease
from heliostat.workloads.run.record import check_free_name
from tests.store import Store


def exported(place: Path, text: str) -> Path:
    """A folder as an export writes it."""
    (place / "loader").mkdir(parents=True)
    (place / "model.txt").write_text(text)
    (place / "loader" / "rows.py").write_text("")
    files = ["loader/rows.py", "model.txt"]
    sums = [f"{hashlib.sha256((place / name).read_bytes()).hexdigest()}  {name}\n" for name in files]
    (place / SUMS).write_text("".join(sums))
    return place


def manifest(export: Path) -> Manifest:
    return Manifest(
        checksum=checksum_of(Folder.at(export)), bytes=9, format="lightgbm", run="runs/a", run_name="a", task="t", step=5,
        config_hash="c", trained=1.0, git=None, versions={}, metric="accuracy", better="higher",
        data=Data(source="digits", uri="d", fingerprint="f", rows={"train": 9}, columns={}, classes=[]),
        metrics={"test": {"accuracy": 0.9}}, intervals={}, added=2.0, by="ada",
    )  # fmt: skip


def put(registry: Registry, export: Path, alias: str = "", name: str = "m") -> int:
    origin = hashlib.sha256((export / "model.txt").read_bytes()).hexdigest()[:16]
    return registry.put(name, origin, manifest(export), export, b"config: {name: a}\n", alias)


@pytest.fixture(params=["disk", "store"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return Folder.at(tmp_path / "runs") if request.param == "disk" else Store().folder("runs")


def test_versions_stay_and_aliases_move_and_return(storage: Folder, tmp_path: Path) -> None:
    registry = Registry(storage, "ada")
    one, two = exported(tmp_path / "one", "1"), exported(tmp_path / "two", "2")
    assert put(registry, one, "champion") == 1
    seen = registry.revision("m")
    assert put(registry, two, "candidate") == 2
    assert put(registry, two, "candidate") == 2, "the same model is added once"
    assert registry.resolve("m").number == 1
    version, before = registry.promote("m", "better")
    assert (version.number, before) == (2, 1)
    assert registry.resolve("m@champion").checksum == checksum_of(Folder.at(two))
    assert registry.revision("m") > seen
    assert [listed.aliases for listed in registry.versions("m")] == [(), ("champion",)]
    assert registry.rollback("m", "slow")[0].number == 1
    assert [(entry.what, entry.version, entry.by, entry.why) for entry in registry.history("m")][:2] == [
        ("rollback", 1, "ada", "slow"),
        ("promote", 2, "ada", "better"),
    ]
    with pytest.raises(UserError, match="has no champion before version 1"):
        registry.rollback("m")
    assert registry.resolve("m@2").fetch(tmp_path / "copy").joinpath("model.txt").read_text() == "2"
    assert registry.names() == ["m"]
    shown = document(registry.versions("m")[0])
    assert (shown["version"], shown["aliases"], shown["metric"], shown["measured"]) == (
        1, ["champion"], "accuracy", {"split": "test", "value": 0.9},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("n", "model 'n' does not exist"),
        ("m@", "write m@3, m@champion or m@candidate"),
        ("m@2", "no version '2'\n  fix: its versions are 1, its aliases none"),
        ("m@0", "no version '0'"),
        ("m", "has no champion\n  fix: write heliostat model promote m@1"),
        ("m@candidate", "has no candidate\n  fix: name a version, such as m@1"),
        ("../m", "cannot be a model's name"),
    ],
)
def test_a_reference_to_no_version_is_refused(tmp_path: Path, reference: str, says: str) -> None:
    registry = Registry(tmp_path)
    put(registry, exported(tmp_path / "one", "1"))
    with pytest.raises(UserError) as refused:
        registry.resolve(reference)
    assert says in str(refused.value)


def test_a_store_that_is_gone_at_any_write_leaves_whole_versions_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RELEASE", 0.0)
    one, two = exported(tmp_path / "one", "1"), exported(tmp_path / "two", "2")
    for left in range(40):
        store = Store()
        registry = Registry(store.folder("runs").once)
        put(registry, one, "champion")
        store.changes_left = left
        try:
            put(registry, two, "champion")
            finished = True
        except (OSError, HeliostatError):
            finished = False
        store.changes_left = None
        found = registry.versions("m")
        for listed in found:
            listed.version.verify()
        assert registry.resolve("m").number == len(found), f"after {left} writes"
        if finished:
            break
        store.objects = {path: data for path, data in store.objects.items() if "/lease" not in path}  # it expires
        assert put(registry, two, "champion") == 2, "the next one begins again"
        folders = {path.split("/")[4] for path in store.objects if "/versions/" in path}
        assert len(folders) == 2, "and what was left is deleted"
    assert len(found) == 2


def test_no_run_can_be_where_the_models_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the name is 'models', but .* is where the models of a storage are"):
        check_free_name(Folder.at(tmp_path) / "models")


def test_a_damaged_version_is_not_promoted(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    put(registry, exported(tmp_path / "one", "1"), "candidate")
    Path(registry.resolve("m@1").model.path, "model.txt").write_text("other")
    with pytest.raises(UserError, match=r"version m@1 is damaged: model\.txt in"):
        registry.promote("m")
    assert registry.versions("m")[0].aliases == ("candidate",)


def _promote(storage: str, number: int, start: Any, results: Any) -> None:
    registry = Registry(storage, f"process {number}")
    start.wait()
    try:
        registry.promote(f"m@{number}", "mine", expected=1)
        results.put("won")
    except UserError as error:
        results.put(str(error))


def test_of_promotions_at_once_one_wins_and_the_others_hear_who_did(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    for number in range(1, 5):
        put(registry, exported(tmp_path / str(number), str(number)), "champion" if number == 1 else "")
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(3), context.Queue()
    processes = [context.Process(target=_promote, args=(str(tmp_path), number, start, results)) for number in (2, 3, 4)]
    for process in processes:
        process.start()
    got = [results.get(timeout=300) for _ in processes]
    for process in processes:
        process.join()
    assert got.count("won") == 1
    winner = registry.resolve("m").number
    lost = [text for text in got if text != "won"]
    assert all(f"is version {winner}, but this command expects version 1; last changed by process {winner}" in t for t in lost)
    assert [entry.what for entry in registry.history("m")].count("promote") == 1


def test_of_promotions_at_once_in_an_object_store_one_wins(tmp_path: Path) -> None:
    store = Store()
    registry = Registry(store.folder("runs"))
    for number in range(1, 4):
        put(registry, exported(tmp_path / str(number), str(number)), "champion" if number == 1 else "")
    start, got = threading.Barrier(2), []

    def promote(number: int) -> None:
        start.wait()
        try:
            registry.promote(f"m@{number}", expected=1)
            got.append(number)
        except UserError:
            pass

    threads = [threading.Thread(target=promote, args=(number,)) for number in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [registry.resolve("m").number]


def test_an_entry_that_a_paused_process_writes_late_is_not_valid(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    for number in (1, 2):
        put(registry, exported(tmp_path / str(number), str(number)), "champion")
    late = registry.history("m")[0]
    registry.rollback("m")
    entry = late.model_copy(update={"number": registry.revision("m"), "at": late.at - 30})
    (registry.folder / "m" / "log").write(f"{entry.number:06d}-00000000.json", entry.model_dump_json().encode())
    assert registry.resolve("m").number == 1
