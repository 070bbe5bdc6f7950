"""Writes the outcome of a sweep to its folder: ``trials.parquet``, ``best.yaml``, ``result.json``, and ``report.html``."""

from collections.abc import Mapping

from heliostat.config import to_yaml
from heliostat.console import printable
from heliostat.folder import Folder
from heliostat.tuning.journal import read_journal
from heliostat.tuning.plan import SweepPlan
from heliostat.tuning.results.report import write_report
from heliostat.tuning.results.table import BEST, RESULT, TABLE, SweepResult, result_of, table
from heliostat.tuning.trials import Trial, Trials
from heliostat.workloads.config import TrainConfig


def write_result(plan: SweepPlan, trials: Trials, result: SweepResult) -> None:
    """Write the table, the best config and, last, the result."""
    folder = plan.folder.for_work(plan.train.patience)
    _write_tables(folder, plan, trials, result)
    folder.write(RESULT, result.model_dump_json(indent=2).encode())


def write_so_far(plan: SweepPlan, ended: str = "running", once: bool = False) -> None:
    """Write the table, the best config and the report of a sweep that is not finished, from its journal.

    Args:
        ended: how it ended, or that it is running.
        once: whether this is one attempt, which does not wait for the storage.
    """
    folder = plan.folder.once if once else plan.folder
    trials = Trials(read_journal(folder))
    if ended != "running":
        trials.interrupted()
    if not any(trial.reports or trial.done for trial in trials.all):
        return
    result = result_of(plan.config, plan.uri, plan.objectives, trials, ended)
    _write_tables(folder, plan, trials, result)
    write_report(folder, plan, trials, result)


def _write_tables(folder: Folder, plan: SweepPlan, trials: Trials, result: SweepResult) -> None:
    folder.write(TABLE, table(trials.all, plan.objectives))
    if result.best is not None:
        folder.write(BEST, best_config(plan, trials.all[result.best], result.values).encode())


def best_config(plan: SweepPlan, trial: Trial, values: Mapping[str, float]) -> str:
    """The train config of a trial with these values of the objectives, to train it as a run of its own."""
    config = plan.trial(trial.number, trial.params).config
    config = config.model_copy(update={"name": f"{plan.config.name}-best", "storage": plan.train.config.storage})
    state = "" if trial.done else ", which was not over yet"
    measured = ", ".join(f"{printable(name)} {value:.6g}" for name, value in values.items())
    head = f"# Trial {trial.number} of sweep {plan.config.name}{state}: {measured}"
    if plan.config.scheduler.kind == "pbt":
        head += "\n# Its hyperparameters changed during training; these are the last ones, so a new run will differ."
    defaults = TrainConfig.model_fields
    data = {k: v for k, v in config.model_dump(mode="json").items() if k in config.model_fields_set or v != defaults[k].default}
    return f"{head}\n{to_yaml(data)}"
