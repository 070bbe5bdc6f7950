"""The history of a cluster: every action gets from a command to the storage once, whatever ends in between."""

from pathlib import Path
from typing import Any

import pytest

from heliostat.cluster.in_pod import actions
from heliostat.cluster.in_pod.actions import PREFIX, Recorded, action, annotation, waiting
from heliostat.cluster.in_pod.record import Record, RecordedJob
from heliostat.cluster.in_pod.store import Writer
from heliostat.cluster.kube.kuberay import KubeRay
from heliostat.cluster.profile import Profile
from heliostat.cluster.targets.history import KEPT, KEPT_IN, events, note, stored, waiting_at
from heliostat.cluster.targets.kubernetes import KubernetesCluster
from tests.cluster.kube.api_server import answering, kubeconfig, serving
from tests.conftest import wait_for

CLUSTER = "/apis/ray.io/v1/namespaces/team/rayclusters/gpu"
PROFILE = {"name": "gpu", "image": "a/b:2.60.0", "groups": [{"name": "cpu", "max": 1}], "storage": {"claim": "runs"}}


class Cluster:
    """A RayCluster whose annotations a recorder reads and removes."""

    def __init__(self) -> None:
        self.annotations: dict[str, str] = {"other": "kept"}

    def add(self, what: str) -> str:
        id, made = action("ada", "ada@laptop", what, "gpu")
        self.annotations |= annotation(id, made)
        return id

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        assert path == CLUSTER
        for key in (body or {"metadata": {"annotations": {}}})["metadata"]["annotations"]:
            self.annotations.pop(key, None)
        return {"metadata": {"annotations": dict(self.annotations)}}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()
    monkeypatch.setattr(actions, "kubernetes", cluster)
    monkeypatch.setenv("NAMESPACE", "team")
    monkeypatch.setenv("CLUSTER", "gpu")
    return cluster


def read(root: Path) -> tuple[dict[str, Any], int]:
    return stored({str(path): path.read_bytes() for path in root.rglob("*.action")})


def until_taken(recorded: Recorded, cluster: Cluster) -> None:
    def taken() -> bool:
        recorded.step()
        return list(cluster.annotations) == ["other"]

    wait_for(taken, "the actions to be taken")


def test_an_action_is_removed_from_the_cluster_only_when_it_is_on_the_storage(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heliostat.cluster.in_pod.store.RETRY_SECONDS", 0.05)
    ids = [cluster.add("up"), cluster.add("stop")]
    root = tmp_path / "storage"
    root.write_text("it cannot be written while this file is here")
    writer = Writer(str(root))
    recorded = Recorded(writer, "folder")
    for _ in range(3):
        recorded.step()
    assert len(list(waiting(cluster.annotations))) == 2
    root.unlink()
    until_taken(recorded, cluster)
    found, damaged = read(root)
    assert ({id: each["what"] for id, each in found.items()}, damaged) == (dict(zip(ids, ["up", "stop"], strict=True)), 0)
    writer.close(100)


def test_a_recorder_that_is_killed_after_it_has_written_doubles_nothing(cluster: Cluster, tmp_path: Path) -> None:
    cluster.add("up")
    before = dict(cluster.annotations)
    for _ in range(2):
        cluster.annotations = dict(before)
        writer = Writer(str(tmp_path))
        until_taken(Recorded(writer, "folder"), cluster)
        writer.close(100)
    assert len(read(tmp_path)[0]) == 1


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "1", '{"t": 1}', '{"t": "x"}', '{"t": 1e300, "who": "", "from": "", "what": "", "which": ""}',
             '{"t": 1, "who": 3, "from": "", "what": "", "which": ""}'],
)  # fmt: skip
def test_annotations_that_others_have_written_stop_no_recorder(text: str) -> None:
    assert list(waiting({f"{PREFIX}{'0' * 16}": text, f"{PREFIX}../../x": text})) == []
    assert stored({f"2026-11/01T000000-{'0' * 16}.action": text.encode()}) == ({}, 1)


def test_the_name_on_kubernetes_is_what_the_api_server_answers(tmp_path: Path) -> None:
    sent: list[Any] = []

    def keep(handler: Any) -> bool:
        sent.append(handler.body)
        return False

    with serving() as server:
        kube = KubeRay(str(kubeconfig(tmp_path / "kubeconfig", server)), namespace="team")
        target = KubernetesCluster(Profile.model_validate(PROFILE), kube)
        assert note(target, "down", last=True) == "", "there is nothing to delete"
        assert waiting_at(target) == []
        server.put(CLUSTER, spec={})
        review = {"status": {"userInfo": {"username": "ada@example.com"}}}
        server.faults.extend([lambda handler: False, answering(201, review), keep])
        assert note(target, "stop", "job") == ""
        ((_, made),) = waiting(sent[0]["metadata"]["annotations"])
        assert (made["who"], made["what"], made["which"]) == ("ada@example.com", "stop", "job")
        server.put(CLUSTER, metadata={"annotations": annotation(*action("a", "b", "up", "gpu"))}, spec={})
        full = dict(pair for _ in range(200) for pair in annotation(*action("a", "b", "up", "gpu")).items())
        server.put(CLUSTER, metadata={"annotations": full}, spec={})
        assert note(target, "stop", "job") == "200 actions wait for the recorder of gpu"


def kept(sent: list[Any]) -> list[str]:
    """What the last request gave the namespace to keep."""
    return [each["what"] for _, each in waiting({k: v for k, v in sent[-1]["metadata"]["annotations"].items() if v})]


def test_what_belongs_to_no_cluster_is_kept_in_the_namespace(tmp_path: Path) -> None:
    sent: list[Any] = []

    def keep(handler: Any) -> bool:
        if handler.body and handler.command in ("POST", "PATCH"):
            sent.append(handler.body)
        return False

    with serving() as server:
        kube = KubeRay(str(kubeconfig(tmp_path / "kubeconfig", server)), namespace="team")
        target = KubernetesCluster(Profile.model_validate(PROFILE), kube)
        server.faults.extend([keep] * 100)
        assert note(target, "cron create", "nightly") == "", "its cluster need not exist"
        assert [(each["what"], each["which"]) for _, each in waiting_at(target)] == [("cron create", "nightly")]
        assert note(kube, "team apply", "vision") == ""
        assert kept(sent) == ["team apply"]
        many = dict(pair for _ in range(KEPT) for pair in annotation(*action("a", "b", "cron change", "x")).items())
        server.put(f"/api/v1/namespaces/team/configmaps/{KEPT_IN}", metadata={"annotations": many})
        assert note(kube, "team apply", "vision") == ""
        gone = [key for key, value in sent[-1]["metadata"]["annotations"].items() if value is None]
        assert len(gone) == 1, "the oldest one makes room"
        assert gone[0] in many
        assert kept(sent) == ["team apply"]
        server.put(CLUSTER, metadata={"annotations": annotation(*action("a", "b", "up", "gpu"))}, spec={})
        assert note(target, "down", last=True) == ""
        assert kept(sent) == ["up"], "no recorder of gpu runs that would take what waits, and which is deleted with it"


def test_jobs_of_the_record_are_in_the_history_with_their_submitter() -> None:
    ended = RecordedJob("a", "a", "heliostat train a", "STOPPED", {"submitter": "ada"}, 10.0, 30.0)
    runs = RecordedJob("b", "b", "heliostat train b", "RUNNING", {}, 15.0, None)
    nightly = RecordedJob("c", "c", "heliostat train c", "RUNNING", {"submitter": "ada"}, 35.0, None, cron="c")
    record = Record(0.0, 40.0, [], [], {"a": ended, "b": runs, "c": nightly})
    stop = {"t": 20.0, "who": "eve", "from": "eve@laptop", "what": "stop", "which": "a"}
    assert [(event.at, event.who, event.what, event.which) for event in events([stop], record)] == [
        (10.0, "ada", "submit", "a"), (15.0, "unknown", "submit", "b"),
        (20.0, "eve", "stop", "a"), (30.0, "", "ended STOPPED", "a"),
        (35.0, "ada", "cron start", "c"),
    ]  # fmt: skip
