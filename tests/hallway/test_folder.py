from pathlib import Path

import pytest

from heliostat.errors import UserError
from heliostat.folder import Folder


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path / "new")

    def write_half() -> None:
        with folder.writing("a") as stream:
            stream.write(b"half")
            assert not folder.exists("a")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_half()
    assert folder.names() == []
    folder.write("a", b"whole")
    assert (folder.names(), folder.read("a"), folder.size("a")) == (["a"], b"whole", 5)


def test_writing_again_replaces(tmp_path: Path) -> None:
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
