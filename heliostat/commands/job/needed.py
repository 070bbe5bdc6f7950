"""What a job needs, and whether it will find it: files that go along with it, or paths that its cluster has.

Everything is checked before anything is sent, and all that is missing is in one message.
"""

import importlib.util
import os
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from heliostat.cluster.jobs.contents import Contents, why_not_sent
from heliostat.cluster.profile import Profile
from heliostat.errors import UserError
from heliostat.folder import expanded
from heliostat.wording import agreeing, counted

DATA = ("dataset.path", "dataset.options.path")
"""The keys of a train config that may have the path of its data."""
NOT_OWN = ("heliostat", "__main__", "__mp_main__")
"""Modules that code of one's own does not load: the script that calls `heliostat.train` has two names (multiprocessing)."""
SHOWN = 5
"""Problems, and files of one of them, that a message lists."""


def job_variables(profile: Profile, values: Mapping[str, str]) -> Mapping[str, str] | None:
    """The variables that a job's paths may have: those of the profile and of ``--env``; None for this process's own."""
    if profile.platform == "local":
        return None
    own = {**profile.env, **profile.head.env}  # as its driver has them
    return {**{name: value for name, value in own.items() if isinstance(value, str)}, **values}


def check_paths(profile: Profile, paths: Iterable[tuple[str, str]], variables: Mapping[str, str] | None) -> None:
    """Refuse paths that only this machine has.

    Args:
        profile: of the cluster.
        paths: each with the key that has it.
        variables: those of the job.

    Raises:
        UserError: some are outside of the working directory and of what the cluster's nodes share.
    """
    if profile.platform == "local":  # its nodes are processes of this machine
        return
    _refuse(
        [(f"{key} is {path}, {what}", fix) for key, path in paths for what, fix in _misplaced(profile, key, path, variables)]
    )


def check_sent(files: Contents, needed: Mapping[str, Iterable[str | Path]]) -> None:
    """Refuse files of the working directory that do not go along with a job that reads them.

    Args:
        files: what the job gets.
        needed: the files that it reads, by the key that names them.

    Raises:
        UserError: some are excluded; the message has the reason.
    """
    problems = []
    for key, paths in needed.items():
        names = [os.path.relpath(path, files.directory) for path in paths]
        missing = [name for name in names if name not in files.sizes]
        if missing:
            more = f" and {counted(len(missing) - 1, 'more file')}" if len(missing) > 1 else ""
            what = f"{key} needs {missing[0]}{more}, which {agreeing(len(missing), 'do')} not go along with the job"
            whole = os.path.dirname(missing[0]) if more else ""
            chosen = f"{whole}/" if whole else missing[0]
            fix = f"to send it, add the line !{chosen} to .rayignore"
            if key in DATA:
                fix += "; or copy it to the cluster's storage, or build the dataset there, and give that path"
            problems.append((f"{what}: {why_not_sent(files, missing[0])}", fix))
    _refuse(problems)


def data_paths(dataset: Any) -> list[tuple[str, str]]:
    """The paths in the key ``dataset`` of a train config, each with its key."""
    if not isinstance(dataset, Mapping):
        return []
    options = dataset.get("options")
    options = options if isinstance(options, Mapping) else {}
    split = options.get("split")
    parts = split if isinstance(split, Mapping) else {}
    found = {
        "dataset.path": dataset.get("path"),
        "dataset.options.path": options.get("path"),
        "dataset.options.table": options.get("table") if dataset.get("source") == "images" else None,
        **{f"dataset.options.split.{part}": parts.get(part) for part in ("validation", "test")},
    }
    return [(key, path) for key, path in found.items() if isinstance(path, str)]


def option_paths(model: Any, dataset: Any) -> list[tuple[str, str]]:
    """What exists here of the paths in options of a model and a source, such as of pretrained weights, each with its key.

    Which options are paths is not known: a text with a slash is one if something is there.
    """
    options = dataset.get("options") if isinstance(dataset, Mapping) else None
    known = {key for key, _ in data_paths(dataset)}
    found = [*_texts("model", model), *_texts("dataset.options", options)]
    return [
        (key, text)
        for key, text in found
        if key not in known and "/" in text and "://" not in text and os.path.exists(os.path.expanduser(text))
    ]


def option_files(paths: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The files that a job gets of those paths: the relative ones, and what is below them; by key."""
    return {key: _files_below(path) for key, path in paths if not os.path.isabs(path)}


def _texts(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts(f"{key}.{name}", inner)
    elif isinstance(value, str):
        yield key, value


def _files_below(path: str) -> list[str]:
    if not os.path.isdir(path):
        return [path]
    found = []
    for folder, below, names in os.walk(path):
        below[:] = [name for name in below if not name.startswith((".", "__"))]  # no caches
        found += [os.path.join(folder, name) for name in names]
    return found


def data_files(plan: Any) -> dict[str, list[str]]:
    """The files of this machine that a planned run reads, by their key; those of a dataset are opened here.

    Raises:
        UserError: the dataset is not in the working directory.
    """
    from heliostat.datasets import Dataset
    from heliostat.datasets.index import INDEX
    from heliostat.workloads.plan import is_absolute

    if plan.source:
        own = ":" in plan.config.dataset.source
        key = "dataset.options.path" if "path" in plan.config.dataset.options else "dataset.source"
        return {key: [file.path for file in plan.source.files()]} if own or key == "dataset.options.path" else {}
    if not plan.config.dataset.path or is_absolute(plan.dataset_uri):
        return {}
    dataset = Dataset.open(plan.dataset_uri)
    shards = [shard.file for split in dataset.index.splits.values() for shard in split]
    return {"dataset.path": [f"{dataset.folder.path}/{name}" for name in (INDEX, *shards)]}


def own_files(profile: Profile, config: Any) -> dict[str, list[str]]:
    """The modules of the working directory that code of one's own (task, source, ...), which is imported, has loaded.

    Raises:
        UserError: the module of one is in another folder, which the nodes do not have.
    """
    own = config.own_code
    for key, name in own.items():
        _check_here(profile, key, name)
    # All of them under one key: which module is whose is not known.
    return {" and ".join(f"{key} {name}" for key, name in own.items()): sorted(_own_modules(Path.cwd()))} if own else {}


def _check_here(profile: Profile, key: str, name: str) -> None:
    module = name.partition(":")[0]
    file: str | None = getattr(sys.modules.get(module), "__file__", None)
    here = Path.cwd()
    own = [Path(place).resolve() for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    away = file is not None and not Path(file).is_relative_to(here) and not module.startswith("heliostat.")
    if profile.platform != "local" and file and away and any(Path(file).resolve().is_relative_to(place) for place in own):
        raise UserError(
            f"{key} is {name}, but {file} is outside of the working directory, which the job gets a copy of",
            "start from a folder that contains it, or install it in the image",
        )


def module_files(name: str) -> dict[str, list[str]]:
    """The file of a module of the working directory that is run, and that of its package."""
    first, *inner = name.split(".")
    found = importlib.util.find_spec(first)
    if not found or not found.origin or not Path(found.origin).is_relative_to(Path.cwd()):
        return {}
    place = Path(found.origin).parent.joinpath(*inner)
    module = [str(path) for path in (place.with_suffix(".py"), place / "__main__.py") if inner and path.is_file()]
    return {f"module {name}": [found.origin, *module]}


def _own_modules(folder: Path) -> Iterator[str]:
    installed = [
        sys.prefix,
        *site.getsitepackages(),
        *(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")),
    ]
    for name, module in list(sys.modules.items()):
        file = os.path.abspath(getattr(module, "__file__", None) or "/")  # of a script, what was typed: ../sweep.py
        if name.partition(".")[0] in NOT_OWN or not Path(file).is_relative_to(folder):
            continue
        if not os.path.isfile(file):
            continue  # in a wheel, which the requirements name
        if not any(Path(file).is_relative_to(place) for place in installed if Path(place) != folder):
            yield file


def _misplaced(profile: Profile, key: str, path: str, variables: Mapping[str, str] | None) -> Iterator[tuple[str, str]]:
    """Why the cluster's nodes do not have a path, and what to do; nothing if they have it, or if only a job can tell."""
    mount = None if profile.storage.uri else profile.storage.mount
    there = f"{mount}/..." if mount else f"{profile.storage.uri}/..."
    if path.startswith("~"):
        yield "in the home of this machine, which the nodes do not have", f"give a path on their storage, such as {there}"
        return
    place = expanded(path, variables, key)
    here = Path.cwd()
    if "://" in place:
        return
    if not os.path.isabs(place):
        if os.path.normpath(place).startswith(".."):
            yield "outside of the working directory, which the job gets a copy of", "start from a folder that contains it"
        return
    if (mount and Path(place).is_relative_to(mount)) or not os.path.exists(place):
        return  # what is not here may be in the image, or on another volume
    if Path(place).is_relative_to(here):
        yield "but the job has its working directory elsewhere", f"write {os.path.relpath(place, here)}"
        return
    yield "which only this machine has", f"copy it to the cluster's storage, and give its path there ({there})"


def _refuse(problems: list[tuple[str, str]]) -> None:
    if len(problems) == 1:
        raise UserError(*problems[0])
    if problems:
        lines = [f"\n    {what}: {fix}" for what, fix in problems[:SHOWN]]
        lines += [f"\n    and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise UserError(f"the job would not find what it needs:{''.join(lines)}", "correct all of them")
