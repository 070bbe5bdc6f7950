"""Pods as a profile asks for them: its keys, and the override for the rest."""

from typing import Any

import pytest

from heliostat.cluster import pod_override
from heliostat.cluster.documents.manifests import ray_cluster
from heliostat.cluster.names import TEMPLATE, Document
from heliostat.cluster.profile import Profile
from heliostat.config import validate

GPU = {"name": "gpu", "gpu": 1, "gpu_type": "L4", "max": 4, "memory": "32Gi"}
EVERYTHING: dict[str, Any] = {
    "service_account": "train",
    "annotations": {"sidecar.istio.io/inject": "false"},
    "priority_class": "high",
    "runtime_class": "nvidia",
    "ephemeral_storage": "50Gi",
    "shared_memory": "4Gi",
    "image_pull_policy": "Always",
    "run_as_user": 1000,
    "run_as_group": 0,
    "fs_group": None,
    "volumes": [{"mount": "/data", "claim": "data", "read_only": True}],
    "pod": {"spec": {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}},
}


def pods(group: dict[str, Any] | None = None, **keys: Any) -> dict[str, Document]:
    """The pod templates of a profile with these keys of its own and of its group, by group."""
    profile = validate({"name": "mine", "groups": [{**GPU, **(group or {})}], "storage": {"claim": "runs"}, **keys}, Profile)
    spec = ray_cluster(profile)["spec"]
    return {"head": spec["headGroupSpec"]["template"], "gpu": spec["workerGroupSpecs"][0]["template"]}


def ray(template: Document) -> Document:
    container: Document = template["spec"]["containers"][0]
    return container


def test_each_key_is_in_all_pods_and_each_pod_fits_the_schema_of_kubernetes() -> None:
    for template in pods(**EVERYTHING).values():
        spec, container = template["spec"], ray(template)
        assert (spec["serviceAccountName"], spec["priorityClassName"], spec["runtimeClassName"]) == ("train", "high", "nvidia")
        assert spec["securityContext"] == {"runAsUser": 1000, "runAsGroup": 0}
        assert (spec["hostNetwork"], spec["restartPolicy"]) == (True, "Never")
        assert template["metadata"]["annotations"]["sidecar.istio.io/inject"] == "false"
        assert container["imagePullPolicy"] == "Always"
        assert {container["resources"][kind]["ephemeral-storage"] for kind in ("limits", "requests")} == {"50Gi"}
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        assert mounts["/data"]["readOnly"] is True
        assert volumes[mounts["/data"]["name"]]["persistentVolumeClaim"] == {"claimName": "data", "readOnly": True}
        assert volumes[mounts["/dev/shm"]["name"]]["emptyDir"] == {"medium": "Memory", "sizeLimit": "4Gi"}
        assert mounts["/mnt/heliostat"]["name"] == "storage"
        assert list(pod_override._unknown(template, "V1PodTemplateSpec", "")) == []


def test_a_group_has_its_own_keys_before_those_of_all_pods() -> None:
    group = {"service_account": "gpu", "annotations": {"a": "2"}, "volumes": [{"mount": "/data", "nfs": "server:/export"}]}
    volumes = [{"mount": "/data", "claim": "data"}, {"mount": "/scratch", "host_path": "/mnt/nvme"}]
    made = pods(group, service_account="train", annotations={"a": "1", "b": "1"}, volumes=volumes)
    assert [made[name]["spec"]["serviceAccountName"] for name in ("head", "gpu")] == ["train", "gpu"]
    annotations = made["gpu"]["metadata"]["annotations"]
    assert (annotations["a"], annotations["b"]) == ("2", "1")
    sources = [{key: value for key, value in volume.items() if key != "name"} for volume in made["gpu"]["spec"]["volumes"]]
    assert sources[1:] == [{"hostPath": {"path": "/mnt/nvme"}}, {"nfs": {"server": "server", "path": "/export"}}]


def test_other_volumes_and_a_spread_over_zones() -> None:
    volumes = [
        {"mount": "/certificates", "secret": "ca", "sub_path": "ca.pem"},
        {"mount": "/settings", "config_map": "settings"},
        {"mount": "/scratch", "empty_dir": "100Gi"},
    ]
    spread = [{"key": "topology.kubernetes.io/zone", "required": True}]
    spec = pods({"volumes": volumes, "topology_spread": spread})["gpu"]["spec"]
    assert [volume.get("secret") or volume.get("configMap") or volume.get("emptyDir") for volume in spec["volumes"][1:]] == [
        {"secretName": "ca"}, {"name": "settings"}, {"sizeLimit": "100Gi"},
    ]  # fmt: skip
    assert spec["containers"][0]["volumeMounts"][1]["subPath"] == "ca.pem"
    (constraint,) = spec["topologySpreadConstraints"]
    assert (constraint["maxSkew"], constraint["whenUnsatisfiable"]) == (1, "DoNotSchedule")
    assert constraint["labelSelector"]["matchLabels"] == {"heliostat.dev/cluster": "mine", "ray.io/group": "gpu"}


@pytest.mark.parametrize(
    ("toleration", "rendered"),
    [
        ({"key": "dedicated", "value": "gpu", "effect": "NoSchedule"}, {"operator": "Equal"}),
        ({"key": "dedicated"}, {"operator": "Exists"}),
        ({"effect": "NoExecute", "toleration_seconds": 60}, {"operator": "Exists", "tolerationSeconds": 60}),
        ({"key": "dedicated", "operator": "Equal", "value": ""}, {"operator": "Equal", "value": ""}),
    ],
)
def test_a_toleration_is_what_the_same_lines_are_in_a_pod(toleration: dict[str, Any], rendered: dict[str, Any]) -> None:
    made = pods({"tolerations": [toleration]})["gpu"]["spec"]["tolerations"][0]
    assert made == {key: value for key, value in toleration.items() if key != "toleration_seconds"} | rendered


def test_an_override_is_merged_by_name_and_the_container_with_ray_stays_first() -> None:
    override = {
        "metadata": {"labels": {"team": "vision"}},
        "spec": {
            "automountServiceAccountToken": True,
            "securityContext": {"supplementalGroups": [44]},
            "volumes": [{"name": "tools", "emptyDir": {}}],
            "containers": [
                {"name": "log", "image": "busybox:1", "command": ["sleep", "inf"]},
                {
                    "name": "ray-worker",
                    "resources": {"limits": {"rdma/hca": 1}},
                    "volumeMounts": [{"name": "tools", "mountPath": "/tools"}],
                    "securityContext": {"capabilities": {"add": ["IPC_LOCK"]}},
                },
            ],
        },
    }
    made = pods({"pod": {"spec": {"containers": [{"name": "log", "image": "busybox:2"}]}}}, pod=override)
    spec, container = made["gpu"]["spec"], ray(made["gpu"])
    assert [each["name"] for each in spec["containers"]] == ["ray-worker", "log"]
    assert (spec["containers"][1]["image"], spec["containers"][1]["command"]) == ("busybox:2", ["sleep", "inf"])
    assert container["resources"]["limits"] == {"memory": "32Gi", "nvidia.com/gpu": "1", "rdma/hca": 1}
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/mnt/heliostat", "/tools"]
    assert spec["securityContext"] == {"fsGroup": 100, "fsGroupChangePolicy": "OnRootMismatch", "supplementalGroups": [44]}
    assert spec["automountServiceAccountToken"] is True
    assert made["gpu"]["metadata"]["labels"]["team"] == "vision"
    assert [each["name"] for each in made["head"]["spec"]["containers"]] == ["ray-head", "recorder", "idle-watcher", "log"]


def test_null_removes_what_the_template_has() -> None:
    override = {"spec": {"containers": [{"name": "ray-worker", "securityContext": {"capabilities": None}}]}}
    assert "capabilities" not in ray(pods(pod=override)["gpu"])["securityContext"]


@pytest.mark.parametrize("change", [{"annotations": {"a": "b"}}, {"pod": {"metadata": {"labels": {"a": "b"}}}}])
def test_a_change_of_metadata_replaces_the_pods(change: dict[str, Any]) -> None:
    before, after, of_group = pods(), pods(**change), pods(change)
    hashes = [{name: made[name]["metadata"]["annotations"][TEMPLATE] for name in made} for made in (before, after, of_group)]
    assert [hashes[1][name] != hashes[0][name] for name in ("head", "gpu")] == [True, True]
    assert [hashes[2][name] != hashes[0][name] for name in ("head", "gpu")] == [False, True]
