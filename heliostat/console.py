"""Output of the commands: results on standard output, progress and remarks on standard error."""

import json
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from heliostat.difference import written


def _console(stderr: bool) -> Console:
    # Without markup and emoji codes: a name or a message may contain [bold], [/] or :x:, which is shown as it is.
    # FORCE_COLOR, which many CI systems set, would make a pipe a terminal for rich, and fill the log with live lines.
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(
        markup=False, emoji=False, highlight=False, stderr=stderr, force_terminal=None if terminal else False
    )  # fmt: skip


out, err = _console(stderr=False), _console(stderr=True)
UNPRINTABLE = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")
"""Control characters, line separators, marks that change the direction of text, and lone surrogates, which UTF-8 lacks."""


def printable(text: object, keep: str = "") -> str:
    """A text of the user's, such as the name of a class or a metric, as every terminal, page and figure can show it.

    What cannot be printed, a line break too, becomes an escape such as ``\\n``, except for the characters of ``keep``.
    """
    return UNPRINTABLE.sub(
        lambda found: found[0] if found[0] in keep else found[0].encode("unicode_escape").decode(), str(text)
    )


def print_json(document: Any) -> None:
    """Write one JSON document to standard output."""
    sys.stdout.write(json.dumps(document, indent=2, default=str) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None, fit: bool = False) -> None:
    """Print a table; columns of numbers are right-aligned. Each row is one line where there is no terminal, however long.

    Args:
        columns: their names.
        rows: their values.
        title: over the table.
        fit: cut the first column to 2/5 of the terminal, and leave out the last ones where they do not fit, instead of folding
            the cells.
    """
    rows = [list(row) for row in rows]
    numeric = [bool(rows) and all(isinstance(row[n], int | float) for row in rows) for n in range(len(columns))]
    cells = [[printable(f"{v:.4g}" if isinstance(v, float) else v) for v in row] for row in rows]
    names = [printable(name) for name in columns]
    left_out = []
    if out.is_terminal and fit:
        most = 2 * out.width // 5
        if any(cell_len(row[0]) > most for row in cells):
            left_out.append(f"the middle of long cells in {names[0]}")
        cells = [[shortened(row[0], most), *row[1:]] for row in cells]
    widths = [max(cell_len(row[n]) for row in [names, *cells]) for n in range(len(names))]
    shown = len(names)
    if out.is_terminal and fit:
        while shown > 1 and sum(widths[:shown]) + 2 * (shown - 1) > out.width:
            shown -= 1
    elif out.is_terminal:
        _print_folded(names, cells, numeric, title)
        return
    for at, row in enumerate([names, *cells]):
        padded = [
            " " * (width - cell_len(text)) + text if right else text + " " * (width - cell_len(text))
            for text, width, right in zip(row[:shown], widths, numeric, strict=False)
        ]
        out.print(Text("  ".join(padded).rstrip(), "bold" if at == 0 else ""), soft_wrap=True)
    left_out += names[shown:]
    if left_out:
        err.print(f"not shown, as the terminal is too narrow: {', '.join(left_out)}")


def shortened(text: str, width: int) -> str:
    """A text in at most so many columns: of a longer one the beginning and the end, because the names of runs differ there."""
    if cell_len(text) <= width:
        return text
    head, tail = text, text
    while cell_len(head) > width // 2:
        head = head[:-1]
    while cell_len(tail) > width - 1 - cell_len(head):
        tail = tail[1:]
    return f"{head}…{tail}"


def _print_folded(names: Sequence[str], cells: Iterable[Sequence[str]], numeric: Sequence[bool], title: str | None) -> None:
    table = Table(title=title, box=None, header_style="bold", title_justify="left", pad_edge=False)
    for name, right in zip(names, numeric, strict=True):
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    out.print(table)


def cell(value: object, absent: str = "", digits: int = 4) -> str:
    """A value of a config or a result in a table: a float with so many digits, others as a config has them."""
    return absent if value is None else printable(f"{value:.{digits}g}" if isinstance(value, float) else written(value))


def numbers(metrics: Mapping[str, float | None]) -> str:
    """Metrics in one line; None is shown as NaN."""
    return "  ".join(f"{printable(name)} {'NaN' if value is None else f'{value:.4f}'}" for name, value in metrics.items())


def money(cost: float) -> str:
    """A cost: 12,345.60; below 1 with as many decimals as show what it is."""
    if 0 < cost < 1e-4:
        return "less than 0.0001"
    return f"{cost:,.2f}" if cost >= 1 else f"{cost:.3g}"


def dollars(cost: float) -> str:
    """A cost with its currency: $12,345.60, or less than $0.0001."""
    return "less than $0.0001" if 0 < cost < 1e-4 else f"${money(cost)}"


def at_least(cost: float | None, known: float) -> str:
    """A cost as text; if it is not known, the part of it that is; empty if that is next to nothing.

    Args:
        cost: None if a part of it is not known.
        known: what is known of it.
    """
    if cost is not None:
        return money(cost)
    return f"at least {money(known)}" if known >= 1e-4 else ""


def duration(seconds: float) -> str:
    """Seconds as readable text: 42 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def minute(seconds: float) -> str:
    """A time, in seconds since the epoch, as local time for a table."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def clock(seconds: float) -> str:
    """A time, in seconds since the epoch, as local time with its zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(seconds))
