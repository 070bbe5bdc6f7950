"""A table of texts as the tokens of a pretrained model from a local folder; transformers, an extra, has its tokenizer."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from heliostat.datasets.sources import Problems
from heliostat.datasets.sources.own import Source
from heliostat.datasets.sources.reader import Reader
from heliostat.errors import UserError

FILES = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "vocab.json",
    "merges.txt", "tokenizer.model", "spiece.model", "added_tokens.json",
)  # fmt: skip
"""What a folder has beside the weights, as far as it is there."""
SHOWN = 10
"""Problems that a message lists."""


class Tokenized(Source):
    """The rows of csv, JSON or Parquet files that have a text, and perhaps a label, as tokens of one length.

    Without ``label``, for a language model, a longer text becomes several samples; else it is cut.
    """

    def __init__(self, path: str, pretrained: str, text: str = "text", label: str | None = None, length: int = 128) -> None:
        self.path, self.text, self.label, self.length = path, text, label, length
        folder = Path(pretrained).expanduser()
        self.kept = [place for name in FILES if (place := folder / name).is_file()]
        if not (folder / "config.json").is_file():
            raise UserError(
                f"dataset.options.pretrained is {pretrained!r}, but there is no file {folder.absolute() / 'config.json'}",
                "give a folder that save_pretrained of transformers has written, with the tokenizer",
            )
        files = {place.name: place.read_bytes().hex() for place in self.kept}
        self.meta = {"files": files, "length": length, "text": text}

    def files(self) -> list[Path]:
        return self.kept

    def rows(self) -> Iterator[dict[str, Any]]:
        reader, wanted = Reader(self.path), [self.text, *filter(None, [self.label])]
        if lacking := [name for name in wanted if name not in reader.names]:
            raise UserError(
                f"{self.path} has no column {' and no column '.join(map(repr, lacking))}",
                f"name one of {', '.join(reader.names)} with dataset.options.text and .label",
            )
        tokenizer, problems, number = tokenizer_of(self.meta), Problems(self.path, SHOWN), 0
        for batch in reader.batches(wanted):
            columns = [batch[name].to_pylist() for name in wanted]
            for values in zip(*columns, strict=True):
                number += 1
                if lacking := [name for name, value in zip(wanted, values, strict=True) if value in (None, "")]:
                    problems.add(f"row {number} has no {' and no '.join(lacking)}", "leave such rows out")
                    continue
                label = {} if self.label is None else {"label": str(values[1])}
                for piece in self._pieces(tokenizer, str(values[0])):
                    yield {**padded(tokenizer, [piece], self.length, one=True), **label}
        problems.refuse()

    def _pieces(self, tokenizer: Any, text: str) -> list[list[int]]:
        if self.label is not None:
            return [tokens_of(tokenizer, text, self.length)]
        tokens = tokens_of(tokenizer, text)
        pieces = [tokens[at : at + self.length] for at in range(0, len(tokens), self.length)]
        return [piece for piece in pieces if len(piece) > 1]  # of one token, nothing is predicted


def tokens_of(tokenizer: Any, text: str, length: int | None = None) -> list[int]:
    """A text as tokens, cut to a length if one is given."""
    found: list[int] = tokenizer(text, truncation=length is not None, max_length=length, verbose=False)["input_ids"]
    return found


def padded(tokenizer: Any, pieces: Sequence[list[int]], length: int, one: bool = False) -> dict[str, npt.NDArray[np.int64]]:
    """``tokens`` (samples, length), padded on the right, and their ``count`` (samples,) without padding; or of one sample."""
    tokens = np.full((len(pieces), length), padding_of(tokenizer), np.int64)
    for row, piece in zip(tokens, pieces, strict=True):
        row[: len(piece)] = piece
    found = {"tokens": tokens, "count": np.array([len(piece) for piece in pieces], np.int64)}
    return {name: values[0] for name, values in found.items()} if one else found


def padding_of(tokenizer: Any) -> int:
    """The token that fills up samples; where a tokenizer has none, as GPT-2's, the one that ends texts."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return int(next(each for each in known if each is not None))


def tokenizer_of(meta: Mapping[str, Any]) -> Any:
    """The tokenizer whose files are kept with the dataset.

    Raises:
        UserError: transformers is not installed.
    """
    return _tokenizer(tuple(sorted(meta["files"].items())))


@lru_cache(maxsize=2)
def _tokenizer(files: tuple[tuple[str, str], ...]) -> Any:
    try:
        import transformers
    except ModuleNotFoundError:
        raise UserError(
            "the tokens of a pretrained model need transformers, which is not installed",
            "pip install 'heliostat[transformers]'; for a cluster also write requirements: [transformers, peft]",
        ) from None
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files:
            Path(folder, name).write_bytes(bytes.fromhex(data))
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
