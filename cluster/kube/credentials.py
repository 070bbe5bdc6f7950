"""Expiry of the credentials in a kubeconfig."""

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from cryptography.x509 import load_pem_x509_certificate
from kubernetes.client import Configuration


def expired(configuration: Configuration) -> str:
    """Which credential has expired and when, as a clause for a message; empty if none has."""
    now = datetime.now(UTC)
    for what, expiry in _expiries(configuration):
        if expiry < now:
            return f": the {what} in the kubeconfig expired at {expiry:%Y-%m-%d %H:%M} UTC"
    return ""


def _expiries(configuration: Configuration) -> Iterator[tuple[str, datetime]]:
    if configuration.cert_file:
        certificate = load_pem_x509_certificate(Path(configuration.cert_file).read_bytes())
        yield "client certificate", certificate.not_valid_after_utc
    for token in (configuration.api_key or {}).values():
        if (expiry := _token_expiry(token)) is not None:
            yield "token", expiry


def _token_expiry(token: str) -> datetime | None:
    """The expiry of a JSON web token; None for one without, or for another kind of token."""
    try:
        payload = token.split(".")[1]
        expiry = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"]
        return datetime.fromtimestamp(expiry, UTC)
    except (IndexError, ValueError, KeyError, TypeError):
        return None
