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
    .secrets  .secrets.y*ml  .secrets.json  .secrets.toml  *.tfstate  *.tfstate.backup  *.tfvars  *.tfvars.json
    .terraformrc  terraform.rc  .oci/  .snowflake/  .snowsql/  .modal.toml  .runpod/  .lambda_cloud/
    **/.config/op/  **/.config/doctl/  **/.config/hub  **/.config/wandb/settings  **/.m2/settings.xml
    **/.gradle/gradle.properties  **/.composer/auth.json  **/.jupyter/jupyter_server_config.json  pip.ini  [Nn]u[Gg]et.[Cc]onfig
    .clearml.conf  clearml.conf  .yarnrc  .wgetrc  .curlrc  .mylogin.cnf  *.ovpn  .*_history
"""
"""The patterns of an ignore file for files and folders with passwords, tokens and private keys."""
SECRET_FILES = """
    *.env  credentials  credentials.*  kubeconfig  kubeconfig[.-]*  *.kubeconfig  *-kubeconfig.y*ml
"""
"""The same for the names of files only: folders with such names are code."""
CODE = (
    "c", "cc", "cpp", "cs", "go", "h", "ipynb", "java", "js", "jsx", "kt", "md", "py", "pyi", "rb", "rs", "rst", "ts", "tsx",
)  # fmt: skip
"""The suffixes of code and of texts about it: those named as `SECRET_FILES` are none, and may mention keys."""
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
JSON_KEY = re.compile(
    rb'"(private_key|client_?secret|refresh_?token|access_?token|secret_?access_?key|client-key-data|terraform_version)"\s*:\s*"'
    rb'|"auths"\s*:\s*\{\s*"[^"]*"\s*:\s*\{\s*"auth"|"kind"\s*:\s*"Secret"',
    re.IGNORECASE,
)
JSON_PAIRS = tuple(
    (re.compile(rb'"%s"\s*:' % beside, re.IGNORECASE), re.compile(rb'"%s"\s*:\s*"[^"$<{]' % key, re.IGNORECASE))
    for beside, key in ((b"kty", b"[dk]"), (b"app_?id", b"password"), (b"user(?:name)?", b"password"))
)
"""Keys that are secret beside another one: a JSON Web Key's, a service principal's of Azure, a login's."""
YAML_KEY = re.compile(rb"^[ \t]*(- )?client-key-data\s*:|^current-context\s*:|^kind\s*:\s*[\"']?Secret\b", re.MULTILINE)
"""What a file with credentials has in it: the keys of a cloud's service account may have any name."""
TOKEN = re.compile(
    rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY|\bAGE-SECRET-KEY-1[A-Z0-9]"
    rb"|\b(gh[opsur]_[A-Za-z0-9]{36}|github_pat_\w{22,}|glpat-[\w-]{20}|hf_[A-Za-z0-9]{34}|sk-[\w-]{32,}|xox[abp]-[\w-]{20,})"
    rb"|aws_secret_access_key[\"' \t]*[=:][\"' \t]*[A-Za-z0-9/+]{40}\b",
    re.IGNORECASE,
)
"""A key or a token that is known by its own form, in a file that is no code."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
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
    text, suffix = path.read_bytes().removeprefix(BYTE_ORDER_MARK), path.suffix.lower()
    if text.startswith(UTF_16):  # as Windows' shell writes what a command printed
        text = text.decode("utf-16", "ignore").encode()
    if suffix.removeprefix(".") in CODE:
        return bool(PRIVATE_KEY.search(text))
    is_json = suffix == ".json" or text.lstrip().startswith(b"{")
    is_yaml = suffix in (".yaml", ".yml")
    known = PRIVATE_KEY.search(text) or TOKEN.search(text)
    if is_json and (JSON_KEY.search(text) or any(beside.search(text) and key.search(text) for beside, key in JSON_PAIRS)):
        return True
    return bool(known or (is_yaml and YAML_KEY.search(text)))
