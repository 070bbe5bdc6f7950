"""Pictures with matplotlib, for what has no browser or no JavaScript: notebooks, the pages of costs and plans, and docs."""

import io
import threading
import warnings
from typing import Any

import numpy as np

from heliostat.workloads.run.charts import Points

INK, ACCENT, GREY = "#2563a8", "#c2570c", "#66707d"
DRAWING = threading.Lock()
"""Matplotlib's settings are global, and the runs of one process may draw at the same time."""


def new_figure(width: float = 5.4, height: float = 2.9, title: str = "") -> tuple[Any, Any]:
    """A matplotlib figure with one pair of axes, in the style of the reports."""
    # Not pyplot: it keeps global state and looks for a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    style(axes, title)
    return figure, axes


def style(axes: Any, title: str = "") -> None:
    """Give axes the style of the reports."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.grid(color="#e3e7ec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def svg(figure: Any) -> str:
    """A figure as an SVG element to embed in a page; equal figures give equal text.

    No text in it is mathematics: a ``$`` in the name of a metric is a dollar.
    """
    # The browser draws the texts, with fonts of its own.
    text = _drawn(figure, "svg", transparent=True, metadata={"Date": None}).decode()
    return text[text.index("<svg") :]


def png(figure: Any) -> bytes:
    """A figure as a PNG, which a notebook keeps and shows also where it does not trust SVG."""
    return _drawn(figure, "png", dpi=100, facecolor="white")


def _drawn(figure: Any, kind: str, **options: Any) -> bytes:
    from matplotlib import rc_context
    from matplotlib.text import Text

    buffer = io.BytesIO()
    settings = {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10, "svg.hashsalt": "heliostat"}
    with DRAWING, rc_context({**settings, "text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        for text in figure.findobj(Text):
            text.set_parse_math(False)
        figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()


def plot(axes: Any, train: Points, validation: Points = (), log: bool = False) -> None:
    """Plot a metric over the steps, of training and of the evaluations; ``log`` sets the y axis."""
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    for points, name, colour, marker in ((train, "train", INK, ""), (validation, "validation", ACCENT, "o")):
        if points:
            axes.plot(*zip(*points, strict=True), label=name, color=colour, marker=marker, markersize=4, linewidth=1.3)
    if log:
        axes.set_yscale("log")
        shown = [y for line in axes.get_lines() for y in np.asarray(line.get_ydata(), float)]
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        narrow = bool(shown) and max(shown) < 10 * min(shown)
        axes.yaxis.set_minor_formatter(StrMethodFormatter("{x:g}") if narrow else NullFormatter())
    axes.set_xlabel("step", color=GREY)
    if train and validation:
        axes.legend(frameon=False)
