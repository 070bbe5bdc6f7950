"""Which problems of a shared cluster are those of one job: only pods that were created for it count."""

import time
from collections.abc import Callable

from heliostat.cluster.diagnosis.problem import Problem
from heliostat.cluster.diagnosis.snapshot import Snapshot
from heliostat.cluster.documents.pods import ray_labels
from heliostat.cluster.jobs.dashboard import Dashboard
from heliostat.cluster.jobs.demand import Request, requests_of
from heliostat.cluster.profile import Profile, ray_resources

FRESH_SECONDS = 5.0
"""The maximum age of the lists of what the job waits for."""


class OwnPods:
    """Whether a problem is one of a job.

    Ray does not say for whom its autoscaler adds a node. A problem of a worker group counts if the job waits for something
    that fits on a node of this group. If it waits for nothing that Ray knows (an elastic run waits for nodes by itself), a pod
    beyond the group's minimum counts while no other job runs.

    Args:
        dashboard: of the cluster.
        job_id: the id with which the job was submitted.
        profile: the cluster.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self, dashboard: Dashboard, job_id: str, profile: Profile, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.dashboard, self.job_id, self.profile, self.clock = dashboard, job_id, profile, clock
        self._at = float("-inf")
        self._found: tuple[list[Request], bool] = ([], False)

    def __call__(self, problem: Problem, snapshot: Snapshot) -> bool:
        group = next((each for each in self.profile.groups if each.name == problem.group), None)
        if group is None:  # the head, or the whole cluster
            return True
        if self.clock() - self._at >= FRESH_SECONDS:
            self._found, self._at = requests_of(self.dashboard, self.job_id), self.clock()
        requests, others = self._found
        if requests:
            return any(request.fits(ray_resources(group), ray_labels(group)) for request in requests)
        return not others and len(snapshot.workers(group.name)) > group.min
