"""``sweep.yaml``, the record of a sweep in its folder."""

from typing import Literal

from ruamel.yaml import YAML

from heliostat.config import Config, validate
from heliostat.folder import Folder
from heliostat.tuning.config import Mode, SweepConfig

SWEEP, TRIALS = "sweep.yaml", "trials"


class SweepRecord(Config):
    """``sweep.yaml``: the resolved config."""

    config: SweepConfig
    hash: str
    objectives: dict[str, Mode]
    order: Literal[1, 2] = 1
    """The version of the order of samples of all trials; the first versions did not record it."""
    created: float


def read_sweep(folder: Folder) -> SweepRecord | None:
    """The record of a sweep, or None if there is none.

    Raises:
        UserError: it cannot be read.
    """
    if not folder.exists(SWEEP):
        return None
    return validate(YAML(typ="safe", pure=True).load(folder.read(SWEEP).decode()), SweepRecord)
