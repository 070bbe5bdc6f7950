"""The rights that a user lacks for heliostat's commands."""

from concurrent.futures import ThreadPoolExecutor

from heliostat.cluster.documents.rbac import RIGHTS, Right
from heliostat.cluster.kube.api import Api

ASKED_AT_ONCE = 8


def missing(api: Api) -> list[Right]:
    """The rights that the user of a connection lacks in its namespace; the check needs no rights."""

    def may(right: Right) -> bool:
        resource, _, subresource = right.resource.partition("/")
        return api.may(right.verb, resource, right.group, subresource)

    with ThreadPoolExecutor(ASKED_AT_ONCE) as threads:
        return [right for right, granted in zip(RIGHTS, threads.map(may, RIGHTS), strict=True) if not granted]
