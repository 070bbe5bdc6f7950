"""A budget: what is spent of it in the day and the month of UTC, and by whom; once it is spent, new work is refused."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from heliostat.cluster.budget import Budget
from heliostat.cluster.documents.manifests import ray_cluster
from heliostat.cluster.documents.teams import team_documents
from heliostat.cluster.in_pod.budget import Enforcement, Holding, period_of
from heliostat.cluster.in_pod.priced import Span, Spans
from heliostat.cluster.in_pod.record import Gap, Interval, Record, RecordedJob, read
from heliostat.cluster.in_pod.recorder import line, stops
from heliostat.cluster.in_pod.store import Store
from heliostat.cluster.profile import Profile
from heliostat.cluster.spending import Spent, spent
from heliostat.cluster.targets import budget
from heliostat.cluster.targets.kubernetes import KubernetesCluster
from heliostat.cluster.targets.local import LocalCluster
from heliostat.cluster.targets.storage import InPlace
from heliostat.cluster.team import Team
from heliostat.config import validate
from heliostat.environment import NODES_RECORD, STORAGE
from heliostat.errors import NotComing, UserError
from heliostat.folder import Folder
from tests.cluster.kube.api_server import ApiServer, answering, kubeconfig, serving
from tests.conftest import clean_environment

HOUR = 3600.0
MIDNIGHT = datetime(2026, 3, 2, tzinfo=UTC).timestamp()
NOW = MIDNIGHT + 6 * HOUR
FORBIDDEN = (
    'namespaces "vision" is forbidden: User "ann" cannot get resource "namespaces" in API group "" in the namespace "vision"'
)
GROUPS = [{"name": "cpu", "max": 1, "price_per_hour": 1}]


def node(begin: float, price: float | None, hours: float = 1, **work: float) -> Interval:
    state = "busy" if work else "idle"
    return Interval(f"n{begin}", "n", "gpu", "spot", price, 1, state, begin, begin + hours * HOUR, work)


def record(*intervals: Interval, gaps: Sequence[Gap] = (), **submitters: str) -> Record:
    jobs = {id: RecordedJob(id, id, "", "SUCCEEDED", {"submitter": who}, None, None) for id, who in submitters.items()}
    return Record(NOW - 40 * 24 * HOUR, NOW, intervals, gaps, jobs)


def money(found: Sequence[Spent]) -> list[float]:
    return [round(each.money, 6) for each in found]


def test_a_day_and_a_month_begin_and_end_at_midnight_of_utc() -> None:
    february, march, over_midnight = (
        node(MIDNIGHT - 26 * HOUR, 100.0),
        node(MIDNIGHT - 24 * HOUR, 10.0),
        node(MIDNIGHT - 1800, 4.0),
    )
    limits, known = Budget(day=5, month=20), [record(february, march, over_midnight)]
    assert money(spent("gpu", limits, known, NOW)) == [2.0, 14.0]
    assert money(spent("gpu", limits, known, MIDNIGHT - 1)) == [pytest.approx(12.0, abs=0.01)] * 2
    day, month = spent("gpu", limits, known, MIDNIGHT - 1)
    assert (day.until, month.until) == ("2026-03-02 00:00 UTC", "2026-04-01 00:00 UTC")
    for last in (datetime(2026, 12, 31, tzinfo=UTC), datetime(2028, 2, 29, tzinfo=UTC)):
        now = last.timestamp()
        assert period_of("day", now) == (now, now + 24 * HOUR)
        assert period_of("month", now + HOUR) == (last.replace(day=1).timestamp(), now + 24 * HOUR)


def test_most_of_a_budget_is_mentioned_and_all_of_it_refuses() -> None:
    known = [record(node(MIDNIGHT, 4.0))]
    states = [(each.warns, each.refuses) for limit in (5.1, 5, 4) for each in spent("gpu", Budget(day=limit), known, NOW)]
    assert states == [(False, False), (True, False), (True, True)]


def test_who_spent_it_is_named_over_all_clusters_the_most_expensive_first() -> None:
    one, other = record(node(MIDNIGHT, 8.0, a=0.75), a="ann"), record(node(MIDNIGHT, 9.0, b=1.0), b="ben")
    (found,) = spent("the namespace vision", Budget(month=20), [one, other], NOW)
    assert found.by == {"ben": 9.0, "ann": 6.0, "no submitter": 2.0}
    assert found.text == (
        "budget of the namespace vision: $17.00 of $20.00 spent this month, until 2026-04-01 00:00 UTC; "
        "ben $9.00, ann $6.00, no submitter $2.00"
    )


def test_what_is_not_known_is_said() -> None:
    gaps = [Gap(MIDNIGHT - 100, MIDNIGHT + 120), Gap(MIDNIGHT - 9000, MIDNIGHT - 8000)]
    (found,) = spent("gpu", Budget(day=1), [record(node(MIDNIGHT, None), gaps=gaps)], NOW)
    assert found.text.endswith("; 2 min 0 s are not recorded; without 1 h 0 min of nodes whose price is not known")
    assert money([found]) == [0.0]
    (nothing,) = spent("gpu", Budget(day=1), [], NOW)
    assert (nothing.recorded, nothing.refuses) == (False, False)
    assert nothing.text.endswith("nothing is recorded yet")


@pytest.mark.parametrize(
    ("written", "limits"),
    [
        ("50 USD/day", {"day": 50.0}),
        ("$900/month", {"month": 900.0}),
        ("0.5/day", {"day": 0.5}),
        ({"day": 50, "month": 900}, {"day": 50.0, "month": 900.0}),
    ],
)
def test_a_budget_is_a_mapping_or_a_text(written: Any, limits: dict[str, float]) -> None:
    found = profile(Path("runs"), written).budget
    assert found
    assert found.limits == limits


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("50 EUR/day", "'50 EUR/day' is not a budget\n  fix: write 50 USD/day, or in the currency of your prices {day: 50"),
        (50, "budget is 50, but must be a mapping of day, month"),
        ({}, "neither day nor month is given"),
        ({"day": 5, "month": 4}, "day is 5, but month is 4\n  fix: set day to at most month"),
        ({"day": 0}, "budget.day is 0, but must be above 0"),
    ],
)
def test_what_is_no_budget_is_refused(written: Any, message: str) -> None:
    with pytest.raises(UserError) as refused:
        profile(Path("runs"), written)
    assert message in str(refused.value)


def test_the_earlier_key_says_what_to_write() -> None:
    with pytest.raises(UserError, match=r"monitoring.budget_per_day is not a known key .*\n  fix: write budget: \{day: 50\}"):
        profile(Path("runs"), None, monitoring={"budget_per_day": 50})
    # What an earlier version wrote of a cluster that runs on this machine.
    assert profile(Path("runs"), None, monitoring={"budget_per_day": None}).monitoring.labels == {}


def profile(storage: Path, budget: Any, **keys: Any) -> Profile:
    given = {"name": "paid", "platform": "local", "groups": GROUPS, "storage": {"uri": str(storage)}, "budget": budget, **keys}
    return validate(given, Profile)


def spend(storage: Path, owner: str = "local/paid", now: float = 0.0) -> None:
    """A record of a node that a job of ann's holds for the next minute."""
    now = now or time.time()
    about = {"name": "n", "group": "cpu", "market": "on-demand", "price": 1e9, "gpus": 0, "asked": now, "begin": now}
    lines = [
        {"t": now, "e": "start"},
        {"t": now, "e": "node", "id": "n", **about, "until": None, "grace": 0, "state": "busy", "work": {"j": 1.0}},
        {"t": now, "e": "job", "id": "j", "run": "digits", "command": "train", "status": "RUNNING", "begin": now, "end": None,
         "labels": {"submitter": "ann"}},
        {"t": now + 60, "e": "beat"},
    ]  # fmt: skip
    for month in {time.strftime("%Y-%m", time.gmtime(at)) for at in (now, now + HOUR)}:  # midnight may be near
        folder = storage / NODES_RECORD / owner / month
        folder.mkdir(parents=True)
        (folder / "01T000000-ab-0001.jsonl").write_bytes(b"".join(map(line, lines)))


def test_new_work_is_refused_once_a_budget_is_spent_and_started_with_the_override(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = LocalCluster(profile(tmp_path, {"day": 4}))
    budget.Guard(target, print).early()
    assert "$0 of $4.00 spent today" in (said := capsys.readouterr().err)
    assert "nothing is recorded yet" in said
    spend(tmp_path)
    with pytest.raises(
        NotComing, match=r"^no new work starts: budget of paid: \$.* of \$4.00 spent today, .*; ann \$"
    ) as refused:
        budget.Guard(target, print).early()
    assert refused.value.exit_code == 1
    assert refused.value.fix.startswith("wait until 20")
    assert refused.value.fix.endswith("raise budget.day of paid, or add --over-budget, which the history of the cluster notes")
    budget.Guard(target, print, over_budget=True, work="job-1").early()
    said = capsys.readouterr().err
    assert "over budget: no new work starts: budget of paid" in said
    assert "not in the history of paid: over budget; the cluster paid does not exist" in said
    (cause,) = budget.causes(target)
    assert cause.what.startswith("no new work starts: budget of paid")
    assert cause.then.startswith("work starts again from 20")
    budget.Guard(LocalCluster(profile(tmp_path, {"day": 1e12})), print).check()
    budget.Guard(LocalCluster(profile(tmp_path, None)), print).check()
    assert capsys.readouterr().err == ""


def test_a_spent_budget_stops_what_was_submitted_where_the_profile_says_so(tmp_path: Path) -> None:
    spend(tmp_path, now=NOW)
    limits = profile(tmp_path, {"day": 4, "stop": True}).limits
    job: dict[str, Any] = {"status": "RUNNING", "driver": "01000000"}
    jobs: dict[str, dict[str, Any]] = {
        "job-1": job, "job-2": {**job, "status": "PENDING", "driver": ""}, "job-3": {**job, "over_budget": True},
        "job-4": {**job, "status": "FAILED"}, "01000000": job,
    }  # fmt: skip
    stopped, noted = list[str](), list[tuple[str, str]]()

    def nodes(*owners: str) -> Callable[[str], list[Span]]:
        spans = Spans(Store(str(tmp_path)))
        return lambda month: [span for owner in owners for span in spans.of(f"{NODES_RECORD}/local/{owner}", month)]

    def enforced(limits: dict[str, Any], now: float, team: dict[str, Any] | None = None) -> Enforcement:
        budgets = [
            Holding("the budget", lambda: limits, nodes("paid")),
            Holding("the team's", lambda: team or {}, nodes("paid", "other")),
        ]
        return Enforcement(budgets, lambda: jobs, stopped.append, lambda *pair: noted.append(pair), lambda: now)

    enforced({**limits, "stop": False}, NOW + 30).step()
    enforced(profile(tmp_path, None).limits, NOW + 30).step()
    enforced(limits, NOW + 24 * HOUR).step()
    enforced({**limits, "budget": 1e12}, NOW + 30).step()
    assert stopped == []
    enforcement = enforced(limits, NOW + 30)
    enforcement.step()
    enforcement.step()  # they have not ended yet
    assert stopped == ["job-1", "job-2"] * 2
    files = {str(path): path.read_bytes() for path in (tmp_path / NODES_RECORD / "local/paid").rglob("*.jsonl")}
    (found,) = spent("paid", Budget(day=4), [known for known in [read(files)] if known], NOW + 30)
    why = f"the budget is spent: ${found.money:.2f} of $4.00 today"
    assert noted == [("job-1", why), ("job-2", why)]
    spend(tmp_path, "local/other", NOW)
    between = {"day": 1.5 * found.money}
    for team, then in ((False, []), (True, ["job-1", "job-2"])):
        stopped.clear()
        enforced(profile(tmp_path, {**between, "stop": True}).limits, NOW + 30, Budget(**between, stop=team).enforced).step()
        assert stopped == then
    stopped.clear()
    broken = Holding("the team's", lambda: json.loads("{"), lambda month: [])
    own = Holding("the budget", lambda: limits, nodes("paid"))
    Enforcement([broken, own], lambda: jobs, stopped.append, lambda *pair: None, lambda: NOW + 30).step()
    assert stopped == ["job-1", "job-2"], "a budget that cannot be read keeps no other one from stopping"
    assert stops(lambda: json.loads("{"), lambda: limits)()
    assert noted[-1][1] == f"the team's is spent: ${2 * found.money:.2f} of ${1.5 * found.money:.2f} today"


def test_the_recorder_of_each_head_has_the_budget_of_the_team() -> None:
    team = {"name": "vision", "members": [{"user": "ann"}], "gpus": 8, "budget": {"month": 900, "stop": True}}
    (given,) = [each for each in team_documents(validate(team, Team)) if each["kind"] == "ConfigMap"]
    keys = {"name": "paid", "namespace": "vision", "groups": GROUPS, "storage": {"claim": "runs"}}
    head = ray_cluster(validate(keys, Profile))["spec"]["headGroupSpec"]
    (recorder,) = [each for each in head["template"]["spec"]["containers"] if each["name"] == "recorder"]
    (path,) = [Path(each["value"]) for each in recorder["env"] if each["name"] == "TEAM_LIMITS"]
    (mount,) = [each["name"] for each in recorder["volumeMounts"] if each["mountPath"] == str(path.parent)]
    (volume,) = [each["configMap"] for each in head["template"]["spec"]["volumes"] if each["name"] == mount]
    assert volume == {"name": given["metadata"]["name"], "optional": True}, "a namespace without a team has no such ConfigMap"
    assert json.loads(given["data"][path.name]) == {"budget": None, "budget_per_month": 900, "stop": True}


def denied(*args: Any) -> bytes:
    raise PermissionError(13, "Permission denied")


def test_a_storage_that_cannot_be_read_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spend(tmp_path)
    monkeypatch.setattr(Folder, "read", denied)
    target = LocalCluster(profile(tmp_path, {"day": 4}))
    with pytest.raises(
        NotComing, match=r"what is spent of the budget of paid is not known: the storage .* cannot be read"
    ) as refused:
        budget.Guard(target, print).early()
    assert refused.value.fix.startswith("make the storage readable, or add --over-budget")
    budget.Guard(target, print, over_budget=True).check()
    (cause,) = budget.causes(target)
    assert not cause.known


def test_a_scheduled_run_starts_only_if_its_budget_is_not_spent_by_then(tmp_path: Path) -> None:
    budgets = budget.allowances(LocalCluster(profile(tmp_path, {"day": 4})))
    command = budget.guarded("echo runs", budgets).replace("python", sys.executable, 1)
    assert budget.guarded("echo runs", []) == "echo runs"

    def run() -> "subprocess.CompletedProcess[str]":
        env = {**clean_environment(tmp_path / "home"), STORAGE: str(tmp_path)}
        return subprocess.run(command, shell=True, capture_output=True, text=True, env=env)

    assert (first := run()).stdout == "runs\n", first.stderr
    spend(tmp_path)
    assert (refused := run()).stdout == ""
    assert refused.returncode == 1
    assert "no new work starts: budget of paid" in refused.stderr


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    with serving() as server:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "kubeconfig", server)))
        yield server


def test_the_budget_of_a_team_is_that_of_all_clusters_of_its_namespace(server: ApiServer, tmp_path: Path) -> None:
    keys = {"platform": "kubernetes", "namespace": "vision", "storage": {"uri": "s3://bucket/team"}}
    target = KubernetesCluster(validate({"name": "paid", "groups": GROUPS, **keys}, Profile))
    team = validate({"name": "vision", "members": [{"user": "ann"}], "gpus": 8, "budget": "900 USD/month"}, Team)
    said: list[str] = []
    assert budget.allowances(target, said.append) == []
    (namespace,) = [each for each in team_documents(team) if each["kind"] == "Namespace"]
    server.put("/api/v1/namespaces/vision", **namespace)
    (found,) = budget.allowances(target, said.append)
    assert (found.owner, found.folder, found.budget) == ("the namespace vision", ".nodes/vision/*", Budget(month=900))
    for cluster in ("one", "other"):
        spend(tmp_path, f"vision/{cluster}")
    one = found.model_copy(update={"folder": ".nodes/vision/one"})
    of_team, alone = budget.spent_of(InPlace(str(tmp_path)), [found, one], time.time() + 60)
    assert of_team.money == pytest.approx(2 * alone.money, rel=0.01)
    assert alone.money > 0
    assert said == []
    server.faults.append(answering(403, {"message": FORBIDDEN}))
    assert budget.allowances(target, said.append) == []
    assert said == ["whether the namespace vision has a budget is not known: " + FORBIDDEN]
    namespace["metadata"]["labels"]["heliostat.dev/budget-month"] = "much"
    server.put("/api/v1/namespaces/vision", **namespace)
    with pytest.raises(NotComing, match=r"its labels have {'month': 'much'}"):
        budget.allowances(target, said.append)


def test_an_object_store_whose_credentials_only_a_secret_has_is_read_in_a_pod(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No cluster runs: nothing is refused before its head, which has them, can read the record."""
    monkeypatch.setattr(Folder, "names", denied)
    monkeypatch.setattr(Folder, "exists", denied)
    uri = "s3://bucket/team?scheme=http&endpoint_override=127.0.0.1:1&region=here"
    keys = {"platform": "kubernetes", "namespace": "vision", "budget": {"day": 4}}

    def target(**storage: str) -> KubernetesCluster:
        return KubernetesCluster(validate({"name": "paid", "groups": GROUPS, "storage": storage, **keys}, Profile))

    away = target(uri=uri, secret="keys")
    budget.Guard(away, print).early()
    for by_head, then in (
        (False, "which heliostat why --on paid has its head read"),
        (True, "and neither paid nor another cluster with it runs"),
    ):
        found, unknown = budget.seen(away, by_head)
        assert found == []
        assert "it is in an object store that this machine cannot read, and for which pods have a Secret (" in unknown
        assert unknown.endswith(then)
    with pytest.raises(NotComing, match="is not known: the storage s3://bucket/team cannot be read on this machine"):
        budget.Guard(target(uri=uri), print).early()


def test_a_claim_is_read_by_the_head_of_another_cluster_that_has_it(server: ApiServer) -> None:
    def cluster(name: str, claim: str, mount: str = "/mnt/heliostat") -> KubernetesCluster:
        storage = {"claim": claim, "mount": mount}
        return KubernetesCluster(validate({"name": name, "namespace": "vision", "groups": GROUPS, "storage": storage}, Profile))

    def run(target: KubernetesCluster, suspend: bool = False) -> None:
        there = ray_cluster(target.profile)
        there["spec"]["suspend"] = suspend
        server.put(f"/apis/ray.io/v1/namespaces/vision/rayclusters/{target.name}", **there)
        server.put(f"/api/v1/namespaces/vision/secrets/{target.name}", kind="Secret", data={"auth_token": "YQ=="})
        proxy = f"/api/v1/namespaces/vision/services/{target.name}-head-svc:dashboard/proxy"
        server.objects[f"{proxy}/api/version"] = {"ray_version": "2.60.0"}

    paid = cluster("paid", "runs")
    run(cluster("other", "theirs"))
    run(cluster("moved", "runs", "/data"))
    run(cluster("asleep", "runs"), suspend=True)
    assert paid.reading() is None
    run(cluster("stands", "runs"))
    assert (found := paid.reading())
    assert (found.name, found.profile.name) == ("stands", "paid")
    run(paid)
    assert paid.reading() is paid
