"""The figures of a run's report, and the figure style that all reports share."""

import io
import threading
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from heliostat.console import printable
from heliostat.workloads.run.goodput import KINDS, Goodput, Span

INK, ACCENT, GREY = "#2563a8", "#c2570c", "#66707d"
COLOURS = dict(
    zip(KINDS, ("#2f8f5b", "#8fc7a4", "#e0b03a", "#b58ad6", "#7a9cc6", "#c2570c", "#c9ced6", "#f1f3f5"), strict=True)
)
BINS = 240
LONGEST = 32
"""Characters of a label: a longer one would take the place of the figure."""
DRAWING = threading.Lock()
"""Matplotlib's settings are global, and the runs of one process may draw at the same time."""
Points = Sequence[tuple[int, float]]
"""Steps and values."""


def new_figure(width: float = 5.4, height: float = 2.9, title: str = "") -> tuple[Any, Any]:
    """A matplotlib figure with one pair of axes, in the style of the reports."""
    # Not pyplot: it keeps global state and looks for a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.grid(color="#e3e7ec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def label(text: object) -> str:
    """A text of the user's for a figure, in one line and not too long."""
    shown = printable(text)
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}…"


def svg(figure: Any) -> str:
    """A figure as an SVG element to embed in a page; equal figures give equal text.

    No text in it is mathematics: a ``$`` in the name of a metric is a dollar.
    """
    from matplotlib import rc_context
    from matplotlib.text import Text

    buffer = io.StringIO()
    style = {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10, "svg.hashsalt": "heliostat"}
    with DRAWING, rc_context({**style, "text.parse_math": False}), warnings.catch_warnings():
        # The browser draws the texts, with fonts of its own.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        for text in figure.findobj(Text):
            text.set_parse_math(False)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def curve(
    title: str, train: Points, validation: Points = (), best_step: int | None = None, log: bool = False, zero: bool = False
) -> dict[str, str]:
    """A metric over the steps, of training and of the evaluations; ``log`` and ``zero`` set the y axis."""
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    figure, axes = new_figure(height=2.7, title=label(title))
    for points, name, colour, marker in ((train, "train", INK, ""), (validation, "validation", ACCENT, "o")):
        if points:
            axes.plot(*zip(*points, strict=True), label=name, color=colour, marker=marker, markersize=4, linewidth=1.3)
    at_best = [value for step, value in validation if step == best_step]
    if at_best:
        axes.annotate(
            "best", (best_step or 0, at_best[-1]), textcoords="offset points", xytext=(0, 8), ha="center", color=ACCENT
        )
        axes.margins(y=0.2)
    if log:
        axes.set_yscale("log")
        shown = [y for line in axes.get_lines() for y in np.asarray(line.get_ydata(), float)]
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        narrow = bool(shown) and max(shown) < 10 * min(shown)
        axes.yaxis.set_minor_formatter(StrMethodFormatter("{x:g}") if narrow else NullFormatter())
    if zero:
        axes.set_ylim(bottom=0)
    axes.set_xlabel("step", color=GREY)
    if train and validation:
        axes.legend(frameon=False)
    return {"title": title, "svg": svg(figure)}


def band(account: Goodput) -> dict[str, str]:
    """The workers over time, stacked by what their time was spent on, with numbered marks of failures and resizes."""
    spans = account.spans
    begin, end = spans[0].begin, spans[-1].end
    unit, seconds = next(((u, s) for u, s in (("hours", 3600.0), ("minutes", 60.0)) if end - begin > 2 * s), ("seconds", 1.0))
    edges = np.linspace(begin, end, BINS + 1)
    title = "workers by what their time was spent on"
    figure, axes = new_figure(width=11.2, title=title)
    kinds = [kind for kind in KINDS if kind != "idle" and any(span.kind == kind and span.workers for span in spans)]
    heights = [_mean_workers([span for span in spans if span.kind == kind], edges) for kind in kinds]
    at = (edges - begin) / seconds
    stacked = [np.append(height, height[-1:]) for height in heights]
    axes.stackplot(at, stacked, step="post", labels=kinds, colors=[COLOURS[kind] for kind in kinds])
    for number, (when, _) in enumerate(account.marks, 1):
        x = (when - begin) / seconds
        axes.axvline(x, color="#222", linewidth=0.8, linestyle=(0, (3, 2)))
        label = {"facecolor": "white", "edgecolor": "#222", "linewidth": 0.6, "boxstyle": "circle,pad=0.2"}
        axes.annotate(
            str(number), (x, 0.92), xycoords=("data", "axes fraction"), ha="center", va="center", fontsize=7, bbox=label
        )
    axes.set_xlim(0, at[-1])
    axes.set_ylim(0, max(1, *(span.workers for span in spans)) * 1.02)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel(unit, color=GREY)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return {"title": title, "svg": svg(figure)}


def _mean_workers(spans: Sequence[Span], edges: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The mean number of workers in each bin of time."""
    total = np.zeros(len(edges) - 1)
    for span in spans:
        overlap = np.minimum(edges[1:], span.end) - np.maximum(edges[:-1], span.begin)
        total += np.clip(overlap, 0, None) * span.workers
    mean: np.ndarray[Any, Any] = total / np.diff(edges)
    return mean
