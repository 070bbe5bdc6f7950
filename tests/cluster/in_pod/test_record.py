"""The record of a cluster's nodes: whatever is restarted, cut off or lost, nothing is counted twice or invented."""

import random
import threading
from email.message import Message
from math import inf
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliostat.cluster.cost import charges
from heliostat.cluster.in_pod import pods, ray_usage
from heliostat.cluster.in_pod import recorder as program
from heliostat.cluster.in_pod.pods import node_of, seconds, with_use
from heliostat.cluster.in_pod.priced import Span, Spans
from heliostat.cluster.in_pod.record import ALLOWED, DELETED, Drain, Gap, Record, parse, read
from heliostat.cluster.in_pod.recorder import Recorder, line
from heliostat.cluster.in_pod.store import Store, Writer
from heliostat.cluster.targets.history import events
from heliostat.cluster.targets.storage import InPlace
from tests.cluster.in_pod.world import JOB, T0, InMemory, World, charged
from tests.conftest import wait_for
from tests.outage import KEYS


def summary(record: Record) -> list[tuple[str, str, float, float]]:
    return [(each.node, each.state, each.begin - T0, each.end - T0) for each in record.intervals]


def test_a_node_is_recorded_from_its_begin_to_its_end() -> None:
    world = World()
    world.lives["a"] = (T0 + 10, T0 + 40, T0 + 300)
    world.run(400).stop(off=False)
    assert summary(world.record()) == [("a", "starting", 10, 40), ("a", "busy", 40, 299)]
    assert world.record().gaps == []


def test_a_restarted_recorder_leaves_a_gap_in_which_the_use_is_unknown() -> None:
    world = World()
    world.lives |= {"stays": (T0, T0, T0 + 900), "ends": (T0, T0, T0 + 300), "comes": (T0 + 310, T0 + 315, T0 + 900)}
    world.run(200).stop(off=None)
    world.now = T0 + 400
    world.run(100).stop(off=False)
    found = world.record()
    ((begin, end),) = [(gap.begin - T0, gap.end - T0) for gap in found.gaps]
    assert (140 <= begin <= 200, end) == (True, 400)
    assert summary(found) == [
        ("ends", "busy", 0, begin), ("stays", "busy", 0, begin), ("stays", "unknown", begin, 400),
        ("comes", "unknown", 310, 400), ("comes", "busy", 400, 500), ("stays", "busy", 400, 500),
    ]  # fmt: skip


def test_jobs_are_not_written_again_after_each_moment_without_an_answer() -> None:
    looks = iter([{"a": JOB}, {}, {"a": JOB}, {}, {"a": JOB, "b": JOB}])
    written: dict[str, bytes] = {}
    recorder = Recorder(lambda: ({}, next(looks)), written.__setitem__, lambda: T0)
    for _ in range(5):
        recorder.step()
    recorder.finish(off=False)
    assert [data.count(b'"e":"job"') for data in written.values()] == [2]


def test_many_lines_without_a_change_need_little_memory_and_say_the_same() -> None:
    at = [0.0, *(15.0 * n for n in range(1, 400)), 6200.0, *(6200.0 + 15 * n for n in range(1, 10))]
    lines = [{"t": T0, "e": "start"}, *({"t": T0 + t, "e": "beat"} for t in at[1:])]
    data = b"".join(map(line, lines))
    kept, damaged = parse(data)
    assert (len(kept) < len(lines) / 4, damaged) == (True, False)
    found = read({"2026-11/26T000000-ab-0001.jsonl": data})
    assert found
    assert (found.begin, found.end) == (T0, T0 + at[-1])
    assert [(gap.begin - T0, gap.end - T0) for gap in found.gaps] == [(15.0 * 399, 6200.0)]


@pytest.mark.parametrize(("stops", "status", "beats"), [(True, "RUNNING", 7), (False, "RUNNING", 1), (True, "SUCCEEDED", 1)])
def test_what_is_spent_is_written_soon_while_jobs_run_that_a_budget_stops(stops: bool, status: str, beats: int) -> None:
    job = {"run": "", "command": "", "status": status, "labels": {}, "begin": T0, "end": None}
    written, now = dict[str, bytes](), T0
    recorder = Recorder(lambda: ({}, {"a": job}), written.__setitem__, lambda: now, stops=lambda: stops)
    while now < T0 + 119:
        recorder.step()
        now += 2
    recorder.finish(off=False)
    assert sum(data.count(b'"e":"beat"') for data in written.values()) - 1 == beats


def test_a_moment_without_an_answer_of_ray_is_no_gap() -> None:
    node = {"name": "w", "group": "gpu", "market": "spot", "price": 1, "gpus": 1, "begin": 0.0, "until": None}
    busy, unknown = {"state": "busy", "work": {"job": 1.0}}, {"state": "unknown", "work": {}}
    states = [
        (0, busy),
        (10, unknown),
        (14, busy),
        (20, unknown),
        (32, busy),
        (40, unknown),
        (44, {"state": "idle", "work": {}}),
    ]
    lines = [{"t": 0.0, "e": "start"}, *({"t": float(t), "e": "node", "id": "w", **node, **state} for t, state in states)]
    found = read({"2026-11/26T000000-ab-0001.jsonl": b"".join(map(line, [*lines, {"t": 50.0, "e": "beat"}]))})
    assert found
    assert [(each.state, each.begin, each.end) for each in found.intervals] == [
        ("busy", 0, 20), ("unknown", 20, 32), ("busy", 32, 40), ("unknown", 40, 44), ("idle", 44, 50),
    ]  # fmt: skip


def test_a_suspension_is_no_gap_and_a_crash_is_one_until_now() -> None:
    world = World()
    world.lives["a"] = (T0, T0, T0 + 9000)
    world.run(100).stop(off=True)
    del world.lives["a"]
    assert world.record().during(T0, T0 + 5000).gaps == []
    world.now = T0 + 1000
    world.run(100).stop(off=None)
    found = world.record()
    assert found.gaps == []
    assert summary(found) == [("a", "busy", 0, 100)]
    (gap,) = found.during(T0, T0 + 5000).gaps
    assert (gap.begin - T0 > 1030, gap.end - T0) == (True, 5000)


def test_a_node_of_which_nobody_may_ask_any_more_ended_since_the_last_look_and_the_head_with_its_recorder() -> None:
    about = {"market": "spot", "price": 1.0, "gpus": 1, "asked": T0, "begin": T0, "until": None, "grace": 45, "work": {}}
    nodes = {
        name: {**about, "name": name, "group": group, "state": state}
        for name, group, state in (("h", "head", "idle"), ("i", "gpu", "idle"), ("b", "gpu", "busy"))
    }
    world = World()
    recorder = Recorder(lambda: (nodes, {}), world.files.__setitem__, lambda: world.now)
    recorder.step()
    world.now = T0 + 2
    recorder.step()
    world.now = T0 + 10
    recorder.finish(off=True)
    found = world.record()
    assert summary(found) == [("b", "busy", 0, 10), ("h", "idle", 0, 10), ("i", "idle", 0, 6)]
    assert found.gaps == [Gap(T0 + 10, T0 + 10 + 45)], "one that works may still drain"


def test_the_end_of_a_cluster_is_written_as_soon_as_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its recorder may be killed before it has seen all nodes end."""
    world, ended, recorded = World(), threading.Event(), list[Record]()
    world.lives["a"], world.lives["b"] = (T0, T0, T0 + 52), (T0, T0, T0 + 60)
    world.run(50)
    assert world.recorder

    def written(name: str, data: bytes) -> None:
        world.files[name] = data
        recorded.append(world.record())
        world.now += 2

    world.recorder._write = written
    monkeypatch.setattr(program, "LAST_POLL_SECONDS", 0)
    ended.set()
    assert program.record(world.recorder, lambda: True, ended, 3600)  # until there is no node any more
    assert [each.open for each in recorded] == [[]] * len(recorded)
    assert [node for node, *_ in summary(recorded[0])] == ["a", "b"]
    assert {node: 50 < end <= 62 for node, _, _, end in summary(recorded[-1])} == {"a": True, "b": True}


def test_workers_that_drain_when_the_head_is_gone_are_a_gap() -> None:
    node = {"name": "w", "group": "gpu", "market": "spot", "price": 1, "gpus": 1, "begin": 0.0, "until": 130.0, "work": {}}
    lines = [{"t": 60.0, "e": "start"}, {"t": 60.0, "e": "node", "id": "w", "state": "idle", **node}, {"t": 100.0, "e": "off"}]
    found = read({"2026-11/26T000000-ab-0001.jsonl": b"".join(map(line, lines))})
    assert found
    assert (found.intervals[-1].end, found.gaps, found.open) == (100.0, [Gap(100.0, 130.0)], [])
    # Its deletion was not seen: only one that works has something to finish.
    for state, gaps in (("idle", []), ("busy", [Gap(100.0, 145.0)])):
        lines[1] = {**lines[1], "state": state, "until": None, "grace": 45}
        found = read({"2026-11/26T000000-ab-0001.jsonl": b"".join(map(line, lines))})
        assert found
        assert found.gaps == gaps


OWN = {"cluster": "gpu-1a2b-xyz", "until": T0 + 3600}
"""What the recorder of a cluster that a job has to itself writes first."""


def own_cluster(number: int, begin: float, end: float, status: str, last: str, cluster: str = "") -> dict[str, bytes]:
    """The file of a recorder that was there from the start of a head until an end, with a job of this status."""
    node = {
        "name": "h",
        "group": "head",
        "market": "",
        "price": 1,
        "gpus": 0,
        "asked": begin - 8,
        "begin": begin - 5,
        "until": None,
        "grace": 10,
    }
    job = {"run": "own", "command": "", "labels": {}, "begin": begin + 20, "end": None}
    beats: list[dict[str, Any]] = [{"t": begin + 60 * n, "e": "beat"} for n in range(1, int(end - begin) // 60)]
    lines: list[dict[str, Any]] = [
        {"t": begin, "e": "start", **OWN, "cluster": cluster or f"gpu-{number}"},
        {"t": begin, "e": "node", "id": f"h{number}", **node, "state": "starting", "work": {}},
        {"t": begin + 20, "e": "node", "id": f"h{number}", **node, "state": "busy", "work": {f"own-{number}": 1.0}},
        {"t": begin + 20, "e": "job", "id": f"own-{number}", "status": status, **job}, *beats, {"t": end, "e": last},
    ]  # fmt: skip
    return {f"2026-11/26T00000{number}-a{number}-0001.jsonl": b"".join(map(line, lines))}


def test_a_cluster_of_one_job_fills_no_gap_of_another_one_and_has_none_before_and_after() -> None:
    world = World()
    world.lives["a"] = (T0, T0, T0 + 1000)
    world.run(100).stop(off=None)
    world.now = T0 + 500
    world.run(100).stop(off=False)
    world.files |= own_cluster(1, T0 + 200, T0 + 300, "SUCCEEDED", "off")
    found = world.record()
    ((begin, end, cluster),) = [(gap.begin - T0, gap.end - T0, gap.cluster) for gap in found.gaps]
    assert (0 < begin <= 98, end, cluster) == (True, 500, "")
    assert summary(found)[2:4] == [("h1", "starting", 195, 220), ("h1", "busy", 220, 300)]
    job = found.jobs["own-1"]
    assert (job.begin, job.cluster) == (T0 + 192, "gpu-1"), "it has waited since its head was asked for"
    assert [gap.cluster for gap in found.open] == [""], "only of the other one it is not known whether it still runs"


@pytest.mark.parametrize(("status", "until"), [("SUCCEEDED", 480), ("RUNNING", 3600)])
def test_a_cluster_of_one_job_whose_end_was_not_seen_has_a_gap_until_it_is_deleted_at_the_latest(
    status: str, until: float
) -> None:
    found = read(own_cluster(1, T0, T0 + 300, status, "beat"))
    assert found
    assert found.during(T0, T0 + 350).gaps == [], "it may just not have written yet"
    assert found.during(T0, T0 + 86400).gaps == [Gap(T0 + 300, T0 + until, "gpu-1")]


def test_a_cluster_of_one_job_whose_end_was_not_seen_has_a_gap_until_the_job_has_another_one() -> None:
    preempted = own_cluster(1, T0, T0 + 300, "RUNNING", "beat", "job-aaaaa")
    again = own_cluster(2, T0 + 900, T0 + 1000, "SUCCEEDED", "off", "job-bbbbb")
    found = read(preempted | again)
    assert found
    assert found.during(T0, T0 + 86400).gaps == [Gap(T0 + 300, T0 + 900, "job-aaaaa")]


def test_the_rights_that_go_with_a_cluster_are_its_end_and_no_other_ids_follow(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def answer(method: str, path: str) -> Any:
        if not rights:
            raise HTTPError(path, 403, "Forbidden", Message(), None)
        return {"items": [{**pod(), "metadata": {**POD["metadata"], "uid": "a"}}]}

    rights, ended = True, threading.Event()
    (tmp_path / "prices.json").write_text("{}")
    for name, value in {"PRICES": str(tmp_path / "prices.json"), "NAMESPACE": "n", "CLUSTER": "c"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(pods, "kubernetes", answer)
    jobs: dict[str, Any] = {}
    monkeypatch.setattr(ray_usage, "uses", lambda get: ({"ray-id": {"id": "b", "group": "gpu", "work": {}, "began": 0}}, jobs))
    look = pods.Pods(lambda path: None, ended)
    assert look()[0].keys() == {"a"}
    ended.set()
    rights = False
    assert look.going()
    with pytest.raises(PermissionError, match="gone with the cluster"):
        look()
    # Without the rights from the start, as in a queue, it is not known, unless the cluster is a job's that has ended.
    for own, status, known in ((False, "SUCCEEDED", False), (True, "RUNNING", False), (True, "SUCCEEDED", True)):
        never = pods.Pods(lambda path: None, ended, own)
        jobs["job"] = {**JOB, "status": status}
        assert never()[0].keys() == {"b"}
        if known:
            assert never.going()
        else:
            with pytest.raises(HTTPError):
                never.going()


ANSWERS = {
    "/api/jobs/": [],
    "/nodes": {
        "data": {
            "summary": [
                {"raylet": {"nodeId": "h", "instanceId": "head", "state": "ALIVE", "isHeadNode": True, "startTimeMs": 0}},
                {"raylet": {"nodeId": "w", "instanceId": "worker", "state": "ALIVE", "nodeTypeName": "gpu", "startTimeMs": 0,
                            "resourcesTotal": {"CPU": 4.0, "GPU": 1.0}}},
            ],
            "nodeLogicalResources": {"h": "", "w": "1.0/4.0 CPU\n0.5/1.0 GPU"},
        }
    },
    "actors": [
        {"node_id": "h", "job_id": "01000000", "class_name": "ServeController", "required_resources": {}},
        {"node_id": "w", "job_id": "01000000", "class_name": "ServeReplica:churn:replica",
         "required_resources": {"CPU": 1.0, "GPU": 0.5}},
    ],
}  # fmt: skip
"""What the dashboard of Ray 2.60 says of a cluster with a service."""


def answer(path: str) -> Any:
    kind = next((kind for kind in ANSWERS if path.startswith(kind) or path.startswith(f"/api/v0/{kind}")), None)
    found: Any = ANSWERS.get(kind or "", [])
    return {"data": {"result": {"result": found}}} if path.startswith("/api/v0") else found


def test_what_replicas_hold_belongs_to_their_service_which_is_not_lost_with_its_head() -> None:
    used, jobs = ray_usage.uses(answer)
    assert {name: about["work"] for name, about in used.items()} == {
        "head": {"serve:churn": 1.0},
        "worker": {"serve:churn": 0.5},
    }
    node = {"name": "w", "group": "gpu", "market": "spot", "price": 2.0, "gpus": 1, "asked": T0, "begin": T0, "until": None}
    busy = {"a": {**node, "state": "busy", "work": used["worker"]["work"]}}
    world = World()
    clock = iter([T0, T0 + 60])
    own = {"cluster": "serve-churn-x2v4k"}
    recorder = Recorder(lambda: (busy, jobs), world.files.__setitem__, lambda: next(clock), own)
    recorder.step()
    recorder.finish(off=True)
    found = world.record()
    (job,) = found.jobs.values()
    assert (job.run, job.command, job.cluster) == ("serve:churn", "heliostat serve churn", own["cluster"])
    parts = {(charge.kind, charge.job) for charge in charges(found, {})}
    assert parts >= {("productive", "serve:churn"), ("idle", "")}
    assert not {kind for kind, _ in parts} & {"lost"}


def test_a_services_cluster_whose_head_was_lost_has_a_gap_until_the_next_one_has_answered_and_it_is_deleted() -> None:
    serves: dict[str, Any] = {
        "e": "job", "id": "serve:churn", "run": "serve:churn", "command": "", "status": ray_usage.SERVING, "labels": {},
        "begin": None, "end": None,
    }  # fmt: skip

    def recorded(letter: str, service: str, begin: float, answers: float) -> dict[str, bytes]:
        """Of a cluster whose recorder is lost ten seconds after it answers."""
        head: dict[str, Any] = {
            "id": letter, "name": letter, "group": "head", "market": "spot", "price": 2.0, "gpus": 0, "asked": begin,
            "begin": begin, "until": None, "state": "idle", "work": {},
        }  # fmt: skip
        lines: list[dict[str, Any]] = [
            {"t": T0 + begin, "e": "start", "cluster": f"serve-{service}-{letter * 5}"},
            {"t": T0 + begin, "e": "node", **head},
            {"t": T0 + answers, **serves},
            {"t": T0 + answers + 10, "e": "beat"},
        ]
        return {f"2026-11/26T00000{letter}-{letter}-0001.jsonl": b"".join(map(line, lines))}

    lost = recorded("1", "churn", 0, 50)
    others = recorded("2", "churn-b", 100, 200)
    for next_one, end in ((recorded("3", "churn", 300, 400), 400), (recorded("3", "churn", 20, 40), 60)):
        found = read(lost | others | next_one)
        assert found
        ends = {gap.cluster: gap.end - T0 for gap in found.open}
        assert ends == {"serve-churn-11111": end + DELETED, "serve-churn-b-22222": inf, "serve-churn-33333": inf}


def test_kueue_is_reminded_of_a_pod_that_it_has_not_let_go_for_half_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[tuple[str, str]]()
    pod: dict[str, Any] = {"metadata": {"uid": "u", "name": "w", "creationTimestamp": "2026-03-02T00:00:00Z"}, "spec": {}}

    def answer(method: str, path: str, body: object = None) -> Any:
        asked.append((method, path.rpartition("/")[2]))
        return {"items": [pod]}

    monkeypatch.setattr(pods, "kubernetes", answer)
    monkeypatch.setattr(pods, "loaded", lambda path: {})
    for name, value in {"CLUSTER": "gpu", "NAMESPACE": "here", "PRICES": "prices.json"}.items():
        monkeypatch.setenv(name, value)
    created, passed = seconds("2026-03-02T00:00:00Z"), 0.0
    there = pods.Pods(lambda path: {}, threading.Event())
    look = program.with_reminders(there, there, lambda: created + passed)
    at = list[float]()
    pod["spec"] = {"schedulingGates": [{"name": "kueue.x-k8s.io/elastic-job"}]}
    for passed in (5.0, 29.0, 31.0, 45.0, 62.0, 100.0):
        if passed == 100.0:
            pod["spec"] = {}
        before = len(asked)
        look()
        at += [passed] * (("PATCH", "gpu") in asked[before:])
    assert at == [31.0, 62.0]


def test_a_job_that_ran_when_its_head_was_lost_is_lost() -> None:
    job = {"e": "job", "run": "", "command": "", "status": "RUNNING", "labels": {}, "begin": 0.0, "end": None}
    lost, stays = (
        [{"t": 0.0, "e": "start"}, {"t": 0.0, "id": "a", **job}],
        [{"t": 60.0, "e": "start"}, {"t": 60.0, "id": "b", **job}],
    )
    names = ("2026-11/26T000000-ab-0001.jsonl", "2026-11/26T000100-cd-0001.jsonl")
    found = read({name: b"".join(map(line, lines)) for name, lines in zip(names, (lost, stays), strict=True)})
    assert found
    assert {id: job.status for id, job in found.jobs.items()} == {"a": "LOST", "b": "RUNNING"}


def test_the_state_of_ray_of_clusters_that_are_gone_is_deleted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def gone(name: str) -> bool:
        if name == "asks":
            raise HTTPError(name, 403, "Forbidden", Message(), None)
        return name == "gone"

    program.delete_states(str(tmp_path / "none"), gone)
    for name in ("gone", "runs", "asks"):
        (tmp_path / name / "db").mkdir(parents=True)
        (tmp_path / name / "db/1.sst").write_bytes(b"x")
    program.delete_states(str(tmp_path), gone)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["asks", "runs"]
    assert "cannot delete the state of asks" in capsys.readouterr().out


def test_after_an_outage_a_node_that_is_gone_ended_when_it_was_last_seen() -> None:
    world = World()
    world.lives["a"] = (T0, T0, T0 + 1000)
    world.run(100)
    world.now = T0 + 2000
    world.run(10).stop(off=False)
    assert summary(world.record()) == [("a", "busy", 0, 98)]
    assert [(gap.begin - T0 >= 60, gap.end - T0) for gap in world.record().gaps] == [(True, 2000)]


@pytest.mark.parametrize("ended", [False, True])
def test_a_node_that_is_drained_is_recorded_with_the_reason_also_if_it_has_ended_at_the_next_look(ended: bool) -> None:
    before, after = pod(), pod("Failed" if ended else "Running")
    evicted = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
    after["status"]["conditions"].append({**evicted, "lastTransitionTime": "2026-11-26T20:05:00Z"})
    looks = iter([before, after, after])

    def look() -> tuple[dict[str, Any], dict[str, Any]]:
        node = node_of(next(looks), PRICES)
        with_use(node, {}, "")
        return {"a": node}, {}

    files: dict[str, bytes] = {}
    recorder = Recorder(look, files.__setitem__, lambda: T0)
    for _ in range(3):
        recorder.step()
    recorder.finish(off=True)
    found = read(files)
    assert found
    assert found.drains == [Drain(seconds("2026-11-26T20:05:00Z"), "gpu-1", "gpu", "EvictionByEvictionAPI")]
    (event,) = events([], found)
    assert (event.who, event.what, event.which, event.about) == ("unknown", "drain gpu", "gpu-1", "EvictionByEvictionAPI")


def test_files_are_bounded_and_each_can_be_read_alone() -> None:
    world, count = World(), 200
    for number in range(count):
        world.lives[f"n{number}"] = (T0 + number, T0 + number + 5, T0 + number + 50)
    world.lives["long"] = (T0, T0, T0 + 1e6)
    world.run(400).stop(off=False)
    assert len(world.files) > 1
    assert max(map(len, world.files.values())) < program.CHUNK + 50_000
    last = read({max(world.files): world.files[max(world.files)]})
    assert last
    assert "long" in {each.node for each in last.intervals}


ACTION = st.tuples(
    st.sampled_from(["node", "run", "kill", "stop", "off", "sleep", "skew"]), st.floats(1, 400), st.floats(0, 300)
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ACTION, min_size=1, max_size=14), st.integers(0, 2**32), st.floats(0, 1))
def test_any_restart_any_cut_and_any_order_of_files_count_no_node_twice_and_none_too_long(
    actions: list[tuple[str, float, float]], seed: int, cut: float
) -> None:
    world, chance = World(), random.Random(seed)
    for number, (action, first, second) in enumerate(actions):
        if action == "node":
            begin = world.now + first
            world.lives[str(number)] = (begin, begin + second, begin + second + first)
        elif action == "run":
            world.run(first, step=10)
        elif action in ("kill", "stop", "off"):
            world.stop({"kill": None, "stop": False, "off": True}[action])
            if action == "off":  # the nodes end with the cluster
                world.lives = {node: (b, min(u, world.now), min(e, world.now)) for node, (b, u, e) in world.lives.items()}
        elif action == "skew":  # the next recorder runs on a machine whose clock is a little behind
            world.stop(None)
            world.now -= second / 100
        else:
            world.now += first
    files = list(world.files.items())
    chance.shuffle(files)
    if files and cut < 0.8:
        name, data = files[0]
        files[0] = name, data[: int(len(data) * cut)]
    record = read(dict(files))
    if record is None:
        assert not files or cut < 0.8
        return
    whole: dict[str, float] = {}
    ends: dict[str, float] = {}
    for each in sorted(record.intervals, key=lambda each: each.begin):
        begin, _, end = world.lives[each.node]
        assert each.begin < each.end
        assert each.begin >= ends.get(each.node, begin)
        assert each.end <= end + 10.01, "no longer than until the look after its end"
        ends[each.node] = each.end
        whole[each.node] = whole.get(each.node, 0.0) + each.seconds
        if each.state != "unknown" and each.state != "starting":
            assert not any(gap.begin < each.end and gap.end > each.begin for gap in record.gaps)
    for node, length in whole.items():
        assert length == pytest.approx(ends[node] - world.lives[node][0]), "without a hole in between"
    middle = (record.begin + record.end) / 2
    halves = [record.during(record.begin, middle), record.during(middle, record.end)]
    parts = sum(each.seconds for half in halves for each in half.intervals)
    assert parts == pytest.approx(sum(each.seconds for each in record.intervals), abs=1e-3)
    at = dict(files)
    spans = Spans(InMemory(at)).of("gpu", "2025-11")
    assert sum(each.cost(middle, record.end) for each in spans) == pytest.approx(charged(record.during(middle, record.end)))


@pytest.mark.parametrize("broken", ["flipped", "torn"])
def test_a_damaged_line_ends_its_file_and_the_next_one_continues(broken: str) -> None:
    world = World()
    world.lives["a"] = (T0, T0, T0 + 2000)
    world.run(400).stop(off=False)
    (name,) = world.files
    data = world.files[name]
    cut = data.index(b"\n", len(data) * 7 // 10)
    world.files[name] = data[:cut] + b"x" * (broken == "flipped") + data[cut:] if broken == "flipped" else data[: cut - 3]
    world.now = T0 + 1000
    world.run(100).stop(off=False)
    found = world.record()
    assert found.damaged == (broken == "flipped")
    ((begin, end),) = [(gap.begin, gap.end) for gap in found.gaps]
    assert begin < T0 + 400 < end == T0 + 1000
    assert [each.state for each in found.intervals] == ["busy", "unknown", "busy"]


POD: dict[str, Any] = {
    "metadata": {
        "uid": "u", "name": "gpu-1", "creationTimestamp": "2026-11-26T20:00:00Z",
        "labels": {"ray.io/node-type": "worker", "ray.io/group": "gpu"},
    },
    "spec": {"terminationGracePeriodSeconds": 45},
    "status": {"phase": "Pending", "conditions": []},
}  # fmt: skip
PRICES = {"gpu": {"market": "spot", "price": 3.0, "gpus": 4}}


def pod(phase: str = "Running", **changes: Any) -> dict[str, Any]:
    since = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-26T20:01:00Z"}
    return {**POD, "metadata": {**POD["metadata"], **changes}, "status": {"phase": phase, "conditions": [since]}}


@pytest.mark.parametrize(
    ("document", "used", "before", "state"),
    [
        (POD, {}, "", "asked"),
        (pod(), {}, "", "starting"),
        (pod(), None, "starting", "starting"),
        (pod(), {"gpu-1": {"work": {}}}, "starting", "idle"),
        (pod(), {"gpu-1": {"work": {"job": 0.5}}}, "idle", "busy"),
        (pod(), None, "busy", "unknown"),
        (pod(), {}, "busy", "idle"),
        (pod(deletionTimestamp="2026-11-26T20:09:00Z"), {}, "", "idle"),
    ],
)
def test_the_state_of_a_pod_is_what_kubernetes_and_ray_say(
    document: dict[str, Any], used: dict[str, Any] | None, before: str, state: str
) -> None:
    node = node_of(document, PRICES)
    assert with_use(node, used, before) == state
    assert (node["group"], node["price"], node["gpus"], node["state"]) == ("gpu", 3.0, 4, state)
    assert (node["begin"] is None) == (state == "asked")


def test_a_pod_that_has_exited_ended_when_its_container_did() -> None:
    exited = pod("Failed")
    exited["status"]["containerStatuses"] = [{"state": {"terminated": {"finishedAt": "2026-11-26T20:05:00Z"}}}]
    node = node_of(exited, PRICES)
    assert node["end"] - node["begin"] == 240
    assert node_of(pod(), {})["price"] is None, "its group is not in the profile any more"


@pytest.fixture
def blocked(tmp_path: Path) -> Path:
    """A storage that cannot be written until the file in its place is gone."""
    root = tmp_path / "storage"
    root.write_text("")
    return root


@pytest.mark.parametrize("retry_seconds", [pytest.param(0.05, id="after-a-while"), pytest.param(1000, id="at-the-end")])
def test_a_storage_that_fails_is_written_when_it_answers_again(
    blocked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], retry_seconds: float
) -> None:
    monkeypatch.setattr("heliostat.cluster.in_pod.store.RETRY_SECONDS", retry_seconds)
    writer = Writer(str(blocked))
    writer.write("a/b.jsonl", b"first")
    writer.write("a/b.jsonl", b"second")
    wait_for(lambda: "cannot write the record" in capsys.readouterr().out, "the first failure")
    blocked.unlink()
    if retry_seconds < 1:
        wait_for((blocked / "a/b.jsonl").exists, "the next try")
    writer.close(100)
    assert (blocked / "a/b.jsonl").read_bytes() == b"second"
    assert [path.name for path in blocked.rglob("*") if path.is_file()] == ["b.jsonl"]


@pytest.mark.accept
def test_a_record_is_written_to_an_object_store_and_read_from_there(
    endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for key, value in KEYS.items():
        monkeypatch.setenv(key, value)
    uri = f"s3://bucket/team?endpoint_override={endpoint}&scheme=http&region=x"
    world, writer = World(), Writer(uri)
    world.lives["a"] = (T0, T0, T0 + 500)
    world.files = Stored(writer)
    world.run(200).stop(off=False)
    writer.close(20)
    InPlace(uri).fetch([".nodes/team/gpu/2025-11/*"], tmp_path)
    found = read({str(path): path.read_bytes() for path in tmp_path.rglob("*.jsonl")})
    assert found
    assert summary(found) == [("a", "busy", 0, 200)]
    store = Store(uri)
    assert store.folders(".nodes/team") == [".nodes/team/gpu"]
    assert store.folders(".nodes/other") == []
    assert Spans(store).of(".nodes/team/gpu", "2025-11") == [Span(T0, T0 + 200, 2.0)]


class Stored(dict[str, bytes]):
    """Files that a writer gets."""

    def __init__(self, writer: Writer) -> None:
        super().__init__()
        self._writer = writer

    def __setitem__(self, name: str, data: bytes) -> None:
        self._writer.write(f".nodes/team/gpu/{name}", data)


def test_the_allowance_covers_a_heartbeat_and_a_slow_look() -> None:
    assert program.BEAT_SECONDS + 10 + program.POLL_SECONDS < ALLOWED
