"""A cluster at one moment, and what `heliostat why` says of it, of a worker group or of a job."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from heliostat.cause import Cause
from heliostat.cluster.diagnosis.demand_problems import holders, uses
from heliostat.cluster.diagnosis.group_nodes import Fleet
from heliostat.cluster.diagnosis.problem import Problem
from heliostat.cluster.diagnosis.snapshot import time_of
from heliostat.cluster.jobs.dashboard import Job
from heliostat.cluster.jobs.demand import RayState
from heliostat.cluster.kube.conditions import finished
from heliostat.cluster.names import Document
from heliostat.cluster.profile import Profile


@dataclass(frozen=True)
class Observation:
    """A cluster at one moment."""

    profile: Profile
    state: str
    """absent, starting, ready, suspended, or failed."""
    problems: Sequence[Problem] = ()
    """What it and its jobs wait for, the cause that decides first before the others."""
    ray: RayState | None = None
    """None: it does not respond, or there is no head."""
    fleet: Fleet = field(default_factory=dict)
    ray_unknown: str = ""
    """Why Ray is not known; empty if it is, or if there is nothing to know."""
    unseen: Sequence[str] = ()
    """What could not be looked at."""

    @property
    def unknown(self) -> Iterator[Cause]:
        """What could not be found out, so that a cause may be missing."""
        for what in [*self.unseen, *([f"what its jobs wait for is not known: {self.ray_unknown}"] if self.ray_unknown else [])]:
            yield Cause(what, "heliostat doctor says what is in the way", known=False)

    def job(self, name: str) -> Job | None:
        """The job with an id, or the last one of a run."""
        found = [job for job in (self.ray.jobs if self.ray else ()) if name in (job.id, job.metadata.get("run"))]
        return max(found, key=lambda job: job.started or 0.0, default=None)


@dataclass(frozen=True)
class Why:
    """The answer to why something waits, has ended, is idle or is slow."""

    subject: str
    """Such as ``job train-1127-0901-ab12``."""
    state: str
    """In a word or two, such as ``waits``."""
    causes: Sequence[Cause] = ()
    """The one that decides first before the others."""


def of_cluster(seen: Observation) -> Why:
    """Why a cluster, its groups and its jobs wait, and its GPUs are idle."""
    profile = seen.profile
    notes = [each.cause for each in uses(seen.ray, seen.fleet, profile, idle=True)] if seen.ray else []
    fix = f"heliostat up {profile.name}"
    absent = [Cause("it does not exist", fix)] if seen.state == "absent" else []
    return Why(f"cluster {profile.name}", seen.state, [*absent, *_causes(seen.problems), *notes, *seen.unknown])


def of_group(seen: Observation, name: str) -> Why:
    """Why a worker group, or the head, has not what is asked of it, and its GPUs are idle."""
    mine = [each for each in seen.problems if each.group == name or (not each.job and each.group in ("", "head"))]
    held = uses(seen.ray, seen.fleet, seen.profile, idle=False) if seen.ray else ()
    notes = [each for each in held if each.group == name]
    nodes = seen.fleet.get(name)
    state = f"{len(nodes.ready)} ready, {len(nodes.starting)} starting, at most {nodes.most}" if nodes else seen.state
    return Why(f"group {name}", state, [*_causes(mine), *_causes(notes), *seen.unknown])


def of_job(seen: Observation, job: Job) -> Why:
    """Why a job waits, or what has ended it."""
    if job.done:
        return Why(f"job {job.id}", job.status.lower(), [_end(job)])
    own = [each for each in seen.problems if each.job == job.id]
    groups = {"", "head", *(each.group for each in own)}
    found = [each for each in seen.problems if each in own or (not each.job and each.group in groups)]
    causes = [replace(each, what=each.what.removeprefix(f"job {job.id} ")) for each in _causes(found)]
    return Why(f"job {job.id}", "waits" if own else job.status.lower(), [*causes, *_held(seen, job), *seen.unknown])


def of_ray_job(job: Document, seen: Observation) -> Why:
    """Why a job with its own cluster waits, or what has ended it."""
    subject, status = f"job {job['metadata']['name']}", job.get("status", {})
    if finished(job):
        state = str(status.get("jobStatus") or status.get("jobDeploymentStatus", "")).lower()
        what = ": ".join(filter(None, (status.get("reason"), status.get("message")))) or f"it ended with {state}"
        return Why(subject, state, [Cause(what, since=time_of(status.get("endTime")))])
    running = bool(seen.ray and seen.ray.jobs) and not seen.problems
    return Why(subject, "running" if running else "waits", [*_causes(seen.problems), *seen.unknown])


def _causes(problems: Sequence[Problem]) -> list[Cause]:
    return [problem.cause for problem in problems]


def _held(seen: Observation, job: Job) -> Iterator[Cause]:
    """The nodes that a job holds, so that what it does not wait for is known as well."""
    ray = seen.ray
    nodes = sorted({h.node for h in ray.holdings if ray.job_of(h.driver) == job.id}) if ray else []
    for node in nodes:
        assert ray
        group = ray.nodes[node].group if node in ray.nodes else ""
        yield Cause(f"{node} {holders(ray, node)}", group=group, job=job.id)


def _end(job: Job) -> Cause:
    """What has ended a job, as Ray knows it."""
    code = f" with exit code {job.exit_code}" if job.exit_code is not None else ""
    what = {"SUCCEEDED": "it has finished", "STOPPED": "it was stopped"}.get(job.status, f"it failed{code}")
    last = " ".join(job.message.strip().splitlines()[-1:]) if job.status == "FAILED" else ""
    fixes = {
        "FAILED": f"heliostat logs PROFILE {job.id} shows its output",
        "STOPPED": "heliostat status PROFILE --history says by whom; a spent budget may stop jobs, too",
    }
    return Cause(": ".join(filter(None, (what, last))), fixes.get(job.status, ""), job.ended, job=job.id)
