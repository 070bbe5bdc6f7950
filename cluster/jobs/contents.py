"""The files of a working directory that a job gets: all but secrets, caches, earlier runs and what ignore files exclude.

``.gitignore`` and ``.rayignore`` apply as with ``ray job submit``. A secret is sent only if a line ``!PATH`` of ``.rayignore``
names it, without wildcards: a broad ``!*`` was not written for it.
"""

import errno
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

# Ray's copy of pathspec (2.60), so that patterns have the same meaning as with `ray job submit`.
from ray._private.thirdparty.pathspec import PathSpec

from heliostat.environment import CACHE, DATASETS, RUN_FOLDERS
from heliostat.errors import UserError

SECRET_NAMES = """
    .env  .env.*  .env[-_~]*  .flaskenv  .envrc
    !.env[-._]example  !.env[-._]sample  !.env[-._]template  !.env[-._]dist  !.env[-._]defaults
    .netrc  _netrc  .pgpass  .my.cnf  .pypirc  .npmrc  .yarnrc.yml  .condarc  pip.conf  .git-credentials  .htpasswd
    .s3cfg  .boto  .vault-token  .vault[-_]pass  .databrickscfg  .dockercfg  .dockerconfigjson  **/.docker/config.json
    .aws/  .azure/  .gcloud/  **/.config/gcloud/  **/.config/gh/  .kube/  .ssh/  .gnupg/  .huggingface/  .kaggle/  .heliostat/
    id_rsa  id_dsa  id_ecdsa  id_ecdsa_sk  id_ed25519  id_ed25519_sk  *.key  *.p12  *.pfx  *.p8  *.jks  *.keystore  *.ppk
    *.kdbx  **/huggingface/token  **/huggingface/stored_tokens  kaggle.json  *[-_]credentials.json  rclone.conf
    client_secret*.json  *service[-_]account*.json  secret.y*ml  secrets.y*ml  secret.json  secrets.json  secrets.toml
    .secrets.y*ml  .secrets.json  .secrets.toml  *.tfstate  *.tfstate.backup  terraform.tfvars  terraform.tfvars.json
"""
"""The patterns of an ignore file for files and folders with passwords, tokens and private keys."""
SECRET_FILES = """
    *.env  credentials  credentials.*  kubeconfig  kubeconfig[.-]*  *.kubeconfig  *-kubeconfig.y*ml
"""
"""The same for the names of files only: folders with such names are code."""
CODE = (
    "c",
    "cc",
    "cpp",
    "cs",
    "go",
    "h",
    "ipynb",
    "java",
    "js",
    "jsx",
    "kt",
    "md",
    "py",
    "pyi",
    "rb",
    "rs",
    "rst",
    "ts",
    "tsx",
)
"""The suffixes of code and texts about `SECRET_FILES`, which are none."""
NAMED_BY = (
    "KUBECONFIG", "GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_CONFIG", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE",
    "NETRC", "PGPASSFILE", "HF_TOKEN_PATH", "PIP_CONFIG_FILE", "NPM_CONFIG_USERCONFIG", "npm_config_userconfig",
    "RAY_AUTH_TOKEN_PATH",
)  # fmt: skip
"""Environment variables with the paths of files or folders with secrets."""
NAMED_BELOW = {"HF_HOME": ("token", "stored_tokens"), "DOCKER_CONFIG": ("config.json",)}
"""Environment variables with the paths of folders, and the files with secrets there."""
PRIVATE_KEY = re.compile(rb"^[ \t]*(-----BEGIN [A-Z0-9 ]*PRIVATE KEY|PuTTY-User-Key-File)", re.MULTILINE)
PEM_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]*)-----")
LARGEST_PEM = 1 << 20
"""Bytes of a ``.pem`` that is searched for other blocks than certificates."""
JSON_KEY = re.compile(rb'"(private_key|client_secret|refresh_token|client-key-data)"\s*:\s*"')
YAML_KEY = re.compile(rb"^[ \t]*(- )?client-key-data\s*:", re.MULTILINE)
"""What a file with credentials has in it: the keys of a cloud's service account may have any name."""
LARGEST_KEY = 64 << 10
"""Bytes of a file that is searched for keys."""
CACHE_NAMES = """
    .git  .venv  venv  __pycache__  *.egg-info  .mypy_cache  .ruff_cache  .pytest_cache  .hypothesis  .import_linter_cache
    .cache/  .tox/  .nox/  .ipynb_checkpoints/  node_modules/
"""
CACHE_MARKS = ("pyvenv.cfg", "conda-meta", "CACHEDIR.TAG")
"""The files by which a virtual environment or a cache is recognized, whatever its name."""
SECRETS, CACHES = (PathSpec.from_lines("gitwildmatch", names.split()) for names in (SECRET_NAMES, CACHE_NAMES))
FILES = PathSpec.from_lines("gitwildmatch", [*SECRET_FILES.split(), *(f"!*.{suffix}" for suffix in CODE)])
LISTED = 20
"""Files that a message names."""

Match = Callable[[Path, bool], bool]
"""Whether a path, which may be that of a folder, is excluded."""


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
    runs: tuple[str, ...] = ()
    """Folders of earlier runs and sweeps, which are not sent."""

    @property
    def biggest_first(self) -> dict[str, int]:
        """The sizes of the files, without empty folders."""
        files = [(name, size) for name, size in self.sizes.items() if not name.endswith("/")]
        return dict(sorted(files, key=lambda file: -file[1]))

    @property
    def notice(self) -> str:
        """A line about the secrets and the earlier runs that are not sent; empty if there are none."""
        parts = []
        if self.secrets:
            one = next((name for name in self.secrets if not name.endswith("/")), f"{self.secrets[0]}NAME")
            named = f"they look like secrets: {some(self.secrets)} (to send one, add a line !{one} to .rayignore)"
            parts.append(f"not sent, because {named}")
        if self.runs:
            parts.append(f"not sent, because they are earlier runs: {some(self.runs, 5)}")
        return "; ".join(parts)


def contents(directory: Path, isolated: bool = False, needed: Iterable[str] = ()) -> Contents:
    """Find what a job gets of a directory; ``needed`` are paths of files that always go, such as the run's config.

    Raises:
        UserError: a file cannot be read, its name is not UTF-8, or an ignore file is invalid.
    """
    root = directory.resolve()
    found = _Found(root, frozenset(path for path in _secret_paths() if not root.is_relative_to(path)))
    ours = directory / "heliostat"
    without: list[Match] = [lambda path, is_folder: path == ours] if isolated and has_heliostat(directory) else []
    _walk(directory, "", without, [root], found)
    for name in (*needed, *_chosen(directory)):
        path = Path(os.path.normpath(directory / name))
        if path.is_relative_to(directory) and os.path.isfile(path):  # false also below a folder that cannot be read
            found.add(path, path.relative_to(directory).as_posix())
    if found.unreadable:
        raise UserError(
            f"{some(map(_printable, found.unreadable))} in the working directory {directory} cannot be read",
            "change the permissions, or exclude what the job does not need in .rayignore",
        )
    if misnamed := [name for name in found.sizes if _printable(name) != name]:
        raise UserError(
            f"{some(map(_printable, misnamed))} in the working directory {directory} has a name that is not UTF-8",
            "rename it, or exclude it in .rayignore",
        )
    secrets = tuple(_printable(name) for name in found.secrets if name not in found.sizes)
    runs = tuple(map(_printable, found.runs))
    return Contents(directory, isolated, dict(sorted(found.sizes.items())), secrets, runs)


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
    runs: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def add(self, path: Path, name: str) -> None:
        self.sizes[name] = path.stat().st_size
        if not os.access(path, os.R_OK):
            self.unreadable.append(name)

    def is_secret(self, path: Path, name: str, real: Path, is_folder: bool) -> bool:
        """Whether a file or folder looks like a secret: by ``name``, its path in the directory, by its real path, for links
        on the way to it, or by what it contains."""
        outside = real.relative_to(self.root if real.is_relative_to(self.root) else real.anchor).as_posix()
        if any(SECRETS.match_file(f"{each}/" if is_folder else each) for each in (name, outside)):
            return True
        if not self.secret_paths.isdisjoint((real, *real.parents)):
            return True
        if is_folder or not path.is_file():  # a pipe cannot be read
            return False
        return any(FILES.match_file(each.name) or _is_secret_pem(each) for each in (path, real)) or _has_key(path)


def _walk(folder: Path, name: str, ignored: list[Match], above: list[Path], found: _Found) -> None:
    """Add what a folder contains.

    Args:
        folder: which is read.
        name: its path in the working directory.
        ignored: whether an ignore file above excludes a path.
        above: the real paths of the folders above and of this one, the last: a link to one of them would lead on forever.
        found: what is added to.
    """
    ignored = [*ignored, *_ignore_files(folder)]
    entries = sorted(folder.iterdir())
    if name and not entries:
        found.sizes[f"{name}/"] = 0
    for path in entries:
        below = f"{name}/{path.name}" if name else path.name
        is_folder = os.path.isdir(path)
        if any(match(path, is_folder) for match in ignored) or _is_cache(path, is_folder):
            continue
        try:
            path.stat()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP):  # a link that leads nowhere
                found.unreadable.append(below)
            continue
        real = Path(os.path.realpath(path)) if path.is_symlink() else above[-1] / path.name
        if found.is_secret(path, below, real, is_folder):
            found.secrets.append(f"{below}/" if is_folder else below)
        elif is_folder and not os.access(path, os.R_OK | os.X_OK):
            found.unreadable.append(below)
        elif is_folder and _is_run(path):
            found.runs.append(f"{below}/")
        elif is_folder and real not in above:
            _walk(path, below, ignored, [*above, real], found)
        elif path.is_file():  # no socket and no pipe
            found.add(path, below)


def _ignore_files(folder: Path) -> list[Match]:
    """What the ignore files of a folder exclude; patterns with a slash at the end match folders, as in git.

    Raises:
        UserError: a line is not UTF-8, or not a pattern.
    """
    files = [folder / name for name in (".gitignore", ".rayignore")]
    return [_excluding(folder, _patterns(file)) for file in files if os.path.isfile(file) and os.access(file, os.R_OK)]


def _excluding(folder: Path, patterns: PathSpec) -> Match:
    def excludes(path: Path, is_folder: bool) -> bool:
        name = path.relative_to(folder).as_posix()
        names = (name, f"{name}/") if is_folder else (name,)
        last_first = reversed(patterns.patterns)
        return next((each.include for each in last_first if each.regex and any(map(each.regex.match, names))), False)

    return excludes


def _patterns(file: Path) -> PathSpec:
    lines = []
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        try:
            lines.append(line.decode())
            PathSpec.from_lines("gitwildmatch", lines[-1:])
        except (ValueError, IndexError) as error:  # pathspec raises IndexError for a lone "!"
            reason = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else f"is not a pattern: {lines[-1]}"
            raise UserError(f"line {number} of {file} {reason}", "correct or remove that line") from None
    return PathSpec.from_lines("gitwildmatch", lines)


def _is_run(folder: Path) -> bool:
    """Whether a folder is that of an earlier run, by files that only Heliostat writes."""
    return any(
        os.path.exists(folder / entry) and _start(folder / written).startswith(start) for entry, written, start in RUN_FOLDERS
    )


def _start(path: Path) -> bytes:
    """The first bytes of a file; none if it cannot be read."""
    if not os.path.isfile(path) or not os.access(path, os.R_OK):
        return b""
    with path.open("rb") as file:
        return file.read(100)


def _is_cache(path: Path, is_folder: bool) -> bool:
    if CACHES.match_file(f"{path.name}/" if is_folder else path.name):
        return True
    if not is_folder or not os.access(path, os.X_OK):
        return False
    return (
        path.name == DATASETS
        or any((path / mark).exists() for mark in CACHE_MARKS)
        or (CACHE in os.environ and os.path.realpath(path) == os.path.realpath(os.environ[CACHE]))
    )


def _is_secret_pem(path: Path) -> bool:
    """Whether a ``.pem`` has, or may have, anything else than certificates."""
    if path.suffix.lower() != ".pem":
        return False
    if not os.access(path, os.R_OK) or path.stat().st_size > LARGEST_PEM:
        return True
    return set(PEM_BLOCK.findall(path.read_bytes())) != {b"CERTIFICATE"}


def _has_key(path: Path) -> bool:
    """Whether a small file is a private key, or has the keys of a cloud or a Kubernetes cluster in it."""
    if not os.access(path, os.R_OK) or path.stat().st_size > LARGEST_KEY:
        return False
    text = path.read_bytes()
    is_json = path.suffix.lower() == ".json" or text.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{")
    is_yaml = path.suffix.lower() in (".yaml", ".yml")
    return bool(PRIVATE_KEY.search(text) or (is_json and JSON_KEY.search(text)) or (is_yaml and YAML_KEY.search(text)))


def _secret_paths() -> Iterable[Path]:
    """The files and folders with secrets that environment variables name."""
    values = [value for name in NAMED_BY for value in os.environ.get(name, "").split(os.pathsep) if value]
    values += [f"{os.environ[name]}/{file}" for name, files in NAMED_BELOW.items() if os.environ.get(name) for file in files]
    return (Path(os.path.realpath(os.path.expanduser(value))) for value in values)


def _printable(name: str) -> str:
    """A name without the bytes of it that are not UTF-8."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _chosen(directory: Path) -> list[str]:
    """The paths that lines ``!PATH`` of the directory's ``.rayignore`` name."""
    ignore = directory / ".rayignore"
    readable = os.path.isfile(ignore) and os.access(ignore, os.R_OK)
    lines = [line.strip() for line in ignore.read_text(encoding="utf-8").splitlines()] if readable else []
    return [line.removeprefix("!").lstrip("/") for line in lines if line.startswith("!") and not set("*?[") & set(line)]
