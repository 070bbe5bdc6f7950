"""What a profile says about its pods, beside their size: volumes, accounts, classes, placement, and the rest as an override."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from heliostat.cluster import pod_override
from heliostat.cluster.field_types import (
    Cpu,
    DataKey,
    LabelKey,
    Labels,
    LabelValue,
    Memory,
    ObjectName,
    Text,
    VariableName,
    text,
)
from heliostat.cluster.names import Document
from heliostat.config import Config


def mount_path(value: str) -> str:
    """Check the path at which a volume is mounted."""
    path = value.rstrip("/")
    if not path.startswith("/") or ":" in path or ".." in path.split("/"):
        raise ValueError(f"{value!r} is no path of a mount; write an absolute path without ':' and '..', such as /data")
    if path in pod_override.OWN_MOUNTS:
        instead = "set shared_memory" if path == "/dev/shm" else "choose another path, such as /data"
        raise ValueError(f"{value!r} is where a volume of the cluster's own is mounted; {instead}")
    return path


class Toleration(Config):
    """A taint of nodes that pods tolerate."""

    key: LabelKey | None = Field(None, description="the taint's key, or null for every taint")
    operator: Literal["Exists", "Equal"] = Field(
        "Exists", description="Equal for taints with this value, or Exists for all values; by default what value says"
    )
    value: LabelValue | None = Field(None, description="the taint's value, with operator Equal")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="NoSchedule, PreferNoSchedule or NoExecute; null for all"
    )
    toleration_seconds: int | None = Field(None, ge=0, description="with effect NoExecute, the seconds until eviction")

    @model_validator(mode="before")
    @classmethod
    def _default_operator(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("value") is not None and data.get("operator") is None:
            return {**data, "operator": "Equal"}
        return data

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.operator == "Exists" and self.value:
            raise ValueError(f"operator is Exists, but value is {self.value}; remove operator, or value")
        if self.operator == "Equal" and self.key is None:
            raise ValueError(
                "operator is Equal, but there is no key; add the taint's key, or set operator: Exists for every taint"
            )
        if self.toleration_seconds is not None and self.effect != "NoExecute":
            raise ValueError(
                f"toleration_seconds is {self.toleration_seconds}, but effect is {self.effect}; set effect: NoExecute"
            )
        return self

    @property
    def document(self) -> Document:
        """It as Kubernetes writes it."""
        fields = self.model_dump(exclude_none=True)
        if self.toleration_seconds is not None:
            fields["tolerationSeconds"] = fields.pop("toleration_seconds")
        return fields


class Volume(Config):
    """A further volume of pods: exactly one of its sources, and where it is mounted."""

    mount: Annotated[str, AfterValidator(mount_path)] = Field(description="the path in the pods, such as /data")
    claim: ObjectName | None = Field(None, description="the name of an existing claim")
    nfs: str | None = Field(None, pattern=r"^[^/:]+:/.*$", description="a server and its export, such as nfs.example.com:/data")
    host_path: str | None = Field(None, pattern=r"^/", description="a path of the node, such as /mnt/nvme")
    secret: ObjectName | None = Field(None, description="a Secret, whose keys are files")
    config_map: ObjectName | None = Field(None, description="a ConfigMap, whose keys are files")
    empty_dir: Memory | None = Field(None, description="an empty folder of each pod, and its largest size, such as 100Gi")
    sub_path: str | None = Field(None, pattern=r"^[^/]", description="a path in the volume, instead of its root")
    read_only: bool = Field(False, description="true if pods only read it")

    @model_validator(mode="after")
    def _check(self) -> Self:
        kinds = ("claim", "nfs", "host_path", "secret", "config_map", "empty_dir")
        if len(given := [kind for kind in kinds if getattr(self, kind) is not None]) != 1:
            found = f"the volume at {self.mount} has {' and '.join(given) or 'no source'}"
            raise ValueError(f"{found}; give it exactly one of {', '.join(kinds)}")
        return self


class Spread(Config):
    """How evenly a group's pods are spread over zones, racks or nodes."""

    key: LabelKey = Field(description="the label of nodes with the zone, such as topology.kubernetes.io/zone")
    max_skew: int = Field(1, ge=1, description="the largest difference in pods between two zones, at least 1")
    required: bool = Field(False, description="true keeps a pod pending rather than place it unevenly")


def _variable(value: Any) -> Any:
    """The value of an environment variable: a text, or the key of a Secret."""
    if isinstance(value, dict):
        if value.keys() != {"secret", "key"} or not all(isinstance(part, str) and part for part in value.values()):
            raise ValueError("it does not name a key of a Secret; write {secret: wandb, key: api-key}")
        return SecretKey(**value)
    if value is None:
        raise ValueError('it is empty; write a text, or "" for an empty one')
    if not isinstance(value, SecretKey | str | int):
        raise ValueError(f"{value!r} is not a text; write it in quotes")
    return value if isinstance(value, SecretKey) else text(value)


class SecretKey(Config):
    """A key of a Kubernetes Secret in the cluster's namespace."""

    secret: ObjectName
    key: DataKey


class PodKeys(Config):
    """Keys of a profile for all of its pods, and of the head and each group for theirs."""

    service_account: ObjectName | None = Field(None, description="the name of an existing service account")
    env: dict[VariableName, Annotated[str | SecretKey, BeforeValidator(_variable)]] = Field(
        {}, description="environment variables: texts, or {secret: wandb, key: api-key}"
    )
    annotations: dict[LabelKey, Text] = Field({}, description="a mapping of texts, such as {sidecar.istio.io/inject: 'false'}")
    volumes: list[Volume] = Field([], description="a list of volumes, such as [{claim: data, mount: /data, read_only: true}]")
    runtime_class: ObjectName | None = Field(None, description="the name of a RuntimeClass, such as nvidia")
    priority_class: ObjectName | None = Field(None, description="the name of a PriorityClass")
    ephemeral_storage: Memory | None = Field(None, description="disk space for each pod's own files, such as 50Gi")
    shared_memory: Memory | None = Field(
        None, description="the size of /dev/shm, which counts as memory of the pod; null: as much as its memory"
    )
    pod: dict[str, Any] = Field(
        {}, description="what to add to the pod template of Kubernetes, such as {spec: {hostNetwork: true}}"
    )

    @model_validator(mode="before")
    @classmethod
    def _fields_of_kubernetes(cls, data: Any) -> Any:
        """A field of a pod's spec is in `pod`, or has another name here; Kubernetes' spelling of it is also recognized."""
        for key in data.keys() - cls.model_fields.keys() if isinstance(data, dict) else ():
            if fix := pod_override.place_of(str(key)):
                raise ValueError(f"{key} is a field of Kubernetes' pods, not of profiles; {fix}")
        return data

    @field_validator("annotations")
    @classmethod
    def _own_annotations(cls, value: dict[str, str]) -> dict[str, str]:
        for key in value:
            if key.startswith("heliostat.dev/"):
                raise ValueError(f"{key} is Heliostat's own annotation; remove it")
        return value

    @field_validator("pod")
    @classmethod
    def _override(cls, value: dict[str, Any]) -> dict[str, Any]:
        pod_override.check(value)
        return value


class Placement(PodKeys):
    """The size of a pod and its placement."""

    cpu: Cpu = Field("2", description="CPUs, such as 2 or 500m")
    memory: Memory = Field("8Gi", description="memory with its unit, such as 8Gi")
    node_selector: Labels = {}
    tolerations: list[Toleration] = Field([], description="a list of taints that the pods tolerate, such as [{key: spot}]")
    labels: Labels = {}


def merged(everywhere: PodKeys, here: PodKeys) -> PodKeys:
    """The keys of some pods: their own ones before those of all pods; volumes, annotations and variables are united.

    Not ``pod``: the override of all pods is merged into their template first, and then their own one.
    """
    own = {name: getattr(here, name) or getattr(everywhere, name) for name in PodKeys.model_fields}
    mounts = {volume.mount for volume in here.volumes}
    own |= {
        "env": {**everywhere.env, **here.env},
        "annotations": {**everywhere.annotations, **here.annotations},
        "volumes": [*(volume for volume in everywhere.volumes if volume.mount not in mounts), *here.volumes],
    }
    return PodKeys.model_construct(**own)
