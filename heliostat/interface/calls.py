"""The commands as functions: what they do, and where, is what the commands of their names do."""

import os
import sys
import time
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliostat.errors import JobFailed, UserError
from heliostat.folder import Folder
from heliostat.interface.listing import Runs
from heliostat.interface.notebook import without_widgets
from heliostat.interface.run import Run
from heliostat.interface.settings import config_of, inline, overrides_of
from heliostat.interface.shown import OnHead, display, sweep_display, watch_here
from heliostat.interface.sweep import Sweep

if TYPE_CHECKING:
    from heliostat.tuning.config import SweepConfig
    from heliostat.workloads.config import TrainConfig
    from heliostat.workloads.inference import Trained


def train(
    config: "str | Path | Mapping[str, Any] | TrainConfig",
    overrides: Iterable[str] = (),
    *,
    on: str | None = None,
    in_process: bool = False,
    ephemeral: bool = False,
    env: Iterable[str] = (),
    quiet: bool = False,
    **keys: Any,
) -> Run:
    """Train a model as ``heliostat train`` does, and return the run; a run of that name is resumed.

        run = train("digits", optimizer={"lr": 0.01}, name="faster")
        run.metrics["test"]["accuracy"], run.history, run.model()

    It trains on the Ray that this process is connected to (``ray.init()``, also of Ray Client, which drives the run from the
    cluster's head), or else on that of RAY_ADDRESS, or else on one of its own for the time of the call. A notebook shows the
    curves, a script the lines that the command prints. Ctrl-C, or the interruption of the kernel, stops it with a checkpoint.

    Args:
        config: the path of a config file, the name of a bundled one, a dictionary with its keys, or a config.
        overrides: ``dotted.key=value``, as with ``--set``.
        on: the profile of a cluster, such as gpu: the run is a job there.
        in_process: train in this process, with one worker and without Ray: ``breakpoint()`` works.
        ephemeral: with ``on``, on a cluster for this run alone, which is deleted afterwards.
        env: with ``on``, names of variables that the job gets without their values being shown.
        quiet: show no progress.
        **keys: keys of the config; a mapping is merged into the config's.

    Returns:
        The run, finished.

    Raises:
        UserError: the input is wrong; the message has all that is, and nothing was started.
        JobFailed: the training failed, or the gate of `then` is not passed.
        Stopped: it was stopped; the same call resumes it.
        ContactLost: with ``on``, there is no contact to the cluster, and the job may still run.
    """
    from heliostat.workloads.config import TrainConfig

    launched = time.time()
    settings = overrides_of(overrides, keys)
    parsed = config_of(config, TrainConfig, "workloads/configs", settings)
    names = _checked(on, in_process, ephemeral, env)
    without_widgets()
    if on is not None:
        from heliostat.interface.cluster import train_on

        return train_on(parsed, _job(config, settings, on, ephemeral, names), quiet)
    if not in_process and _client():
        if parsed.then:
            raise UserError("then is not done for a run over Ray Client", "leave it out (then=None), or train with on=")
        if parsed.start_from and "@" in parsed.start_from.path:
            what = f"start_from is {parsed.start_from.path!r}, which is not looked up for a run over Ray Client"
            raise UserError(what, "give the path of the version's run, or train with on=")
        from heliostat.interface.cluster import reached
        from heliostat.workloads.ray_train.session import train_on_head

        with display(OnHead(parsed), quiet) as shown:
            result = train_on_head(parsed, None if quiet else shown.update)
        return reached(result)
    from heliostat.commands.train import train_connected, train_in_process, train_on_ray
    from heliostat.commands.train.then import follow_up, with_start

    parsed = with_start(parsed)
    if in_process:
        config_here = parsed.model_copy(update={"workers": 1})
        result = train_in_process(config_here, launched, lambda plan: watch_here(plan, quiet), quiet)
    elif _connected():
        result = train_connected(parsed, launched, lambda plan: display(plan, quiet), quiet)
    else:
        address = os.environ.get("RAY_ADDRESS")
        result = train_on_ray(parsed, address, launched, lambda plan: display(plan, quiet), quiet)
    if parsed.then and not (found := follow_up(parsed, result, quiet)).passed:
        raise JobFailed(f"{found.version} is not promoted, as the gate is not passed: {found.why}")
    return _run_of(result)


def sweep(
    config: "str | Path | Mapping[str, Any] | SweepConfig",
    overrides: Iterable[str] = (),
    *,
    on: str | None = None,
    ephemeral: bool = False,
    env: Iterable[str] = (),
    quiet: bool = False,
    **keys: Any,
) -> Sweep:
    """Search for the best config as ``heliostat sweep`` does, and return the sweep; a sweep of that name is resumed.

        found = sweep("tuning/configs/breast-cancer.yaml", trials=20)
        found.trials, found.params, found.trial().model()

    Where it runs, and what is shown, is as with `train`; a notebook shows the trials as a table.

    Args:
        config: the path of a config file, the name of a bundled one, a dictionary with its keys, or a config.
        overrides: ``dotted.key=value``, as with ``--set``.
        on: the profile of a cluster, such as gpu: the sweep is a job there.
        ephemeral: with ``on``, on a cluster for this sweep alone, which is deleted afterwards.
        env: with ``on``, names of variables that the job gets without their values being shown.
        quiet: show no progress.
        **keys: keys of the config; a mapping is merged into the config's.

    Returns:
        The sweep, ended.

    Raises:
        UserError: the input is wrong; the message has all that is, and nothing was started.
        JobFailed: no trial succeeded.
        Stopped: it was stopped; the same call resumes it.
        ContactLost: with ``on``, there is no contact to the cluster, and the job may still run.
    """
    from heliostat.tuning.config import SweepConfig

    settings = overrides_of(overrides, keys)
    parsed = config_of(config, SweepConfig, "tuning/configs", settings, "-sweep")
    names = _checked(on, False, ephemeral, env)
    without_widgets()
    if on is not None:
        from heliostat.interface.cluster import sweep_on

        return sweep_on(parsed, _job(config, settings, on, ephemeral, names), quiet)
    from heliostat.commands.sweep import sweep_connected, sweep_on_ray

    if _client():
        from heliostat.interface.cluster import reached_sweep
        from heliostat.tuning.drive import sweep_on_head

        there = OnHead(parsed)
        with sweep_display(there, quiet) as shown:

            def watch(news: Any) -> None:
                there.objectives, trials = news
                shown.update(trials)

            return reached_sweep(sweep_on_head(parsed, None if quiet else watch))
    if _connected():
        result = sweep_connected(parsed, lambda plan: sweep_display(plan, quiet), quiet)
    else:
        result = sweep_on_ray(parsed, os.environ.get("RAY_ADDRESS"), lambda plan: sweep_display(plan, quiet), quiet)
    return Sweep(result.sweep, result)


def runs(
    storage: str | Path = "runs",
    *,
    on: str | None = None,
    name: str | None = None,
    kind: str | None = None,
    state: str | None = None,
    sort: str = "created",
    reverse: bool = False,
) -> Runs:
    """List the runs and sweeps in a storage folder, as ``heliostat runs`` does.

        runs(state="finished", sort="accuracy", reverse=True)[0].model()
        runs().table.groupby("task")["cost"].sum()

    Args:
        storage: the folder or URI.
        on: the profile of a cluster, such as gpu: those on its storage.
        name: only those with such a name, such as ``"digits*"``.
        kind: only run, sweep or script.
        state: only those in a state, or several with commas.
        sort: a metric, or name, state, created, time, cost, goodput or step; last what has none.
        reverse: the largest first.

    Returns:
        A list that shows as a table; ``.table`` is that as a DataFrame, and an item is by its place or its name.

    Raises:
        UserError: there is no such kind, state or metric, or the storage cannot be read.
    """
    from heliostat.commands.runs import listed

    rows = listed(Namespace(storage=str(storage), on=on, name=name, kind=kind, state=state, sort=sort, reverse=reverse))
    if on is None:
        return Runs(rows)
    from heliostat.interface.cluster import away

    return Runs(rows, away(on, str(storage)))


def load_run(run: str | Path | Folder, storage: str | Path = "runs") -> Run:
    """Open a run, finished or not; its model is loaded when it is asked for.

    Of a script under ``heliostat torchrun`` there are the result, the history and the cost, but no model and no config.

        load_run("digits").model()
        load_run("runs/churn").predict([{"age": 41, "country": "DE"}]).to_pandas()

    Args:
        run: its name in ``storage``, or its folder or URI.
        storage: the folder or URI that has it.

    Raises:
        UserError: it does not exist; the message has the nearest name.
    """
    return Run(_found(run, storage, "config.yaml"))


def load_sweep(sweep: str | Path | Folder, storage: str | Path = "runs") -> Sweep:
    """Open a sweep, finished or not, by its name in ``storage``, or its folder or URI.

    Raises:
        UserError: it does not exist; the message has the nearest name.
    """
    return Sweep(_found(sweep, storage, "sweep.yaml"))


def evaluate(run: "Run | Trained | str | Path", split: str = "test") -> dict[str, Any]:
    """Measure the best checkpoint of a run on a split: ``{"run", "step", "split", "samples", "metrics", "notes"}``.

    For classes and numbers also ``intervals`` and ``baseline``. A metric that is NaN or infinite is None. If that is not the
    run's best checkpoint, ``notes`` say why.

    Args:
        run: a run, or its name, folder or URI.
        split: train, validation or test.

    Raises:
        UserError: there is no run, or no checkpoint that can be used; the dataset is missing, or has changed; there is no such
            split; a metric cannot be used.
    """
    from heliostat.workloads import inference

    return inference.evaluate(_trained(run), split)


def predict(run: "Run | Trained | str | Path", value: str) -> dict[str, Any]:
    """Predict one input with a run: an image file, a text or a JSON row, as its task takes it.

    For classifiers the classes and their probabilities, the most probable first. Of a row ``odd`` has what the run has not
    seen, by column, if there is any. `Run.predict` takes many rows at once.

    Args:
        run: a run, or its name, folder or URI.
        value: the input.

    Raises:
        UserError: the input is not one that the task takes, or the task makes no predictions; there is no run, or no checkpoint
            that can be used.
    """
    from heliostat.workloads import inference

    return inference.predict(_trained(run), value)


def _checked(on: str | None, in_process: bool, ephemeral: bool, env: Iterable[str]) -> list[str]:
    """The names in ``env``; raises a UserError for parameters that do not go together."""
    if isinstance(env, str):
        raise UserError(f"env is {env!r}, but must be a list of names", f"write [{env!r}]")
    names = [*env]
    if on is None and (ephemeral or names):
        given = " and ".join([*["ephemeral"] * ephemeral, *["env"] * bool(names)])
        raise UserError(f"{given} is for a cluster", 'add on, such as on="gpu"; here, a run has all variables of this process')
    if on is not None and in_process:
        raise UserError("in_process trains here, and on on a cluster", "leave one of them out")
    if on is not None and "://" in on:
        raise UserError(
            f"on is {on!r}, which is an address, but must be the name of a profile, such as gpu",
            f'connect first: ray.init({on!r}, runtime_env={{"working_dir": "."}}), and leave it out',
        )
    return names


def _job(config: Any, settings: list[str], on: str, ephemeral: bool, env: list[str]) -> Namespace:
    """The options of the command that does the same on a cluster; a config that is no file is written into the command."""
    text = str(config) if isinstance(config, str | Path) else inline(config)
    return Namespace(
        config=text, set=settings, on=on, ephemeral=ephemeral, over_budget=False, env=env, label=(),
        cron=None, time_zone=None, dry_run=False, json=True, verbose=False,
    )  # fmt: skip


def _connected() -> bool:
    """Whether this process is connected to a Ray."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _client() -> bool:
    """Whether it is so by Ray Client."""
    return _connected() and bool(sys.modules["ray"].util.client.ray.is_connected())


def _run_of(result: Any) -> Run:
    return Run(result.run, result)


def _found(name: str | Path | Folder, storage: str | Path, file: str) -> str:
    """The folder of a run or a sweep, which has such a file; a folder of that name in the working directory comes first."""
    from heliostat.commands import SCRIPT, run_folder

    place = str(name)
    if isinstance(name, Path) or Path(place, file).is_file():
        place = os.path.abspath(place)
    found = Path(storage, place)
    for other, kind, call in (("sweep.yaml", "a sweep", "load_sweep"), ("config.yaml", "a run", "load_run")):
        if "://" not in place and other != file and (found / other).is_file() and not (found / file).is_file():
            raise UserError(f"{place!r} is {kind}", f"open it with {call}({place!r})")
    files = (file, SCRIPT) if file == "config.yaml" else (file,)
    return str(run_folder(place, str(storage), files))


def _trained(run: "Run | Trained | str | Path") -> "Trained":
    if isinstance(run, str | Path):
        run = load_run(run)
    return run.trained if isinstance(run, Run) else run
