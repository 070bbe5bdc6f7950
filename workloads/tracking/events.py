"""TensorBoard's event files: the records of a file, and the few protocol buffers in them.

The formats are TensorFlow's `record_writer.h`, `event.proto`, `summary.proto` and TensorBoard's `hparams/plugin_data.proto`.
They are written here because tensorboardX, which Ray brings, imports torch: seconds and 300 MB for a file of numbers.
"""

import struct
from collections.abc import Iterable, Mapping
from typing import Any

START = 1
"""`SessionLog.START`: what was read before of this run, from its step on, does not count any more."""
STRING = 7
"""`DT_STRING`."""
SUCCESS, FAILURE = 1, 2
"""`hparams.Status`."""


def _table() -> list[int]:
    """Of the CRC-32C (RFC 3720), by byte."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


TABLE = _table()


def record(data: bytes) -> bytes:
    """A record of a file: length, checksum of the length, data, checksum of the data."""
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def _checksum(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def message(fields: Iterable[tuple[int, Any]]) -> bytes:
    """A protocol buffer of fields, each with its number: int, float (a double), text, bytes, or an inner message as bytes."""
    return b"".join(_field(number, value) for number, value in fields)


def _field(number: int, value: Any) -> bytes:
    if isinstance(value, bool | int):
        return _varint(number << 3) + _varint(value & 0xFFFFFFFFFFFFFFFF)
    if isinstance(value, float):
        return _varint(number << 3 | 1) + struct.pack("<d", value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)


def version(time: float) -> bytes:
    """The first event of a file."""
    return record(message([(1, time), (3, "brain.Event:2")]))


def restart(time: float) -> bytes:
    """The event after which all that was read before of the run, from step 0 on, is dropped."""
    return record(message([(1, time), (2, 0), (7, message([(1, START)]))]))


def scalars(time: float, step: int, values: Mapping[str, float]) -> bytes:
    """An event with the values of a step."""
    found = [message([(1, name)]) + _varint(2 << 3 | 5) + struct.pack("<f", value) for name, value in values.items()]
    return _summary(time, found, step)


def text(time: float, name: str, content: str) -> bytes:
    """An event with a text, which may be Markdown."""
    tensor = message([(1, STRING), (2, b""), (8, content)])
    return _summary(time, [message([(1, name), (9, _plugin("text", b"")), (8, tensor)])])


def started(time: float, name: str, params: Mapping[str, Any]) -> bytes:
    """An event with the hyperparameters of a trial."""
    entries = [(1, message([(1, key), (2, _value(value))])) for key, value in params.items()]
    return _hparams(time, "session_start_info", 3, [*entries, (4, name), (5, time)])


def ended(time: float, good: bool) -> bytes:
    """An event with the end of a trial."""
    return _hparams(time, "session_end_info", 4, [(1, SUCCESS if good else FAILURE), (2, time)])


def _value(value: Any) -> bytes:
    """A `google.protobuf.Value`."""
    if isinstance(value, bool):
        return message([(4, value)])
    return message([(2, float(value))] if isinstance(value, int | float) else [(3, str(value))])


def _hparams(time: float, name: str, number: int, fields: Iterable[tuple[int, Any]]) -> bytes:
    content = message([(1, 0), (number, message(fields))])
    return _summary(time, [message([(1, f"_hparams_/{name}"), (9, _plugin("hparams", content))])])


def _plugin(name: str, content: bytes) -> bytes:
    return message([(1, message([(1, name), (2, content)]))])


def _summary(time: float, values: Iterable[bytes], step: int = 0) -> bytes:
    return record(message([(1, time), (2, step), (5, message((1, value) for value in values))]))
