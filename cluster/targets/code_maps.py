"""The code of scheduled runs and services, for which no client is there to upload it: packages in ConfigMaps."""

import base64
from collections.abc import Sequence

from heliostat.cluster.documents.manifests import metadata
from heliostat.cluster.jobs.packaging import Package
from heliostat.cluster.names import Document
from heliostat.cluster.profile import Profile
from heliostat.errors import UserError

CODE = "/opt/heliostat-code"
LARGEST = (1 << 20) - 2048
"""Bytes of the values in a ConfigMap, which holds at most 1 MiB with their names."""
CODE_VOLUME = "code"
OWN = "-heliostat"
"""What the name of the ConfigMap ends with that has Heliostat's own package; that of the given name is for the user's files."""


def mounted(code: Sequence[Package]) -> list[Package]:
    """The packages with the URIs that they have in the pods."""
    return [Package(f"file://{CODE}/{_file(package)}", package.data) for package in code]


def code_maps(profile: Profile, name: str, code: Sequence[Package], what: str, files: Document | None = None) -> list[Document]:
    """The ConfigMaps with packages, `compact` ones so that they fit, the working directory first.

    Args:
        profile: whose they are.
        name: of the first.
        code: the packages.
        what: they are for, in a message.
        files: more data of the first.

    Raises:
        UserError: the working directory is too large.
    """
    beside = sum(len(text.encode()) for text in (files or {}).values())
    if (size := len(code[0].data)) > (most := LARGEST - beside):
        raise UserError(
            f"the working directory is {size >> 10} kB packed, but {what} are limited to {most >> 10} kB",
            "exclude what is not code in .gitignore or .rayignore (--dry-run lists what is sent), or build it into the image "
            "and run from an empty folder",
        )
    maps: list[Document] = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata(profile, each),
            "binaryData": {_file(package): base64.b64encode(package.data).decode()},
        }
        for each, package in zip(names_of_maps(name, len(code)), code, strict=True)
    ]
    if files:
        maps[0]["data"] = files
    return maps


def mount_code(cluster: Document, names: Sequence[str]) -> None:
    """Mount the code in every pod of a cluster, from the ConfigMaps of these names."""
    code = {"name": CODE_VOLUME, "projected": {"sources": [{"configMap": {"name": each}} for each in names]}}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        spec = group["template"]["spec"]
        spec.setdefault("volumes", []).append(code)
        spec["containers"][0].setdefault("volumeMounts", []).append({"name": CODE_VOLUME, "mountPath": CODE})


def names_of_maps(name: str, packages: int) -> list[str]:
    """The names of as many ConfigMaps as there are packages, of which the first has the given name."""
    return [name + OWN * number for number in range(packages)]


def _file(package: Package) -> str:
    return package.uri.rpartition("/")[2]
