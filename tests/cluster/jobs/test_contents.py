"""What a job gets of the working directory: its code, and never a secret, a cache, an earlier run or what is ignored."""

import errno
import io
import os
import shutil
import zipfile
from pathlib import Path

import pytest

from heliostat.cluster.jobs import packaging
from heliostat.cluster.jobs.contents import contents
from heliostat.cluster.jobs.packaging import packages
from heliostat.errors import UserError
from heliostat.modules import FOLDER
from tests.conftest import ROOT, Command

PRIVATE_KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n"
SERVICE_ACCOUNT = '{"type": "service_account", "private_key": "-----BEGIN PRIVATE KEY-----"}'
KUBECONFIG = "users:\n- name: me\n  user:\n    client-key-data: abc\n"

SECRETS = (
    ".env", ".env.local", "deploy/prod.env", ".envrc", ".netrc", ".pgpass", ".pypirc", ".npmrc", ".git-credentials",
    ".docker/config.json", "kubeconfig", "kubeconfig.yaml", "team-kubeconfig.yaml", "id_rsa", "keys/id_ed25519",
    "keys/server.pem", "keys/server.key", "keys/store.p12", "credentials.json", "credentials/deploy.pem",
    "gcp-credentials.json", "my-service-account.json", "client_secret_1.json", "hub/huggingface/token",
    ".streamlit/secrets.toml", "infra/terraform.tfstate", ".env_prod", ".env-prod", ".env~", ".flaskenv", ".secrets.toml",
    ".secrets.yaml", "secret.json", ".vault_pass", "terraform.tfvars", "prod.tfvars", ".secrets", ".terraformrc",
    ".config/wandb/settings", ".m2/settings.xml", ".bash_history", "office.ovpn", "clearml.conf", "pip.ini",
)  # fmt: skip
FOLDERS = (".aws/credentials", ".ssh/config", ".kube/config", ".config/gcloud/access_tokens.db", ".huggingface/token")
CODE = (
    "train.py", "environment.py", ".env.example", "keys/id_ed25519.pub", "keys.py", "credentials.py",
    "credentials/__init__.py", "tokenizer.json", ".docker/Dockerfile", "src/model.yaml", "kubeconfig.py", "credentials.ts",
    "credentials.ipynb", "credentials.md", "atari.env/step.py", ".env-example",
)  # fmt: skip


def written(folder: Path, *names: str, text: str = "x") -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_code_is_sent_and_what_looks_like_a_secret_is_named_once(tmp_path: Path) -> None:
    found = contents(written(tmp_path, *CODE, *SECRETS, *FOLDERS))
    assert set(found.sizes) == set(CODE)
    assert set(found.secrets) == {*SECRETS, ".aws/", ".ssh/", ".kube/", ".config/gcloud/", ".huggingface/"}
    (code, _heliostat) = packages(found)
    assert set(zipfile.ZipFile(io.BytesIO(code.data)).namelist()) == set(CODE)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("deploy_key", PRIVATE_KEY),
        ("my-project-1a2b3c.json", SERVICE_ACCOUNT),
        ("oauth.json", '{"refresh_token" : "1//x"}'),
        ("prod.yaml", KUBECONFIG),
        ("KEY.JSON", SERVICE_ACCOUNT),
        ("key.json.bak", SERVICE_ACCOUNT),
        ("notes.txt", f"the key of the server:\n\n{PRIVATE_KEY}"),
        ("marked", f"\ufeff{PRIVATE_KEY}"),
        ("quoted.yaml", 'private_key: "-----BEGIN PRIVATE KEY-----\\nx"'),
        ("prod.yaml", "current-context: prod\nusers:\n- user: {token: x}\n"),
        ("db.yaml", "apiVersion: v1\nkind: Secret\nstringData: {password: x}\n"),
        ("registry.json", '{"auths": {"ghcr.io": {"auth": "eDp5"}}}'),
        ("principal.json", '{"clientId": "x", "clientSecret": "y"}'),
        ("state.json", '{"version": 4, "terraform_version": "1.9.0"}'),
        ("access.txt", f"aws_secret_access_key = {'x' * 40}"),
        ("hub", f"hf_{'x' * 34}"),
        ("age.txt", "AGE-SECRET-KEY-1QQ"),
        ("jwk.json", '{"kty": "EC", "crv": "P-256", "x": "f83OJ3D2", "d": "jpsQnnGQ"}'),
        ("sp.json", '{"appId": "x", "displayName": "ci", "password": "y", "tenant": "z"}'),
        ("db.json", '{"host": "db", "username": "me", "password": "y"}'),
        ("server.pem", f"-----BEGIN CERTIFICATE-----\nx\n{PRIVATE_KEY}"),
    ],
)
def test_a_key_is_recognized_under_any_name(tmp_path: Path, name: str, text: str) -> None:
    assert contents(written(tmp_path, name, text=text)).secrets == (name,)
    assert name in contents(tmp_path).notice


def test_a_key_is_recognized_in_utf_16(tmp_path: Path) -> None:
    (tmp_path / "key.txt").write_text(PRIVATE_KEY, encoding="utf-16")
    assert contents(tmp_path).secrets == ("key.txt",)


def test_code_that_only_mentions_keys_is_sent(tmp_path: Path) -> None:
    written(tmp_path, "crypto.py", text=f"HEADER = '''{PRIVATE_KEY}'''")
    written(
        tmp_path,
        "profile.yaml",
        text="env: {AWS_SECRET_ACCESS_KEY: {secret: aws, key: AWS_SECRET_ACCESS_KEY}}\nkind: SecretStore",
    )
    written(tmp_path, "login.py", text=f"login('hf_{'x' * 34}')")
    written(tmp_path, "tokenizer_config.json", text='{"bos_token": "<s>", "private_key_path": "/x"}')
    written(tmp_path, "public.json", text='{"kty": "EC", "crv": "P-256", "x": "f83OJ3D2"}')
    written(tmp_path, "db.json", text='{"username": "me", "password": "${DB_PASSWORD}"}')
    assert not contents(tmp_path).secrets


def test_a_file_that_the_environment_names_as_a_secret_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'of-the-team'}{os.pathsep}/elsewhere")
    assert contents(written(tmp_path, "of-the-team", "train.py")).secrets == ("of-the-team",)


def test_a_link_to_a_secret_is_one_and_a_link_to_itself_ends(tmp_path: Path) -> None:
    written(tmp_path, "home/.pgpass", "home/.ssh/deploy", "work/.env", "work/train.py")
    for name, target in {
        "db": "../home/.pgpass",
        "keys": "../home/.ssh",
        "settings": ".env",
        "again": ".",
        "same.py": "train.py",
    }.items():
        (tmp_path / "work" / name).symlink_to(target)
    found = contents(tmp_path / "work")
    assert set(found.secrets) == {".env", "db", "keys/", "settings"}
    assert set(found.sizes) == {"train.py", "same.py"}


def test_secrets_below_a_linked_folder_are_found_by_their_real_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(
        tmp_path / "home", "huggingface/token", "huggingface/notes", ".config/gcloud/db", ".docker/config.json", "cloud/db/x"
    )
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "home/cloud"))
    work = written(tmp_path / "work", "train.py")
    for name, target in {"hf": "huggingface", "cfg": ".config", "dk": ".docker", "db": "cloud/db"}.items():
        (work / name).symlink_to(tmp_path / "home" / target)
    found = contents(work)
    assert set(found.secrets) == {"hf/token", "cfg/gcloud/", "dk/config.json", "db/"}
    assert set(found.sizes) == {"train.py", "hf/notes"}


@pytest.mark.parametrize(
    ("variable", "value", "secret"),
    [
        *((name, "x/mine", "x/mine") for name in ("AWS_CONFIG_FILE", "PGPASSFILE", "HF_TOKEN_PATH", "PIP_CONFIG_FILE")),
        ("NPM_CONFIG_USERCONFIG", "x/mine", "x/mine"),
        ("CLOUDSDK_CONFIG", "x", "x/"),
        ("HF_HOME", "x", "x/token"),
        ("DOCKER_CONFIG", "x", "x/config.json"),
    ],
)
def test_files_of_tools_whose_place_a_variable_sets_are_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, secret: str
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / value))
    assert contents(written(tmp_path, "x/mine", "x/token", "x/config.json")).secrets == (secret,)


def test_a_pem_of_certificates_is_sent(tmp_path: Path) -> None:
    written(tmp_path, "ca.pem", text="# root\n-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n" * 2)
    assert set(contents(tmp_path).sizes) == {"ca.pem"}


def test_the_users_own_folder_is_not_taken_for_an_earlier_run_and_those_are_named(tmp_path: Path) -> None:
    own = (
        "hpo/sweep.yaml",
        "hpo/trials/base.py",
        "job/config.yaml",
        "job/events.jsonl",
        "cli/script.json",
        "cli/checkpoints/a",
    )
    shutil.copytree(ROOT / "tests/fixtures/v0.1/storage", tmp_path / "results")
    found = contents(written(tmp_path, *own))
    assert set(found.sizes) == set(own)
    assert found.runs == ("results/breast-cancer/", "results/counts/", "results/sweep/")
    assert "earlier runs: results/breast-cancer/, results/counts/" in found.notice


def test_links_that_lead_nowhere_are_skipped_and_those_that_cannot_be_followed_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "latest").symlink_to("latest")
    (tmp_path / "gone").symlink_to("nowhere")
    assert set(contents(written(tmp_path, "train.py")).sizes) == {"train.py"}
    (tmp_path / "root").symlink_to("/locked/file")
    stat = Path.stat

    def refused(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if path.name == "root" and follow_symlinks:
            raise PermissionError(errno.EACCES, "denied")
        return stat(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", refused)
    with pytest.raises(UserError, match=r"root in the working directory .* cannot be read"):
        contents(tmp_path)


@pytest.mark.parametrize(("line", "words"), [(b"!", "is not a pattern: !"), (b"caf\xe9/", "is not UTF-8")])
@pytest.mark.parametrize("file", [".gitignore", ".rayignore"])
def test_an_invalid_line_of_an_ignore_file_is_named(tmp_path: Path, file: str, line: bytes, words: str) -> None:
    (tmp_path / file).write_bytes(b"*.log\n" + line + b"\n")
    with pytest.raises(UserError, match=rf"line 2 of .*{file} {words}"):
        contents(tmp_path)


def test_a_name_that_is_not_utf_8_is_refused_before_packing(tmp_path: Path) -> None:
    written(tmp_path, os.fsdecode(b"caf\xe9.csv"))
    with pytest.raises(UserError, match=r"caf\\xe9.csv in .* has a name that is not UTF-8"):
        contents(tmp_path)


def test_folders_are_matched_as_git_does(tmp_path: Path) -> None:
    written(tmp_path, "src/train.py", "src/run.log", "data/x", "pgdata/x", "notes")
    (tmp_path / ".gitignore").write_text("/*\n!/src/\n*.log\n")
    assert set(contents(tmp_path).sizes) == {"src/train.py"}
    (tmp_path / ".gitignore").write_text("pgdata/\n")
    (tmp_path / "pgdata").chmod(0)
    assert not any(name.startswith("pgdata") for name in contents(tmp_path).sizes)


def test_only_a_line_with_its_path_sends_a_secret(tmp_path: Path) -> None:
    written(tmp_path, ".env", "certs/ca.pem", "certs/own.pem", "certs/README")
    (tmp_path / ".gitignore").write_text("certs/ca.pem\n")
    (tmp_path / ".rayignore").write_text("!*\n!*.pem\n!certs/\n")
    assert contents(tmp_path).secrets == (".env", "certs/own.pem")
    (tmp_path / ".rayignore").write_text("!/certs/ca.pem\n")
    found = contents(tmp_path)
    assert "certs/ca.pem" in found.sizes, "on purpose, whatever .gitignore says"
    assert found.secrets == (".env", "certs/own.pem")
    assert "!.env" in found.notice


def test_what_git_and_ray_ignore_is_not_sent_and_the_files_of_the_command_always_are(tmp_path: Path) -> None:
    written(tmp_path, "train.py", "data/big", "sub/notes.txt", "sub/code.py", "runs.yaml")
    (tmp_path / ".gitignore").write_text("data/\nruns.yaml\n")
    (tmp_path / "sub" / ".rayignore").write_text("*.txt\n")
    before = packages(contents(tmp_path))[0].uri
    written(tmp_path, "data/big", text="xx")
    assert packages(contents(tmp_path))[0].uri == before, "the same files are the same package"
    written(tmp_path, "train.py", text="print(1)")
    assert packages(contents(tmp_path))[0].uri != before
    assert set(contents(tmp_path, needed=["runs.yaml"]).sizes) == {
        ".gitignore", "train.py", "sub/.rayignore", "sub/code.py", "runs.yaml",
    }  # fmt: skip


def test_caches_and_earlier_runs_are_not_sent_wherever_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of earlier versions, and without any ignore file."""
    shutil.copytree(ROOT / "tests/fixtures/v0.1/storage", tmp_path / "results")
    written(tmp_path, ".git/config", ".venv/lib.py", "env38/pyvenv.cfg", "env38/lib.py", "node_modules/x.js", ".cache/pip/x")
    written(tmp_path, "build/CACHEDIR.TAG", "build/x", "shards/x", "runs/notes.py", "__pycache__/x.pyc")
    monkeypatch.setenv("HELIOSTAT_CACHE", str(tmp_path / "shards"))
    found = contents(tmp_path)
    assert set(found.sizes) == {"runs/notes.py"}
    assert not found.secrets


def test_pipes_empty_folders_and_modes(tmp_path: Path) -> None:
    written(tmp_path, "run.sh").joinpath("run.sh").chmod(0o755)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").mkdir()
    found = contents(tmp_path, isolated=True)
    archive = zipfile.ZipFile(io.BytesIO(packages(found)[0].data))
    assert {f"{FOLDER}/", f"{FOLDER}/empty/", f"{FOLDER}/run.sh"} < set(archive.namelist())
    assert not any("pipe" in name for name in archive.namelist())
    assert archive.getinfo(f"{FOLDER}/run.sh").external_attr >> 16 == 0o755


def test_a_working_directory_that_is_too_big_is_refused_with_its_biggest_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaging, "LARGEST", 1 << 20)
    (tmp_path / "weights").write_bytes(os.urandom(3 << 20))
    written(tmp_path, "train.py")
    with pytest.raises(UserError, match=r"has 3\.0 MB, and packed more than the 1\.0 MB .* are weights \(3\.0 MB\)") as refused:
        packages(contents(tmp_path))
    assert ".gitignore" in refused.value.fix


@pytest.mark.parametrize(
    "words",
    [
        ("train", "run.yaml", "--on", "local"),
        ("sweep", "breast-cancer", "--on", "local"),
        ("torchrun", "--on", "local"),
        ("submit", "local"),
    ],
    ids=lambda words: words[0],
)
def test_a_dry_run_lists_what_goes_the_biggest_first(command: Command, words: tuple[str, ...]) -> None:
    written(command.cwd, "train.py", ".env", "runs/old/config.yaml")
    written(command.cwd, "runs/old/events.jsonl", text='{"time": 1.0, "event": "start"}')
    written(command.cwd, "table.csv", text="1,2\n" * 1000)
    shutil.copy(ROOT / "workloads/configs/digits.yaml", command.cwd / "run.yaml")
    rest = {"torchrun": ["train.py"], "submit": ["--", "python", "train.py"]}.get(words[0], [])
    done = command(*words, "--dry-run", *rest)
    assert done.code == 0, done.err
    listed = [line.split()[-1] for line in done.out.partition("# sent:")[2].splitlines()[1:]]
    assert listed == ["table.csv", "run.yaml", "train.py"]
    assert done.err.count("secrets: .env (to send one, add a line !.env to .rayignore)") == 1
