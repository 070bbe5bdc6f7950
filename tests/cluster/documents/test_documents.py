"""What stands beside a cluster among its documents, jobs, and the mark of a template that says what a change replaces."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from heliostat.cluster.documents import manifests, validation
from heliostat.cluster.documents.manifests import documents, ray_cluster
from heliostat.cluster.documents.pods import run_program
from heliostat.cluster.documents.serving import serve_config
from heliostat.cluster.names import CLUSTER_LABEL, TEMPLATE, Document
from heliostat.cluster.profile import Profile, find
from heliostat.environment import NODES_FILE
from tests.cluster.documents.test_manifests import PROFILES, a_profile, cluster_spec, job_of, templates

DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"

# The network policy, the head's files and the claim.


@pytest.mark.parametrize("name", PROFILES)
def test_only_the_clusters_own_pods_reach_its_pods_but_for_the_dashboard(name: str) -> None:
    profile = find(name)
    for cluster in (ray_cluster(profile), job_of(profile)):
        policy = manifests.network_policy(profile, cluster["metadata"]["name"])["spec"]
        selected = policy["podSelector"]["matchLabels"]
        for template in templates(cluster_spec(cluster)).values():
            assert selected.items() <= template["metadata"]["labels"].items()
        assert policy["policyTypes"] == ["Ingress"]
        own, others, watching = policy["ingress"]
        assert own == {"from": [{"podSelector": {"matchLabels": selected}}]}
        assert [port["port"] for port in others["ports"]] == [8265]
        assert watching["from"], "see tests/cluster/in_pod/test_metrics.py"


def test_two_clusters_are_closed_to_each_other() -> None:
    labels = {templates(ray_cluster(find(name))["spec"])["head"]["metadata"]["labels"][CLUSTER_LABEL] for name in PROFILES}
    assert len(labels) == len(PROFILES)


@pytest.mark.parametrize("name", PROFILES)
def test_everything_is_created_before_the_cluster_that_needs_it(name: str) -> None:
    profile = find(name)
    kinds = [document["kind"] for document in documents(profile)]
    assert kinds[-3:] == ["ConfigMap", "NetworkPolicy", "RayCluster"]
    assert kinds[:-3] == (["PersistentVolumeClaim"] if profile.storage.size else [])
    assert {document["metadata"].get("namespace") for document in documents(profile)} == {profile.namespace}


def test_a_new_claim_can_be_mounted_by_many_nodes() -> None:
    claim = documents(find("gpu"))[0]
    assert claim["spec"] == {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "100Gi"}}}
    assert documents(a_profile(storage={"claim": "there"}))[0]["kind"] == "ConfigMap", (
        "a claim that is there already is not ours"
    )


def test_the_head_reads_the_possible_nodes_without_a_restart() -> None:
    profile = find("spot")
    files = manifests.head_files(profile)
    assert json.loads(files["data"]["nodes.json"]) == profile.capacity
    (mount,) = [m for m in _head(profile)["containers"][0]["volumeMounts"] if m["name"] == "files"]
    variables = {e["name"]: e.get("value") for e in _head(profile)["containers"][0]["env"]}
    assert variables["HELIOSTAT_NODES_FILE"] == f"{mount['mountPath']}/nodes.json"
    assert {"name": "files", "configMap": {"name": files["metadata"]["name"]}} in _head(profile)["volumes"]


def _head(profile: Profile) -> Document:
    head: Document = templates(ray_cluster(profile)["spec"])["head"]["spec"]
    return head


def test_a_cluster_without_work_is_suspended_after_the_time_that_the_profile_says() -> None:
    (watcher,) = [c for c in _head(a_profile(idle_shutdown_seconds=1234))["containers"] if c["name"] == "idle-watcher"]
    assert {"name": "IDLE_SECONDS", "value": "1234"} in watcher["env"]
    assert [c["name"] for c in _head(a_profile(idle_shutdown_seconds=None))["containers"]] == ["ray-head", "recorder"]


@pytest.mark.parametrize(
    ("storage", "place", "mounts", "sources"),
    [
        ({"claim": "runs", "size": "1Gi"}, "/mnt/heliostat", ["/mnt/heliostat"], []),
        ({"uri": "s3://bucket/team", "secret": "keys"}, "s3://bucket/team", [], ["keys"]),
    ],
)
def test_the_recorder_reaches_the_storage_as_ray_does(
    storage: dict[str, str], place: str, mounts: list[str], sources: list[str]
) -> None:
    profile = a_profile(storage=storage)
    (recorder,) = [c for c in _head(profile)["containers"] if c["name"] == "recorder"]
    assert {"name": "STORAGE", "value": place} in recorder["env"]
    assert [mount["mountPath"] for mount in recorder["volumeMounts"]] == [
        "/opt/heliostat/in_pod",
        "/opt/heliostat/team",
        *mounts,
    ]
    assert [source["secretRef"]["name"] for source in recorder.get("envFrom", [])] == sources
    prices = json.loads(manifests.head_files(profile)["data"]["prices.json"])
    assert prices.keys() == {"head", *(group.name for group in profile.groups)}


def test_the_nodes_of_a_job_with_its_own_cluster_are_recorded_with_those_of_its_profile() -> None:
    profile = a_profile(job_hours=2)
    spec = cluster_spec(manifests.ray_job(profile, "mine-1a2b", files="mine-1a2b"))
    head = templates(spec)["head"]["spec"]
    ray, recorder = head["containers"]
    values = {entry["name"]: entry.get("value") for entry in recorder["env"]}
    assert {name: values[name] for name in ("PROFILE", "LASTS", "CLUSTER")} == {
        "PROFILE": "mine",
        "LASTS": "7200",
        "CLUSTER": None,
    }
    # The operator names the cluster, and its Secret after it, so the token comes from Ray's own container.
    assert ray["lifecycle"]["postStart"]["exec"]["command"][-1].endswith(f"> {values['TOKEN_FILE']}")
    folder = Path(values["TOKEN_FILE"]).parent
    assert all(str(folder) in [m["mountPath"] for m in each["volumeMounts"]] for each in (ray, recorder))
    assert {"name": "files", "configMap": {"name": "mine-1a2b"}} in head["volumes"]
    service = manifests.ray_service(profile, "serve-mine", serve_config({}, "0.0.0.0", 8000, 30.0), files="serve-mine")["spec"][
        "rayClusterConfig"
    ]
    recorder = templates(service)["head"]["spec"]["containers"][1]
    assert {entry["name"] for entry in recorder["env"]} == values.keys() - {"LASTS"} | {"STATES"}, "a service has no time limit"
    reader = templates(cluster_spec(manifests.ray_job(profile, "mine-1a2b")))["head"]["spec"]
    assert [each["name"] for each in reader["containers"]] == ["ray-head"], "a head that only reads the storage is not recorded"


@pytest.mark.parametrize("name", ["idle", "launch", "recorder"])
def test_a_program_in_a_pod_starts_from_its_files_alone(name: str, tmp_path: Path) -> None:
    container = run_program(name)
    (mount,) = container["volumeMounts"]
    package = Path(mount["mountPath"]).relative_to(container["workingDir"])
    (tmp_path / package).mkdir()
    for file, text in manifests.program(name).items():
        (tmp_path / package / file).write_text(text)
    more = ["record"] * (name == "recorder")  # in its own process, which is started again
    command = [sys.executable, "-S", *container["command"][1:], *more]  # -S: no installed package
    done = subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True, timeout=300)
    assert re.search(r"KeyError: '(IDLE_SECONDS|DOCUMENT|STORAGE)'", done.stderr), (
        "it reads its environment, so it was imported"
    )


# Jobs.


@pytest.mark.parametrize("name", PROFILES)
def test_a_job_ends_at_its_deadlines_and_leaves_nothing(name: str) -> None:
    profile = find(name)
    spec = job_of(profile)["spec"]
    assert spec["activeDeadlineSeconds"] == profile.job_hours * 3600
    slowest = max(group.start_seconds for group in profile.groups)
    assert slowest < spec["preRunningDeadlineSeconds"] < slowest + 3600
    assert spec["shutdownAfterJobFinishes"] is True
    assert 0 < spec["ttlSecondsAfterFinished"] <= 300
    assert "deletionStrategy" not in spec, "KubeRay refuses both"


def test_a_job_is_submitted_by_us_or_by_the_operator() -> None:
    ours, operators = job_of(a_profile())["spec"], job_of(a_profile(), entrypoint="python train.py")["spec"]
    assert (ours["submissionMode"], ours.get("entrypoint")) == ("InteractiveMode", None)
    assert (operators["submissionMode"], operators["entrypoint"]) == ("HTTPMode", "python train.py")


def test_a_queued_job_waits_suspended_for_kueue_and_is_of_a_fixed_size() -> None:
    groups = [{"name": "gpu", "gpu": 1, "gpu_type": "L4", "min": 2, "max": 2}]
    queued = a_profile(queue="team", idle_shutdown_seconds=None, groups=groups)
    job = job_of(queued)
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    assert (job["spec"]["suspend"], job["spec"]["shutdownAfterJobFinishes"]) == (True, True)
    spec = cluster_spec(job)
    assert spec["enableInTreeAutoscaling"] is False
    assert [g["replicas"] for g in spec["workerGroupSpecs"]] == [2]
    for document in (job, ray_cluster(queued)):
        assert list(validation.problems(document)) == []
    assert ray_cluster(queued)["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"


def test_a_queued_cluster_that_grows_asks_kueue_for_each_part_and_waits_there_without_a_limit() -> None:
    groups = [{"name": "gpu", "gpu": 1, "gpu_type": "L4", "min": 1, "max": 4, "start_seconds": 60}]
    queued = a_profile(queue="team", idle_shutdown_seconds=None, groups=groups)
    for document in (job_of(queued), ray_cluster(queued)):
        assert document["metadata"]["annotations"]["kueue.x-k8s.io/elastic-job"] == "true"
        spec = document["spec"].get("rayClusterSpec", document["spec"])
        assert spec["enableInTreeAutoscaling"] is True
        (group,) = spec["workerGroupSpecs"]
        assert (group["minReplicas"], group["maxReplicas"]) == (1, 4)
        limits = {each["name"]: each["value"] for each in spec["autoscalerOptions"]["env"]}
        assert limits["RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S"] == str(7 * 86400)
        assert list(validation.problems(document)) == []


# The mark of a template says which pods a change would replace.


def template_hashes(profile: Profile) -> dict[str, str]:
    found = templates(ray_cluster(profile)["spec"])
    return {name: template["metadata"]["annotations"][TEMPLATE] for name, template in found.items()}


@pytest.mark.parametrize(
    ("overrides", "replaced"),
    [
        ([], set()),
        (["groups.gpu.max=2", "groups.cpu.max=9", "groups.cpu.min=1"], set()),
        (["groups.gpu.idle_seconds=7"], set()),
        (["groups.gpu.price_per_hour=7"], set()),
        (["job_hours=7"], set()),
        (["groups.gpu.memory=128Gi"], {"gpu"}),
        (["groups.cpu.cpu=3"], {"cpu"}),
        (["groups.gpu.node_selector={a: b}"], {"gpu"}),
        (["head.memory=16Gi"], {"head"}),
        (["idle_shutdown_seconds=7"], {"head"}),
        (["image=heliostat/ray:2.60.0-cuda"], {"head", "cpu", "gpu"}),
        (["env={A: b}"], {"head", "cpu", "gpu"}),
        (["storage.mount=/other"], {"head", "cpu", "gpu"}),
    ],
)
def test_a_change_marks_exactly_the_pods_that_it_replaces(overrides: list[str], replaced: set[str]) -> None:
    before, after = template_hashes(find("gpu")), template_hashes(find("gpu", overrides))
    assert {name for name in before if before[name] != after[name]} == replaced


def test_no_container_is_given_a_variable_twice_and_what_its_program_needs_counts() -> None:
    """The API server refuses an apply of a list of variables that has a name twice."""
    names = ("STORAGE", "LIMITS", "CLUSTER", "NAMESPACE", "RAY_AUTH_TOKEN", NODES_FILE, DRAIN)
    profile = find("gpu", ["storage={uri: s3://bucket/team}", *(f"env.{name}=mine" for name in names)])
    spec = ray_cluster(profile)["spec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    containers = [each for group in groups for each in group["template"]["spec"]["containers"]]
    for container in containers:
        variables = [each["name"] for each in container["env"]]
        assert sorted(variables) == sorted({*variables}), container["name"]
    values = {c["name"]: {e["name"]: e.get("value") for e in c["env"]} for c in containers}
    assert (values["recorder"]["STORAGE"], values["recorder"]["CLUSTER"]) == ("s3://bucket/team", profile.name)
    assert values["ray-head"]["STORAGE"] == values["ray-worker"]["LIMITS"] == "mine"
    assert values["ray-worker"][DRAIN] == str(profile.groups[-1].drain_seconds)
