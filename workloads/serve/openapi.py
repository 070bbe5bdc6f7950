"""The OpenAPI document of a service, by which its page and generators of clients know what it takes."""

from collections.abc import Mapping
from typing import Any

from heliostat import __version__
from heliostat.workloads.serve.inference_protocol import metadata
from heliostat.workloads.serve.servable import Servable

Document = dict[str, Any]
REFUSED = {
    "400": "not such a request", "401": "no token, or another one", "404": "no such model", "413": "too long, or too many rows",
    "422": "values that cannot be read", "429": "too many requests at once; see Retry-After",
    "503": "not within the time limit; see Retry-After",
}  # fmt: skip


def document(model: Servable) -> Document:
    """The document, with an example that works for each operation."""
    paths: Document = {}
    if model.codec:
        schema: Document = {
            "type": "object", "required": ["rows"], "additionalProperties": False,
            "properties": {
                "rows": {
                    "type": "array", "minItems": 1, "items": {"type": "object", "properties": _properties(model.codec.columns)}
                },
                "partial": {"type": "boolean", "description": "answer the other rows if some cannot be read"},
            },
        }  # fmt: skip
        answer = {"model": model.name, "version": model.version, "predictions": [model.answer]}
        paths["/v1/predict"] = _post("Predict raw rows", schema, {"rows": [dict(model.codec.example)]}, answer)
    if model.language:
        example = {"model": model.name, "prompt": "def ", "max_tokens": 64, "temperature": 0.7, "seed": 0}
        schema = {"type": "object", "required": ["model", "prompt"]}
        paths["/v1/completions"] = _post("Continue a text", schema, example)
        paths["/v1/models"] = _get("List the models")
    base = f"/v2/models/{model.name}"
    paths[f"{base}/infer"] = _post(
        "Infer (Open Inference Protocol)", {"type": "object", "required": ["inputs"]}, _example(model)
    )
    paths[base] = _get("Inputs and outputs of the model")
    paths[f"{base}/ready"] = _get("Whether the model can be asked")
    paths["/v2"] = _get("The server and its extensions")
    return {
        "openapi": "3.1.0",
        "info": {"title": model.name, "version": model.version, "description": f"Served by Heliostat {__version__}."},
        "security": [{"token": []}],
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "paths": paths,
    }


def _properties(columns: Mapping[str, Mapping[str, Any]]) -> Document:
    return {name: {key: value for key, value in each.items() if key not in ("kind", "width")} for name, each in columns.items()}


def _example(model: Servable) -> Document:
    """A request with one row, in JSON."""
    codec, inputs = model.codec, []
    for each in metadata(model)["inputs"]:
        shape = [1, *(2 if size == -1 else size for size in each["shape"][1:])]
        if codec and codec.by_column:
            value = codec.example[each["name"]]
            values = value if isinstance(value, list) else [value if each["datatype"] != "BYTES" else str(value)]
        else:
            size = 1
            for axis in shape:
                size *= axis
            values = [0] * size
        inputs.append({**each, "shape": shape, "data": values})
    return {"inputs": inputs}


def _post(summary: str, schema: Document, example: Document, answer: Any = None) -> Document:
    content = {"application/json": {"schema": schema, "example": example}}
    answered = {"application/json": {"example": answer} if answer is not None else {}}
    return {
        "post": {
            "summary": summary,
            "requestBody": {"required": True, "content": content},
            "responses": {
                "200": {"description": "the answer", "content": answered},
                **{status: {"description": words} for status, words in REFUSED.items()},
            },
        }
    }


def _get(summary: str) -> Document:
    return {
        "get": {"summary": summary, "responses": {"200": {"description": "the answer"}, "401": {"description": REFUSED["401"]}}}
    }
