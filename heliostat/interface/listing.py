"""The runs and sweeps of a storage as a list that shows as a table."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

from heliostat.config import nearest
from heliostat.errors import UserError
from heliostat.interface.run import Run
from heliostat.interface.sweep import Sweep

if TYPE_CHECKING:
    import pandas as pd


class Runs(Sequence[Run | Sweep]):
    """What `runs` returns: runs and sweeps in the order of the list, by their place or their name.

    Args:
        rows: as `heliostat.commands.runs` makes them.
        elsewhere: makes the error of a run whose files this machine cannot read, from its name.
    """

    def __init__(self, rows: list[dict[str, Any]], elsewhere: Any = None) -> None:
        self._rows, self._elsewhere = rows, elsewhere

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, key: int | str) -> Run | Sweep: ...
    @overload
    def __getitem__(self, key: slice) -> "Runs": ...
    def __getitem__(self, key: int | str | slice) -> "Run | Sweep | Runs":
        """One by its place or its name, or some of them.

        Raises:
            UserError: there is no such name.
        """
        if isinstance(key, slice):
            return Runs(self._rows[key], self._elsewhere)
        if isinstance(key, int):
            return self._open(self._rows[key])
        found = next((row for row in self._rows if row["name"] == key), None)
        if found is None:
            raise UserError(f"there is no run {key!r} in this list", nearest(key, [row["name"] for row in self._rows]))
        return self._open(found)

    def _open(self, row: dict[str, Any]) -> Run | Sweep:
        kind = Sweep if row["kind"] == "sweep" else Run
        return kind(row["run"], elsewhere=self._elsewhere and self._elsewhere(row["name"]))

    @cached_property
    def table(self) -> "pd.DataFrame":
        """A row each, with the columns of ``heliostat runs``, and one for each metric, of the split in ``split``.

        ``time`` is in seconds, ``goodput`` a share.
        """
        import pandas as pd

        head = ("name", "kind", "state", "task", "step", "progress", "time", "goodput", "cost", "created", "split")
        rows = [{**row["metrics"], **{name: row[name] for name in head}, "run": row["run"]} for row in self._rows]
        metrics = dict.fromkeys(name for row in self._rows for name in row["metrics"] if name not in head)
        return pd.DataFrame(rows, columns=[*head, *metrics, "run"])

    def __repr__(self) -> str:
        return "no runs" if not self._rows else str(self._shown().to_string(index=False, na_rep=""))

    def _repr_html_(self) -> str:
        return "no runs" if not self._rows else str(self._shown().to_html(index=False, na_rep="", border=0))

    def _shown(self) -> Any:
        """The table without what no run has."""
        table: Any = self.table.drop(columns=["step", "run"])
        return table[[name for name in table.columns if table[name].notna().any() and (table[name] != "").any()]]
