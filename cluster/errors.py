"""Errors of a Kubernetes API server or a Ray dashboard."""

from heliostat.errors import UserError


class KubernetesError(UserError):
    """The API server refused a request. ``status`` is the HTTP status, 0 without a response."""

    status = 0


class NotFound(KubernetesError):
    """The object does not exist."""

    status = 404


class Forbidden(KubernetesError):
    """The user lacks the right, or a quota or an admission rule refuses."""

    status = 403


class Conflict(KubernetesError):
    """Another client has created, changed or owns the object."""

    status = 409


class Invalid(KubernetesError):
    """The API server or the operator rejects the document."""

    status = 422


class Unauthorized(KubernetesError):
    """The credentials are unknown or expired."""

    status = 401


class Unreachable(KubernetesError):
    """No response, or a server error; a retry may help."""
