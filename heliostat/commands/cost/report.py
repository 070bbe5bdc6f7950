"""The page of heliostat cost --report: the nodes over time, the money over time, the most expensive runs, what to change."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heliostat.commands.cost import Found

COLOURS = {
    "productive": "#2f8f5b", "overhead": "#b58ad6", "starting": "#7a9cc6", "idle": "#c9ced6", "recomputed": "#c2570c",
    "lost": "#b3261e", "unrecorded": "#f1d9a7",
}  # fmt: skip
STATES = {"busy": "#2f8f5b", "starting": "#7a9cc6", "idle": "#c9ced6", "unknown": "#f1d9a7"}
MOST_NODES = 200
"""Nodes in the figure: the first ones."""
MOST_RUNS = 12
BINS = 120


def write_page(found: "Found", remarks: Sequence[str], path: Path) -> None:
    """Write the page atomically, with sentences over its figures, and print its path."""
    from heliostat.cluster import cost
    from heliostat.console import clock, duration, out
    from heliostat.folder import Folder
    from heliostat.workloads.run.page import render

    record = found.record
    by_run = cost.in_cents(cost.rows(found.charges, cost.keys("run", record)))
    kinds = [kind for kind in cost.KINDS if any(row.money[kind] for row in by_run)]
    page = render(
        Path(__file__).parent / "cost.html.j2",
        result={"name": f"Cost of {found.name}"},
        period=f"{clock(record.begin)} to {clock(record.end)} ({duration(record.end - record.begin)})",
        tiles=[(f"${sum(row.total for row in by_run):,.2f}", "all nodes")]
        + [(f"${money:,.2f}", kind) for kind in kinds if (money := sum(row.money[kind] for row in by_run))],
        figures=[_timeline(record), _money(found.charges, record)] if record.intervals else [],
        kinds=kinds,
        rows=by_run[:MOST_RUNS],
        more=max(0, len(by_run) - MOST_RUNS),
        remarks=remarks,
    )
    Folder.at(path.resolve().parent).write(path.name, page.encode())
    out.print(str(path), soft_wrap=True, highlight=False, markup=False)


def _timeline(record: Any) -> str:
    """A band for each node, by group, in the colours of what it did; gaps are shaded."""
    from matplotlib.patches import Patch

    from heliostat.workloads.run.charts import label
    from heliostat.workloads.run.figures import GREY, new_figure, svg

    nodes = list(dict.fromkeys((each.group, each.node) for each in record.intervals))
    nodes = sorted(nodes, key=lambda node: node[0] != "head")[:MOST_NODES]
    rows = {node: row for row, (_, node) in enumerate(nodes)}
    figure, axes = new_figure(width=11.2, height=min(9.0, 1.4 + 0.16 * len(nodes)), title="nodes by what they did")
    unit, seconds = _unit(record)
    for each in record.intervals:
        if each.node in rows:
            begin, width = (each.begin - record.begin) / seconds, each.seconds / seconds
            axes.barh(rows[each.node], width, left=begin, height=0.8, color=STATES[each.state], linewidth=0)
    for gap in (gap for gap in record.gaps if not gap.cluster):
        axes.axvspan((gap.begin - record.begin) / seconds, (gap.end - record.begin) / seconds, color="#f6efe0", zorder=0)
    groups = [group for group, _ in nodes]
    axes.set_yticks([groups.index(group) for group in dict.fromkeys(groups)], [label(g) for g in dict.fromkeys(groups)])
    axes.set_xlim(0, (record.end - record.begin) / seconds)
    axes.invert_yaxis()
    axes.set_xlabel(unit, color=GREY)
    seen = {each.state for each in record.intervals}
    patches = [Patch(color=colour, label=state) for state, colour in STATES.items() if state in seen]
    axes.legend(handles=patches, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return svg(figure)


def _money(charges: Sequence[Any], record: Any) -> str:
    """Dollars an hour over time, stacked by what they were spent on."""
    import numpy as np

    from heliostat.workloads.run.figures import GREY, new_figure, svg

    edges = np.linspace(record.begin, record.end, BINS + 1)
    heights: dict[str, Any] = {}
    for charge in charges:
        overlap = np.minimum(edges[1:], charge.end) - np.maximum(edges[:-1], charge.begin)
        rate = np.clip(overlap, 0, None) * charge.share * charge.price / np.diff(edges)
        heights[charge.kind] = heights.get(charge.kind, 0.0) + rate
    kinds = [kind for kind in COLOURS if kind in heights]
    figure, axes = new_figure(width=11.2, title="dollars an hour by what they were spent on")
    unit, seconds = _unit(record)
    at = (edges - record.begin) / seconds
    stacked = [np.append(heights[kind], heights[kind][-1:]) for kind in kinds]
    axes.stackplot(at, stacked, step="post", labels=kinds, colors=[COLOURS[kind] for kind in kinds])
    axes.set_xlim(0, at[-1])
    axes.set_xlabel(unit, color=GREY)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return svg(figure)


def _unit(record: Any) -> tuple[str, float]:
    units = (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0))
    return next(((u, s) for u, s in units if record.end - record.begin > 2 * s), ("seconds", 1.0))
