"""A connection to the Kubernetes API server, with an exception type for each kind of refusal."""

import json
import os
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import certifi
import urllib3
import websocket
from kubernetes import client, config
from kubernetes.config.config_exception import ConfigException
from kubernetes.stream.ws_client import websocket_proxycare

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
from heliostat.cluster.kube.credentials import expired
from heliostat.cluster.names import POD_MONITOR
from heliostat.cluster.retries import is_of_trust, retry_after, send
from heliostat.errors import UserError

CONFLICTING = ("AlreadyExists", "Conflict")
NO_RIGHT = r'User "[^"]*" cannot |RBAC permissions not currently held'
"""What only the API server's authorizers write; it answers 403 with the same reason for quotas and admission rules (1.34)."""
TIMEOUT = 30


@dataclass(frozen=True)
class Kind:
    """A kind of object and its place in the API."""

    name: str
    plural: str
    group: str
    version: str

    @property
    def path(self) -> str:
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


KINDS = {
    kind.name: kind
    for kind in (
        Kind("RayCluster", "rayclusters", "ray.io", "v1"),
        Kind("RayJob", "rayjobs", "ray.io", "v1"),
        Kind("RayCronJob", "raycronjobs", "ray.io", "v1"),
        Kind("RayService", "rayservices", "ray.io", "v1"),
        Kind("Pod", "pods", "", "v1"),
        Kind("Event", "events", "", "v1"),
        Kind("Secret", "secrets", "", "v1"),
        Kind("ConfigMap", "configmaps", "", "v1"),
        Kind("PersistentVolumeClaim", "persistentvolumeclaims", "", "v1"),
        Kind("ResourceQuota", "resourcequotas", "", "v1"),
        Kind("Service", "services", "", "v1"),
        Kind("ServiceAccount", "serviceaccounts", "", "v1"),
        Kind("NetworkPolicy", "networkpolicies", "networking.k8s.io", "v1"),
        Kind(POD_MONITOR, "podmonitors", "monitoring.coreos.com", "v1"),
        Kind("CronJob", "cronjobs", "batch", "v1"),
        Kind("Job", "jobs", "batch", "v1"),
        Kind("Role", "roles", "rbac.authorization.k8s.io", "v1"),
        Kind("RoleBinding", "rolebindings", "rbac.authorization.k8s.io", "v1"),
        Kind("Node", "nodes", "", "v1"),
        Kind("StorageClass", "storageclasses", "storage.k8s.io", "v1"),
        Kind("Namespace", "namespaces", "", "v1"),
        # Newer versions are served beside this one (Kueue 0.17).
        Kind("ResourceFlavor", "resourceflavors", "kueue.x-k8s.io", "v1beta1"),
        Kind("ClusterQueue", "clusterqueues", "kueue.x-k8s.io", "v1beta1"),
        Kind("LocalQueue", "localqueues", "kueue.x-k8s.io", "v1beta1"),
        Kind("CustomResourceDefinition", "customresourcedefinitions", "apiextensions.k8s.io", "v1"),
    )
}
CLUSTER_WIDE = ("Node", "StorageClass", "Namespace", "CustomResourceDefinition", "ResourceFlavor", "ClusterQueue")


class Api:
    """A connection to the API server that a kubeconfig names, or that the surrounding pod belongs to.

    Args:
        kubeconfig: a file; by default ``$KUBECONFIG``, ``~/.kube/config``, or else the pod's service account.
        context: a context of the kubeconfig; by default its current one.
        namespace: where objects live; by default that of the context.

    Raises:
        UserError: there is no kubeconfig, or it cannot be used.
    """

    def __init__(self, kubeconfig: str | None = None, context: str | None = None, namespace: str | None = None) -> None:
        self.configuration, self.context, found = _configuration(kubeconfig, context)
        self.configuration.retries = False
        self.namespace = namespace or found
        self.client = client.ApiClient(self.configuration)

    @property
    def server(self) -> str:
        """The API server's URL."""
        return str(self.configuration.host)

    @property
    def pool(self) -> urllib3.PoolManager:
        """The connection pool, with the CA and the client's certificate."""
        pool: urllib3.PoolManager = self.client.rest_client.pool_manager
        return pool

    def authenticate(self, token: str) -> None:
        """Authenticate with a bearer token, such as that of a service account, instead of the kubeconfig's user."""
        self.configuration.cert_file = self.configuration.key_file = None
        self.configuration.refresh_api_key_hook = None
        # The key of this setting differs between versions of the package.
        self.configuration.api_key = {"BearerToken": token, "authorization": token}
        self.configuration.api_key_prefix = {"BearerToken": "Bearer", "authorization": "Bearer"}
        self.client = client.ApiClient(self.configuration)

    def headers(self) -> dict[str, str]:
        """The authentication header, empty with a client certificate; an expired token is renewed."""
        header = self.configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        return {"authorization": header} if header else {}

    def websocket(self, path: str, headers: Mapping[str, str], timeout: float = TIMEOUT) -> websocket.WebSocket:
        """Open a websocket to a path of the API server.

        ``create_websocket`` of the package sends no additional headers (kubernetes 37).
        """
        settings = self.configuration
        trust: dict[str, Any] = {"cert_reqs": ssl.CERT_NONE}
        if settings.verify_ssl:
            trust = {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": settings.ssl_ca_cert or certifi.where()}
        names = {"certfile": settings.cert_file, "keyfile": settings.key_file, "server_hostname": settings.tls_server_name}
        options: dict[str, Any] = {"header": [f"{name}: {value}" for name, value in headers.items()]}
        if settings.proxy or settings.proxy_headers:
            options = websocket_proxycare(options, settings, self.server, headers)  # type: ignore[no-untyped-call]
        opened = websocket.WebSocket(sslopt={**trust, **{name: value for name, value in names.items() if value}})
        opened.settimeout(timeout)
        opened.connect(f"{self.server.replace('http', 'ws', 1)}{path}", **options)  # type: ignore[no-untyped-call]
        return opened

    def path(self, kind: str, name: str = "", namespace: str | None = None) -> str:
        """The path of an object, or of all objects of a kind in a namespace."""
        where = KINDS[kind]
        scope = "" if kind in CLUSTER_WIDE else f"/namespaces/{namespace or self.namespace}"
        return f"{where.path}{scope}/{where.plural}" + (f"/{name}" if name else "")

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: dict[str, str] | None = None,
        content_type: str = "application/json",
        timeout: float = TIMEOUT,
        repeat: bool | None = None,
    ) -> Any:
        """Send a request and return the JSON of the response.

        Args:
            method: of HTTP.
            path: on the server.
            body: sent as JSON.
            query: parameters.
            content_type: of the body.
            timeout: seconds without a response.
            repeat: whether it may be sent again if it may have arrived, see `heliostat.cluster.retries`; by default if it is
                no POST.

        Raises:
            KubernetesError: the request failed; the subclass says how.
        """
        response = self.raw(method, path, body, query, content_type, timeout, repeat=repeat)
        try:
            return json.loads(response.data)
        except ValueError:
            raise Unreachable(
                f"{self.server} responded to {method} {path} with something other than JSON", "check what is in front of it"
            ) from None

    def raw(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: dict[str, str] | None = None,
        content_type: str = "application/json",
        timeout: float | urllib3.Timeout = TIMEOUT,
        stream: bool = False,
        repeat: bool | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """Send a request and return the response; with ``stream`` its body is not read yet."""
        from urllib.parse import urlencode

        url = f"{self.server}{path}" + (f"?{urlencode(query)}" if query else "")
        data = None if body is None else json.dumps(body).encode()
        headers = {**self.headers(), "Content-Type": content_type, "Accept": "application/json"}
        repeat = method != "POST" if repeat is None else repeat
        try:
            response = send(
                self.pool, method, url, repeat, body=data, headers=headers, timeout=timeout, preload_content=not stream
            )
        except urllib3.exceptions.HTTPError as error:
            raise _no_answer(self.server, error) from None
        if response.status < 300:
            return response
        if response.status == 401:
            what = f"{self.server} rejects these credentials (HTTP 401){expired(self.configuration)}"
            raise Unauthorized(what, f"log in again, or use another KUBECONFIG (this is its context {self.context})")
        raise refusal(response.status, response.data.decode(errors="replace"), self.server, retry_after(response))

    @cached_property
    def features(self) -> frozenset[str]:
        """The newer KubeRay fields that this cluster's API server declares, and `POD_MONITOR` if there may be ours.

        Raises:
            UserError: KubeRay is not installed.
        """
        try:
            schema = self.request("GET", "/openapi/v3/apis/ray.io/v1")
        except NotFound:
            raise UserError(
                f"the cluster at {self.server} has no KubeRay",
                "install it: helm install kuberay-operator kuberay/kuberay-operator --version 1.6.1, or use another KUBECONFIG",
            ) from None
        spec = schema["components"]["schemas"]["io.ray.v1.RayCluster"]["properties"]["spec"]["properties"]
        group = spec["workerGroupSpecs"]["items"]["properties"]
        monitored = {POD_MONITOR} if self._monitored() else set()
        return frozenset({*spec, *group} & {"priority", "tlsOptions", "networkPolicy"} | monitored)

    def _monitored(self) -> bool:
        """Whether Prometheus Operator's kind is there, and the user may create it."""
        kind = KINDS[POD_MONITOR]
        try:
            self.request("GET", kind.path)
        except (NotFound, Forbidden):
            return False
        return self.may("create", kind.plural, kind.group) and self.may("patch", kind.plural, kind.group)

    @cached_property
    def kueue(self) -> str:
        """The API version of Kueue in this cluster, such as ``kueue.x-k8s.io/v1beta2``.

        Raises:
            NotFound: Kueue is not installed.
        """
        return str(self.request("GET", "/apis/kueue.x-k8s.io")["preferredVersion"]["groupVersion"])

    def may(self, verb: str, resource: str, group: str = "", subresource: str = "", namespace: str | None = None) -> bool:
        """Whether the user of this connection has a right; the check needs no rights."""
        attributes = {"verb": verb, "resource": resource, "group": group, "namespace": namespace or self.namespace}
        if subresource:
            attributes["subresource"] = subresource
        body = {"kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": attributes}}
        answer = self.request("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body, repeat=True)
        return bool(answer["status"]["allowed"])


def refusal(status: int, text: str, server: str = "", wait: float = 0.0) -> KubernetesError:
    """The exception for an error response of the API server, which may ask to wait for some seconds."""
    try:
        answer = json.loads(text)
    except ValueError:
        answer = {}
    answer = answer if isinstance(answer, dict) else {}
    message = answer.get("message") or text.strip() or f"HTTP {status}"
    reason, details = answer.get("reason", ""), answer.get("details") or {}
    if status == 401:
        return Unauthorized(f"{server} rejects these credentials (HTTP 401)", "log in again, or use another KUBECONFIG")
    if status == 403:
        return _refused(message, by_rule=bool(answer) and not re.search(NO_RIGHT, message))
    if status == 404 and details.get("kind") == "namespaces":
        return NotFound(message, f"kubectl create namespace {details.get('name')}, or set namespace in the profile")
    if status == 404:
        return NotFound(message, "heliostat status lists what exists")
    if status == 409 or reason in CONFLICTING:
        return Conflict(message, "find out which other client changes it, then retry")
    # An apply with an unknown field gets status 500 and no reason (Kubernetes 1.34, kubernetes#139253).
    if status in (400, 422) or "field not declared in schema" in message:
        return Invalid(message, "correct the field that it names; heliostat doctor shows the KubeRay version")
    if status >= 500 or status == 429:
        fix = f"retry after {wait:.0f} s, as it asks" if wait else "retry; heliostat doctor"
        return Unreachable(f"{server} answered {status}: {message[:300]}", fix)
    return KubernetesError(f"{server} answered {status}: {message[:500]}", "correct what it names")


def _refused(message: str, by_rule: bool) -> KubernetesError:
    if not by_rule:
        return Forbidden(message, "heliostat render --rbac prints the rights to ask for")
    quota = re.search("exceeded quota|failed quota", message)
    fix = "ask for more quota, or use fewer resources" if quota else "change what the rule names, or ask its owner"
    return NotAdmitted(message, fix)


def _no_answer(server: str, error: urllib3.exceptions.HTTPError) -> KubernetesError:
    text = str(error)
    if is_of_trust(error):
        return Unauthorized(f"the TLS connection to {server} failed: {text}", "correct the certificates in the kubeconfig")
    return Unreachable(f"the API server {server} does not answer: {text}", "check the network, the VPN and KUBECONFIG")


def _configuration(kubeconfig: str | None, context: str | None) -> tuple[client.Configuration, str, str]:
    """Load the configuration; returns it with the name and the namespace of the context."""
    path = kubeconfig or os.environ.get("KUBECONFIG") or os.path.expanduser("~/.kube/config")
    configuration = client.Configuration()
    if not kubeconfig and not os.path.exists(path.split(os.pathsep)[0]) and "KUBERNETES_SERVICE_HOST" in os.environ:
        config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        with open("/var/run/secrets/kubernetes.io/serviceaccount/namespace") as file:
            return configuration, "in-cluster", file.read()
    fix = "set KUBECONFIG to the kubeconfig of your cluster"
    with _readable(path, fix):
        if not any(os.path.exists(part) for part in path.split(os.pathsep)):
            raise UserError(f"KUBECONFIG: the file {path} does not exist", fix)
        config.load_kube_config(path, context, configuration, persist_config=False)  # type: ignore[no-untyped-call]
        contexts, active = config.list_kube_config_contexts(path)  # type: ignore[no-untyped-call]
        chosen = next((c for c in contexts if c["name"] == context), active)
    return configuration, chosen["name"], chosen["context"].get("namespace", "default")


@contextmanager
def _readable(path: str, fix: str) -> Iterator[None]:
    """Report every error of loading a kubeconfig as a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except ConfigException as error:
        raise UserError(f"KUBECONFIG {path} cannot be used: {error}", fix) from None
    except Exception as error:  # the loader passes on whatever its parsers and plugins raise
        raise UserError(f"KUBECONFIG {path} is broken: {type(error).__name__}: {str(error)[:200]}", fix) from None
