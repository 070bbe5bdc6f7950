"""Objects of one kind in a namespace: create, get, list, apply, patch, delete, watch and wait.

Documents are plain dictionaries. Every refusal is an exception of `heliostat.cluster.errors`.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import urllib3

from heliostat.cluster.documents import validation
from heliostat.cluster.documents.ownership import carried_over, decided, only_with_carried
from heliostat.cluster.errors import Conflict, NotFound, Unreachable
from heliostat.cluster.kube.api import Api
from heliostat.cluster.names import MANAGER, Document
from heliostat.errors import NotComing

APPLY, MERGE, JSON_PATCH = "application/apply-patch+yaml", "application/merge-patch+json", "application/json-patch+json"
STRICT = {"fieldValidation": "Strict"}
TRIES = 20

Condition = Callable[[Document], bool]


class Objects:
    """The objects of one kind in one namespace."""

    def __init__(self, api: Api, kind: str) -> None:
        self.api, self.kind = api, kind

    def create(self, document: Document) -> Document:
        """Create an object.

        Raises:
            Conflict: an object with that name exists.
            Invalid: the API server or the operator rejects it.
        """
        validation.check(document)
        created: Document = self.api.request("POST", self._path(document=document), document, STRICT)
        return created

    def get(self, name: str) -> Document:
        """Get an object; raises `NotFound`."""
        found: Document = self.api.request("GET", self._path(name))
        return found

    def find(self, name: str) -> Document | None:
        """Get an object, or None if it does not exist."""
        try:
            return self.get(name)
        except NotFound:
            return None

    def list(self, selector: str = "") -> list[Document]:
        """List all objects, or those that match a selector such as ``team=vision``."""
        found: list[Document] = self._list(selector)["items"]
        return found

    def apply(self, document: Document, seen: Document | None = None, force: bool = False, dry_run: bool = False) -> Document:
        """Create or change an object by server-side apply, and return it; values set by the autoscaler are kept.

        Args:
            document: the desired object.
            seen: the live object that the decision to apply is based on; a change since then, except by the autoscaler, is a
                `Conflict`.
            force: take over fields that other managers own.
            dry_run: change nothing, and return the object as it would be.

        Raises:
            Conflict: another manager owns a field, or the object has changed since ``seen``.
            Invalid: the API server or the operator rejects it.
        """
        validation.check(document)
        name = document["metadata"]["name"]
        for _ in range(TRIES):
            live = self.find(name)
            if live and seen and decided(live) != decided(seen):
                raise Conflict(
                    f"{self.kind} {name} was changed by another client meanwhile",
                    f"check it (heliostat diff {name}), then retry",
                )
            try:
                return self._apply(document, live, force, dry_run)
            except Conflict as error:
                if "has been modified" not in error.what:
                    raise
        raise Conflict(f"{self.kind} {name} changes faster than it can be applied", "stop what changes it, then retry")

    def patch(self, name: str, patch: Mapping[str, Any]) -> Document:
        """Apply a merge patch to an object; null deletes a key."""
        patched: Document = self.api.request("PATCH", self._path(name), patch, {**STRICT, "fieldManager": MANAGER}, MERGE)
        return patched

    def delete(self, name: str, timeout: float = 0) -> bool:
        """Delete an object and wait up to ``timeout`` seconds until it is deleted; False if it did not exist."""
        try:
            self.api.request("DELETE", self._path(name), {"propagationPolicy": "Background"})
        except NotFound:
            return False
        deadline = time.monotonic() + timeout
        while timeout and (left := self.find(name)):
            if time.monotonic() > deadline:
                holding = ", ".join(left["metadata"].get("finalizers", [])) or "its pods"
                raise NotComing(
                    f"{self.kind} {name} still exists after {timeout:.0f} s: held by {holding}", "remove what holds it"
                )
            time.sleep(0.3)
        return True

    def watch(self, selector: str = "", timeout: float = 3600) -> Iterator[tuple[str, Document]]:
        """Yield existing objects and each change, as (ADDED, MODIFIED or DELETED, object), over one connection.

        After a lost connection it starts again with every existing object, so that some come twice.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            listed = self._list(selector)
            for item in listed["items"]:
                yield "ADDED", item
            yield from self._stream(selector, listed["metadata"]["resourceVersion"], deadline)

    def wait(self, names: Iterable[str], until: Condition, timeout: float) -> dict[str, Document]:
        """Wait by one watch until the condition holds for all of these objects.

        Raises:
            NotComing: it does not hold for all after ``timeout`` seconds.
        """
        missing, found = set(names), dict[str, Document]()
        if not missing:
            return found
        for change, item in self.watch(timeout=timeout):
            name = item["metadata"]["name"]
            if name in missing and change != "DELETED" and until(item):
                missing.remove(name)
                found[name] = item
                if not missing:
                    return found
        left = ", ".join(sorted(missing))
        raise NotComing(
            f"{self.kind} {left}: not ready after {timeout:.0f} s", "heliostat status and heliostat doctor show its state"
        )

    def _apply(self, document: Document, live: Document | None, force: bool, dry_run: bool) -> Document:
        body = carried_over(document, live)
        query = {"fieldManager": MANAGER, **STRICT, **({"dryRun": "All"} if dry_run else {})}
        path = self._path(document["metadata"]["name"], document)
        try:
            applied: Document = self.api.request("PATCH", path, body, {**query, "force": str(force).lower()}, APPLY)
        except Conflict as error:
            if "conflict" not in error.what or not only_with_carried(error.what):
                raise
            applied = self.api.request("PATCH", path, body, {**query, "force": "true"}, APPLY)
        return applied

    def _list(self, selector: str) -> Any:
        return self.api.request("GET", self._path(), query={"labelSelector": selector} if selector else None)

    def _stream(self, selector: str, version: str, deadline: float) -> Iterator[tuple[str, Document]]:
        while (left := deadline - time.monotonic()) > 0:
            query = {"watch": "1", "resourceVersion": version, "timeoutSeconds": str(max(1, round(left)))}
            if selector:
                query["labelSelector"] = selector
            limits = urllib3.Timeout(connect=5, read=left + 5)
            try:
                for line in _lines(self.api.raw("GET", self._path(), query=query, timeout=limits, stream=True)):
                    change = json.loads(line)
                    if change["type"] == "ERROR":  # the version has expired: list again
                        return
                    version = change["object"]["metadata"]["resourceVersion"]
                    yield change["type"], change["object"]
            except (Unreachable, urllib3.exceptions.HTTPError):
                time.sleep(1)
                return

    def _path(self, name: str = "", document: Document | None = None) -> str:
        namespace = document["metadata"].get("namespace") if document else None
        return self.api.path(self.kind, name, namespace)


def _lines(answer: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    rest = b""
    try:
        for chunk in answer.stream(1 << 16, decode_content=True):
            *whole, rest = (rest + chunk).split(b"\n")
            yield from whole
    finally:
        answer.close()
