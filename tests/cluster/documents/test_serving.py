"""Services on clusters: what Serve and Kubernetes get, and what is refused before anything is sent."""

import base64
import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from unittest.mock import Mock

import pytest
from ruamel.yaml import YAML

from heliostat.cli import main
from heliostat.cluster.documents.manifests import FEATURES
from heliostat.cluster.documents.secrets import owner_reference
from heliostat.cluster.documents.serving import PORT, SETTINGS, Replicas, application, check_room, serve_config
from heliostat.cluster.errors import Conflict, Forbidden, NotFound, Unreachable
from heliostat.cluster.jobs.dashboard import _refused as refused
from heliostat.cluster.jobs.packaging import Package, runtime_env
from heliostat.cluster.names import Document
from heliostat.cluster.ports import free_ports
from heliostat.cluster.profile import Profile, find
from heliostat.cluster.targets import kubernetes_serving
from heliostat.cluster.targets.code_maps import CODE, mounted
from heliostat.cluster.targets.kubernetes_serving import KubernetesService, documents, parts_of
from heliostat.cluster.targets.serving import ServiceState, _port, check_answers, wait, with_served
from heliostat.commands.serve import status
from heliostat.config import digest, to_yaml, validate
from heliostat.environment import SERVE_TOKEN
from heliostat.errors import NotComing, UserError

TOKEN = "secret" * 8
PACKAGES = [Package("gcs://_ray_pkg_1.tar.xz", b"own"), Package("gcs://_ray_pkg_2.tar.xz", b"heliostat")]


def applied(**keys: Any) -> Document:
    environment = runtime_env(mounted(PACKAGES), {})
    return application("churn", "module:function", {"model": "churn"}, environment, Replicas(**keys), 64, 30.0)


def service(
    profile: Profile | None = None, name: str = "churn", own: Package = PACKAGES[0], token: str = TOKEN
) -> list[Document]:
    config = serve_config(applied(), "0.0.0.0", PORT, 30.0)
    return documents(profile or find("gpu"), name, [own, PACKAGES[1]], config, token, FEATURES["1.6"])


def test_a_number_of_replicas_is_fixed_and_a_range_is_scaled_by_the_requests() -> None:
    (fixed,), (scaled,) = applied(replicas=2)["deployments"], applied(replicas=[0, 4], in_flight=3.0, gpus=0.5)["deployments"]
    assert (fixed["num_replicas"], fixed["ray_actor_options"]) == (2, {"num_cpus": 1.0})
    assert "num_replicas" not in scaled
    limits = scaled["autoscaling_config"]
    assert (limits["min_replicas"], limits["initial_replicas"], limits["max_replicas"]) == (0, 1, 4)
    assert limits["target_ongoing_requests"] == 3
    assert scaled["ray_actor_options"] == {"num_cpus": 1.0, "num_gpus": 0.5}


@pytest.mark.parametrize("keys", [{"replicas": 2, "per_node": 1}, {"replicas": [0, 4], "gpus": 1.0}])
def test_ray_takes_the_configuration_and_keeps_it_as_it_is(keys: dict[str, Any]) -> None:
    """`wait` compares what is deployed with it."""
    pytest.importorskip("fastapi", reason="ray[serve] is not installed")
    from ray.serve.schema import ServeDeploySchema

    config = serve_config(applied(**keys), "127.0.0.1", 8123, 30.0, everywhere=False)
    taken = ServeDeploySchema.model_validate(config).model_dump(exclude_unset=True)
    assert json.loads(json.dumps(taken, default=str)) == config


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ({"replicas": 0}, "0 starts no replica"),
        ({"replicas": [2, 1]}, r"\[2, 1\] is no range"),
        ({"replicas": [0, 0]}, "starts no replica"),
        ({"cpus": 0.0}, "cpus"),
    ],
)
def test_replicas_that_make_no_sense_are_refused(keys: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError, match=what):
        validate(keys, Replicas, "--set")


def test_replicas_must_fit_into_the_groups_of_the_profile() -> None:
    local = find("local")  # two nodes with a CPU and a GPU each
    check_room(local, Replicas(replicas=4, cpus=0.5, gpus=0.5))
    with pytest.raises(UserError, match="replicas is 3, but the groups of local at their maximum hold 2") as refused:
        check_room(local, Replicas(replicas=3))
    assert refused.value.fix.startswith("--set replicas=2")
    with pytest.raises(UserError, match="at their maximum hold 2"):
        check_room(local, Replicas(replicas=3, cpus=0.5, per_node=1))
    with pytest.raises(UserError, match="a replica needs 2 CPUs and 0 GPUs, and no node of local has them"):
        check_room(local, Replicas(cpus=2.0))


def test_a_service_on_kubernetes_has_the_profiles_groups_its_code_and_a_policy_that_closes_the_other_ports() -> None:
    ray_service, secret, own, heliostat, policy = service()
    assert [each["kind"] for each in (ray_service, secret, own, heliostat, policy)] == [
        "RayService", "Secret", "ConfigMap", "ConfigMap", "NetworkPolicy",
    ]  # fmt: skip
    cluster = ray_service["spec"]["rayClusterConfig"]
    assert [group["groupName"] for group in cluster["workerGroupSpecs"]] == [group.name for group in find("gpu").groups]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        container = group["template"]["spec"]["containers"][0]
        assert {"containerPort": PORT, "name": "serve"} in container["ports"]
        assert CODE in [mount["mountPath"] for mount in container["volumeMounts"]]
        names = [entry["name"] for entry in container["env"]]
        assert len(names) == len(set(names)), "the API server would refuse a name twice"
    to_all = [rule for rule in policy["spec"]["ingress"] if "from" not in rule]
    ports = [port["port"] for rule in to_all for port in rule["ports"]]
    assert ports == [8265, PORT]
    selected = policy["spec"]["podSelector"]["matchLabels"].items()
    assert selected <= cluster["headGroupSpec"]["template"]["metadata"]["labels"].items()
    assert f"file://{CODE}/_ray_pkg_2.tar.xz" in ray_service["spec"]["serveConfigV2"]
    recorder = cluster["headGroupSpec"]["template"]["spec"]["containers"][1]
    assert recorder["name"] == "recorder"
    assert "recorder.py" in own["data"]


def test_a_variable_of_the_head_that_serving_sets_too_is_the_heads() -> None:
    made = service(find("gpu", [f"head.env.{name}=mine" for name in SETTINGS]))
    head = made[0]["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert [(each["name"], each["value"]) for each in head["env"] if each["name"] in SETTINGS] == [
        (name, "mine") for name in SETTINGS
    ]


def test_a_new_head_finds_the_state_of_the_one_before_on_the_claim_and_the_nodes_wait_for_it() -> None:
    cluster = service()[0]["spec"]["rayClusterConfig"]
    ray, recorder = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    values = {each["name"]: each.get("value") for each in ray["env"]}
    names = [*values]
    assert values["RAY_gcs_storage"] == "rocksdb"
    assert values["RAY_gcs_storage_path"] == "/mnt/heliostat/.gcs/serve-churn/$(HELIOSTAT_CLUSTER)"
    assert names.index("HELIOSTAT_CLUSTER") < names.index("RAY_gcs_storage_path"), "Kubernetes takes those before"
    assert {"name": "STATES", "value": "/mnt/heliostat/.gcs/serve-churn"} in recorder["env"]
    for group in cluster["workerGroupSpecs"]:
        environment = group["template"]["spec"]["containers"][0]["env"]
        assert {"name": "RAY_gcs_rpc_server_reconnect_timeout_s", "value": "600"} in environment
    assert "RAY_gcs_" not in to_yaml(service(find("gpu", ["storage.claim=null", "storage.size=null", "storage.uri=s3://b"]))[0])


def test_a_worker_is_ready_while_its_proxy_answers_and_that_of_the_head_does_not() -> None:
    made = service(find("gpu", ["groups.gpu.topology_spread=[{key: kubernetes.io/hostname}]"]))
    _, pod = (group["template"]["spec"] for group in made[0]["spec"]["rayClusterConfig"]["workerGroupSpecs"])
    assert pod["topologySpreadConstraints"][0]["matchLabelKeys"] == ["ray.io/cluster"], "the cluster before is there as well"
    (port,) = free_ports(1)
    *shell, script = pod["containers"][0]["readinessProbe"]["exec"]["command"]

    def is_ready() -> bool:
        words = [*shell, script.replace(f"/{PORT} ", f"/{port} ")]
        env = {**os.environ, "FQ_RAY_IP": "127.0.0.2"}
        return subprocess.run(words, env=env, stderr=subprocess.DEVNULL, check=False).returncode == 0

    head, own = ("127.0.0.2", port), ("127.0.0.1", port)
    assert not is_ready()
    with health(own, 200):
        assert is_ready()
        with health(head, 503):
            assert is_ready()
        with health(head, 200):
            assert not is_ready()
    with health(own, 503):
        assert not is_ready()


@contextmanager
def health(address: tuple[str, int], status: int) -> Iterator[None]:
    """A proxy whose health is so."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/-/healthz"
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with running(HTTPServer(address, Handler)):
        yield


def test_the_token_of_a_service_is_in_its_secret_alone() -> None:
    made = service()
    (secret,) = [each for each in made if each["kind"] == "Secret"]
    assert TOKEN not in to_yaml({"all": [each for each in made if each is not secret]})
    assert [base64.b64decode(value).decode() for value in secret["data"].values()] == [TOKEN]


def parts(made: list[Document]) -> set[tuple[str, str]]:
    """What the pods of a service name, which is what is created."""
    named = parts_of(made[0]["spec"]["rayClusterConfig"])
    created = {(each["kind"], each["metadata"]["name"]) for each in made if each.get("immutable")}
    assert named == created
    return named


def test_pods_keep_the_code_and_the_token_that_they_were_started_with() -> None:
    """Other ones have other names, for which the operator makes new pods."""
    first = parts(service())
    assert first == parts(service())
    code, token = parts(service(own=Package("gcs://_ray_pkg_3.tar.xz", b"other"))), parts(service(token="other" * 8))
    assert len(first) == 3
    assert [len(first & other) for other in (code, token)] == [2, 2]
    assert not any(TOKEN in name or digest(TOKEN) in name for _, name in first)


class Live:
    """Objects of Kubernetes by kind and name."""

    def __init__(self) -> None:
        self.all: dict[str, dict[str, Document]] = {}
        self.services, self.clusters = self.objects("RayService"), self.objects("RayCluster")
        self.api = Mock(namespace="team")

    def objects(self, kind: str) -> Any:
        found = self.all.setdefault(kind, {})

        def apply(document: Document, force: bool = False) -> Document:
            name = document["metadata"]["name"]
            found[name] = {**document, "metadata": {**document["metadata"], "uid": f"u-{name}"}}
            return found[name]

        def patch(name: str, changes: Document) -> None:
            found[name]["metadata"].update(changes["metadata"])

        def delete(name: str, seen: Document | None = None) -> None:
            del found[name]

        return Mock(find=found.get, apply=apply, patch=patch, delete=delete, list=lambda _: [*found.values()])


def nothing() -> None:
    """Nothing happens."""


def started(kube: Live, made: list[Document], monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], None] = nothing) -> None:
    """Start a service, which answers when something else has happened."""
    target = Mock(kube=kube, api=kube.api, profile=find("gpu"), claims=lambda: [])

    def waits(*_: object) -> Iterator[str]:
        meanwhile()
        yield "waits"

    monkeypatch.setattr(kubernetes_serving, "wait", waits)
    monkeypatch.setattr(kubernetes_serving, "poll", lambda *_: iter([]))
    for _ in KubernetesService(target, "churn").start(made, {}):
        pass


def test_what_a_service_needs_no_more_is_deleted_with_the_last_cluster_that_does(monkeypatch: pytest.MonkeyPatch) -> None:
    kube, (first, second, third) = Live(), (service(token=letter * 32) for letter in "abc")
    (of_first,), (of_second,), (of_third,) = (
        [name for kind, name in parts(each) if kind == "Secret"] for each in (first, second, third)
    )
    started(kube, first, monkeypatch)
    cluster = kube.clusters.apply({
        "apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "serve-churn-x"},
        "spec": first[0]["spec"]["rayClusterConfig"],
    })  # fmt: skip
    started(kube, second, monkeypatch)
    assert kube.all["Secret"][of_first]["metadata"]["ownerReferences"] == [owner_reference(cluster)]
    kube.all["RayCluster"].clear()
    started(kube, third, monkeypatch)
    assert of_second not in kube.all["Secret"]
    assert of_third in kube.all["Secret"]


def test_of_two_first_starts_at_once_one_is_told_so_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    kube, mine, other = Live(), service(), service(token="other" * 8)

    def meanwhile() -> None:
        kube.services.apply(other[0])

    with pytest.raises(Conflict, match="another command has changed or ended churn meanwhile"):
        started(kube, mine, monkeypatch, meanwhile)
    assert "serve-churn" in kube.all["RayService"]


def test_a_service_with_an_unusable_name_or_in_a_queue_is_refused() -> None:
    with pytest.raises(UserError, match="Churn_2 cannot be the name of a service on Kubernetes"):
        service(name="Churn_2")
    queued = find(
        "gpu", ["queue=team", "idle_shutdown_seconds=null", *(f"groups.{g.name}.min={g.max}" for g in find("gpu").groups)]
    )
    with pytest.raises(UserError, match="queue is team, but a service has no place in a queue"):
        service(queued)


def test_no_pod_of_a_service_is_given_a_variable_twice_and_the_profiles_own_value_counts() -> None:
    retry, buffer = "RAY_SERVE_HAPROXY_RETRY_ON", "RAY_SERVE_HAPROXY_TUNE_BUFSIZE"
    profile = find(
        "gpu", [f"env.{retry}=all", f"head.env.{buffer}=1", f"groups.gpu.env.{buffer}=2", "env.HELIOSTAT_SERVE_TOKEN=x"]
    )
    cluster = service(profile)[0]["spec"]["rayClusterConfig"]
    found = {}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        variables = group["template"]["spec"]["containers"][0]["env"]
        names = [each["name"] for each in variables]
        assert sorted(names) == sorted({*names})
        values = {each["name"]: each.get("value") for each in variables}
        assert (values[retry], values[SERVE_TOKEN]) == ("all", None)
        found[group.get("groupName", "head")] = values[buffer]
    assert found == {"head": "1", "cpu": "65536", "gpu": "2"}


def test_a_service_that_is_changed_keeps_its_port() -> None:
    live = [ServiceState("churn", "RUNNING", 1, 1, "", "http://127.0.0.1:8123", {})]
    assert (_port(live, None), _port(live, 8123)) == (8123, 8123)
    with pytest.raises(UserError, match="--port is 8000, but churn is served at"):
        _port(live, 8000)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="cannot be listened on"):
        _port([], taken.getsockname()[1])


def state(status: str, message: str = "") -> ServiceState:
    return ServiceState("churn", status, 0, 1, message, "", {})


def test_what_a_replica_has_refused_is_the_users_error_and_ends_the_wait_at_once() -> None:
    raised = (
        "Retrying 2 more time(s). Error:\n  File x\nheliostat.errors.UserError: model 'churn' has no version '9'\n  fix: use 1"
    )
    with pytest.raises(UserError) as refused:
        check_answers(state("DEPLOYING", raised))
    assert (refused.value.what, refused.value.fix) == ("model 'churn' has no version '9'", "use 1")
    assert not check_answers(state("DEPLOYING", "Retrying 2 more time(s). Error: out of memory"))
    with pytest.raises(NotComing, match="churn cannot be served:\n  \\| out of memory"):
        check_answers(state("DEPLOY_FAILED", "out of memory"))
    assert check_answers(state("RUNNING"))


@contextmanager
def answering(*answers: tuple[int, str]) -> Iterator[tuple[str, str]]:
    """The URL and the token of a server that answers GET /v2/models/churn with these, one after the other."""
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert (self.path, self.headers["Authorization"]) == ("/v2/models/churn", f"Bearer {TOKEN}")
            status, body = left.pop(0)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with running(HTTPServer(("127.0.0.1", 0), Handler)) as server:
        yield f"http://127.0.0.1:{server.server_port}", TOKEN


@contextmanager
def running(made: HTTPServer) -> Iterator[HTTPServer]:
    """A server that answers while the block runs."""
    with made as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def described(version: str) -> tuple[int, str]:
    """What a replica answers."""
    parameters = {"reference": "churn@champion", "checksum": version * 64}
    return 200, json.dumps({"name": "churn", "versions": [version], "parameters": parameters})


def test_what_is_served_is_what_each_replica_answers() -> None:
    three = replace(state("RUNNING"), replicas=3)
    found = with_served(three, lambda: answering(described("4"), described("3"), described("4")))
    assert [(each.reference, each.version, each.checksum) for each in found.served] == [
        ("churn@champion", "3", "3" * 64), ("churn@champion", "4", "4" * 64),
    ]  # fmt: skip
    assert status._served(found) == ("churn@champion", "3, 4", f"{'3' * 12}, {'4' * 12}")


def test_a_version_that_is_not_told_is_unknown_and_no_replica_is_started_for_it() -> None:
    running = replace(state("RUNNING"), replicas=1, config=applied())

    def opened(error: Exception) -> Any:
        raise error

    free = free_ports(1)[0]
    for reached, why in (
        (lambda: answering((401, "no token")), "churn answered GET /v2/models/churn with 401: no token"),
        (lambda: nullcontext((f"http://127.0.0.1:{free}", TOKEN)), "churn does not answer: "),
        (lambda: opened(Forbidden("no right to forward ports", "ask for it")), "no right to forward ports"),
        (lambda: opened(FileNotFoundError(2, "No such file", "churn.token")), "churn.token"),
    ):
        found = with_served(running, reached)
        assert why in found.unknown
        assert status._served(found) == ("churn", "unknown", "")
    empty = replace(running, replicas=0)
    assert with_served(empty, lambda: opened(AssertionError("a request starts a replica"))) == empty
    before = with_served(running, lambda: answering((200, json.dumps({"versions": ["20"]}))))
    assert status._served(before) == ("churn", "20", "unknown"), "the code of an earlier version"


class Answers:
    """A dashboard with these answers, one after the other; the last one stays."""

    def __init__(self, *answers: Callable[[], Any]) -> None:
        self.answers = list(answers)

    def get(self, path: str) -> Any:
        return (self.answers.pop(0) if self.answers[1:] else self.answers[0])()


def deployed(config: Document, status: str) -> dict[str, Any]:
    replica = {"replicas": [{"state": "RUNNING"}] * (status == "RUNNING"), "target_num_replicas": 1}
    found = {"status": status, "deployments": {"replica": replica}, "deployed_app_config": config}
    return {"http_options": {"host": "127.0.0.1", "port": 8000}, "applications": {"churn": found}}


def test_a_wait_ends_when_the_new_configuration_answers_not_the_one_before() -> None:
    def away() -> Any:
        raise NotFound("no cluster yet", "wait")

    before, new = applied(replicas=1), applied(replicas=2)
    dashboard: Any = Answers(
        away, lambda: deployed(before, "RUNNING"), lambda: deployed(new, "DEPLOYING"), lambda: deployed(new, "RUNNING")
    )
    lines = list(wait("churn", new, lambda: dashboard, lambda: "the cluster", 60))
    assert lines == ["the cluster", "waits for Ray Serve, the cluster", "0 of 1 replica answer, the cluster"]


def test_a_ray_without_serve_and_one_that_is_busy_are_told_apart() -> None:
    without = refused("first", 501, 'Serve dependencies are not installed. Please run `pip install "ray[serve]"`.')
    assert isinstance(without, UserError)
    assert "the Ray of first cannot serve" in without.what
    assert isinstance(refused("first", 500, "ConnectionError: Failed to connect to Ray cluster at 10.0.0.1:6379"), Unreachable)


def test_a_dry_run_shows_the_documents_without_the_token_and_asks_no_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    (tmp_path / "mine.token").write_text(f"{TOKEN}\n")
    options = ["--dry-run", "--token-file", "mine.token", "--set", "replicas=[1,2]", "--set", "requests=9"]
    assert main(["serve", "churn@champion", "--on", "gpu", *options]) == 0
    shown = capsys.readouterr().out
    assert TOKEN not in shown
    service, *others = YAML(typ="safe").load_all(shown)
    assert [each["kind"] for each in others] == ["Secret", "ConfigMap", "ConfigMap", "NetworkPolicy"]
    (served,) = YAML(typ="safe").load(service["spec"]["serveConfigV2"])["applications"]
    assert served["args"]["model"] == "churn@champion"
    assert served["args"]["limits"]["requests"] == served["deployments"][0]["max_ongoing_requests"] == 9
