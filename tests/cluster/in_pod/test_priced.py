"""What nodes have cost is the same as from the whole record, in little memory; `test_record` compares both in any failure."""

import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import pytest

from heliostat.cluster.in_pod.priced import Span, Spans
from heliostat.cluster.in_pod.record import read
from heliostat.cluster.in_pod.recorder import line
from heliostat.cluster.in_pod.store import Store
from tests.cluster.in_pod.world import JOB, T0, InMemory, World, charged


def test_what_a_month_has_cost_needs_little_memory_and_only_files_that_have_changed() -> None:
    begin, nodes = datetime(2025, 11, 1, tzinfo=UTC).timestamp(), 29 * 24 * 12 + 99  # each five minutes, each with a job
    world = World()
    world.now = begin
    for number in range(nodes):
        at = begin + 300 * number
        world.lives = {f"n{number}": (at, at + 60, at + 290)}
        world.jobs = {f"job-{number}": {**JOB, "begin": at}}
        world.run(300, step=60)
    store = InMemory(world.files)
    spans = Spans(store)
    tracemalloc.start()
    spent = sum(each.cost(begin, world.now) for each in spans.of("gpu", "2025-11"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert spent == pytest.approx(charged(world.record()))
    assert peak < 16 << 20
    store.reads.clear()
    last = max(world.files)
    world.run(600).stop(off=False)
    assert sum(each.cost(begin, world.now) for each in spans.of("gpu", "2025-11")) == pytest.approx(charged(world.record()))
    assert store.reads == [f"gpu/{last}"]


def test_the_price_of_a_node_is_the_first_that_is_known_and_a_later_recorder_changes_nothing(tmp_path: Path) -> None:
    about = {"name": "a", "group": "gpu", "market": "spot", "gpus": 1, "asked": T0, "until": None, "state": "idle", "work": {}}

    def node(at: float, price: float | None) -> bytes:
        return line({"t": at, "e": "start"}) + line({"t": at, "e": "node", "id": "a", **about, "begin": T0, "price": price})

    files = {
        "2025-11/26T010000-ff-0001.jsonl": node(T0 + 40, 3.0),
        "2025-11/26T000000-aa-0001.jsonl": node(T0, None),
        "2025-11/26T020000-00-0001.jsonl": node(T0 + 80, 5.0),
    }
    for name, data in files.items():
        (tmp_path / "gpu" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "gpu" / name).write_bytes(data)
    found = read(files)
    assert found
    assert Spans(Store(str(tmp_path))).of("gpu", "2025-11") == [Span(T0, T0 + 80, 3.0)]
    assert charged(found) == pytest.approx(3 * 80 / 3600)
    assert Spans(Store(str(tmp_path))).of("gpu", "2025-12") == []
