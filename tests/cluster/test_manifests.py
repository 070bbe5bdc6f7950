"""The safe defaults, each a promise over all bundled profiles, as a standing cluster and as the cluster of a job."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from heliostat.cli import main
from heliostat.cluster.documents import manifests, render, validation
from heliostat.cluster.documents.manifests import FEATURES, documents, ray_cluster, ray_job
from heliostat.cluster.documents.pods import run_program
from heliostat.cluster.field_types import size
from heliostat.cluster.names import CLUSTER_LABEL, TEMPLATE, Document
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
    return ray_job(profile, f"{profile.name}-1a2b", FEATURES[version], entrypoint)


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
        own, others = policy["ingress"]
        assert own == {"from": [{"podSelector": {"matchLabels": selected}}]}
        assert [port["port"] for port in others["ports"]] == [8265]


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
    assert [c["name"] for c in _head(a_profile(idle_shutdown_seconds=None))["containers"]] == ["ray-head"]


@pytest.mark.parametrize("name", ["idle", "launch"])
def test_a_program_in_a_pod_starts_from_its_files_alone(name: str, tmp_path: Path) -> None:
    container = run_program(name)
    (mount,) = container["volumeMounts"]
    package = Path(mount["mountPath"]).relative_to(container["workingDir"])
    (tmp_path / package).mkdir()
    for file, text in manifests.program(name).items():
        (tmp_path / package / file).write_text(text)
    command = [sys.executable, "-S", *container["command"][1:]]  # -S: no installed package
    done = subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True, timeout=60)
    assert re.search(r"KeyError: '(IDLE_SECONDS|DOCUMENT)'", done.stderr), "it reads its environment, so it was imported"


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


# As text.


@pytest.mark.parametrize("name", PROFILES)
def test_the_checked_in_manifests_are_what_render_prints(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", name]) == 0
    printed = capsys.readouterr().out
    assert (render.FOLDER / f"{name}.yaml").read_text() == printed, (
        "regenerate them: python -m heliostat.cluster.documents.render"
    )


def test_there_is_no_manifest_of_a_profile_that_is_gone() -> None:
    assert sorted(path.name for path in render.FOLDER.iterdir()) == [f"{name}.yaml" for name in PROFILES]


def test_writing_the_manifests_writes_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "FOLDER", tmp_path)
    render.main()
    assert sorted(path.stem for path in tmp_path.iterdir()) == PROFILES


def parsed(text: str, version: tuple[int, int]) -> list[Any]:
    yaml = YAML(typ="safe", pure=True)
    yaml.version = version
    return list(yaml.load_all(text))


@pytest.mark.parametrize("version", [(1, 1), (1, 2)], ids=["as kubectl reads YAML", "as YAML 1.2"])
@pytest.mark.parametrize("name", PROFILES)
def test_the_text_says_what_the_documents_say(name: str, version: tuple[int, int]) -> None:
    made = render.rendered(find(name))
    assert parsed(render.text(made, "x"), version) == made


@pytest.mark.parametrize("version", [(1, 1), (1, 2)], ids=["as kubectl reads YAML", "as YAML 1.2"])
@pytest.mark.parametrize(
    "text",
    [
        "on", "No", "y", "null", "~", "012", "1_0", "12:30:00", "1e3", ".5", "0x1f", "2.60", "2024-01-01", "=", "<<", "",
        " a", "a ", "a: b", "a #b", "*a", "!x", "- a", "[a]", "{a", '"', "a\\n", "ü", "s3://bucket/a?b=c",
        "a\nb\n", "a\nb", "a\n\n", " a\n  b\n", "\ta\nb", "a\r\nb", "\n", "a\u2028\nb",
    ],
)  # fmt: skip
def test_no_text_becomes_something_else_on_the_way(text: str, version: tuple[int, int]) -> None:
    document = {"env": [{"name": "A", "value": text}], text: "key"}
    assert parsed(render.text([document], "x"), version) == [document]


def test_the_text_is_for_reading() -> None:
    text = render.text(render.rendered(find("gpu")), "heliostat render gpu")
    assert text.splitlines()[0] == "# Made by: heliostat render gpu"
    assert text.count("\n---\n") == len(documents(find("gpu")))
    assert "&id" not in text
    assert "*id" not in text
    program = manifests.program("idle")["idle.py"].splitlines()
    assert all(f"\n    {line}\n" in text for line in program if line), "a program is printed line by line"


@pytest.mark.parametrize("name", PROFILES)
def test_the_same_profile_always_gives_the_same_text(name: str) -> None:
    assert render.text(render.rendered(find(name)), "x") == render.text(render.rendered(find(name)), "x")


def test_render_names_the_command_that_gives_the_same_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", "spot", "--set", "groups.gpu.max=2", "--kuberay", "1.7"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# Made by: heliostat render spot --set groups.gpu.max=2 --kuberay 1.7\n")
    (cluster,) = [document for document in parsed(printed, (1, 2)) if document["kind"] == "RayCluster"]
    assert [(g["maxReplicas"], g.get("priority")) for g in cluster["spec"]["workerGroupSpecs"]] == [(8, 10), (2, None)]


def test_render_prints_the_rights_that_users_need(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", "research", "--rbac"]) == 0
    role, binding = parsed(capsys.readouterr().out, (1, 2))
    assert (role["kind"], role["metadata"]["namespace"]) == ("Role", "research")
    assert binding["roleRef"]["name"] == role["metadata"]["name"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["local"], "platform of local is local"),
        (["gpu", "--set", "tls=true"], "tls is set, which KubeRay 1.6 does not know\n  fix: add --kuberay 1.7"),
        (["spot", "--set", "groups.gpu.priority=5"], "groups.gpu.priority is set, which KubeRay 1.6 does not know"),
        (["gpus"], "did you mean gpu?"),
    ],
)
def test_what_cannot_be_rendered_is_refused(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", *arguments]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.out == ""
