"""A run as an object: its result and its curves from its files, and its best model, which is loaded when it is asked for."""

import os
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from heliostat.errors import UserError
from heliostat.folder import Folder

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from torch import nn

    from heliostat.datasets import Dataset
    from heliostat.workloads.config import TrainConfig
    from heliostat.workloads.inference import Trained
    from heliostat.workloads.run.record import Result, RunRecord
    from heliostat.workloads.task import Task

R = TypeVar("R")
COLUMNS = ("step", "epoch", "split", "time")
"""The first columns of a history; a metric of that name gets another."""


class Stored(Generic[R]):
    """What a run and a sweep share: a folder that is opened when it is first asked for.

    Args:
        place: the path or URI of the folder.
        result: its result, if that is known.
        elsewhere: where its files are, if this machine cannot read them, and how they get here.
    """

    def __init__(self, place: str | Path, result: R | None = None, elsewhere: UserError | None = None) -> None:
        self._place = str(place)
        self._known, self._elsewhere = result, elsewhere

    @property
    def folder(self) -> Folder:
        """Its folder, as the other parts of Heliostat take it.

        Raises:
            UserError: this machine cannot read it; the message has the command that brings it here.
        """
        if self._elsewhere:
            raise self._elsewhere
        return Folder.at(self._place)


class Run(Stored["Result"]):
    """A run: what `train` returns, `load_run` opens and `runs` lists.

    Its result is read when it is first asked for, and does not change afterwards: of a run that is still trained, open it again
    to get its newest. PyTorch is imported only by `model`, `task`, `predict`, `evaluate` and `trained`.

    Args:
        run: the path or URI of its folder.
        result: its result, if that is known.
        elsewhere: where its files are, if this machine cannot read them, and how they get here.
    """

    def __init__(self, run: str | Path, result: "Result | None" = None, elsewhere: UserError | None = None) -> None:
        super().__init__(run, result, elsewhere)
        self.run = str(run)

    @cached_property
    def result(self) -> "Result":
        """``result.json``, or of a run that has not finished its result so far.

        Raises:
            UserError: there is no run, or the file is damaged.
        """
        from heliostat.workloads.run.so_far import result_of
        from heliostat.workloads.torchrun.record import is_script, script_result

        return self._known or (script_result if is_script(self.folder) else result_of)(self.folder)

    @cached_property
    def record(self) -> "RunRecord":
        """``config.yaml``: the config, and with which versions, data and code it was trained.

        Raises:
            UserError: there is no run, or the file is damaged.
        """
        from heliostat.workloads.run.record import read_record

        return read_record(self.folder)

    @property
    def config(self) -> "TrainConfig":
        """The resolved config."""
        return self.record.config

    @property
    def name(self) -> str:
        return self.result.name

    @property
    def state(self) -> str:
        """finished, running, stopped, interrupted (killed), failed or diverged."""
        return self.result.state

    @property
    def step(self) -> int:
        """The last step."""
        return self.result.step

    @property
    def epoch(self) -> int:
        """The pass over the data in which the last step was, from 0."""
        return self.result.epoch

    @property
    def best_step(self) -> int | None:
        """The step of the best checkpoint; None before the end."""
        return self.result.best_step

    @property
    def metrics(self) -> dict[str, dict[str, float | None]]:
        """By split (train, validation, test) the metrics of the best checkpoint; before the end the last validation.

        None stands for NaN and infinity.
        """
        return self.result.metrics

    @property
    def intervals(self) -> dict[str, list[float]]:
        """By test metric the least and the most of its 95 % interval."""
        return self.result.intervals

    @property
    def baseline(self) -> dict[str, float | None]:
        """By test metric what a prediction that does not look at the sample reaches."""
        return self.result.baseline

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time of each phase, in seconds; ``total`` is that of the command."""
        return self.result.seconds

    @property
    def goodput(self) -> dict[str, float]:
        """Worker-seconds by what they were spent on."""
        return self.result.goodput

    @property
    def cost(self) -> float | None:
        """What the workers cost, in the currency of the prices; None where no price is known."""
        return self.result.cost

    @property
    def message(self) -> str:
        """Why it ended, if it did not finish."""
        return self.result.message

    @property
    def already(self) -> bool:
        """Whether it was finished before this call of `train`, which did nothing."""
        return self.result.already

    @property
    def report(self) -> str:
        """The path or URI of the report, a page for the browser."""
        return self.result.report

    @cached_property
    def history(self) -> "pd.DataFrame":
        """The curves: a row for each record of the loss and each evaluation.

        The columns are ``step``, ``epoch``, ``split`` (train, validation, or logged for what callbacks log), ``time``, and the
        metrics, of which the loss is one; those of training have ``lr`` and ``samples_per_second``, too. What a row lacks is
        NaN.

        Raises:
            UserError: see `folder`.
        """
        from heliostat.workloads.run.journal import read_journal
        from heliostat.workloads.run.record import METRICS

        return history_of(read_journal(self.folder, METRICS))

    @property
    def dataset(self) -> "Dataset":
        """The dataset that it was trained on, opened.

        Raises:
            UserError: it is missing, or has changed.
        """
        from heliostat.workloads.run.record import open_dataset

        return open_dataset(self.folder, self.record)

    @cached_property
    def trained(self) -> "Trained":
        """The best checkpoint, loaded: its step, and notes why a better one was not used.

        Raises:
            UserError: there is no checkpoint that can be used, or the task cannot be imported.
        """
        from heliostat.workloads.inference import load_run

        return load_run(self.folder)

    def model(self) -> "nn.Module":
        """The model of the best checkpoint, in evaluation mode, on a GPU if there is one; loaded once.

        Raises:
            UserError: see `trained`.
        """
        return self.trained.model

    @property
    def task(self) -> "Task":
        """Its task, of the code that is kept with the run if the current one differs.

        Raises:
            UserError: see `trained`.
        """
        return self.trained.task

    def predict(self, rows: Any) -> "pa.Table":
        """The predictions for raw rows of a table, a row for each, as an Arrow table (``.to_pandas()``, ``.to_pylist()``).

        Classes have the columns ``prediction`` and ``probability_CLASS``, numbers ``prediction`` and ``quantile_LEVEL``. An
        image, a text or a single row has `heliostat.predict`.

        Args:
            rows: a list of dictionaries, in which a column that is left out is missing; or a DataFrame or an Arrow table.

        Warns:
            UserWarning: categories that the run has not seen, and values out of the range of its data, by column.

        Raises:
            UserError: the run was trained on no table; rows lack columns, or have unknown ones, or values of another kind.
        """
        return self.trained.predict(rows)

    def evaluate(self, split: str = "test") -> dict[str, Any]:
        """Measure the best checkpoint on a split: ``{"run", "step", "split", "samples", "metrics", "notes"}``.

        For classes and numbers also ``intervals`` and ``baseline``.

        Raises:
            UserError: there is no such split; the dataset is missing, or has changed; see `trained`.
        """
        from heliostat.workloads.inference import evaluate

        return evaluate(self.trained, split)

    def __repr__(self) -> str:
        from heliostat.console import money, numbers

        parts = [f"{self.name}: {self.state} at step {self.step}"]
        parts += [f"{split} {numbers(metrics)}" for split, metrics in self.metrics.items()]
        parts += [] if self.cost is None else [f"cost {money(self.cost)}"]
        return f"<Run {', '.join(parts)}, in {self.run}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the state, the metrics with their intervals, the cost and the report."""
        from heliostat.console import duration, money

        facts = [f"{self.state} at step {self.step}"]
        facts += [f"{duration(self.seconds['total'])}"] if "total" in self.seconds else []
        facts += [] if self.cost is None else [f"cost {money(self.cost)}"]
        head = f"<b>{escape(self.name)}</b> {escape(', '.join(facts))}, {link(self.report, 'report')}"
        message = f"<br>{escape(self.message)}" if self.message else ""
        return f"<div>{head}{message}</div>{self._table()}"

    def _table(self) -> str:
        import pandas as pd

        if not self.metrics:
            return ""
        table: Any = pd.DataFrame(self.metrics)
        if self.intervals:
            table["95 % interval"] = {name: f"{low:.4f} to {high:.4f}" for name, (low, high) in self.intervals.items()}
        if self.baseline:
            table["baseline"] = self.baseline
        return str(table.to_html(float_format="{:.4f}".format, na_rep="", border=0))


def history_of(records: list[dict[str, Any]]) -> "pd.DataFrame":
    """Records of ``metrics.jsonl`` as a table, see `Run.history`."""
    import pandas as pd

    rows = []
    epoch = 0
    for record in records:
        epoch = record.get("epoch", epoch)
        if record["kind"] == "train":
            split = "train"
            values = {k: v for k, v in record.items() if k not in (*COLUMNS, "kind") and not isinstance(v, dict | list)}
        else:
            split = "validation" if record["kind"] == "eval" else "logged"
            values = {f"metric.{k}" if k in COLUMNS else k: v for k, v in record["metrics"].items()}
        rows.append({"step": record["step"], "epoch": epoch, "split": split, "time": record["time"], **values})
    table: Any = pd.DataFrame(rows, columns=[*dict.fromkeys([*COLUMNS, *(key for row in rows for key in row)])])
    table["time"] = pd.to_datetime(table["time"], unit="s", utc=True)
    measured = [name for name in table.columns if name not in COLUMNS]
    table[measured] = table[measured].apply(pd.to_numeric)
    return table


def link(place: str, text: str) -> str:
    """A link to a file, relative to the working directory, as Jupyter opens it; elsewhere its path or URI."""
    if place.startswith(("http://", "https://")):
        return f'<a href="{escape(place)}" target="_blank">{text}</a>'
    if "://" not in place and Path(place).is_relative_to(Path.cwd()):
        return f'<a href="{escape(os.path.relpath(place))}" target="_blank">{text}</a>'
    return f"{text} {escape(place)}"
