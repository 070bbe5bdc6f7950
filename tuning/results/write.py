"""Writes the outcome of a sweep to its folder: ``trials.parquet``, ``best.yaml``, ``report.html``, ``result.json``."""

from heliostat.config import to_yaml
from heliostat.tuning.plan import SweepPlan
from heliostat.tuning.results.report import write_report
from heliostat.tuning.results.table import BEST, RESULT, TABLE, SweepResult, table
from heliostat.tuning.trials import Trial, Trials
from heliostat.workloads.config import TrainConfig


def write_result(plan: SweepPlan, trials: Trials, result: SweepResult) -> None:
    """Write the table, the best config, the report and, last, the result."""
    folder = plan.folder.for_work(plan.train.patience)
    folder.write(TABLE, table(trials.all, plan.objectives))
    if result.best is not None:
        folder.write(BEST, best_config(plan, trials.all[result.best]).encode())
    write_report(folder, plan, trials, result)
    folder.write(RESULT, result.model_dump_json(indent=2).encode())


def best_config(plan: SweepPlan, trial: Trial) -> str:
    """The train config of a trial, to train it as a run of its own."""
    config = plan.trial(trial.number, trial.params).config
    config = config.model_copy(update={"name": f"{plan.config.name}-best", "storage": plan.train.config.storage})
    head = f"# Trial {trial.number} of sweep {plan.config.name}: " + ", ".join(f"{k} {v:.6g}" for k, v in trial.values.items())
    if plan.config.scheduler.kind == "pbt":
        head += "\n# Its hyperparameters changed during training; these are the last ones, so a new run will differ."
    defaults = TrainConfig.model_fields
    data = {k: v for k, v in config.model_dump(mode="json").items() if k in config.model_fields_set or v != defaults[k].default}
    return f"{head}\n{to_yaml(data)}"
