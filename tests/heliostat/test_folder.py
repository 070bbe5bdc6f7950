import resource
import signal
from pathlib import Path

import pytest

from heliostat.errors import UserError
from heliostat.folder import Folder, join, split


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
