"""The types of a profile's fields: quantities, texts, and names as the API server of Kubernetes accepts them."""

import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

UNITS = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
WORD = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
CPU_PATTERN = r"^(\d+m|\d+(\.\d+)?)$"
MEMORY_PATTERN = rf"^\d+(\.\d+)?({'|'.join(UNITS)})$"


def cpus(quantity: str) -> float:
    """``500m`` as 0.5."""
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


def size(quantity: str) -> int:
    """``2Gi`` as bytes; a plain number is bytes already."""
    number, unit = re.fullmatch(r"([\d.]+)(\w*)", quantity).groups()  # type: ignore[union-attr]  # checked at the door
    return int(float(number) * UNITS.get(unit, 1))


def _cpu(value: Any) -> Any:
    """CPUs as Kubernetes writes them: ``2`` or ``500m``."""
    if isinstance(value, bool) or not re.fullmatch(CPU_PATTERN, str(value)) or cpus(str(value)) <= 0:
        raise ValueError(f"{value!r} is not a number of CPUs; write 2, or 500m for half of one")
    return str(value)


def _memory(value: Any) -> Any:
    text = str(value)
    if re.fullmatch(r"\d+(\.\d+)?", text) and not isinstance(value, bool):
        raise ValueError(f"{value!r} has no unit; write {text}Gi or {text}Mi")
    if not re.fullmatch(MEMORY_PATTERN, text) or size(text) <= 0:
        raise ValueError(f"{value!r} is not an amount of memory; write 8Gi or 512Mi")
    return text


def text(value: Any) -> Any:
    """A text; also Python's own whole numbers and booleans. (Those of YAML arrive as they are written.)"""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else value


def _name(pattern: str, longest: int, rule: str) -> Callable[[str], str]:
    """A check of a name by the API server's rule."""

    def check(value: str) -> str:
        if len(value) > longest or not re.fullmatch(pattern, value):
            raise ValueError(f"{value!r} is refused by Kubernetes; use {rule}")
        return value

    return check


def _key(value: str) -> str:
    """A key of a label or an annotation: a name, after a domain and a slash or alone."""
    domain, slash, name = value.rpartition("/")
    if not re.fullmatch(WORD, name) or (slash and (len(domain) > 253 or not re.fullmatch(SUBDOMAIN, domain))):
        rule = "up to 63 letters, digits, '-', '_' and '.', after a domain and '/' or alone, such as example.com/team"
        raise ValueError(f"{value!r} is refused by Kubernetes as a key; use {rule}")
    return value


Cpu = Annotated[
    str, BeforeValidator(_cpu), WithJsonSchema({"type": ["string", "number"], "pattern": CPU_PATTERN, "exclusiveMinimum": 0})
]
Memory = Annotated[str, BeforeValidator(_memory), WithJsonSchema({"type": "string", "pattern": MEMORY_PATTERN})]
Text = Annotated[str, BeforeValidator(text)]
Seconds = Annotated[int, Field(ge=1, description="a whole number of seconds, at least 1")]

DnsLabel = Annotated[
    str,
    AfterValidator(
        _name(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", 63, "up to 63 small letters, digits and '-', none of these at an end")
    ),
]
ObjectName = Annotated[
    str, AfterValidator(_name(SUBDOMAIN, 253, "up to 253 small letters, digits, '-' and '.', a letter or digit at both ends"))
]
"""The name of an object, such as a Secret or a claim: a DNS subdomain."""
DataKey = Annotated[str, AfterValidator(_name(r"[-._a-zA-Z0-9]+", 253, "letters, digits, '-', '_' and '.'"))]
"""A key of a Secret."""
VariableName = Annotated[
    str, AfterValidator(_name(r"[-._a-zA-Z][-._a-zA-Z0-9]*", 253, "letters, digits, '_', '-' and '.', no digit first"))
]
LabelKey = Annotated[Text, AfterValidator(_key)]
LabelValue = Annotated[
    Text, AfterValidator(_name(rf"({WORD})?", 63, "up to 63 letters, digits, '-', '_' and '.', a letter or digit at both ends"))
]
Labels = Annotated[dict[LabelKey, LabelValue], Field(description="a mapping of texts, such as {team: vision}")]
