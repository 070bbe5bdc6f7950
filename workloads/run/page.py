"""Renders the pages of runs and sweeps, which share ``page.html.j2``: the head, the style and the title."""

from pathlib import Path
from typing import Any

import jinja2

from heliostat.console import printable


def render(template: Path, **values: Any) -> str:
    """The self-contained page of a template that extends ``page.html.j2``; ``result`` is among the values.

    Raises:
        jinja2.UndefinedError: the template needs a value that is not given.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return printable(environment.get_template(template.name).render(**values), keep="\n\t")
