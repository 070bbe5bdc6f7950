"""What a wait costs the API server, and that it reports the present state, on a real Kubernetes."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from heliostat.cluster.diagnosis.observe import EVENTS_SECONDS, NODES_SECONDS
from heliostat.cluster.diagnosis.snapshot import event_time
from heliostat.cluster.jobs.contents import contents
from heliostat.cluster.jobs.follow import Work, follow, submit
from heliostat.cluster.kube.api import Api
from heliostat.cluster.profile import find
from heliostat.cluster.targets.kubernetes import KubernetesCluster
from tests.conftest import wait_for
from tests.kubernetes.conftest import Place, group


@contextmanager
def counted(api: Api) -> Iterator[Counter[str]]:
    """How often each kind of object is asked for."""
    raw, asked = api.raw, Counter[str]()

    def counting(method: str, path: str, *rest: Any, **more: Any) -> Any:
        asked[path.split("?")[0].split("/")[-1] if "proxy" not in path else "proxy"] += 1
        return raw(method, path, *rest, **more)

    api.raw = counting  # type: ignore[method-assign]
    try:
        yield asked
    finally:
        api.raw = raw  # type: ignore[method-assign]


def test_a_quiet_job_is_polled_without_lists_of_events_or_nodes(place: Place, tmp_path: Path) -> None:
    path = place.profile("silent", groups=[{"name": "cpu", "cpu": "100m", "memory": "1Gi", "max": 1}])
    assert place.command("up", path).code == 0
    cluster = KubernetesCluster(find(str(path)), place.kube)
    dashboard = cluster.dashboard()
    submit(dashboard, Work("silent", ["sleep", "3600"], contents(tmp_path)))
    look, looks = cluster.look(), Counter[str]()

    def counting() -> str:
        line = look()
        looks[line] += 1
        if looks["ready"] == 8:  # then it was quiet for long enough, however long the looks take
            dashboard.stop("silent")
        return line

    with counted(cluster.api) as asked:
        assert follow(dashboard, "silent", lambda text: None, look=counting).status == "STOPPED"
    print(f"{sum(looks.values())} looks: {dict(asked)}")
    assert asked["pods"] == asked["silent"] == sum(looks.values())
    assert asked["nodes"] == asked["events"] == 0
    assert place.command("down", path, "--yes", "--no-wait").code == 0


def test_a_wait_for_a_node_lists_events_and_nodes_now_and_then(place: Place) -> None:
    path = place.profile("waits", node_autoscaling=True, groups=[group(gpu=7, min=1, start_seconds=300)])
    cluster = KubernetesCluster(find(str(path)), place.kube)
    lines, seconds = cluster.up(cluster.plan(), []), 25.0
    assert next(line for line in lines if "gpu 7" in line)
    with counted(cluster.api) as asked:
        began = time.monotonic()
        looks = 0
        while looks <= 10 or time.monotonic() - began < seconds:
            assert next(lines)
            looks += 1
        seconds = time.monotonic() - began
    print(f"{looks} looks in {seconds:.0f} s: {dict(asked)}")
    assert asked["pods"] >= looks
    assert 0 < asked["nodes"] <= seconds / NODES_SECONDS + 1
    assert 0 < asked["events"] <= seconds / EVENTS_SECONDS + 1
    lines.close()  # type: ignore[attr-defined]
    assert place.command("down", path, "--yes", "--no-wait").code == 0


def tried_for(place: Place) -> float:
    """The seconds from the first time that the operator could not create a pod to the last one."""
    events = place.kube.api.request("GET", f"/api/v1/namespaces/{place.namespace}/events")["items"]
    failed = [event for event in events if event["reason"].startswith("FailedToCreate")]
    begun = [datetime.fromisoformat(event["metadata"]["creationTimestamp"]).timestamp() for event in failed]
    return max(map(event_time, failed)) - min(begun) if failed else 0.0


def test_a_quota_that_was_raised_meanwhile_is_not_reported_as_used_up(place: Place) -> None:
    path, quotas = place.profile("raised"), place.kube.objects("ResourceQuota")
    quotas.create({"metadata": {"name": "small"}, "spec": {"hard": {"requests.memory": "1Gi"}}})
    try:
        refused = place.command("up", path)
        assert "quota of the namespace is used up" in refused.err
        # The operator waits twice as long each time before it tries again; only then the condition goes.
        wait_for(lambda: tried_for(place) > 20, "a try after which the next one is not soon")
        quotas.patch("small", {"spec": {"hard": {"requests.memory": "100Gi"}}})
        raised = time.time()
        seen = place.command("status", path)
        assert "(tried at " in seen.out, "what is shown is not of now, and says so"
        done = place.command("up", path)
        assert done.code == 0, done.err
        print(f"ready {time.time() - raised:.0f} s after the quota was raised")
        assert "makes KubeRay retry" in done.err
    finally:
        quotas.delete("small")
    assert place.command("down", path, "--yes", "--no-wait").code == 0


def test_a_quota_that_is_still_used_up_is_reported_again(place: Place) -> None:
    path, quotas = place.profile("still"), place.kube.objects("ResourceQuota")
    quotas.create({"metadata": {"name": "small"}, "spec": {"hard": {"requests.memory": "1Gi"}}})
    try:
        assert place.command("up", path).code == 1
        began = time.monotonic()
        again = place.command("up", path)
        print(f"reported again after {time.monotonic() - began:.1f} s")
        assert again.code == 1
        assert "quota of the namespace is used up" in again.err
    finally:
        quotas.delete("small")
        assert place.command("down", path, "--yes", "--no-wait").code == 0
    wait_for(lambda: place.kube.clusters.find("still") is None, "the cluster to go")
