"""The files and the lines of a journal: one file on a filesystem, which can append, otherwise a sequence of chunks.

The first file has the journal's name, ``metrics.jsonl``, and the next ones are numbered: ``metrics.000001.jsonl``. A journal
without a name has its own folder, with ``000000.jsonl``, ``000001.jsonl`` and so on.
"""

import json
import re
import zlib
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from heliostat.errors import UserError
from heliostat.folder import Folder

Record = dict[str, Any]
SUFFIX = ".jsonl"
READERS = 8
"""Files that are read concurrently from an object store, where each takes a round trip."""


@dataclass
class Chunk:
    """One file of a journal."""

    number: int
    lines: list[bytes] = field(default_factory=list)
    """The records, each with its newline."""
    written: int = 0
    """How many of the lines are on storage."""
    damaged: list[int] = field(default_factory=list)
    """The numbers of the damaged lines, which are not in ``lines``."""
    torn: bool = False
    """Whether the file ends with an incomplete line, of an interrupted write, which is not in ``lines`` either."""


def file_of(name: str, number: int) -> str:
    """The name of a chunk's file."""
    if not name:
        return f"{number:06d}{SUFFIX}"
    return name if number == 0 else f"{name.removesuffix(SUFFIX)}.{number:06d}{SUFFIX}"


def numbers_in(names: Collection[str], name: str) -> list[int]:
    """The numbers of a journal's chunks among file names, in order."""
    numbered = re.compile((re.escape(name.removesuffix(SUFFIX)) + r"\." if name else "") + r"(\d{6})" + re.escape(SUFFIX))
    found = [int(match[1]) for file in names if (match := numbered.fullmatch(file))]
    return sorted(found + ([0] if name and name in names else []))


def read_chunks(folder: Folder, name: str, numbers: Iterable[int]) -> list[Chunk]:
    """Reads the chunks with these numbers; one that was deleted meanwhile is empty."""

    def read(number: int) -> Chunk:
        try:
            return parse(folder.read(file_of(name, number)), number)
        except FileNotFoundError:
            return Chunk(number)

    if folder.is_local:
        return [read(number) for number in numbers]
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(read, numbers))


def parse(data: bytes, number: int = 0) -> Chunk:
    """Parses the contents of a chunk's file."""
    *whole, rest = data.split(b"\n")
    chunk = Chunk(number, torn=bool(rest))
    for at, line in enumerate(whole, 1):
        if not _is_whole(line):
            chunk.damaged.append(at)
        else:
            chunk.lines.append(line + b"\n")
    chunk.written = len(chunk.lines)
    return chunk


def refuse_damage(folder: Folder, name: str, chunks: list[Chunk]) -> None:
    """Raises a UserError that names the first damaged line or missing file."""
    for expected, chunk in enumerate(chunks):
        if chunk.number != expected:
            raise UserError(
                f"{folder}/{file_of(name, expected)} is missing, but there are later files of this journal",
                "restore the file, or create an empty one, which discards its records",
            )
        torn = chunk.torn and chunk is not chunks[-1] and chunk.lines and b'"crc": ' in chunk.lines[-1]
        damaged = [*chunk.damaged, *([len(chunk.lines) + 1] if torn else [])]
        if damaged:
            raise UserError(
                f"{folder}/{file_of(name, chunk.number)} is damaged at line {damaged[0]}",
                "restore the file, or delete that line, which discards its record",
            )


def sealed(record: Record) -> bytes:
    """Encodes a record as a line, with its checksum."""
    text = json.dumps(record)
    return f'{text[:-1]}, "crc": {zlib.crc32(text.encode())}}}\n'.encode()


def _is_whole(line: bytes) -> bool:
    """Whether a line is a record; of one that is as `sealed` has written it, the checksum decides without decoding it."""
    record, _, crc = line.rpartition(b', "crc": ')
    return (crc.endswith(b"}") and crc[:-1].isdigit() and int(crc[:-1]) == zlib.crc32(record + b"}")) or unsealed(
        line
    ) is not None


def unsealed(line: bytes) -> Record | None:
    """Decodes a line to a record, or None if it is damaged; older versions wrote sweeps without a checksum."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    crc = record.pop("crc", None)
    return record if crc is None or crc == zlib.crc32(json.dumps(record).encode()) else None
