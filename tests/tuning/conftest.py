"""A Ray cluster for the sweeps of a module, and a task that fails and waits on demand."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from heliostat.config import validate
from heliostat.folder import Folder
from heliostat.tuning.config import SweepConfig
from heliostat.tuning.drive import drive
from heliostat.tuning.journal import read_journal
from heliostat.tuning.plan import plan_sweep
from heliostat.tuning.results.table import SweepResult
from heliostat.tuning.trials import Trials
from tests.conftest import clean_environment, gone, wait_for
from tests.forks import WORKERS
from tests.forks.popen import SERVERS

Make = Callable[..., SweepConfig]

TASK = '''
import os, signal, time
from pathlib import Path
import torch
from pydantic import Field
from torch import nn
from heliostat.config import Config
from heliostat import Task

HERE = Path(__file__).parent


class Toy(Task):
    """Its accuracy is ``level`` times the progress of the run; it can fail, kill its worker and be slow.

    The trial with the level ``held`` takes a second a step until there is a file ``go``: so long a sweep goes on, however slow
    the test is.
    """

    metric, better = "accuracy", "higher"

    class Options(Config):
        level: float = 1.0
        failing: str = ""
        seconds: float = 0.0
        held: float | None = None

    def model(self):
        model = nn.Linear(30, 2)
        model.register_buffer("steps", torch.zeros((), dtype=torch.float32))
        if self.options.failing == "build":
            raise ArithmeticError("this model cannot be built")
        return model

    def loss(self, model, batch):
        inner = getattr(model, "module", model)
        inner.steps += 1
        held = self.options.held == self.options.level and not (HERE / "go").exists()
        time.sleep(1.0 if held else self.options.seconds)
        once = HERE / f"failed-{self.options.level}"
        if self.options.failing == "once" and inner.steps > 25 and not once.exists():
            once.touch()
            raise ArithmeticError("the first time only")
        if self.options.failing == "kill" and inner.steps > 25 and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.options.failing == "late" and inner.steps > 25:
            raise ArithmeticError("this step cannot be computed")
        return nn.functional.cross_entropy(model(batch["features"]), batch["label"])

    def metrics(self, model, batch):
        level = self.options.level * model.steps / 100
        return {"loss": 1 - level, "accuracy": level}
'''
"""100 steps with a report every 10; ``model.level`` identifies a trial."""

SWEEP: dict[str, Any] = {
    "train": {
        "task": "toy:Toy",
        "dataset": {"source": "breast-cancer"},
        "steps": 100,
        "evaluate_every": 10,
        "checkpoint_every": 10,
        "optimizer": {"warmup_steps": 0},
    },
    "algorithm": "grid",
    "scheduler": "none",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The empty home of a user, for this process."""
    home = tmp_path_factory.mktemp("sweep-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        for name in ("PYTHONPATH", WORKERS):
            patch.setenv(name, clean_environment(home)[name])
        yield home
    gone(clean_environment(home))


@pytest.fixture(scope="module")
def ray_here(home: Path) -> Iterator[None]:
    """Ray with two CPUs, as ``heliostat sweep`` starts it."""
    from heliostat.cluster import in_process

    SERVERS.start()
    with in_process.session():
        yield


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the toy task in it."""
    import sys

    (tmp_path / "toy.py").write_text(TASK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("toy", None)
    return tmp_path


@pytest.fixture
def config() -> Make:
    """Makes the config of a sweep over the toy task; ``levels`` are the accuracies of its trials."""

    def make(*levels: float, **changes: Any) -> SweepConfig:
        train = {**SWEEP["train"], **changes.pop("train", {})}
        space = changes.pop("space", {"model.level": {"choice": list(levels)}})
        return validate({"name": "sweep", **SWEEP, "space": space, **changes, "train": train}, SweepConfig)

    return make


def run(config: SweepConfig, watch: Callable[[Trials], None] = lambda trials: None) -> SweepResult:
    """Run a sweep on two CPUs."""
    return drive(plan_sweep(config, [{"CPU": 2.0, "GPU": 0.0}]), watch)


def trials_of(folder: Path, name: str = "sweep") -> Trials:
    """The trials of a sweep in a working directory, from its journal."""
    return Trials(read_journal(Folder.at(folder / "runs" / name)))


def rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a sweep's table."""
    found: list[dict[str, Any]] = pq.read_table(folder / "runs" / "sweep" / "trials.parquet").to_pylist()
    return found


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """After each sweep all CPUs are free, no actor lives and no placement group holds anything."""
    yield
    import ray
    from ray.util import placement_group_table

    wait_for(lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"], "all CPUs to be free")
    wait_for(lambda: {each["state"] for each in placement_group_table().values()} <= {"REMOVED"}, "end of all placement groups")
