"""What a Kubernetes API server or a Ray dashboard may answer instead of doing what it was asked to."""

from heliostat.errors import UserError


class KubernetesError(UserError):
    """The API server refused; the subclasses tell why. ``status`` is the HTTP status, 0 if there was none."""

    status = 0


class NotFound(KubernetesError):
    """There is no such object."""

    status = 404


class Forbidden(KubernetesError):
    """The user has no right to it, or a quota or an admission rule is in the way."""

    status = 403


class Conflict(KubernetesError):
    """Somebody else has made, changed or owns it."""

    status = 409


class Invalid(KubernetesError):
    """The API server or the operator does not take the document."""

    status = 422


class Unauthorized(KubernetesError):
    """Nobody knows these credentials, or they have expired."""

    status = 401


class Unreachable(KubernetesError):
    """Nobody answers, or the answer is that of a machine in trouble; trying again may help."""
