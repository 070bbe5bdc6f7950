"""Where a profile's cluster runs: one way to use it, on Kubernetes and on this machine."""

import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from heliostat.cluster.jobs.dashboard import Dashboard, Job
from heliostat.cluster.jobs.follow import Look, Work, check, follow, submit
from heliostat.cluster.jobs.packaging import packages
from heliostat.cluster.jobs.usage import usage
from heliostat.cluster.names import CLUSTER_LABEL
from heliostat.cluster.profile import Profile
from heliostat.cluster.ray_version import check_ray, installed_ray
from heliostat.environment import NODES
from heliostat.errors import NotComing, Stopped, UserError
from heliostat.interrupts import interrupts

if TYPE_CHECKING:
    from heliostat.cluster.targets.kubernetes import KubernetesCluster
    from heliostat.cluster.targets.local import LocalCluster

Say = Callable[[str], Any]


@dataclass(frozen=True)
class _Reached:
    """A cluster for a job."""

    dashboard: Dashboard
    look: Look
    started: Callable[[str], None] = lambda job_id: None
    """To be called with the job's id when it has been submitted."""
    ended: Callable[[], Job | None] = lambda: None
    """How the job ended, as somebody else than the dashboard knows."""


def open_target(profile: Profile) -> "KubernetesCluster | LocalCluster":
    """The cluster of a profile, which need not exist yet.

    Raises:
        UserError: there is no usable kubeconfig.
    """
    if profile.platform == "local":
        from heliostat.cluster.targets.local import LocalCluster

        return LocalCluster(profile)
    from heliostat.cluster.targets.kubernetes import KubernetesCluster

    return KubernetesCluster(profile)


def new_job_id(stem: str) -> str:
    """An id for a job, of its name, the time and chance."""
    return f"{stem}-{time.strftime('%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def run_there(
    profile: Profile, work: Work, write: Callable[[str], Any], say: Say, ephemeral: bool = False, again: str = ""
) -> Job:
    """Run a job on a profile's cluster, or on one of its own that is deleted afterwards, and follow it to its end.

    Raises:
        UserError: there is no such cluster.
        ContactLost: nobody answers; the job may go on.
        JobFailed: it failed.
        Stopped: it was stopped.
        NotComing: what it waits for will not come; then it has been stopped.
    """
    check_ray()
    work = replace(work, env={NODES: json.dumps(profile.capacity), **work.env})
    # Before a cluster is made or Ctrl-C is put off: packing may take long, and may find that it is too much.
    code = packages(work.working_dir, work.isolated)
    if ephemeral:
        again = f"kubectl get rayjobs -l {CLUSTER_LABEL}={profile.name}"
    with interrupts() as received, _reached(profile, work.job_id, say, ephemeral, received) as there:
        submit(there.dashboard, work, code)
        there.started(work.job_id)
        job = _followed(there, work.job_id, write, say, again, received)
    check(job, work.job_id)
    return job


def unless_busy(dashboard: Dashboard, look: Look) -> Look:
    """A look that gives nothing up while some worker works: then the job runs, and would only have liked more of them."""

    def guarded() -> str:
        try:
            return look()
        except NotComing as error:
            if any(node.cpus_used or node.gpus_used for node in usage(dashboard).values()):
                return error.what
            raise

    return guarded


def _followed(there: _Reached, job_id: str, write: Callable[[str], Any], say: Say, again: str, received: list[int]) -> Job:
    """Follow a job; the first Ctrl-C stops it, the second does not wait for that."""
    dashboard, look, asked = there.dashboard, unless_busy(there.dashboard, there.look), False

    def look_out() -> str:
        nonlocal asked
        if len(received) > 1:
            raise Stopped(f"job {job_id} was asked to stop, and may still write its checkpoint")
        if received and not asked:
            dashboard.stop(job_id)
            asked = True
        return "stopping; the last checkpoint is being written" if asked else look()

    try:
        return follow(dashboard, job_id, write, say, look_out, again, lambda: bool(received), there.ended)
    except NotComing as error:
        dashboard.stop(job_id)
        error.add_note(f"job {job_id} was stopped")
        raise


@contextmanager
def _reached(profile: Profile, name: str, say: Say, ephemeral: bool, received: list[int]) -> Iterator[_Reached]:
    """A cluster whose dashboard answers, and takes what is sent from here."""
    target = open_target(profile)

    def told(line: str) -> None:
        say(line)
        if received:
            raise Stopped("stopped before the job was submitted")

    if ephemeral:
        if profile.platform == "local":
            raise UserError("--ephemeral is for Kubernetes, and this profile is local", "leave it out")
        from heliostat.cluster.targets.ephemeral import own_cluster
        from heliostat.cluster.targets.kubernetes import KubernetesCluster

        assert isinstance(target, KubernetesCluster)
        with own_cluster(target, name, told) as own:
            dashboard = own.cluster().dashboard()
            _check_ray(profile, dashboard)
            yield _Reached(dashboard, own.look, own.started, own.ended)
        return
    for line in target.wake():
        told(line)
    dashboard = target.dashboard()
    _check_ray(profile, dashboard)
    yield _Reached(dashboard, target.look())


def _check_ray(profile: Profile, dashboard: Dashboard) -> None:
    """Refuse a cluster whose Ray is not the one that the code, which comes from here, is made for."""
    there, here = dashboard.version(), installed_ray()
    if profile.platform == "kubernetes":
        from heliostat.cluster.diagnosis.checks import check_image

        check_image(profile, there)
    if there.split(".")[:2] != here.split(".")[:2]:
        raise UserError(
            f"{dashboard.name} has Ray {there}, and this machine {here}: the code that is sent from here is made for {here}",
            f"use an image with Ray {here}, and set ray_version: {here} in the profile",
        )


def latest(dashboard: Dashboard, job_id: str | None, name: str) -> Job:
    """The job of that id, or the one that was submitted last.

    Raises:
        UserError: there is none.
    """
    jobs = [job for job in dashboard.jobs() if job.kind == "SUBMISSION"]
    if job_id is None:
        if not jobs:
            raise UserError(f"no job has been submitted to {name}", f"heliostat train CONFIG --on {name}")
        return max(jobs, key=lambda job: job.started or 0)
    found = next((job for job in jobs if job.id == job_id), None)
    if found is None:
        from heliostat.config import nearest

        raise UserError(f"{name} has no job {job_id}", nearest(job_id, [job.id for job in jobs]) if jobs else "there are none")
    return found
