"""The page of ``heliostat plan --report``: before and after, cost against waiting, and all fleets, of each trace."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from heliostat.cluster.planner.fleet import mean_of, percentile_of
from heliostat.commands.plan.show import amount, beyond, length, missed
from heliostat.console import duration
from heliostat.wording import counted

if TYPE_CHECKING:
    from heliostat.cluster.planner.curves import Point
    from heliostat.cluster.planner.plan import Row
    from heliostat.cluster.planner.study import Study

TEMPLATE = Path(__file__).with_name("plan.html.j2")
STATIC, OURS, FRONT = "#66707d", "#c2570c", "#2563a8"
BEFORE = {"one job at a time": "one job at a time, on nodes always up", "cheapest static": "a static fleet that all share"}
AFTER = {
    "as recorded": "as it ran, by the record", "profile": "nodes follow the jobs", "planned": "as planned",
    "profile, elastic jobs": "nodes follow elastic jobs",
}  # fmt: skip
"""The rows of a plan that a team compares before and after it moves, and what they are."""


def write_report(path: str, profile: str, studies: "Sequence[Study]") -> None:
    """Write the page to a file."""
    from heliostat.workloads.run.page import render

    page = render(TEMPLATE, result=SimpleNamespace(name=f"Plan of {profile}"), traces=[_trace(each) for each in studies])
    Path(path).write_text(page, encoding="utf-8")


def _trace(study: "Study") -> dict[str, Any]:
    plan = study.plan
    rows = [
        {
            "fleet": row.name, "nodes": row.nodes, "size": counted(row.nodes, "node"),
            "hours": amount(row.outcome.node_seconds / 3600), "cost": amount(row.cost),
            "saving": f"{plan.saving(row.cost):.1%}", "mean": duration(row.outcome.mean_wait),
            "p95": duration(row.outcome.wait()), "longest": duration(row.outcome.wait(100)),
            "mean_time": duration(mean_of(row.outcome.times)), "p95_time": duration(percentile_of(row.outcome.times)),
            "used": f"{row.outcome.utilisation:.0%}",
        }
        for row in plan.rows
    ]  # fmt: skip
    shown = _before_and_after(study)
    return {
        "name": study.name, "rows": rows, "jobs": counted(plan.jobs, "job"), "time": length(plan.seconds),
        "gpu_hours": amount(plan.gpu_hours), "bound": amount(plan.bound), "target": duration(plan.target),
        "searched": bool(study.tried), "remarks": study.remarks, "svg": _figure(study),
        "found": study.found and study.found.fleet.groups, "beyond": beyond(study),
        "compared": [(text, next(row for row in rows if row["fleet"] == of.name)) for text, of in shown],
        "bars": _bars(shown), "sentence": _sentence(study), "missed": missed(study),
    }  # fmt: skip


def _before_and_after(study: "Study") -> "list[tuple[str, Row]]":
    rows = {row.name: row for row in study.plan.rows}
    return [(text, rows[name]) for name, text in {**BEFORE, **AFTER}.items() if name in rows]


def _sentence(study: "Study") -> str:
    """What a team that moves from a static fleet gets."""
    plan = study.plan
    names = [row.name for row in plan.rows]
    before, after = plan.row("cheapest static"), plan.row("planned" if "planned" in names else "profile")
    change = mean_of(after.outcome.times) / (mean_of(before.outcome.times) or 1.0) - 1
    cost = f"{abs(plan.saving(after.cost)):.0%} {'less' if after.cost <= before.cost else 'more'}"
    target = "" if missed(study) else " with the same wait target"
    time = f"{abs(change):.1%} {'less' if change <= 0 else 'longer'}"
    return (
        f"Nodes that follow the jobs cost {cost} than the cheapest static fleet{target}; a result takes "
        f"{time} on average; {after.outcome.utilisation:.0%} of the GPUs that are paid for are used, instead of "
        f"{before.outcome.utilisation:.0%}."
    )


def _bars(rows: "Sequence[tuple[str, Row]]") -> str:
    """Cost, time to a result and utilisation, each as bars; the first two on logarithmic axes."""
    from matplotlib.figure import Figure

    from heliostat.workloads.run.figures import style, svg

    figure = Figure(figsize=(11.2, 0.8 + 0.34 * len(rows)), layout="constrained")
    values = {
        "cost (log.)": [of.cost for _, of in rows],
        "hours to result (log.)": [mean_of(of.outcome.times) / 3600 for _, of in rows],
        "GPUs used, %": [of.outcome.utilisation * 100 for _, of in rows],
    }
    colours = [STATIC if of.name in BEFORE else OURS for _, of in rows]
    for axes, (title, numbers) in zip(figure.subplots(1, 3, sharey=True), values.items(), strict=True):
        style(axes, title)
        axes.barh(range(len(rows)), numbers, color=colours, height=0.6)
        if "%" in title or min(numbers) <= 0:
            axes.set_xlim(0, max(100.0 if "%" in title else 0.0, *numbers) * 1.2 or 1.0)
        else:
            axes.set_xscale("log")
            axes.set_xlim(min(numbers) / 3, max(numbers) * 5)
        for at, number in enumerate(numbers):
            text = f"{number:.0f}" if "%" in title else amount(number)
            axes.annotate(text, (number, at), textcoords="offset points", xytext=(4, 0), va="center", fontsize=9)
        axes.set_yticks(range(len(rows)), [text for text, _ in rows])
        axes.tick_params(left=False)
        axes.xaxis.set_visible(False)
    figure.axes[0].invert_yaxis()
    return svg(figure)


def _figure(study: "Study") -> str:
    """The cost of fleets over the wait of 95 % of the jobs, in minutes."""
    from heliostat.cluster.planner.curves import searched_points, static_points
    from heliostat.workloads.run.figures import GREY, new_figure, svg

    figure, axes = new_figure(9, 4.2, "cost against waiting")
    _draw(axes, static_points(study.jobs, study.fleet), STATIC, "o", "static fleets", "-")
    if study.tried:
        _draw(axes, searched_points(study.jobs, study.tried), FRONT, ".", "the best that the search has tried", "")
    for name, colour, marker in (("profile", FRONT, "D"), ("planned", OURS, "*"), ("cheapest static", STATIC, "s")):
        for row in study.plan.rows:
            if row.name == name:
                at = (row.outcome.wait() / 60, row.cost)
                axes.plot(*at, marker, color=colour, markersize=13 if marker == "*" else 8, label=name, clip_on=False, zorder=3)
    axes.axhline(study.plan.bound, color=GREY, linewidth=0.8, linestyle=(0, (3, 2)))
    axes.annotate("the jobs' own GPU-hours", (0.99, study.plan.bound), xycoords=("axes fraction", "data"),
                  textcoords="offset points", xytext=(0, 4), ha="right", color=GREY, fontsize=8)  # fmt: skip
    axes.axvline(study.plan.target / 60, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter(lambda value, _: amount(value))
    axes.set_xlabel("minutes that 95 % of the jobs wait at most", color=GREY)
    axes.set_ylabel("cost", color=GREY)
    axes.legend(frameon=False, fontsize=9)
    return svg(figure)


def _draw(axes: Any, points: "Sequence[Point]", colour: str, marker: str, name: str, line: str) -> None:
    waits, costs = [point.wait / 60 for point in points], [point.cost for point in points]
    axes.plot(waits, costs, marker=marker, linestyle=line, color=colour, linewidth=1.2, markersize=4, label=name)
