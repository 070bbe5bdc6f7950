"""The doctor: what a cluster needs, looked at piece by piece, each with what was found and how to mend it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from heliostat.cluster.diagnosis.findings import Found, problem, unknown
from heliostat.cluster.errors import Forbidden, Unauthorized, Unreachable
from heliostat.cluster.profile import Profile
from heliostat.errors import UserError

T = TypeVar("T")


def examine(profile: Profile | None) -> Found:
    """Look at everything that a profile needs, or without one at what all of them do.

    Raises:
        UserError: there is no usable kubeconfig, its credentials are not valid, or nobody answers.
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
    except UserError as error:
        # A quota or an admission rule forbids, too; a missing right is told in these words, whatever the API server asks.
        if isinstance(error, Forbidden) and " cannot " in error.what:
            yield unknown(f"no right to look: {error.what}", "ask somebody who has it to run heliostat doctor")
        else:
            yield problem(error.what, error.fix)
