"""The samplers of Optuna: TPE (also for several objectives), CMA-ES, NSGA-II, and TPE for BOHB.

The study is stored as ``optuna.log`` in the sweep's folder, which optuna-dashboard opens. It is rebuilt from the sweep's own
journal whenever a sweep is resumed, so the two never disagree.
"""

import json
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import optuna
from optuna.samplers import BaseSampler, CmaEsSampler, NSGAIISampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import TrialState

from heliostat.folder import Folder
from heliostat.retry import UNAVAILABLE
from heliostat.tuning.config import Mode, SweepConfig
from heliostat.tuning.space import Parameter, Params, sample
from heliostat.tuning.trials import Trial

STUDY = "optuna.log"
REMOTE_WRITE = 10.0
"""Seconds between two writes of the study to an object store, where each write is a write of the whole file."""


class Optuna:
    """An Optuna study with its ask-and-tell interface."""

    def __init__(
        self,
        config: SweepConfig,
        base: Mapping[str, Any],
        objectives: Mapping[str, Mode],
        folder: Folder | None,
        trials: Sequence[Trial],
    ) -> None:
        self._space, self._base, self._metrics = config.space, base, list(objectives)
        self._asked: dict[int, optuna.Trial] = {}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study = optuna.create_study(
                storage=JournalStorage(StudyFile(folder)) if folder else None,
                study_name=config.name,
                directions=["maximize" if mode == "max" else "minimize" for mode in objectives.values()],
                sampler=sampler(config, len(trials)),
            )
            self._study.set_metric_names(self._metrics)
        self._worst = [-math.inf if mode == "max" else math.inf for mode in objectives.values()]
        for trial in trials:
            self._restore(trial)

    def ask(self, number: int) -> Params:
        trial = self._study.ask()
        self._asked[number] = trial
        return sample(self._space, self._base, lambda name, parameter: suggest(trial, name, parameter))

    def left(self, number: int, most: int) -> int:
        """The space has no end."""
        return most

    def tell(self, trial: Trial) -> None:
        """Report a trial that is done.

        One without a value (diverged, impossible, failed at every attempt, or its metric is NaN) counts as infinitely bad: the
        samplers ignore trials that are reported as failed, and would suggest their neighbours again and again.
        """
        asked = self._asked.pop(trial.number)
        known = all(metric in trial.values for metric in self._metrics)
        stopped = known and trial.state == "stopped"
        if len(self._metrics) == 1:
            for step, value in trial.curve(self._metrics[0]):
                asked.report(value, step)
        values = [trial.values[metric] for metric in self._metrics] if known else self._worst
        asked.set_user_attr("state", trial.state)
        self._study.tell(asked, None if stopped else values, TrialState.PRUNED if stopped else TrialState.COMPLETE)

    def _restore(self, trial: Trial) -> None:
        """Add a trial of an earlier session to the study, with its outcome if it is done."""
        self._study.enqueue_trial(trial.params)
        asked = self._study.ask()
        sample(self._space, self._base, lambda name, parameter: suggest(asked, name, parameter))
        self._asked[trial.number] = asked
        if trial.done:
            self.tell(trial)


def sampler(config: SweepConfig, trials: int) -> BaseSampler:
    """The sampler of a sweep; a resumed sweep gets another seed, so that it does not draw the same numbers again."""
    seed = config.seed + 7919 * trials
    if config.algorithm == "cmaes":
        return CmaEsSampler(seed=seed)
    if config.algorithm == "nsga2":
        return NSGAIISampler(seed=seed)
    # Constant liar: running trials count as bad, so that concurrent trials differ.
    return TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)


def suggest(trial: optuna.Trial, name: str, parameter: Parameter) -> Any:
    """The value that the sampler suggests for a parameter."""
    if parameter.choice is not None:
        return trial.suggest_categorical(name, parameter.choice)
    values, log = parameter.values, parameter.logarithmic
    if isinstance(values, range):
        return trial.suggest_int(name, values[0], values[-1], step=values.step, log=log)
    if values is None:
        return trial.suggest_float(name, *parameter.range, log=log)
    # Optuna warns of an end that is no step, and adds up in binary.
    found = trial.suggest_float(name, values[0], values[-1], step=parameter.range[2])
    return values[round((found - values[0]) / parameter.range[2])]


class StudyFile(BaseJournalBackend):
    """Optuna's journal with a single writer that keeps its records in memory: no locks, no torn reads, any filesystem."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._logs: list[dict[str, Any]] = []
        self._written = time.monotonic()
        self._whole = folder.is_local
        """Whether the file has all records before the last one, so that those can be appended."""
        folder.write(STUDY, b"")

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        return self._logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = [json.dumps(log, separators=(",", ":")) for log in logs]
        self._logs += [json.loads(line) for line in lines]
        with suppress(*UNAVAILABLE):  # the sweep continues, and the whole file is written later
            if self._whole:
                self._whole = False
                with self._folder.write_errors(), open(f"{self._folder.path}/{STUDY}", "a") as file:
                    file.write("".join(line + "\n" for line in lines))
                self._whole = True
            elif time.monotonic() - self._written > REMOTE_WRITE:
                self._written = time.monotonic()
                self._write(self._folder.once)
                self._whole = self._folder.is_local

    def flush(self) -> None:
        """Write the whole file."""
        self._write(self._folder)
        self._written = time.monotonic()

    def _write(self, folder: Folder) -> None:
        folder.write(STUDY, "".join(json.dumps(log) + "\n" for log in self._logs).encode())
