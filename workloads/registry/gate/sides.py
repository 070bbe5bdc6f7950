"""Two models on the same rows: their predictions, and how they compare."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heliostat.datasets import Index
from heliostat.errors import UserError
from heliostat.wording import agreeing, counted
from heliostat.workloads.registry.gate import statistics
from heliostat.workloads.registry.gate.learnt import Learnt
from heliostat.workloads.registry.gate.predictions import Exported, Outputs, resampled, single, truth_of
from heliostat.workloads.registry.gate.rows import Arrays, chunks, translation, unseen
from heliostat.workloads.registry.gate.statistics import Comparison
from heliostat.workloads.training.groups import columns_of, of_columns

LATENCY_ROWS = 64


@dataclass(frozen=True)
class Sides:
    """The predictions of both models for the same rows."""

    index: Index
    """Of the candidate's dataset."""
    classes: list[str]
    """Of both."""
    truth: Tensor
    candidate: Outputs
    champion: Outputs

    @property
    def rows(self) -> int:
        return len(self.truth)

    def at(self, places: Tensor) -> "Sides":
        """Those of a part of the rows."""
        return Sides(self.index, self.classes, self.truth[places], self.candidate.at(places), self.champion.at(places))

    def values(self, metric: str) -> dict[str, float | None]:
        """The metric of both; None where it is not defined."""
        one = torch.ones(1, self.rows, dtype=torch.float64)
        found = {name: float(self._resampled(metric, each)(one)) for name, each in self._both()}
        return {name: value if np.isfinite(value) else None for name, value in found.items()}

    def compared(self, metric: str, higher: bool, margin: float) -> Comparison | None:
        """The comparison by a metric; None where it is not defined."""
        candidate, champion = self.candidate, self.champion
        if metric == "accuracy" and candidate.chosen is not None and champion.chosen is not None:
            right = (torch.eq(candidate.chosen, self.truth).numpy(), torch.eq(champion.chosen, self.truth).numpy())
            return statistics.of_decisions(right[0], right[1], margin) if self.rows else None
        one, other = self._resampled(metric, candidate), self._resampled(metric, champion)
        return statistics.of_resamples(one, other, self.rows, higher, margin)

    def _both(self) -> tuple[tuple[str, Outputs], tuple[str, Outputs]]:
        return ("candidate", self.candidate), ("champion", self.champion)

    def _resampled(self, metric: str, outputs: Outputs) -> statistics.Resampled:
        return resampled(self.index, self.classes, metric, outputs, self.truth)


@dataclass(frozen=True)
class Group:
    """The rows that share a value of a column, as places among all."""

    name: str
    places: Tensor


@dataclass
class Predicted:
    """Both models on the test rows of the candidate that are left, collected chunk by chunk."""

    sides: Sides
    counts: dict[str, int]
    """``test`` rows, of which are ``used``, ``learnt_from``, and ``not_kept``: with a category that is not listed."""
    groups: list[Group]
    single: tuple[list[Arrays], list[Arrays]]
    """Some rows, one by one, as each of the models takes them."""


@dataclass
class _Parts:
    candidate: list[Outputs] = field(default_factory=list)
    champion: list[Outputs] = field(default_factory=list)
    truth: list[Tensor] = field(default_factory=list)
    columns: list[dict[str, Tensor]] = field(default_factory=list)
    single: tuple[list[Arrays], list[Arrays]] = field(default_factory=lambda: ([], []))


def predicted(learnt: Learnt, candidate: Exported, champion: Exported, by: Sequence[str]) -> Predicted:
    """The predictions of both for the test rows of the candidate's dataset that neither has learnt from.

    Args:
        learnt: what they have learnt from.
        candidate: the one model.
        champion: the other.
        by: columns whose groups of rows are wanted.

    Raises:
        UserError: no rows are left; the datasets have nothing in common, or the champion does not take these rows.
    """
    index = learnt.candidate.index
    classes = list(dict.fromkeys([*candidate.classes, *champion.classes]))
    left, parts = unseen(learnt.candidate, learnt.all), _Parts()
    for own, translated in _pairs(learnt, champion.inputs, left):
        parts.candidate.append(candidate.predict(own, classes))
        parts.champion.append(champion.predict(translated, classes))
        parts.truth.append(truth_of(index, own, classes))
        parts.columns.append(columns_of(index, by, {name: torch.from_numpy(values) for name, values in own.items()}))
        for kept, each in zip(parts.single, (own, translated), strict=True):
            kept.extend(single(each, at) for at in range(min(len(parts.truth[-1]), LATENCY_ROWS - len(kept))))
    total, used = index.rows("test"), sum(map(len, parts.truth))
    counts = {"test": total, "used": used, "learnt_from": total - len(left), "not_kept": len(left) - used}
    if not used:
        raise UserError(
            f"of {counted(total, 'test row')}, models have learnt from or selected on {counts['learnt_from']:,}, and "
            f"{counts['not_kept']:,} {agreeing(counts['not_kept'], 'have')} a category that the "
            "champion may know and this dataset does not list: none is left",
            "keep rows for the test that no model learns from; a split by content, the default, always keeps the same",
        )
    sides = Sides(index, classes, torch.cat(parts.truth), _joined(parts.candidate), _joined(parts.champion))
    return Predicted(sides, counts, _groups(index, by, parts.columns), parts.single)


def _pairs(learnt: Learnt, inputs: Sequence[str], left: Any) -> Iterator[tuple[Arrays, Arrays]]:
    """The rows that are left as each model takes them, some at a time."""
    translate = translation(learnt.candidate.index, learnt.champion.index, inputs)
    for ids, arrays in chunks(learnt.candidate, "test"):
        own = {name: values[np.isin(ids, left)] for name, values in arrays.items()}
        translated, good = translate(own)
        if good.any():
            yield {name: values[good] for name, values in own.items()}, {n: values[good] for n, values in translated.items()}


def _groups(index: Index, by: Sequence[str], parts: Sequence[dict[str, Tensor]]) -> list[Group]:
    if not by:
        return []
    columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    places: list[Tensor] = []

    def keep(at: Tensor) -> dict[str, float | None]:
        places.append(at)
        return {}

    found = of_columns(index, by, columns, keep)
    names = [f"{column} = {group['value']}" for column, groups in found.items() for group in groups]
    return [Group(name, at) for name, at in zip(names, places, strict=True)]


def _joined(parts: Sequence[Outputs]) -> Outputs:
    chosen = [part.chosen for part in parts if part.chosen is not None]
    return Outputs(torch.cat([part.answer for part in parts]), torch.cat(chosen) if chosen else None)
