"""Writes files to a cluster's storage in a thread, so that a slow storage delays nothing; reads those of a folder."""

import os
import threading
from collections.abc import Callable
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
    from pyarrow import fs

    filesystem, path = fs.FileSystem.from_uri(root)
    return lambda name, data: _put(filesystem, f"{path.rstrip('/')}/{name}", data)


def folders(root: str, folder: str) -> list[str]:
    """The paths of the folders in a folder below a root, from there; none if there is no such folder.

    Raises:
        OSError: the storage cannot be read.
    """
    if "://" not in root:
        place = os.path.join(root, folder)
        return [f"{folder}/{each.name}" for each in os.scandir(place) if each.is_dir()] if os.path.isdir(place) else []
    from pyarrow import fs

    filesystem, path = fs.FileSystem.from_uri(root)
    infos = filesystem.get_file_info(fs.FileSelector(f"{path.rstrip('/')}/{folder}", allow_not_found=True))
    return [f"{folder}/{info.base_name}" for info in infos if info.type == fs.FileType.Directory]


def read_all(root: str, folder: str, suffix: str) -> dict[str, bytes]:
    """The files with a suffix in a folder below a root, by their paths from there; none if there is no such folder.

    Raises:
        OSError: the storage cannot be read.
    """
    if "://" not in root:
        place = os.path.join(root, folder)
        names = [name for name in os.listdir(place) if name.endswith(suffix)] if os.path.isdir(place) else []
        return {f"{folder}/{name}": data for name in names if (data := _read(os.path.join(place, name))) is not None}
    from pyarrow import fs

    filesystem, path = fs.FileSystem.from_uri(root)
    infos = filesystem.get_file_info(fs.FileSelector(f"{path.rstrip('/')}/{folder}", allow_not_found=True))
    found = {}
    for info in infos:
        if info.base_name.endswith(suffix):
            with filesystem.open_input_stream(info.path) as stream:
                found[f"{folder}/{info.base_name}"] = stream.read()
    return found


def _read(path: str) -> bytes | None:
    """The contents of a file, unless it was deleted meanwhile."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


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
