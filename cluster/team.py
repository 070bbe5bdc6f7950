"""The file of a team: its namespace, who is in it and what they may do, and its share of a Kubernetes cluster."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from heliostat.cluster.budget import Budgeted
from heliostat.cluster.field_types import Cpu, DnsLabel, LabelKey, Memory, ObjectName
from heliostat.config import Config, load

FOLDER = "cluster/teams"


class Member(Config):
    """A user, a group of users, or a service account."""

    user: str | None = Field(None, min_length=1, description="the name of a user, as the cluster's login gives it")
    group: str | None = Field(None, min_length=1, description="the name of a group of users")
    service_account: str | None = Field(
        None, pattern=r"^[-a-z0-9]+/[-.a-z0-9]+$", description="a namespace and an account, such as ci/trainer"
    )
    may: Literal["work", "look"] = Field(
        "work", description="work: every command; look: the state of clusters, without Secrets, output and results"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if sum(each is not None for each in (self.user, self.group, self.service_account)) != 1:
            raise ValueError("a member is one of user, group and service_account; write {group: vision-engineers}")
        return self


class Queue(Config):
    """A queue of Kueue in the team's namespace."""

    name: ObjectName = Field("team", description="the local queue, as profiles name it by queue")
    cohort: ObjectName | None = Field(None, description="the teams that lend each other what they do not use; null: none")
    borrow: int = Field(0, ge=0, description="the most GPUs above the share that are borrowed; CPUs and memory in proportion")
    flavor: ObjectName = Field("default-flavor", description="a ResourceFlavor; made without node labels if it does not exist")


class Team(Config):
    """A team, and what it has of a Kubernetes cluster."""

    name: DnsLabel = Field(description="the team's name, which its cluster queue has, too")
    namespace: DnsLabel | None = Field(None, description="its namespace; null: as its name")
    members: list[Member] = Field(min_length=1, description="a list such as [{group: vision-engineers}]")
    gpus: int = Field(ge=0, description="its share of GPUs, a whole number")
    gpu_resource: LabelKey = Field("nvidia.com/gpu", description="the resource name of the GPUs on the nodes")
    cpu: Cpu | None = Field(None, description="its share of CPUs, such as 64; null: no limit")
    memory: Memory | None = Field(None, description="its share of memory, such as 512Gi; null: no limit")
    queue: Queue | None = Field(None, description="a queue of Kueue; null: the share is a quota of the namespace")
    budget: Budgeted = Field(
        None, description="the money of all clusters of the namespace together, as in a profile; null: no limit"
    )
    pod_security: Literal["restricted", "baseline", "privileged"] = Field(
        "restricted", description="the pod-security standard of the namespace, which pods of profiles pass; see pods.md"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.queue:
            return self
        if lacking := [key for key in ("cpu", "memory") if getattr(self, key) is None]:
            raise ValueError(
                f"queue is given, but not {' and '.join(lacking)}: Kueue admits no pod whose requests have no quota; "
                "set cpu and memory to the team's share"
            )
        if self.queue.borrow and not self.queue.cohort:
            raise ValueError(f"queue.borrow is {self.queue.borrow}, but there is no cohort to borrow from; set queue.cohort")
        if self.queue.borrow and not self.gpus:
            raise ValueError(f"queue.borrow is {self.queue.borrow}, but gpus is 0; set gpus to at least 1")
        return self

    @property
    def place(self) -> str:
        """The namespace."""
        return self.namespace or self.name


def find(name: str, overrides: list[str] | tuple[str, ...] = ()) -> Team:
    """Load a team's file by its path, or by its name from ``./cluster/teams`` or the working directory.

    Raises:
        UserError: it does not exist or is invalid.
    """
    places = [Path(name)] if name.endswith((".yaml", ".yml")) else [Path(FOLDER, f"{name}.yaml"), Path(f"{name}.yaml")]
    path = next((place for place in places if place.is_file()), places[-1])
    return load(path, Team, overrides, {"name": path.stem})
