"""The option of a source that says which samples are for training, for validation and for the test."""

from collections.abc import Mapping
from typing import Any, Literal, Self

import pydantic

from heliostat.config import Config
from heliostat.datasets.index import SplitName

By = Literal["content", "column", "time", "group", "stratified", "files"]
WORDS: dict[str, SplitName] = {
    "train": "train",
    **dict.fromkeys(("validation", "val", "valid", "dev", "eval"), "validation"),
    "test": "test",
}
"""The values of a column that are splits, in any case."""


class Shares(Config):
    """The shares of the samples, which add up to 1."""

    train: float = pydantic.Field(0.7, gt=0, lt=1, description="the share of training, above 0 and below 1")
    validation: float = pydantic.Field(0.15, gt=0, lt=1, description="the share of validation, above 0 and below 1")
    test: float = pydantic.Field(0.15, gt=0, lt=1, description="the share of the test, above 0 and below 1")

    @pydantic.model_validator(mode="after")
    def _whole(self) -> Self:
        if abs((total := self.train + self.validation + self.test) - 1) > 1e-9:
            shown = " + ".join(f"{share:g}" for share in (self.train, self.validation, self.test))
            raise ValueError(
                f"train, validation and test are {shown} = {total:g}, but must add up to 1; "
                f"set train to {max(0.0, 1 - self.validation - self.test):g}, or the other shares"
            )
        return self


class Split(Config):
    """How samples are split."""

    by: By = pydantic.Field("content", description="content, column, time, group, stratified or files")
    column: str | None = pydantic.Field(None, description="the column that has the split, the time or the group")
    values: dict[str, SplitName] = pydantic.Field({}, description="splits by the values of the column, such as {0: train}")
    learn: bool = pydantic.Field(False, description="true learns from the column, too")
    validation: str | None = pydantic.Field(None, description="the path of the files for validation")
    test: str | None = pydantic.Field(None, description="the path of the files for the test")
    shares: Shares = pydantic.Field(Shares(), description="{train: 0.7, validation: 0.15, test: 0.15}")

    @pydantic.field_validator("values", mode="before", json_schema_input_type=dict[str, str])
    @classmethod
    def _texts(cls, values: Any) -> Any:
        """Values as texts: in YAML those of a column may be numbers or booleans."""
        return {str(key): WORDS.get(str(word), word) for key, word in values.items()} if isinstance(values, dict) else values

    @pydantic.model_validator(mode="after")
    def _complete(self) -> Self:
        of_column = self.by in ("column", "time", "group")
        used = {"by", *(("column", "learn") if of_column else ())}
        used |= {"column": {"values"}, "files": {"validation", "test", "shares"}}.get(self.by, {"shares"})
        problems = [f"{name} is of no use with by: {self.by}" for name in Split.model_fields if name in self._set - used]
        if of_column and not self.column:
            problems.append(f"by is {self.by}, but column is missing")
        if self.by == "files" and not (self.validation or self.test):
            problems.append("by is files, but neither validation nor test is the path of some")
        if problems:
            raise ValueError(f"{', and '.join(problems)}; write such as {EXAMPLES[self.by]}")
        return self

    @property
    def _set(self) -> set[str]:
        """The keys that are not the default."""
        return {name for name in Split.model_fields if getattr(self, name) != Split.model_fields[name].default}

    @property
    def words(self) -> dict[str, SplitName]:
        """The split of each value of the column, in lower case."""
        return {**WORDS, **{key.lower(): split for key, split in self.values.items()}}


EXAMPLES: dict[By, str] = {
    "content": "split: {by: content, shares: {train: 0.8, validation: 0.1, test: 0.1}}",
    "column": "split: {by: column, column: fold, values: {0: train, 1: validation, 2: test}}",
    "time": "split: {by: time, column: date}",
    "group": "split: {by: group, column: patient}",
    "stratified": "split: {by: stratified}",
    "files": "split: {by: files, validation: validation.csv, test: test.csv}",
}
CONTENT = Split()


def described(split: Mapping[str, Any]) -> str:
    """How a dataset is split, from what its metadata record of it; nothing is recorded of 70/15/15 by content."""
    of_column = f" {split['column']}" if "column" in split else ""
    shares = Shares(**split.get("shares", {}))
    by = split.get("by", "content")
    if by == "column":
        return f"by column{of_column}"
    parts = "/".join(f"{100 * share:g}" for share in (shares.train, shares.validation, shares.test))
    if by == "files":
        own = [name for name in ("validation", "test") if name in split]
        return f"by files: {' and '.join(own)}" + (
            "" if len(own) == 2 else f", the other cut from training by content, {parts}"
        )
    if "test_from" in split:
        return f"by time{of_column}: validation from {split['validation_from']}, test from {split['test_from']}"
    return f"by {by}{of_column}, {parts}"
