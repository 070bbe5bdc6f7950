"""What a Kubernetes API server or a Ray dashboard may answer instead of doing what it was asked to.

The exit code of each kind follows from what a script can do about it: 2 (`UserError`) if the same command fails until the
user changes something of his own, 75 (`NoAnswer`) if it may work when it is tried again, 1 if neither is so.
"""

from heliostat.errors import NoAnswer, UserError, WithFix


class KubernetesError(WithFix):
    """The server refused; the subclasses say why. ``status`` is the HTTP status, 0 if there was none.

    Exit code 1 for an answer of no known kind: it shows neither that the input is wrong nor that trying again may help.
    """

    status = 0


class NotFound(KubernetesError, UserError):
    """There is no such object. Exit code 2: the user has named it."""

    status = 404


class Forbidden(KubernetesError, UserError):
    """The user has no right to it. Exit code 2: these credentials get the same answer until they are given the right."""

    status = 403


class NotAdmitted(KubernetesError):
    """A quota or an admission rule refuses the object, although the user has the right to make one.

    Exit code 1, as when a wait ends for that reason: the input may be right, and others may use the quota.
    """

    status = 403


class Conflict(KubernetesError):
    """Another user or program has made, changed or owns it. Exit code 1: the input may be right, and conflicts again."""

    status = 409


class Invalid(KubernetesError, UserError):
    """The API server or the operator does not take the document. Exit code 2: it comes from the profile or the config."""

    status = 422


class Unauthorized(KubernetesError, UserError):
    """The credentials are not known, or have expired. Exit code 2: they come from the user's kubeconfig or token."""

    status = 401


class Unreachable(KubernetesError, NoAnswer):
    """No answer, or that of a machine in trouble. Exit code 75: trying the same command again may help."""
