"""Sources of the user's own: a class or a function that a config names ``module:Name``, and what it yields."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heliostat import own_code
from heliostat.config import nearest, validate
from heliostat.datasets.sources.table import Table
from heliostat.datasets.splits import Split
from heliostat.errors import UserError, combined
from heliostat.folder import expanded

KEY = "dataset.source"
OF_TEXTS = ("tokens", "text", "vocabulary", "length")
"""Options of texts that become tokens, if ``tokens`` is set."""
OF_TABLES = {*Table.Options.model_fields, "split"} - {"path", "read"}
"""Options of tables, which a source of rows has as well, and one of arrays the split."""


class Source:
    """A source of data of one's own: subclass it, and name it ``module:Class`` in a config.

    The options of the config are the arguments of the class. A function that returns what `rows` does is a source, too, and so
    is any `torch.utils.data.Dataset`.
    """

    classes: Iterable[str] = ()
    """The names of the classes 0, 1, ... in ``label``; without them they are the labels that there are, sorted."""

    meta: Mapping[str, Any] = {}
    """What belongs to the dataset beside its samples, such as a tokenizer: plain values as JSON has them, which are kept with
    the dataset and with each run on it. A task has them as ``self.index.meta["own"]``."""

    def rows(self) -> Any:
        """The samples, which are read twice: an iterable, a new one for each call, or a mapping of splits to such.

        A sample is a dictionary, or a pair (x, y), of arrays, tensors, images of Pillow and numbers; or a row of a table, whose
        values are numbers, texts, dates and None; or a part of a table of pandas or Arrow.
        """
        raise NotImplementedError

    def files(self) -> Iterable[str | Path]:
        """The files and folders that are read: if they change, it is another dataset. An option ``path`` is one by itself."""
        return ()

    def version(self) -> str:
        """What changes with data that is in no file, such as the time of the last change in a database."""
        return ""


@dataclass(frozen=True)
class Named:
    """A class or function that a config names, with its arguments, and the options of tables beside them."""

    name: str
    make: Callable[..., Any]
    arguments: dict[str, Any]
    of_tables: dict[str, Any] = field(default_factory=dict)
    split: Split | None = None
    """The option of that name, which ``of_tables`` has as it is written."""
    of_texts: dict[str, Any] = field(default_factory=dict)
    """The options of texts, of which ``tokens`` makes the samples sequences of tokens."""

    def __call__(self) -> Any:
        """What it makes: with an option ``path`` that may have ``~`` and variables, as those of all sources."""
        path = self.arguments.get("path")
        own = {"path": expanded(path, key="dataset.options.path")} if isinstance(path, str) else {}
        return self.make(**{**self.arguments, **own})


def find(name: str, options: Mapping[str, Any]) -> Named:
    """The class or function ``module:Name``, with its options compared with its arguments; it is not called.

    Raises:
        UserError: there is none, its module fails to import, or an option is wrong.
    """
    own_code.check_name(KEY, name)
    module, _, attribute = name.partition(":")
    loaded = own_code.load(KEY, name, module)
    make = getattr(loaded, attribute, None)
    if not callable(make):
        there = [each for each, value in vars(loaded).items() if callable(value) and getattr(value, "__module__", "") == module]
        fix = nearest(attribute, there) if there else f"write def {attribute}() there, which returns the samples"
        raise UserError(f"{KEY} {name!r}: {module} has no class or function {attribute}", fix)
    arguments, of_tables, of_texts = _shared(name, make, options)
    split = validate(of_tables["split"], Split, "dataset.options.split") if "split" in of_tables else None
    checked = {key: value for key, value in of_tables.items() if key in Table.Options.model_fields}
    validate({"path": name, "target": "", **checked}, Table.Options, "dataset.options")
    check_texts(of_texts, of_tables)
    return Named(name, make, arguments, of_tables, split, of_texts)


def check_texts(of_texts: Mapping[str, Any], of_tables: Mapping[str, Any]) -> None:
    """Raise a UserError for options of texts without ``tokens``, or with those of tables."""
    if of_texts and "tokens" not in of_texts:
        raise UserError(
            f"dataset.options has {', '.join(of_texts)}, but not tokens", "set tokens: bpe or byte, which makes texts sequences"
        )
    if of_texts and (others := [name for name in of_tables if name != "split"]):
        raise UserError(
            f"dataset.options has tokens, for texts, and {', '.join(others)}, for rows of a table", "leave one of them out"
        )


def _shared(name: str, make: Callable[..., Any], options: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """The options that are arguments of a function, those of tables, and those of texts."""
    parameters = inspect.signature(make).parameters
    named = [key for key, each in parameters.items() if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
    takes_any = any(each.kind == each.VAR_KEYWORD for each in parameters.values())
    of_tables = {key: value for key, value in options.items() if key in OF_TABLES and key not in named}
    # A function that takes any option gets these, too, as in earlier versions.
    others = {} if takes_any or "tokens" in named else options
    of_texts = {key: value for key, value in others.items() if key in OF_TEXTS and key not in named}
    arguments = {key: value for key, value in options.items() if key not in of_tables and key not in of_texts}
    problems = [
        UserError(f"dataset.options.{key} is no argument of {name}", nearest(key, [*named, *OF_TABLES, *OF_TEXTS]))
        for key in arguments
        if key not in named and not takes_any
    ]
    problems += [
        UserError(f"dataset.options.{key} is missing, an argument of {name}", "set it, or give it a default")
        for key in named
        if key not in arguments and parameters[key].default is inspect.Parameter.empty
    ]
    if problems:
        raise combined(problems, KEY)
    return arguments, of_tables, of_texts
