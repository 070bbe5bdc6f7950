"""An object store in this process: whole objects, no appending, and it can be away or not answer."""

import io
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

import pyarrow as pa
from pyarrow import fs

from heliostat.folder import Folder


class Store(fs.FileSystemHandler):  # type: ignore[misc]  # pyarrow has no types
    """Objects by path; they appear when they are complete, and what is written is counted."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, int]] = {}
        """The contents and the time of each object."""
        self.written = 0
        """The bytes of all writes."""
        self.reads: list[str] = []
        """The paths of all reads."""
        self.changes_left: int | None = None
        """Writes and deletions after which it is away; None if it is there."""
        self.answers = threading.Event()
        """Cleared, it does not answer to writes."""
        self.answers.set()
        self.asked = threading.Event()
        """Set by each write, before it is answered."""
        self.after_write: Callable[[str], None] = lambda path: None

    def folder(self, name: str = "run") -> Folder:
        """A folder in it."""
        return Folder(fs.PyFileSystem(self), name)

    def put(self, path: str, data: bytes) -> None:
        """What becomes of a write when it is complete."""
        self.asked.set()
        self.answers.wait()
        self._change()
        self.objects[path] = data, time.time_ns()
        self.written += len(data)
        self.after_write(path)

    def _change(self) -> None:
        if self.changes_left is not None:
            if self.changes_left == 0:
                raise OSError("the store is away")
            self.changes_left -= 1

    # --- what pyarrow asks for --------------------------------------------------------------------------------

    def get_type_name(self) -> str:
        return "store"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        return [self._info(path) for path in paths]

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        below = f"{selector.base_dir}/"
        inside = [path.removeprefix(below) for path in list(self.objects) if path.startswith(below)]
        names = inside if selector.recursive else {path.split("/")[0] for path in inside}
        return [self._info(below + name) for name in sorted(names)]

    def _info(self, path: str) -> fs.FileInfo:
        if path in self.objects:
            data, changed = self.objects[path]
            return fs.FileInfo(path, fs.FileType.File, size=len(data), mtime_ns=changed)
        folder = any(other.startswith(f"{path}/") for other in list(self.objects))
        return fs.FileInfo(path, fs.FileType.Directory if folder else fs.FileType.NotFound)

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return pa.BufferReader(self._read(path))

    open_input_file = open_input_stream

    def _read(self, path: str) -> bytes:
        self.reads.append(path)
        if path not in self.objects:
            raise FileNotFoundError(path)
        return self.objects[path][0]

    def open_output_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        return pa.PythonFile(Upload(self, path), mode="w")

    def create_dir(self, path: str, recursive: bool) -> None:
        pass

    def delete_file(self, path: str) -> None:
        self._change()
        del self.objects[path]

    def delete_dir(self, path: str) -> None:
        for other in [other for other in self.objects if other.startswith(f"{path}/")]:
            self.delete_file(other)

    def _no(self, *arguments: Any) -> NoReturn:
        raise NotImplementedError

    delete_dir_contents = delete_root_dir_contents = move = copy_file = open_append_stream = _no


class Upload(io.BytesIO):
    def __init__(self, store: Store, path: str) -> None:
        super().__init__()
        self.store, self.path = store, path

    def close(self) -> None:
        if not self.closed:
            data = self.getvalue()
            super().close()
            self.store.put(self.path, data)
