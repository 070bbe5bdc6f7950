"""A folder on any filesystem that pyarrow knows: a local path, s3://, gs://, hdfs://."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from heliostat.errors import UserError


@dataclass(frozen=True)
class Folder:
    """Reads and writes whole files; a reader never sees half of one."""

    filesystem: fs.FileSystem
    path: str

    @classmethod
    def at(cls, uri: str | Path) -> "Folder":
        """The folder at a URI or a local path, which need not exist.

        Raises:
            UserError: the URI names a filesystem that pyarrow does not know.
        """
        text = str(uri)
        if "://" not in text:
            return cls(fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(text)))
        try:
            filesystem, path = fs.FileSystem.from_uri(text)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise UserError(f"{text} is not a place that can be opened: {error}", "use a path, s3:// or gs://") from None
        return cls(filesystem, path.rstrip("/"))

    def __truediv__(self, name: str) -> "Folder":
        return Folder(self.filesystem, f"{self.path}/{name}")

    def __str__(self) -> str:
        return self.path if self.is_local else f"{self.filesystem.type_name}://{self.path}"

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def exists(self, name: str = "") -> bool:
        kind = self.filesystem.get_file_info(self._join(name)).type
        return bool(kind != fs.FileType.NotFound)

    def size(self, name: str) -> int:
        """The bytes of a file; 0 if it does not exist."""
        return int(self.filesystem.get_file_info(self._join(name)).size or 0)

    def names(self) -> list[str]:
        """The names of the files and folders in it, sorted; none if it does not exist."""
        infos = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        return sorted(info.base_name for info in infos)

    def read(self, name: str) -> bytes:
        with self.filesystem.open_input_stream(self._join(name)) as stream:
            return bytes(stream.read())

    def open(self, name: str) -> pa.NativeFile:
        """A file to read at random: memory-mapped where it is local."""
        path = self._join(name)
        return pa.memory_map(path) if self.is_local else self.filesystem.open_input_file(path)

    def open_at(self, name: str, offset: int) -> pa.NativeFile:
        """A file to read, from a byte on."""
        file = self.filesystem.open_input_file(self._join(name))
        file.seek(offset)
        return file

    def write(self, name: str, data: bytes) -> None:
        with self.writing(name) as stream:
            stream.write(data)

    @contextmanager
    def writing(self, name: str) -> Iterator[pa.NativeFile]:
        """A stream to a file that appears under its name only when it is complete."""
        self.filesystem.create_dir(self.path, recursive=True)
        # Object stores show an object only when its stream is closed; local files need the rename.
        target = self._join(name)
        temporary = f"{target}.{uuid.uuid4().hex[:8]}.tmp" if self.is_local else target
        try:
            with self.filesystem.open_output_stream(temporary) as stream:
                yield stream
            if self.is_local:
                os.replace(temporary, target)
        except BaseException:
            if self.is_local and os.path.exists(temporary):
                os.unlink(temporary)
            raise

    def delete(self, name: str = "") -> None:
        """Delete a file or a folder with all that is in it; nothing happens if it is not there."""
        kind = self.filesystem.get_file_info(self._join(name)).type
        if kind == fs.FileType.Directory:
            self.filesystem.delete_dir(self._join(name))
        elif kind == fs.FileType.File:
            self.filesystem.delete_file(self._join(name))

    def _join(self, name: str) -> str:
        return f"{self.path}/{name}" if name else self.path
