"""The table of a sweep's trials, and its live display."""

import os
import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from heliostat.commands.terminal.phases import Phases
from heliostat.console import at_least, cell, duration, err, money, printable
from heliostat.wording import counted

LINE_SECONDS = 5.0
"""Seconds between two lines of progress in a job, at least."""
SHOWN = 12
"""The most rows of the live table."""
REDRAW = 0.5


class Display:
    """The progress of ``heliostat sweep`` on standard error: a table on a terminal, else a line when a trial starts or ends.

    Args:
        plan: of the sweep.
        quiet: whether nothing is shown where there is no terminal.
    """

    def __init__(self, plan: Any, quiet: bool = False) -> None:
        from heliostat.environment import IN_A_JOB

        self._plan = plan
        self._lines = not err.is_terminal and (IN_A_JOB in os.environ or not quiet)
        self._phases = Phases(quiet=not self._lines)
        self._live = Live(console=err, transient=True, auto_refresh=False) if err.is_terminal else None
        self._next = 0.0
        self._last = ""
        self._trials: Any = None
        self._said: dict[int, bool] = {}
        """By the number of a trial that has a line whether it was done then."""

    def __enter__(self) -> Self:
        self._phases.begin("starting Ray")
        self._phases.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._phases.__exit__(kind, error, trace)
        if self._live:
            self._live.stop()
        elif self._trials:
            self._say(self._trials)

    def connected(self) -> None:
        """Ray is connected: print the sweep's folder."""
        if self._lines or self._live:
            err.print(f"{self._plan.config.name} in {self._plan.uri}", highlight=False, soft_wrap=True)
        self._phases.begin("starting workers")

    def update(self, trials: Any) -> None:
        """Show the state of the sweep, at most at the intervals above."""
        self._trials = trials
        if time.monotonic() < self._next or not any(trial.started or trial.done for trial in trials.all):
            return
        self._phases.begin("")
        self._next = time.monotonic() + (REDRAW if self._live else LINE_SECONDS)
        if self._live:
            if not self._live.is_started:
                self._phases.__exit__(None, None, None)  # a terminal shows one live area at a time
                self._live.start()
            self._live.update(rendered(trials, self._plan.objectives, self._plan.config.trials), refresh=True)
        else:
            self._say(trials)

    def _say(self, trials: Any) -> None:
        """Print the lines of trials that have started or ended, and the headline, as far as they are new."""
        if not self._lines:
            return
        objectives = self._plan.objectives
        for trial in trials.all:
            if (trial.started or trial.done) and self._said.get(trial.number) != trial.done:
                self._said[trial.number] = trial.done
                err.print(trial_line(trial, objectives), highlight=False, markup=False, soft_wrap=True)
        if (text := headline(trials, objectives, self._plan.config.trials)) != self._last:
            self._last = text
            err.print(text, highlight=False, soft_wrap=True)


def trial_line(trial: Any, objectives: Any) -> str:
    """A trial that has started or ended in one line, which `heliostat.interface.followed.trial_of` reads."""
    parts = [f"trial {trial.number}", trial.state]
    if trial.done:
        cost = trial.cost()
        parts += [f"{name} {trial.values[name]:.6g}" for name in objectives if name in trial.values]
        parts += [f"step {trial.step}", f"{trial.seconds:.1f} s", *([] if cost is None else [f"cost {money(cost)}"])]
    parts += [f"{key}={' '.join(cell(value, '-').split())}" for key, value in trial.params.items()]
    return printable("  ".join(parts))


def headline(trials: Any, objectives: Any, wanted: int | None, now: float | None = None, driven: bool = True) -> str:
    """The progress, the best trial, the time left if the sweep is ``driven``, and the cost so far in one line."""
    from heliostat.tuning.trials import best

    now = now or time.time()
    states = trials.states()
    done = sum(trial.done for trial in trials.all)
    parts = [
        f"{done} of {counted(wanted, 'trial')} done" if wanted else f"{counted(done, 'trial')} done",
        f"{states.get('running', 0)} running",
    ]
    parts += [f"{states[state]} {state}" for state in ("stopped", "failed", "diverged") if state in states]
    metric, mode = next(iter(objectives.items()))
    if top := best(trials.all, metric, mode):
        parts.append(f"best {printable(metric)} {top.values[metric]:.4f} (trial {top.number})")
    left = trials.remaining_seconds(wanted, now) if driven and done < (wanted or 0) else None
    if left is not None:
        parts.append(f"about {duration(left)} left")
    if cost := at_least(trials.cost(now), trials.known_cost(now)):
        parts.append(f"cost {cost}")
    return " · ".join(parts)


def rendered(trials: Any, objectives: Any, wanted: int | None, most: int = SHOWN, driven: bool = True) -> Group:
    """The headline over the table of the best and the running trials."""
    metric, mode = next(iter(objectives.items()))
    sign = 1 if mode == "max" else -1
    running = [trial for trial in trials.all if trial.state == "running"]
    others = sorted(
        (trial for trial in trials.all if trial.state != "running"),
        key=lambda trial: (-sign * trial.values[metric] if metric in trial.values else float("inf"), trial.number),
    )
    shown = [*running[: most // 2], *others[: most - min(len(running), most // 2)]]
    keys = list(dict.fromkeys(key for trial in shown for key in trial.params))
    priced = any(trial.price is not None for trial in trials.all)
    numeric = ["trial", "state", printable(metric), "step", "seconds", *(["cost"] if priced else [])]
    columns = [(name, "left" if name == "state" else "right", len(name) + 2) for name in numeric]
    columns += [(printable(_last(key, keys)), "left", 0) for key in keys]
    rows = [[printable(cell) for cell in cells(trial, metric, keys, priced)] for trial in shown]
    return Group(Text(headline(trials, objectives, wanted, driven=driven)), Whole(columns, rows))


@dataclass(frozen=True)
class Whole:
    """A table of whole cells: the last columns are left out, and named, where they do not fit on the terminal.

    Args:
        columns: of each its name, the side to which it is aligned, and its least width.
        rows: the cells.
    """

    columns: list[tuple[str, Any, int]]
    rows: list[list[str]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        count = len(self.columns)
        whole = options.update_width(sys.maxsize)
        while count > 1 and console.measure(self._grid(count), options=whole).maximum > options.max_width:
            count -= 1
        yield self._grid(count)
        if left := [name for name, *_ in self.columns[count:]]:
            yield Text(f"not shown, as the terminal is too narrow: {', '.join(left)}", "dim")

    def _grid(self, count: int) -> Table:
        grid = Table(box=None, header_style="bold", pad_edge=False)
        for name, side, least in self.columns[:count]:
            grid.add_column(name, justify=side, no_wrap=True, min_width=least)
        for row in self.rows:
            grid.add_row(*map(Text, row[:count]))
        return grid


def cells(trial: Any, metric: str, keys: list[str], priced: bool) -> list[str]:
    """One row of the table."""
    now = time.time()
    value = trial.values.get(metric, trial.reports[-1].value(metric) if trial.reports else None)
    state = f"as {trial.duplicate_of}" if trial.duplicate_of is not None else trial.state
    cost = trial.cost(now)
    return [
        str(trial.number),
        state,
        "" if value is None else f"{value:.4f}",
        str(trial.step),
        f"{trial.elapsed(now):.1f}",
        *(["" if cost is None else money(cost)] if priced else []),
        *(cell(trial.params.get(key), "-") for key in keys),
    ]


def _last(key: str, keys: list[str]) -> str:
    """The last part of a dotted key, or the whole key if another one has the same last part."""
    last = key.rpartition(".")[2]
    return key if [other.rpartition(".")[2] for other in keys].count(last) > 1 else last
