"""Finds what a script on a cluster may miss: files and variables of this machine that are not sent."""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heliostat.cluster.jobs.contents import Contents

KNOWN = re.compile(
    r"(WANDB|HF|HUGGING_FACE|HUGGINGFACE|MLFLOW|COMET|NEPTUNE|CLEARML|SWANLAB|OMP|MKL|NCCL|GLOO|TORCH|PYTORCH|TOKENIZERS"
    r"|TRANSFORMERS)_\w+|CUDA_LAUNCH_BLOCKING|[A-Z_]*(API_KEY|ACCESS_TOKEN)"
)
"""Variables that libraries for training read."""
READ = re.compile(r"""(?:environ(?:\.get\(|\.pop\(|\.setdefault\(|\[)|getenv\()\s*["'](\w+)["']""")
"""How a script reads a variable."""
OWN = {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "TERM", "LANG", "PYTHONPATH", "HOSTNAME", "TMPDIR", "VIRTUAL_ENV"}
"""Variables that belong to a machine."""
MISSING = re.compile(r"No such file|does not exist|[Nn]ot found|FileNotFoundError|cannot open", re.IGNORECASE)
LARGEST = 1 << 20
"""Bytes of a source file that is searched."""


def source_text(files: "Contents") -> str:
    """The text of the Python files that are sent."""
    names = [name for name, size in files.sizes.items() if name.endswith(".py") and size <= LARGEST]
    return "\n".join((files.directory / name).read_text(errors="replace") for name in names)


def variables(text: str, environment: Mapping[str, str], sent: Collection[str]) -> list[str]:
    """The variables of the shell that the sources, or well-known libraries, read, and that are not sent."""
    read = {name for name in READ.findall(text) if name not in OWN}
    names = [name for name in environment if name in read or KNOWN.fullmatch(name)]
    return sorted(name for name in names if name not in sent and not name.startswith(("RAY_", "HELIOSTAT_")))


def ignored(text: str, files: "Contents") -> list[str]:
    """The files and folders that ignore files exclude, and that the sources name."""
    words = set(re.findall(r"[\w.-]+", text))
    return [name for name in files.ignored if Path(name).name in words and Path(name).name not in ("heliostat", "runs")]


def missed(printed: str, files: "Contents") -> list[str]:
    """The files that a message of the job misses, and that are here."""
    lines = [line for line in printed.splitlines() if MISSING.search(line)]
    found = dict.fromkeys(name for line in lines for name in _paths(line) if name not in files.sizes)
    return [name for name in found if (files.directory / name).exists() and not (files.directory / name).is_dir()]


def _paths(line: str) -> Iterator[str]:
    """What may be a path in a line, from the working directory, of which the job has a copy."""
    for quoted in (*re.findall(r"""["']([^"']+)["']""", line), *line.split()):
        name = quoted.strip("'\",:;()[]")
        name = re.sub(r"^.*/working_dir_files/[^/]+/(working-dir/)?", "", name).removeprefix("./")
        if name and not name.startswith("/") and ".." not in name:
            yield name
