"""The trackers that a config names, checked before anything is started."""

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from heliostat import own_code
from heliostat.config import Config, nearest, validate
from heliostat.errors import UserError, collected
from heliostat.workloads.tracking.mlflow import MLflow
from heliostat.workloads.tracking.tensorboard import TensorBoard
from heliostat.workloads.tracking.tracker import Tracker
from heliostat.workloads.tracking.wandb import WandB
from heliostat.workloads.tracking_config import Item, Notify, name_of, options_of, wrong_url

TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}
KEY = "tracking"

Make = Callable[[], Tracker]
"""Makes a tracker for one run."""


def resolved(tracking: Sequence[Item], base: str | Path, here: bool, problems: list[UserError]) -> list[Item]:
    """The trackers, checked; with their paths absolute if they are used here.

    Args:
        tracking: as the config has them.
        base: what relative paths are relative to.
        here: whether they are used by this process, so that it must have their packages and variables.
        problems: gets what is wrong.
    """
    found: list[Item] = []
    for item in tracking:
        with collected(problems):
            kind, options = find(item)
            if here:
                _check_installed(name_of(item), kind)
                options = kind.resolved(options, base)
            given = options.model_dump(mode="json", exclude_defaults=True)
            found.append({name_of(item): given} if given else name_of(item))
    return found


def find(item: Item) -> tuple[type[Tracker], Config]:
    """The class of a tracker, and its options.

    Raises:
        UserError: there is no such class, or the options are wrong.
    """
    name = name_of(item)
    kind = TRACKERS.get(name) or _own(name)
    return kind, validate(options_of(item), kind.Options, f"{KEY}.{name}")


def maker(item: Item) -> Make:
    """What makes the tracker, whose options have been checked."""
    kind, options = find(item)
    return lambda: kind(options)


def _own(name: str) -> type[Tracker]:
    module, _, attribute = name.partition(":")
    own_code.check_name(KEY, name)
    loaded = own_code.load(KEY, name, module)
    kind = getattr(loaded, attribute, None)
    if not isinstance(kind, type):
        classes = [each for each, value in vars(loaded).items() if isinstance(value, type) and issubclass(value, Tracker)]
        raise UserError(f"{KEY} {name!r}: {module} has no class {attribute}", nearest(attribute, classes))
    if not issubclass(kind, Tracker):
        raise UserError(f"{KEY} {name!r} is not a Tracker", f"write class {attribute}(heliostat.workloads.tracking.Tracker)")
    return kind


def _check_installed(name: str, kind: type[Tracker]) -> None:
    if kind.package and not importlib.util.find_spec(kind.package):
        raise UserError(
            f"{KEY} has {name}, which needs the package {kind.extra}, which is not installed",
            f"pip install 'heliostat[{name}]', or pip install {kind.extra}; on a cluster, put it into the image, "
            f"or write requirements: [{kind.extra}]",
        )


def check_notify(notify: Sequence[Notify]) -> Iterator[UserError]:
    """What is wrong with the variables that have the URLs; no URL is shown."""
    for each in notify:
        if each.env and not os.environ.get(each.env):
            yield UserError(
                f"notify.env is {each.env}, but that variable is not set",
                f"export it; for a job give --env {each.env}, or add it to env of the profile",
            )
        elif each.env and "http" not in os.environ[each.env].partition(":")[0]:
            yield UserError(f"notify.env is {each.env}, whose value {wrong_url(os.environ[each.env])}", "correct it")
