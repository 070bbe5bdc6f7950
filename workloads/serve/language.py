"""Generates text with a language model, a token at a time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from heliostat.datasets.sources import text
from heliostat.workloads.export.loader import Model
from heliostat.workloads.serve.engine import Arrays
from heliostat.workloads.task import Task

LONGEST = 4096
"""Tokens that a model sees at most, where nothing else says it: attention takes the square of it in memory."""


@dataclass(frozen=True)
class Language:
    """What a language model reads and writes.

    Args:
        encode: a text -> its tokens, at least one.
        decode: tokens -> their text.
        context: tokens that the model sees, the last ones.
        vocabulary: how many tokens there are.
        end: the token after which a text ends, if there is one.
        counted: whether the model takes the number of tokens, too.
    """

    encode: Callable[[str], Sequence[int]]
    decode: Callable[[Sequence[int]], str]
    context: int
    vocabulary: int
    end: int | None = None
    counted: bool = False

    def arrays(self, tokens: Sequence[int]) -> Arrays:
        """The last tokens as one row of the model's input."""
        seen = np.array([tokens[-self.context :]], np.int64)
        return {"tokens": seen, **({"count": np.array([seen.shape[1]])} if self.counted else {})}


def of_run(task: Task, model: Any) -> Language:
    """The language model of a run; ``task`` is one with a tokenizer."""
    tokenizer = getattr(task, "tokenizer", None)
    if tokenizer is None:
        length = task.index.fields["tokens"].shape[0] - 1
        return _of_meta(task.index.meta, length)
    config = getattr(model, "config", None)
    return Language(
        lambda value: tokenizer(value, verbose=False)["input_ids"],
        lambda tokens: str(tokenizer.decode(tokens, skip_special_tokens=True)),
        min(getattr(config, "max_position_embeddings", None) or LONGEST, LONGEST),
        len(tokenizer),
        tokenizer.eos_token_id,
        counted=True,
    )


def of_export(model: Model) -> Language:
    """The language model of an exported folder."""
    return _of_meta(model.signature, model.signature.get("context", LONGEST))


def _of_meta(meta: Mapping[str, Any], context: int) -> Language:
    tokenizer: str = meta["tokenizer"]
    return Language(
        lambda value: text.encode(value, tokenizer), lambda tokens: text.decode([*tokens], tokenizer), context,
        int(meta["vocabulary"]),
    )  # fmt: skip


COLD = 1e-5
"""A temperature below which the most probable token is taken: logits that are divided by it are infinite."""


class Sampler:
    """Chooses the next token, as `generate` of the bundled language model does.

    Args:
        temperature: 0 and less than `COLD` take the most probable token.
        top_p: of the most probable tokens, those that together have this share (nucleus sampling, Holtzman et al. 2020).
        seed: of the random numbers; None for other ones each time.
    """

    def __init__(self, temperature: float, top_p: float, seed: int | None) -> None:
        self._temperature, self._top_p = temperature, top_p
        self._random = torch.Generator()
        if seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(seed)

    def __call__(self, logits: npt.NDArray[Any]) -> int:
        """The token for ``logits`` (vocabulary,)."""
        values = torch.from_numpy(logits).float()
        if self._temperature < COLD:
            return int(values.argmax())
        shares = (values[None] / self._temperature).softmax(-1)
        if self._top_p < 1:
            ordered, places = shares.sort(descending=True)
            ordered[ordered.cumsum(-1) - ordered >= self._top_p] = 0
            shares = torch.zeros_like(shares).scatter(-1, places, ordered)
        return int(torch.multinomial(shares, 1, generator=self._random))
