"""The output of ``heliostat sweep --dry-run``."""

from typing import Any

from heliostat.console import money
from heliostat.tuning.algorithms.grid import Grid
from heliostat.tuning.algorithms.optuna import Optuna
from heliostat.tuning.algorithms.random import Random
from heliostat.tuning.cost import most_expensive
from heliostat.tuning.feasibility import explore, fix_of, impossible
from heliostat.tuning.journal import read_journal
from heliostat.tuning.plan import SweepPlan
from heliostat.tuning.space import Params
from heliostat.tuning.trials import Trials
from heliostat.wording import counted

FIRST = 5


def preview(plan: SweepPlan) -> dict[str, Any]:
    """The first trials, their resources and concurrency, and the cost as far as it is known."""
    config, each = plan.config, plan.train.config.resources
    cpu, gpu = plan.workers * each.cpu, plan.workers * int(each.gpu)
    price = most_expensive(plan.nodes, float(each.cpu), float(each.gpu))
    hour = None if price is None else price * plan.workers * plan.slots
    seconds, cost = _estimate(plan, hour)
    first = _first(plan)
    unusable, space = impossible(first, plan.base, plan.nodes), explore(config, plan.base, plan.nodes)
    known = "not known before a trial has run"
    says = {
        "objective": ", ".join(f"{metric} ({mode})" for metric, mode in plan.objectives.items()),
        "search": f"{config.algorithm}, scheduler {config.scheduler.kind}, until {_limits(plan)}",
        "impossible": f"{len(unusable)} of {counted(len(first), 'trial')} shown, and {space}"
        + (f"; {fix_of(config, plan.base, plan.nodes)}" if space.impossible else ""),
        "each trial": f"{counted(plan.workers, 'worker')}, {cpu} CPU and {gpu} GPU",
        "at once": f"at most {plan.slots}" + (f", concurrency is {config.concurrency}" if config.concurrency else ""),
        "cost": ("no prices are known" if hour is None else f"at most {money(hour)} an hour")
        + (f", about {money(cost)} in all" if cost is not None else ""),
        "time": known if seconds is None else f"about {seconds:.0f} s",
        "folder": f"{plan.uri} ({'exists: the sweep is resumed' if not plan.elsewhere and plan.folder.exists() else 'new'})",
    }
    return {
        "first_trials": first,
        "impossible": {
            "tried": space.tried,
            "impossible": len(space.impossible),
            "because": list(dict.fromkeys(error.what for _, error in space.impossible)),
        },
        "objectives": plan.objectives,
        "resources": {"CPU": cpu, "GPU": gpu, "workers": plan.workers},
        "at_once": plan.slots,
        "cost_per_hour": hour,
        "estimated_seconds": seconds,
        "estimated_cost": cost,
        "sweep": plan.uri,
        "says": says,
    }


def _limits(plan: SweepPlan) -> str:
    config = plan.config
    limits = [counted(config.trials or 0, "trial")] * bool(config.trials) + [f"{config.seconds} s"] * bool(config.seconds)
    return " or ".join(limits + [f"{config.budget} spent"] * bool(config.budget)) or "all combinations"


def _first(plan: SweepPlan) -> list[Params]:
    config, base = plan.config, plan.base
    count = min(FIRST, config.trials or FIRST)
    algorithm: Random | Grid | Optuna = (
        Random(config, base)
        if config.algorithm == "random"
        else Grid(config, base)
        if config.algorithm == "grid"
        else Optuna(config, base, plan.objectives, None, [])
    )
    return [params for number in range(count) if (params := algorithm.ask(number)) is not None]


def _estimate(plan: SweepPlan, hour: float | None) -> tuple[float | None, float | None]:
    """The seconds and the cost that are left, estimated from the trials so far or from the limits."""
    config = plan.config
    seconds = None
    if not plan.elsewhere:
        trials = Trials(read_journal(plan.folder))
        trials.slots = plan.slots
        seconds = trials.remaining_seconds(config.trials, 0.0)
    limits = [limit for limit in (seconds, config.seconds) if limit is not None]
    seconds = min(limits) if limits else None
    cost = None if hour is None or seconds is None else hour * seconds / 3600
    return seconds, cost if config.budget is None or cost is None else min(cost, config.budget)
