"""The doctor: what a cluster needs, looked at piece by piece, each with what was found and how to mend it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from heliostat.cluster.errors import Forbidden, KubernetesError, Unauthorized, Unreachable
from heliostat.cluster.profile import Profile
from heliostat.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """What a check has found."""

    state: Literal["ok", "problem", "unknown"]
    what: str
    fix: str = ""
    check: str = ""
    """The check's name in its table."""


Found = Iterator[Finding]


def ok(what: str) -> Finding:
    """As it should be."""
    return Finding("ok", what)


def problem(what: str, fix: str) -> Finding:
    """In the way, now or when the cluster grows."""
    return Finding("problem", what, fix)


def unknown(what: str, fix: str) -> Finding:
    """Not to be seen from here; ``fix`` says how to find out."""
    return Finding("unknown", what, fix)


def examine(profile: Profile | None) -> Found:
    """Look at everything that a profile needs, or without one at what all of them do.

    Raises:
        UserError: there is no usable kubeconfig, or its credentials are not valid.
        Unreachable: the API server does not answer.
    """
    if profile and profile.platform == "local":
        from heliostat.cluster.doctor.machine import CHECKS

        return results(CHECKS, profile)
    from heliostat.cluster.doctor import kubernetes
    from heliostat.cluster.doctor import profile as of_profile
    from heliostat.cluster.kube.kuberay import KubeRay

    site = kubernetes.Site(KubeRay(namespace=profile.namespace if profile else None), profile)
    return results(kubernetes.CHECKS | (of_profile.CHECKS if profile else {}), site)


def results(checks: Mapping[str, Callable[[T], Found]], subject: T) -> Found:
    """What the checks of a table find; a problem that one of them has told is not told again by another."""
    told = set()
    for name, check in checks.items():
        for finding in _tried(check, subject):
            if finding.state != "problem" or finding.what not in told:
                yield replace(finding, check=name)
            told.add(finding.what)


def _tried(check: Callable[[T], Found], subject: T) -> Found:
    try:
        yield from check(subject)
    except (Unauthorized, Unreachable):
        raise
    except Forbidden as error:
        yield unknown(f"no right to look: {error.what}", "ask somebody who has it to run heliostat doctor")
    except (UserError, KubernetesError) as error:
        yield problem(error.what, error.fix)
