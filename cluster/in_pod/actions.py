"""Actions of users on a cluster, such as ``up`` and ``stop``: how a command hands one over, and how it gets to the storage.

A command cannot write the claim of a cluster on Kubernetes. It leaves the action as an annotation of the RayCluster, which is
there while no head runs, too; the recorder writes it to a file of its own beside the record of the nodes, and then removes the
annotation. A file that is written twice is the same file, so nothing is lost or doubled whatever ends in between.
"""

import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.error import HTTPError

from .api import kubernetes, ray_cluster
from .store import Writer

PREFIX = "heliostat.dev/action-"
KEY = re.compile(re.escape(PREFIX) + r"(?P<id>[0-9a-f]{16})")
TEXTS = ("who", "from", "what", "which")

Action = dict[str, Any]


def action(who: str, origin: str, what: str, which: str) -> tuple[str, Action]:
    """An action of now, and its id.

    Args:
        who: the user.
        origin: the user and the machine of the command, as they call themselves.
        what: the command, such as ``stop``.
        which: the object, such as a job's id.
    """
    return secrets.token_hex(8), {"t": round(time.time(), 3), "who": who, "from": origin, "what": what, "which": which}


def annotation(id: str, of: Action) -> dict[str, str]:
    """The annotation that hands an action over."""
    return {f"{PREFIX}{id}": json.dumps(of, separators=(",", ":"))}


def waiting(annotations: Mapping[str, str]) -> Iterator[tuple[str, Action]]:
    """The ids and actions in the annotations of a RayCluster; what is none, which others may have written, is left out."""
    for key, text in annotations.items():
        if match := KEY.fullmatch(key):
            try:
                found = json.loads(text)
                datetime.fromtimestamp(found["t"], UTC)
                if all(isinstance(found[name], str) for name in TEXTS):
                    yield match["id"], {name: found[name] for name in ("t", *TEXTS)}
            except (ValueError, LookupError, TypeError, OverflowError, OSError):
                continue


def file_of(id: str, of: Action) -> str:
    """The name of its file in the folder of a record."""
    return f"{datetime.fromtimestamp(of['t'], UTC):%Y-%m/%dT%H%M%S}-{id}.action"


class Recorded:
    """Writes the actions that wait at the RayCluster of the environment.

    Args:
        writer: of the storage.
        folder: of the record.
    """

    def __init__(self, writer: Writer, folder: str) -> None:
        self._writer, self._folder = writer, folder
        self._given = set[str]()

    def step(self) -> None:
        """Give new ones to the writer, and remove those that it has written; does nothing without the right to ask."""
        path = ray_cluster(os.environ["CLUSTER"])
        try:
            annotations = kubernetes("GET", path)["metadata"].get("annotations", {})
            for id, each in waiting(annotations):
                name = f"{self._folder}/{file_of(id, each)}"
                if name not in self._given:
                    self._writer.write(name, written(each))
                    self._given.add(name)
                elif self._writer.has_written(name):
                    kubernetes("PATCH", path, {"metadata": {"annotations": {f"{PREFIX}{id}": None}}})
        except HTTPError as error:
            if error.code not in (401, 403, 404):
                raise


def written(of: Action) -> bytes:
    """The contents of its file."""
    return json.dumps(of, separators=(",", ":")).encode() + b"\n"
