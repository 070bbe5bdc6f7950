"""The clients of the API server and the dashboard outlast failures that pass, and send nothing twice; against a real server."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from heliostat.cluster import retries
from heliostat.cluster.errors import Forbidden, KubernetesError, Unreachable
from heliostat.cluster.jobs.dashboard import Dashboard, by_port
from heliostat.cluster.kube import objects
from heliostat.cluster.kube.kuberay import KubeRay
from heliostat.cluster.names import Document
from heliostat.cluster.ports import free_ports
from heliostat.errors import NotComing
from tests.cluster.kube.api_server import (
    ApiServer,
    Fault,
    answering,
    executed_and_lost,
    failing,
    kubeconfig,
    lost,
    serving,
    well,
)

CLUSTERS = "/apis/ray.io/v1/namespaces/team/rayclusters"
JOBS = "/apis/ray.io/v1/namespaces/team/rayjobs"
EXPIRED: Document = {"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "too old resource version"}}
NO_RIGHT: Document = {"type": "ERROR", "object": {"code": 403, "message": 'User "me" cannot watch resource'}}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_PAUSE", 0.01)


class Clock:
    """Time that passes only in pauses, so that what happens within a limit does not depend on the machine's speed."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time of retries and watches."""
    clock = Clock()
    for module in (retries, objects):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with serving() as server:
        yield server


@pytest.fixture
def kube(server: ApiServer, tmp_path: Path) -> KubeRay:
    return KubeRay(str(kubeconfig(tmp_path / "kubeconfig", server)))


def job(name: str, entrypoint: str = "true") -> Document:
    return {"metadata": {"name": name}, "kind": "ConfigMap", "data": {"entrypoint": entrypoint}}


@pytest.mark.parametrize("fault", [lost, failing(503), failing(502), failing(504), failing(429, Retry_After="0")])
def test_requests_that_change_nothing_outlast_failures(server: ApiServer, kube: KubeRay, fault: Fault) -> None:
    server.put(f"{CLUSTERS}/gpu")
    server.faults.extend([fault] * 3)
    assert kube.clusters.get("gpu")["metadata"]["name"] == "gpu"
    server.faults.extend([fault] * 3)
    dashboard = Dashboard(by_port(server.server_port, "token"), "gpu")
    server.put("/api/version", ray_version="2.60.0")
    assert dashboard.version() == "2.60.0"
    assert not server.faults


@pytest.mark.parametrize("fault", [failing(500), failing(403)])
def test_a_refusal_is_not_repeated(server: ApiServer, kube: KubeRay, fault: Fault) -> None:
    server.faults.extend([fault, fault])
    with pytest.raises(KubernetesError):
        kube.clusters.get("gpu")
    assert len(server.requests) == 1


def test_the_pause_that_the_server_asks_for_is_kept_and_a_long_one_is_an_error_that_names_it(
    server: ApiServer, kube: KubeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("heliostat.cluster.retries.time.sleep", slept.append)
    server.put(f"{CLUSTERS}/gpu")
    server.faults.append(failing(503, Retry_After="7"))
    kube.clusters.get("gpu")
    assert slept == [7]
    server.faults.append(failing(429, Retry_After="3600"))
    with pytest.raises(Unreachable) as error:
        kube.clusters.get("gpu")
    assert (slept, error.value.fix) == ([7], "retry after 3600 s, as it asks")


@pytest.mark.usefixtures("clock")
def test_failures_without_an_end_are_an_error_after_a_limit(
    server: ApiServer, kube: KubeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heliostat.cluster.kube.api.send.__defaults__", (0.1,))
    server.faults.extend([failing(503)] * 100)
    with pytest.raises(Unreachable, match="answered 503"):
        kube.clusters.get("gpu")
    assert 1 < len(server.requests) < 100


@pytest.mark.parametrize("fault", [lost, executed_and_lost, failing(429), failing(503)])
def test_an_object_is_created_once_whether_the_request_or_its_answer_is_lost(
    server: ApiServer, kube: KubeRay, fault: Fault
) -> None:
    server.faults.append(fault)
    created = kube.objects("ConfigMap").create(job("one"))
    assert created["metadata"]["name"] == "one"
    assert [path for path in server.objects if path.endswith("/one")] == ["/api/v1/namespaces/team/configmaps/one"]


def test_a_job_waits_until_a_head_that_has_just_started_can_take_it(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    dashboard = Dashboard(by_port(server.server_port, "token"), "gpu")
    early = answering(500, "No available agent to submit job, please try again later.")
    server.faults.extend([early, answering(200, {})])
    dashboard.submit("one", "true", {}, {})
    assert server.requests == [("POST", "/api/jobs/")] * 2
    monkeypatch.setattr("heliostat.cluster.jobs.dashboard.AGENT_SECONDS", 0.0)
    server.faults.append(early)
    with pytest.raises(Unreachable, match="No available agent"):
        dashboard.submit("one", "true", {}, {})


def test_an_object_that_another_client_has_created_meanwhile_is_not_taken_for_ours(server: ApiServer, kube: KubeRay) -> None:
    server.put("/api/v1/namespaces/team/configmaps/one", data={"entrypoint": "false"})
    server.faults.append(lost)
    with pytest.raises(Unreachable):
        kube.objects("ConfigMap").create(job("one"))


def test_a_request_that_did_not_arrive_is_repeated_whatever_it_does(monkeypatch: pytest.MonkeyPatch, kube: KubeRay) -> None:
    kube.api.configuration.host = f"http://127.0.0.1:{free_ports(1)[0]}"
    slept: list[float] = []
    monkeypatch.setattr("heliostat.cluster.retries.time.sleep", slept.append)
    monkeypatch.setattr("heliostat.cluster.retries._late", lambda *_: len(slept) > 3)
    with pytest.raises(Unreachable, match="does not answer"):
        kube.api.request("POST", kube.api.path("RayJob"), job("one"))
    assert len(slept) == 4


def test_an_answer_that_is_no_json_is_no_traceback(server: ApiServer, kube: KubeRay) -> None:
    def html(handler: object) -> bool:
        handler.send_response(200)  # type: ignore[attr-defined]
        handler.send_header("Content-Length", "6")  # type: ignore[attr-defined]
        handler.end_headers()  # type: ignore[attr-defined]
        handler.wfile.write(b"<html>")  # type: ignore[attr-defined]
        return True

    server.faults.append(html)
    with pytest.raises(Unreachable, match="something other than JSON"):
        kube.clusters.get("gpu")


def test_a_watch_outlasts_lost_connections_and_yields_what_has_changed_meanwhile(server: ApiServer, kube: KubeRay) -> None:
    for name in ("stays", "changes", "goes"):
        server.put(f"{CLUSTERS}/{name}")

    def changed_behind_its_back() -> bytes:
        server.put(f"{CLUSTERS}/changes", spec={"suspend": True})
        del server.objects[f"{CLUSTERS}/goes"]
        server.put(f"{CLUSTERS}/comes")
        return b'{"type": "MODI'  # and the connection ends

    event = {"type": "MODIFIED", "object": server.put(f"{CLUSTERS}/stays")}
    server.streams.extend([[event], [changed_behind_its_back], [b"<html>\n"], [EXPIRED]])
    server.faults.extend([lost, failing(503), well, well, well, lost, failing(502)])
    watch = kube.clusters.watch(timeout=120)
    seen = [(change, item["metadata"]["name"]) for change, item in itertools.islice(watch, 7)]
    assert sorted(seen[:3]) == [("ADDED", "changes"), ("ADDED", "goes"), ("ADDED", "stays")]
    assert seen[3] == ("MODIFIED", "stays")
    assert seen[4] == ("DELETED", "goes")
    assert sorted(seen[5:]) == [("ADDED", "comes"), ("MODIFIED", "changes")]


@pytest.mark.usefixtures("clock")
def test_a_wait_outlasts_an_outage_and_ends_with_the_outage_as_its_reason(
    server: ApiServer, kube: KubeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put(f"{CLUSTERS}/gpu")

    def ready_now() -> bytes:
        server.put(f"{CLUSTERS}/gpu", status={"ready": True})
        return b""

    server.streams.append([ready_now])
    server.faults.extend([lost, failing(503), well, well, lost])
    assert kube.clusters.wait(["gpu"], lambda item: "status" in item, 10)["gpu"]["status"] == {"ready": True}
    with pytest.raises(NotComing, match="not ready after"):
        kube.clusters.wait(["gpu"], lambda item: False, 0.3)
    server.faults.extend([failing(503)] * 1000)
    monkeypatch.setattr("heliostat.cluster.kube.api.send.__defaults__", (0.1,))
    with pytest.raises(Unreachable, match="answered 503"):
        kube.clusters.wait(["gpu"], lambda item: True, 0.3)


@pytest.mark.usefixtures("clock")
def test_a_stream_that_only_fails_is_opened_with_pauses_and_a_refusal_ends_it(server: ApiServer, kube: KubeRay) -> None:
    """The first pauses are 0.01 s here; they double up to four seconds."""
    for fault in (EXPIRED, {"type": "ERROR", "object": {"code": 500, "message": "etcd has no leader"}}, b""):
        server.requests.clear()
        server.streams.extend([[fault]] * 1000)
        try:
            assert list(kube.clusters.watch(timeout=0.5)) == []
        except Unreachable as error:
            assert "etcd has no leader" in error.what  # noqa: PT017
        assert 4 <= len(server.requests) < 20, fault
        server.streams.clear()
    server.streams.append([NO_RIGHT])
    with pytest.raises(Forbidden, match="cannot watch"):
        list(kube.clusters.watch(timeout=5))
