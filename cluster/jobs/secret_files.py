"""Recognizes files and folders with secrets: by their name, by what they contain, and by the variables that name them."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

# As in `contents`.
from ray._private.thirdparty.pathspec import PathSpec

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
    "c", "cc", "cpp", "cs", "go", "h", "ipynb", "java", "js", "jsx", "kt", "md", "py", "pyi", "rb", "rs", "rst", "ts", "tsx",
)  # fmt: skip
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
SECRETS = PathSpec.from_lines("gitwildmatch", SECRET_NAMES.split())
FILES = PathSpec.from_lines("gitwildmatch", [*SECRET_FILES.split(), *(f"!*.{suffix}" for suffix in CODE)])


def is_secret(path: Path, names: Iterable[str], real: Path, is_folder: bool, named: frozenset[Path]) -> bool:
    """Whether a file or folder looks like a secret.

    Args:
        path: of it.
        names: its path in the working directory, and its real one, which another has below a link.
        real: its real path.
        is_folder: whether it is a folder.
        named: `secret_paths`.
    """
    if any(SECRETS.match_file(f"{each}/" if is_folder else each) for each in names):
        return True
    if not named.isdisjoint((real, *real.parents)):
        return True
    if is_folder or not path.is_file():  # a pipe cannot be read
        return False
    return any(FILES.match_file(each.name) or _is_secret_pem(each) for each in (path, real)) or _has_key(path)


def secret_paths() -> Iterable[Path]:
    """The files and folders with secrets that environment variables name."""
    values = [value for name in NAMED_BY for value in os.environ.get(name, "").split(os.pathsep) if value]
    values += [f"{os.environ[name]}/{file}" for name, files in NAMED_BELOW.items() if os.environ.get(name) for file in files]
    return (Path(os.path.realpath(os.path.expanduser(value))) for value in values)


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
