"""What heliostat dataset info shows: the dataset, the columns of its signature, and what is suspicious in it."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from heliostat.wording import counted

if TYPE_CHECKING:
    from heliostat.datasets import Dataset, Index
    from heliostat.datasets.signature import Column, Signature

LISTED = 4
"""Categories that a line lists."""
NAMELESS = "(no name)"
"""The row index of pandas, in what is shown."""
MOST_COLUMNS = 100
"""Columns that a dry run lists."""
DONE = {
    "number": "a number",
    "boolean": "0 or 1",
    "date": "{parts}",
    "list": "{numbers}",
    "text": "its words hashed into {numbers}",
}
"""What becomes of the values of each kind of column."""


def show(uri: str, dataset: "Dataset", as_json: bool, inspects: bool = True) -> None:
    """Print a dataset; ``inspects`` also reads it to look for leaks, copies and an uneven target."""
    from heliostat.console import out, print_json, print_table
    from heliostat.datasets.inspection import inspect

    index = dataset.index
    findings = inspect(dataset) if inspects else []
    if as_json:
        print_json(
            {"uri": uri, **index.model_dump(mode="json"), "warnings": [finding.document() for finding in findings]}
        )  # fmt: skip
        return
    for name, text in _facts(uri, index).items():
        out.print(f"{name:<12}{text}", highlight=False, markup=False, soft_wrap=True)
    if signature := index.signature:
        out.print()
        names = ("column", "kind", "type", "values", "missing", "what is learnt")
        print_table(names, [_row(column, signature.feature_names) for column in signature.columns])
        for name, why in signature.left_out.items():
            out.print(f"left out    {name or NAMELESS}: {why}", highlight=False, markup=False, soft_wrap=True)
    for finding in findings:
        out.print(f"warning     {finding.text}", highlight=False, markup=False, soft_wrap=True)


def columns(signature: "Signature") -> Iterator[tuple[str, str]]:
    """What the columns of a table are read as and why others are left out, each as a title and a text: for a dry run."""
    for column in signature.columns[:MOST_COLUMNS]:
        fill = f" (missing: {column.fill})" if _is_filled(column) else ""
        facts = [column.kind, _values(column), "" if not column.missing else f"{_missing(column)} missing"]
        text = f"{', '.join(filter(None, facts))}; learnt as {_learnt(column, signature.feature_names)}{fill}"
        yield f"column {column.name}", text
    if (more := len(signature.columns) - MOST_COLUMNS) > 0:
        yield "columns", f"and {counted(more, 'more column')}: heliostat dataset info has all, when it is built"
    for name, why in signature.left_out.items():
        yield f"left out {name or NAMELESS}", why


def _facts(uri: str, index: "Index") -> dict[str, Any]:
    from heliostat.datasets.splits import described

    rows = ", ".join(f"{index.rows(split):,} {split}" for split in index.splits)
    size = sum(shard.bytes for shards in index.splits.values() for shard in shards)
    return {
        "dataset": uri,
        "source": index.source,
        "fields": ", ".join(f"{name}: {field}" for name, field in index.fields.items()),
        "samples": rows,
        "split": described(index.meta.get("split", {})),
        "size": f"{size / 1e6:.1f} MB in {counted(sum(map(len, index.splits.values())), 'shard')}",
        **({"target": _target(index)} if index.signature else {}),
        "classes": ", ".join(index.classes) or "none",
        **({"skipped": f"{index.meta['skipped']} files that are no images"} if "skipped" in index.meta else {}),
        "fingerprint": index.fingerprint,
    }


def _target(index: "Index") -> str:
    assert index.signature
    target = index.signature.target
    unit = f" {target.unit}" if target.unit else ""
    if target.kind == "number":
        between = "" if target.least is None or target.most is None else f", {_number(target.least)} to {_number(target.most)}"
        return f"{target.name}: a number ({target.type}){between}{unit if between else ''}"
    counts = index.train.target if index.train else ()
    shares = ", ".join(f"{name} {count / sum(counts):.1%}" for name, count in zip(target.classes, counts, strict=False))
    return (
        f"{target.name}: {len(target.classes)} classes ({target.type}){f'; {shares}' if len(counts) <= 10 and shares else ''}"
    )


def _row(column: "Column", feature_names: list[str]) -> tuple[str, ...]:
    fill = f"; missing: {column.fill}" if _is_filled(column) else ""
    return column.name, column.kind, column.type, _values(column), _missing(column), _learnt(column, feature_names) + fill


def _missing(column: "Column") -> str:
    return "none" if not column.missing else f"{column.missing:.1%}" if column.missing >= 0.001 else "below 0.1%"


def _is_filled(column: "Column") -> bool:
    return bool(column.missing) and column.kind != "category"


def _learnt(column: "Column", feature_names: list[str]) -> str:
    parts = ", ".join(name.removeprefix(f"{column.name}.") for name in feature_names if name.startswith(f"{column.name}."))
    if column.kind == "category":
        return f"hashed into {column.buckets} codes" if column.buckets else f"one of {counted(column.codes, 'code')}"
    return DONE[column.kind].format(numbers=counted(column.width or 0, "number"), parts=parts)


def _values(column: "Column") -> str:
    if column.kind == "category":
        shown = ", ".join(column.categories[:LISTED])
        more = column.codes - LISTED
        return f"{column.buckets} buckets" if column.buckets else f"{shown}{f' and {more} more' if more > 0 else ''}"
    if column.kind == "boolean":
        return "false, true"
    if column.least is None or column.most is None:
        return ""
    least, most = (
        _moment(each, column.parts == ("hour",)) if column.kind == "date" else _number(each)
        for each in (column.least, column.most)
    )
    return f"{least} to {most}{f' {column.unit}' if column.unit else ''}"


def _number(value: float) -> str:
    """A number with all digits if it is whole: the least and the most of long ones would look equal."""
    return f"{value:.0f}" if value.is_integer() and abs(value) < 1e18 else f"{value:g}"


def _moment(seconds: float, of_day: bool) -> str:
    return time.strftime("%H:%M" if of_day else "%Y-%m-%d", time.gmtime(seconds))
