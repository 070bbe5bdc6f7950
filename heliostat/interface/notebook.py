"""The live display of a run or a sweep in a notebook: a picture that is replaced while it runs, and whose last one stays.

It is drawn for at most 2 % of the time, in a thread that gives way to others, as the report is.
"""

import logging
import sys
import warnings
from collections.abc import Mapping
from functools import partial
from html import escape
from math import isclose
from types import TracebackType
from typing import Any, Self

from heliostat.commands.sweep.trials import headline
from heliostat.commands.terminal.progress import SHOWN, Display
from heliostat.console import numbers, printable

PAUSE = 1.0
"""Seconds between two pictures at least."""
FIGURES = 3
"""The most figures side by side, and metrics in the line above them."""
Records = list[dict[str, Any]]


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, which shows pictures."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")


def without_widgets() -> None:
    """Let Ray and tqdm not ask for ipywidgets when they are imported: none of their widgets is shown."""
    logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", "IProgress not found")


class Area:
    """A place in the output of a cell, whose content is replaced, also from another thread."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._last: dict[str, Any] = {}

    def show(self, **content: Any) -> None:
        """Show content by its kind: ``text``, and ``html`` or ``png``."""
        from IPython.display import display

        kinds = {"text": "text/plain", "html": "text/html", "png": "image/png"}
        bundle = {kinds[name]: value for name, value in content.items()}
        if bundle == self._last:
            return
        self._last = bundle
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(bundle, raw=True)


class Picture:
    """What the displays of runs and sweeps share: the phase before the first picture, and when the next one is drawn."""

    def __init__(self, name: str, place: str) -> None:
        from heliostat.workloads.run.redraw import Redraw, draw

        self.name, self.area = name, Area()
        self._redraw = Redraw(self.draw, place, "live display", PAUSE)
        self._last = partial(draw, self.draw, place, "live display")

    def draw(self) -> None:
        """Show the picture of what is known; nothing as long as nothing is."""

    def phase(self, text: str) -> None:
        """Show what happens before there is a picture."""
        text = f"{printable(self.name)}: {text}"
        self.area.show(text=text, html=f"<div>{escape(text)}</div>")

    def __enter__(self) -> Self:
        self.phase("starting")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._redraw.close()
        self._last()

    def changed(self) -> None:
        """There is something new to draw."""
        self._redraw.poll(True)


class RunPicture(Picture):
    """The curves of a run; what its workers print, and changes of them, are lines below, as with the command.

    Args:
        plan: of the run; of one that is driven elsewhere, what has its config.
        earlier: its records of earlier sessions.
    """

    def __init__(self, plan: Any, earlier: Records) -> None:
        super().__init__(plan.config.name, plan.uri)
        self._lines, self._plan, self._records = Display(plan, quiet=True), plan, earlier

    def connected(self) -> None:
        """Ray is connected."""
        self.phase(SHOWN["starting"])

    def update(self, records: Records) -> None:
        """Show new records."""
        self._lines.update(records)
        new = [record for record in records if record.get("kind") in ("train", "eval", "logged")]
        if new:
            # A run that has resumed makes some steps again.
            kept = [record for record in self._records if record["step"] < new[0]["step"]]
            self._records = [*(kept if new[0]["step"] < self._step else self._records), *new]
            self.changed()
        elif not self._records:
            for record in records:
                if text := SHOWN.get(record.get("event", "")):
                    self.phase(text)

    @property
    def _step(self) -> int:
        return self._records[-1]["step"] if self._records else 0

    def draw(self) -> None:
        """Draw the curves."""
        records = self._records
        if records:
            text = caption(self.name, records, self._plan.total_steps)
            self.area.show(text=text, png=picture_of(text, records))


def caption(name: str, records: Records, total: int | None) -> str:
    """How far a run is, and its newest metrics, in one line."""
    step = records[-1]["step"]
    parts = [f"{printable(name)}: step {step}" + (f" of {total}" if total else "")]
    trained = next((record for record in reversed(records) if record["kind"] == "train"), None)
    if trained:
        parts.append(f"{numbers({'loss': trained['loss']})}  {trained['samples_per_second']:,.0f} samples/s")
    evaluated = next((record for record in reversed(records) if record["kind"] == "eval"), None)
    parts += [f"validation {numbers(dict([*evaluated['metrics'].items()][:FIGURES]))}"] if evaluated else []
    return "  ·  ".join(parts)


def picture_of(title: str, records: Records) -> bytes:
    """The curves of a run side by side, the loss first, as a PNG."""
    from matplotlib.figure import Figure

    from heliostat.workloads.run.charts import label
    from heliostat.workloads.run.figures import plot, png, style
    from heliostat.workloads.run.report import panels

    first, *others = panels(records)
    shown = [first, *(panel for panel in others if not _equal(panel[2], first[2]))][:FIGURES]
    figure = Figure(figsize=(3.4 * max(len(shown), 2), 2.5), layout="constrained")
    figure.suptitle(title if len(title) < 150 else f"{title[:149]}…", x=0.01, ha="left", fontsize=9)
    for axes, (name, train, validation, log) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        style(axes, label(name))
        plot(axes, train, validation, log=log)
    return png(figure)


def _equal(points: Any, others: Any) -> bool:
    """Whether a metric is the loss under another name."""
    return len(points) == len(others) and all(
        step == at and isclose(value, other, rel_tol=1e-5) for (step, value), (at, other) in zip(points, others, strict=True)
    )


class SweepPicture(Picture):
    """The table of a sweep's trials, the best first, and their learning curves.

    Args:
        plan: of the sweep; of one that is driven elsewhere, what has its config and objectives.
    """

    def __init__(self, plan: Any) -> None:
        super().__init__(plan.config.name, plan.uri)
        self._plan, self._trials, self._curves = plan, None, Area()

    def connected(self) -> None:
        """Ray is connected."""
        self.phase(SHOWN["starting"])

    def update(self, trials: Any) -> None:
        """Show the state of the sweep."""
        if any(trial.started or trial.done for trial in trials.all):
            self._trials = trials
            self.changed()

    def draw(self) -> None:
        """Draw the table and the curves."""
        if self._trials is None:
            return
        import pandas as pd

        from heliostat.interface.sweep import table_of
        from heliostat.tuning.results.figures import MOST_LINES
        from heliostat.tuning.results.table import row

        objectives: Mapping[str, str] = self._plan.objectives
        trials = list(self._trials.all)
        text = f"{self.name}: {headline(self._trials, objectives, self._plan.config.trials)}"
        table = pd.DataFrame([row(trial, objectives) for trial in trials]).set_index("trial")
        self.area.show(text=text, html=f"<div>{escape(text)}</div>{table_of(table, dict(objectives))}")
        metric, mode = next(iter(objectives.items()))
        if picture := learning_picture(trials[-MOST_LINES:], metric, mode):
            self._curves.show(text=f"the learning curves of {self.name}", png=picture)


class FollowedSweep(Picture):
    """The table of the trials of a sweep on a cluster, from the lines of its job, which have no learning curves.

    Args:
        plan: of the sweep.
    """

    def __init__(self, plan: Any) -> None:
        super().__init__(plan.config.name, plan.uri)
        self._objectives: dict[str, str] = dict(plan.objectives)
        self._rows: dict[int, dict[str, Any]] = {}
        self._text = ""

    def update(self, row: dict[str, Any]) -> None:
        """Show the new state of a trial."""
        self._rows[row["trial"]] = row
        self.changed()

    def headline(self, text: str) -> None:
        """Show how far the sweep is."""
        self._text = text
        self.changed()

    def draw(self) -> None:
        """Draw the table."""
        if self._rows:
            text = f"{printable(self.name)}: {self._text}"
            self.area.show(text=text, html=f"<div>{escape(text)}</div>{self.table()}")

    def table(self) -> str:
        """The table as HTML."""
        import pandas as pd

        from heliostat.interface.sweep import table_of

        empty = dict.fromkeys((*self._objectives, "step", "seconds", "cost"))
        rows = pd.DataFrame([{**empty, **row} for row in list(self._rows.values())])
        return table_of(rows.set_index("trial"), self._objectives)


def learning_picture(trials: list[Any], metric: str, mode: str) -> bytes:
    """The metric of each trial over its run, the best one in front, as a PNG; empty if no trial has a value."""
    from heliostat.tuning.results.figures import learning_lines
    from heliostat.workloads.run.charts import label
    from heliostat.workloads.run.figures import ACCENT, GREY, INK, new_figure, png

    lines = learning_lines(trials, metric, mode)
    if not lines:
        return b""
    figure, axes = new_figure()
    for trial, points in lines:
        top = trial is lines[-1][0]
        colour = INK if top else ACCENT if trial.state == "stopped" else GREY
        style = {"alpha": 1 if top else 0.35, "linewidth": 2 if top else 0.9, "markersize": 3}
        axes.plot(*zip(*points, strict=True), color=colour, marker="o" if top or len(points) == 1 else "", **style)
    axes.set_xlabel("share of the run", color=GREY)
    axes.set_ylabel(label(metric), color=GREY)
    return png(figure)
