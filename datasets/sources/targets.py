"""Decides what the target of a table is: classes, or a number."""

from typing import Any, Literal

import pyarrow as pa

from heliostat.datasets.encoding import category_texts
from heliostat.datasets.signature import Target
from heliostat.datasets.sources import cells
from heliostat.datasets.sources.cells import Doubt
from heliostat.datasets.sources.checks import FEW, MAX_CLASSES
from heliostat.datasets.sources.survey import Survey
from heliostat.datasets.values.missing import is_text
from heliostat.datasets.values.narrow import marks, trouble
from heliostat.wording import counted

TargetType = Literal["auto", "class", "number"]


def decide_target(name: str, survey: Survey, wanted: TargetType) -> Target:
    """What the target is: numbers with a fraction or many different whole ones are a number, all else are classes.

    Raises:
        Doubt: it is neither.
    """
    style: tuple[Any, str | None] | None = (".", None) if survey.is_number else None
    if survey.from_texts and not survey.is_number and wanted != "class":
        if cells.date_format(survey.sample_of()):
            raise Doubt("has dates or times", "write it as a number, such as days")
        style = cells.number_style(survey.sample_of(), target=wanted == "auto" and len(survey.values) <= FEW)
    padded = survey.padded and not survey.floats
    if wanted == "number" and not style:
        raise Doubt("has no numbers, but target_type is number", "give target_type: class, or choose another target")
    if style and (wanted == "number" or (wanted == "auto" and not padded and _is_quantity(survey))):
        if survey.numbers and (missing := marks(survey.numbers)):
            shown = ", ".join(map(str, missing))
            fix = f"write columns: {{{name}: {{missing: [{shown}]}}}} and without_label: drop, or correct these rows"
            raise Doubt(f"has {counted(sum(missing.values()), 'value')} of {shown}, which stands for a missing one", fix)
        if survey.numbers and (wrong := trouble(survey.numbers)):
            raise Doubt(*wrong)
        return Target(name=name, kind="number", type=survey.number_type, unit=style[1], decimal=style[0])
    return _classes(name, survey)


def _is_quantity(survey: Survey) -> bool:
    if not survey.all_listed:
        return True
    found, count = survey.numbers, len(survey.values)
    return (found is None or not found.whole) or count > FEW or (count > 2 and 2 * count > survey.present)


def _classes(name: str, survey: Survey) -> Target:
    if not (is_text(survey.type) or survey.is_number or pa.types.is_boolean(survey.type)):
        raise Doubt(f"is of type {survey.type}", "convert it to texts or numbers")
    kind = str(survey.type)
    if survey.from_texts:
        if survey.is_number and not survey.padded:
            kind = survey.number_type
        else:
            lower = {text.lower() for text in survey.values[: MAX_CLASSES + 1].to_pylist()}
            kind = "bool" if lower <= {"true", "false"} else "string"
    texts = sorted(set(category_texts(kind, survey.values).to_pylist()))
    if kind == "string" and (twice := cells.truth_twice(survey.values)):
        raise Doubt(f"has several words for the same: {twice}", "write each in one way")
    if kind == "string" and (twice := cells.spelt_twice(survey.values)):
        raise Doubt(f"has texts that differ only in case or blanks: {twice}", "write each in one way")
    count = len(texts)
    if not 2 <= count <= MAX_CLASSES:
        shown = ("" if survey.all_listed else "more than ") + counted(count, "class")
        raise Doubt(f"has {shown}, but must have from 2 to {MAX_CLASSES}", "choose another target")
    if count > FEW and 2 * count > survey.present:
        raise Doubt(f"has {counted(count, 'class')} in {counted(survey.present, 'row')}", "choose another target")
    ordered = sorted(texts, key=float) if survey.is_number and kind != "string" else texts
    return Target(name=name, kind="class", type=kind, classes=tuple(ordered))
