"""Which problems of a shared cluster are those of one job: only pods that were created for it count."""

from collections.abc import Callable

from heliostat.cluster.diagnosis.problem import Problem
from heliostat.cluster.diagnosis.snapshot import Snapshot, fleet_of
from heliostat.cluster.documents.pods import ray_labels
from heliostat.cluster.jobs.demand import RayState
from heliostat.cluster.profile import Profile, ray_resources


class OwnPods:
    """Whether a problem is one of a job.

    Ray does not say for whom its autoscaler adds a node. A problem of a worker group counts if the job waits for something
    that fits on a node of this group. If it waits for nothing that Ray knows (an elastic run waits for nodes by itself), a pod
    beyond the group's minimum counts while no other job runs.

    Args:
        ray: returns what Ray knows.
        job_id: the id with which the job was submitted.
        profile: the cluster.
    """

    def __init__(self, ray: Callable[[], RayState], job_id: str, profile: Profile) -> None:
        self.ray, self.job_id, self.profile = ray, job_id, profile

    def __call__(self, problem: Problem, snapshot: Snapshot) -> bool:
        group = next((each for each in self.profile.groups if each.name == problem.group), None)
        if group is None:  # the head, or the whole cluster
            return True
        ray = self.ray()
        if requests := [request for demand in ray.demands_of(self.job_id) for request in demand.requests]:
            return any(request.fits(ray_resources(group), ray_labels(group)) for request in requests)
        others = any(job.id != self.job_id and not job.done for job in ray.jobs)
        nodes = fleet_of(snapshot, [group])[group.name]
        return not others and max(nodes.count, nodes.asked) > group.min  # a pod that a quota refuses is only asked for
