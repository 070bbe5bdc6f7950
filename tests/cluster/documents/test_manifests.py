"""The safe defaults, each a promise over all bundled profiles, as a standing cluster and as the cluster of a job."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from heliostat.cluster.documents import validation
from heliostat.cluster.documents.manifests import FEATURES, documents, program, ray_cluster, ray_job
from heliostat.cluster.field_types import size
from heliostat.cluster.names import Document
from heliostat.cluster.profile import BUNDLED, Profile, find
from heliostat.config import validate

PROFILES = [path.stem for path in sorted(BUNDLED.glob("*.yaml")) if find(str(path)).platform == "kubernetes"]
YOUNGER = {
    "networkPolicy", "tlsOptions", "priority", "historyServerOptions", "ingressOptions", "backend", "storage", "timeZone",
    "command", "args",
}  # fmt: skip
"""Fields outside of pod templates that KubeRay 1.6 does not have."""
CLAIM = {"claim": "runs", "size": "10Gi"}


def a_profile(**change: Any) -> Profile:
    groups = [{"name": "cpu", "max": 2}, {"name": "gpu", "gpu": 1, "gpu_type": "L4", "max": 4}]
    return validate({"name": "mine", "groups": groups, "storage": CLAIM, **change}, Profile)


def job_of(profile: Profile, version: str = "1.7", entrypoint: str | None = None) -> Document:
    name = f"{profile.name}-1a2b"
    return ray_job(profile, name, FEATURES[version], entrypoint, files=name)


def cluster_spec(document: Document) -> Document:
    """The cluster in a RayCluster or a RayJob."""
    spec: Document = document["spec"]
    return spec if document["kind"] == "RayCluster" else spec["rayClusterSpec"]


def templates(spec: Document) -> dict[str, Document]:
    return {"head": spec["headGroupSpec"]["template"]} | {g["groupName"]: g["template"] for g in spec["workerGroupSpecs"]}


def containers(spec: Document) -> Iterator[tuple[str, Document]]:
    """Every container that will run, with those that KubeRay adds."""
    for group, template in templates(spec).items():
        for container in template["spec"]["containers"]:
            yield f"{group}/{container['name']}", container
    if "autoscalerOptions" in spec:
        yield "head/autoscaler", spec["autoscalerOptions"]


def every_cluster() -> list[Any]:
    made = []
    for name in PROFILES:
        for version in FEATURES:
            profile = find(name)
            for document in (ray_cluster(profile, FEATURES[version]), job_of(profile, version)):
                made.append(pytest.param(profile, cluster_spec(document), id=f"{name}-{version}-{document['kind']}"))
    return made


over_all = pytest.mark.parametrize(("profile", "spec"), every_cluster())


@over_all
def test_autoscaler_v2_is_explicit_and_no_pod_is_restarted_in_place(profile: Profile, spec: Document) -> None:
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert {t["spec"]["restartPolicy"] for t in templates(spec).values()} == {"Never"}


@over_all
def test_the_head_runs_no_task_that_asks_for_a_cpu_and_drives_as_many_trials_as_the_profile_says(
    profile: Profile, spec: Document
) -> None:
    assert spec["headGroupSpec"]["resources"] == {"CPU": "0", "driver": str(profile.head.drivers)}


@over_all
def test_every_group_has_a_finite_maximum(profile: Profile, spec: Document) -> None:
    bounds = {g["groupName"]: (g["minReplicas"], g["maxReplicas"]) for g in spec["workerGroupSpecs"]}
    assert bounds == {g.name: (g.min, g.max) for g in profile.groups}
    assert all(most < 1000 for _, most in bounds.values())


@over_all
def test_what_the_autoscaler_owns_is_not_there(profile: Profile, spec: Document) -> None:
    for group in spec["workerGroupSpecs"]:
        assert not {"replicas", "scaleStrategy", "suspend"} & group.keys()


@over_all
def test_every_container_gets_the_memory_that_it_asks_for(profile: Profile, spec: Document) -> None:
    for name, container in containers(spec):
        resources = container["resources"]
        assert resources["requests"]["memory"] == resources["limits"]["memory"], name
        assert size(resources["requests"]["memory"]) > 0, name
        assert resources["requests"]["cpu"], name
        assert "cpu" not in resources["limits"], f"{name}: a limit only throttles"


@over_all
def test_gpus_are_limits_because_kuberay_counts_only_those(profile: Profile, spec: Document) -> None:
    for group in profile.groups:
        container = templates(spec)[group.name]["spec"]["containers"][0]
        asked = {kind: container["resources"][kind].get(group.gpu_resource) for kind in ("limits", "requests")}
        assert asked == dict.fromkeys(("limits", "requests"), str(group.gpu) if group.gpu else None)


@over_all
def test_gpu_pods_tolerate_the_taint_that_keeps_others_off_gpu_nodes(profile: Profile, spec: Document) -> None:
    for group in profile.groups:
        taint = {"key": group.gpu_resource, "operator": "Exists", "effect": "NoSchedule"}
        assert (taint in templates(spec)[group.name]["spec"].get("tolerations", [])) is bool(group.gpu)


@over_all
def test_the_dashboard_is_closed_without_the_token(profile: Profile, spec: Document) -> None:
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["rayVersion"] == profile.ray_version


@over_all
def test_a_worker_has_more_time_to_end_than_its_drain_takes(profile: Profile, spec: Document) -> None:
    for group in profile.groups:
        pod = templates(spec)[group.name]["spec"]
        env = {e["name"]: e["value"] for e in pod["containers"][0]["env"]}
        drain = int(env["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        assert drain == group.drain_seconds
        assert pod["terminationGracePeriodSeconds"] >= drain + 10


@over_all
def test_the_head_is_gone_soon_because_it_does_not_end_by_itself(profile: Profile, spec: Document) -> None:
    assert templates(spec)["head"]["spec"]["terminationGracePeriodSeconds"] <= 10


@over_all
def test_every_container_fits_the_pod_security_standard_restricted(profile: Profile, spec: Document) -> None:
    for name, container in containers(spec):
        context = container["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["allowPrivilegeEscalation"] is False, name
        assert context["capabilities"] == {"drop": ["ALL"]}, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"privileged", "procMount"} & context.keys(), name
        assert all("hostPort" not in port for port in container.get("ports", [])), name
    for template in templates(spec).values():
        assert not {"hostNetwork", "hostPID", "hostIPC"} & template["spec"].keys()
        for volume in template["spec"].get("volumes", []):
            assert volume.keys() <= {"name", "configMap", "persistentVolumeClaim", "emptyDir", "secret", "projected"}


@over_all
def test_workers_cannot_talk_to_the_api_server(profile: Profile, spec: Document) -> None:
    for group in profile.groups:
        assert templates(spec)[group.name]["spec"]["automountServiceAccountToken"] is False


@over_all
def test_no_node_autoscaler_removes_the_node_of_a_running_pod(profile: Profile, spec: Document) -> None:
    for template in templates(spec).values():
        annotations = template["metadata"]["annotations"]
        assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
        assert annotations["karpenter.sh/do-not-disrupt"] == "true"


@over_all
def test_a_group_that_does_not_come_in_its_start_time_is_given_up_for_another(profile: Profile, spec: Document) -> None:
    env = {e["name"]: e["value"] for e in spec["autoscalerOptions"]["env"]}
    slowest = max(group.start_seconds for group in profile.groups)
    assert env["RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S"] == str(slowest)
    # And a gang that waits for it must not give up before.
    for _, template in templates(spec).items():
        names = {e["name"]: e["value"] for e in template["spec"]["containers"][0]["env"]}
        assert int(names["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"]) > slowest


@over_all
def test_every_pod_knows_the_shared_storage(profile: Profile, spec: Document) -> None:
    for group, template in templates(spec).items():
        container = template["spec"]["containers"][0]
        assert {"name": "HELIOSTAT_STORAGE", "value": profile.storage.root} in container["env"], group
        if profile.storage.claim:
            assert {"name": "storage", "mountPath": profile.storage.mount} in container["volumeMounts"], group
        if profile.storage.secret:
            assert container["envFrom"] == [{"secretRef": {"name": profile.storage.secret}}], group


@over_all
def test_kuberay_finds_the_dashboard_by_the_name_of_its_port(profile: Profile, spec: Document) -> None:
    ports = {p["name"]: p["containerPort"] for p in templates(spec)["head"]["spec"]["containers"][0]["ports"]}
    assert ports == {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "metrics": 8080}


@over_all
def test_a_task_can_ask_for_a_group_by_its_labels(profile: Profile, spec: Document) -> None:
    for group, made in zip(profile.groups, spec["workerGroupSpecs"], strict=True):
        assert made["labels"]["ray.io/market-type"] == group.market
        assert made["labels"].get("ray.io/accelerator-type") == group.gpu_type


@over_all
def test_no_value_is_empty_because_to_kuberay_that_is_not_the_same_as_absent(profile: Profile, spec: Document) -> None:
    def empty(value: Any, path: str) -> Iterator[str]:
        if value in (None, "", []) or (value == {} and not path.endswith("rayStartParams")):
            yield path
        for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
            yield from empty(part, f"{path}.{key}")

    assert list(empty(spec, "")) == []


@pytest.mark.parametrize("version", FEATURES)
@pytest.mark.parametrize("name", PROFILES)
def test_the_operator_takes_what_is_made(name: str, version: str) -> None:
    profile = find(name)
    made = [*documents(profile, FEATURES[version]), job_of(profile, version), job_of(profile, version, "python train.py")]
    assert [list(validation.problems(document)) for document in made] == [[]] * len(made)


def fields(value: Any) -> Iterator[str]:
    """All keys, but not those of pod templates and of containers' variables."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield key
            if key not in ("template", "labels", "annotations", "env"):
                yield from fields(part)
    elif isinstance(value, list):
        for part in value:
            yield from fields(part)


@pytest.mark.parametrize("name", PROFILES)
def test_for_kuberay_1_6_there_is_no_field_that_it_would_drop(name: str) -> None:
    profile = find(name)
    for document in (ray_cluster(profile, FEATURES["1.6"]), job_of(profile, "1.6")):
        assert not YOUNGER & set(fields(document["spec"]))


def test_with_kuberay_1_7_spot_groups_are_filled_first() -> None:
    spot, on_demand = ray_cluster(find("spot"), FEATURES["1.7"])["spec"]["workerGroupSpecs"]
    assert spot["priority"] > on_demand.get("priority", 0)
    chosen = find("spot", ["groups.gpu.priority=50"])
    assert ray_cluster(chosen)["spec"]["workerGroupSpecs"][1]["priority"] == 50


@pytest.mark.parametrize("name", ["recorder", "idle", "launch"])
def test_a_program_beside_the_head_needs_only_its_files_and_python(tmp_path: Path, name: str) -> None:
    """An image need not have Heliostat, nor its dependencies."""
    (tmp_path / "in_pod").mkdir()
    for file, text in program(name).items():
        (tmp_path / "in_pod" / file).write_text(text)
    alone = [sys.executable, "-S", "-c", f"import sys; sys.path.append({str(tmp_path)!r}); import in_pod.{name}"]
    done = subprocess.run(alone, cwd=tmp_path, env={}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
