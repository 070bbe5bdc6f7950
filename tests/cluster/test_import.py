"""`heliostat profile import`: a profile from the clusters of others, and from our own documents the same profile again."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliostat.cli import main
from heliostat.cluster.documents.manifests import documents, ray_cluster
from heliostat.cluster.documents.render import text
from heliostat.cluster.importer.cluster import imported
from heliostat.cluster.names import Document
from heliostat.cluster.profile import BUNDLED, Profile, find
from heliostat.config import validate
from tests.cluster.documents.test_manifests import PROFILES
from tests.cluster.kube.api_server import kubeconfig, serving


def container(name: str, **fields: Any) -> Document:
    resources = {"limits": {"cpu": "2", "memory": "4Gi"}, "requests": {"cpu": "2", "memory": "4Gi"}}
    return {"name": name, "image": "example.com/ray:2.52.0", "resources": resources, **fields}


def a_cluster(head: Document | None = None, worker: Document | None = None, **spec: Any) -> Document:
    """A cluster as others write them; the arguments are fields of the containers and of the spec."""
    pods = {"spec": {"containers": [container("ray-head", **(head or {}))]}}
    workers = {"spec": {"containers": [container("ray-worker", **(worker or {}))]}}
    group = {"groupName": "small", "replicas": 1, "minReplicas": 0, "maxReplicas": 3, "rayStartParams": {}, "template": workers}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": "theirs"},
        "spec": {
            "rayVersion": "2.52.0",
            "enableInTreeAutoscaling": True,
            "headGroupSpec": {"rayStartParams": {"dashboard-host": "0.0.0.0"}, "template": pods},
            "workerGroupSpecs": [group],
            **spec,
        },
    }


def at(document: Document, path: str, value: Any) -> Document:
    """A copy with a value at a path such as ``spec.workerGroupSpecs.0.numOfHosts``."""
    changed: Document = copy.deepcopy(document)
    *parents, last = path.split(".")
    inner: Any = changed
    for key in parents:
        inner = inner[int(key)] if isinstance(inner, list) else inner.setdefault(key, {})
    inner[last] = value
    return changed


HEAD, GROUP = "spec.headGroupSpec.", "spec.workerGroupSpecs.0."


def profile_of(document: Document, **more: Any) -> Profile:
    keys, found = imported(document)
    assert [str(each) for each in found.lost] == []
    return validate({"storage": {"claim": "runs"}, **keys, **more}, Profile)


def test_a_plain_cluster_is_expressed_and_what_differs_is_named() -> None:
    _, found = imported(a_cluster())
    assert {each.path.rpartition("].")[2] or each.path for each in found.changed} >= {
        "securityContext",
        "spec.authOptions.mode",
    }
    profile = profile_of(a_cluster())
    assert (profile.name, profile.image, profile.ray_version) == ("theirs", "example.com/ray:2.52.0", "2.52.0")
    assert (profile.head.cpu, profile.head.memory, profile.idle_shutdown_seconds, profile.fs_group) == ("2", "4Gi", None, None)
    (group,) = profile.groups
    assert (group.name, group.min, group.max, group.idle_seconds) == ("small", 0, 3, 60)


@pytest.mark.parametrize(
    ("path", "value", "key", "expected"),
    [
        (GROUP + "template.spec.nodeSelector", {"pool": "a"}, "groups.0.node_selector", {"pool": "a"}),
        (GROUP + "template.spec.serviceAccountName", "reader", "groups.0.service_account", "reader"),
        (GROUP + "idleTimeoutSeconds", 90, "groups.0.idle_seconds", 90),
        (GROUP + "template.spec.hostNetwork", True, "groups.0.pod", {"spec": {"hostNetwork": True}}),
        (HEAD + "template.metadata.labels", {"team": "a"}, "head.labels", {"team": "a"}),
        ("spec.enableInTreeAutoscaling", False, "groups.0.min", 1),
        ("spec.autoscalerOptions.resources.limits", {"cpu": "1", "memory": "2Gi"}, "autoscaler.cpu", "1"),
        ("metadata.labels", {"kueue.x-k8s.io/queue-name": "team"}, "queue", "team"),
        (GROUP + "template.spec.tolerations", [{"key": "spot", "operator": "Exists"}], "groups.0.tolerations.0.key", "spot"),
        (GROUP + "template.spec.initContainers", [{"name": "a", "image": "b"}], "groups.0.pod",
         {"spec": {"initContainers": [{"name": "a", "image": "b"}]}}),
    ],
)  # fmt: skip
def test_a_field_becomes_a_key(path: str, value: Any, key: str, expected: Any) -> None:
    document = at(a_cluster(), path, value)
    shown: Any = profile_of(document).model_dump()
    for part in key.split("."):
        shown = shown[int(part)] if isinstance(shown, list) else shown[part]
    assert shown == expected


VOLUMES: list[tuple[Document, Document, Any]] = [
    ({"persistentVolumeClaim": {"claimName": "data"}}, {"readOnly": True}, {"claim": "data", "read_only": True}),
    ({"nfs": {"server": "nfs", "path": "/x"}}, {"subPath": "a"}, {"nfs": "nfs:/x", "sub_path": "a"}),
    ({"emptyDir": {"sizeLimit": "5Gi"}}, {}, {"empty_dir": "5Gi"}),
    ({"csi": {"driver": "d"}}, {}, None),
    ({"emptyDir": {}}, {}, None),
]


@pytest.mark.parametrize(("source", "mount", "expected"), VOLUMES)
def test_volumes_are_keys_where_there_is_one_and_else_part_of_the_pod(source: Document, mount: Document, expected: Any) -> None:
    document = a_cluster(worker={"volumeMounts": [{"name": "v", "mountPath": "/data", **mount}]})
    (group,) = profile_of(at(document, GROUP + "template.spec.volumes", [{"name": "v", **source}])).groups
    if expected:
        (volume,) = group.volumes
        assert volume.model_dump(exclude_defaults=True) == {"mount": "/data", **expected}
    else:
        assert group.pod["spec"]["volumes"] == [{"name": "v", **source}]
        assert group.pod["spec"]["containers"][0]["volumeMounts"] == [{"name": "v", "mountPath": "/data"}]


def test_what_all_pods_have_is_a_key_of_the_profile() -> None:
    env = [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]
    both = {"env": env, "envFrom": [{"secretRef": {"name": "all"}}], "imagePullPolicy": "Always"}
    profile = profile_of(a_cluster(both, both))
    assert profile.model_dump()["env"] == {"A": "1", "B": {"secret": "s", "key": "k"}}
    assert (profile.secrets, profile.image_pull_policy) == (["all"], "Always")
    assert (profile.head.env, profile.groups[0].env) == ({}, {})


def test_a_variable_that_not_all_pods_have_is_one_of_the_head_or_of_a_group() -> None:
    ours, theirs = ([{"name": "A", "value": "1"}, {"name": "B", "value": value}] for value in "23")
    profile = profile_of(a_cluster({"env": ours}, {"env": theirs}))
    assert (profile.env, profile.head.env, profile.groups[0].env) == ({"A": "1"}, {"B": "2"}, {"B": "3"})


@pytest.mark.parametrize(("written", "seconds"), [("600.0", 300), ("600", 300), ("10m", None)])
def test_seconds_in_a_variable_of_ray_are_a_number_or_the_variable_stays(written: str, seconds: int | None) -> None:
    name = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
    keys, found = imported(a_cluster({"env": [{"name": name, "value": written}]}))
    assert keys["groups"][0].get("start_seconds") == seconds
    assert keys["head"].get("env", {}) == ({} if seconds else {name: written})
    assert found.lost == []


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (GROUP + "numOfHosts", 4, "spec.workerGroupSpecs[small].numOfHosts is 4: a group's replica is one pod"),
        ("spec.gcsFaultToleranceOptions", {"redisAddress": "r"}, "spec.gcsFaultToleranceOptions is {'redisAddress': 'r'}"),
        (HEAD + "serviceType", "NodePort", "spec.headGroupSpec.serviceType is NodePort: the head's Service is a ClusterIP"),
        (GROUP + "rayStartParams", {"object-store-memory": "100"}, "[small].rayStartParams.object-store-memory is 100"),
        (GROUP + "rayStartParams", {"num-cpus": "7"}, "[small].resources.CPU is 7"),
        (GROUP + "template.spec.containers.0.command", ["sh"], "containers[ray-worker].command is ['sh']: KubeRay starts Ray"),
        (GROUP + "template.spec.containers.0.image", "other:2.52.0", "workerGroupSpecs[small].image is other:2.52.0"),
        (HEAD + "template.spec.containers.0.ports", [{"containerPort": 9000}], "ports[9000] is 9000"),
        ("metadata.labels", {"ray.io/scheduler-name": "volcano"}, "metadata.labels.ray.io/scheduler-name is volcano"),
        ("spec.autoscalerOptions.image", "x", "spec.autoscalerOptions.image is x"),
        (GROUP + "maxReplicas", 2**31 - 1, "[small].maxReplicas is absent: the cost must have a limit"),
        ("spec.somethingNew", {"a": 1}, "spec.somethingNew is {'a': 1}: no key of a profile has it"),
    ],
)
def test_a_field_without_a_key_is_named_with_what_to_do(path: str, value: Any, named: str) -> None:
    _, found = imported(at(a_cluster(), path, value))
    assert [str(each) for each in found.lost if named in str(each)], [*map(str, found.lost)]


def test_ports_on_which_a_head_listens_anyway_are_told_and_refuse_nothing() -> None:
    ports = [{"name": "serve", "containerPort": 8000}, {"containerPort": 6379}, {"containerPort": 44217}]
    _, found = imported(a_cluster({"ports": ports}))
    assert found.lost == []
    told = [each.note for each in found.changed if "ports[" in each.path]
    assert ["Ray Serve's" in told[0], "autoscaler's" in told[1], len(told)] == [True, True, 2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder: Path, *made: Document) -> str:
    (folder / "in").mkdir(exist_ok=True)
    (folder / "in/cluster.yaml").write_text(text(made, "x"))
    return "in/cluster.yaml"


def test_nothing_is_written_before_all_is_decided(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu = container("x")["resources"] | {"limits": {"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": 1}}
    source = written(folder, a_cluster(worker={"resources": gpu, "image": "other:2.52.0"}, suspend=False))
    assert main(["profile", "import", source]) == 2
    said = capsys.readouterr().err
    for part in (
        "RayCluster theirs has 3 problems",
        "image is other",
        "storage is missing",
        "neither gpu_type nor price_per_hour",
    ):
        assert part in said
    assert not (folder / "theirs.yaml").exists()
    decided = ["storage.uri=s3://b/runs", "groups.small.gpu_type=L4", "image=other:2.52.0"]
    assert main(["profile", "import", source, *(part for each in decided for part in ("--set", each))]) == 0
    assert find("theirs").groups[0].gpu_type == "L4"
    assert main(["profile", "check", "theirs"]) == 0


def test_with_partial_the_file_lists_what_it_lacks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = written(folder, a_cluster(headServiceAnnotations={"a": "b"}))
    assert main(["profile", "import", source, "--set", "storage.claim=runs", "--partial"]) == 0
    line = "left out: spec.headServiceAnnotations is {'a': 'b'}: make a Service of your own that selects the head"
    assert line in capsys.readouterr().out
    assert f"# {line}" in (folder / "theirs.yaml").read_text().splitlines()


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ((), "has no RayCluster or RayJob or RayService, but no document"),
        (("RayCluster", "RayCluster"), "has several clusters: RayCluster theirs, RayCluster theirs"),
        (("Service",), "but Service theirs"),
    ],
)
def test_a_file_without_one_cluster_is_refused(
    kinds: tuple[str, ...], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", "import", written(folder, *({**a_cluster(), "kind": kind} for kind in kinds))]) == 2
    assert message in capsys.readouterr().err


def test_a_name_that_the_file_lacks_is_refused_with_those_that_it_has(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "import", written(folder, a_cluster()), "--only", "ours"]) == 2
    assert "--only is ours, but " in (err := capsys.readouterr().err)
    assert "has theirs" in err


def test_a_document_that_kubernetes_would_refuse_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, value in (("spec.workerGroupSpecs.0.replicas", "${REPLICAS}"), ("metadata", ["a"])):
        assert main(["profile", "import", written(folder, at(a_cluster(), path, value))]) == 2
        assert "is no valid RayCluster" in capsys.readouterr().err


def test_the_cluster_of_a_job_is_imported_and_the_job_is_not(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = {**a_cluster(), "kind": "RayJob"}
    job["spec"] = {"entrypoint": "python train.py", "activeDeadlineSeconds": 7200, "rayClusterSpec": job["spec"]}
    assert main(["profile", "import", written(folder, job), "--set", "storage.claim=runs"]) == 0
    assert "otherwise: spec.entrypoint is left out" in capsys.readouterr().out
    assert find("theirs").job_hours == 2
    del job["spec"]["rayClusterSpec"]
    assert main(["profile", "import", written(folder, job)]) == 2
    assert "RayJob theirs has no rayClusterSpec: it uses a cluster that exists" in capsys.readouterr().err


@pytest.mark.parametrize("name", PROFILES)
def test_a_manifest_of_ours_gives_its_profile_again(name: str, folder: Path) -> None:
    assert main(["profile", "import", str(BUNDLED.parent / f"manifests/{name}.yaml")]) == 0
    assert find(f"./{name}.yaml") == find(str(BUNDLED / f"{name}.yaml"))


NAMES = st.sampled_from(["a", "team", "gpu-1"])
MEMORY = st.sampled_from(["4Gi", "16Gi", "3G", "1.5Gi"])
VOLUME: st.SearchStrategy[dict[str, Any]] = st.sampled_from([
    {"mount": "/data", "claim": "data", "read_only": True}, {"mount": "/cache", "empty_dir": "10Gi"},
    {"mount": "/nfs", "nfs": "host:/x", "sub_path": "y"}, {"mount": "/keys", "secret": "s"},
])  # fmt: skip
POD = st.fixed_dictionaries({}, optional={
    "cpu": st.sampled_from(["1", "500m", "8"]),
    "env": st.sampled_from([{"C": "x"}, {"C": "y", "D": {"secret": "s", "key": "k"}}]),
    "node_selector": st.dictionaries(NAMES, NAMES, max_size=2),
    "labels": st.dictionaries(NAMES, NAMES, max_size=2),
    "tolerations": st.lists(st.sampled_from([{"key": "spot"}, {"key": "a", "value": "b", "effect": "NoExecute"}]), max_size=2),
    "service_account": NAMES, "runtime_class": NAMES, "ephemeral_storage": st.just("50Gi"), "shared_memory": st.just("1Gi"),
    "annotations": st.dictionaries(NAMES, NAMES, max_size=2),
    "volumes": st.lists(VOLUME, max_size=2, unique_by=lambda volume: str(volume["mount"])),
    "pod": st.sampled_from([{}, {"spec": {"hostNetwork": True}}, {"spec": {"containers": [{"name": "log", "image": "i"}]}}]),
})  # fmt: skip
GROUP_OF = st.builds(
    lambda pod, size, more: {**pod, **size, **more},
    POD,
    st.fixed_dictionaries({"memory": MEMORY, "max": st.integers(2, 9), "min": st.integers(0, 2)}),
    st.sampled_from([
        {}, {"gpu": 1, "gpu_type": "L4", "market": "spot"}, {"gpu": 4, "price_per_hour": 3.5, "priority": 3},
        {"start_seconds": 900, "idle_seconds": 30, "drain_seconds": 60},
        {"topology_spread": [{"key": "zone", "required": True}]},
        {"gpu": 2, "gpu_type": "H100", "gpu_resource": "amd.com/gpu", "start_seconds": 20},
    ]),
)  # fmt: skip
WHOLE = st.fixed_dictionaries({}, optional={
    "namespace": NAMES, "env": st.sampled_from([{"A": "1"}, {"B": {"secret": "s", "key": "k"}}]), "secrets": st.just(["keys"]),
    "image_pull_secrets": st.just(["pull"]), "image_pull_policy": st.just("Always"), "run_as_user": st.just(1000),
    "fs_group": st.sampled_from([None, 5]), "node_autoscaling": st.booleans(), "tls": st.booleans(),
    "idle_shutdown_seconds": st.sampled_from([None, 60]), "queue": st.just("team"), "job_hours": st.sampled_from([1.0, 72.5]),
    "autoscaler": st.just({"cpu": "1", "memory": "2Gi"}), "pod": st.just({"spec": {"dnsPolicy": "Default"}}),
})  # fmt: skip


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    groups = [{**draw(GROUP_OF), "name": name} for name in draw(st.sampled_from([["cpu"], ["cpu", "gpu"]]))]
    head = {**draw(POD), "memory": "4Gi", **draw(st.sampled_from([{}, {"drivers": 7}, {"price_per_hour": 0.5}]))}
    storage = draw(st.sampled_from([
        {"claim": "runs", "size": "10Gi"}, {"claim": "runs", "mount": "/runs"}, {"uri": "s3://b/x", "secret": "s3"},
    ]))  # fmt: skip
    whole = draw(WHOLE)
    if "queue" in whole:
        whole["idle_shutdown_seconds"] = None
    return validate({"name": "mine", "groups": groups, "head": head, "storage": storage, **whole}, Profile)


@settings(max_examples=25, deadline=None)
@given(profile=profiles())
def test_what_we_render_is_imported_as_the_same_cluster(profile: Profile) -> None:
    """As the same profile, but that a key which all pods have may stand in the profile instead of in each group."""
    again = profile_of(json.loads(json.dumps(ray_cluster(profile))))
    assert documents(again) == documents(profile)
    moved = {"env", "volumes", "annotations", "service_account", "runtime_class", "ephemeral_storage", "shared_memory", "pod"}

    def kept(keys: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in keys.items() if key not in moved}

    shown, wanted = again.model_dump(), profile.model_dump()
    assert kept({**shown, "head": 0, "groups": 0}) == kept({**wanted, "head": 0, "groups": 0})
    assert kept(shown["head"]) == kept(wanted["head"])
    assert [*map(kept, shown["groups"])] == [*map(kept, wanted["groups"])]


def test_a_live_cluster_is_imported_by_its_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving() as server:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(folder / "kubeconfig", server)))
        live = at(a_cluster(), "status", {"state": "ready"})
        live["metadata"] |= {"namespace": "team", "uid": "1", "managedFields": []}
        server.put("/apis/ray.io/v1/namespaces/team/rayclusters/theirs", **live)
        assert main(["profile", "import", "theirs", "--set", "storage.claim=runs"]) == 0
        assert find("theirs").namespace == "team"
        assert "heliostat diff theirs --adopt" in capsys.readouterr().out
        service = {**live, "kind": "RayService", "spec": {"serveConfigV2": "", "rayClusterConfig": live["spec"]}}
        server.put("/apis/ray.io/v1/namespaces/team/rayservices/llm", **service)
        assert main(["profile", "import", "llm", "--set", "storage.claim=runs", "--set", "name=llm", "--partial"]) == 0
        assert "heliostat diff llm\nheliostat up makes a new cluster beside RayService" in capsys.readouterr().out
        assert main(["profile", "import", "other"]) == 2
    assert "namespace team has no RayCluster or RayJob or RayService other" in capsys.readouterr().err
