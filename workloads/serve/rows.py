"""``POST /v1/predict``: raw rows, as ``heliostat predict`` takes them."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from heliostat.errors import UserError
from heliostat.wording import agreeing, counted
from heliostat.workloads.serve.codecs import Codec
from heliostat.workloads.serve.engine import Arrays, Engine
from heliostat.workloads.serve.refusal import Limits, Refusal
from heliostat.workloads.serve.sample import Keep, nothing
from heliostat.workloads.serve.servable import Servable

KEYS = {"rows", "partial"}
SHOWN = 20
"""Bad rows that an answer lists."""
Document = dict[str, Any]


async def predict_rows(
    model: Servable, engine: Engine, limits: Limits, body: Mapping[str, Any], keep: Keep = nothing
) -> Document:
    """``{"model", "version", "predictions"}``, a prediction for each row.

    With ``"partial": true`` a row that cannot be read has null, and its reason is in ``errors``: ``{"row", "error"}``. Rows
    that are answered, and their predictions, go to ``keep``, in the thread of the engine.

    Raises:
        Refusal: 404, the model takes no rows; 413, too many; 422, some cannot be read; it lists them.
    """
    if model.codec is None:
        fix = "POST /v1/completions" if model.language else f"POST /v2/models/{model.name}/infer"
        raise Refusal(404, f"{model.name} takes no rows: use {fix}")
    codec, (rows, partial) = model.codec, _checked(body, limits)
    try:
        found = await engine.run(codec.compute, lambda: codec.encode(rows), kept(codec.name, model, rows, keep))
    except (ValueError, UserError) as error:
        try:
            found = await _each(model, codec, engine, rows, keep if partial else nothing)
        except (ValueError, UserError) as together:  # each can be read alone, but not beside the others
            raise Refusal(422, message_of(together)) from None
        bad = {number: each for number, each in enumerate(found, 1) if isinstance(each, str)}
        if not partial:
            raise Refusal(422, _summary(bad, len(rows)) if bad and len(rows) > 1 else message_of(error)) from None
    errors = [{"row": number, "error": each} for number, each in enumerate(found, 1) if isinstance(each, str)]
    return {
        "model": model.name,
        "version": model.version,
        "predictions": [None if isinstance(each, str) else each for each in found],
        **({"errors": errors} if partial else {}),
    }


def kept(
    name: Callable[[Arrays], list[Any]], model: Servable, rows: Sequence[Any], keep: Keep
) -> Callable[[Arrays], list[Any]]:
    """What names the outputs for rows, and keeps the rows that have a prediction, not a text that says why there is none."""

    def finish(outputs: Arrays) -> list[Any]:
        found = name(outputs)
        answered = [pair for pair in zip(rows, found, strict=True) if not isinstance(pair[1], str)]
        keep(model, [row for row, _ in answered], [prediction for _, prediction in answered])
        return found

    return finish


async def _each(model: Servable, codec: Codec, engine: Engine, rows: Sequence[Any], keep: Keep) -> list[Document | str]:
    """The prediction for each row, or what is wrong with it."""
    read = await asyncio.to_thread(lambda: [_tried(codec.encode, [row]) for row in rows])
    good = [row for row, found in zip(rows, read, strict=True) if not isinstance(found, str)]
    if not good:
        return [*map(str, read)]
    finish = kept(lambda outputs: _named(codec, outputs), model, good, keep)
    named = iter(await engine.run(codec.compute, lambda: codec.encode(good), finish))
    return [found if isinstance(found, str) else next(named) for found in read]


def _named(codec: Codec, outputs: Arrays) -> list[Document | str]:
    count = len(next(iter(outputs.values())))
    found = (_tried(codec.name, {name: values[at : at + 1] for name, values in outputs.items()}) for at in range(count))
    return [each if isinstance(each, str) else each[0] for each in found]


def _tried(function: Callable[[Any], Any], given: Any) -> Any:
    """What a function makes of a row, or as a text why it refuses it."""
    try:
        return function(given)
    except (ValueError, UserError) as error:
        return message_of(error).replace("row 1: ", "").replace("row 1 has", "the row has")


def _summary(bad: Mapping[int, str], rows: int) -> str:
    shown = "; ".join(f"row {number}: {each}" for number, each in [*bad.items()][:SHOWN])
    more = f"; and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    return f"{len(bad):,} of {counted(rows, 'row')} cannot be predicted: {shown}{more}"


def _checked(body: Mapping[str, Any], limits: Limits) -> tuple[list[Any], bool]:
    """The rows, and whether bad ones are left out.

    Raises:
        Refusal: 400, the body has other keys, or no list of objects; 413, too many rows.
    """
    if unknown := body.keys() - KEYS:
        raise Refusal(400, f'the body has {", ".join(sorted(map(repr, unknown)))}, but must be {{"rows": [{{...}}]}}')
    rows, partial = body.get("rows"), body.get("partial", False)
    if not isinstance(partial, bool):
        raise Refusal(400, f'"partial" must be true or false, but is a {type(partial).__name__}')
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise Refusal(400, '"rows" must be a list of at least one object: {"rows": [{...}]}')
    if len(rows) > limits.rows:
        raise Refusal(
            413,
            f"there are {counted(len(rows), 'row')}, and at most {limits.rows:,} {agreeing(limits.rows, 'are')} taken: "
            "send them in parts",
        )
    return rows, partial


def message_of(error: Exception) -> str:
    """The message of an error, in one line."""
    return f"{error.what}: {error.fix}" if isinstance(error, UserError) else str(error)
