"""Checks everything that a cluster needs, and reports each finding with its fix."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from heliostat.cluster.diagnosis.findings import Found, problem, unknown
from heliostat.cluster.errors import Forbidden, KubernetesError, Unauthorized, Unreachable
from heliostat.cluster.profile import Profile
from heliostat.errors import UserError

T = TypeVar("T")


def examine(profile: Profile | None) -> Found:
    """Check everything that a profile needs, or without one what all profiles need.

    Raises:
        UserError: the kubeconfig is unusable, or its credentials are invalid.
        Unreachable: the API server does not respond.
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
    """Run the checks of a table; a problem that several of them find is reported once."""
    reported = set()
    for name, check in checks.items():
        for finding in _run(check, subject):
            if finding.state != "problem" or finding.what not in reported:
                yield replace(finding, check=name)
            reported.add(finding.what)


def _run(check: Callable[[T], Found], subject: T) -> Found:
    """Run a check, with its errors as findings."""
    try:
        yield from check(subject)
    except (Unauthorized, Unreachable):
        raise
    except Forbidden as error:
        yield unknown(f"no right to check it: {error.what}", "ask a user with this right to run heliostat doctor")
    except (UserError, KubernetesError) as error:
        yield problem(error.what, error.fix)
