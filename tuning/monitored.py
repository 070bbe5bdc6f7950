"""What Prometheus gets to know of a sweep while it is driven."""

from collections.abc import Iterator, Mapping

from heliostat.tuning.trials import DONE, Trials, best
from heliostat.workloads.run.monitored import Sample

SWEEP = {
    "heliostat_sweep_trials": (("sweep", "state"), "Trials by state."),
    "heliostat_sweep_best_value": (("sweep", "metric"), "The best value of each objective among the trials that have ended."),
}
"""The metrics of a sweep, all of them gauges: their labels and meaning."""
STATES = ("waiting", "running", *DONE)


def samples(name: str, objectives: Mapping[str, str], trials: Trials) -> Iterator[Sample]:
    """The values of a sweep now; a best value that there is not yet is left out."""
    counts = dict.fromkeys(STATES, 0) | trials.states()
    for state, count in counts.items():
        yield "heliostat_sweep_trials", {"sweep": name, "state": state}, count
    for metric, mode in objectives.items():
        if top := best(trials.all, metric, mode):
            yield "heliostat_sweep_best_value", {"sweep": name, "metric": metric}, top.values[metric]
