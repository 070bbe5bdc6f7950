"""Decides what each column of a table is: learnt from as numbers, categories, dates and so on, left out, or refused."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field as Key

from heliostat.config import Config
from heliostat.datasets.encoding import BUCKETS, category_texts, exact_numbers, lists
from heliostat.datasets.signature import Column
from heliostat.datasets.sources import cells
from heliostat.datasets.sources.cells import Doubt
from heliostat.datasets.sources.checks import COUNTER, FEW, IDENTIFIER, MAX_CATEGORIES
from heliostat.datasets.sources.survey import LARGE, Survey
from heliostat.datasets.values import dates, narrow, words
from heliostat.datasets.values.missing import is_text
from heliostat.wording import counted

Type = Literal["number", "boolean", "category", "date", "day-month-year", "month-day-year", "list", "text"]
SENTENCE = 3
"""Words on average in what is taken as free text."""
Numbers = npt.NDArray[Any]


class LeftOut(Exception):
    """Why a column is not learnt from."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ColumnOptions(Config):
    """How a column is read, where it is not as it is found."""

    type: Type | None = Key(
        None,
        description="number, boolean, category, date, day-month-year or month-day-year (dates such as 1/2/24), list or text",
    )
    fill: Literal["mean", "median", "zero", "refuse"] | float = Key(
        "mean", description="what a model takes for a missing number: mean, median or zero, or a number; or refuse"
    )
    missing: list[str | float] = Key([], description="values that also stand for a missing one, such as [-999, unknown]")
    rename: str | None = Key(None, min_length=1, description="another name for it; raw rows may have either one")

    @property
    def markers(self) -> tuple[str, ...]:
        """As texts, whole numbers without a point."""
        return tuple(str(int(each)) if isinstance(each, float) and each.is_integer() else str(each) for each in self.missing)


def decide(name: str, survey: Survey, options: ColumnOptions, is_index: bool | None = False) -> Column:
    """What a column is.

    Args:
        is_index: whether pandas had it as the index of the rows; None if its name says that it may be one.

    Raises:
        LeftOut: it is not learnt from.
        Doubt: it is refused.
    """
    if not survey.present:
        raise LeftOut("has no value")
    if not options.type:
        _check_index(survey, is_index)
        _check_constant(survey)
    column = MAKERS[_kind(name, survey, options.type)](name, survey, options.type)
    return column.model_copy(update={"fill": options.fill, "markers": options.markers})


def number_of(
    name: str, survey: Survey, kind: str, decimal: Any = ".", unit: str | None = None, is_given: bool = False
) -> Column:
    """A column of numbers, narrowed without a loss; ``is_given``, its type is that of the options.

    Raises:
        Doubt: 32 bits do not hold them, or one of them stands for a missing value.
    """
    column = Column(name=name, kind="number", type=kind, decimal=decimal, unit=unit)
    values = survey.sample.values(survey.type)
    if survey.numbers and survey.from_texts and decimal == ".":
        values = pc.cast(values, pa.float64() if survey.floats else pa.int64())
    sample = np.asarray(values) if not is_text(values.type) else exact_numbers(column, values)
    found = survey.numbers
    if not found or decimal != ".":
        found = narrow.Summary()
        found.add(sample)
    if wrong := narrow.trouble(found):
        raise Doubt(*wrong)
    if not is_given and (marks := narrow.marks(found)):
        fix = f"write columns: {{{name}: {{missing: [{', '.join(map(str, marks))}]}}}}, or {{type: number}} if it is one"
        raise Doubt(
            " and ".join(f"has {counted(n, 'value')} of {mark}, which stands for a missing one" for mark, n in marks.items()),
            fix,
        )
    offset = narrow.offset_of(sample, found)
    if wrong := narrow.loss(sample, offset):
        raise Doubt(*wrong)
    return column.model_copy(update={"offset": offset, "whole": found.whole})


# --- which kind -----------------------------------------------------------------------------------------------


def _check_index(survey: Survey, is_index: bool | None) -> None:
    whole = survey.is_number and not survey.floats and not survey.missing
    if is_index or (is_index is None and whole and survey.all_different):
        raise LeftOut("is the row index of pandas")
    if is_index is None:
        raise Doubt("has no name of its own", "give it one, or drop it if it numbers the rows")


def _check_constant(survey: Survey) -> None:
    """A column of one value says nothing, unless it is missing in some rows."""
    if survey.missing or not survey.all_listed or not (is_text(survey.type) or pa.types.is_primitive(survey.type)):
        return
    if len(survey.values) == 1:
        raise LeftOut(f"is {survey.values[0].as_py()} in all rows")


def _kind(name: str, survey: Survey, wanted: Type | None) -> str:
    """The key in `MAKERS`."""
    kind = survey.type
    if wanted:
        return "date" if wanted in ("day-month-year", "month-day-year") else wanted
    if survey.is_number:
        return "plain"
    if is_text(kind):
        return "texts"
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_temporal(kind) and not pa.types.is_duration(kind):
        return "date"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return "list"
    raise Doubt(f"is of type {kind}, which cannot be a feature", "convert it to numbers, texts or lists of numbers")


def _plain(name: str, survey: Survey, wanted: Type | None) -> Column:
    """Plain numbers: quantities, or names of something."""
    found = survey.numbers
    assert found
    if survey.padded and not survey.floats:
        return _texts(name, survey, "category")
    if survey.beyond and survey.floats:
        if found.whole:
            return _named(name, survey, "string")
        what = f"has whole numbers that 64 bits do not hold, such as {survey.beyond}"
        raise Doubt(what, "drop it, or give its type as category in dataset.options.columns")
    kind = survey.number_type
    if found.whole:
        if IDENTIFIER.fullmatch(name) and len(survey.values) > 2:  # two are a flag, such as has_phone
            return _named(name, survey, kind)
        if COUNTER.fullmatch(name) and found.count == int(found.most) - int(found.least) + 1 and survey.all_different:
            raise LeftOut("counts the rows")
        if not survey.floats and cells.are_dates_of_digits(survey.sample_of(), found):
            what = f"has whole numbers that look like dates, such as {found.first}"
            raise Doubt(what, f"write columns: {{{name}: {{type: date}}}}, or {{type: number}} if they are none")
    column = number_of(name, survey, kind)
    if found.whole and not survey.floats and max(-found.least, found.most) > LARGE and not column.offset:
        return _named(name, survey, kind)
    return column


def _named(name: str, survey: Survey, kind: str) -> Column:
    """Whole numbers that name something."""
    if survey.all_different and survey.present > FEW:
        raise LeftOut(f"names the rows: each has another value, such as {survey.values[0].as_py()}")
    return _category(name, survey, kind)


def _texts(name: str, survey: Survey, wanted: Type | None) -> Column:
    """Texts that are no plain numbers."""
    texts = survey.sample_of()
    if not wanted:
        if survey.all_listed and cells.are_truths(survey.values):
            return _boolean(name, survey, wanted)
        if cells.date_format(texts):
            return _date(name, survey, wanted)
        if style := cells.number_style(texts):
            column = number_of(name, survey, "string", *style)
            if column.whole and not column.unit and IDENTIFIER.fullmatch(name) and len(survey.values) > 2:
                return _named(name, survey, "string")
            return column
        cells.check_times(texts)
        if cells.are_lists(texts):
            return _list(name, survey, wanted)
        count = len(survey.values)
        many = not survey.all_listed or count > MAX_CATEGORIES or (count > FEW and 2 * count > survey.present)
        if many and cells.words(survey.values) >= SENTENCE:
            return _text(name, survey, wanted)
        if survey.all_different and survey.present > FEW:
            raise LeftOut(f"names the rows: each has another text, such as {survey.values[0].as_py()!r}")
        if twice := cells.truth_twice(survey.values):
            raise Doubt(
                f"has several words for the same: {twice}",
                f"write each in one way, or write columns: {{{name}: {{type: boolean}}}}, or {{type: category}}",
            )
        if twice := cells.spelt_twice(survey.values):
            raise Doubt(f"has texts that differ only in case or blanks: {twice}", "write each in one way")
    return _category(name, survey, "string")


# --- the kinds ------------------------------------------------------------------------------------------------


def _number(name: str, survey: Survey, wanted: Type | None) -> Column:
    if survey.is_number:
        return number_of(name, survey, survey.number_type, is_given=True)
    style = cells.number_style(survey.sample_of()) if survey.from_texts else None
    if not style:
        raise Doubt("has no numbers, but its type is number", "give another type")
    return number_of(name, survey, "string", *style, is_given=True)


def _boolean(name: str, survey: Survey, wanted: Type | None) -> Column:
    return Column(name=name, kind="boolean", type="bool")


def _category(name: str, survey: Survey, wanted: str | None) -> Column:
    """Categories; ``wanted`` is the type of the values, if it is not that of the column."""
    if not (is_text(survey.type) or pa.types.is_primitive(survey.type)):
        raise Doubt(f"is of type {survey.type}, which cannot be a category", "give another type")
    kind = survey.number_type if survey.is_number and not survey.padded and not survey.beyond else str(survey.type)
    if wanted not in (None, "category"):
        kind = str(wanted)
    texts = sorted(set(category_texts(kind, survey.values).to_pylist()))
    if survey.all_listed and len(texts) <= MAX_CATEGORIES:
        return Column(name=name, kind="category", type=kind, categories=tuple(texts))
    return Column(name=name, kind="category", type=kind, buckets=BUCKETS)


def _date(name: str, survey: Survey, wanted: Type | None) -> Column:
    sample = survey.sample_of() if survey.from_texts else survey.sample.values(survey.type)
    form: dates.Format | None = None
    if pa.types.is_integer(survey.type):
        sample = pc.cast(sample, pa.string())
    if is_text(sample.type):
        form = wanted if wanted in ("day-month-year", "month-day-year") else cells.date_format(sample)
        if not form:
            if wanted:
                raise Doubt(f"has no dates, but its type is {wanted}", "give another type")
            raise Doubt("has no dates", "choose a column of dates or numbers")
        seconds, good, timed = dates.parse(sample, form)
        seconds = seconds[good]
    elif pa.types.is_temporal(survey.type):
        seconds, timed = dates.of_arrow(sample)
        timed = timed and bool((seconds % dates.DAY != 0).any())
    else:
        raise Doubt(f"is of type {survey.type}, which is no date", "give another type")
    kind = "string" if survey.from_texts else str(survey.type)
    if form == "time" or pa.types.is_time(survey.type):
        return Column(name=name, kind="date", type=kind, format=form, parts=("hour",))
    parts = ("year", "month", "day", "weekday", *(["hour"] if timed else []), "seconds")
    offset = float(np.rint(np.median(seconds))) if len(seconds) else 0.0
    return Column(name=name, kind="date", type=kind, format=form, parts=parts, width=len(parts), offset=offset)


def _list(name: str, survey: Survey, wanted: Type | None) -> Column:
    sample = survey.sample.values(survey.type)
    if survey.from_texts:
        sample = lists(sample)
    if not (pa.types.is_list(sample.type) or pa.types.is_large_list(sample.type) or pa.types.is_fixed_size_list(sample.type)):
        raise Doubt(f"is of type {survey.type}, which is no list", "give another type")
    inner = sample.type.value_type
    if not (pa.types.is_integer(inner) or pa.types.is_floating(inner)):
        raise Doubt(f"has lists of {inner}", "convert them to lists of numbers")
    lengths = pc.unique(pc.list_value_length(sample)).drop_null().to_pylist()
    if len(lengths) != 1 or not lengths[0]:
        shown = ", ".join(map(str, sorted(lengths)[: cells.SHOWN]))
        raise Doubt(f"has lists of different lengths, such as {shown}", "make all of one length, or drop it")
    return Column(name=name, kind="list", type="string" if survey.from_texts else str(survey.type), width=lengths[0])


def _text(name: str, survey: Survey, wanted: Type | None) -> Column:
    return Column(name=name, kind="text", type="string", width=words.PLACES)


MAKERS: dict[str, Callable[[str, Survey, Any], Column]] = {
    "plain": _plain,
    "texts": _texts,
    "number": _number,
    "boolean": _boolean,
    "category": _category,
    "date": _date,
    "list": _list,
    "text": _text,
}
