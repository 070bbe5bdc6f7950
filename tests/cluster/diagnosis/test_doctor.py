"""The doctor's checks of this machine, and of nodes and quotas that no test cluster has."""

import json
from pathlib import Path
from typing import Any

import pytest

from heliostat.cluster.diagnosis.fit import in_quota, on_nodes, shapes
from heliostat.cluster.ports import free_ports
from heliostat.cluster.profile import Profile, find
from heliostat.config import to_yaml
from tests.conftest import Command

GROUP = {"name": "gpu", "gpu": 1, "cpu": 1, "memory": "1Gi", "max": 2, "price_per_hour": 0}
LOCAL = {"platform": "local", "head": {"memory": "1Gi"}, "groups": [GROUP], "storage": {"uri": "."}}


def examined(command: Command, **changes: Any) -> tuple[int, dict[str, dict[str, str]]]:
    path = command.cwd / "local-cluster.yaml"
    path.write_text(to_yaml({**LOCAL, **changes}))
    done = command("doctor", path, "--json")
    assert "Traceback" not in done.err
    return done.code, {each["check"]: each for each in json.loads(done.out)["checks"]}


def test_a_local_profile_needs_no_kubernetes(command: Command) -> None:
    without = Command(command.cwd, {**command.env, "KUBECONFIG": "/nowhere"})
    code, found = examined(without)
    assert code == 0, found
    assert {name: each["state"] for name, each in found.items()} == dict.fromkeys(
        ("Ray", "ports", "memory", "storage", "cluster"), "ok"
    )


@pytest.mark.parametrize(
    ("check", "changes", "words"),
    [
        ("Ray", {"image": "heliostat/ray:2.1.0", "ray_version": "2.1.0"}, "but ray_version is 2.1.0"),
        ("memory", {"head": {"memory": "9000Gi"}}, "the head and the minimum of nodes have 9000.0Gi"),
        ("memory", {"groups": [{**GROUP, "memory": "9000Gi"}]}, "all groups at their max"),
        ("storage", {"storage": {"uri": "./local-cluster.yaml/runs"}}, "is not a writable folder"),
    ],
)
def test_what_a_machine_lacks_is_reported(command: Command, check: str, changes: dict[str, Any], words: str) -> None:
    code, found = examined(command, **changes)
    assert code == 1
    assert [name for name, each in found.items() if each["state"] == "problem"] == [check]
    assert words in found[check]["what"]
    assert found[check]["fix"]


def test_without_kubernetes_a_profile_of_one_is_exit_2(command: Command) -> None:
    without = Command(command.cwd, {**command.env, "KUBECONFIG": "/nowhere"})
    done = without("doctor", "gpu")
    assert done.code == 2
    assert "KUBECONFIG: the file /nowhere does not exist" in done.err


@pytest.mark.parametrize(
    ("words", "code"),
    [(("status", "gpu"), 75), (("up", "gpu"), 75), (("doctor", "gpu"), 75), (("submit", "gpu", "--", "true"), 1)],
)
def test_an_api_server_that_does_not_answer_is_no_mistake_of_the_user(
    command: Command, tmp_path: Path, words: tuple[str, ...], code: int
) -> None:
    """A script may try the same command again; of a job 75 says that it may run, and this one was not submitted."""
    server = f"https://127.0.0.1:{free_ports(1)[0]}"
    cluster, context = {"name": "c", "cluster": {"server": server}}, {"name": "x", "context": {"cluster": "c", "user": "u"}}
    users = [{"name": "u", "user": {"token": "t"}}]
    document = {"clusters": [cluster], "users": users, "contexts": [context], "current-context": "x"}
    (tmp_path / "kubeconfig").write_text(to_yaml(document))
    done = Command(command.cwd, {**command.env, "KUBECONFIG": str(tmp_path / "kubeconfig")})(*words)
    assert done.code == code, done.err
    assert ("was not submitted" in done.err) == (words[0] == "submit")
    assert f"the API server {server} does not answer" in done.err
    assert "fix: check the network" in done.err
    assert "Traceback" not in done.err


def small(tmp_path: Path, **changes: Any) -> Profile:
    """A head of 0.3 CPUs, 0.1 of them the autoscaler's and 0.05 the recorder's, and a group for each ``changes``."""
    group = {"name": "cpu", "cpu": "100m", "memory": "1Gi", "max": 9, **changes}
    document = {
        "head": {"cpu": "150m", "memory": "3Gi"}, "autoscaler": {"cpu": "100m", "memory": "1Gi"}, "groups": [group],
        "storage": {"claim": "runs"}, "idle_shutdown_seconds": None,
    }  # fmt: skip
    path = tmp_path / "small.yaml"
    path.write_text(to_yaml(document))
    return find(str(path))


def node(taint: dict[str, str] | None = None, **allocatable: str) -> dict[str, Any]:
    spec = {"taints": [taint]} if taint else {}
    return {"metadata": {"labels": {}}, "spec": spec, "status": {"allocatable": {"cpu": "1", "memory": "8Gi", **allocatable}}}


def test_sums_of_cpus_that_are_not_exact_still_fit(tmp_path: Path) -> None:
    """0.1 + 0.2 is more than 0.3, and 0.9 // 0.1 is 8."""
    pods = shapes(small(tmp_path))
    said = list(in_quota({"metadata": {"name": "q"}, "spec": {"hard": {"requests.cpu": "1200m"}}}, pods, []))
    assert [(each.state, each.what) for each in said] == [("ok", "quota q has room for the head and 9 of 9 cpu")]
    exact = list(in_quota({"metadata": {"name": "q"}, "spec": {"hard": {"cpu": "300m"}}}, pods, []))
    assert [each.what for each in exact if each.state == "problem"] == [
        "quota q has no room for a worker of cpu: cpu (0.4 needed, 0.3 left)"
    ]


def test_pods_of_our_own_that_run_take_nothing_from_what_is_left(tmp_path: Path) -> None:
    pods = shapes(small(tmp_path, min=2))
    quota = {
        "metadata": {"name": "q"},
        "spec": {"hard": {"requests.cpu": "500m"}},
        "status": {"used": {"requests.cpu": "500m"}},
    }
    assert [each.state for each in in_quota(quota, pods, [])] == ["problem"]
    assert [each.state for each in in_quota(quota, pods, [pods[0], pods[1], pods[1]])] == ["ok"]


@pytest.mark.parametrize(
    ("toleration", "fits"),
    [
        ({"key": "spot"}, True),
        ({"key": "spot", "operator": "Equal", "value": "true"}, True),
        ({"key": "spot", "operator": "Equal", "value": "false"}, False),
        ({"key": "spot", "effect": "NoExecute"}, False),
        ({"key": None}, True),
        ({"key": "other"}, False),
    ],
)
def test_a_taint_is_tolerated_as_kubernetes_does_it(tmp_path: Path, toleration: dict[str, str], fits: bool) -> None:
    pods = shapes(small(tmp_path, tolerations=[toleration]))[1:]
    tainted = node({"key": "spot", "value": "true", "effect": "NoSchedule"})
    assert [each.state for each in on_nodes(pods, [tainted], "")] == ["ok" if fits else "problem"]


def test_where_nodes_are_added_by_themselves_a_missing_one_is_no_problem(tmp_path: Path) -> None:
    pods = shapes(small(tmp_path, cpu=64))
    head, cpu = on_nodes(pods, [node(), node(memory="1Gi")], "Karpenter")
    assert (head.state, head.what) == ("ok", "head: 1 of 2 nodes could hold such a pod")
    assert cpu.state == "unknown"
    assert "2 of 2 have 1 cpu, and it requests 64" in cpu.what
    assert "Karpenter may add one" in cpu.fix


def test_how_many_pods_the_nodes_hold_together(tmp_path: Path) -> None:
    pods = shapes(small(tmp_path, cpu="300m"))[1:]
    assert [each.what for each in on_nodes(pods, [node(), node(memory="2Gi")], "")] == [
        "cpu: 2 of 2 nodes could hold such a pod, and together 5 of 9"
    ]
