"""Two teams on one Kubernetes: each works in its own namespace, and has nothing of the other's. Needs Kueue."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from heliostat.cluster.errors import Forbidden, NotAdmitted
from heliostat.cluster.kube.kuberay import KubeRay
from heliostat.cluster.kube.rights import missing
from heliostat.config import to_yaml
from tests.conftest import wait_for
from tests.kubernetes.conftest import GPU, IMAGE, Place

READ = ("Pod", "Secret", "ConfigMap", "PersistentVolumeClaim", "RayCluster", "RayJob", "Event", "Service", "RoleBinding")


@dataclass(frozen=True)
class Namespaces:
    """Those of two teams, each with an account ``worker`` and an account ``looker``."""

    place: Place
    ours: str
    theirs: str

    def account(self, team: str, name: str) -> KubeRay:
        """What an account of one of them may do, in its own namespace."""
        within = replace(self.place, kube=KubeRay(namespace=team))
        return within.user(name).kube


@pytest.fixture(scope="module")
def teams(place: Place, kueue: str) -> Iterator[Namespaces]:
    cohort = f"cohort-{secrets.token_hex(3)}"
    names = [f"{cohort}-{letter}" for letter in "ab"]
    try:
        for name in names:
            members = [
                {"service_account": f"{name}/worker"}, {"service_account": f"{name}/looker", "may": "look"},
            ]  # fmt: skip
            queue = {"cohort": cohort, "borrow": 1, "flavor": cohort}
            team = {"members": members, "gpus": 1, "gpu_resource": GPU, "cpu": 4, "memory": "32Gi", "queue": queue}
            (place.command.cwd / f"{name}.yaml").write_text(to_yaml(team))
            done = place.command("team", "apply", name)
            assert done.code == 0, done.err
            again = place.command("team", "diff", name)
            assert (again.out, again.err) == ("", f"{name} matches its file\n"), "nothing that the API server has added"
        yield Namespaces(place, *names)
    finally:
        for name in names:
            KubeRay(namespace=name).objects("Namespace").delete(name)
            place.kube.objects("ClusterQueue").delete(name)
        place.kube.objects("ResourceFlavor").delete(cohort)


def test_a_member_may_do_all_work_here_and_read_nothing_of_the_other_team(teams: Namespaces) -> None:
    worker = teams.account(teams.ours, "worker")
    assert missing(worker.api) == []
    for kind in READ:
        with pytest.raises(Forbidden):
            worker.api.request("GET", worker.api.path(kind, namespace=teams.theirs))
    for path in ("services/proxy", "pods/portforward", "pods/log"):
        resource, _, part = path.partition("/")
        assert not worker.api.may("get", resource, "", part, namespace=teams.theirs)


def test_a_member_who_looks_reads_the_state_and_no_token(teams: Namespaces) -> None:
    looker = teams.account(teams.ours, "looker")
    assert looker.clusters.find("any") is None
    assert looker.objects("Pod").list() == []
    with pytest.raises(Forbidden):
        looker.objects("Secret").find("any")
    with pytest.raises(Forbidden):
        looker.clusters.create({"metadata": {"name": "any"}, "spec": {}})


def test_a_team_has_its_share_and_what_it_may_borrow_and_no_more(teams: Namespaces) -> None:
    api = KubeRay(namespace=teams.ours).api
    # Until then its status is empty, and every pod is refused.
    wait_for(lambda: api.request("GET", api.path("ResourceQuota", "team")).get("status", {}).get("used"), "the quota's count")
    api.request("POST", api.path("Pod"), pod(2), {"dryRun": "All"})
    with pytest.raises(NotAdmitted, match=f"exceeded quota: team, requested: .*{GPU}=3"):
        api.request("POST", api.path("Pod"), pod(3), {"dryRun": "All"})
    queue = api.request("GET", api.path("ClusterQueue", teams.ours))
    wait_for(lambda: active(api.request("GET", api.path("ClusterQueue", teams.ours))), "Kueue to take the queue")
    assert queue["spec"]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": teams.ours}
    shown = teams.place.command("team", "show", teams.ours)
    assert "0 admitted, 0 waiting" in shown.out


def active(queue: dict[str, Any]) -> bool:
    return any(each["type"] == "Active" and each["status"] == "True" for each in queue.get("status", {}).get("conditions", []))


def pod(gpus: int) -> dict[str, Any]:
    """One that passes the restricted standard."""
    secure = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True,
              "seccompProfile": {"type": "RuntimeDefault"}}  # fmt: skip
    amounts = {"cpu": "1", "memory": "1Gi", GPU: str(gpus)}
    container = {"name": "c", "image": IMAGE, "securityContext": secure, "resources": {"limits": amounts}}
    return {"metadata": {"name": "p"}, "spec": {"containers": [container]}}
