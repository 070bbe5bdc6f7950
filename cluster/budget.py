"""A budget: the money that may be spent in a day and in a month until new work is refused, and what runs is stopped."""

import re
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from heliostat.config import Config

TEXT = re.compile(r"\s*\$?\s*(?P<money>\d+(\.\d+)?)\s*(USD)?\s*/\s*(?P<period>day|month)\s*")


class Budget(Config):
    """The most that may be spent, in the currency of the prices; days and months are those of UTC."""

    day: float | None = Field(None, gt=0, description="the money a day from which on new work is refused; null: no limit")
    month: float | None = Field(None, gt=0, description="the money a calendar month; null: no limit")
    stop: bool = Field(False, description="true: what runs is stopped then, too")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.day is None and self.month is None:
            raise ValueError("neither day nor month is given; write {day: 50, month: 900}, or one of the two")
        if self.day and self.month and self.day > self.month:
            raise ValueError(f"day is {self.day:g}, but month is {self.month:g}; set day to at most month")
        return self

    @property
    def enforced(self) -> dict[str, Any]:
        """What the recorder beside a head compares what is spent with, see `heliostat.cluster.in_pod.budget`."""
        return {"budget": self.day, "budget_per_month": self.month, "stop": self.stop}

    @property
    def limits(self) -> dict[str, float]:
        """The money by period, ``day`` or ``month``."""
        return {period: money for period, money in (("day", self.day), ("month", self.month)) if money is not None}


def _written(value: Any) -> Any:
    """A budget of one period may be a text, such as ``50 USD/day``."""
    if not isinstance(value, str):
        return value
    if found := TEXT.fullmatch(value):
        return {found["period"]: float(found["money"])}
    raise ValueError(f"{value!r} is not a budget; write 50 USD/day, or in the currency of your prices {{day: 50, month: 900}}")


Budgeted = Annotated[Budget | None, BeforeValidator(_written, json_schema_input_type=Budget | str | None)]
