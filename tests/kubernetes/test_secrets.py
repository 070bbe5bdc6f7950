"""Values that are secret, on a real Kubernetes: in the pods and jobs that need them, and in no document, output or job list."""

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from heliostat.cluster.names import Document
from heliostat.cluster.profile import find
from heliostat.cluster.targets.kubernetes import KubernetesCluster
from tests.conftest import Command, wait_for
from tests.kubernetes.conftest import Place, Running
from tests.kubernetes.test_doctor import examined

VALUES = {"WANDB_API_KEY": "named-by-the-profile", "HF_TOKEN": "with-its-whole-secret", "OF_MY_SHELL": "of-the-job-alone"}
CPU = {"name": "cpu", "cpu": "100m", "memory": "1Gi", "max": 1}
SCRIPT = """
import hashlib, os, sys
import ray

def digests():
    return [name + " " + hashlib.sha256(os.environ.get(name, "").encode()).hexdigest() for name in sys.argv[1:]]

names = sys.argv[1:]
ray.init()
@ray.remote(num_cpus=1)
def worker(names):
    return [name + " " + hashlib.sha256(os.environ.get(name, "").encode()).hexdigest() for name in names]
print("driver:", *digests(), sep="\\n")
print("worker:", *ray.get(worker.remote(names)), sep="\\n")
"""


def digests(*names: str) -> str:
    return "\n".join(f"{name} {hashlib.sha256(VALUES[name].encode()).hexdigest()}" for name in names)


def shown(*texts: object) -> set[str]:
    """The values that occur in a text, also as Kubernetes encodes them."""
    text = " ".join(each if isinstance(each, str) else json.dumps(each) for each in texts)
    return {value for value in VALUES.values() if value in text or base64.b64encode(value.encode()).decode() in text}


def secret(place: Place, name: str) -> Document | None:
    return place.kube.objects("Secret").find(name)


@pytest.fixture(scope="module")
def named(place: Place) -> dict[str, Any]:
    """What a profile says of two Secrets, which exist."""
    secrets = place.kube.objects("Secret")
    secrets.create({"metadata": {"name": "wandb"}, "stringData": {"api-key": VALUES["WANDB_API_KEY"]}})
    secrets.create({"metadata": {"name": "hub"}, "stringData": {"HF_TOKEN": VALUES["HF_TOKEN"]}})
    return {"env": {"WANDB_API_KEY": {"secret": "wandb", "key": "api-key"}}, "secrets": ["hub"]}


@pytest.fixture
def shell(place: Place) -> Place:
    """The same place, for a shell with a variable."""
    (place.command.cwd / "check.py").write_text(SCRIPT)
    variable = {"OF_MY_SHELL": VALUES["OF_MY_SHELL"]}
    return Place(place.kube, Command(place.command.cwd, {**place.command.env, **variable}))


@pytest.fixture
def standing(place: Place, named: dict[str, Any]) -> Iterator[Path]:
    path = place.profile("standing", groups=[CPU], **named)
    assert examined(place, path).all("problem", "secrets") == []
    rendered = place.command("render", path).out
    assert "name: wandb" in rendered
    assert not shown(rendered, place.command("diff", path).out)
    done = place.command("up", path)
    assert done.code == 0, done.err
    yield path
    assert place.command("down", path, "--yes").code == 0


def test_a_job_on_a_standing_cluster_has_the_variables_of_the_profile_and_of_the_shell(shell: Place, standing: Path) -> None:
    before = {each["metadata"]["name"] for each in shell.kube.objects("Secret").list()}
    done = shell.command("submit", standing, "--env", "OF_MY_SHELL", "--", "python", "check.py", *VALUES, timeout=400)
    assert done.code == 0, done.err
    assert done.out.count(digests(*VALUES)) == 2, done.out
    cluster = KubernetesCluster(find(str(standing)), shell.kube)
    dashboard = cluster.dashboard()
    lists = [dashboard.get(path) for path in ("/api/jobs/", "/api/v0/runtime_envs?detail=true", "/api/v0/actors?detail=true")]
    pods = [pod["spec"] for pod in cluster.snapshot().pods]
    assert not shown(done.out, done.err, lists, pods, shell.kube.clusters.get("standing"))
    assert {each["metadata"]["name"] for each in shell.kube.objects("Secret").list()} == before
    again = shell.command("submit", standing, "--", "python", "check.py", "OF_MY_SHELL", timeout=400)
    assert digests("OF_MY_SHELL") not in again.out, "it was of that job alone"


def test_a_job_with_its_own_cluster_has_a_secret_that_is_deleted_with_it(shell: Place, named: dict[str, Any]) -> None:
    path = shell.profile("brief", groups=[CPU], **named)
    command = f"python check.py {' '.join(VALUES)} && until [ -e /tmp/seen ]; do sleep 0.2; done"
    process = Running(shell, "submit", path, "--ephemeral", "--env", "OF_MY_SHELL", "--", "bash", "-c", command)
    process.says("worker:")
    (job,) = shell.kube.jobs.list()
    own = secret(shell, f"{job['metadata']['name']}-env")
    assert own
    assert [owner["uid"] for owner in own["metadata"]["ownerReferences"]] == [job["metadata"]["uid"]]
    assert not shown(job)
    its_cluster = KubernetesCluster(find(str(path)), shell.kube, job["status"]["rayClusterName"])
    its_cluster.dashboard().submit("seen", "touch /tmp/seen", {}, {})
    assert process.end() == 0, process.lines
    assert "".join(process.out).count(digests(*VALUES)) == 2
    wait_for(lambda: secret(shell, own["metadata"]["name"]) is None, "the Secret to be deleted")


def test_the_secret_of_scheduled_runs_lives_as_long_as_they_do(shell: Place) -> None:
    path = shell.profile("base", groups=[CPU])
    options: list[str | Path] = ["--on", path, "--cron", "0 0 1 1 *", "--set", "name=nightly", "--set", "workers=1"]
    train: list[str | Path] = ["train", "digits", *options]
    assert shell.command(*train, "--env", "OF_MY_SHELL").code == 0
    own = secret(shell, "nightly-env")
    assert own
    assert [owner["kind"] for owner in own["metadata"]["ownerReferences"]] == ["CronJob"]
    assert not shown(shell.kube.objects("ConfigMap").get("nightly"), shell.kube.objects("CronJob").get("nightly"))
    assert shell.command(*train).code == 0
    assert secret(shell, "nightly-env") is None, "a schedule without variables has no Secret"
    assert shell.command(*train, "--env", "OF_MY_SHELL").code == 0
    assert shell.command("cron", path, "--delete", "nightly").code == 0
    assert secret(shell, "nightly-env") is None


def test_a_secret_of_others_is_not_overwritten_by_scheduled_runs(shell: Place) -> None:
    shell.kube.objects("Secret").create({"metadata": {"name": "weekly-env"}, "stringData": {"KEY": "of others"}})
    path = shell.profile("base", groups=[CPU])
    options: list[str | Path] = ["--on", path, "--cron", "0 0 1 1 *", "--set", "name=weekly", "--set", "workers=1"]
    train: list[str | Path] = ["train", "digits", *options, "--env", "OF_MY_SHELL"]
    done = shell.command(*train)
    assert done.code == 2
    assert "Secret weekly-env (made by " in done.err
    assert "exists, and is not of base" in done.err
    assert shell.kube.objects("CronJob").find("weekly") is None


def test_the_doctor_names_secrets_and_keys_that_do_not_exist(place: Place, named: dict[str, Any]) -> None:
    env = {"A": {"secret": "wandb", "key": "kye"}, "B": {"secret": "ghost", "key": "x"}}
    found = examined(place, place.profile("wrong", env=env, secrets=["wandb"]))
    output = [each["what"] for each in found.all("problem", "secrets")]
    assert found.code == 1
    assert output[0].startswith("secrets names wandb, but none of its keys (api-key) is the name of a variable")
    assert output[1] == "env.A names the key kye of the secret wandb, which has api-key"
    assert output[2].startswith("env.B names ghost, but namespace")
    assert not shown(output)
