"""``/v1/models`` and ``/v1/completions``, as clients of OpenAI's call them; a stream is server-sent events."""

import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from heliostat.config import Config, validate
from heliostat.errors import UserError
from heliostat.workloads.serve.body import to_bytes
from heliostat.workloads.serve.engine import Compute, Engine
from heliostat.workloads.serve.language import LONGEST, Language, Sampler
from heliostat.workloads.serve.refusal import Refusal
from heliostat.workloads.serve.servable import Servable

Document = dict[str, Any]
Step = Callable[[list[int], Sampler], Any]
HALF = "\ufffd"
"""What a character is decoded to whose last bytes are not there yet."""
STOPS = 4
PROMPTS = 128


class Asked(Config):
    """The body of ``POST /v1/completions``. What a service does not have must have its default."""

    model: str
    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: int = Field(16, ge=1, le=LONGEST, description=f"tokens to generate, from 1 to {LONGEST}")
    temperature: float = Field(1.0, ge=0, le=2, description="0 for the most probable token, up to 2")
    top_p: float = Field(1.0, gt=0, le=1, description="a share above 0, up to 1")
    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description="a whole number of 64 bits, for the same answer again")
    stop: str | list[str] | None = Field(None, description=f"up to {STOPS} texts, before which the answer ends")
    stream: bool = Field(False, description="true for events, each with a piece of the text")
    stream_options: dict[str, bool] | None = Field(None, description="include_usage, for an event with the counts")
    echo: bool = Field(False, description="true begins the answer with the prompt")
    user: str | None = Field(None, description="not used")
    n: Literal[1] | None = Field(1, description="1")
    best_of: Literal[1] | None = Field(1, description="1")
    logprobs: None = Field(None, description="null")
    suffix: None = Field(None, description="null")
    logit_bias: None = Field(None, description="null")
    presence_penalty: Literal[0] | None = Field(0, description="0")
    frequency_penalty: Literal[0] | None = Field(0, description="0")


@dataclass(frozen=True)
class Piece:
    """What has been generated since the last piece; ``finish`` is ``stop`` or ``length`` with the last one."""

    text: str
    finish: str | None = None


@dataclass(frozen=True)
class Completion:
    """A request that has been checked.

    Args:
        asked: the body.
        model: the one that is asked.
        language: its tokens.
        prompts: the tokens of each prompt.
        stops: the texts that end an answer.
    """

    asked: Asked
    model: Servable
    language: Language
    prompts: Sequence[list[int]]
    stops: Sequence[str]


def check(model: Servable, body: Mapping[str, Any]) -> Completion:
    """The completion that a body asks for.

    Raises:
        Refusal: 400, it is none, or asks for what there is not; 404, the model is another one, or generates no text.
    """
    if model.language is None:
        raise Refusal(404, f"{model.name} is no language model: POST /v1/predict, or /v2/models/{model.name}/infer")
    try:
        asked = validate(body, Asked)
    except UserError as error:
        raise Refusal(400, f"{error.what}; {error.fix}") from None
    if asked.model != model.name:
        raise Refusal(404, f"there is no model {asked.model[:80]!r}: there is {model.name!r}")
    stops = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
    if len(stops) > STOPS or not all(stops):
        raise Refusal(400, f"stop must be up to {STOPS} texts, none of them empty")
    if unknown := {*(asked.stream_options or {})} - {"include_usage"}:
        raise Refusal(400, f"stream_options has {', '.join(sorted(unknown))}, but can have include_usage")
    return Completion(asked, model, model.language, _prompts(model.language, asked.prompt), stops)


def _prompts(language: Language, prompt: Any) -> list[list[int]]:
    """The tokens of each prompt.

    Raises:
        Refusal: there is none, there are too many, or one has no token, or one that the model does not have.
    """
    given = [prompt] if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)) else prompt
    found = [[*language.encode(each)] if isinstance(each, str) else [*each] for each in given]
    if not 1 <= len(found) <= PROMPTS or not all(found):
        raise Refusal(400, f"prompt must be 1 to {PROMPTS} texts of at least one character, or their tokens")
    if any(not 0 <= token < language.vocabulary for tokens in found for token in tokens):
        raise Refusal(400, f"prompt has a token that is not from 0 to {language.vocabulary - 1}")
    return found


async def generate(completion: Completion, engine: Engine, prompt: Sequence[int], counts: list[int]) -> AsyncIterator[Piece]:
    """The answer to a prompt, in pieces of whole characters; the number of its tokens is added to ``counts``."""
    asked, language, stops = completion.asked, completion.language, completion.stops
    sampler = Sampler(asked.temperature, asked.top_p, asked.seed)
    start = [*prompt] if asked.echo else []
    tokens, sent, finish = [*prompt], "", None
    held = max((len(stop) - 1 for stop in stops), default=0)
    while finish is None:
        token = await _next(engine, completion.model.compute, language, tokens, sampler)
        tokens.append(token)
        generated = len(tokens) - len(prompt)
        finish = "stop" if token == language.end else "length" if generated == asked.max_tokens else None
        text = language.decode(tokens[len(prompt) - len(start) :])
        before = len(language.decode(start)) if start else 0
        places = [at for stop in stops if (at := text.find(stop, before)) >= 0]
        if places:
            text, finish = text[: min(places)], "stop"
        elif finish is None:
            text = text.rstrip(HALF)[: max(len(sent), len(text) - held)]
        if finish or len(text) > len(sent):
            piece, sent = text[len(sent) :], max(text, sent, key=len)
            yield Piece(piece, finish)
    counts.append(len(tokens) - len(prompt))


async def _next(engine: Engine, compute: Compute, language: Language, tokens: Sequence[int], sampler: Sampler) -> int:
    return int(await engine.run(compute, lambda: language.arrays(tokens), lambda outputs: sampler(outputs["logits"][0, -1])))


async def whole(completion: Completion, engine: Engine) -> Document:
    """The answers to all prompts, in one document."""
    counts: list[int] = []
    choices = []
    for index, prompt in enumerate(completion.prompts):
        pieces = [piece async for piece in generate(completion, engine, prompt, counts)]
        choices.append(_choice(index, Piece("".join(piece.text for piece in pieces), pieces[-1].finish)))
    return {**_head(completion), "choices": choices, "usage": _usage(completion, counts)}


async def events(completion: Completion, engine: Engine, seconds: float) -> AsyncIterator[bytes]:
    """The answers to all prompts, one after the other, as server-sent events with a piece each, and a last ``[DONE]``.

    After ``seconds`` they end with an event ``error``.
    """
    counts: list[int] = []
    head, deadline = _head(completion), time.monotonic() + seconds
    for index, prompt in enumerate(completion.prompts):
        async for piece in generate(completion, engine, prompt, counts):
            yield event({**head, "choices": [_choice(index, piece)]})
            if time.monotonic() > deadline:
                yield event({"error": {"message": f"it took longer than {seconds:g} s: ask for less", "type": "server_error"}})
                return
    if (completion.asked.stream_options or {}).get("include_usage"):
        yield event({**head, "choices": [], "usage": _usage(completion, counts)})
    yield b"data: [DONE]\n\n"


def event(document: Document) -> bytes:
    """A document as a server-sent event."""
    return b"data: " + to_bytes(document) + b"\n\n"


def _head(completion: Completion) -> Document:
    return {
        "id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": int(time.time()),
        "model": completion.model.name,
    }  # fmt: skip


def _choice(index: int, piece: Piece) -> Document:
    return {"index": index, "text": piece.text, "logprobs": None, "finish_reason": piece.finish}


def _usage(completion: Completion, counts: Sequence[int]) -> Document:
    prompt, generated = sum(map(len, completion.prompts)), sum(counts)
    return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}


def models(model: Servable, since: float) -> Document:
    """What ``GET /v1/models`` answers."""
    return {"object": "list", "data": [entry(model, since)]}


def entry(model: Servable, since: float) -> Document:
    """What ``GET /v1/models/NAME`` answers."""
    return {"id": model.name, "object": "model", "created": int(since), "owned_by": "heliostat"}
