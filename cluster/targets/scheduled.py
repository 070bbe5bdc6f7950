"""Scheduled runs: a CronJob that creates a RayJob with its own cluster, and the code in a ConfigMap.

KubeRay's RayCronJob needs a feature gate that is off by default and that clients cannot detect; a CronJob exists everywhere,
and has time zones, suspension and a history.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from heliostat.cluster.documents.manifests import metadata, network_policy, program, ray_job, recorder_files
from heliostat.cluster.documents.ownership import is_ours
from heliostat.cluster.documents.pods import FILES, env, image, run_program, user
from heliostat.cluster.documents.secrets import NO_VALUES, job_secret, owned, reading, secret_name
from heliostat.cluster.jobs.packaging import Package, runtime_env
from heliostat.cluster.kube.kuberay import KubeRay
from heliostat.cluster.kube.owners import live_objects
from heliostat.cluster.names import CLUSTER_LABEL, SCHEDULED_LABEL, Document
from heliostat.cluster.profile import Profile
from heliostat.cluster.schedule import upcoming
from heliostat.cluster.targets.code_maps import OWN, code_maps, mount_code, mounted, names_of_maps
from heliostat.config import nearest, to_yaml
from heliostat.environment import NODES
from heliostat.errors import UserError

KEEP = 3
LONGEST_NAME = 30
"""With the time appended, a RayJob's name must stay below 47 characters, and its cluster's below 53."""


def documents(profile: Profile, name: str, schedule: str, entrypoint: str, code: Sequence[Package], features: frozenset[str],
              time_zone: str | None = None, secret_env: Mapping[str, str] = NO_VALUES,
              about: Mapping[str, str] = NO_VALUES) -> list[Document]:  # fmt: skip
    """All documents of scheduled runs, in the order in which they must be applied.

    Args:
        profile: of the cluster that each run creates.
        name: of the runs, to which each appends the time.
        schedule: five fields of cron, such as ``0 2 * * *``, or ``@daily``.
        entrypoint: the shell command of the job.
        code: its packages, the working directory first.
        features: of the operator.
        time_zone: such as ``Europe/Berlin``; by default that of the cluster's control plane.
        secret_env: variables of the runs, whose values are in a Secret only.
        about: metadata of the jobs, see `heliostat.cluster.jobs.follow.about`.

    Raises:
        UserError: the name or the schedule is invalid, or the code too large.
    """
    check(profile, name, schedule, time_zone)
    variables = {"PYTHONUNBUFFERED": "1", NODES: json.dumps(profile.capacity)}
    environment = to_yaml(runtime_env(mounted(code), variables))
    job = ray_job(reading(profile, name, secret_env), name, features, entrypoint, environment, files=name)
    job["metadata"]["labels"][SCHEDULED_LABEL] = name
    if about:
        job["spec"]["metadata"] = dict(about)
    mount_code(job["spec"]["rayClusterSpec"], names_of_maps(name, len(code)))
    files = {**program("launch"), **recorder_files(profile), "job.json": json.dumps(job)}
    maps = code_maps(profile, name, code, "scheduled runs", files)
    parts = [
        network_policy(profile, name),
        {"apiVersion": "v1", "kind": "ServiceAccount"},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "rules": [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "list", "delete"]}],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name}],
        },
        {"apiVersion": "batch/v1", "kind": "CronJob", "spec": _cron_job(profile, name, schedule, time_zone)},
    ]
    secret = [job_secret(profile, name, secret_env)] if secret_env else []
    return [*secret, *maps, *({**part, "metadata": metadata(profile, name)} for part in parts)]


def create(kube: KubeRay, profile: Profile, name: str, documents: Sequence[Document]) -> bool:
    """Create or change scheduled runs; returns whether they are new.

    Their Secret belongs to the CronJob, with which Kubernetes deletes it.

    Raises:
        UserError: objects of other owners have their names.
    """
    found = live_objects(kube, profile.name, documents, f"give the runs another name: --set name={name}-2")
    applied = {document["kind"]: kube.objects(document["kind"]).apply(document) for document in documents}
    secrets, with_values = kube.objects("Secret"), [document for document in documents if document["kind"] == "Secret"]
    for document in with_values:
        secrets.apply(owned(document, applied["CronJob"]))
    before = job_secret(profile, name, NO_VALUES)
    if not with_values and (live := secrets.find(secret_name(name))) and is_ours(live, before):
        secrets.delete(secret_name(name), seen=live)
    return not any(live for document, live in zip(documents, found, strict=True) if document["kind"] == "CronJob")


def find(kube: KubeRay, profile: Profile) -> list[dict[str, Any]]:
    """List the scheduled runs of a profile: name, schedule, whether suspended, time of the last one, and how the last ended."""
    found = kube.objects("CronJob").list(f"{CLUSTER_LABEL}={profile.name}")
    jobs = kube.jobs.list(f"{CLUSTER_LABEL}={profile.name}") if found else []
    return [
        {
            "name": cron["metadata"]["name"],
            "schedule": cron["spec"]["schedule"],
            "suspended": cron["spec"].get("suspend", False),
            "last": cron.get("status", {}).get("lastScheduleTime", "never"),
            "runs": [_ended(job) for job in sorted(jobs, key=_created, reverse=True) if _of(job, cron)],
        }
        for cron in found
    ]


def _created(job: Document) -> str:
    return str(job["metadata"]["creationTimestamp"])


def _of(job: Document, cron: Document) -> bool:
    return bool(job["metadata"]["labels"].get(SCHEDULED_LABEL) == cron["metadata"]["name"])


def _ended(job: Document) -> dict[str, Any]:
    """How a run ended, from its RayJob, which outlives its cluster; the last three are kept."""
    status = job.get("status", {})
    state = status.get("jobStatus") or status.get("jobDeploymentStatus") or "waiting"
    if status.get("jobDeploymentStatus") == "Failed" and state not in ("FAILED", "STOPPED"):
        state = "FAILED"  # before or while it ran: a deadline, or a lost cluster
    return {
        "job": status.get("jobId") or job["metadata"]["name"],
        "state": state,
        "started": status.get("startTime") or _created(job),
        "ended": status.get("endTime"),
        "message": ": ".join(filter(None, (status.get("reason"), status.get("message")))),
    }


def delete(kube: KubeRay, profile: Profile, name: str) -> None:
    """Delete scheduled runs, including a running one.

    Raises:
        UserError: none have that name, or some of their objects are of other owners.
    """
    known = [cron["name"] for cron in find(kube, profile)]
    if name not in known:
        raise UserError(f"{profile.name} has no scheduled runs {name}", nearest(name, known) if known else "there are none")
    secret = job_secret(profile, name, NO_VALUES)
    kinds = ("CronJob", "RoleBinding", "Role", "ServiceAccount", "ConfigMap", "NetworkPolicy")
    own: list[Document] = [{"kind": kind, "metadata": metadata(profile, name)} for kind in kinds]
    own.append({"kind": "ConfigMap", "metadata": metadata(profile, name + OWN)})
    found = live_objects(kube, profile.name, own, f"delete what is yours: kubectl get all -l {CLUSTER_LABEL}={profile.name}")
    if (live := kube.objects("Secret").find(secret_name(name))) and is_ours(live, secret):
        kube.objects("Secret").delete(secret_name(name), seen=live)
    for document, live in zip(own, found, strict=True):
        if live:
            kube.objects(document["kind"]).delete(document["metadata"]["name"], seen=live)
    for job in kube.jobs.list(f"{SCHEDULED_LABEL}={name},{CLUSTER_LABEL}={profile.name}"):
        kube.jobs.delete(job["metadata"]["name"], seen=job)


def check(profile: Profile, name: str, schedule: str, time_zone: str | None = None) -> list[str]:
    """Check what does not need the code; returns the next times.

    Raises:
        UserError: the name, the schedule or the time zone is invalid, or the profile is a local one.
    """
    if profile.platform == "local":
        raise UserError("--cron needs Kubernetes, but this profile is local", "use cron on this machine")
    if name == profile.name:
        raise UserError(
            f"{name} is also the name of the cluster", f"give the scheduled runs another name: --set name={name}-scheduled"
        )
    if not re.fullmatch(rf"[a-z]([-a-z0-9]{{0,{LONGEST_NAME - 2}}}[a-z0-9])?", name):
        raise UserError(
            f"{name} cannot be the name of scheduled runs",
            f"use up to {LONGEST_NAME} lowercase letters, digits and '-': --set name=...",
        )
    return upcoming(schedule, time_zone)


def _cron_job(profile: Profile, name: str, schedule: str, time_zone: str | None) -> Document:
    container = {
        "name": "launch",
        **image(profile),
        **run_program("launch"),
        "env": [
            *env({"CRON": name, "KEEP": KEEP, "DOCUMENT": f"{FILES}/in_pod/job.json"}),
            {"name": "NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        ],
    }
    pod: Document = {
        "restartPolicy": "Never",
        "serviceAccountName": name,
        **({"securityContext": ids} if (ids := user(profile)) else {}),
        "containers": [container],
        "volumes": [{"name": "files", "configMap": {"name": name}}],
    }
    annotated = {"metadata": {"annotations": profile.annotations}} if profile.annotations else {}
    if profile.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": secret} for secret in profile.image_pull_secrets]
    return {
        "schedule": schedule,
        **({"timeZone": time_zone} if time_zone else {}),
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": 600,
        "successfulJobsHistoryLimit": KEEP,
        "failedJobsHistoryLimit": KEEP,
        "jobTemplate": {"spec": {"backoffLimit": 2, "template": {**annotated, "spec": pod}}},
    }
