"""A profile's cluster on this machine: a Ray head with its autoscaler, and nodes that are processes with logical resources.

The nodes come and go with the demand as pods do, by Ray's own provider of fake nodes. The cluster outlives the command that
starts it; ``~/.heliostat/clusters/NAME`` says where it is. Keys of the profile that only Kubernetes knows mean nothing here.
"""

import fcntl
import json
import os
import platform
import shutil
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from heliostat.cluster.errors import KubernetesError, NotFound, Unreachable
from heliostat.cluster.in_process import own_token
from heliostat.cluster.jobs.dashboard import Dashboard, by_port
from heliostat.cluster.jobs.usage import NodeUsage, usage
from heliostat.cluster.profile import Profile, WorkerGroup, ray_resources
from heliostat.cluster.ray_version import check_ray, installed_ray
from heliostat.cluster.targets.local.emulation import HEAD, PORTS, PROVIDER, autoscaling, command, environment, modules
from heliostat.cluster.targets.local.processes import ClusterRecord, end, nodes
from heliostat.cluster.targets.status import Group, Node, State
from heliostat.difference import Change, difference
from heliostat.errors import NotComing, UserError

CLUSTERS = Path("~/.heliostat/clusters")
UP_SECONDS = 60.0
NODE_SECONDS = 10.0
"""How much longer each node may take that a group has at least: they are started one after the other."""
DOWN_SECONDS = 30.0
POLL = 0.3
LOG_LINES = 12


class LocalCluster:
    """The cluster that a profile describes, on this machine."""

    def __init__(self, profile: Profile) -> None:
        self.profile, self.name = profile, profile.name

    @property
    def folder(self) -> Path:
        """Where its state is."""
        return CLUSTERS.expanduser() / self.name

    @property
    def client_address(self) -> str:
        """Where Ray Client connects to."""
        return f"ray://127.0.0.1:{self._running().ports['client']}"

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs in its environment to be let in."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(own_token())}

    def changes(self) -> list[Change]:
        """What differs between the profile of the cluster and this one; every key if there is no cluster."""
        run = self._read()
        return list(difference(run.profile if run else {}, self.profile.model_dump(mode="json")))

    def up(self, replace: bool = False) -> Iterator[str]:
        """Start it unless it runs, and wait: yields what is waited for, and ends when the nodes are there that must be.

        Args:
            replace: end a cluster that runs with another profile.

        Raises:
            UserError: it runs with another profile.
            NotComing: it does not come up; with the reason.
        """
        check_ray()
        yield "the head"
        with self._lock():
            run = self._read()
            if run and run.alive and (changed := self.changes()) and not replace:
                raise UserError(
                    f"{self.name} runs with another profile; what differs: {', '.join(change.path for change in changed)}",
                    f"heliostat down {self.name} first, or let --yes do that; either ends its jobs",
                )
            if run is None or not run.alive or self.changes():
                self._stop(run)
                run = self._start()
        yield from self._wait(run)

    def wake(self) -> Iterator[str]:
        """Wait until a cluster that was started answers; yields what is waited for.

        Raises:
            NotFound: there is none.
            NotComing: it does not answer.
        """
        yield from self._wait(self._running())

    def look(self) -> Callable[[], str]:
        """A look at the cluster: which nodes start; it raises `NotComing` if its head has ended."""
        run = self._running()

        def look() -> str:
            self._check(run)
            names = [node.name for node in self.state().nodes if node.state == "starting"]
            return f"{', '.join(names)} to start" if names else ""

        return look

    def down(self, seconds: float = DOWN_SECONDS) -> list[str]:
        """End all of its processes, also those that a head has left that was killed; says what was deleted.

        Raises:
            NotComing: some of them do not end.
        """
        if not self.folder.exists():
            return []
        with self._lock():
            run = self._read()
            self._stop(run, max(seconds, DOWN_SECONDS))
        return [f"Ray cluster {self.name}"] if run else []

    def state(self) -> State:
        """The cluster at this moment, with its nodes, groups and jobs."""
        run = self._read()
        if run is None:
            return State(self.name, "local", "absent")
        if not run.alive:
            detail = f"its head has ended, with its log in {self.folder}/head.log; heliostat up {self.name} starts it anew"
            return State(self.name, "local", "failed", detail, run.ray_version)
        profile = Profile.model_validate(run.profile)
        try:
            dashboard = self.dashboard()
            used, jobs, word, detail = usage(dashboard), dashboard.jobs_with_last_line(), "ready", ""
        except KubernetesError as error:
            used, jobs, word, detail = {}, [], "starting", error.what
        there = [_node(profile, name, group, used.get(name)) for name, group in nodes(run).items()]
        groups = [_group(group, [node for node in there if node.group == group.name]) for group in profile.groups]
        url = f"http://127.0.0.1:{run.ports['dashboard']}"
        return State(self.name, "local", word, detail, run.ray_version, url, groups, there, jobs)

    def dashboard(self) -> Dashboard:
        """The dashboard, behind the user's token.

        Raises:
            NotFound: there is no cluster.
        """
        return Dashboard(by_port(self._running().ports["dashboard"], own_token().read_text().strip()), self.name)

    def _start(self) -> ClusterRecord:
        from heliostat.folder import absolute

        storage = absolute(self.profile.storage.uri or ".", Path.cwd())
        # Short, because Ray has sockets in it; and not below HOME, which may be on a network.
        scratch = tempfile.mkdtemp(prefix="heliostat-", dir="/tmp")
        ports = _free_ports()
        run = ClusterRecord(scratch, ports, storage, installed_ray(), self.profile.model_dump(mode="json"))
        Path(modules(scratch)).mkdir()
        shutil.copy(Path(__file__).parent / "provider.py", Path(modules(scratch), f"{PROVIDER}.py"))
        self._write("autoscaling.json", autoscaling(self.profile, ports["gcs"], scratch))
        # Before the head starts: it must be found also by who comes after a crash of this command.
        self._write("cluster.json", asdict(run))
        with (self.folder / "head.log").open("wb") as log:
            head = subprocess.Popen(
                command(self.profile, ports, self.folder / "autoscaling.json"),
                cwd=scratch,  # a job without a working directory finds nothing, as in a pod
                env={**environment(self.profile, ports, scratch, storage, os.environ), **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        run = replace(run, pid=head.pid)
        while head.poll() is None and not run.alive:
            time.sleep(0.01)  # its environment, by which it is known, can be read only some moments after it has begun
        self._write("cluster.json", asdict(run))
        return run

    def _wait(self, run: ClusterRecord) -> Iterator[str]:
        profile = Profile.model_validate(run.profile)
        seconds = UP_SECONDS + NODE_SECONDS * sum(group.min for group in profile.groups)
        deadline = time.monotonic() + seconds
        while missing := self._missing(run, profile):
            yield missing
            if time.monotonic() > deadline:
                raise NotComing(
                    f"{self.name} is not ready after {seconds:.0f} s; it waits for {missing}\n{_failure(run) or self._log()}",
                    f"heliostat down {self.name}; Ray's logs are in {run.scratch}/ray/session_latest/logs until then",
                )
            time.sleep(POLL)

    def _missing(self, run: ClusterRecord, profile: Profile) -> str:
        """What is not there yet of the cluster, in a line."""
        self._check(run)  # first, because the dashboard of a head that was killed may answer for a while
        try:
            alive = usage(self.dashboard())
        except Unreachable:
            return "the head, whose dashboard does not answer yet"
        except KubernetesError as error:
            return f"the head: {error.what}"
        if HEAD not in alive:
            return "the head, which has no node yet"
        there = Counter(node.group for node in alive.values())
        short = [group for group in profile.groups if there[group.name] < group.min]
        return ", ".join(f"group {group.name}, which has {there[group.name]} of {group.min} nodes" for group in short)

    def _check(self, run: ClusterRecord) -> None:
        if not run.alive:
            raise NotComing(
                f"the head of {self.name} has ended:\n{self._log()}",
                f"heliostat up {self.name} starts it anew; its log is {self.folder}/head.log",
            )

    def _log(self) -> str:
        """The last lines of the head's log."""
        return "\n".join(_lines(self.folder / "head.log")[-LOG_LINES:])

    def _stop(self, run: ClusterRecord | None, seconds: float = DOWN_SECONDS) -> None:
        if run is None:
            return
        if left := end(run, seconds):
            pids = " ".join(str(process.pid) for process in left)
            raise NotComing(f"{len(left)} processes of {self.name} do not end", f"see what they wait for: ps -fp {pids}")
        shutil.rmtree(run.scratch, ignore_errors=True)
        for name in ("autoscaling.json", "cluster.json"):
            (self.folder / name).unlink(missing_ok=True)

    def _running(self) -> ClusterRecord:
        run = self._read()
        if run is None:
            raise NotFound(f"there is no cluster {self.name} on this machine", f"heliostat up {self.name}")
        return run

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
        """One command at a time starts or ends it; the lock goes with the process that holds it."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _failure(run: ClusterRecord) -> str:
    """Why the autoscaler could not start a node, in its own words."""
    log = _lines(Path(run.scratch, "ray/session_latest/logs/monitor.log"))
    return next((line for line in reversed(log) if "-- Failed to launch" in line), "")


def _lines(path: Path) -> list[str]:
    with suppress(FileNotFoundError):
        return path.read_text(errors="replace").strip().splitlines()
    return []


def _free_ports() -> dict[str, int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in PORTS]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return {name: one.getsockname()[1] for name, one in zip(PORTS, sockets, strict=True)}


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


def _group(group: WorkerGroup, nodes: list[Node]) -> Group:
    ready = [node for node in nodes if node.state == "ready"]
    idle = sum(node.idle_seconds is not None for node in ready)
    return Group(group.name, group.min, group.max, max(group.min, len(nodes)), len(ready), idle, group.price)
