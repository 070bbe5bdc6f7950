"""Sends files of a cluster's storage to a port-forward, as tar archives over HTTP; runs as a job, with the root as argument.

``POST /`` with a JSON list of patterns has the files and folders that match them, relative to the root: in a URL there is no
room for those of some hundred runs. Only processes in the head's pod reach it. The last member of an archive says that it is
complete.
"""

import glob
import gzip
import io
import json
import os
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Protocol

IDLE = 60.0
"""Seconds without a request until it ends by itself, after a command that was killed."""
COMPLETE = ".complete"


class Stored(Protocol):
    """Where the files are."""

    def add(self, archive: tarfile.TarFile, pattern: str) -> None:
        """Add the files and folders that match a pattern."""


class Paths:
    """A folder that is mounted."""

    def __init__(self, root: str) -> None:
        self._root = root

    def add(self, archive: tarfile.TarFile, pattern: str) -> None:
        """Add the files and folders that match a pattern."""
        for path in sorted(glob.glob(os.path.join(glob.escape(self._root), pattern))):
            add(archive, path, self._root)


class Objects:
    """An object store.

    Raises:
        OSError: it cannot be read.
    """

    def __init__(self, uri: str) -> None:
        from pyarrow import fs

        self._fs = fs
        self._store, root = fs.FileSystem.from_uri(uri)
        self._root = root.rstrip("/")
        self._names("")

    def add(self, archive: tarfile.TarFile, pattern: str) -> None:
        """Add the files that match a pattern, and those in folders that do."""
        for name in matching(self._names, self._exists, pattern.split("/")):
            found = self._store.get_file_info(f"{self._root}/{name}")
            inside = [found] if found.is_file else self._store.get_file_info(self._fs.FileSelector(found.path, recursive=True))
            for each in inside:
                if each.is_file:
                    with self._store.open_input_stream(each.path) as stream:
                        data = stream.read()
                    member = tarfile.TarInfo(each.path[len(self._root) + 1 :])
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))

    def _names(self, below: str) -> list[str]:
        selector = self._fs.FileSelector(f"{self._root}/{below}".rstrip("/"), allow_not_found=True)
        return [each.base_name for each in self._store.get_file_info(selector)]

    def _exists(self, name: str) -> bool:
        return bool(self._store.get_file_info(f"{self._root}/{name}").type != self._fs.FileType.NotFound)


def matching(
    names: Callable[[str], Iterable[str]], exists: Callable[[str], bool], parts: Sequence[str], below: str = ""
) -> Iterator[str]:
    """The files and folders that match a pattern, as a shell reads it.

    Args:
        names: what is in a folder, none in a file.
        exists: whether there is a file or a folder.
        parts: of the pattern, between its slashes.
        below: the folder that it is relative to.
    """
    if not parts:
        yield below
        return
    start = f"{below}/" if below else ""
    found = names(below) if glob.has_magic(parts[0]) else [parts[0]] * exists(start + parts[0])
    for name in sorted(found):
        if fnmatch(name, parts[0]) and (parts[0].startswith(".") or not name.startswith(".")):
            yield from matching(names, exists, parts[1:], start + name)


class Server(HTTPServer):
    """Serves one request after the other."""

    def __init__(self, root: str) -> None:
        super().__init__(("127.0.0.1", 0), Files)
        self.stored: Stored = Objects(root) if "://" in root else Paths(root)
        self.timeout, self.ended = IDLE, False

    def handle_timeout(self) -> None:
        self.ended = True


class Files(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Server

    def do_POST(self) -> None:
        patterns = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()
        packed = gzip.GzipFile(fileobj=self.wfile, mode="wb", compresslevel=1)
        with packed, tarfile.open(fileobj=packed, mode="w|") as archive:
            for pattern in patterns:
                self.server.stored.add(archive, pattern)
            archive.addfile(tarfile.TarInfo(COMPLETE))


def add(archive: tarfile.TarFile, path: str, root: str) -> None:
    """Add a file or a folder, without what is being written or is deleted meanwhile."""
    try:
        archive.add(path, os.path.relpath(path, root), recursive=False)
        below = sorted(os.listdir(path)) if os.path.isdir(path) and not os.path.islink(path) else []
    except FileNotFoundError:
        return
    for name in below:
        if not name.endswith(".tmp"):
            add(archive, os.path.join(path, name), root)


if __name__ == "__main__":
    server = Server(sys.argv[1])
    print(f"serving at {server.server_port}", flush=True)
    while not server.ended:
        server.handle_request()
