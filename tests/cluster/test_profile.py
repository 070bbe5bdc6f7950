from pathlib import Path
from typing import Any

import pytest

from heliostat.cluster.field_types import cpus, size
from heliostat.cluster.prices import PER_GPU
from heliostat.cluster.profile import BUNDLED, Profile, find, ray_resources
from heliostat.config import validate
from heliostat.errors import UserError

NAMES = sorted(path.stem for path in BUNDLED.glob("*.yaml"))
GPU: dict[str, Any] = {"name": "gpu", "gpu": 1, "gpu_type": "L4", "max": 4}
GOOD: dict[str, Any] = {"name": "mine", "groups": [GPU], "storage": {"claim": "runs", "size": "10Gi"}}


HERE: dict[str, Any] = {"platform": "local", "storage": {"uri": "runs"}}


def profile(**change: Any) -> Profile:
    return validate({**GOOD, **change}, Profile)


def group(**change: Any) -> dict[str, Any]:
    return {"groups": [{**GPU, **change}]}


@pytest.mark.parametrize(
    ("change", "field", "value", "fix"),
    [
        # Unknown keys, at each depth.
        ({"ray_versoin": "2.60.0"}, "ray_versoin", "'2.60.0'", "did you mean ray_version?"),
        ({"head": {"cpus": 2}}, "head.cpus", "2", "did you mean cpu?"),
        (group(gpus=3), "groups.gpu.gpus", "3", "did you mean gpu?"),
        (group(tolerations=[{"kye": "a"}]), "groups.gpu.tolerations.0.kye", "'a'", "did you mean key?"),
        ({"storage": {"claim": "runs", "sizes": "1Gi"}}, "storage.sizes", "'1Gi'", "did you mean size?"),
        (group(xyz=1), "groups.gpu.xyz", "1", "use one of: annotations, cpu, drain_seconds"),
        # How many.
        (group(min=5), "groups.gpu: min", "5, but max is 4", "set min to at most 4"),
        (group(max=float("inf")), "groups.gpu.max", "inf", "a whole number from 1 to 10000"),
        (group(max=2**31 - 1), "groups.gpu.max", "2147483647", "a whole number from 1 to 10000"),
        (group(max=0), "groups.gpu.max", "0", "from 1 to 10000"),
        (group(max="many"), "groups.gpu.max", "'many'", "from 1 to 10000"),
        (group(min=-1), "groups.gpu.min", "-1", "at least 0"),
        ({"groups": []}, "groups", "[]", "a list of worker groups"),
        # How big.
        (group(gpu=0.5), "groups.gpu.gpu", "0.5", "Kubernetes cannot share one"),
        (group(gpu=-1), "groups.gpu.gpu", "-1", "a whole number of GPUs"),
        (group(memory=64), "groups.gpu.memory", "64 has no unit", "write 64Gi or 64Mi"),
        (group(memory="64"), "groups.gpu.memory", "'64' has no unit", "write 64Gi or 64Mi"),
        (group(memory="64GB"), "groups.gpu.memory", "'64GB'", "write 8Gi or 512Mi"),
        ({"head": {"memory": 0}}, "head.memory", "0 has no unit", "write"),
        ({"head": {"memory": "2Gi"}}, "head.memory", "2Gi, but a head that drives one run needs 3Gi", "3Gi or more"),
        (group(cpu="two"), "groups.gpu.cpu", "'two'", "write 2, or 500m for half of one"),
        (group(cpu=0), "groups.gpu.cpu", "0", "write 2, or 500m"),
        (group(idle_seconds=0), "groups.gpu.idle_seconds", "0", "at least 1"),
        (group(drain_seconds=-5), "groups.gpu.drain_seconds", "-5", "spot nodes often get 30"),
        ({"head": {"drivers": 0}}, "head.drivers", "0", "at least 1"),
        ({"job_hours": 0}, "job_hours", "0", "the time limit of a job"),
        # Texts and Secrets.
        ({"env": {"VERSION": 3.1}}, "env.VERSION", "3.1 is not a text", "write it in quotes"),
        ({"env": {"EMPTY": None}}, "env.EMPTY", "it is empty", "write a text"),
        ({"env": {"LIST": [1]}}, "env.LIST", "[1] is not a text", "write"),
        ({"env": {"A": {"secret": "wandb"}}}, "env.A", "does not name a key", "{secret: wandb, key: api-key}"),
        ({"env": {"A": {"secret": "mine", "key": "x"}}}, "env.A", "the Secret mine", "such as mine-keys"),
        ({"secrets": ["mine"]}, "secrets", "the Secret mine", "such as mine-keys"),
        ({"secrets": ["wandb"], **HERE}, "secrets", "a local cluster has no Secrets", "--env NAME"),
        ({"env": {"A": {"secret": "wandb", "key": "x"}}, **HERE}, "env.A", "a local cluster has no Secrets", "--env NAME"),
        (
            group(node_selector={"cloud": {"google": {"com/pool": "x"}}}),
            "groups.gpu.node_selector.cloud",
            "but must be a text",
            r"write each as \.: --set 'groups.gpu.node_selector.cloud\.google\.com/pool=x'",
        ),
        # Names, as the API server checks them.
        ({"namespace": "Team_A"}, "namespace", "'Team_A' is refused by Kubernetes", "up to 63 small letters"),
        ({"namespace": "a.b"}, "namespace", "'a.b'", "small letters, digits and '-'"),
        ({"storage": {"claim": "Runs"}}, "storage.claim", "'Runs'", "up to 253 small letters"),
        ({"image_pull_secrets": ["my secret"]}, "image_pull_secrets", "'my secret'", "a letter or digit at both ends"),
        ({"env": {"1A": "x"}}, "env.1A", "'1A'", "no digit first"),
        (group(labels={"team": "a b"}), "groups.gpu.labels.team", "'a b'", "up to 63 letters, digits"),
        (group(node_selector={"a/b/c": "x"}), "groups.gpu.node_selector.a/b/c", "'a/b/c'", "such as example.com/team"),
        (group(gpu_resource="nvidia.com/"), "groups.gpu.gpu_resource", "'nvidia.com/'", "such as example.com/team"),
        # Tolerations.
        (
            group(tolerations=[{"key": "a", "operator": "Exists", "value": "b"}]),
            "groups.gpu.tolerations.0",
            "operator is Exists, but value is b",
            "remove operator, or value",
        ),
        (group(tolerations=[{"value": "b"}]), "groups.gpu.tolerations.0", "there is no key", "add the taint's key"),
        (
            group(tolerations=[{"key": "a", "toleration_seconds": 9}]),
            "groups.gpu.tolerations.0",
            "toleration_seconds is 9, but effect is None",
            "set effect: NoExecute",
        ),
        # Volumes and memory.
        (group(volumes=[{"mount": "/data"}]), "groups.gpu.volumes.0", "no source", "exactly one of claim, nfs"),
        (
            group(volumes=[{"mount": "/data", "claim": "a", "nfs": "b:/c"}]),
            "groups.gpu.volumes.0",
            "has claim and nfs",
            "exactly one of",
        ),
        (group(volumes=[{"mount": "data", "claim": "a"}]), "groups.gpu.volumes.0.mount", "'data'", "an absolute path"),
        (group(volumes=[{"mount": "/dev/shm", "claim": "a"}]), "groups.gpu.volumes.0.mount", "'/dev/shm'", "shared_memory"),
        (group(volumes=[{"mount": "/mnt/heliostat", "claim": "a"}]), "groups.gpu.volumes", "/mnt/heliostat", "another mount"),
        (group(volumes=[{"mount": "/a", "claim": "a"}] * 2), "groups.gpu.volumes", "two volumes at /a", "a mount of its own"),
        (group(shared_memory="9Gi"), "shared_memory is 9Gi", "groups.gpu.memory", "raise groups.gpu.memory"),
        ({"run_as_user": 0}, "run_as_user", "0", "the user's number"),
        ({"volumes": [{"mount": "/a", "claim": "a"}], **HERE}, "volumes", "a local cluster does not have", "remove it"),
        (group(serviceAccountName="a"), "groups.gpu: serviceAccountName is a field of", "pods", "use service_account"),
        ({"init_containers": []}, "init_containers is a field of", "pods", "write pod: {spec: {initContainers: ...}}"),
        (group(resources={}), "groups.gpu: resources is a field of", "pods", "use cpu, memory, ephemeral_storage and gpu"),
        # The override.
        ({"pod": {"spec": {"hostNetwrok": True}}}, "pod", "spec.hostNetwrok is no field", "did you mean hostNetwork?"),
        ({"pod": {"spec": {"hostNetwork": "yes"}}}, "pod", "spec.hostNetwork is 'yes'", "write true or false"),
        (
            {"pod": {"spec": {"restartPolicy": "Always"}}},
            "pod",
            "spec.restartPolicy cannot be set here: the autoscaler needs Never",
            "remove it",
        ),
        (
            group(pod={"spec": {"tolerations": []}}),
            "groups.gpu.pod",
            "spec.tolerations cannot be set here: use tolerations",
            "remove it",
        ),
        (
            {"pod": {"spec": {"containers": [{"name": "ray-worker", "image": "x", "env": []}]}}},
            "pod",
            "[ray-worker].image cannot be set here: use image and spec.containers[ray-worker].env cannot be set here: use env",
            "remove it from pod",
        ),
        ({"pod": {"spec": {"containers": [{"image": "x"}]}}}, "pod", "spec.containers[0] has no name", "add its name"),
        ({"pod": {"spec": {"containers": [{"name": "log"}]}}}, "pod", "[log] is a further container", "set its image"),
        (
            group(pod={"spec": {"containers": [{"name": "ray-worker", "resources": {"limits": {"nvidia.com/gpu": 2}}}]}}),
            "groups.gpu.pod",
            "limits of nvidia.com/gpu",
            "use gpu",
        ),
        # Names.
        ({"groups": [GPU, GPU]}, "groups has two groups named", "gpu", "give each a name of its own"),
        (group(name="g" * 31), "name", "g" * 31, "up to 30 small letters"),
        (group(name="GPU_1"), "groups.GPU_1.name", "'GPU_1'", "small letters, digits and '-'"),
        ({"name": "c" * 41}, "name", "c" * 41, "up to 40 small letters"),
        ({"name": "my cluster"}, "name", "'my cluster'", "small letters, digits and '-', a letter first"),
        ({"name": "1st"}, "name", "'1st'", "a letter first"),
        (group(market="Spot"), "groups.gpu.market", "'Spot', but must be 'on-demand' or 'spot'", "set groups.gpu.market"),
        ({"platform": "k8s"}, "platform", "'k8s', but must be 'kubernetes' or 'local'", "set platform"),
        # Prices.
        (group(gpu_type="H10"), "groups.gpu: gpu_type", "H10, which the price table does not have", "did you mean H100?"),
        (group(gpu_type="TPU9"), "groups.gpu: gpu_type", "TPU9", "Or set price_per_hour"),
        (group(gpu_type=None), "groups.gpu: has GPUs", "neither gpu_type nor price_per_hour", "set one of them"),
        (group(gpu=0), "groups.gpu: gpu_type", "L4, but gpu is 0", "set gpu: 1, or remove gpu_type"),
        (group(price_per_hour=-1.0), "groups.gpu.price_per_hour", "-1", "the price of a pod per hour"),
        # Image and Ray.
        ({"image": "heliostat/ray:2.59.0"}, "image", "heliostat/ray:2.59.0, but ray_version is 2.60.0", "make the two agree"),
        ({"ray_version": "2.59.0"}, "image", "heliostat/ray:2.60.0, but ray_version is 2.59.0", "make the two agree"),
        ({"image": "heliostat/ray:latest"}, "image", "heliostat/ray:latest", "use a tag with a version"),
        ({"image": "rayproject/ray:nightly-py311"}, "image", "nightly-py311", "use a tag with a version"),
        ({"image": "heliostat/ray"}, "image", "heliostat/ray,", "use a tag with a version"),
        ({"image": "registry:5000/heliostat/ray"}, "image", "registry:5000/heliostat/ray,", "use a tag with a version"),
        ({"ray_version": "2.60"}, "ray_version", "'2.60'", "such as 2.60.0"),
        # Storage that another node does not see.
        ({"storage": {"uri": "/data/runs"}}, "storage.uri", "/data/runs", "a claim that is ReadWriteMany, or s3:// or gs://"),
        ({"storage": {"uri": "runs"}}, "storage.uri", "runs", "a claim that is ReadWriteMany"),
        ({"storage": {"uri": "file:///data"}}, "storage.uri", "file:///data", "a claim that is ReadWriteMany"),
        ({"storage": {}}, "storage", "exactly one of claim and uri", "{claim: runs, size: 100Gi}"),
        ({"storage": {"claim": "runs", "uri": "s3://b"}}, "storage", "exactly one of claim and uri", "{uri: s3://bucket/team}"),
        ({"storage": {"uri": "s3://b", "size": "1Gi"}}, "storage", "a size or a storage_class", "remove them"),
        ({"storage": {"claim": "runs", "mount": "runs"}}, "storage.mount", "'runs'", "the path of the claim in the pods"),
        (
            {"name": "gpu", "storage": {"uri": "s3://b", "secret": "gpu"}},
            "storage.secret",
            "gpu, but KubeRay stores the token in the Secret named like the cluster",
            "another name, such as gpu-keys",
        ),
        ({"queue": "team"}, "queue", "team", "set idle_shutdown_seconds: null"),
    ],
)
def test_each_mistake_names_the_field_the_value_and_the_fix(change: dict[str, Any], field: str, value: str, fix: str) -> None:
    with pytest.raises(UserError) as refused:
        profile(**change)
    assert field in refused.value.what
    assert value in refused.value.what
    assert fix in refused.value.fix
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("missing", ["groups", "storage"])
def test_what_has_no_default_must_be_there(missing: str) -> None:
    with pytest.raises(UserError, match=f"{missing} is missing\n  fix: add it: a"):
        validate({key: value for key, value in GOOD.items() if key != missing}, Profile)


@pytest.mark.parametrize(
    "change",
    [
        {"image": "registry:5000/heliostat/ray:2.60.0-cuda"},
        {"image": "heliostat/ray@sha256:" + "a" * 64},
        {"image": "heliostat/ray:team-a"},
        {"queue": "team", "idle_shutdown_seconds": None, **group(min=4)},
        {"storage": {"uri": "gs://bucket/runs", "secret": "key"}},
        {"platform": "local", "storage": {"uri": "runs"}},
        group(gpu_type=None, price_per_hour=0),
        group(gpu=0, gpu_type=None, cpu="500m", memory="512Mi"),
        group(cpu=0.5),
    ],
)
def test_what_is_unusual_but_right_is_taken(change: dict[str, Any]) -> None:
    assert profile(**change).groups


@pytest.mark.parametrize("text", ["012345678901", "0755", "0x1F", "1_000", "2026-01-02", "True", "yes", "3.10", "1e3"])
@pytest.mark.parametrize("place", ["env.A", "groups.gpu.labels.a", "groups.gpu.node_selector.a", "groups.gpu.annotations.a"])
def test_a_text_keeps_the_spelling_that_it_has_without_quotes(place: str, text: str) -> None:
    found = find("gpu", [f"{place}={text}"])
    gpu = found.group("gpu")
    texts = [found.env.get("A"), gpu.labels.get("a"), gpu.node_selector.get("a"), gpu.annotations.get("a")]
    assert [each for each in texts if each is not None] == [text]


def test_an_unusual_spelling_of_a_number_is_taken_where_numbers_are_needed() -> None:
    found = find("gpu", ["groups.gpu.max=0_4", "env.A=-5"])
    assert type(found.groups[0].max) is int
    assert (found.groups[0].max, found.env["A"]) == (4, "-5")


def test_numbers_and_booleans_are_texts_where_texts_are_needed() -> None:
    found = profile(
        env={"OMP_NUM_THREADS": 8, "HF_HUB_OFFLINE": True, "NAME": "x"},
        **group(node_selector={"pool": 1}, labels={"fast": False}, tolerations=[{"key": "spot", "value": True}]),
    )
    assert found.env == {"OMP_NUM_THREADS": "8", "HF_HUB_OFFLINE": "true", "NAME": "x"}
    assert found.groups[0].node_selector == {"pool": "1"}
    assert found.groups[0].labels == {"fast": "false"}
    assert found.groups[0].tolerations[0].value == "true"


# Bundled profiles.


def test_there_are_the_profiles_that_the_readme_names() -> None:
    assert {"gpu", "spot", "research", "local"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_profile_is_short_and_found_by_name_from_any_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find(name).name == name
    assert 15 <= len((BUNDLED / f"{name}.yaml").read_text().splitlines()) <= 40


def test_a_profile_of_the_users_folder_wins_over_a_bundled_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster/profiles").mkdir(parents=True)
    (tmp_path / "cluster/profiles/gpu.yaml").write_text((BUNDLED / "spot.yaml").read_text())
    assert [g.name for g in find("gpu").groups] == ["gpu-spot", "gpu"]
    (tmp_path / "other.yaml").write_text((BUNDLED / "gpu.yaml").read_text())
    assert find("other.yaml") == find("other")
    assert find("other").name == "other"
    (tmp_path / "local.yaml").write_text((BUNDLED / "spot.yaml").read_text())
    assert find("local").platform == "kubernetes"
    (tmp_path / "spot.yaml").write_text("task: digits\n")
    with pytest.raises(UserError, match=r"^spot\.yaml: "):
        find("spot")


@pytest.mark.parametrize(
    ("name", "fix"), [("gpus", "did you mean gpu?"), ("zzz", "use one of: gpu, local, research, spot. Or give")]
)
def test_an_unknown_profile_names_the_nearest_one(name: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refused:
        find(name)
    assert refused.value.what == f"there is no profile {name}"
    assert refused.value.fix.startswith(fix)
    assert "heliostat profile init" in refused.value.fix


# Overrides.


def test_a_group_is_overridden_by_its_name() -> None:
    changed = find("spot", ["groups.gpu.max=2", "head.cpu=500m", "groups.gpu-spot.idle_seconds=60"])
    assert (changed.group("gpu").max, changed.group("gpu-spot").max) == (2, 8)
    assert (changed.head.cpu, changed.head.memory) == ("500m", "8Gi")
    assert (changed.group("gpu").idle_seconds, changed.group("gpu-spot").idle_seconds) == (120, 60)
    assert find("spot").group("gpu").max == 4, "the file itself is as before"


@pytest.mark.parametrize(
    ("override", "what", "fix"),
    [
        ("groups.gpus.max=4", "no item has the name gpus", "did you mean gpu?"),
        ("groups.gpu.maximum=4", "groups.gpu.maximum", "did you mean max?"),
        ("groups.gpu.max=none", "groups.gpu.max is 'none'", "a whole number from 1 to 10000"),
        ("groups.gpu.max", "groups.gpu.max", "write it as --set"),
    ],
)
def test_a_wrong_override_is_named(override: str, what: str, fix: str) -> None:
    with pytest.raises(UserError) as refused:
        find("gpu", [override])
    assert what in refused.value.what
    assert fix in refused.value.fix


def test_a_wrong_group_names_the_nearest_one() -> None:
    with pytest.raises(UserError, match="gpu has no worker group gpus\n  fix: did you mean gpu"):
        find("gpu").group("gpus")


# What it means.


@pytest.mark.parametrize(("quantity", "number"), [("2", 2.0), ("500m", 0.5), ("0.5", 0.5)])
def test_cpus(quantity: str, number: float) -> None:
    assert cpus(quantity) == number


@pytest.mark.parametrize(
    ("quantity", "number"), [("1Gi", 2**30), ("1.5Gi", 3 * 2**29), ("2G", 2 * 10**9), ("7", 7), ("3Ki", 3072)]
)
def test_memory(quantity: str, number: int) -> None:
    assert size(quantity) == number


def test_ray_sees_whole_cpus_as_kuberay_rounds_them() -> None:
    assert ray_resources(profile(**group(cpu="1500m")).groups[0]) == {"CPU": 2.0, "GPU": 1.0}
    spot, on_demand = find("spot").capacity
    assert {"CPU": 8.0, "GPU": 1.0, "nodes": 8, "group": "gpu-spot"}.items() < spot.items()
    assert on_demand["nodes"] == 4
    assert spot["price"] < on_demand["price"]


def test_a_spot_pod_costs_less_and_a_price_in_the_profile_wins() -> None:
    spot, on_demand = find("spot").groups
    assert 0 < spot.price < on_demand.price / 2
    assert on_demand.price > PER_GPU["A100-80GB"], "its CPUs and memory cost, too"
    assert profile(**group(price_per_hour=1.25)).groups[0].price == 1.25
