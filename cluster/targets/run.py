"""Runs jobs on the cluster of a profile, on Kubernetes or on this machine."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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
from heliostat.errors import JobFailed, NoAnswer, NotComing, Stopped, UserError
from heliostat.interrupts import interrupts

if TYPE_CHECKING:
    from heliostat.cluster.targets.kubernetes import KubernetesCluster
    from heliostat.cluster.targets.local import LocalCluster

Say = Callable[[str], Any]


@dataclass(frozen=True)
class _Connection:
    """A cluster that is ready for a job."""

    target: "KubernetesCluster | LocalCluster"
    dashboard: Dashboard
    look: Look
    started: Callable[[str], None] = lambda job_id: None
    """Called with the job's id after its submission."""
    ended: Callable[[], Job | None] = lambda: None
    """The final state of the job from another source than the dashboard."""

    def stop(self, job_id: str, say: Say) -> None:
        """Stop a job, which is in the history then."""
        from heliostat.cluster.targets import history

        self.dashboard.stop(job_id)
        history.noted(self.target, say, "stop", job_id)


def open_target(profile: Profile) -> "KubernetesCluster | LocalCluster":
    """The cluster of a profile, which need not exist yet.

    Raises:
        UserError: the kubeconfig is unusable.
    """
    if profile.platform == "local":
        from heliostat.cluster.targets.local import LocalCluster

        return LocalCluster(profile)
    from heliostat.cluster.targets.kubernetes import KubernetesCluster

    return KubernetesCluster(profile)


def run_there(
    profile: Profile, work: Work, write: Callable[[str], Any], say: Say, ephemeral: bool = False, again: str = "",
    over_budget: bool = False,
) -> Job:  # fmt: skip
    """Run a job on the cluster of a profile, or on its own one that is deleted afterwards, and follow it.

    Args:
        profile: the profile.
        work: the job.
        write: called with its output, in pieces.
        say: called with what is waited for.
        ephemeral: whether it gets its own cluster.
        again: the command that follows it again.
        over_budget: whether it runs although a budget is spent.

    Raises:
        UserError: the cluster does not exist.
        NoAnswer: no response before the job was submitted; its exit code is 1.
        ContactLost: no response; the job may continue.
        JobFailed: it failed.
        Stopped: it was stopped.
        NotComing: a budget is spent, or it waits for something that cannot come, and has been stopped.
    """
    check_ray()
    work = replace(work, env={NODES: json.dumps(profile.capacity), **work.env})
    # Before a cluster is created or Ctrl-C is deferred: packing may take long, or fail because of the size.
    code = packages(work.contents)
    if ephemeral:
        again = f"kubectl get rayjobs -l {CLUSTER_LABEL}={profile.name}"
    with interrupts() as received, ExitStack() as stack:
        with before_submission(work.job_id):
            connection = stack.enter_context(_connected(profile, work, say, ephemeral, received, over_budget))
            # The pods of a cluster of its own have the variables from a Secret.
            submit(connection.dashboard, replace(work, secret_env={}) if ephemeral else work, code, again)
        connection.started(work.job_id)
        job = _follow(connection, work.job_id, write, say, again, received)
    check(job, work.job_id, work.stopped)
    return job


@contextmanager
def before_submission(job_id: str) -> Iterator[None]:
    """Give the error of a server that does not answer the exit code 1: its own, 75, says that the job may run."""
    try:
        yield
    except NoAnswer as error:
        error.exit_code = JobFailed.exit_code
        error.add_note(f"job {job_id} was not submitted")
        raise


def unless_busy(dashboard: Dashboard, look: Look) -> Look:
    """Wrap a look so that it does not raise while a worker is busy: then the job runs, with fewer workers than it could use."""

    def guarded() -> str:
        try:
            return look()
        except NotComing as error:
            if any(node.cpus_used or node.gpus_used for node in usage(dashboard).values()):
                return error.what
            raise

    return guarded


def _follow(
    connection: _Connection, job_id: str, write: Callable[[str], Any], say: Say, again: str, received: list[int]
) -> Job:
    """Follow a job; the first Ctrl-C stops it, the second one does not wait for that."""
    dashboard, look, stopping = connection.dashboard, unless_busy(connection.dashboard, connection.look), False

    def look_or_stop() -> str:
        nonlocal stopping
        if len(received) > 1:
            raise Stopped(f"job {job_id} is stopping, and may still write its checkpoint")
        if received and not stopping:
            connection.stop(job_id, say)
            stopping = True
        return "stopping; a run writes its last checkpoint" if stopping else look()

    try:
        return follow(dashboard, job_id, write, say, look_or_stop, again, lambda: bool(received), connection.ended)
    except NotComing as error:
        connection.stop(job_id, say)
        error.add_note(f"job {job_id} was stopped")
        raise


@contextmanager
def _connected(
    profile: Profile, work: Work, say: Say, ephemeral: bool, received: list[int], over_budget: bool
) -> Iterator[_Connection]:
    """Connect to a cluster with a matching Ray version."""
    target = open_target(profile)

    def report(line: str) -> None:
        say(line)
        if received:
            raise Stopped("stopped before the job was submitted")

    if ephemeral:
        if profile.platform == "local":
            raise UserError("--ephemeral needs Kubernetes, but this profile is local", "leave it out")
        from heliostat.cluster.targets.budget import Guard
        from heliostat.cluster.targets.ephemeral import own_cluster
        from heliostat.cluster.targets.kubernetes import KubernetesCluster

        assert isinstance(target, KubernetesCluster)
        guard = Guard(target, report, over_budget, work.job_id)
        guard.early()
        with own_cluster(target, work.job_id, report, work.secret_env) as own:
            guard.check(own.cluster())
            dashboard = own.cluster().dashboard()
            _check_ray(profile, dashboard)
            own.keep_least()
            yield _Connection(target, dashboard, own.look, own.started, own.ended)
        return
    dashboard = woken(target, report, over_budget, work.job_id)
    _check_ray(profile, dashboard)
    from heliostat.cluster.targets.local import LocalCluster

    look = look_for(target, dashboard, work.job_id)
    yield _Connection(target, dashboard, look, ended=(lambda: None) if isinstance(target, LocalCluster) else target.ended)


def woken(target: "KubernetesCluster | LocalCluster", say: Say, over_budget: bool, work: str) -> Dashboard:
    """Wake a cluster for new work, and return its dashboard.

    Raises:
        UserError: the cluster does not exist.
        NotComing: it cannot start, or a budget is spent: what can be read from here is read before anything starts.
    """
    from heliostat.cluster.targets.budget import Guard

    guard = Guard(target, say, over_budget, work)
    guard.early()
    for line in target.wake():
        say(line)
    guard.check()
    return target.dashboard()


def look_for(target: "KubernetesCluster | LocalCluster", dashboard: Dashboard, job_id: str) -> Look:
    """A look at a cluster for one of its jobs: pods that were not created for the job end nothing."""
    from heliostat.cluster.diagnosis.observe import RayObserver
    from heliostat.cluster.diagnosis.own_pods import OwnPods
    from heliostat.cluster.diagnosis.wait import Watchdog
    from heliostat.cluster.targets.local import LocalCluster

    ray = RayObserver(dashboard)
    if isinstance(target, LocalCluster):
        return target.look(job_id, ray)
    own = OwnPods(ray, job_id, target.profile)
    return target.look(Watchdog(target.profile, target.log, counts=own, job=job_id, ray=ray))


def _check_ray(profile: Profile, dashboard: Dashboard) -> None:
    """Raise `UserError` if the cluster has another minor version of Ray than this machine, whose code it runs."""
    version, here = dashboard.version(), installed_ray()
    if profile.platform == "kubernetes":
        from heliostat.cluster.diagnosis.checks import check_image

        check_image(profile, version)
    if version.split(".")[:2] != here.split(".")[:2]:
        raise UserError(
            f"{dashboard.name} has Ray {version}, and this machine {here}, which the code from here needs",
            f"use an image with Ray {here}, and set ray_version: {here} in the profile",
        )


def latest(dashboard: Dashboard, job_id: str | None, name: str) -> Job:
    """The job with an id, or the one that was submitted last.

    Raises:
        UserError: it does not exist.
    """
    jobs = dashboard.submissions()
    if job_id is None:
        if not jobs:
            raise UserError(f"no job has been submitted to {name}", f"heliostat train CONFIG --on {name}")
        return max(jobs, key=lambda job: job.started or 0)
    found = next((job for job in jobs if job.id == job_id), None)
    if found is None:
        from heliostat.config import nearest

        raise UserError(f"{name} has no job {job_id}", nearest(job_id, [job.id for job in jobs]) if jobs else "there are none")
    return found
