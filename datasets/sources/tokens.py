"""Texts as sequences of tokens, bytes or byte-pair encoding: of the files of a folder, or of a source of the user's own."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field as Key

from heliostat.config import Config
from heliostat.datasets.index import Field
from heliostat.errors import UserError


class TokenOptions(Config):
    """How texts become tokens."""

    tokens: Literal["byte", "bpe"] = Key("byte", description="byte or bpe")
    vocabulary: int = Key(2048, ge=257, le=65536, description="the tokens that bpe learns, from 257 to 65536")
    length: int = Key(128, ge=2, description="tokens in a sequence, at least 2")


class Tokens:
    """Sequences of ``length`` tokens that overlap by one, so that each token is predicted once.

    The last sequence of a text is shifted back so that it is complete; a text shorter than one is left out and counted.
    """

    def __init__(self, options: Any) -> None:
        self._options = options
        self._tokenizer: Any = None
        self._counts: Counter[int] = Counter()
        self._texts = self._left_out = 0

    @property
    def fields(self) -> dict[str, Field]:
        dtype = "uint16" if self._options.tokens == "bpe" else "uint8"
        return {"tokens": Field(dtype=dtype, shape=(self._options.length,))}

    @property
    def learns(self) -> bool:
        """Whether `learn` is needed."""
        return bool(self._options.tokens == "bpe")

    def learn(self, texts: Iterable[str]) -> None:
        """Learn the tokens from all texts, before any is encoded."""
        from tokenizers import ByteLevelBPETokenizer

        self._tokenizer = ByteLevelBPETokenizer()
        self._tokenizer.train_from_iterator(texts, vocab_size=self._options.vocabulary, show_progress=False)

    def begin(self) -> None:
        """Forget what was counted."""
        self._counts, self._texts, self._left_out = Counter(), 0, 0

    def sequences(self, text: str) -> npt.NDArray[Any]:
        """(sequences, length); none of a text that is too short."""
        length, tokens = self._options.length, self._encode(text)
        self._counts.update(dict(zip(*(part.tolist() for part in np.unique(tokens, return_counts=True)), strict=True)))
        self._texts += 1
        if len(tokens) < length:
            self._left_out += 1
            return np.empty((0, length), tokens.dtype)
        starts = np.arange(0, len(tokens) - 1, length - 1).clip(max=len(tokens) - length)
        found: npt.NDArray[Any] = np.lib.stride_tricks.sliding_window_view(tokens, length)[np.unique(starts)]
        return found

    def check(self, texts: str) -> None:
        """Raises a UserError if each text is too short."""
        if self._left_out == self._texts:
            raise UserError(
                f"dataset.options.length is {self._options.length}, but each of the {self._texts} {texts} has fewer tokens",
                "set it lower, or join texts",
            )

    def meta(self, texts: str) -> dict[str, Any]:
        """Metadata for the task and the report; ``texts`` is what they are called."""
        counts = np.array(list(self._counts.values()), np.float64)
        share = counts / counts.sum()
        return {
            "vocabulary": self._tokenizer.get_vocab_size() if self._tokenizer else 256,
            "tokenizer": self._tokenizer.to_str() if self._tokenizer else "byte",
            "tokens": int(counts.sum()),
            "unigram_entropy": float(-(share * np.log(share)).sum()),
            texts: self._texts,
            f"{texts}_left_out": self._left_out,
        }

    def _encode(self, text: str) -> npt.NDArray[Any]:
        if self._tokenizer is None:
            return np.frombuffer(text.encode(), np.uint8)
        return np.array(self._tokenizer.encode(text).ids, np.uint16)
