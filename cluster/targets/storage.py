"""Brings files of a cluster's storage to this machine.

An object store and a folder of this machine are read directly. A claim can only be read in pods, and so can an object store
whose credentials only a Secret has: a job on the cluster serves their files to a port-forward, or on another one of the
namespace with the same claim. While none runs, that is a job with a head of its own, which is deleted afterwards.
"""

import re
import shlex
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol, cast

import urllib3
from pyarrow import fs

from heliostat.cluster.errors import KubernetesError, Unreachable
from heliostat.cluster.in_pod import files
from heliostat.cluster.in_pod.ray_usage import READER
from heliostat.cluster.jobs.dashboard import Dashboard
from heliostat.cluster.jobs.follow import new_job_id
from heliostat.cluster.kube.port_forward import Forward
from heliostat.cluster.profile import Profile, WorkerGroup
from heliostat.cluster.targets.ephemeral import own_cluster
from heliostat.cluster.targets.kubernetes import KubernetesCluster
from heliostat.cluster.targets.local import LocalCluster
from heliostat.cluster.targets.local.emulation import LOCAL
from heliostat.environment import NODES_RECORD
from heliostat.errors import NotComing, StorageUnavailable, UserError, WithFix
from heliostat.folder import Folder

START_SECONDS = 60.0
POLL = 0.2
READS_ONLY = urllib3.Retry(3, allowed_methods=None)
"""A request that is sent again if its connection is lost, although it is a POST."""
NO_WORKER = WorkerGroup(name="none", cpu="100m", memory="128Mi", max=1)
"""The only group of a cluster that reads files; without work it has no pod."""

Say = Callable[[str], Any]


class Storage(Protocol):
    """The storage of a cluster."""

    def fetch(self, patterns: Sequence[str], to: Path) -> None:
        """Copy the files and folders that match patterns such as ``runs/*/result.json``, with their relative paths."""


@contextmanager
def opened(profile: Profile, say: Say, target: KubernetesCluster | None = None) -> Iterator[Storage]:
    """Open the storage of a profile.

    Args:
        profile: the profile.
        say: called with what is waited for.
        target: whose head reads what this machine cannot, if it runs; by default the profile's own cluster, or another one of
            the namespace that has the same claim.

    Raises:
        NotComing: no pod can read it; with the reason.
    """
    if unreadable(profile):
        with _reader(target or KubernetesCluster(profile), say) as url:
            yield ByJob(url)
    else:
        yield InPlace(root_of(profile))


def unreadable(profile: Profile) -> str:
    """Why only pods can read the storage of a profile; empty if this machine does, or is to say why it cannot."""
    if not profile.in_place:
        return "it is on a claim"
    if profile.platform == "local" or not profile.secrets_named:
        return ""
    try:
        Folder.at(profile.storage.root, 0).names()  # in one attempt: what is away for this machine may be there for the pods
    except (OSError, UserError, StorageUnavailable) as error:
        what = error.what if isinstance(error, WithFix) else " ".join(str(error).split())
        return f"it is in an object store that this machine cannot read, and for which pods have a Secret ({what})"
    return ""


def root_of(profile: Profile) -> str:
    """The root of a storage, by which the cluster knows it."""
    return LocalCluster(profile).storage if profile.platform == "local" else profile.storage.root


def record_folder(profile: Profile) -> str:
    """Where on its storage the record of the nodes of a cluster is."""
    place = LOCAL if profile.platform == "local" else KubernetesCluster(profile).api.namespace
    return f"{NODES_RECORD}/{place}/{profile.name}"


class InPlace:
    """A storage that this machine can read."""

    def __init__(self, uri: str) -> None:
        self._root = Folder.at(uri)

    def fetch(self, patterns: Sequence[str], to: Path) -> None:
        """Copy files.

        Raises:
            UserError: the storage cannot be read from here.
        """
        try:
            self._fetch(patterns, to)
        except OSError as error:
            fix = "check the path, or set the variables with its credentials, which the pods have from a Secret, in your shell"
            raise UserError(f"the storage {self._root} cannot be read on this machine: {error}", fix) from None

    def _fetch(self, patterns: Sequence[str], to: Path) -> None:
        for pattern in patterns:
            for name in files.matching(self._names, self._root.exists, pattern.split("/")):
                target = to / name
                if (self._root / name).is_folder:
                    target.mkdir(parents=True, exist_ok=True)
                    source = self._root / name
                    fs.copy_files(source.path, str(target), source.filesystem, fs.LocalFileSystem())
                else:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(self._root.read(name))

    def _names(self, below: str) -> list[str]:
        folder = self._root / below if below else self._root
        return folder.names() if folder.is_folder else []


class ByJob:
    """A storage whose files a job sends, see `heliostat.cluster.in_pod.files`."""

    def __init__(self, url: str) -> None:
        self._url = url

    def fetch(self, patterns: Sequence[str], to: Path) -> None:
        """Copy files.

        Raises:
            Unreachable: the connection was lost.
        """
        timeout = urllib3.Timeout(connect=10, read=120)
        complete = False
        try:
            response = urllib3.request(
                "POST", self._url, json=[*patterns], preload_content=False, timeout=timeout, retries=READS_ONLY
            )
            with response, tarfile.open(fileobj=cast(IO[bytes], response), mode="r|gz") as archive:
                for member in archive:
                    complete = member.name == files.COMPLETE
                    if not complete:
                        archive.extract(member, to, filter="data")
        except (urllib3.exceptions.HTTPError, tarfile.ReadError, EOFError) as error:
            raise _incomplete(error) from None
        if not complete:
            raise _incomplete("it ended too early")


def _incomplete(reason: object) -> Unreachable:
    return Unreachable(f"the files did not arrive completely: {reason}", "retry")


@contextmanager
def _reader(target: KubernetesCluster, say: Say) -> Iterator[str]:
    """Run the job that sends files, on the cluster or on one of its own; yields its URL on this machine."""
    if running := target.reading():
        with _served(running, new_job_id("files"), say) as url:
            yield url
        return
    say("no cluster with this storage runs: a head of its own reads the storage, and is deleted afterwards")
    alone = target.profile.model_copy(update={"groups": [NO_WORKER], "idle_shutdown_seconds": None})
    job_id = new_job_id("files")
    cluster = KubernetesCluster(alone, target.kube)
    with own_cluster(cluster, job_id, say, recorded=False) as own, _served(own.cluster(), job_id, say) as url:
        own.started(job_id)
        yield url


@contextmanager
def _served(cluster: KubernetesCluster, job_id: str, say: Say) -> Iterator[str]:
    dashboard = cluster.dashboard()
    source = Path(files.__file__).read_text()
    command = shlex.join(["python", "-u", "-c", source, cluster.profile.storage.root])
    say("reads the storage")
    dashboard.submit(job_id, command, {}, {"heliostat": READER, "command": "reads the storage"})
    port = _port(dashboard, job_id)
    with Forward(cluster.api, cluster.name, {port: 0}) as forward:
        url = f"http://127.0.0.1:{forward.ports[port]}"
        try:
            yield url
        finally:
            with suppress(KubernetesError):  # then it ends by itself after a minute
                dashboard.stop(job_id)


def _port(dashboard: Dashboard, job_id: str) -> int:
    deadline = time.monotonic() + START_SECONDS
    while not (found := re.search(r"^serving at (\d+)$", dashboard.logs(job_id), re.MULTILINE)):
        job = dashboard.job(job_id)
        if job.done or time.monotonic() > deadline:
            raise NotComing(f"the job {job_id}, which reads the storage, did not start: {job.message}", "heliostat status")
        time.sleep(POLL)
    return int(found[1])
