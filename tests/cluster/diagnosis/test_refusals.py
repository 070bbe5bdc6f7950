"""Error responses of an API server or a dashboard, as observed, and the message that a user gets."""

import json
from typing import Any

import pytest

from heliostat.cluster.errors import (
    Conflict,
    Forbidden,
    Invalid,
    KubernetesError,
    NotAdmitted,
    NotFound,
    Unauthorized,
    Unreachable,
)
from heliostat.cluster.jobs.dashboard import Job, _refused
from heliostat.cluster.kube.api import refusal

SERVER = "https://10.0.0.1:6443"


def status(message: str, reason: str = "", **details: str) -> str:
    """A response of the API server itself."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "details": details}
    return json.dumps(body, separators=(",", ":"))


NO_RIGHT = (
    'rayclusters.ray.io is forbidden: User "dev" cannot patch resource "rayclusters" in API group "ray.io" in the namespace "a"'
)
QUOTA = 'pods "x" is forbidden: exceeded quota: q, requested: requests.cpu=400m'
SECURITY = 'pods "x" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false'
ESCALATION = 'roles "r" is forbidden: user "dev" (groups=["a"]) is attempting to grant RBAC permissions not currently held'
NOT_DECLARED = "failed to create typed patch object (a/gpu): .spec.networkPolicy: field not declared in schema"
UNKNOWN = 'strict decoding error: unknown field "spec.workrGroupSpecs"'
NO_NAMESPACE = status('namespaces "ghost" not found', "NotFound", kind="namespaces", name="ghost")
NO_CLUSTER = status('rayclusters.ray.io "gpu" not found', "NotFound", kind="rayclusters", name="gpu")
NO_PROXY = 'services "gpu-head-svc:dashboard" is forbidden: User "dev" cannot get resource "services/proxy"'
NO_ENDPOINTS = 'no endpoints available for service "gpu-head-svc:dashboard"'
QUANTITY = "RayCluster.ray.io is invalid: should match '^(\\+|-)?…'"


@pytest.mark.parametrize(
    ("code", "text", "kind", "what", "fix"),
    [
        (401, status("Unauthorized", "Unauthorized"), Unauthorized, SERVER, "log in again"),
        (403, status(NO_RIGHT, "Forbidden"), Forbidden, NO_RIGHT, "heliostat render --rbac"),
        (403, status(QUOTA, "Forbidden"), NotAdmitted, "exceeded quota: q, requested: requests.cpu=400m", "more quota"),
        (403, status(SECURITY, "Forbidden"), NotAdmitted, "violates PodSecurity", "change what the rule names"),
        (403, status(ESCALATION, "Forbidden"), Forbidden, "not currently held", "heliostat render --rbac"),
        (403, "<html>denied</html>", Forbidden, "denied", "heliostat render --rbac"),
        (404, NO_NAMESPACE, NotFound, 'namespaces "ghost" not found', "kubectl create namespace ghost"),
        (404, NO_CLUSTER, NotFound, 'rayclusters.ray.io "gpu" not found', "heliostat status"),
        (409, status("the object has been modified", "Conflict"), Conflict, "has been modified", "which other client"),
        (409, status('rayclusters.ray.io "gpu" already exists', "AlreadyExists"), Conflict, "already exists", "other client"),
        (422, status(QUANTITY, "Invalid"), Invalid, "should match", "correct the field"),
        (400, status(UNKNOWN, "BadRequest"), Invalid, 'unknown field "spec.workrGroupSpecs"', "correct the field"),
        (500, status(NOT_DECLARED), Invalid, ".spec.networkPolicy: field not declared in schema", "correct the field"),
        (500, status("etcdserver: request timed out"), Unreachable, "answered 500: etcdserver", "retry"),
        (503, status("the server is currently unable to handle the request"), Unreachable, "answered 503", "retry"),
        (429, status("too many requests"), Unreachable, "answered 429", "retry"),
        (503, "<html>no healthy upstream</html>", Unreachable, "no healthy upstream", "retry"),
        (502, "", Unreachable, "HTTP 502", "retry"),
        (418, "short and stout", KubernetesError, f"{SERVER} answered 418: short and stout", "correct"),
    ],
)  # fmt: skip
def test_each_refusal_of_the_api_server_is_of_its_kind(code: int, text: str, kind: type, what: str, fix: str) -> None:
    error = refusal(code, text, SERVER)
    assert type(error) is kind
    assert what in error.what
    assert fix in error.fix


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (KubernetesError, 1), (NotFound, 2), (Forbidden, 2), (NotAdmitted, 1), (Conflict, 1), (Invalid, 2), (Unauthorized, 2),
        (Unreachable, 75),
    ],
)  # fmt: skip
def test_the_exit_code_says_whether_to_change_something_to_try_again_or_neither(kind: type[KubernetesError], code: int) -> None:
    assert kind("what", "fix").exit_code == code


def test_a_page_of_html_does_not_flood_the_terminal() -> None:
    assert len(refusal(502, "<p>" * 10_000, SERVER).what) < 400


@pytest.mark.parametrize(
    ("code", "text", "kind", "what", "fix"),
    [
        (401, "Unauthorized: Missing authentication token", Unauthorized, "rejected the token", "heliostat down gpu, then up"),
        (403, "Forbidden: Invalid authentication token", Unauthorized, "Invalid authentication token", "not that of the pods"),
        (403, status(NO_PROXY, "Forbidden"), Forbidden, f"no right to reach the dashboard of gpu: {NO_PROXY}", "render --rbac"),
        (503, status(NO_ENDPOINTS), Unreachable, f"cannot be reached: {NO_ENDPOINTS}", "heliostat status"),
        (502, status("error trying to reach service: connection refused"), Unreachable, "refused", "heliostat status"),
        (404, "404: Job s-D does not exist", NotFound, "Job s-D does not exist", "heliostat status"),
        (504, "", Unreachable, "answered 504", "heliostat status"),
        (500, "ValueError: Job with submission_id j already exists.", Conflict, "already exists", "another name"),
        (500, "Traceback\n" * 200 + "ValueError: no such working_dir", KubernetesError, "no such working_dir", "correct"),
    ],
)  # fmt: skip
def test_each_refusal_of_a_dashboard_is_of_its_kind(code: int, text: str, kind: type, what: str, fix: str) -> None:
    error = _refused("gpu", code, text)
    assert type(error) is kind
    assert what in error.what
    assert fix in error.fix
    assert len(error.what) < 800


MESSAGE = "Job entrypoint command failed with exit code 3"
DONE = {
    "submission_id": "digits-1", "job_id": "02000000", "type": "SUBMISSION", "status": "FAILED", "entrypoint": "python x.py",
    "message": MESSAGE, "driver_exit_code": 3, "metadata": {"heliostat": "1"}, "start_time": 1_000_500, "end_time": 1_010_000,
}  # fmt: skip
SESSION = {
    "submission_id": None,
    "job_id": "01000000",
    "type": "DRIVER",
    "status": "RUNNING",
    "entrypoint": None,
    "metadata": None,
}


@pytest.mark.parametrize(
    ("answer", "job"),
    [
        (DONE, Job("digits-1", "FAILED", "python x.py", MESSAGE, 3, 1000.5, 1010.0, metadata={"heliostat": "1"})),
        (SESSION, Job("01000000", "RUNNING", "", kind="DRIVER")),
        ({"submission_id": "s", "status": "PENDING", "start_time": 0}, Job("s", "PENDING", "")),
    ],
    ids=["failed", "a Ray Client session", "not started"],
)  # fmt: skip
def test_a_job_as_the_dashboard_reports_it(answer: dict[str, Any], job: Job) -> None:
    assert Job.of(answer) == job


@pytest.mark.parametrize("word", ["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"])
def test_when_a_job_is_over(word: str) -> None:
    assert Job("s", word, "").done is (word not in ("PENDING", "RUNNING"))
