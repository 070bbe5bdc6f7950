"""The files of a working directory that a job gets: all but secrets, caches, earlier runs and what ignore files exclude.

``.gitignore`` and ``.rayignore`` apply as with ``ray job submit``. A secret is sent only if a line ``!PATH`` of ``.rayignore``
names it, without wildcards: a broad ``!*`` was not written for it.
"""

import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

# Ray's private function and its copy of pathspec (2.60), so that the same files are left out as with `ray job submit`.
from ray._private.runtime_env.packaging import get_excludes_from_ignore_files
from ray._private.thirdparty.pathspec import PathSpec

from heliostat.environment import CACHE, DATASETS, RUN_FOLDERS
from heliostat.errors import UserError

SECRET_NAMES = """
    credentials  !credentials/  credentials.*  !credentials.py
    .env  .env.*  *.env  .envrc  !.env.example  !.env.sample  !.env.template  !.env.dist  !.env.defaults
    .netrc  _netrc  .pgpass  .my.cnf  .pypirc  .npmrc  .yarnrc.yml  .condarc  pip.conf  .git-credentials  .htpasswd
    .s3cfg  .boto  .vault-token  .databrickscfg  .dockercfg  .dockerconfigjson  **/.docker/config.json  rclone.conf
    .aws/  .azure/  .gcloud/  **/.config/gcloud/  **/.config/gh/  .kube/  .ssh/  .gnupg/  .huggingface/  .kaggle/  .heliostat/
    kubeconfig  kubeconfig[.-]*  *.kubeconfig  *-kubeconfig.y*ml
    id_rsa  id_dsa  id_ecdsa  id_ecdsa_sk  id_ed25519  id_ed25519_sk  *.pem  *.key  *.p12  *.pfx  *.p8  *.jks  *.keystore  *.ppk
    *.kdbx  **/huggingface/token  **/huggingface/stored_tokens  kaggle.json  *[-_]credentials.json
    client_secret*.json  *service[-_]account*.json  secret.y*ml  secrets.y*ml  secrets.json  secrets.toml
    *.tfstate  *.tfstate.backup
"""
"""The patterns of an ignore file for files with passwords, tokens and private keys."""
NAMED_BY = ("KUBECONFIG", "GOOGLE_APPLICATION_CREDENTIALS", "AWS_SHARED_CREDENTIALS_FILE", "NETRC", "RAY_AUTH_TOKEN_PATH")
"""Environment variables with the paths of files with secrets."""
PRIVATE_KEY = re.compile(rb"\s*(-----BEGIN [A-Z0-9 ]*PRIVATE KEY|PuTTY-User-Key-File)")
CREDENTIALS = {
    ".json": re.compile(rb'"(private_key|client_secret|refresh_token)"\s*:\s*"'),
    ".yaml": re.compile(rb"^\s*(- )?client-key-data\s*:", re.MULTILINE),
    ".yml": re.compile(rb"^\s*(- )?client-key-data\s*:", re.MULTILINE),
}
"""What a file with credentials has in it, by the suffix: the keys of a cloud's service account may have any name."""
LARGEST_KEY = 64 << 10
"""Bytes of a file that is searched for keys."""
CACHE_NAMES = """
    .git  .venv  venv  __pycache__  *.egg-info  .mypy_cache  .ruff_cache  .pytest_cache  .hypothesis  .import_linter_cache
    .cache/  .tox/  .nox/  .ipynb_checkpoints/  node_modules/
"""
CACHE_MARKS = ("pyvenv.cfg", "conda-meta", "CACHEDIR.TAG")
"""The files by which a virtual environment or a cache is recognized, whatever its name."""
SECRETS, CACHES = (PathSpec.from_lines("gitwildmatch", names.split()) for names in (SECRET_NAMES, CACHE_NAMES))
LISTED = 20
"""Files that a message names."""

logging.getLogger("ray._private.runtime_env.packaging").setLevel("WARNING")  # it logs every ignore file that it reads


@dataclass(frozen=True)
class Contents:
    """What a job gets of a working directory."""

    directory: Path
    isolated: bool
    """Whether the directory stays off the search path of Ray's processes, see `packaging`."""
    sizes: Mapping[str, int]
    """Bytes of each file, by its path; an empty folder's path ends with a slash."""
    secrets: tuple[str, ...]
    """Files and folders that look like secrets, and are not sent."""

    @property
    def biggest_first(self) -> dict[str, int]:
        """The sizes of the files, without empty folders."""
        files = [(name, size) for name, size in self.sizes.items() if not name.endswith("/")]
        return dict(sorted(files, key=lambda file: -file[1]))

    @property
    def notice(self) -> str:
        """A line about the secrets that are not sent; empty if there are none."""
        if not self.secrets:
            return ""
        one = next((name for name in self.secrets if not name.endswith("/")), f"{self.secrets[0]}NAME")
        return f"not sent, because they look like secrets: {some(self.secrets)} (to send one, add a line !{one} to .rayignore)"


def contents(directory: Path, isolated: bool = False, needed: Iterable[str] = ()) -> Contents:
    """Find what a job gets of a directory; ``needed`` are paths of files that always go, such as the run's config.

    Raises:
        UserError: a file cannot be read.
    """
    root = directory.resolve()
    found = _Found(root, frozenset(_secret_paths()))
    without = [lambda path: path == directory / "heliostat"] if isolated and has_heliostat(directory) else []
    _walk(directory, "", without, [root], found)
    for name in (*needed, *_chosen(directory)):
        path = Path(os.path.normpath(directory / name))
        if path.is_relative_to(directory) and path.is_file():
            found.add(path, path.relative_to(directory).as_posix())
    if found.unreadable:
        raise UserError(
            f"{some(found.unreadable)} in the working directory {directory} cannot be read",
            "change the permissions, or exclude what the job does not need in .rayignore",
        )
    secrets = tuple(name for name in found.secrets if name not in found.sizes)
    return Contents(directory, isolated, dict(sorted(found.sizes.items())), secrets)


def has_heliostat(directory: Path) -> bool:
    """Whether a directory is a clone of Heliostat."""
    return (directory / "heliostat" / "cli.py").is_file()


def some(names: Iterable[str], shown: int = LISTED) -> str:
    """The first names of a list, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def megabytes(size: float) -> str:
    """A number of bytes as readable text, such as 3.2 MB."""
    if size < 1 << 10:
        return f"{size:.0f} B"
    if size < 1 << 20:
        return f"{size / (1 << 10):.1f} kB"
    return f"{size / (1 << 20):.1f} MB"


@dataclass
class _Found:
    root: Path
    secret_paths: frozenset[Path]
    sizes: dict[str, int] = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def add(self, path: Path, name: str) -> None:
        self.sizes[name] = path.stat().st_size
        if not os.access(path, os.R_OK):
            self.unreadable.append(name)

    def is_secret(self, path: Path, name: str, real: Path, is_folder: bool) -> bool:
        """Whether a file or folder, or what a link leads to, looks like a secret; ``name`` is its path in the directory."""
        names = {name}
        if path.is_symlink():
            names.add(real.relative_to(self.root if real.is_relative_to(self.root) else real.anchor).as_posix())
        if real in self.secret_paths or any(SECRETS.match_file(f"{each}/" if is_folder else each) for each in names):
            return True
        return path.is_file() and _has_key(path)  # a pipe cannot be read


def _walk(folder: Path, name: str, ignored: list[Callable[[Path], bool]], above: list[Path], found: _Found) -> None:
    """Add what a folder contains.

    Args:
        folder: which is read.
        name: its path in the working directory.
        ignored: whether an ignore file above excludes a path.
        above: the real paths of the folders above and of this one, the last: a link to one of them would lead on forever.
        found: what is added to.
    """
    ignored = [*ignored, *get_excludes_from_ignore_files(folder, include_gitignore=True)]
    entries = sorted(folder.iterdir())
    if name and not entries:
        found.sizes[f"{name}/"] = 0
    for path in entries:
        below = f"{name}/{path.name}" if name else path.name
        is_folder = path.is_dir()
        if any(match(path) for match in ignored) or _is_ours_or_a_cache(path, is_folder):
            continue
        real = path.resolve() if path.is_symlink() else above[-1] / path.name
        if found.is_secret(path, below, real, is_folder):
            found.secrets.append(f"{below}/" if is_folder else below)
        elif is_folder and not os.access(path, os.R_OK | os.X_OK):
            found.unreadable.append(below)
        elif is_folder and real not in above:
            _walk(path, below, ignored, [*above, real], found)
        elif path.is_file():  # no socket and no pipe
            found.add(path, below)


def _is_ours_or_a_cache(path: Path, is_folder: bool) -> bool:
    if CACHES.match_file(f"{path.name}/" if is_folder else path.name):
        return True
    if not is_folder or not os.access(path, os.X_OK):
        return False
    return (
        path.name == DATASETS
        or any((path / mark).exists() for mark in CACHE_MARKS)
        or any(all((path / file).exists() for file in files) for files in RUN_FOLDERS)
        or (CACHE in os.environ and path.resolve() == Path(os.environ[CACHE]).resolve())
    )


def _has_key(path: Path) -> bool:
    """Whether a small file is a private key, or has the keys of a cloud or a Kubernetes cluster in it."""
    if not os.access(path, os.R_OK) or path.stat().st_size > LARGEST_KEY:
        return False
    text, credentials = path.read_bytes(), CREDENTIALS.get(path.suffix)
    return bool(PRIVATE_KEY.match(text) or (credentials and credentials.search(text)))


def _secret_paths() -> Iterable[Path]:
    """The files with secrets that environment variables name."""
    values = [value for name in NAMED_BY for value in os.environ.get(name, "").split(os.pathsep) if value]
    return (Path(value).expanduser().resolve() for value in values)


def _chosen(directory: Path) -> list[str]:
    """The paths that lines ``!PATH`` of the directory's ``.rayignore`` name."""
    ignore = directory / ".rayignore"
    lines = [line.strip() for line in ignore.read_text().splitlines()] if ignore.is_file() else []
    return [line.removeprefix("!").lstrip("/") for line in lines if line.startswith("!") and not set("*?[") & set(line)]
