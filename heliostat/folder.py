"""A folder on any filesystem that pyarrow supports: a local path, s3://, gs://, hdfs://."""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit, urlunsplit

import pyarrow as pa
from pyarrow import fs

from heliostat.environment import IN_A_JOB, STORAGE
from heliostat.errors import NotWritable, UserError

NOT_WRITABLE = {
    getattr(errno, name)
    for name in ("EACCES", "EDQUOT", "EEXIST", "EFBIG", "ENAMETOOLONG", "ENOSPC", "ENOTDIR", "EPERM", "EROFS")
}


def default_base() -> str | Path:
    """What a relative storage is relative to: the cluster's storage, else the home in a job, else the working directory."""
    if STORAGE in os.environ:
        return os.environ[STORAGE]
    return Path.home() if IN_A_JOB in os.environ else Path.cwd()


def join(uri: str, name: str) -> str:
    """The path or URI of an entry of a folder; a query (``?...``) stays at the end."""
    parts = urlsplit(uri)
    if "://" not in uri:
        return f"{uri.rstrip('/')}/{name}"
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))


def split(uri: str) -> tuple[str, str]:
    """The inverse of `join`: the folder and the name."""
    if "://" not in uri:
        return os.path.split(uri)
    parts = urlsplit(uri)
    folder, _, name = parts.path.rpartition("/")
    return urlunsplit(parts._replace(path=folder)), name


def absolute(place: str, base: str | Path) -> str:
    """An absolute path, relative to ``base`` (a path or a URI) and with ``~`` expanded; a URI unchanged."""
    if "://" in place:
        return place
    if "://" in str(base) and not os.path.isabs(os.path.expanduser(place)):
        return join(str(base), os.path.normpath(place))
    return os.path.abspath(os.path.join(base, os.path.expanduser(place)))


@dataclass(frozen=True)
class Folder:
    """Reads and writes whole files atomically."""

    filesystem: fs.FileSystem
    path: str

    @classmethod
    def at(cls, uri: str | Path) -> "Folder":
        """The folder at a URI or a local path, which need not exist.

        Raises:
            UserError: the URI names a filesystem that pyarrow does not know.
        """
        text = str(uri)
        if "\0" in text:
            raise UserError(f"{text!r} is not a path: it contains a null character", "give a path or a URI")
        if "://" not in text:
            return cls(fs.LocalFileSystem(), absolute(text, Path.cwd()))
        try:
            filesystem, path = fs.FileSystem.from_uri(text)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            raise UserError(f"{text} cannot be opened: {error}", "use a path, s3:// or gs://") from None
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

    @property
    def is_folder(self) -> bool:
        return bool(self.filesystem.get_file_info(self.path).type == fs.FileType.Directory)

    def exists(self, name: str = "") -> bool:
        kind = self.filesystem.get_file_info(self._join(name)).type
        return bool(kind != fs.FileType.NotFound)

    def size(self, name: str) -> int:
        """The size of a file in bytes; 0 if it does not exist."""
        return int(self.filesystem.get_file_info(self._join(name)).size or 0)

    def names(self) -> list[str]:
        """The names of the files and folders in it, sorted; none if it does not exist."""
        try:
            infos = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        except NotADirectoryError:
            raise UserError(f"{self} is a file, but must be a folder", "give a folder") from None
        return sorted(info.base_name for info in infos)

    def stamps(self) -> dict[str, tuple[int, int]]:
        """The size and the modification time (ns) of each file in it, by name: what changes when a file is written again."""
        infos = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        return {info.base_name: (info.size, info.mtime_ns or 0) for info in infos if info.is_file}

    def read(self, name: str) -> bytes:
        with self.filesystem.open_input_stream(self._join(name)) as stream:
            return bytes(stream.read())

    def open(self, name: str) -> pa.NativeFile:
        """Open a file for random access; a local file is memory-mapped."""
        path = self._join(name)
        return pa.memory_map(path) if self.is_local else self.filesystem.open_input_file(path)

    def write(self, name: str, data: bytes) -> None:
        """Write a file atomically: it appears under its name when it is complete.

        Raises:
            NotWritable: no space, no permission, or a parent is not a folder.
        """
        with self.writing(name) as file:
            file.write(data)

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """Open a file for writing; it appears under its name when the block ends without an error.

        Raises:
            NotWritable: see `write`.
        """
        target, temporary = self._join(name), f"{self._join(name)}.{uuid.uuid4().hex[:8]}.tmp"
        with self.write_errors():
            self.filesystem.create_dir(self.path, recursive=True)
            if not self.is_local:
                # An object store shows an object when its stream is closed, which also happens after an error.
                with self.filesystem.open_output_stream(target) as stream:
                    yield stream
                return
            try:
                with open(temporary, "wb") as file:
                    yield file
                    # Without it, a power failure may keep the name and lose the contents.
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, target)
            finally:
                if os.path.exists(temporary):
                    os.unlink(temporary)

    @contextmanager
    def write_errors(self) -> Iterator[None]:
        """Raise NotWritable for the OS errors that mean that this folder cannot be written."""
        try:
            yield
        except OSError as error:
            if error.errno not in NOT_WRITABLE:
                raise
            reason = os.strerror(error.errno or 0)
            raise NotWritable(
                f"storage {self} cannot be written: {reason}", "free space, or set storage to another folder"
            ) from None

    def delete(self, name: str = "") -> None:
        """Delete a file or a folder with its contents, if it exists."""
        kind = self.filesystem.get_file_info(self._join(name)).type
        if kind == fs.FileType.Directory:
            self.filesystem.delete_dir(self._join(name))
        elif kind == fs.FileType.File:
            self.filesystem.delete_file(self._join(name))

    def _join(self, name: str) -> str:
        return f"{self.path}/{name}" if name else self.path
