"""Writes files to a cluster's storage in a thread, so that a slow storage delays nothing, and reads those of a folder."""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import Any

RETRY_SECONDS = 5.0

Write = Callable[[str, bytes], None]


class Writer:
    """Writes whole files; of a file that is given again before it was written, only the last contents.

    Args:
        root: a path, or the URI of an object store, which pyarrow writes.
    """

    def __init__(self, root: str) -> None:
        self._root, self._files = root, dict[str, bytes]()
        self._changed, self._ended = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def write(self, name: str, data: bytes) -> None:
        """Write a file as soon as possible; a storage that fails is tried again."""
        with self._changed:
            self._files[name] = data
            self._changed.notify()

    def has_written(self, name: str) -> bool:
        """Whether nothing of a file that was given has still to be written."""
        with self._changed:
            return name not in self._files

    def close(self, seconds: float) -> None:
        """Wait until everything is written, for at most so many seconds; a storage that failed is tried once more."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join(seconds)

    def _run(self) -> None:
        write: Write | None = None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._files or self._ended)
                if not self._files:
                    return
                name, data = next(iter(self._files.items()))
                last = self._ended
            try:
                write = write or opened(self._root)
                write(name, data)
            except OSError as error:
                print(f"cannot write the record to the storage: {error}", flush=True)
                if last:
                    return
                with self._changed:
                    self._changed.wait_for(lambda: self._ended, RETRY_SECONDS)
                continue
            with self._changed:
                if self._files[name] is data:
                    del self._files[name]


def opened(root: str) -> Write:
    """A function that writes a file below a root atomically."""
    if "://" not in root:
        return lambda name, data: _replace(os.path.join(root, name), data)
    filesystem, path = _filesystem(root)
    return lambda name, data: _put(filesystem, f"{path}/{name}", data)


class Store:
    """Reads files.

    Args:
        root: a path, or the URI of an object store, which pyarrow reads.
    """

    def __init__(self, root: str) -> None:
        self._root = root

    def folders(self, folder: str) -> list[str]:
        """The paths of the folders in a folder below the root, from there; none if there is no such folder.

        Raises:
            OSError: the storage cannot be read.
        """
        if "://" in self._root:
            kind = _fs().FileType.Directory
            return [f"{folder}/{info.base_name}" for info in self._infos(folder) if info.type == kind]
        return [f"{folder}/{each.name}" for each in self._entries(folder) if each.is_dir()]

    def versions(self, folder: str, suffix: str) -> dict[str, Any]:
        """The files with a suffix in a folder, by their paths from the root; a file has another version when it has changed.

        Raises:
            OSError: the storage cannot be read.
        """
        if "://" in self._root:
            infos = [info for info in self._infos(folder) if info.base_name.endswith(suffix)]
            return {f"{folder}/{info.base_name}": (info.size, info.mtime_ns) for info in infos}
        found = {}
        for each in self._entries(folder):
            if each.name.endswith(suffix):
                # At an open NFS asks the server; what it knows of a file without one may be a minute old.
                with suppress(FileNotFoundError), open(each.path, "rb") as file:
                    stat = os.fstat(file.fileno())
                    found[f"{folder}/{each.name}"] = stat.st_size, stat.st_mtime_ns, stat.st_ino
        return found

    def read(self, name: str) -> bytes | None:
        """The contents of a file, unless it was deleted meanwhile.

        Raises:
            OSError: the storage cannot be read.
        """
        try:
            if "://" in self._root:
                filesystem, path = self._opened
                with filesystem.open_input_stream(f"{path}/{name}") as stream:
                    return bytes(stream.read())
            with open(os.path.join(self._root, name), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def _entries(self, folder: str) -> "list[os.DirEntry[str]]":
        place = os.path.join(self._root, folder)
        return [*os.scandir(place)] if os.path.isdir(place) else []

    def _infos(self, folder: str) -> list[Any]:
        filesystem, path = self._opened
        return list(filesystem.get_file_info(_fs().FileSelector(f"{path}/{folder}", allow_not_found=True)))

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        return _filesystem(self._root)


def _filesystem(uri: str) -> tuple[Any, str]:
    filesystem, path = _fs().FileSystem.from_uri(uri)
    return filesystem, path.rstrip("/")


def _fs() -> Any:
    from pyarrow import fs  # takes memory that the recorder of a mounted storage does not have

    return fs


def _replace(path: str, data: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(f"{path}.tmp", "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{path}.tmp", path)


def _put(filesystem: Any, path: str, data: bytes) -> None:
    if filesystem.type_name == "local":
        _replace(path, data)
        return
    with filesystem.open_output_stream(path) as stream:
        stream.write(data)
