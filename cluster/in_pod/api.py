"""Requests to the API server, as the service account of the pod."""

import json
import os
import ssl
import urllib.request
from typing import Any

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


def ray_cluster(name: str) -> str:
    """The path of a RayCluster in the namespace of the pod."""
    return f"/apis/ray.io/v1/namespaces/{os.environ['NAMESPACE']}/rayclusters/{name}"


def kubernetes(method: str, path: str, body: object = None) -> Any:
    """Send a request, and return the JSON of the response."""
    url = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}{path}"
    request = urllib.request.Request(url, method=method, data=json.dumps(body).encode() if body else None)
    with open(f"{ACCOUNT}/token") as token:
        request.add_header("Authorization", "Bearer " + token.read())
    request.add_header("Content-Type", "application/merge-patch+json" if method == "PATCH" else "application/json")
    trust = ssl.create_default_context(cafile=f"{ACCOUNT}/ca.crt")
    with urllib.request.urlopen(request, timeout=10, context=trust) as response:
        return json.load(response)
