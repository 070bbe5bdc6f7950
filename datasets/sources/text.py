"""Text files of a folder as sequences of tokens: bytes, or byte-pair encoding."""

import hashlib
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field as Key

from heliostat.config import Config
from heliostat.datasets.sources import Chunk, Source, hashes_of
from heliostat.datasets.sources.files import File, local_folder
from heliostat.datasets.sources.tokens import TokenOptions, Tokens
from heliostat.errors import UserError, some

SHOWN = 10
"""Files that a message lists."""


class Text(Source):
    """Column ``tokens``, see `Tokens`. A file is in one split as a whole."""

    name = "text"

    class Options(Config):
        path: str = Key(description="the folder that holds the text files")
        pattern: str = Key("**/*", description="which files in it, as a glob, such as **/*.txt")
        tokens: Literal["byte", "bpe"] = Key("byte", description="byte or bpe")
        vocabulary: int = Key(2048, ge=257, le=65536, description="the tokens that bpe learns, from 257 to 65536")
        length: int = Key(128, ge=2, description="tokens in a sequence, at least 2")

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._root = local_folder(options.path, "give a folder of text files")
        try:
            self._files = self._found()
        except (NotImplementedError, ValueError, IndexError) as error:
            raise UserError(f"dataset.options.pattern {options.pattern!r}: {error}", "write it like **/*.txt") from None
        if not self._files:
            raise UserError(f"{options.path} has no file that matches {options.pattern!r}", "check dataset.options.pattern")
        self._tokens = Tokens(options)
        self.fields = self._tokens.fields

    def chunks(self) -> Iterator[Chunk]:
        if self._tokens.learns:
            self._tokens.learn(self._read(path) for path in self._reported(f"learning the tokens of {self._root}"))
        self._tokens.begin()
        for path in self._reported(f"reading {self._root}"):
            text = self._read(path)
            sequences = self._tokens.sequences(text)
            if len(sequences):
                yield Chunk(np.repeat(hashes_of([key_of(text)]), len(sequences)), {"tokens": sequences})
        self._tokens.check("files")

    def meta(self) -> dict[str, Any]:
        return self._tokens.meta("files")

    def files(self) -> list[File]:
        return [File.local(path, str(path.relative_to(self._root))) for path in self._found()]

    def _found(self) -> list[Path]:
        return [path for path in sorted(self._root.glob(self.options.pattern)) if self._wanted(path)]

    def _wanted(self, path: Path) -> bool:
        return path.is_file()

    def _reported(self, doing: str) -> Iterator[Path]:
        """The files, each of which is reported as progress."""
        for number, path in enumerate(self._files):
            self.progress(doing, number, len(self._files), "files")
            yield path

    def _read(self, path: Path) -> str:
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise self.changed() from None
        except UnicodeDecodeError:
            raise self._not_texts(self._files[self._files.index(path) :]) from None

    def _not_texts(self, files: list[Path]) -> UserError:
        """An error with all of these files that are not UTF-8."""
        bad = [str(path) for path in files if not _is_utf8(path)]
        return UserError(f"no UTF-8 text: {some(bad, SHOWN)}", "convert them, or narrow dataset.options.pattern")


def key_of(text: str) -> bytes:
    """What the split of a text is determined by."""
    return hashlib.sha256(text.encode()).digest()


def _is_utf8(path: Path) -> bool:
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False
    return True


class PythonStdlib(Text):
    """The source code of Python's standard library, without its tests."""

    name = "python-stdlib"
    LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"}

    class Options(TokenOptions):
        pass

    def __init__(self, options: Any) -> None:
        super().__init__(Text.Options(path=sysconfig.get_paths()["stdlib"], pattern="**/*.py", **options.model_dump()))

    def description(self) -> dict[str, Any]:
        # Without the path: the same library in another folder is the same source.
        return {"name": self.name, **self.options.model_dump(mode="json", exclude={"path", "pattern"})}

    def _wanted(self, path: Path) -> bool:
        return super()._wanted(path) and not self.LEFT_OUT & set(path.relative_to(self._root).parts)


def decode(tokens: list[int], tokenizer: str) -> str:
    """Decode tokens with the tokenizer in the dataset's ``meta``."""
    if tokenizer == "byte":
        return bytes(tokens).decode(errors="replace")
    return str(_load(tokenizer).decode(tokens))


def encode(text: str, tokenizer: str) -> list[int]:
    """Encode text with the tokenizer in the dataset's ``meta``."""
    return list(text.encode()) if tokenizer == "byte" else list(_load(tokenizer).encode(text).ids)


@lru_cache(maxsize=2)
def _load(tokenizer: str) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(tokenizer)
