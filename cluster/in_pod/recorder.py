"""Records the nodes of a cluster on its storage, where the record outlives the cluster; runs beside the head.

``<storage>/.nodes/<namespace>/<profile>/<month>/<day>T<time>-<recorder>-<number>.jsonl`` are its files, each of at most a day
and about 64 KB. A line is JSON, a blank, and the CRC-32 of the JSON, with a time ``t`` and an event ``e``:

- ``start``: the first line of a file; the nodes that there are and the jobs that run follow, so that it can be read alone; it
  names a ``cluster`` that a job or a service has to itself, and ``until`` when that of a job is deleted at the latest;
- ``node``: a node as it is from then on; ``gone``: it has ended; ``job``: a job as it is from then on;
- ``beat``: nothing has changed, once a minute, or each 15 s while jobs run that a spent budget stops; ``off``: the cluster is
  suspended or deleted, and has no nodes from then on.

Beside them is a file for each action of a user (`in_pod.actions`).

The time between two lines that are further apart than `heliostat.cluster.in_pod.record` allows is not recorded.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from . import ray_usage
from .actions import Recorded, action, file_of, written
from .budget import Enforcement, Holding
from .metrics import Groups, serve
from .pods import Pods, is_gone, loaded, remind
from .priced import Span, Spans
from .ray_usage import NOT_KNOWN, Node
from .store import Store, Writer

FOLDER = ".nodes"
POLL_SECONDS, LAST_POLL_SECONDS = 2.0, 0.5
BEAT_SECONDS, SOON_SECONDS = 60.0, 15.0
"""Between two lines while nothing changes; the shorter while jobs run that a spent budget stops."""
SEEN_SECONDS = 10.0
"""A look this long after the one before is the first one after an outage."""
GATED_SECONDS = 30.0
FLUSH_SECONDS = 5.0
"""Seconds between two writes of a file that grows."""
CHUNK = 1 << 16
LAST_SECONDS = 8.0
"""Seconds after SIGTERM in which it records how the nodes end; the head's pod is killed after ten."""
DASHBOARD = "http://127.0.0.1:8265"
PROGRAM = ("-u", "-m", "in_pod.recorder", "record")

Look = Callable[[], tuple[dict[str, Node], dict[str, Node]]]
"""Returns the nodes and the jobs by id, see `Recorder`; raises one of `NOT_KNOWN` otherwise."""


def line(record: Node) -> bytes:
    """A record with its checksum."""
    text = json.dumps(record, separators=(",", ":"))
    return f"{text} {zlib.crc32(text.encode()):08x}\n".encode()


class Recorder:
    """Writes what changes between two looks at a cluster.

    Args:
        look: returns the nodes: ``name``, ``group``, ``market``, ``price`` an hour, ``gpus``, when it was ``asked`` for,
            ``begin`` (None until it has a machine), ``until`` when its deletion ends it at the latest, ``grace``, the seconds
            that it has from then on, ``state`` (asked, starting, idle, busy, unknown) and ``work``, or ``end`` once it has
            ended, and ``drained`` with the time and the reason for which it is taken away; and the jobs as `ray_usage.uses` has
            them. Times are in seconds since the epoch.
        write: gets the name of a file and its whole contents.
        clock: the time.
        own: what the first line of each file says of a cluster that a job has to itself.
        stops: whether a spent budget stops what runs, so that what is spent is to be known soon.
    """

    def __init__(
        self, look: Look, write: Callable[[str, bytes], None], clock: Callable[[], float] = time.time, own: Node | None = None,
        stops: Callable[[], object] = lambda: False,
    ) -> None:  # fmt: skip
        self._look, self._write, self._clock, self._own, self._stops = look, write, clock, own or {}, stops
        self._id, self._number, self._name = secrets.token_hex(4), 0, ""
        self._lines: list[bytes] = []
        self._size, self._day = 0, ""
        self._last = self._flushed = self._looked = 0.0
        self._dirty = False
        self.nodes: dict[str, Node] = {}
        self._jobs: dict[str, Node] = {}

    def step(self) -> None:
        """Look once, and record what has changed."""
        nodes, jobs = self._look()
        now = self._clock()
        outage = self._lines and now - self._looked > SEEN_SECONDS
        if outage and self._looked > self._last:
            self._add({"t": self._looked, "e": "beat"})
        if self._size >= CHUNK or self._day != _day(now):
            self._begin(now)
        for key, node in nodes.items():
            if "end" in node:
                if self.nodes.pop(key, None):
                    drained = {name: node[name] for name in ("name", "group", "drained")} if "drained" in node else {}
                    self._add({"t": now, "e": "gone", "id": key, "end": node["end"], **drained})
            elif self.nodes.get(key) != node:
                self.nodes[key] = node
                self._add({"t": now, "e": "node", "id": key, **node})
        # It ended between two looks; after an outage it is only known that it was there before.
        end = self._looked if outage else (self._looked + now) / 2
        for key in self.nodes.keys() - nodes.keys():
            del self.nodes[key]
            self._add({"t": now, "e": "gone", "id": key, "end": end})
        self._looked = now
        for key, job in jobs.items():
            if self._jobs.get(key) != job:
                self._add({"t": now, "e": "job", "id": key, **job})
        self._jobs = jobs or self._jobs  # none: Ray did not answer, or has had no job yet
        quiet = now - self._last
        if quiet >= BEAT_SECONDS or (quiet >= SOON_SECONDS and self._at_work() and self._stops()):
            self._add({"t": now, "e": "beat"})
        if self._dirty and now - self._flushed >= FLUSH_SECONDS:
            self._flush(now)

    def _at_work(self) -> bool:
        return any(job["status"] not in ray_usage.FINISHED for job in self._jobs.values())

    def finish(self, off: bool) -> None:
        """Write the last line, which says whether the cluster has ended as well; a later one replaces it.

        Then its nodes ended between the last look and now, but for the head, in which this runs, and those that still work.
        """
        now = self._clock()
        last = [
            {"t": now, "e": "gone", "id": key, "end": (self._looked + now) / 2}
            for key, node in self.nodes.items()
            if off and node["group"] != "head" and node["state"] != "busy" and not node["until"]
        ]
        if self._lines:
            self._flush(now, *last, {"t": now, "e": "off" if off else "beat"})

    def _begin(self, now: float) -> None:
        """Begin another file, with everything that is so already."""
        if self._dirty:
            self._flush(now)
        self._day, self._number = _day(now), self._number + 1
        self._name = f"{datetime.fromtimestamp(now, UTC):%Y-%m/%dT%H%M%S}-{self._id}-{self._number:04d}.jsonl"
        self._lines, self._size = [], 0
        self._add({"t": now, "e": "start", **self._own})
        for key, node in self.nodes.items():
            self._add({"t": now, "e": "node", "id": key, **node})
        for key, job in self._jobs.items():
            if job["status"] not in ray_usage.FINISHED:
                self._add({"t": now, "e": "job", "id": key, **job})

    def _add(self, record: Node) -> None:
        written = _as_line(record)
        self._lines.append(written)
        self._size += len(written)
        self._last, self._dirty = record["t"], True

    def _flush(self, now: float, *last: Node) -> None:
        self._write(self._name, b"".join([*self._lines, *map(_as_line, last)]))
        self._flushed, self._dirty = now, False


def record(recorder: Recorder, going: Callable[[], bool], ended: threading.Event, last_seconds: float) -> bool:
    """Record until the event, and then for some seconds how the nodes end, without asking Ray, which ends as well.

    Returns whether the cluster has ended.

    Args:
        recorder: what records.
        going: returns whether the cluster has ended.
        ended: the event.
        last_seconds: for the end.
    """
    said = ""
    while not ended.wait(POLL_SECONDS):
        try:
            recorder.step()
            said = ""
        except NOT_KNOWN as error:  # an outage, which the record shows as a gap
            if said != str(error):
                said = str(error)
                print(f"cannot record the nodes: {error!r}", flush=True)
    deadline, off = time.monotonic() + last_seconds, False
    while time.monotonic() < deadline and (recorder.nodes or not off):
        try:
            off = off or going()
            recorder.step()
        except NOT_KNOWN as error:
            print(f"cannot record the end of the nodes: {error!r}", flush=True)
        if off:  # already now, because on a busy machine it may be killed before it gets here again
            recorder.finish(off)
        time.sleep(LAST_POLL_SECONDS)
    recorder.finish(off)
    return off


def _as_line(record: Node) -> bytes:
    return line({**record, "t": round(record["t"], 3)})


def _day(now: float) -> str:
    return f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d}"


def stopped() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    return ended


def _token() -> str:
    """The dashboard's; of a cluster that a job has to itself it is in a file of Ray's container."""
    if token := os.environ.get("RAY_AUTH_TOKEN", ""):
        return token
    with open(os.environ["TOKEN_FILE"]) as file:
        return file.read()


def _get(path: str) -> Any:
    return ray_usage.dashboard(DASHBOARD, _token())(path)


def _stop(id: str) -> None:
    ray_usage.stopping(DASHBOARD, _token())(id)


def _of_team() -> Node:
    """The limits of all clusters of the namespace, which `team apply` changes; none without a team.

    Raises:
        ValueError: they were changed into something else.
    """
    path = os.environ.get("TEAM_LIMITS", "")  # a pod of an earlier version has none
    if not os.path.exists(path):
        return {}
    found = loaded(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path} has {found!r}, and no limits")
    return found


def stops(*limits: Callable[[], Node]) -> Callable[[], bool]:
    """Whether one of several budgets stops what runs; one that cannot be read does not."""

    def one(given: Callable[[], Node]) -> bool:
        try:
            return bool(given().get("stop"))
        except NOT_KNOWN:  # the enforcement says so
            return False

    return lambda: any(map(one, limits))


def enforce(
    limits: Callable[[], Node], root: str, folder: str, writer: Writer, get: ray_usage.Get, stop: Callable[[str], None],
    ended: threading.Event, team: Callable[[], Node] = dict,
) -> None:  # fmt: skip
    """Stop jobs in a thread when a budget is spent, and add that to the history.

    Args:
        limits: those of the profile, as of `Holding`.
        root: the storage.
        folder: of the record there.
        writer: of the storage.
        get, stop: of the dashboard.
        ended: ends the thread.
        team: the limits of all clusters of the namespace together.
    """
    namespace = os.path.dirname(folder)

    def note(id: str, why: str) -> None:
        print(f"stopping job {id}: {why}", flush=True)
        name, of = action("budget", why, "stop", id)
        writer.write(f"{folder}/{file_of(name, of)}", written(of))

    store = Store(root)
    spans = Spans(store)

    def nodes(of: Callable[[], list[str]]) -> Callable[[str], Iterator[Span]]:
        return lambda month: (span for each in of() for span in spans.of(each, month))

    budgets = [
        Holding("the budget", limits, nodes(lambda: [folder])),
        Holding(f"the budget of the namespace {os.path.basename(namespace)}", team, nodes(lambda: store.folders(namespace))),
    ]
    watching = Enforcement(budgets, lambda: ray_usage.jobs(get), stop, note)
    threading.Thread(target=watching.watch, args=(ended,), daemon=True).start()


def shown(look: Look, groups: Groups, causes: Callable[[], Mapping[str, str]], clock: Callable[[], float] = time.time) -> Look:
    """A look whose nodes the metrics show, too."""

    def seen() -> tuple[dict[str, Node], dict[str, Node]]:
        nodes, jobs = look()
        groups.look(nodes, causes(), clock())
        return nodes, jobs

    return seen


def delete_states(folder: str, gone: Callable[[str], bool]) -> None:
    """Delete the state of Ray of clusters that are gone; what cannot be deleted now, the next recorder of the service deletes.

    Args:
        folder: has a folder with the state of each cluster, by its name.
        gone: returns whether the cluster of a name has ended, or ends.
    """
    for cluster in os.listdir(folder) if os.path.isdir(folder) else ():
        try:
            if gone(cluster):
                shutil.rmtree(f"{folder}/{cluster}")
        except NOT_KNOWN as error:
            print(f"cannot delete the state of {cluster}: {error!r}", flush=True)


def with_reminders(look: Look, pods: Pods, clock: Callable[[], float] = time.time) -> Look:
    """A look after which Kueue is reminded of a pod that it has not let go for a while."""
    last = 0.0

    def seen() -> tuple[dict[str, Node], dict[str, Node]]:
        nonlocal last
        found, now = look(), clock()
        if pods.gated and now - max(pods.gated, last) > GATED_SECONDS:
            last = now
            try:
                remind()
            except NOT_KNOWN as error:
                print(f"cannot remind Kueue of a pod: {error!r}", flush=True)
        return found

    return seen


def with_actions(look: Look, actions: Recorded) -> Look:
    """A look before which the actions of users are recorded; the nodes are, too, where those cannot be read."""

    def seen() -> tuple[dict[str, Node], dict[str, Node]]:
        try:
            actions.step()
        except NOT_KNOWN as error:
            print(f"cannot record the actions of users: {error!r}", flush=True)
        return look()

    return seen


def main() -> None:
    """Record the pods of the cluster of the environment, and serve their metrics."""
    ended = stopped()
    writer = Writer(os.environ["STORAGE"])
    cluster, own = os.environ["CLUSTER"], Node()
    if "PROFILE" in os.environ:
        own["cluster"] = cluster
    if lasts := os.environ.get("LASTS"):
        own["until"] = time.time() + float(lasts)
    folder = f"{FOLDER}/{os.environ['NAMESPACE']}/{os.environ.get('PROFILE', cluster)}"
    limits = partial(loaded, os.environ["LIMITS"])  # `up` changes it, without a restart
    groups = Groups(limits)
    serve(groups, os.environ["METRICS_OF_RAY"], "", int(os.environ["METRICS_PORT"]))
    pods = Pods(_get, ended, bool(own))
    look = with_reminders(shown(pods, groups, lambda: pods.causes), pods)
    if not own:  # commands leave actions at the cluster of `heliostat up` alone
        look = with_actions(look, Recorded(writer, folder))
    recorder = Recorder(
        look, lambda name, data: writer.write(f"{folder}/{name}", data), own=own,
        stops=stops(limits, _of_team),
    )  # fmt: skip
    enforce(limits, os.environ["STORAGE"], folder, writer, _get, _stop, ended, _of_team)
    if states := os.environ.get("STATES", ""):
        delete_states(states, is_gone)
    off = record(recorder, pods.going, ended, LAST_SECONDS)
    writer.close(1.0)
    if off and states:  # perhaps without the right to ask any more
        delete_states(states, lambda name: name == cluster)


def supervise() -> None:
    """Run it in a process of its own, and start another one after that has failed: no container of a head's pod restarts."""
    ended, running = threading.Event(), list[subprocess.Popen[bytes]]()

    def stop(*_: Any) -> None:
        ended.set()
        for child in running:
            child.terminate()

    signal.signal(signal.SIGTERM, stop)
    while not ended.is_set():
        running[:] = [subprocess.Popen([sys.executable, *PROGRAM])]
        running[0].wait()
        ended.wait(POLL_SECONDS)


if __name__ == "__main__":
    if sys.argv[1:]:
        main()
    else:
        supervise()
