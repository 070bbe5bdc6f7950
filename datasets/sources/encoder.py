"""Encodes a table as arrays, and collects what is wrong with it."""

import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from heliostat.config import nearest
from heliostat.datasets.signature import TARGET, Column, Signature
from heliostat.datasets.sources import Problems, Progress, Tasks
from heliostat.datasets.sources.cells import Doubt
from heliostat.datasets.sources.checks import COUNTER, IDENTIFIER, UNNAMED
from heliostat.datasets.sources.dividing import LEFT_OUT, Divided, by_files, divided
from heliostat.datasets.sources.encoded import HASH, Encoded
from heliostat.datasets.sources.kinds import ColumnOptions, LeftOut, decide
from heliostat.datasets.sources.reader import Reader
from heliostat.datasets.sources.spool import Spool, Spooled
from heliostat.datasets.sources.survey import Survey
from heliostat.datasets.sources.targets import decide_target
from heliostat.datasets.sources.work import Encode, Range, Work
from heliostat.errors import UserError
from heliostat.wording import agreeing, counted

CHUNK = 8 << 20
"""Bytes of the arrays of a chunk, at most."""
SAMPLED, LEAST_SAMPLED = 1 << 22, 1 << 11
"""Values that are kept of all columns together while they are surveyed, and of one, at least."""
A = TypeVar("A")
B = TypeVar("B")


def threads() -> int:
    """The cores of this process."""
    return len(os.sched_getaffinity(0))


@dataclass
class Encoder:
    """Reads a table twice: what its columns are, then their values, as arrays into a temporary file.

    The columns of a chunk, and then the chunks, are worked on by as many threads as there are cores, in order, so that the
    result does not depend on how many there are; with ``tasks`` other processes read sections of the files, and encode them.
    """

    reader: Reader
    target: str
    options: Any
    progress: Progress
    tasks: Tasks | None = None
    problems: Problems = field(init=False)
    concerned: list[str] = field(default_factory=list)
    """The columns with problems, which can be left out."""
    rows: int = 0
    divided: Divided | None = None

    def __post_init__(self) -> None:
        self.problems = Problems(self.reader.place)
        if self.options.split.by == "files":
            self.divided = by_files(self.options.split)

    def encode(self) -> Encoded:
        """The table as arrays.

        Raises:
            UserError: all that is wrong with it.
        """
        self._check_options()
        names = [name for name in self.reader.names if name not in self.options.drop or name == self.options.split.column]
        with ThreadPoolExecutor(threads()) as pool:
            surveys, equal = self._survey(pool, names)
            signature = self._decide(surveys, equal)
            self.problems.refuse(self._without())
            assert signature
            spool = Spool()
            try:
                return self._spool(pool, spool, signature)
            except BaseException:
                spool.close()
                raise

    def _check_options(self) -> None:
        for option, names in (("drop", self.options.drop), ("columns", self.options.columns)):
            for name in names:
                if name not in self.reader.names:
                    self.problems.add(f"{option} lists {name!r}, which is no column", nearest(name, self.reader.names))
        if (column := self.options.split.column) and column not in self.reader.names:
            self.problems.add(f"split.column is {column!r}, which is no column", nearest(column, self.reader.names))
        if column == self.target:
            self.problems.add(f"split.column is {column!r}, which is the target", "choose another column, or by: stratified")
        for name, each in self.options.columns.items():
            if each.rename in self.reader.names and each.rename != name:
                self.problems.add(
                    f"columns.{name}.rename is {each.rename!r}, which is another column of the files",
                    "choose another name: raw rows may have either one",
                )
        names = Counter(self._options(name).rename or name for name in self.reader.names if name not in self.options.drop)
        for name, count in names.items():
            if count > 1:
                self.problems.add(f"columns would give {count} columns the name {name!r}", "rename all but one to other names")

    # --- what the columns are ---------------------------------------------------------------------------------

    def _survey(self, pool: ThreadPoolExecutor, names: list[str]) -> tuple[dict[str, Survey], set[str]]:
        """The surveys of the columns, and which columns are equal to the target."""
        kept = max(LEAST_SAMPLED, min(SAMPLED >> 7, SAMPLED // len(names)))
        surveys = {
            name: Survey(
                kept,
                self._options(name).markers,
                listed=name == self.target or any(each.fullmatch(name) for each in (COUNTER, IDENTIFIER, UNNAMED)),
            )
            for name in names
        }
        equal, waiting = set(names) - {self.target}, list[Future[None]]()
        for batch in self._each(pool, "checking", self._work(names)):
            for each in waiting:
                each.result()
            self.rows += len(next(iter(batch.values())))
            waiting = [pool.submit(survey.add, batch[name]) for name, survey in surveys.items()]
            equal = {name for name in equal if batch[name].equals(batch[self.target])}
        for each in waiting:
            each.result()
        if not self.rows:
            raise UserError(f"{self.reader.place} has no rows", "give a table with a row per sample")
        return surveys, equal

    def _each(self, pool: ThreadPoolExecutor, doing: str, work: Work) -> Iterator[Any]:
        """What becomes of each chunk, in order: in threads of this process, or by section in tasks elsewhere."""
        total = self.reader.size

        def report(done: int) -> None:
            self.progress(f"{doing} {self.reader.place}", done, total, "bytes")

        if self.tasks is None:
            batches = work.batches(progress=report)
            yield from in_order(pool, work.function, batches) if work.function else batches
            return
        places = work.places
        for number, found in enumerate(self.tasks(work, places), 1):
            report(total * number // len(places))
            yield from found

    def _work(self, names: list[str], **options: Any) -> Work:
        drop = self.options.without_label == "drop"
        return Work(self.reader, names, (self.target, self._options(self.target).markers) if drop else None, **options)

    def _options(self, name: str) -> ColumnOptions:
        found = self.options.columns.get(name) or ColumnOptions()
        # Those of all columns, too: raw rows are not read with the option read.
        return found.model_copy(update={"missing": [*found.missing, *self.options.read.missing]})

    def _decide(self, surveys: dict[str, Survey], equal: set[str]) -> Signature | None:
        """The signature; None if a column is refused."""
        columns, left_out = [], dict.fromkeys(self.options.drop, "is dropped")
        for name, survey in surveys.items():
            if name == self.target:
                continue
            try:
                if name == self.options.split.column:
                    self.divided = divided(name, self.options.split, survey, self._options(name))
                    if not self.options.split.learn:
                        raise LeftOut(LEFT_OUT)
                if name in equal:
                    raise Doubt("is equal to the target in every row", "drop it")
                columns.append(decide(name, survey, self._options(name), self._is_index(name)))
            except LeftOut as error:
                left_out[name] = error.reason
            except Doubt as error:
                if name == self.options.split.column:  # dropped or not, the table is split by it
                    self.problems.add(f"column {name!r} {error.what}", error.fix)
                else:
                    self._refuse_column(name, error.what, error.fix)
        names = Counter(name for column in columns if column.kind != "category" for name in column.feature_names)
        for name in (name for name, count in names.items() if count > 1):
            self.problems.add(f"two features would be named {name!r}", "rename one of their columns")
        target = self._decide_target(surveys[self.target])
        if not columns and not self.concerned:
            why = "".join(f"\n    {name!r} {reason}" for name, reason in left_out.items())
            self.problems.add(f"there is no column to learn from but the target{why}", "add the features")
        left_out = {name: left_out[name] for name in self.reader.names if name in left_out}
        return Signature(columns=tuple(columns), target=target, left_out=left_out) if target and columns else None

    def _is_index(self, name: str) -> bool | None:
        """Whether pandas had a column as the index of the rows; None if its name says that it may be one."""
        if name in self.reader.index:
            return True
        # Where there is a _c1, no column has a name.
        return None if UNNAMED.fullmatch(name) and not (name == "_c0" and "_c1" in self.reader.names) else False

    def _decide_target(self, survey: Survey) -> Any:
        if survey.missing:
            written = ", ".join(sorted(map(repr, survey.markers)))
            also = f" (also written {written})" if written else ""
            fix = "fill them, or leave these rows out with without_label: drop"
            if written:
                fix += "; if they are a class, write it otherwise, such as none"
            self.problems.add(
                f"target {self.target!r} has no value in {survey.missing:,} of {counted(survey.rows, 'row')}{also}", fix
            )
        if not survey.present:
            return None
        try:
            return decide_target(self.target, survey, self.options.target_type)
        except Doubt as error:
            self.problems.add(f"target {self.target!r} {error.what}", error.fix)
            return None

    # --- their values -----------------------------------------------------------------------------------------

    def _spool(self, pool: ThreadPoolExecutor, spool: Spool, signature: Signature) -> Encoded:
        width = sum(column.width for column in signature.numeric)
        rows = max(1, CHUNK // (4 * width + 12 * len(signature.columns) + 8))
        ranges = {column.name: Range() for column in signature.columns}
        arrays: dict[str, Spooled] = {}
        by = {self.divided.column.name: Range()} if self.divided else {}

        names = list(dict.fromkeys([*(column.name for column in signature.columns), *by, self.target]))
        work = self._work(names, rows=rows, function=Encode(signature, self.target, self.divided))
        for columns, values, of_split in self._each(pool, "encoding", work):
            for name, each in values.items():
                ranges[name].add(each)
            for name, each in of_split.items():
                by[name].add(each)
            for name, array in columns.items():
                spool.add(arrays.setdefault(name, Spooled(spool)), array)
        for column in signature.columns:
            if found := ranges[column.name].bad:
                shown = ", ".join(map(repr, ranges[column.name].examples))
                self._refuse_column(
                    column.name,
                    f"has {counted(found, 'value')} that {agreeing(found, 'are')} not {column.wanted}, such as {shown}",
                    "correct them",
                )
        for name, range_of in by.items():
            if range_of.bad:  # dropped or not, the table is split by it
                shown = ", ".join(map(repr, range_of.examples))
                self.problems.add(
                    f"column {name!r} has {counted(range_of.bad, 'value')} that {agreeing(range_of.bad, 'are')} no time, "
                    f"such as {shown}",
                    "correct them",
                )
        self.problems.refuse(self._without())
        total = arrays[HASH].rows
        found_columns = tuple(_with_range(column, ranges[column.name], total) for column in signature.columns)
        target = signature.target.model_copy(update=_limits(arrays[TARGET])) if TARGET in arrays else signature.target
        signature = signature.model_copy(update={"columns": found_columns, "target": target})
        return Encoded(spool, self._renamed(signature), arrays, self.divided)

    def _renamed(self, signature: Signature) -> Signature:
        columns = tuple(
            column.model_copy(update={"name": other, "source": column.name})
            if (other := self._options(column.name).rename)
            else column
            for column in signature.columns
        )
        return signature.model_copy(update={"columns": columns})

    # --- what is wrong ----------------------------------------------------------------------------------------

    def _refuse_column(self, name: str, what: str, fix: str) -> None:
        self.problems.add(f"column {name!r} {what}", fix)
        self.concerned.append(name)

    def _without(self) -> str:
        """The option that leaves out the columns with problems."""
        concerned = [name for name in self.reader.names if name in self.concerned]
        names = [name if re.fullmatch(r"[A-Za-z_]\w*", name) else repr(name) for name in concerned]
        return f"leave out columns with drop: [{', '.join(names)}]" if names else ""


def in_order(pool: ThreadPoolExecutor, function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """The results for some items in their order, computed by the threads of a pool, few of them ahead."""
    waiting = deque[Future[B]]()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > threads():
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _with_range(column: Column, found: Range, rows: int) -> Column:
    return column.model_copy(update={"missing": found.missing / rows, "least": found.least, "most": found.most})


def _limits(array: Spooled) -> dict[str, float]:
    chunks = [array.chunk(number) for number in range(len(array.places))]
    return {"least": float(min(chunk.min() for chunk in chunks)), "most": float(max(chunk.max() for chunk in chunks))}
