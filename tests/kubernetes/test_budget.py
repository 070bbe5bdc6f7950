"""A spent budget on a Kubernetes, with the record on a claim, which only a head can read; none of it takes a GPU."""

import json
from pathlib import Path
from typing import Any

import pytest

from heliostat.cluster.documents.teams import team_documents
from heliostat.cluster.kube.conditions import suspended
from heliostat.cluster.names import BUDGETS
from heliostat.cluster.team import Team
from heliostat.config import validate
from tests.conftest import wait_for
from tests.kubernetes.conftest import Place, cpu_group, status

pytestmark = pytest.mark.accept  # make test has it on a cluster of processes: tests/cluster/targets/test_local_cluster.py
REFUSED = "no new work starts: budget of"


@pytest.fixture(scope="module")
def paid(place: Place) -> Path:
    """The profile of a cluster that runs, and has no budget."""
    path = place.profile("paid", groups=[cpu_group()])
    done = place.command("up", path)
    assert done.code == 0, done.err
    return path


@pytest.fixture(scope="module")
def spent(place: Place, paid: Path) -> Path:
    """The same with a budget, of which more is recorded."""
    (place.command.cwd / "spent").mkdir()
    path = place.profile("spent/paid", groups=[cpu_group()], budget={"month": 1e-9})
    wait_for(lambda: REFUSED in place.command("why", "--on", path).out, "the head in the record")
    return path


def states_of_jobs(place: Place, path: Path) -> dict[str, str]:
    return {job["id"]: job["status"] for job in status(place.command, path)["jobs"]}


def test_work_is_refused_and_what_is_started_over_the_budget_is_in_the_history(place: Place, spent: Path) -> None:
    refused = place.command("submit", spent, "--", "echo", "runs")
    assert (refused.code, refused.out) == (1, "")
    assert f"{REFUSED} paid: $" in refused.err
    assert "1. " + REFUSED in place.command("why", "--on", spent).out
    done = place.command("submit", spent, "--over-budget", "--", "echo", "runs")
    assert (done.code, "runs" in done.out) == (0, True), done.err

    def actions() -> list[Any]:
        events = json.loads(place.command("status", spent, "--history", "--json").out)["events"]
        return [each["which"].partition("-")[0] for each in events if each["what"] == "over budget"]

    assert actions() == ["job"]


def test_a_job_with_a_cluster_of_its_own_is_refused_by_its_head(place: Place, spent: Path) -> None:
    refused = place.command("submit", spent, "--ephemeral", "--", "echo", "runs")
    assert (refused.code, refused.out) == (1, ""), refused.err
    assert f"{REFUSED} paid: $" in refused.err
    wait_for(lambda: place.kube.jobs.list() == [], "the RayJob to be deleted")


def test_a_scheduled_run_is_refused_on_its_head(place: Place, spent: Path) -> None:
    made = place.command("train", "digits", "--on", spent, "--cron", "* * * * *", "--set", "name=nightly")
    assert made.code == 0, made.err

    def ended() -> list[str]:
        return [run["state"] for cron in json.loads(place.command("cron", spent, "--json").out) for run in cron["runs"]]

    try:
        wait_for(lambda: "FAILED" in ended(), "a scheduled run to be refused", 600)
        assert f"{REFUSED} paid: $" in place.command("logs", spent, "nightly").out
    finally:
        assert place.command("cron", spent, "--delete", "nightly").code == 0


def test_the_budget_of_a_team_refuses_work_of_all_profiles_of_its_namespace(place: Place, paid: Path, spent: Path) -> None:
    spaces = place.kube.objects("Namespace")
    spaces.patch(place.namespace, {"metadata": {"labels": {BUDGETS["month"]: "1e-09"}}})
    refused = place.command("submit", paid, "--", "echo", "runs")
    assert (refused.code, refused.out) == (1, "")
    assert f"{REFUSED} the namespace {place.namespace}: $" in refused.err
    spaces.patch(place.namespace, {"metadata": {"labels": {BUDGETS["month"]: None}}})
    assert place.command("submit", paid, "--", "echo", "runs").code == 0


def test_the_budget_of_a_team_that_stops_ends_a_job_of_a_profile_without_one(place: Place, paid: Path) -> None:
    keys = {"name": "any", "namespace": place.namespace, "members": [{"user": "ann"}], "gpus": 0}
    job = place.command("submit", paid, "--detach", "--", "sleep", "900").out.strip()
    for budget in ({"month": 1e-9, "stop": True}, None):
        team = validate({**keys, "budget": budget}, Team)
        place.kube.objects("ConfigMap").apply(next(each for each in team_documents(team) if each["kind"] == "ConfigMap"))
        if budget:
            # The kubelet brings a new ConfigMap within two minutes.
            wait_for(lambda: states_of_jobs(place, paid)[job] == "STOPPED", "the job to be stopped", 400)
    events = json.loads(place.command("status", paid, "--history", "--json").out)["events"]
    assert [each["which"] for each in events if (each["what"], each["who"]) == ("stop", "budget")] == [job]


def test_a_budget_that_stops_ends_a_job_on_the_standing_cluster(place: Place, paid: Path, spent: Path) -> None:
    (place.command.cwd / "stops").mkdir()
    path = place.profile("stops/paid", groups=[cpu_group()], budget={"month": 1e-9, "stop": True})
    jobs = [
        place.command("submit", paid, "--detach", *more, "--", "sleep", "900").out.strip() for more in ([], ["--over-budget"])
    ]
    assert place.command("up", path, "--yes").code == 0, "the head goes on: only the limits change"

    def states() -> list[str]:
        found = states_of_jobs(place, path)
        return [found.get(job, "") for job in jobs]

    # The kubelet brings a changed ConfigMap within two minutes.
    wait_for(lambda: states() == ["STOPPED", "RUNNING"], "the job to be stopped", 400)
    events = json.loads(place.command("status", path, "--history", "--json").out)["events"]
    assert jobs[0] in [each["which"] for each in events if (each["what"], each["who"]) == ("stop", "budget")]
    assert place.command("stop", path, jobs[1]).code == 0
    assert place.command("up", spent, "--yes").code == 0


def test_status_has_no_claim_read_and_why_starts_no_head_for_it(place: Place, spent: Path) -> None:
    before = place.command("submit", spent, "--over-budget", "--detach", "--", "true")
    assert before.code == 0, before.err
    place.kube.clusters.suspend("paid", "a test")
    place.kube.clusters.wait(["paid"], suspended, 300)
    found = status(place.command, spent)
    assert found["budgets"] == []
    assert found["budgets_unknown"].startswith("what is spent of the budget of paid is not known: it is on a claim")
    asked = place.command("why", "--on", spent)
    assert "what is spent of the budget of paid is not known: it is on a claim, and neither paid nor" in asked.out
    assert status(place.command, spent)["state"] == "suspended"
    refused = place.command("submit", spent, "--", "echo", "runs")
    assert (refused.code, f"{REFUSED} paid: $" in refused.err) == (1, True), "its own head, which it has woken, reads it"
