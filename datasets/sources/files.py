"""The files of a source, and what identifies their content."""

import glob
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import xxhash
from pyarrow import fs

from heliostat.config import digest
from heliostat.errors import UserError
from heliostat.folder import Folder, expanded

HASHED = 64 << 20
"""Bytes of a source whose identity is the hash of its content."""
PIECE = 1 << 20
SETTLED = 1_000_000_000
"""Nanoseconds after which a change of a file has another time than the one before."""
SHOWN = 10
"""Files that a message lists."""
LOCAL = fs.LocalFileSystem()


@dataclass(frozen=True)
class File:
    """A file on any filesystem; ``times`` are those of its last modification and, on a local one, of its last change (ns)."""

    filesystem: fs.FileSystem
    path: str
    name: str
    """Its path in the source."""
    size: int
    times: tuple[int, ...]
    part: str | None = None
    """The split whose samples it has, if it is for one alone."""

    @classmethod
    def local(cls, path: str | Path, name: str) -> "File":
        found = os.stat(path)
        # Any write changes st_ctime_ns, also one that restores the time of modification.
        return cls(LOCAL, os.path.abspath(path), name, found.st_size, (found.st_mtime_ns, found.st_ctime_ns))

    def start(self, size: int) -> bytes:
        """The first bytes."""
        with self.filesystem.open_input_stream(self.path, compression=None) as file:
            return bytes(file.read(size))

    def content(self) -> str:
        """The hash of the content; a file that has not changed is read once in a process."""
        settled = time.time_ns() - max(self.times) > SETTLED
        return _hash(self) if settled else _hash.__wrapped__(self)

    def __hash__(self) -> int:
        return hash((self.path, self.size, self.times))


def identity(files: Iterable[File]) -> str:
    """What changes whenever the content of a file does, or there is another file, without a read of much.

    Of files of up to `HASHED` bytes in all it is a hash of their names and contents, so that copies, as in the working
    directory of a job, are the same. Of larger ones it is one of their paths, sizes and times.
    """
    files = list(files)
    if sum(file.size for file in files) <= HASHED:
        return digest([(file.name, file.content()) for file in files])
    return digest([(file.path, file.size, *file.times) for file in files])


@lru_cache(maxsize=100_000)
def _hash(file: File) -> str:
    total = xxhash.xxh3_128()
    with file.filesystem.open_input_stream(file.path, compression=None) as stream:
        while piece := stream.read(PIECE):
            total.update(piece)
    return total.hexdigest()


def local_folder(place: str, fix: str) -> Path:
    """The folder that an option ``path`` names.

    Raises:
        UserError: it is not one on this machine.
    """
    path = expanded(place, key="dataset.options.path")
    if "://" in path:
        raise UserError(
            f"dataset.options.path {place} is a URI, and only tables are read from there",
            "copy the files to a folder that this machine has, such as a mounted one",
        )
    if not os.path.isdir(path):
        raise UserError(f"dataset.options.path {place} is not a folder", fix)
    return Path(path)


def table_files(place: str, key: str = "dataset.options.path") -> list[File]:
    """The files of a table: a file, those of a folder or of those below it, or those that match a pattern; a path or a URI.

    As in Spark and Arrow, names that begin with a dot or an underscore are left out.

    Args:
        place: as it is written.
        key: what it is called in messages.

    Raises:
        UserError: there are none.
    """
    path = expanded(place, key=key)
    folder = Folder.at(path)
    try:
        kind = folder.filesystem.get_file_info(folder.path).type
    except OSError as error:
        raise UserError(f"{key} {place} cannot be read: {error}", "check the path and the rights") from None
    if kind == fs.FileType.Directory:
        found = _below(folder)
    elif kind == fs.FileType.File:
        found = [_file(folder, folder.path, folder.name)]
    elif glob.has_magic(path) and folder.is_local:
        found = [
            file for each in sorted(glob.glob(folder.path, recursive=True)) for file in _matching(each, _fixed(folder.path))
        ]
    else:
        raise UserError(f"{key} {place} does not exist", "give the path of a csv, JSON or Parquet file or folder")
    if not found:
        what = "matches no file" if glob.has_magic(path) else "is a folder without files"
        raise UserError(f"{key} {place} {what}", "give the path of csv, JSON or Parquet files")
    return found


def files_below(path: str) -> list[File]:
    """The files of a folder and of those below it, or a file alone; none if there is neither."""
    folder = Folder.at(path)
    kind = folder.filesystem.get_file_info(folder.path).type
    if kind == fs.FileType.Directory:
        return _below(folder)
    return [_file(folder, folder.path, folder.name)] if kind == fs.FileType.File else []


def _fixed(pattern: str) -> str:
    """The folder in which a pattern begins."""
    folder = os.path.dirname(pattern)
    return _fixed(folder) if glob.has_magic(folder) else folder


def _matching(path: str, folder: str) -> list[File]:
    """The files of a match of a pattern, with names from the folder in which the pattern begins."""
    files = _below(Folder.at(path)) if os.path.isdir(path) else [_file(Folder.at(folder), path, "")]
    return [replace(file, name=os.path.relpath(file.path, folder)) for file in files]


def _below(folder: Folder) -> list[File]:
    if folder.is_local:
        root = os.path.realpath(folder.path)
        return [_file(folder, path, name) for name, path in sorted(_walk(folder.path, "", (root,)))]
    infos = folder.filesystem.get_file_info(fs.FileSelector(folder.path, recursive=True))
    named = sorted((info.path[len(folder.path) + 1 :], info) for info in infos if info.is_file)
    return [
        File(folder.filesystem, info.path, name, info.size, (info.mtime_ns or 0,))
        for name, info in named
        if all(map(_is_visible, name.split("/")))
    ]


def _walk(folder: str, name: str, above: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """The names and paths of the files below a folder; ``above`` are real paths, to which a link would lead on forever."""
    for entry in filter(_is_visible, os.listdir(folder)):
        path, below = f"{folder}/{entry}", f"{name}/{entry}" if name else entry
        if not os.path.isdir(path):
            yield below, path
        elif (real := os.path.realpath(path)) not in above:
            yield from _walk(path, below, (*above, real))


def _file(folder: Folder, path: str, name: str) -> File:
    if folder.is_local:
        try:
            return File.local(path, name)
        except FileNotFoundError:
            raise UserError(f"{path} is a link to a file that does not exist", "restore the file, or remove the link") from None
    info = folder.filesystem.get_file_info(path)
    return File(folder.filesystem, path, name, info.size, (info.mtime_ns or 0,))


def _is_visible(name: str) -> bool:
    return not name.startswith((".", "_"))
