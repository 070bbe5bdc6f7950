"""Why an API server may not know the credentials of a kubeconfig any more: they end."""

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from cryptography.x509 import load_pem_x509_certificate
from kubernetes.client import Configuration


def expired(configuration: Configuration) -> str:
    """Which of the credentials have ended and when, as a clause for a message; empty if none is seen to have."""
    now = datetime.now(UTC)
    for what, end in _ends(configuration):
        if end < now:
            return f": the {what} in the kubeconfig expired at {end:%Y-%m-%d %H:%M} UTC"
    return ""


def _ends(configuration: Configuration) -> Iterator[tuple[str, datetime]]:
    if configuration.cert_file:
        certificate = load_pem_x509_certificate(Path(configuration.cert_file).read_bytes())
        yield "client certificate", certificate.not_valid_after_utc
    for token in (configuration.api_key or {}).values():
        if (end := _end_of(token)) is not None:
            yield "token", end


def _end_of(token: str) -> datetime | None:
    """When a JSON web token ends; None for one without an end, or of another kind."""
    try:
        payload = token.split(".")[1]
        end = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"]
        return datetime.fromtimestamp(end, UTC)
    except (IndexError, ValueError, KeyError, TypeError):
        return None
