"""What a team's file becomes, and an apply of it against a small real server."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from heliostat.cluster.documents.rbac import RIGHTS, granting
from heliostat.cluster.documents.teams import team_documents
from heliostat.cluster.team import Team, find
from heliostat.config import to_yaml
from heliostat.errors import UserError
from tests.cluster.kube.api_server import ApiServer, kubeconfig, serving
from tests.conftest import Command

VISION: dict[str, Any] = {
    "members": [{"group": "engineers"}, {"user": "ada@example.com"}, {"service_account": "ci/trainer", "may": "look"}],
    "gpus": 8, "cpu": 64, "memory": "512Gi", "queue": {"cohort": "gpus", "borrow": 4},
}  # fmt: skip
KINDS = [
    "Namespace",
    *["Role", "RoleBinding"] * 2,
    "NetworkPolicy",
    "ResourceQuota",
    "ConfigMap",
    "ResourceFlavor",
    "ClusterQueue",
    "LocalQueue",
]
QUOTA = "/api/v1/namespaces/vision/resourcequotas/team"


def team(folder: Path, **changes: Any) -> Team:
    (folder / "vision.yaml").write_text(to_yaml({**VISION, **changes}))
    return find(str(folder / "vision.yaml"))


def spec(documents: list[dict[str, Any]], kind: str) -> Any:
    return next(document for document in documents if document["kind"] == kind)["spec"]


def test_a_file_becomes_a_namespace_with_its_roles_isolation_quota_and_queue(tmp_path: Path) -> None:
    documents = team_documents(team(tmp_path))
    assert [document["kind"] for document in documents] == KINDS
    assert documents[0]["metadata"]["labels"] == {
        "app.kubernetes.io/managed-by": "heliostat", "heliostat.dev/team": "vision",
        "pod-security.kubernetes.io/enforce": "restricted",
    }  # fmt: skip
    (work, look), (workers, lookers) = ([d for d in documents if d["kind"] == kind] for kind in ("Role", "RoleBinding"))
    assert work["rules"] == granting(RIGHTS)
    assert [(each["kind"], each["name"]) for each in workers["subjects"]] == [
        ("Group", "engineers"),
        ("User", "ada@example.com"),
    ]
    assert lookers["subjects"] == [{"kind": "ServiceAccount", "namespace": "ci", "name": "trainer"}]
    assert {verb for rule in look["rules"] for verb in rule["verbs"]} == {"get", "list"}
    assert not {"secrets", "services/proxy", "rayjobs"} & {name for rule in look["rules"] for name in rule["resources"]}
    assert spec(documents, "NetworkPolicy") == {"podSelector": {}, "policyTypes": ["Ingress"]}
    assert spec(documents, "ResourceQuota")["hard"] == {
        "requests.nvidia.com/gpu": "12", "requests.cpu": "96000m", "requests.memory": "768Gi",
    }  # fmt: skip
    queue = spec(documents, "ClusterQueue")
    assert queue["resourceGroups"][0]["flavors"][0]["resources"] == [
        {"name": "nvidia.com/gpu", "nominalQuota": "8", "borrowingLimit": "4"},
        {"name": "cpu", "nominalQuota": "64000m", "borrowingLimit": "32000m"},
        {"name": "memory", "nominalQuota": "512Gi", "borrowingLimit": "256Gi"},
    ]
    assert (queue["cohort"], queue["preemption"]["reclaimWithinCohort"]) == ("gpus", "Any")
    assert spec(documents, "LocalQueue") == {"clusterQueue": "vision"}


def test_without_a_queue_the_share_is_a_quota_of_what_is_given(tmp_path: Path) -> None:
    documents = team_documents(team(tmp_path, queue=None, cpu=None, memory=None, gpus=0))
    assert [document["kind"] for document in documents] == KINDS[:-3]
    assert spec(documents, "ResourceQuota")["hard"] == {"requests.nvidia.com/gpu": "0"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"members": [{"user": "a", "group": "b"}], "gpus": -1}, "has 2 problems"),
        ({"cpu": None, "memory": None}, "queue is given, but not cpu and memory: Kueue admits no pod"),
        ({"queue": {"borrow": 4}}, "queue.borrow is 4, but there is no cohort to borrow from\n  fix: set queue.cohort"),
        ({"gpus": 0}, "queue.borrow is 4, but gpus is 0"),
        ({"members": [{"service_account": "trainer"}]}, "a namespace and an account, such as ci/trainer"),
        ({"budgets": 3}, "budgets is not a known key"),
        ({"budget": {"day": 9, "month": 8}}, "budget: day is 9, but month is 8"),
    ],
)
def test_a_file_that_cannot_be_a_team_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        team(tmp_path, **changes)
    assert message in str(refused.value)


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with serving() as server:
        server.objects["/apis/kueue.x-k8s.io"] = {"preferredVersion": {"groupVersion": "kueue.x-k8s.io/v1beta2"}}
        yield server


@pytest.fixture
def there(server: ApiServer, command: Command, tmp_path: Path) -> Command:
    team(command.cwd)
    return replace(command, env={**command.env, "KUBECONFIG": str(kubeconfig(tmp_path / "kubeconfig", server))})


def test_apply_makes_what_is_missing_asks_before_a_change_and_does_nothing_twice(server: ApiServer, there: Command) -> None:
    done = there("team", "diff", "vision", "--json")
    assert [line.partition(" ")[0] for line in json.loads(done.out)["changes"]] == KINDS
    assert QUOTA not in server.objects
    done = there("team", "apply", "vision")
    assert done.code == 0, done.err
    assert {server.objects[path]["kind"] for path in server.methods("PATCH")} == {*KINDS}
    assert there("team", "diff", "vision").err == "vision matches its file\n"
    before = server.objects[QUOTA]["spec"]
    refused = there("team", "apply", "vision", "--set", "gpus=2")
    assert (refused.code, server.objects[QUOTA]["spec"]) == (2, before)
    assert "requests.nvidia.com/gpu: 12 -> 6" in refused.out
    assert "add --yes" in refused.err
    limited = there("team", "diff", "vision", "--set", "budget.month=900", "--json")
    namespace, limits = json.loads(limited.out)["changes"]
    assert namespace == "Namespace vision: + labels.heliostat.dev/budget-month: 900.0"
    assert limits.startswith("ConfigMap budget.heliostat.dev: ")
    assert there("team", "apply", "vision", "--set", "gpus=2", "--yes").code == 0
    assert server.objects[QUOTA]["spec"]["hard"]["requests.nvidia.com/gpu"] == "6"
    server.objects[QUOTA]["status"] = {"hard": {"requests.cpu": "192"}, "used": {"requests.cpu": "3"}}
    shown = json.loads(there("team", "show", "vision", "--json").out)
    assert shown["uses"] == [{"resource": "cpu", "used": "3", "most": "192"}]
    assert shown["members"][2] == {"who": "ci/trainer", "may": "look"}


def test_what_others_have_is_not_taken_over_unasked(server: ApiServer, there: Command) -> None:
    server.put("/api/v1/namespaces/vision", kind="Namespace", metadata={"labels": {"env": "prod"}})
    server.put(
        "/apis/kueue.x-k8s.io/v1beta1/resourceflavors/default-flavor", kind="ResourceFlavor", spec={"nodeLabels": {"a": "b"}}
    )
    theirs = {"labels": {"heliostat.dev/team": "speech"}}
    server.put("/apis/kueue.x-k8s.io/v1beta1/clusterqueues/vision", kind="ClusterQueue", metadata=theirs)
    done = there("team", "apply", "vision", "--adopt", "--yes")
    assert done.code == 2
    assert "ClusterQueue vision (of speech) exists, and is not of vision; nothing was changed" in done.err
    del server.objects["/apis/kueue.x-k8s.io/v1beta1/clusterqueues/vision"]
    done = there("team", "apply", "vision")
    assert done.code == 2
    assert "Namespace vision exists" in done.err
    assert "heliostat team apply vision --adopt" in done.err
    assert "kubectl delete" not in done.err, "with all that is in it"
    assert server.methods("PATCH") == []
    assert there("team", "apply", "vision", "--adopt", "--yes").code == 0
    assert server.objects["/api/v1/namespaces/vision"]["metadata"]["labels"]["heliostat.dev/team"] == "vision"
    flavor = server.objects["/apis/kueue.x-k8s.io/v1beta1/resourceflavors/default-flavor"]
    assert flavor["spec"] == {"nodeLabels": {"a": "b"}}, "a flavor that exists is used as it is"


@pytest.mark.parametrize("labels", [{}, {"heliostat.dev/team": "speech"}])
def test_what_others_use_is_not_shown_as_the_teams(server: ApiServer, there: Command, labels: dict[str, str]) -> None:
    server.put(QUOTA, kind="ResourceQuota", metadata={"labels": labels}, spec={"hard": {"requests.cpu": "4"}})
    done = there("team", "show", "vision")
    assert (done.code, done.out) == (2, "")
    assert "namespace vision has no team vision" in done.err


def test_a_queue_that_the_file_has_no_more_does_not_go_on_beside_the_quota(server: ApiServer, there: Command) -> None:
    team(there.cwd, queue=None)
    assert there("team", "diff", "vision").code == 0
    mine = {"labels": {"heliostat.dev/team": "vision"}}
    server.put("/apis/kueue.x-k8s.io/v1beta1/clusterqueues/vision", kind="ClusterQueue", metadata=mine)
    done = there("team", "apply", "vision", "--yes")
    assert (done.code, QUOTA in server.objects) == (2, False)
    assert "ClusterQueue vision is still there" in done.err


def test_a_queue_needs_kueue(server: ApiServer, there: Command) -> None:
    del server.objects["/apis/kueue.x-k8s.io"]
    done = there("team", "apply", "vision")
    assert done.code == 2
    assert "the team vision has a queue, but this Kubernetes has no Kueue" in done.err
    assert there("team", "show", "vision").code == 2
