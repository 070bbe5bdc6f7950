"""Objects of one kind in a namespace: create, get, list, apply, patch, delete, watch and wait.

Documents are plain dictionaries. Every refusal is an exception of `heliostat.cluster.errors`.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import urllib3

from heliostat.cluster.documents import validation
from heliostat.cluster.documents.ownership import (
    carried_over,
    contains,
    decided,
    is_ours,
    is_unclaimed,
    only_with_carried,
    owner_of,
)
from heliostat.cluster.errors import Conflict, Invalid, NotFound, Unreachable
from heliostat.cluster.kube.api import Api, refusal
from heliostat.cluster.names import MANAGER, Document
from heliostat.cluster.retries import pauses
from heliostat.errors import NotComing

APPLY, MERGE, JSON_PATCH = "application/apply-patch+yaml", "application/merge-patch+json", "application/json-patch+json"
STRICT = {"fieldValidation": "Strict"}
TRIES = 20
STREAM_SECONDS = 60.0
"""The longest stream of a watch: a connection that is lost without a sign is noticed then."""
SHORTEST_STREAM = 1.0
"""A stream that ends earlier, without a change, is not opened again without a pause."""

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
        try:
            return self._create(document)
        except Unreachable:
            # It may have arrived: then there is an object with this name and content, else it can be sent again.
            live = self.find(document["metadata"]["name"])
            if live is None:
                return self._create(document)
            if not contains(live, document):
                raise
            return live

    def _create(self, document: Document) -> Document:
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

    def apply(
        self, document: Document, seen: Document | None = None, force: bool = False, dry_run: bool = False, adopt: bool = False
    ) -> Document:
        """Create or change an object by server-side apply, and return it; values set by the autoscaler are kept.

        With our labels in the document, an object of another owner is not changed.

        Args:
            document: the desired object.
            seen: the live object that the decision to apply is based on; a change since then, except by the autoscaler, is a
                `Conflict`.
            force: take over fields that other managers own.
            dry_run: change nothing, and return the object as it would be.
            adopt: change also an object that belongs to no profile, which is of this one from then on.

        Raises:
            Conflict: another manager owns a field, the object has changed since ``seen``, or it is of another owner.
            Invalid: the API server or the operator rejects it.
        """
        validation.check(document)
        name = document["metadata"]["name"]
        for _ in range(TRIES):
            live = self.find(name)
            if live and not is_ours(live, document) and not (adopt and is_unclaimed(live)):
                owner = owner_of(live) or "of another owner"
                raise Conflict(f"{self.kind} {name} exists, and is {owner}", "use another name, or delete it if it is yours")
            # What it has already is what this apply wants: its answer may have been lost.
            if live and seen and decided(live) != decided(seen) and not contains(live, document):
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

    def patch(self, name: str, patch: Mapping[str, Any], seen: Document | None = None) -> Document:
        """Apply a merge patch to an object; null deletes a key.

        Raises:
            Conflict: it is another object than ``seen``, created after that was deleted.
        """
        body = dict(patch)
        if seen:
            body["metadata"] = {**patch.get("metadata", {}), "uid": seen["metadata"]["uid"]}
        try:
            patched: Document = self.api.request("PATCH", self._path(name), body, {**STRICT, "fieldManager": MANAGER}, MERGE)
        except Invalid as error:
            if seen and "metadata.uid" in error.what:
                raise Conflict(f"{self.kind} {name} was deleted and created again meanwhile", "retry") from None
            raise
        return patched

    def delete(self, name: str, timeout: float = 0, seen: Document | None = None) -> bool:
        """Delete an object and wait up to ``timeout`` seconds until it is deleted; False if it did not exist.

        Raises:
            Conflict: it is another object than ``seen``, created after that was deleted.
        """
        body: Document = {"propagationPolicy": "Background"}
        if seen:
            body["preconditions"] = {"uid": seen["metadata"]["uid"]}
        try:
            self.api.request("DELETE", self._path(name), body)
        except NotFound:
            return seen is not None
        deadline = time.monotonic() + timeout
        while timeout and (left := self.find(name)) and (not seen or left["metadata"]["uid"] == seen["metadata"]["uid"]):
            if time.monotonic() > deadline:
                holding = ", ".join(left["metadata"].get("finalizers", [])) or "its pods"
                raise NotComing(
                    f"{self.kind} {name} still exists after {timeout:.0f} s: held by {holding}", "remove what holds it"
                )
            time.sleep(0.3)
        return True

    def watch(self, selector: str = "", timeout: float = 3600) -> Iterator[tuple[str, Document]]:
        """Yield existing objects and each change, as (ADDED, MODIFIED or DELETED, object), over one connection.

        After a lost connection, or when the server has no more of the changes in between, the objects are listed again, with
        growing pauses; what has changed meanwhile is yielded.

        Raises:
            Unreachable: the server does not respond when ``timeout`` seconds are over.
        """
        deadline = time.monotonic() + timeout
        known, waits, lost = dict[str, Document](), pauses(), None
        while (left := deadline - time.monotonic()) > 0:
            try:
                for change in self._changes(selector, known, left):
                    waits = pauses()
                    yield change
                lost = None
            except Unreachable as error:
                lost = error
            time.sleep(max(0.0, min(next(waits), deadline - time.monotonic())))
        if lost:
            raise lost

    def wait(self, names: Iterable[str], until: Condition, timeout: float) -> dict[str, Document]:
        """Wait by one watch until the condition holds for all of these objects.

        Raises:
            NotComing: it does not hold for all after ``timeout`` seconds.
            Unreachable: the server does not respond when they are over.
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

    def _changes(self, selector: str, known: dict[str, Document], seconds: float) -> Iterator[tuple[str, Document]]:
        """List the objects, and stream their changes until that must be done again; ``known`` has all objects, by uid."""
        deadline = time.monotonic() + seconds
        listed = self._list(selector)
        present = {item["metadata"]["uid"]: item for item in listed["items"]}
        for uid in known.keys() - present.keys():
            yield "DELETED", known.pop(uid)
        for uid, item in present.items():
            before = known.get(uid)
            known[uid] = item
            if before is None or before["metadata"]["resourceVersion"] != item["metadata"]["resourceVersion"]:
                yield "ADDED" if before is None else "MODIFIED", item
        version, began = listed["metadata"]["resourceVersion"], -SHORTEST_STREAM
        while (left := deadline - time.monotonic()) > 0 and time.monotonic() - began >= SHORTEST_STREAM:
            began = time.monotonic()
            for change in self._stream(selector, version, min(left, STREAM_SECONDS)):
                if change["type"] == "ERROR":
                    self._check_error(change["object"])
                    return
                version, began = change["object"]["metadata"]["resourceVersion"], -SHORTEST_STREAM
                _note(known, change["type"], change["object"])
                yield change["type"], change["object"]

    def _check_error(self, status: Document) -> None:
        """Raise the error that ends a stream; none if only the version has expired."""
        if status.get("code") != 410:
            raise refusal(int(status.get("code") or 0), json.dumps(status), self.api.server)

    def _stream(self, selector: str, version: str, seconds: float) -> Iterator[Document]:
        query = {"watch": "1", "resourceVersion": version, "timeoutSeconds": str(max(1, round(seconds)))}
        if selector:
            query["labelSelector"] = selector
        limits = urllib3.Timeout(connect=5, read=seconds + 5)
        try:
            for line in _lines(self.api.raw("GET", self._path(), query=query, timeout=limits, stream=True)):
                yield json.loads(line)
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            raise Unreachable(f"the connection to {self.api.server} was lost: {error}", "retry") from None

    def _path(self, name: str = "", document: Document | None = None) -> str:
        namespace = document["metadata"].get("namespace") if document else None
        return self.api.path(self.kind, name, namespace)


def _note(known: dict[str, Document], change: str, item: Document) -> None:
    """Note a change of an object."""
    if change == "DELETED":
        known.pop(item["metadata"]["uid"], None)
    else:
        known[item["metadata"]["uid"]] = item


def _lines(answer: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    rest = b""
    try:
        for chunk in answer.stream(1 << 16, decode_content=True):
            *whole, rest = (rest + chunk).split(b"\n")
            yield from whole
    finally:
        answer.close()
