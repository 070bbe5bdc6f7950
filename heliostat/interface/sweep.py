"""A sweep as an object: its result, its trials as a table, and each trial as a run."""

from functools import cached_property
from html import escape
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliostat.errors import UserError
from heliostat.folder import join
from heliostat.interface.run import Run, Stored, link
from heliostat.wording import counted

if TYPE_CHECKING:
    import pandas as pd

    from heliostat.tuning.config import SweepConfig
    from heliostat.tuning.record import SweepRecord
    from heliostat.tuning.results.table import SweepResult

SHOWN = 20
"""The most trials that a notebook shows."""


class Sweep(Stored["SweepResult"]):
    """A sweep: what `sweep` returns, `load_sweep` opens and `runs` lists.

    What it has is read when it is first asked for, and does not change afterwards.

    Args:
        sweep: the path or URI of its folder.
        result: its result, if that is known.
        elsewhere: where its files are, if this machine cannot read them, and how they get here.
    """

    def __init__(self, sweep: str | Path, result: "SweepResult | None" = None, elsewhere: UserError | None = None) -> None:
        super().__init__(sweep, result, elsewhere)
        self.sweep = str(sweep)

    @cached_property
    def record(self) -> "SweepRecord":
        """``sweep.yaml``: the config and the objectives.

        Raises:
            UserError: there is no sweep, or the file is damaged.
        """
        from heliostat.tuning.record import read_sweep

        found = read_sweep(self.folder)
        if found is None:
            raise UserError(f"{self.sweep} is not a sweep: it has no sweep.yaml", "heliostat runs lists the sweeps")
        return found

    @property
    def config(self) -> "SweepConfig":
        """The resolved config."""
        return self.record.config

    @cached_property
    def _driven(self) -> bool:
        from heliostat.workloads.run.lease import Observer

        return Observer(self.folder).is_driven()

    @cached_property
    def _trials(self) -> Any:
        from heliostat.tuning.journal import read_journal
        from heliostat.tuning.trials import Trials

        trials = Trials(read_journal(self.folder))
        if not self._driven:
            trials.interrupted()
        return trials

    @cached_property
    def result(self) -> "SweepResult":
        """``result.json``, or of a sweep that has not ended its result so far.

        Raises:
            UserError: there is no sweep, or a file is damaged.
        """
        from heliostat.tuning.results.table import SweepResult, result_of

        if self._known:
            return self._known
        record, driven = self.record, self._driven
        if not driven and (found := SweepResult.read(self.folder)):
            return found
        return result_of(record.config, self.sweep, record.objectives, self._trials, "running" if driven else "interrupted")

    @cached_property
    def trials(self) -> "pd.DataFrame":
        """All trials, a row each, by their number: state, objectives, ``param.KEY``, steps, seconds, cost, ``SPLIT.METRIC``.

        Raises:
            UserError: see `folder`.
        """
        import pandas as pd

        from heliostat.tuning.results.table import row

        rows = [row(trial, dict(self.record.objectives)) for trial in self._trials.all]
        table: Any = pd.DataFrame(rows, columns=None if rows else ["trial", "state"]).set_index("trial")
        for name in {"began", "ended"} & {*table.columns}:
            table[name] = pd.to_datetime(table[name], unit="s", utc=True)
        return table

    def trial(self, number: int | None = None) -> Run:
        """A trial as a run, by default the best one.

        Raises:
            UserError: there is no such trial.
        """
        from heliostat.tuning.record import TRIALS
        from heliostat.tuning.trials import trial_name

        number = self.best if number is None else number
        if not isinstance(number, Integral) or not 0 <= number < len(self._trials.all):
            what = "no trial has a result yet" if number is None else f"there is no trial {number!r}"
            raise UserError(f"sweep {self.name}: {what}", f"it has {counted(len(self._trials.all), 'trial')}, numbered from 0")
        same = self._trials.all[number].duplicate_of
        return Run(join(self.sweep, f"{TRIALS}/{trial_name(int(number) if same is None else same)}"))

    @property
    def name(self) -> str:
        return self.result.name

    @property
    def ended(self) -> str:
        """Why it ended: done, time or budget; or running, or interrupted."""
        return self.result.ended

    @property
    def objectives(self) -> dict[str, str]:
        """By metric max or min."""
        return self.result.objectives

    @property
    def states(self) -> dict[str, int]:
        """The number of trials in each state."""
        return self.result.states

    @property
    def best(self) -> int | None:
        """The number of the best trial by the first objective; None if no trial has a value."""
        return self.result.best

    @property
    def values(self) -> dict[str, float]:
        """The best trial's objectives."""
        return self.result.values

    @property
    def params(self) -> dict[str, Any]:
        """The best trial's values of the searched keys."""
        return self.result.params

    @property
    def front(self) -> list[int]:
        """With several objectives, the trials of the Pareto front."""
        return self.result.front

    @property
    def seconds(self) -> float:
        """The total time of all its sessions."""
        return self.result.seconds

    @property
    def worker_seconds(self) -> float:
        """The time that trials held their workers, summed over the trials."""
        return self.result.worker_seconds

    @property
    def gpu_seconds(self) -> float:
        """The same of their GPUs."""
        return self.result.gpu_seconds

    @property
    def cost(self) -> float | None:
        """The cost of all trials; None where no price is known."""
        return self.result.cost

    @property
    def already(self) -> bool:
        """Whether it was finished before this call of `sweep`, which did nothing."""
        return self.result.already

    @property
    def report(self) -> str:
        """The path or URI of the report, a page for the browser."""
        return self.result.report

    @property
    def best_config(self) -> str | None:
        """The path or URI of the best trial's config, for `train`."""
        return self.result.best_config

    def __repr__(self) -> str:
        return f"<Sweep {self._headline()}, in {self.sweep}>"

    def _headline(self) -> str:
        from heliostat.console import at_least, numbers

        parts = [f"{self.name}: {', '.join(f'{count} {state}' for state, count in self.states.items())}"]
        parts += [] if self.best is None else [f"best trial {self.best} with {numbers(self.values)}"]
        parts += [f"cost {cost}"] if (cost := at_least(self.cost, self.result.known_cost or 0.0)) else []
        return ", ".join(parts)

    def _repr_html_(self) -> str:
        """What a notebook shows: the best trial, and the table of the trials, the best first."""
        head = f"<div>{escape(self._headline())}, {link(self.report, 'report')}</div>"
        return head if self._elsewhere else head + table_of(self.trials, self.objectives)


def table_of(trials: "pd.DataFrame", objectives: dict[str, str]) -> str:
    """The best trials as a table of HTML."""
    metric, mode = next(iter(objectives.items()))
    if trials.empty:
        return ""
    chosen = ["state", *objectives, *(name for name in trials.columns if name.startswith("param.")), "step", "seconds", "cost"]
    shown = trials.sort_values(metric, ascending=mode == "min")[[name for name in chosen if trials[name].notna().any()]]
    more = f"<div>and {len(shown) - SHOWN} more: .trials has all</div>" if len(shown) > SHOWN else ""
    shown = shown.rename(columns=lambda name: name.removeprefix("param."))
    return str(shown.head(SHOWN).to_html(float_format="{:.4g}".format, na_rep="", border=0)) + more
