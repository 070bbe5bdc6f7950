"""Renders the pages of runs and sweeps, which share ``page.html.j2``: the head, the style and the title."""

import base64
import gzip
import time
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from heliostat.console import printable

WEB = Path(__file__).parent / "web"
"""What browsers get: the style, the library of figures, and what draws with it."""


def render(template: Path, **values: Any) -> str:
    """The self-contained page of a template that extends ``page.html.j2``; ``result`` is among the values.

    Raises:
        jinja2.UndefinedError: the template needs a value that is not given.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.globals.update(css=css, packed_library=packed_library)
    environment.filters["time"] = time_element
    return printable(environment.get_template(template.name).render(**values), keep="\n\t")


def time_element(seconds: float) -> Markup:
    """A time, in seconds since the epoch, as UTC, to which the browser adds its local time."""
    at = time.gmtime(seconds)
    shown, machine = time.strftime("%Y-%m-%d %H:%M:%S UTC", at), time.strftime("%Y-%m-%dT%H:%M:%SZ", at)
    return Markup('<time datetime="{}">{}</time>').format(machine, shown)


@cache
def css() -> str:
    """The style of all pages."""
    return (WEB / "page.css").read_text()


@cache
def packed_library() -> str:
    """The library of figures, and what draws with it, compressed for a page that carries them: 0.3 of 0.7 MB."""
    source = "\n".join((WEB / name).read_text() for name in ("echarts.min.js", "figures.js"))
    return base64.b64encode(gzip.compress(source.encode(), mtime=0)).decode()
