"""Two teams on one Kubernetes that both want all of its GPUs: the GPU-seconds of each, against its share.

python -m tests.benchmarks.shares [--minutes 30] [--alone 3] [--shares 16 8] [--budget 1.5]

It needs what the tests on Kubernetes need (tests/kubernetes/conftest.py), Kueue, and HELIOSTAT_TEST_NODES, by which it brings
three nodes of its own and takes them away again. Each team has its file, a constant backlog of plain Jobs in its queue that is
as large as the cluster, and Heliostat's own work as a member of it: a cluster that grows in the queue, and jobs with clusters
of their own. First one team is alone, and borrows. Then the other comes. GPU-seconds are from the pods' own times: from the
second in which a node was given to a pod until its containers ended.

Each team has a budget for its own work, which is spent before the end, at a price of GPUs alone: from then on what it starts is
refused, and what runs is stopped. What is spent of it is compared with the price of one of its jobs.
"""

import argparse
import os
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from heliostat.cluster.diagnosis.snapshot import statuses, time_of
from heliostat.cluster.documents.pods import RESTRICTED
from heliostat.cluster.errors import Forbidden
from heliostat.cluster.kube.conditions import condition
from heliostat.cluster.kube.kuberay import KubeRay
from heliostat.cluster.profile import find
from heliostat.cluster.targets.budget import seen
from heliostat.cluster.targets.kubernetes import KubernetesCluster
from heliostat.config import to_yaml
from heliostat.console import print_table
from tests.conftest import Command, clean_environment, end_group
from tests.forks.popen import SERVERS
from tests.kubernetes.conftest import GPU, IMAGE, PODS, Place, group

POOL = "heliostat.dev/shares"
"""A label and a taint of the nodes: others do not work there."""
NODES = 3
WINDOW = 300.0
EVERY = 2.0
SIZES = (1, 1, 2, 4)
"""Pods of a plain Job, each with a GPU."""
SECONDS = (30, 90)
READ = (
    "Pod", "Secret", "ConfigMap", "PersistentVolumeClaim", "RayCluster", "RayJob", "RayService", "Event", "Service",
    "ServiceAccount", "Role", "RoleBinding", "ResourceQuota", "NetworkPolicy", "Job", "CronJob", "LocalQueue",
)  # fmt: skip
PRICE = 3.6
"""Of a GPU an hour, which is 0.001 a second."""
OWN_SECONDS, OWN_GPUS = 120, 2
"""Of a job with a cluster of its own."""
REFUSED, STOPPED = "no new work starts", "was stopped"
ON_GPU = "import ray, time; ray.init(); ray.get(ray.remote(num_gpus=1, num_cpus=0)(lambda: time.sleep(60)).remote())"


@dataclass
class Held:
    """What a pod had of the GPUs."""

    kind: str
    gpus: int
    begin: float
    end: float | None = None
    taken: float = 0.0
    """When it was seen being deleted before its end."""

    def between(self, begin: float, end: float) -> float:
        """GPU-seconds."""
        return max(0.0, min(self.end or end, end) - max(self.begin, begin)) * self.gpus


@dataclass
class Team:
    """A team with its share, and what its pods have held."""

    name: str
    gpus: int
    admin: Place
    member: Place
    held: dict[str, Held] = field(default_factory=dict)
    runs: dict[str, Counter[str]] = field(default_factory=dict)
    """How Heliostat's commands ended, by what they did."""

    @property
    def letter(self) -> str:
        return self.name[-1]

    def watch(self, seconds: float) -> None:
        """Follow the pods."""
        for change, pod in KubeRay(namespace=self.name).objects("Pod").watch(timeout=seconds):
            self.note(pod, change == "DELETED")

    def note(self, pod: dict[str, Any], deleted: bool) -> None:
        uid, metadata, status = pod["metadata"]["uid"], pod["metadata"], pod.get("status", {})
        gpus = sum(int(each["resources"].get("requests", {}).get(GPU, 0)) for each in pod["spec"]["containers"])
        scheduled = condition(pod, "PodScheduled")
        if uid not in self.held:
            if not gpus or scheduled.get("status") != "True":
                return
            kind = "Heliostat" if "ray.io/cluster" in metadata["labels"] else "plain Jobs"
            self.held[uid] = Held(kind, gpus, time_of(scheduled["lastTransitionTime"]) or time.time())
        held = self.held[uid]
        over = deleted or status.get("phase") in ("Succeeded", "Failed")
        if "deletionTimestamp" in metadata and status.get("phase") != "Succeeded" and held.end is None and not held.taken:
            held.taken = time.time()
        if over and held.end is None:
            ends = [each["state"].get("terminated", {}).get("finishedAt") for each in statuses(pod)]
            known = [at for each in ends if each and (at := time_of(each))]
            held.end = max(known) if known and len(known) == len(pod["spec"]["containers"]) else time.time()

    def now(self) -> int:
        """GPUs that its pods hold."""
        return sum(each.gpus for each in list(self.held.values()) if each.end is None)

    def used(self, begin: float, end: float, kind: str = "") -> float:
        """GPU-seconds."""
        return sum(each.between(begin, end) for each in list(self.held.values()) if kind in ("", each.kind))

    def taken(self, begin: float, end: float) -> int:
        """Pods of plain Jobs that were preempted."""
        held = list(self.held.values())
        return sum(each.kind == "plain Jobs" and begin <= each.taken < end for each in held)

    def refill(self, gpus: int, chance: random.Random) -> None:
        """Let Jobs wait that want so many GPUs."""
        jobs = self.admin.kube.objects("Job")
        waiting = sum(job["spec"]["parallelism"] for job in jobs.list() if job["spec"].get("suspend"))
        while waiting < gpus:
            size = chance.choice(SIZES)
            jobs.create(plain_job(size, chance.randint(*SECONDS)))
            waiting += size


def plain_job(size: int, seconds: int) -> dict[str, Any]:
    """A Job in the queue whose pods hold a GPU each, and pass the restricted standard."""
    amounts = {"cpu": "10m", "memory": "64Mi", GPU: "1"}
    sleep = ["sh", "-c", f"trap 'exit 143' TERM; sleep {seconds} & wait $!"]
    container = {"name": "c", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": sleep,
                 "securityContext": RESTRICTED, "resources": {"limits": amounts, "requests": amounts}}  # fmt: skip
    pod = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 5, "containers": [container],
           "nodeSelector": {POOL: "yes"}, "tolerations": [{"key": POOL, "operator": "Exists"}]}  # fmt: skip
    spec = {"parallelism": size, "completions": size, "suspend": True, "ttlSecondsAfterFinished": 60, "template": {"spec": pod}}
    metadata = {"name": f"plain-{secrets.token_hex(4)}", "labels": {"kueue.x-k8s.io/queue-name": "team"}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


@contextmanager
def nodes(gpus: int) -> Iterator[None]:
    """Nodes with so many counted GPUs in all."""
    program, names = os.environ["HELIOSTAT_TEST_NODES"], [f"shares-{number}" for number in range(1, NODES + 1)]
    try:
        for name in names:
            more = ["--gpus", str(gpus // NODES), "--label", f"{POOL}=yes", "--taint", f"{POOL}=yes:NoSchedule"]
            subprocess.run([program, "node", "add", name, *more], check=True)
        yield
    finally:
        for name in names:
            subprocess.run([program, "node", "drain", name], check=False, stdout=subprocess.DEVNULL)


@contextmanager
def team(folder: Path, cohort: str, letter: str, gpus: int, of_all: int, budget: float) -> Iterator[Team]:
    """A team that may borrow all that it has not, made by its file."""
    name = f"{cohort}-{letter}"
    (folder / letter).mkdir()
    command = Command(folder / letter, {**clean_environment(folder / "home"), "KUBECONFIG": os.environ["KUBECONFIG"]})
    queue = {"cohort": cohort, "borrow": of_all - gpus, "flavor": cohort}
    of_gpu = {"cpu": 2 * gpus, "memory": f"{8 * gpus}Gi"}  # more than there is: the GPUs decide
    members = [{"service_account": f"{name}/worker"}]
    money = {"month": budget, "stop": True}
    document = {"members": members, "gpus": gpus, "gpu_resource": GPU, **of_gpu, "queue": queue, "budget": money}
    (folder / letter / f"{name}.yaml").write_text(to_yaml(document))
    admin = Place(KubeRay(namespace=name), command)
    try:
        done = command("team", "apply", name)
        if done.code:
            sys.exit(done.err)
        worker = Place(admin.kube, replace(command, cwd=folder / letter / "work"))
        (folder / letter / "work").mkdir()
        yield Team(name, gpus, admin, worker.user("worker"))
    finally:
        admin.kube.objects("Namespace").delete(name)
        admin.kube.objects("ClusterQueue").delete(name)


def profile(of: Team, name: str, namespace: str = "", **changes: object) -> Path:
    """A profile in the queue of a team, on the nodes of this comparison."""
    there = {"node_selector": {POOL: "yes"}, "tolerations": [{"key": POOL}]}
    head = {"cpu": "600m", "memory": "3Gi", "price_per_hour": 0, **there, **PODS["head"]}
    workers = group(**{**there, "cpu": "300m", **changes})
    return of.member.profile(
        name, namespace=namespace or of.name, queue="team", head=head, groups=[workers], idle_shutdown_seconds=None
    )


def ran(of: Team, what: str, over: threading.Event, *arguments: str | Path) -> bool:
    """Run a command as the member, to its end or that of the comparison; whether it has succeeded."""
    with of.member.command.start(*arguments) as process:
        try:
            while process.poll() is None and not over.is_set():
                with suppress(subprocess.TimeoutExpired):
                    said = process.communicate(timeout=1)[1]
        finally:
            end_group(process)
    if over.is_set():
        return False
    how = next((how for text, how in ((REFUSED, "refused"), (STOPPED, "stopped")) if text in said), "failed")
    of.runs.setdefault(what, Counter())[how if process.returncode else "succeeded"] += 1
    if process.returncode:  # as when it was preempted
        print(f"{of.name}: {what} ended with {process.returncode}: {' | '.join(said.strip().splitlines()[-3:])}", flush=True)
        over.wait(30 if how == "refused" else 5)
    return process.returncode == 0


def standing(of: Team, over: threading.Event) -> None:
    """A cluster that grows in the queue, with a job after the other."""
    path = profile(of, "standing", min=0, max=2, price_per_hour=PRICE)
    while not over.is_set() and not ran(of, "up", over, "up", path, "--yes"):
        pass
    while not over.is_set():
        ran(of, "submit", over, "submit", path, "--", "python", "-c", ON_GPU)


def ephemeral(of: Team, over: threading.Event) -> None:
    """A job with a cluster of its own after the other."""
    path = profile(of, "own", min=1, max=1, gpu=OWN_GPUS, price_per_hour=OWN_GPUS * PRICE)
    while not over.is_set():
        ran(of, "submit --ephemeral", over, "submit", path, "--ephemeral", "--", "sleep", str(OWN_SECONDS))


# --- what a member of one team has of the other ---------------------------------------------------------------------------


def attempts(of: Team, other: Team) -> Iterator[tuple[str, bool]]:
    """What a member of a team tries with what another one has, and whether it was refused."""
    api, theirs = of.member.kube.api, other.name
    pods = other.admin.kube.objects("Pod").list()

    def read(path: str) -> bool:
        try:
            api.raw("GET", path)
        except Forbidden:
            return True
        return False

    for kind in READ:
        yield f"list {kind}", read(api.path(kind, namespace=theirs))
        for item in other.admin.kube.objects(kind).list()[:3]:
            yield f"get {kind}", read(api.path(kind, item["metadata"]["name"], theirs))
    yield "list Workload", read(f"/apis/{other.admin.kube.api.kueue}/namespaces/{theirs}/workloads")
    yield "get ClusterQueue", read(api.path("ClusterQueue", theirs))
    yield "list Pod of all namespaces", read("/api/v1/pods")
    for pod in pods[:3]:
        yield "read pods/log", read(f"{api.path('Pod', pod['metadata']['name'], theirs)}/log")
    for service in other.admin.kube.objects("Service").list():
        dashboard = f"{api.path('Service', service['metadata']['name'] + ':dashboard', theirs)}/proxy/api/jobs/"
        yield "dashboard, by the API server", read(dashboard)
    for pod in pods:
        if pod["metadata"]["labels"].get("ray.io/node-type") == "head" and (address := pod["status"].get("podIP")):
            yield from without_token(address)
    subresources = [("", "pods", "exec"), ("", "pods", "portforward"), ("", "serviceaccounts", "token")]
    resources = [("", "pods"), ("", "secrets"), ("ray.io", "rayclusters"), ("ray.io", "rayjobs"), ("batch", "jobs"),
                 ("kueue.x-k8s.io", "workloads"), ("kueue.x-k8s.io", "localqueues")]  # fmt: skip
    for group_, resource, part in [*subresources, *((*each, "") for each in resources)]:
        for verb in ("create", "patch", "delete"):
            yield f"{verb} {resource} {part}", not api.may(verb, resource, group_, part, theirs)
    (of.member.command.cwd / "theirs").mkdir(exist_ok=True)
    path = profile(of, "theirs/standing", namespace=theirs)
    for words in (("status",), ("why", "--on"), ("logs",), ("stop",), ("session",)):
        done = of.member.command(*words, path)
        yield f"heliostat {words[0]}", done.code != 0 and not done.out


def without_token(address: str) -> Iterator[tuple[str, bool]]:
    """Whether the dashboard at a pod's address tells its jobs to who has no token; nothing if it does not answer at all."""
    what = "dashboard, by its address and without its token"
    try:
        with urllib.request.urlopen(f"http://{address}:8265/api/jobs/", timeout=20):
            yield what, False
    except urllib.error.HTTPError as error:
        yield f"{what} (HTTP {error.code})", error.code in (401, 403)
    except OSError:  # the head starts, or a network policy is enforced
        return


# --- the comparison -------------------------------------------------------------------------------------------------------


def show(teams: list[Team], begin: float, end: float) -> None:
    """A table: each window, and all of them."""
    whole = sum(each.gpus for each in teams)
    edges = [begin + n * WINDOW for n in range(max(1, round((end - begin) / WINDOW)))] + [end]
    minutes = [f"{(at - begin) / 60:.0f}" for at in edges]
    rows = [row(teams, *at, " to ".join(of)) for at, of in zip(pairwise(edges), pairwise(minutes), strict=True)]
    columns = ["minutes"]
    for each in teams:
        columns += [f"{each.letter}: GPU-seconds", f"of both (share {each.gpus / whole:.1%})", "points"]
    print_table([*columns, f"of {whole} GPUs"], [*rows, row(teams, begin, end, "all")])


def row(teams: list[Team], begin: float, end: float, title: str) -> list[str]:
    whole, used = sum(each.gpus for each in teams), [each.used(begin, end) for each in teams]
    cells = [title]
    for each, seconds in zip(teams, used, strict=True):
        part = seconds / max(sum(used), 1.0)
        cells += [f"{seconds:,.0f}", f"{part:.1%}", f"{100 * (part - each.gpus / whole):+.1f}"]
    return [*cells, f"{sum(used) / (whole * (end - begin)):.1%}"]


def check(of: Team, other: Team) -> None:
    """Print what a member of a team was refused of another one."""
    tried = list(attempts(of, other))
    allowed = [what for what, refused in tried if not refused]
    by_token = sum(what.startswith("dashboard, by its address") for what, _ in tried)
    said = f"a member of {of.letter} with what {other.letter} has: {len(tried) - len(allowed)} of {len(tried)} refused"
    said += f", {by_token} of them by a dashboard's token"
    print(f"{said}; NOT REFUSED: {', '.join(allowed)}" if allowed else said, flush=True)


def check_budget(of: Team) -> None:
    """Print what is spent of a team's budget, and how far it is exceeded."""
    found, unknown = seen(KubernetesCluster(find(str(of.member.command.cwd / "standing.yaml")), of.admin.kube), by_head=True)
    job = OWN_SECONDS * OWN_GPUS * PRICE / 3600
    for each in found:
        above = (each.money - each.limit) / job
        print(f"{each.text}; {above:+.2f} of a job of {OWN_GPUS} GPUs for {OWN_SECONDS} s, without its start", flush=True)
    if unknown:
        print(unknown, flush=True)


def main() -> None:
    """Print the GPU-seconds of both teams against their shares, what was lent and taken back, and what was refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="with both teams (default: 30)")
    parser.add_argument("--alone", type=float, default=3, help="minutes with the first team alone (default: 3)")
    parser.add_argument("--shares", type=int, nargs=2, default=[16, 8], help="GPUs of each team (default: 16 8)")
    parser.add_argument("--budget", type=float, default=1.5, help="the money for the own work of each team (default: 1.5)")
    args = parser.parse_args()
    folder, cohort, over = Path(tempfile.mkdtemp()), f"teams-shares-{secrets.token_hex(2)}", threading.Event()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        stack.callback(SERVERS.end)
        stack.enter_context(nodes(sum(args.shares)))
        stack.callback(KubeRay().objects("ResourceFlavor").delete, cohort)
        pairs = zip("ab", args.shares, strict=True)
        teams = [
            stack.enter_context(team(folder, cohort, letter, gpus, sum(args.shares), args.budget)) for letter, gpus in pairs
        ]
        pool = stack.enter_context(ThreadPoolExecutor(8))
        stack.callback(over.set)
        compare(teams, pool, over, 60 * args.alone, 60 * args.minutes)


def compare(teams: list[Team], pool: ThreadPoolExecutor, over: threading.Event, alone: float, both: float) -> None:
    """The first team alone for some seconds, then both."""
    # A watch ends with its time only, so nothing waits for these.
    watches = [threading.Thread(target=each.watch, args=(alone + both + 1200,), daemon=True) for each in teams]
    for watch in watches:
        watch.start()
    whole, chance, (first, second) = sum(each.gpus for each in teams), random.Random(1), teams
    work: list[Future[None]] = []

    def keep(wanting: list[Team], until: Callable[[], bool]) -> None:
        while not until():
            for each in wanting:
                each.refill(whole, chance)
            for future in work:
                if future.done():
                    future.result()
            if not all(watch.is_alive() for watch in watches):
                sys.exit("the pods are not followed any more")
            time.sleep(EVERY)

    began = time.time()
    work += [pool.submit(each, first, over) for each in (standing, ephemeral)]
    keep([first], lambda: time.time() > began + alone)
    print(f"{first.letter} alone: holds {first.now()} of {whole} GPUs, with a share of {first.gpus}")
    show(teams, began, time.time())
    begin = time.time()
    work += [pool.submit(each, second, over) for each in (standing, ephemeral)]
    keep(teams, lambda: second.now() >= second.gpus or time.time() > begin + both / 2)
    print(f"{second.letter} wants its share, too: holds {second.now()} of {second.gpus} GPUs after {time.time() - begin:.0f} s")
    print(f"until then, {first.taken(begin, time.time())} pods of plain Jobs of {first.letter} were preempted", flush=True)
    keep(teams, lambda: time.time() > begin + both / 2)
    work += [pool.submit(check, *pair) for pair in (teams, teams[::-1])]
    keep(teams, lambda: time.time() > begin + both)
    end = time.time()
    show(teams, begin, end)
    for each in teams:
        kinds = ", ".join(f"{kind} {each.used(begin, end, kind):,.0f}" for kind in ("plain Jobs", "Heliostat"))
        ended = "; ".join(f"{what}: {', '.join(f'{n} {how}' for how, n in hows.items())}" for what, hows in each.runs.items())
        print(f"{each.letter}: GPU-seconds of {kinds}; {each.taken(begin, end)} pods of plain Jobs preempted; {ended}")
        check_budget(each)


if __name__ == "__main__":
    main()
