"""A folder on any filesystem that pyarrow supports: a local path, s3://, gs://, hdfs://."""

import errno
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

import pyarrow as pa
from pyarrow import fs

from heliostat.environment import IN_A_JOB, STORAGE
from heliostat.errors import NoSpace, NotWritable, StorageUnavailable, UserError
from heliostat.retry import TIMEOUT, is_permanent, notice, reason, with_retry

T = TypeVar("T")
FULL, DENIED = {errno.ENOSPC, errno.EDQUOT}, {errno.EACCES, errno.EPERM}
S3_ATTEMPTS = 3
"""The attempts of each request within pyarrow; those of `heliostat.retry` follow."""
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


VARIABLE = re.compile(r"\$(?:(?P<plain>[A-Za-z_]\w*)|\{(?P<braced>[^}]*)\})")


def expanded(place: str, variables: Mapping[str, str] | None = None, key: str = "the path") -> str:
    """A path or URI of a config with its variables (``$DATA``, ``${DATA}``) replaced; ``file://`` and ``~`` become a path.

    A path that exists as it is written is not changed.

    Args:
        place: as it is written.
        variables: their values; by default the environment's.
        key: of the config, for messages.

    Raises:
        UserError: a variable is not set; it is not ``$NAME`` or ``${NAME}``; or ``file://`` names another host.
    """
    values = os.environ if variables is None else variables
    if "$" in place and not os.path.exists(place):
        found = [match["plain"] or match["braced"] for match in VARIABLE.finditer(place)]
        if odd := [name for name in found if not re.fullmatch(r"[A-Za-z_]\w*", name or "")]:
            raise UserError(f"{key} is {place}, but ${{{odd[0]}}} is no variable", "write ${NAME}, or the path itself")
        if unset := [f"${name}" for name in found if not values.get(name)]:
            where = "here" if variables is None else "for the job"
            fix = "export it" if variables is None else "add it to env in the profile, or give it with --env NAME"
            raise UserError(
                f"{key} is {place}, but {' and '.join(unset)} is not set {where}", f"{fix}, or write the path itself"
            )
        place = VARIABLE.sub(lambda match: values[match["plain"] or match["braced"]], place)
    if place.lower().startswith("file:"):
        parts = urlsplit(place)
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise UserError(f"{key} is {place}, which is not the URI of a local file", "write file:///PATH, or the path itself")
        return unquote(parts.path)
    return place if "://" in place else os.path.expanduser(place)


def absolute(place: str, base: str | Path) -> str:
    """An absolute path, relative to ``base`` (a path or a URI) and with ``~`` expanded; a URI unchanged."""
    if "://" in place:
        return place
    if "://" in str(base) and not os.path.isabs(os.path.expanduser(place)):
        return join(str(base), os.path.normpath(place))
    return os.path.abspath(os.path.join(base, os.path.expanduser(place)))


def _unavailable(storage: str, error: OSError, seconds: float) -> StorageUnavailable:
    return StorageUnavailable(
        f"storage {storage} did not respond for {seconds:g} s: {reason(error)}",
        "give the same command when it responds again; a run or a sweep resumes",
    )


def _open(uri: str) -> tuple[fs.FileSystem, str]:
    filesystem, path = fs.FileSystem.from_uri(uri)
    if filesystem.type_name == "s3":
        # Without it, each call retries for 6 s, or for 99 s if the store accepts and does not answer (pyarrow 26), in which the
        # user would see nothing. A URI cannot say so, so this is a copy as pickle makes it.
        copy, (options,) = filesystem.__reduce__()
        filesystem = copy({**options, "retry_strategy": fs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS)})
    return filesystem, path


@dataclass(frozen=True)
class Folder:
    """Reads and writes whole files atomically; the only way to a storage.

    Each operation waits for a storage that is unavailable, and says so, see `heliostat.retry`.

    Args:
        filesystem: of pyarrow.
        path: in it.
        patience: how many seconds an operation waits, see `at`; 0 is one attempt, which raises OSError or NotWritable.
        full_is_temporary: whether it also waits for space on a full disk.

    Raises:
        UserError: of every operation: access is denied, or the bucket does not exist.
        StorageUnavailable: of every operation: the storage did not respond for ``patience`` seconds.
    """

    filesystem: fs.FileSystem
    path: str
    patience: float = 0.0
    full_is_temporary: bool = False

    @classmethod
    def at(cls, uri: str | Path, patience: float = TIMEOUT) -> "Folder":
        """The folder at a URI or a local path, which need not exist.

        Raises:
            UserError: the URI names a filesystem that pyarrow does not know.
            StorageUnavailable: it asks the store for the bucket's region, and that does not respond.
        """
        text = str(uri)
        if "\0" in text:
            raise UserError(f"{text!r} is not a path: it contains a null character", "give a path or a URI")
        if "://" not in text:
            return cls(fs.LocalFileSystem(), absolute(text, Path.cwd()), patience)
        address = urlsplit(text)
        shown = urlunsplit(address._replace(netloc=address.netloc.rpartition("@")[2]))  # without keys
        try:
            # It may ask the store, for the bucket's region.
            filesystem, path = with_retry(
                lambda: _open(text),
                lambda error: notice(shown, f"{shown}: {error}", patience),
                patience,
                lambda error: not is_permanent(error),
            )
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            if isinstance(error, OSError) and not is_permanent(error):
                raise _unavailable(shown, error, patience) from error
            raise UserError(f"{shown} cannot be opened: {error}", "use a path, s3:// or gs://") from None
        return cls(filesystem, path.rstrip("/"), patience)

    def __truediv__(self, name: str) -> "Folder":
        return replace(self, path=f"{self.path}/{name}")

    def __str__(self) -> str:
        return self.path if self.is_local else f"{self.filesystem.type_name}://{self.path}"

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, fs.LocalFileSystem)

    @property
    def once(self) -> "Folder":
        """The same folder, each of whose operations is one attempt: for those who try again themselves."""
        return replace(self, patience=0.0)

    def for_work(self, patience: float) -> "Folder":
        """The same folder for work in progress, which also waits for space on a full disk."""
        return replace(self, patience=patience, full_is_temporary=True)

    def retried(self, act: Callable[[], T]) -> T:
        """Returns ``act()``, which reads or writes below this folder by other means, and may be called again."""
        try:
            return with_retry(act, self.say_waiting, self.patience, self._is_temporary)
        except OSError as error:
            if self.patience and self._is_temporary(error):
                raise _unavailable(str(self), error, self.patience) from error
            if error.errno in DENIED or not (error.errno or self.is_local or self._is_temporary(error)):
                raise NotWritable(  # which work in progress retries: a permission may be given back
                    f"storage {self} cannot be used: {reason(error)}",
                    "correct the permissions" if self.is_local else "correct the URI, or the credentials in the environment",
                ) from None
            raise

    def say_waiting(self, error: str) -> None:
        """Says that an operation of this folder waits, and why: once in an outage."""
        whole = "" if self.is_local else f"{self.filesystem.type_name}://{self.path.split('/')[0]}"  # what is unavailable
        notice(whole, f"{self}: {error}", self.patience)

    @property
    def is_folder(self) -> bool:
        return bool(self._info("").type == fs.FileType.Directory)

    def exists(self, name: str = "") -> bool:
        return bool(self._info(name).type != fs.FileType.NotFound)

    def size(self, name: str) -> int:
        """The size of a file in bytes; 0 if it does not exist."""
        return int(self._info(name).size or 0)

    def names(self) -> list[str]:
        """The names of the files and folders in it, sorted; none if it does not exist."""
        try:
            return sorted(info.base_name for info in self._list())
        except NotADirectoryError:
            raise UserError(f"{self} is a file, but must be a folder", "give a folder") from None

    def stamps(self) -> dict[str, tuple[int, int]]:
        """The size and the modification time (ns) of each file in it, by name: what changes when a file is written again."""
        return {info.base_name: (info.size, info.mtime_ns or 0) for info in self._list() if info.is_file}

    def read(self, name: str) -> bytes:
        def attempt() -> bytes:
            with self.filesystem.open_input_stream(self._join(name)) as stream:
                return bytes(stream.read())

        return self.retried(attempt)

    def write(self, name: str, data: bytes) -> None:
        """Write a file atomically: it appears under its name when it is complete.

        Raises:
            NotWritable: no space, no permission, or a parent is not a folder.
        """

        def attempt() -> None:
            with self.writing(name) as file:
                file.write(data)

        self.retried(attempt)

    def create(self) -> None:
        """Create it and its parents, if they do not exist. It is one attempt.

        Raises:
            NotWritable: see `write`.
        """
        with self.write_errors(errno.ENOENT):  # such as in /proc
            self.filesystem.create_dir(self.path, recursive=True)

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """Open a file for writing; it appears under its name when the block ends without an error. It is one attempt.

        Raises:
            NotWritable: see `write`.
        """
        target, temporary = self._join(name), f"{self._join(name)}.{uuid.uuid4().hex[:8]}.tmp"
        self.create()
        with self.write_errors():
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
    def write_errors(self, *also: int) -> Iterator[None]:
        """Raise NotWritable for the OS errors that mean that this folder cannot be written."""
        try:
            yield
        except OSError as error:
            if error.errno not in (*NOT_WRITABLE, *also) and (error.errno or not is_permanent(error)):
                raise
            kind = NoSpace if error.errno in FULL else NotWritable
            why = os.strerror(error.errno) if error.errno else reason(error)
            fix = "free space, or set storage to another folder" if self.is_local else "correct storage, or the credentials"
            raise kind(f"storage {self} cannot be written: {why}", fix) from None

    def copy_from(self, other: "Folder") -> None:
        """Copy the files of another folder into this one, over those of the same names.

        Raises:
            NotWritable: see `write`.
        """

        def attempt() -> None:
            self.create()
            with self.write_errors():
                fs.copy_files(other.path, self.path, source_filesystem=other.filesystem, destination_filesystem=self.filesystem)

        self.retried(attempt)

    def delete(self, name: str = "") -> None:
        """Delete a file or a folder with its contents, if it exists.

        Raises:
            NotWritable: see `write`.
        """

        def attempt() -> None:
            # It may have been deleted by another process, or by an attempt before, whose answer was lost.
            with self.write_errors(), suppress(FileNotFoundError):
                kind = self.filesystem.get_file_info(self._join(name)).type
                if kind == fs.FileType.Directory:
                    self.filesystem.delete_dir(self._join(name))
                elif kind == fs.FileType.File:
                    self.filesystem.delete_file(self._join(name))

        self.retried(attempt)

    def _info(self, name: str) -> fs.FileInfo:
        return self.retried(lambda: self.filesystem.get_file_info(self._join(name)))

    def _list(self) -> list[fs.FileInfo]:
        return self.retried(lambda: list(self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))))

    def _is_temporary(self, error: BaseException) -> bool:
        if self.is_local and isinstance(error, OSError) and not error.errno:
            return False  # not the filesystem's, but ours about what was read
        return not is_permanent(error) and (self.full_is_temporary or not isinstance(error, NoSpace))

    def _join(self, name: str) -> str:
        return f"{self.path}/{name}" if name else self.path
