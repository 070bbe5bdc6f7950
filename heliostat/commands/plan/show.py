"""What ``heliostat plan`` prints: a table of fleets, or a line for each of several traces."""

from typing import TYPE_CHECKING, Any

from heliostat.wording import counted

if TYPE_CHECKING:
    from heliostat.cluster.planner.fleet import Outcome
    from heliostat.cluster.planner.study import Study

BASE = "cheapest static"
DAY = 86_400.0
NAMES = ("profile", "profile, elastic jobs", "planned")
"""The rows of which a line has columns."""


def show(studies: "list[Study]", name: str) -> None:
    from heliostat.console import out

    if len(studies) > 1:
        _show_all(studies)
        return
    (study,) = studies
    _show_fleets(study, name)
    for remark in study.remarks:
        out.print(remark, soft_wrap=True)
    if study.found:
        for group in study.found.fleet.groups:
            values = f"min: {group.least}, max: {group.most}, idle_seconds: {group.idle_seconds:.0f}"
            out.print(f"planned: group {group.name} with {values}", soft_wrap=True)
    for text in beyond(study):
        out.print(text, soft_wrap=True)
    if text := missed(study):
        out.print(text, soft_wrap=True)


def beyond(study: "Study") -> list[str]:
    """What was found that a profile cannot have, in sentences."""
    if study.beyond is None:
        return []
    name = f"planned, {study.beyond.beyond}"
    texts = [
        f"{name}: group {group.name} with min: {min(group.hours)} to {max(group.hours)} by the hour of the week (--json has "
        "all). A profile has one min, so --write leaves them out: set them at these hours, with "
        f"heliostat up PROFILE --set groups.{group.name}.min=N"
        for group in study.beyond.fleet.groups
        if group.hours
    ]
    if (part := study.beyond.ranges) != "none":
        which = "all of their ranges" if part == "both" else f"the part of their ranges {part} num_gpu"
        texts.append(f"{name}: with {which}; the jobs' configs have it, as workers: [least, most], and not the profile")
    if not study.keeps(name):
        texts.append(f"{name}: kept the wait where it was searched, but not in what is reported here")
    return texts


def missed(study: "Study") -> str:
    """In what the search has missed the wait that was asked for; empty if it has kept it, or nothing was searched."""
    from heliostat.console import duration

    if study.wait is None:
        return ""
    target, advice = duration(study.wait), "allow a longer wait, more --trials, or a higher max"
    if study.found is None:
        return f"no profile that was tried keeps {target}: {advice}"
    if not study.kept:
        return f"the planned profile kept {target} where it was searched, but not in what is reported here: {advice}"
    return ""


def _show_fleets(study: "Study", name: str) -> None:
    from heliostat.cluster.planner.fleet import mean_of, percentile_of
    from heliostat.console import duration, out, print_table

    plan = study.plan
    part = "the part that was not searched with, " if study.tried else ""
    out.print(
        f"{study.name}: {part}{counted(plan.jobs, 'job')} in {length(plan.seconds)}, "
        f"{amount(plan.gpu_hours)} GPU-hours of their own",
        soft_wrap=True,
    )
    rows = []
    for row in plan.rows:
        outcome = row.outcome
        waits = (outcome.mean_wait, outcome.wait(plan.percentile), outcome.wait(100))
        times = (mean_of(outcome.times), percentile_of(outcome.times))
        title = row.name.replace("profile", f"profile {name}", 1) if row.name.startswith("profile") else row.name
        shares = (_percent(plan.saving(row.cost)), f"{outcome.utilisation:.0%}")
        rows.append((title, row.nodes, row.cost, *shares, *map(duration, (*waits, *times))))
    rows.append(("lower bound on demand: the jobs' GPU-hours", "", plan.bound, _percent(plan.saving(plan.bound)), *[""] * 6))
    columns = (
        "fleet", "nodes", "cost $", "saving", "used", "mean wait", "95 % wait", "longest", "mean time", "95 % time",
    )  # fmt: skip
    print_table(columns, [[amount(value) if isinstance(value, float) else value for value in row] for row in rows])
    target = f"95 % of the jobs wait at most {duration(plan.target)}"
    out.print(
        f"saving: against the cheapest static fleet with which {target}; used: of the GPUs that are paid for; time: from the "
        "submission of a job until its end",
        soft_wrap=True,
    )


def amount(value: float) -> str:
    """Money or hours: whole ones of a hundred and more, else with as many decimals as show what it is."""
    from heliostat.console import money

    return f"{value:,.0f}" if value >= 100 else money(value)


def length(seconds: float) -> str:
    """The time that a trace covers."""
    from heliostat.console import duration

    return f"{seconds / DAY:.1f} days" if seconds >= DAY else duration(seconds)


def _show_all(studies: "list[Study]") -> None:
    """A line for each of several traces."""
    from statistics import median

    from heliostat.console import err, out, print_table

    names = [name for name in NAMES if any(row.name == name for each in studies for row in each.plan.rows)]
    rows = [_line(study, names) for study in studies]
    own = [column for name in names for column in (f"{name} saves", "mean wait s", "95 % wait s")]
    print_table(
        ("trace", "jobs", "static nodes", "mean wait s", "95 % wait s", *own, "reserved static saves", "with the mix", "bound"),
        rows,
    )
    for name in names:
        savings = [each.plan.saving(row.cost) for each in studies for row in each.plan.rows if row.name == name]
        out.print(f"median saving of {name}: {_percent(median(savings))}")
    for study in studies:
        for remark in study.remarks:
            err.print(f"{study.name}: {remark}", soft_wrap=True)
        if study.wait is not None and not study.kept:
            err.print(f"{study.name}: the wait is not kept", soft_wrap=True)


def _line(study: "Study", names: list[str]) -> tuple[Any, ...]:
    plan = study.plan
    static = plan.row(BASE)
    rows = {row.name: row for row in plan.rows}
    own: list[Any] = []
    for name in names:
        row = rows.get(name)
        own += [_percent(plan.saving(row.cost)), *_waits(row.outcome)] if row else ["-", "-", "-"]
    others = [_percent(plan.saving(row.cost)) for row in (rows["reserved static"], plan.rows[-1])]
    bound = _percent(plan.saving(plan.bound))
    return (study.name, plan.jobs, static.nodes, *_waits(static.outcome), *own, *others, bound)


def _waits(outcome: "Outcome") -> tuple[str, str]:
    return f"{outcome.mean_wait:.0f}", f"{outcome.wait():.0f}"


def _percent(share: float) -> str:
    return f"{share:.1%}"
