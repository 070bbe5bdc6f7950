import resource
import signal
from pathlib import Path

import pytest

from heliostat.errors import UserError
from heliostat.folder import Folder, expanded, join, split


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path / "new")
    folder.write("a", b"old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, -1))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(UserError, match=r"new cannot be written: File too large"):
            folder.write("a", bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    assert (folder.names(), folder.read("a")) == (["a"], b"old")
    folder.write("a", b"whole")
    assert (folder.names(), folder.read("a"), folder.size("a")) == (["a"], b"whole", 5)


def test_writing_again_replaces_the_file(tmp_path: Path) -> None:
    folder = Folder.at(f"file://{tmp_path}")
    folder.write("a", b"1")
    folder.write("a", b"22")
    assert folder.read("a") == b"22"
    folder.delete("a")
    folder.delete("a")
    assert not folder.exists("a")


def test_an_unknown_filesystem_is_the_users_error() -> None:
    with pytest.raises(UserError, match="floppy://x"):
        Folder.at("floppy://x")


@pytest.mark.parametrize(
    ("uri", "joined"),
    [
        ("/a/b/", "/a/b/c"),
        ("s3://bucket/runs/", "s3://bucket/runs/c"),
        (
            "s3://bucket/runs?endpoint_override=localhost:9000&region=x",
            "s3://bucket/runs/c?endpoint_override=localhost:9000&region=x",
        ),
    ],
)
def test_the_query_of_a_uri_stays_at_the_end(uri: str, joined: str) -> None:
    assert join(uri, "c") == joined
    assert split(joined) == (uri.rstrip("/"), "c")


def test_a_file_as_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(UserError, match="is a file"):
        Folder.at(tmp_path / "f").names()
    with pytest.raises(UserError, match="cannot be written: File exists"):
        Folder.at(tmp_path / "f").write("a", b"")


def test_a_path_of_a_config_means_what_it_means_in_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", "/big/data")
    monkeypatch.setenv("HOME", "/home/me")
    for place, meant in {
        "$DATA/x": "/big/data/x", "${DATA}-2/x": "/big/data-2/x", "s3://b/${DATA}": "s3://b//big/data",
        "~/x": "/home/me/x", "file:///a%20b/x": "/a b/x", "file://localhost/x": "/x", "a$1/b$": "a$1/b$", "plain": "plain",
    }.items():  # fmt: skip
        assert expanded(place) == meant
    assert expanded("$DATA/x", {"DATA": "there"}) == "there/x"
    (tmp_path / "$DATA").mkdir()
    assert expanded(f"{tmp_path}/$DATA") == f"{tmp_path}/$DATA", "a path that exists is taken as it is written"


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("$NOT_SET/x", "storage is $NOT_SET/x, but $NOT_SET is not set here"),
        ("${NOT_SET}/$NEITHER", "$NOT_SET and $NEITHER is not set here"),
        ("$EMPTY/x", "$EMPTY is not set here"),
        ("${DATA:-/x}", "${DATA:-/x} is no variable"),
        ("file://other/x", "which is not the URI of a local file"),
        ("file:x", "which is not the URI of a local file"),
    ],
)
def test_a_path_with_a_variable_that_is_not_set_is_refused(place: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMPTY", "")
    with pytest.raises(UserError) as caught:
        expanded(place, key="storage")
    assert says in str(caught.value)
