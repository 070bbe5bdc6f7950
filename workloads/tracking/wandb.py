"""Weights & Biases: a run with the ID of ours, on its server, or as files that `wandb sync` sends later."""

import importlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from heliostat.config import Config
from heliostat.folder import Folder
from heliostat.workloads.tracking.tracker import Point, Tracked, Tracker

OFFLINE, DISABLED = "offline", "disabled"
MODES = {"dryrun": OFFLINE, "run": "online"}
"""Older values of WANDB_MODE."""
FILES = "wandb"
SECONDS = 30
"""For which the server may take to answer."""


class WandB(Tracker):
    """Online, the server says at which step it stands. Offline, the whole record is written again when it is opened."""

    class Options(Config):
        project: str | None = Field(None, min_length=1, description="by default WANDB_PROJECT, or heliostat")
        entity: str | None = Field(None, min_length=1, description="a user or a team, by default WANDB_ENTITY")
        mode: Literal["online", "offline"] | None = Field(
            None, description="online or offline, by default WANDB_MODE, or online"
        )

    package, extra = "wandb", "wandb"

    def open(self, run: Tracked) -> Mapping[str, int]:
        wandb = importlib.import_module("wandb")
        options = self.options
        given = options.mode or os.environ.get("WANDB_MODE") or "online"
        mode = MODES.get(given, given)
        self._offline = mode == OFFLINE
        self._scratch = None if run.folder.is_local else tempfile.TemporaryDirectory(prefix="heliostat-wandb-")
        self._place = Path(self._scratch.name if self._scratch else run.folder.path)
        if self._offline:
            for left in (self._place / FILES).glob(f"offline-run-*-{run.id}"):
                shutil.rmtree(left)
        self._run = wandb.init(
            id=run.id,
            name=run.title,
            project=options.project or os.environ.get("WANDB_PROJECT") or "heliostat",
            entity=options.entity,
            mode=mode,
            resume="allow" if mode == "online" else None,
            dir=str(self._place),
            group=run.name if run.sweep else None,
            job_type="trial" if run.trial else "sweep" if run.sweep else "train",
            config=dict(run.params),
            reinit="create_new",
            settings=wandb.Settings(
                console="off", silent=True, init_timeout=SECONDS, disable_git=True, disable_code=True, x_disable_stats=True
            ),
        )
        places = {OFFLINE: str(self._place / FILES), DISABLED: "nowhere: WANDB_MODE is disabled"}
        self.where = places.get(mode) or str(self._run.url)
        self._next = self._run.step  # rows below it are there: a row is sent when the next step begins
        return {}

    def log(self, points: Sequence[Point]) -> None:
        for point in points:
            if point.step >= self._next:
                self._run.log(dict(point.values), step=point.step)

    def close(self, run: Tracked) -> None:
        self._run.summary.update(dict(run.tags))
        self._run.finish(exit_code=0 if run.state == "finished" else 1)
        if self._scratch:
            if self._offline:
                (run.folder / FILES).copy_from(Folder.at(self._place / FILES))
            self._scratch.cleanup()
