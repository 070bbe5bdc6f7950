"""The cluster of a profile on this machine: a Ray head with its autoscaler, and nodes as processes with logical resources.

Ray's provider of fake nodes adds and removes nodes with the demand, like pods. The cluster outlives the command that starts it;
its state is in ``~/.heliostat/clusters/NAME``. Keys of the profile that concern only Kubernetes are ignored.
"""

import fcntl
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import heliostat
from heliostat.cluster.diagnosis.demand_problems import of_demand
from heliostat.cluster.diagnosis.group_nodes import Fleet, GroupNodes
from heliostat.cluster.diagnosis.problem import Problem
from heliostat.cluster.diagnosis.wait import one_line
from heliostat.cluster.errors import KubernetesError, NotFound, Unreachable
from heliostat.cluster.jobs.dashboard import Dashboard, by_port
from heliostat.cluster.jobs.demand import RayState, ray_state
from heliostat.cluster.jobs.usage import NodeUsage, usage
from heliostat.cluster.ports import HOST, listens, reserved
from heliostat.cluster.profile import Profile, WorkerGroup, ray_resources
from heliostat.cluster.ray_token import own_token
from heliostat.cluster.ray_version import check_ray, installed_ray
from heliostat.cluster.targets.local.emulation import (
    CLUSTER_FOLDER,
    HEAD,
    LOCAL,
    PORTS,
    PROVIDER,
    autoscaling,
    command,
    environment,
    modules,
    prometheus,
)
from heliostat.cluster.targets.local.processes import ClusterRecord, nodes, runs, stop
from heliostat.cluster.targets.observation import Observation
from heliostat.cluster.targets.status import Group, Node, State, waits_of
from heliostat.difference import Change, difference
from heliostat.errors import NotComing, UserError
from heliostat.home import own_folder
from heliostat.wording import agreeing, counted

CLUSTERS = Path("~/.heliostat/clusters")
UP_SECONDS = 300.0
"""Seconds until the head is ready, on a machine that is busy; one that has exited is noticed at once."""
NODE_SECONDS = 30.0
"""Additional seconds for each node of the groups' minimum: nodes are started one after the other."""
DOWN_SECONDS = 30.0
POLL = 0.3
LOG_LINES = 12
RECORDER = str(Path(__file__).parent / "recorder.py")


class LocalCluster:
    """The cluster that a profile describes, on this machine."""

    def __init__(self, profile: Profile) -> None:
        self.profile, self.name = profile, profile.name

    @property
    def folder(self) -> Path:
        """The folder of its state."""
        return CLUSTERS.expanduser() / self.name

    @property
    def exists(self) -> bool:
        """Whether it has been started and not been stopped, also if its head has exited."""
        return self._read() is not None

    @property
    def storage(self) -> str:
        """The storage of the running cluster, or else the one that it would have."""
        from heliostat.folder import absolute

        record = self._read()
        return record.storage if record else absolute(self.profile.storage.uri or ".", Path.cwd())

    @property
    def client_address(self) -> str:
        """The address for Ray Client."""
        return f"ray://127.0.0.1:{self._running().ports['client']}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that authenticate a program."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(own_token())}

    def changes(self) -> list[Change]:
        """What differs between the profile of the cluster and this one; every key if there is no cluster."""
        record = self._read()
        # A record of an earlier version lacks the keys that have been added since.
        running = self._profile_of(record).model_dump(mode="json") if record else {}
        return list(difference(running, self.profile.model_dump(mode="json")))

    def up(self, replace: bool = False) -> Iterator[str]:
        """Start it unless it runs, and wait until the minimum of nodes is ready; yields status lines.

        Args:
            replace: stop a cluster with another profile.

        Raises:
            UserError: it runs with another profile.
            NotComing: it cannot start; with the reason.
        """
        check_ray()
        yield "the head"
        with ExitStack() as until_ready:
            record = self._started(replace, until_ready)
            yield from self._wait(record)

    def _started(self, replace: bool, until_ready: ExitStack) -> ClusterRecord:
        """The record of the cluster, which is started unless it runs; its ports are reserved ``until_ready``."""
        with self._lock():
            record = self._read()
            if record and record.alive and (changed := self.changes()) and not replace:
                raise UserError(
                    f"{self.name} runs with another profile; what differs: {', '.join(change.path for change in changed)}",
                    f"heliostat down {self.name} first, or use --yes; either stops its jobs",
                )
            if record is None or not record.alive or self.changes():
                self._stop(record)
                record = self._start(until_ready.enter_context(reserved(len(PORTS))))
            self._record_nodes(record)
        return record

    def wake(self) -> Iterator[str]:
        """Wait until a started cluster responds; yields status lines.

        Raises:
            NotFound: it does not exist.
            NotComing: it does not respond.
        """
        record = self._running()
        with self._lock():
            self._record_nodes(record)
        yield from self._wait(record)

    def look(self, job_id: str | None, ray: Callable[[], RayState]) -> Callable[[], str]:
        """A function that returns what a job, or any, waits for, in a line, and raises `NotComing` if the head has exited."""
        record = self._running()
        profile = self._profile_of(record)

        def look() -> str:
            self._check(record)
            found = _problems(profile, nodes(record), ray())
            return one_line([each for each in found if job_id is None or each.job in ("", job_id)])

        return look

    def observe(self) -> Observation:
        """What is to be seen of it at one moment."""
        record = self._read()
        if record is None:
            return Observation(self.profile, "absent")
        if not record.alive:
            what = f"its head has exited, with its log in {self.folder}/head.log"
            fix = f"heliostat up {self.name} restarts it"
            return Observation(self.profile, "failed", [Problem("head", what, fix, group=HEAD)])
        profile, started = self._profile_of(record), nodes(record)
        try:
            ray = ray_state(self.dashboard())
        except KubernetesError as error:
            return Observation(profile, "starting", ray_unknown=error.what)
        return Observation(profile, "ready", _problems(profile, started, ray), ray, _fleet(profile, started, ray))

    def why_own_cluster(self, name: str) -> None:
        """No job has a cluster of its own on this machine."""

    def down(self, seconds: float = DOWN_SECONDS) -> list[str]:
        """Stop all its processes, including orphans of a killed head; returns what was deleted.

        Raises:
            NotComing: some processes do not exit.
        """
        if not self.folder.exists():
            return []
        with self._lock():
            record = self._read()
            self._stop(record, max(seconds, DOWN_SECONDS))
        return [f"Ray cluster {self.name}"] if record else []

    def state(self) -> State:
        """The current status, with nodes, groups and jobs."""
        record, seen = self._read(), self.observe()
        if record is None or seen.state == "absent":
            return State(self.name, "local", "absent")
        if seen.state == "failed":
            detail = "; ".join(f"{problem.what}; {problem.fix}" for problem in seen.problems)
            return State(self.name, "local", "failed", detail, record.ray_version)
        profile, unknown, found = seen.profile, seen.ray_unknown, seen.problems
        used, jobs = (seen.ray.nodes, self.dashboard().with_last_lines(seen.ray.jobs)) if seen.ray else ({}, [])
        started = [_node(profile, name, group, used.get(name)) for name, group in nodes(record).items()]
        groups = [_group(group, [node for node in started if node.group == group.name], found) for group in profile.groups]
        url, waits = f"http://127.0.0.1:{record.ports['dashboard']}", waits_of(found)
        return State(self.name, "local", seen.state, unknown, record.ray_version, url, groups, started, jobs, unknown, waits)

    def dashboard(self) -> Dashboard:
        """The dashboard, with the user's token.

        Raises:
            NotFound: the cluster does not exist.
        """
        return Dashboard(by_port(self._running().ports["dashboard"], own_token().read_text().strip()), self.name)

    @property
    def code(self) -> Path:
        """The folder for the code of services, which is deleted with the cluster; it need not exist yet."""
        return Path(self._running().scratch, "code")

    def _start(self, free: Sequence[int]) -> ClusterRecord:
        storage = self.storage
        # Short, because the paths of sockets are limited; and not in HOME, which may be a network filesystem.
        scratch = tempfile.mkdtemp(prefix="heliostat-", dir="/tmp")
        ports = dict(zip(PORTS, free, strict=True))
        record = ClusterRecord(scratch, ports, storage, installed_ray(), self.profile.model_dump(mode="json"))
        Path(modules(scratch)).mkdir()
        shutil.copy(Path(__file__).parent / "provider.py", Path(modules(scratch), f"{PROVIDER}.py"))
        self._write("autoscaling.json", autoscaling(self.profile, ports["gcs"], scratch))
        self._write("prometheus.json", prometheus(self.name, ports))
        # Before the head starts, so that it is found even after a crash of this command.
        self._write("cluster.json", asdict(record))
        with (self.folder / "head.log").open("wb") as log:
            head = subprocess.Popen(
                command(self.profile, ports, self.folder / "autoscaling.json"),
                cwd=scratch,  # a job without a working directory starts in an empty one, as in a pod
                env={**environment(self.profile, ports, scratch, storage, os.environ), **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        record = replace(record, pid=head.pid)
        _identifiable(head, lambda: record.alive)
        self._write("cluster.json", asdict(record))
        return record

    def _record_nodes(self, record: ClusterRecord) -> None:
        """Start the process that records the nodes, unless it runs; it is one of the cluster's, and stops with them."""
        if not record.alive or runs(record, RECORDER):
            return
        profile = self._profile_of(record)
        options = {
            "namespace": LOCAL, "name": self.name, "scratch": record.scratch, "marks": CLUSTER_FOLDER, "head": record.pid,
            "port": record.ports["dashboard"], "storage": record.storage, "token": str(own_token()),
            "prices": profile.prices, "limits": profile.limits,
            # A cluster that an earlier version has started has no such ports.
            "metrics": record.ports.get("recorder"), "ray_metrics": f"http://{HOST}:{record.ports.get('exporter')}/metrics",
        }  # fmt: skip
        path = [str(Path(heliostat.__file__).parents[1]), os.environ.get("PYTHONPATH")]
        with (self.folder / "recorder.log").open("wb") as log:
            recorder = subprocess.Popen(
                [sys.executable, "-P", RECORDER, json.dumps(options)],
                cwd=record.scratch,
                # With -P it would not find a heliostat that is imported from the working directory.
                env={**os.environ, CLUSTER_FOLDER: record.scratch, "PYTHONPATH": os.pathsep.join(filter(None, path))},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        _identifiable(recorder, lambda: runs(record, RECORDER))  # else the next command would start a second one

    def _profile_of(self, record: ClusterRecord) -> Profile:
        """The profile with which it was started."""
        try:
            return Profile.model_validate(record.profile)
        except ValidationError as error:
            keys = ", ".join(".".join(map(str, each["loc"])) for each in error.errors())
            raise UserError(
                f"the cluster {self.name} was started by another version of Heliostat, by a profile with other keys: {keys}",
                f"heliostat down {self.name}, then up",
            ) from None

    def _wait(self, record: ClusterRecord) -> Iterator[str]:
        profile = self._profile_of(record)
        seconds = UP_SECONDS + NODE_SECONDS * sum(group.min for group in profile.groups)
        deadline = time.monotonic() + seconds
        while missing := self._missing(record, profile):
            yield missing
            if time.monotonic() > deadline:
                raise NotComing(
                    f"{self.name} is not ready after {seconds:.0f} s; waiting for {missing}\n{_failure(record) or self._log()}",
                    f"heliostat down {self.name}; Ray's logs are in {record.scratch}/ray/session_latest/logs until then",
                )
            time.sleep(POLL)

    def _missing(self, record: ClusterRecord, profile: Profile) -> str:
        """What is not ready yet, in a line; empty if everything is."""
        self._check(record)  # first, because the dashboard of a killed head may respond for a while
        try:
            dashboard = self.dashboard()
            dashboard.probe()
            alive = usage(dashboard)
        except Unreachable:
            return "the head, whose dashboard does not respond yet"
        except KubernetesError as error:
            return f"the head: {error.what}"
        if HEAD not in alive:
            return "the head, which has no node yet"
        if not listens(record.ports["client"]):
            return "the head, whose port for Ray Client does not respond yet"
        counts = Counter(node.group for node in alive.values())
        short = [group for group in profile.groups if counts[group.name] < group.min]
        return ", ".join(
            f"group {group.name}, which has {counts[group.name]} of {counted(group.min, 'node')}" for group in short
        )

    def _check(self, record: ClusterRecord) -> None:
        if not record.alive:
            raise NotComing(
                f"the head of {self.name} has exited:\n{self._log()}",
                f"heliostat up {self.name} restarts it; its log is {self.folder}/head.log",
            )

    def _log(self) -> str:
        """The last lines of the head's log."""
        return "\n".join(_lines(self.folder / "head.log")[-LOG_LINES:])

    def _stop(self, record: ClusterRecord | None, seconds: float = DOWN_SECONDS) -> None:
        if record is None:
            return
        if left := stop(record, seconds):
            pids = " ".join(str(process.pid) for process in left)
            raise NotComing(
                f"{counted(len(left), 'process')} of {self.name} {agreeing(len(left), 'do')} not exit",
                f"find out what they wait for: ps -fp {pids}",
            )
        shutil.rmtree(record.scratch, ignore_errors=True)
        for name in ("autoscaling.json", "cluster.json", "prometheus.json"):
            (self.folder / name).unlink(missing_ok=True)

    def _running(self) -> ClusterRecord:
        record = self._read()
        if record is None:
            raise NotFound(f"the cluster {self.name} does not exist on this machine", f"heliostat up {self.name}")
        return record

    def _read(self) -> ClusterRecord | None:
        with suppress(FileNotFoundError):
            return ClusterRecord(**json.loads((self.folder / "cluster.json").read_text()))
        return None

    def _write(self, name: str, document: Mapping[str, Any]) -> None:
        scratch = self.folder / f"{name}.new"
        scratch.write_text(json.dumps(document, indent=1))
        os.replace(scratch, self.folder / name)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Only one command at a time starts or stops it; the lock is released when its process exits."""
        with (own_folder("clusters", self.name) / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _identifiable(started: "subprocess.Popen[bytes]", found: Callable[[], bool]) -> None:
    """Wait until a process is found, unless it exits: what identifies it is readable only a moment after its start."""
    while started.poll() is None and not found():
        time.sleep(0.01)


def _failure(record: ClusterRecord) -> str:
    """The autoscaler's log line about a node that it could not start."""
    log = _lines(Path(record.scratch, "ray/session_latest/logs/monitor.log"))
    return next((line for line in reversed(log) if "-- Failed to launch" in line), "")


def _lines(path: Path) -> list[str]:
    with suppress(FileNotFoundError):
        return path.read_text(errors="replace").strip().splitlines()
    return []


def _node(profile: Profile, name: str, group: str, used: NodeUsage | None) -> Node:
    spec = next((g for g in profile.groups if g.name == group), None)
    total = ray_resources(spec) if spec else {"CPU": 0.0, "GPU": 0.0}
    return Node(
        name=name,
        group=group if spec else HEAD,
        host=platform.node(),
        state="ready" if used else "starting",
        gpus=int(total["GPU"]),
        gpus_used=used.gpus_used if used else 0.0,
        cpus=total["CPU"],
        cpus_used=used.cpus_used if used else 0.0,
        idle_seconds=used.idle_seconds if used else None,
        price=spec.price if spec else 0.0,
    )


def _fleet(profile: Profile, started: Mapping[str, str], ray: RayState) -> Fleet:
    """The nodes by worker group; when those that are starting were asked for is not known."""

    def nodes_of(group: WorkerGroup) -> GroupNodes:
        names = [name for name, its_group in started.items() if its_group == group.name]
        starting = dict.fromkeys(name for name in names if name not in ray.nodes)
        return GroupNodes(group.max, [name for name in names if name in ray.nodes], starting, len(names))

    return {group.name: nodes_of(group) for group in profile.groups}


def _problems(profile: Profile, started: Mapping[str, str], ray: RayState) -> list[Problem]:
    """What a running cluster and its jobs wait for."""
    fleet = _fleet(profile, started, ray)
    starting = {name: list(group.starting) for name, group in fleet.items() if group.starting}
    waits = [
        Problem(f"starts {name}", f"{', '.join(names)} to start", "", math.inf, group=name) for name, names in starting.items()
    ]
    return [*waits, *of_demand(ray, fleet, profile, time.time())]


def _group(group: WorkerGroup, nodes: list[Node], found: Sequence[Problem]) -> Group:
    ready = [node for node in nodes if node.state == "ready"]
    idle = sum(node.idle_seconds is not None for node in ready)
    why = one_line([each for each in found if each.group == group.name and not each.job])
    return Group(group.name, group.min, group.max, max(group.min, len(nodes)), len(ready), idle, group.price, why)
