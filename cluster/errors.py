"""Errors of a Kubernetes API server or a Ray dashboard.

The exit code of each kind follows from what a script can do about it: 2 (`UserError`) if the same command fails until the
user changes something of his own, 75 (`NoAnswer`) if it may work when it is tried again, 1 if neither is so.
"""

from heliostat.errors import NoAnswer, UserError, WithFix


class KubernetesError(WithFix):
    """The API server refused a request. ``status`` is the HTTP status, 0 without a response.

    Exit code 1 for an unknown kind of answer: it shows neither that the input is wrong nor that a retry may help.
    """

    status = 0


class NotFound(KubernetesError, UserError):
    """The object does not exist. Exit code 2: the user has named it."""

    status = 404


class Forbidden(KubernetesError, UserError):
    """The user lacks the right. Exit code 2: these credentials get the same answer until they are given the right."""

    status = 403


class NotAdmitted(KubernetesError):
    """A quota or an admission rule refuses the object, although the user has the right to create one.

    Exit code 1, as when a wait fails for that reason: the input may be correct, and others may use the quota.
    """

    status = 403


class Conflict(KubernetesError):
    """Another client has created, changed or owns the object. Exit code 1: the input may be correct."""

    status = 409


class Invalid(KubernetesError, UserError):
    """The API server or the operator rejects the document. Exit code 2: it comes from the profile or the config."""

    status = 422


class Unauthorized(KubernetesError, UserError):
    """The credentials are unknown or expired. Exit code 2: they come from the user's kubeconfig or token."""

    status = 401


class Unreachable(KubernetesError, NoAnswer):
    """No response, or a server error. Exit code 75: a retry may help; 1 if it ends a submission before the job was sent."""
