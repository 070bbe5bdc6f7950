"""The result of a gate as text, and as Markdown for a pull request."""

from typing import Any

from heliostat.wording import counted
from heliostat.workloads.registry.gate.statistics import ALPHA, POWER

Document = dict[str, Any]
VERDICTS = {
    "better": "is better", "not worse": "is not worse than the margin allows", "undecided": "is not shown to be better",
    "worse": "is worse",
}  # fmt: skip


def heading(found: Document) -> str:
    """Whether it has passed, and who was compared."""
    word = "passed" if found["passed"] else "not passed"
    return (
        f"gate {word}: {found['candidate']['name']} (step {found['candidate']['step']}) against {found['champion']['version']}"
    )


def sentences(found: Document) -> list[str]:
    """What was found, in full sentences."""
    rows = found["rows"]
    unsure = [check["check"] for check in found["checks"] if "p_worse" in check and check["p_worse"] is None]
    return [
        f"{rows['used']:,} of {counted(rows['test'], 'test row')}{_left_out(rows)}.",
        *reasons(found),
        *[f"Too few rows to say whether it is worse: {', '.join(unsure)}."] * bool(unsure),
        *(f"Note: {note}." for note in found["notes"]),
    ]


def reasons(found: Document) -> list[str]:
    """Why it has passed or not, in full sentences."""
    metric = found["metric"]
    margin = f", margin {metric['margin']:g}" if metric["margin"] else ""
    low, high = metric["interval"]
    lines = [
        f"By {metric['name']} ({metric['better']} is better{margin}) the candidate {VERDICTS[found['verdict']]}: "
        f"{_number(metric['candidate'])} against {_number(metric['champion'])}, better by {metric['gain']:+.4f} "
        f"(95 %: {low:+.4f} to {high:+.4f}), p = {metric['p_better']:.3g} ({metric['method']}).",
    ]
    if found["verdict"] == "undecided":
        lines.append(_undecided(metric, found["rows"]["used"]))
    failed = [check["check"] for check in found["checks"] if not check["passed"]]
    return lines + [f"Worse than allowed: {', '.join(failed)}."] * bool(failed)


def table(found: Document) -> tuple[list[str], list[list[str]]]:
    """The checks: the names of the columns, and a row for each."""
    rows = []
    for check in found["checks"]:
        if "most" in check:
            unit, scale = ("MB", 1e6) if check["check"] == "size" else ("ms", 1.0)
            allowed = f"{check['most']:g} times, or {check['free'] / scale:g} {unit} more"
            values, count = [f"{check[key] / scale:.3g} {unit}" for key in SIDES], ""
        else:
            p = check["p_worse"]
            allowed = "not decided" if p is None else f"p of being worse {p:.3g}"
            values, count = [_number(check[key]) for key in SIDES], f"{check['rows']:,}"
        rows.append([check["check"], count, *values, allowed, "yes" if check["passed"] else "NO"])
    return ["check", "rows", "candidate", "champion", "allowed", "passed"], rows


SIDES = ("candidate", "champion")


def markdown(found: Document) -> str:
    """The whole result as Markdown."""
    names, rows = table(found)
    lines = [f"### {heading(found).capitalize()}", "", *(f"- {_escaped(line)}" for line in sentences(found)), ""]
    lines += [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    return "\n".join([*lines, *(f"| {' | '.join(map(_escaped, row))} |" for row in rows), ""])


def _left_out(rows: Document) -> str:
    parts = [f"{rows['learnt_from']:,} left out, as a model was trained or selected on them"] if rows["learnt_from"] else []
    parts += [f"{rows['not_kept']:,} with a category that this dataset does not list"] if rows["not_kept"] else []
    return f" ({'; '.join(parts)})" if parts else ""


def _undecided(metric: Document, used: int) -> str:
    if not metric["rows_needed"]:
        return "The candidate is not ahead on these rows: at this difference no number of rows would show that it is better."
    return (
        f"{counted(used, 'row')} cannot decide: about {metric['rows_needed']:,} would, in {POWER:.0%} of all cases at the "
        "level "
        f"of {ALPHA:.1%}, if the difference is what it is here."
    )


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.4f}"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
