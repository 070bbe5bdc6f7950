"""What a file is: by its first bytes, and, where these are those of any text, by its name."""

from heliostat.datasets.sources.files import File
from heliostat.datasets.sources.formats.refusal import Refusal
from heliostat.datasets.sources.formats.streams import Bytes

PARQUET = (".parquet", ".pq", ".parq")
CSV = (".csv", ".tsv", ".txt", ".tab", ".data", ".dat")
JSON = (".json", ".jsonl", ".ndjson")
COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")
SAVE = "save it as csv or Parquet"
FOREIGN = {
    b"PK\x03\x04": ("a zip archive or an Excel file", "unpack it, or save its sheet as csv"),
    b"\xd0\xcf\x11\xe0": ("an old Excel file", "save its sheet as csv"),
    b"ARROW1": ("an Arrow or Feather file", "save it as Parquet"),
    b"ORC": ("an ORC file", "save it as Parquet"),
    b"Obj\x01": ("an Avro file", "save it as Parquet"),
    b"\x89HDF": ("an HDF5 file", SAVE),
    b"SQLite format 3": ("a SQLite database", "save the table as csv or Parquet"),
    b"\x80\x04\x95": ("a Python pickle", SAVE),
    b"\x93NUMPY": ("a NumPy file", SAVE),
    b"%PDF": ("a PDF file", SAVE),
    b"\x89PNG": ("an image", "give a table, or use the source images"),
    b"\xff\xd8\xff": ("an image", "give a table, or use the source images"),
    b"<!doctype": ("a web page, perhaps of an error", "download the file itself"),
    b"<html": ("a web page, perhaps of an error", "download the file itself"),
    b"<?xml": ("an XML file", SAVE),
    b"version https://git-lfs": ("a pointer of Git LFS, not the file", "run git lfs pull"),
    b"@relation": ("an ARFF file", "save it as csv"),
}
"""How files begin that are no tables, what they are, and what to do."""


def kind(file: File) -> str:
    """``parquet``, ``json`` or ``csv``.

    Raises:
        Refusal: it is something else.
    """
    name = file.name.lower()
    start = file.start(32)
    if start.startswith(b"PAR1"):
        return "parquet"
    for magic, (what, fix) in FOREIGN.items():
        if start.lstrip(b"\xef\xbb\xbf \r\n").lower().startswith(magic.lower()):
            raise Refusal((f"is {what}", fix))
    if not start:
        raise Refusal(("is empty", "give a table with a row per sample"))
    if name.endswith(PARQUET):
        raise Refusal(("is not a Parquet file, or was cut off at its beginning", "write it again, or correct its name"))
    stream = Bytes(file)
    text = stream.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    stream.close()
    if stem(name).endswith(JSON):
        if text and text[:1] not in b"{[" and b"\0" not in text:
            raise Refusal(("has no JSON in it", "write a record per line, or one array of records; or name it .csv"))
        return "json"
    if text.startswith((b'{"', b"[{", b'{ "', b"[\n")):
        if stem(name).endswith(CSV):
            raise Refusal(("has JSON in it", "name it .jsonl or .json"))
        return "json"
    return "csv"


def is_table(name: str) -> bool:
    """Whether a file in a folder is one of the table, by its name."""
    return stem(name.lower()).endswith((*PARQUET, *CSV, *JSON))


def stem(name: str) -> str:
    """A name without the ending of a compressed file."""
    return next((name.removesuffix(ending) for ending in COMPRESSED if name.endswith(ending)), name)
