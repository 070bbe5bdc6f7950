"""The profile: one short file that describes an autoscaling Ray cluster."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from heliostat import completion
from heliostat.cluster.budget import Budgeted
from heliostat.cluster.field_types import (
    Cpu,
    DnsLabel,
    LabelKey,
    Memory,
    ObjectName,
    Seconds,
    cpus,
    size,
)
from heliostat.cluster.pod import Placement, PodKeys, SecretKey, Spread, Volume
from heliostat.cluster.prices import price_per_hour
from heliostat.cluster.ray_version import TESTED
from heliostat.config import Config, load, nearest
from heliostat.errors import UserError

BUNDLED = Path(__file__).parent / "profiles"
SMALLEST_HEAD = 3 * 2**30
"""Bytes: Ray's own processes take 1.2 GB, a driver and Train's controller 0.7 GB each (Ray 2.60); in 2 GB runs hung."""
LONGEST_NAME = 40
"""KubeRay allows 53 characters for a RayCluster and 47 for a RayJob; ours get a suffix."""


def _label(value: str) -> str:
    if value == "head":
        raise ValueError("head is the name of the head's own group; use another one, such as cpu")
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,28}[a-z0-9])?", value):
        raise ValueError(f"{value!r} cannot be a name; use up to 30 small letters, digits and '-', a letter first")
    return value


def _cluster_name(value: str) -> str:
    if not re.fullmatch(rf"[a-z]([-a-z0-9]{{0,{LONGEST_NAME - 2}}}[a-z0-9])?", value):
        raise ValueError(
            f"{value!r} cannot be a cluster's name; use up to {LONGEST_NAME} small letters, digits and '-', a letter first"
        )
    return value


GroupName = Annotated[str, AfterValidator(_label)]
ClusterName = Annotated[str, AfterValidator(_cluster_name)]


class Head(Placement):
    """The head: it schedules and runs drivers, but no task that requests a CPU."""

    price_per_hour: float | None = Field(None, ge=0, description="the price of the head per hour; null: from the price table")
    drivers: int = Field(64, ge=1, description="how many sweep trials may be driven at once, at least 1")

    @property
    def price(self) -> float:
        """The price of the head per hour."""
        if self.price_per_hour is not None:
            return self.price_per_hour
        return price_per_hour(cpus(self.cpu), size(self.memory) / 2**30, 0, None, "on-demand")


class Sidecar(Config):
    """A small container in the head's pod."""

    cpu: Cpu = Field("500m", description="CPUs, such as 500m")
    memory: Memory = Field("1Gi", description="memory with its unit, such as 1Gi")


class WorkerGroup(Placement):
    """Pods of one kind; the autoscaler keeps their number between ``min`` and ``max``."""

    name: GroupName = Field(description="a name such as gpu-spot")
    gpu: int = Field(0, ge=0, description="a whole number of GPUs a pod; Kubernetes cannot share one")
    gpu_type: str | None = Field(None, description="a GPU type of the price table, such as A100-80GB")
    gpu_resource: LabelKey = Field("nvidia.com/gpu", description="the resource name of the GPUs on the nodes")
    market: Literal["on-demand", "spot"] = Field("on-demand", description="on-demand or spot")
    min: int = Field(0, ge=0, description="pods that always run, at least 0")
    max: int = Field(ge=1, le=10_000, description="the most pods, a whole number from 1 to 10000")
    idle_seconds: Seconds = 120
    start_seconds: Seconds = Field(300, description="the longest start of a pod in seconds, node included")
    drain_seconds: Seconds = Field(25, description="the seconds of work after a preemption notice; spot nodes often get 30")
    priority: int | None = Field(None, description="a number, the highest is filled first (KubeRay 1.7); null: spot first")
    price_per_hour: float | None = Field(None, ge=0, description="the price of a pod per hour; null: from the price table")
    topology_spread: list[Spread] = Field(
        [], description="a list of how the pods are spread, such as [{key: topology.kubernetes.io/zone}]"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min is {self.min}, but max is {self.max}; set min to at most {self.max}")
        if self.gpu_type and not self.gpu:
            raise ValueError(f"gpu_type is {self.gpu_type}, but gpu is 0; set gpu: 1, or remove gpu_type")
        if self.gpu and not self.gpu_type and self.price_per_hour is None:
            raise ValueError("has GPUs, but neither gpu_type nor price_per_hour; set one of them, so that costs are known")
        _ = self.price
        return self

    @property
    def price(self) -> float:
        """The price of a pod of this group per hour, in the currency of the price table."""
        if self.price_per_hour is not None:
            return self.price_per_hour
        return price_per_hour(cpus(self.cpu), size(self.memory) / 2**30, self.gpu, self.gpu_type, self.market)


class Storage(Config):
    """The storage of runs: a ReadWriteMany claim, or an object store."""

    claim: ObjectName | None = Field(None, description="the name of a ReadWriteMany claim")
    size: Memory | None = Field(None, description="the size of a claim to create; null: it exists")
    storage_class: ObjectName | None = Field(None, description="the storage class of a new claim; null: the default one")
    mount: str = Field("/mnt/heliostat", pattern=r"^/[\w./-]+$", description="the path of the claim in the pods")
    uri: str | None = Field(None, description="an object store, such as s3://bucket/team")
    secret: ObjectName | None = Field(
        None, description="a Secret whose keys become environment variables, such as AWS_ACCESS_KEY_ID"
    )

    @property
    def root(self) -> str:
        """The base of a relative storage of a run."""
        return self.uri or self.mount


class Monitoring(Config):
    """What Prometheus gets."""

    namespace: DnsLabel | None = Field("monitoring", description="the namespace whose pods may scrape the metrics; null: none")
    labels: dict[LabelKey, str] = Field(
        {}, description="labels by which a Prometheus selects PodMonitors, such as {release: prometheus}"
    )

    @model_validator(mode="before")
    @classmethod
    def _of_an_earlier_version(cls, data: Any) -> Any:
        """The records of clusters that run may have a budget here: none is none."""
        return {k: v for k, v in data.items() if (k, v) != ("budget_per_day", None)} if isinstance(data, dict) else data


class Profile(PodKeys):
    """The description of one cluster."""

    foreign: ClassVar[Mapping[str, str]] = {
        "monitoring.budget_per_day": "write budget: {day: 50} beside monitoring, which also refuses new work above it"
    }

    name: ClusterName = Field(description="the cluster's name")
    platform: Literal["kubernetes", "local"] = Field("kubernetes", description="kubernetes or local")
    namespace: DnsLabel | None = Field(None, description="a Kubernetes namespace; null: the one of the kubeconfig")
    image: str = Field(f"heliostat/ray:{TESTED}", description="a container image with its tag")
    image_pull_secrets: list[ObjectName] = Field([], description="a list of Secrets with which the image is pulled")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        None, description="Always, IfNotPresent or Never; null: IfNotPresent, because the image has a version"
    )
    run_as_user: int | None = Field(
        None, ge=1, description="the user's number in all containers, for an image of root; null: the image's own"
    )
    run_as_group: int | None = Field(None, ge=0, description="the group's number in all containers; null: the image's own")
    fs_group: int | None = Field(
        100, ge=0, description="the group that may write to volumes; null where the cluster chooses it, as OpenShift does"
    )
    ray_version: str = Field(TESTED, pattern=r"^\d+\.\d+\.\d+$", description="the version of Ray in the image, such as 2.60.0")
    head: Head = Head()
    autoscaler: Sidecar = Sidecar()
    groups: list[WorkerGroup] = Field(min_length=1, description="a list of worker groups")
    node_autoscaling: bool = Field(False, description="true if nodes are added when pods need them, as clouds and Karpenter do")
    storage: Storage = Field(description="a mapping such as {claim: runs, size: 100Gi}, or {uri: s3://bucket/team}")
    queue: ObjectName | None = Field(None, description="a Kueue local queue; groups whose min is less than max need Kueue 0.17")
    idle_shutdown_seconds: Seconds | None = Field(
        3600, ge=1, description="the seconds without work until the cluster, head included, is suspended; null: never"
    )
    job_hours: float = Field(24, gt=0, description="the time limit of a job with its own cluster")
    tls: bool = Field(False, description="encrypt the traffic in the cluster (KubeRay 1.7 with cert-manager)")
    monitoring: Monitoring = Monitoring()
    budget: Budgeted = Field(
        None, description="the money until new work is refused, such as {day: 50, month: 900}, or 50 USD/day; null: no limit"
    )
    secrets: list[ObjectName] = Field([], description="a list of Secrets; all pods have their keys as environment variables")

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [group.name for group in self.groups]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"groups has two groups named {twice}; give each a name of its own")
        if self.platform == "kubernetes" and size(self.head.memory) < SMALLEST_HEAD:
            raise ValueError(
                f"head.memory is {self.head.memory}, but a head that drives one run needs 3Gi: with less, Ray kills its actors "
                "repeatedly; set head.memory to 3Gi or more"
            )
        _check_image(self.image, self.ray_version)
        _check_storage(self.storage, self.platform)
        _check_secrets(self.secrets_named, self.platform, self.name)
        _check_pods(self)
        if self.queue and self.idle_shutdown_seconds:
            raise ValueError(
                f"queue is {self.queue}, but then Kueue decides when a cluster is suspended; set idle_shutdown_seconds: null"
            )
        return self

    def group(self, name: str) -> WorkerGroup:
        """The worker group with that name.

        Raises:
            UserError: there is none.
        """
        for group in self.groups:
            if group.name == name:
                return group
        raise UserError(f"{self.name} has no worker group {name}", nearest(name, [g.name for g in self.groups]))

    @property
    def secrets_named(self) -> list[tuple[str, str, str | None]]:
        """The Secrets whose keys become environment variables: where the profile names each, its name, and one key or all."""
        storage = [("storage.secret", self.storage.secret, None)] if self.storage.secret else []
        keys = [
            (f"{place}env.{name}", value.secret, value.key)
            for place, here in _places(self)
            for name, value in here.env.items()
            if isinstance(value, SecretKey)
        ]
        return [*storage, *(("secrets", name, None) for name in self.secrets), *keys]

    @property
    def in_place(self) -> bool:
        """Whether its storage can be read where a command runs, without a pod."""
        return self.platform == "local" or bool(self.storage.uri)

    @property
    def autoscaled(self) -> bool:
        """Whether the number of pods follows the work: always, but in a queue where all groups have a fixed size."""
        return not self.queue or any(group.min != group.max for group in self.groups)

    @property
    def slowest_start(self) -> int:
        """The longest start of a pod of any group, in seconds."""
        return max(group.start_seconds for group in self.groups)

    @property
    def capacity(self) -> list[dict[str, Any]]:
        """Each group at its maximum: ``CPU``, ``GPU`` and hourly ``price`` of a node, the ``group``, how many ``nodes``."""
        return [{**ray_resources(g), "nodes": g.max, "group": g.name, "price": g.price} for g in self.groups]

    @property
    def prices(self) -> dict[str, dict[str, Any]]:
        """By group, ``head`` for the head: the hourly ``price`` of a node, its ``market``, its ``gpus``."""
        groups = {g.name: {"market": g.market, "price": g.price, "gpus": g.gpu} for g in self.groups}
        return {"head": {"market": "on-demand", "price": self.head.price, "gpus": 0}, **groups}

    @property
    def limits(self) -> dict[str, Any]:
        """What the recorder compares the nodes with: ``max`` and ``start_seconds`` of ``groups`` by name, and the budgets."""
        groups = {g.name: {"max": g.max, "start_seconds": g.start_seconds} for g in self.groups}
        return {"groups": groups, **(self.budget.enforced if self.budget else {"budget": None})}


def ray_resources(group: WorkerGroup) -> dict[str, float]:
    """The logical resources that KubeRay gives a pod of a group; CPUs are rounded up."""
    return {"CPU": float(-(-cpus(group.cpu) // 1)), "GPU": float(group.gpu)}


def find(name: str, overrides: list[str] | tuple[str, ...] = ()) -> Profile:
    """Load a profile by its path, or by its name from ``./cluster/profiles``, the working directory or the bundled ones.

    Raises:
        UserError: it does not exist or is invalid.
    """
    path = _path(name)
    try:
        return load(path, Profile, overrides, {"name": path.stem})
    except UserError as error:
        if path.parent == Path() and str(path) != name:  # it may be a file of another kind
            raise UserError(f"{path}: {error.what}", error.fix) from None
        raise


def _path(name: str) -> Path:
    if "/" in name or name.endswith((".yaml", ".yml")):
        return Path(name)
    for folder in (Path("cluster/profiles"), Path(), BUNDLED):
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    hint = nearest(name, completion.profiles())
    hint += "" if hint.endswith("?") else "."
    raise UserError(f"there is no profile {name}", f"{hint} Or give a path, or write one: heliostat profile init {name}")


def _check_image(image: str, ray_version: str) -> None:
    tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2]
    if "@sha256:" in image and not tag:
        return
    if not tag or tag == "latest" or tag.startswith("nightly"):
        raise ValueError(f"image is {image}, which changes over time; use a tag with a version")
    found = re.match(r"\d+\.\d+\.\d+", tag)
    if found and found[0] != ray_version:
        raise ValueError(f"image is {image}, but ray_version is {ray_version}; make the two agree")


def _check_storage(storage: Storage, platform: str) -> None:
    if (storage.claim is None) == (storage.uri is None):
        raise ValueError(
            "storage needs exactly one of claim and uri; write {claim: runs, size: 100Gi}, or {uri: s3://bucket/team}"
        )
    if platform == "kubernetes" and storage.uri and re.match(r"file:|[^:]*$", storage.uri):
        raise ValueError(
            f"storage.uri is {storage.uri}, which is a different place on each node; "
            "give a claim that is ReadWriteMany, or s3:// or gs://"
        )
    if storage.uri and (storage.size or storage.storage_class):
        raise ValueError("storage has a size or a storage_class, which belong to a claim; remove them")


def _check_secrets(named: list[tuple[str, str, str | None]], platform: str, name: str) -> None:
    for place, secret, _ in named:
        if secret == name:
            raise ValueError(
                f"{place} names the Secret {name}, but KubeRay stores the token in the Secret named like the cluster; "
                f"give the Secret another name, such as {name}-keys"
            )
        if platform == "local" and place != "storage.secret":
            raise ValueError(
                f"{place} names the Secret {secret}, but a local cluster has no Secrets; remove it, and give your shell's "
                "variables to a job by --env NAME"
            )


ONLY_OF_PODS = {*PodKeys.model_fields} - {"env"} | {
    "image_pull_policy",
    "run_as_user",
    "run_as_group",
    "fs_group",
    "topology_spread",
}
"""Keys that mean something only where there are pods."""


def keys_of_pods(profile: Profile) -> list[str]:
    """The keys of a profile that are for pods and differ from the defaults, such as ``groups.gpu.volumes``."""
    return [f"{place}{key}" for place, keys in _places(profile) for key in type(keys).model_fields if _is_given(keys, key)]


def volumes(profile: Profile) -> list[tuple[str, Volume]]:
    """The further volumes of a profile, and the key that has each."""
    return [(f"{place}volumes", volume) for place, keys in _places(profile) for volume in keys.volumes]


def _places(profile: Profile) -> list[tuple[str, PodKeys]]:
    groups = ((f"groups.{group.name}.", group) for group in profile.groups)
    return [("", profile), ("head.", profile.head), *groups]


def _is_given(keys: PodKeys, key: str) -> bool:
    return key in ONLY_OF_PODS and getattr(keys, key) != type(keys).model_fields[key].default


def _check_pods(profile: Profile) -> None:
    if profile.platform == "local":
        if used := keys_of_pods(profile):
            raise ValueError(f"{' and '.join(used)} is for pods, which a local cluster does not have; remove it")
        return
    for place, keys in _places(profile):
        _check_mounts(profile, place, keys)
        shared = keys.shared_memory or profile.shared_memory
        if shared and isinstance(keys, Placement) and size(shared) > size(keys.memory):
            raise ValueError(
                f"shared_memory is {shared}, but {place}memory, which it is a part of, is {keys.memory}; raise {place}memory"
            )


def _check_mounts(profile: Profile, place: str, keys: PodKeys) -> None:
    mounts = [volume.mount for volume in keys.volumes]
    if twice := next((mount for mount in mounts if mounts.count(mount) > 1), None):
        raise ValueError(f"{place}volumes has two volumes at {twice}; give each a mount of its own")
    for container in (keys.pod.get("spec") or {}).get("containers") or []:
        mounts += [mount["mountPath"].rstrip("/") for mount in container.get("volumeMounts") or []]
        for kind, amounts in (container.get("resources") or {}).items():
            if isinstance(keys, WorkerGroup) and keys.gpu_resource in (amounts or {}):
                raise ValueError(f"{place}pod sets {kind} of {keys.gpu_resource}; use gpu, by which Ray counts them, too")
    if profile.storage.claim and profile.storage.mount.rstrip("/") in mounts:
        at = f"{place}volumes has one at {profile.storage.mount}"
        raise ValueError(f"{at}, where storage is mounted; choose another mount")
