"""Which encoding a text file has."""

import codecs
import re
from collections.abc import Iterable

BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
ASCII = bytes(range(128))
SEQUENCE = re.compile(rb"[\xc3-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}")
"""A letter in UTF-8, of which a text in another encoding has none."""
RUN = re.compile(rb"[\xc0-\xff]{3}")
"""In Western and Central European languages no three letters in a row are none of ASCII; in others most are."""


def _same() -> frozenset[int]:
    """The bytes that are the same letter or sign in the Western (cp1252) and the Central European (cp1250) encoding.

    Of the signs, only those that are no letters in the encodings of DOS.
    """
    both = {byte for byte in range(0xC0, 0x100) if bytes([byte]).decode("cp1252") == bytes([byte]).decode("cp1250")}
    return frozenset(both | set("€§°".encode("cp1252")))


SAME = _same()


def find(start: bytes, is_all: bool) -> str | None:
    """The encoding by the start of a file: one of Unicode; None if it is none of them."""
    for bom, name in BOMS:
        if start.startswith(bom):
            return name
    pairs = start[: len(start) // 2 * 2]
    for name, zeros, others in (("utf-16-le", pairs[1::2], pairs[::2]), ("utf-16-be", pairs[::2], pairs[1::2])):
        if len(pairs) > 2 and zeros.count(0) > 0.3 * len(zeros) and not others.count(0):
            return name
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start, final=is_all)
    except UnicodeDecodeError:
        return None
    return "utf-8"


def is_western(blocks: Iterable[bytes]) -> bool:
    """Whether a text is sure to be cp1252: each of its bytes is the same letter or sign in cp1250."""
    found: set[int] = set()
    for block in blocks:
        found |= set(block.translate(None, ASCII))
        if not found <= SAME or SEQUENCE.search(block) or RUN.search(block):
            return False
    return True
