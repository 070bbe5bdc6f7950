"""The journals of the runs that are looked at: what was read before is not read again, and the ends of log files."""

import json
from collections import OrderedDict

from heliostat.folder import Folder
from heliostat.workloads.run.chunks import Record, file_of, numbers_in, parse

MOST = 48
"""Files whose records are kept: those of twelve runs, as many as are compared, are 36."""
TAIL = 256 << 10
"""Bytes of a file of output that are read, from its end."""


class Records:
    """Reads journals; of one that has grown, only what is new is parsed."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[bytes, list[Record]]] = OrderedDict()

    def read(self, folder: Folder, name: str) -> list[Record]:
        """All records of a journal, as `heliostat.workloads.run.journal.read_journal` has them."""
        numbers = numbers_in(folder.names(), name)
        return [record for number in numbers for record in self._file(folder, file_of(name, number))]

    def _file(self, folder: Folder, file: str) -> list[Record]:
        try:
            data = folder.read(file)
        except FileNotFoundError:  # deleted meanwhile, as a resumed run does
            return []
        whole = data[: data.rfind(b"\n") + 1]
        place = f"{folder}/{file}"
        before, records = self._kept.pop(place, (b"", []))
        grown = whole.startswith(before)
        records = [*records, *_records(whole[len(before) :])] if grown else _records(whole)
        self._kept[place] = whole, records
        while len(self._kept) > MOST:
            self._kept.popitem(last=False)
        return records


def _records(data: bytes) -> list[Record]:
    return [{key: value for key, value in json.loads(line).items() if key != "crc"} for line in parse(data).lines]


def end_of(folder: Folder, name: str) -> list[bytes]:
    """The last complete lines of a file, of at most `TAIL` bytes."""
    with folder.filesystem.open_input_file(f"{folder.path}/{name}") as file:
        size = file.size()
        file.seek(max(0, size - TAIL))
        data = file.read()
    lines: list[bytes] = data.splitlines()
    return lines[1:] if size > TAIL else lines
