"""The metrics of worker groups, and the page that has them."""

import json
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from heliostat.cluster.documents import manifests
from heliostat.cluster.documents.render import rendered
from heliostat.cluster.in_pod import metrics
from heliostat.cluster.in_pod.metrics import CAUSES, GROUPS, PREFIX, Groups, cause_of, serve, text
from heliostat.cluster.kube.api import Api
from heliostat.cluster.names import METRICS_PORT, POD_MONITOR, PORTS
from heliostat.cluster.ports import HOST, free_ports
from heliostat.cluster.profile import find
from tests.cluster.kube.api_server import answering, kubeconfig, serving, well
from tests.cluster.kube.test_owners import SCHEMA

LIMITS = {"groups": {"gpu": {"max": 4, "start_seconds": 300}}, "budget": 50.0, "budget_per_month": 900.0}


def node(state: str, asked: float = 0.0, begin: float | None = 0.0, **keys: Any) -> dict[str, Any]:
    return {
        "name": "w", "group": "gpu", "market": "spot", "price": 2.0, "gpus": 2, "asked": asked, "begin": begin, "until": None,
        "state": state, "work": {}, **keys,
    }  # fmt: skip


def values(groups: Groups, now: float) -> dict[str, float]:
    found = {}
    for name, labels, value in groups.samples(now):
        assert labels.keys() == {*GROUPS[name][1]}
        found["/".join([name, *labels.values()])] = value
    return found


def test_nodes_gpus_money_and_waits_of_a_group() -> None:
    groups = Groups(lambda: LIMITS)
    assert values(groups, 60.0) == {
        "group_nodes_max/gpu": 4, "group_start_seconds/gpu": 300, "budget_per_day": 50.0, "budget_per_month": 900.0,
    }  # fmt: skip
    earlier = {**LIMITS, "budget": None}
    del earlier["budget_per_month"]
    assert values(Groups(lambda: earlier), 60.0) == {"group_nodes_max/gpu": 4, "group_start_seconds/gpu": 300}
    nodes = {
        "a": node("asked", 10.0, None), "b": node("asked", 40.0, None), "c": node("starting", 95.0, 95.0),
        "d": node("busy", work={"job": 0.5}), "e": node("idle"), "f": node("idle", end=50.0),
    }  # fmt: skip
    groups.look(nodes, {"a": "unschedulable", "b": "unschedulable", "c": "image"}, now=100.0)
    groups.look(nodes, {"a": "unschedulable", "b": "volume", "c": "image"}, now=102.0)
    found = values(groups, 102.0)
    by_state = {state: found[f"group_nodes/gpu/{state}"] for state in ("requested", "starting", "idle", "busy", "unknown")}
    assert by_state == {"requested": 2, "starting": 1, "idle": 1, "busy": 1, "unknown": 0}
    assert (found["group_gpus/gpu/busy"], found["group_gpus/gpu/idle"]) == (1.0, 3.0)
    assert found["group_cost_per_hour/gpu"] == 3 * 2.0, "a node without a machine costs nothing"
    assert found["group_cost_total/gpu"] == pytest.approx(3 * 2.0 * 2 / 3600), "since the first look"
    waits = {key: value for key, value in found.items() if "wait" in key}
    assert waits == {
        "group_wait_seconds/gpu/unschedulable": 92.0, "group_wait_seconds/gpu/volume": 62.0,
        "group_wait_seconds/gpu/image": 7.0,
    }  # fmt: skip


def test_a_node_between_two_looks_costs_from_its_begin_and_an_unknown_price_is_not_zero() -> None:
    groups = Groups(lambda: LIMITS)
    groups.look({}, {}, now=100.0)
    groups.look({"a": node("starting", 101.0, 101.5), "x": node("idle", group="other", price=None)}, {}, now=102.0)
    found = values(groups, 102.0)
    assert found["group_cost_total/gpu"] == pytest.approx(2.0 * 0.5 / 3600)
    assert not {key for key in found if key.startswith("group_cost") and key.endswith("other")}
    assert "group_nodes/other/idle" in found


def test_what_was_seen_long_ago_is_unknown_but_the_money_stays() -> None:
    groups = Groups(lambda: LIMITS)
    groups.look({"a": node("idle")}, {}, now=100.0)
    groups.look({"a": node("idle")}, {}, now=102.0)
    found = values(groups, 500.0)
    assert not any(key.startswith(("group_nodes/", "group_gpus", "group_wait")) for key in found)
    assert (found["nodes_seen_timestamp_seconds"], found["group_cost_total/gpu"] > 0) == (102.0, True)


def scheduled(**status: Any) -> dict[str, Any]:
    return {"status": {"conditions": [{"type": "PodScheduled", "status": "True"}], **status}}


def unscheduled(message: str) -> dict[str, Any]:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return {"status": {"conditions": [condition]}}


def waiting(reason: str) -> list[dict[str, Any]]:
    return [{"state": {"waiting": {"reason": reason}}}]


@pytest.mark.parametrize(
    ("pod", "cause"),
    [
        (unscheduled("0/3 nodes are available: 3 Insufficient nvidia.com/gpu."), "unschedulable"),
        (unscheduled('persistentvolumeclaim "missing" not found'), "volume"),
        (unscheduled("0/3 nodes are available: 3 node(s) had volume node affinity conflict."), "volume"),
        (scheduled(initContainerStatuses=waiting("ImagePullBackOff")), "image"),
        (scheduled(containerStatuses=waiting("CreateContainerConfigError")), "config"),
        (scheduled(containerStatuses=[{"state": {"terminated": {"exitCode": 2}}}]), "crash"),
        (scheduled(containerStatuses=waiting("ContainerCreating")), "starting"),
        (scheduled(containerStatuses=[{"state": {"running": {}}}]), "starting"),
        ({}, "starting"),
    ],
)
def test_the_cause_of_a_wait_is_read_from_the_pod(pod: dict[str, Any], cause: str) -> None:
    assert cause_of(pod) == cause
    assert cause in CAUSES


def test_the_page_has_the_groups_and_what_ray_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "ASK_SECONDS", 300.0)

    class Ray(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"ray_node_mem_used 5\n")

        def log_message(self, *args: Any) -> None:
            pass

    ray = HTTPServer((HOST, 0), Ray)
    threading.Thread(target=ray.serve_forever, daemon=True).start()
    (port,) = free_ports(1)
    groups = Groups(lambda: LIMITS)
    serve(groups, f"http://{HOST}:{ray.server_port}/metrics", HOST, port)

    def page() -> str:
        with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=60) as response:
            assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            return str(response.read().decode())

    found = page()
    assert f'{PREFIX}group_nodes_max{{group="gpu"}} 4\n' in found
    assert found.endswith("ray_node_mem_used 5\n")
    ray.shutdown()
    ray.server_close()
    assert f"{PREFIX}group_nodes_max" in page(), "Ray's may be missing for a while"
    assert "# no metrics of Ray: " in page()
    serve(groups, "http://x", HOST, port)  # it is taken: the record goes on


def test_the_text_names_each_metric_once_with_its_type() -> None:
    groups = Groups(lambda: LIMITS)
    groups.look({"a": node("idle")}, {}, now=1.0)
    lines = text(groups.samples(1.0)).splitlines()
    heads = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(heads) == len({*heads})
    assert f"# TYPE {PREFIX}group_nodes gauge" in lines


def test_pods_are_scraped_by_annotations_or_by_a_pod_monitor() -> None:
    profile = find("gpu")
    cluster = rendered(profile)[-1]["spec"]
    ports = [
        group["template"]["metadata"]["annotations"]["prometheus.io/port"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
    ]
    assert ports == [str(METRICS_PORT), *[str(PORTS["metrics"])] * len(profile.groups)]
    (recorder,) = [c for c in cluster["headGroupSpec"]["template"]["spec"]["containers"] if c["name"] == "recorder"]
    *rest, monitor = rendered(profile, pod_monitor=True)
    assert (monitor["kind"], "prometheus.io" in json.dumps(rest)) == (POD_MONITOR, False)
    endpoints = monitor["spec"]["podMetricsEndpoints"]
    assert endpoints[0]["port"] == recorder["ports"][0]["name"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= rest[-1]["metadata"]["labels"].items()
    job = manifests.ray_job(profile, "job", frozenset({POD_MONITOR}))
    assert "prometheus.io/port" in json.dumps(job), "a job's own cluster has no PodMonitor"


@pytest.mark.parametrize(
    ("kind", "rights", "expected"), [(200, [True, True], True), (200, [True, False], False), (404, [], False), (403, [], False)]
)
def test_there_is_a_pod_monitor_if_the_kind_is_there_and_the_user_may(
    kind: int, rights: list[bool], expected: bool, tmp_path: Path
) -> None:
    with serving() as server:
        server.objects["/openapi/v3/apis/ray.io/v1"] = SCHEMA
        allowed = (answering(200, {"status": {"allowed": each}}) for each in rights)
        refused = {"kind": "Status", "reason": "Forbidden", "message": 'forbidden: User "me" cannot get path'}
        server.faults += [well, answering(kind, refused), *allowed]
        assert (POD_MONITOR in Api(str(kubeconfig(tmp_path / "kubeconfig", server))).features) == expected


def test_only_the_namespace_of_the_profile_may_scrape() -> None:
    def rules(*overrides: str) -> list[Any]:
        (policy,) = [d for d in rendered(find("gpu", overrides), pod_monitor=True) if d["kind"] == "NetworkPolicy"]
        found: list[Any] = policy["spec"]["ingress"]
        return found

    (scrape,) = [
        rule
        for rule in rules("monitoring.namespace=watch")
        if {"port": METRICS_PORT, "protocol": "TCP"} in rule.get("ports", ())
    ]
    assert scrape["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "watch"}}}]
    assert len(rules("monitoring.namespace=null")) == len(rules()) - 1
    closed = rendered(find("gpu", ["monitoring.namespace=null"]), pod_monitor=True)
    assert "prometheus.io" not in json.dumps(closed)
    assert all(document["kind"] != POD_MONITOR for document in closed)
