from pathlib import Path

from heliostat.folder import Folder
from heliostat.workloads.run.journal import Journal, Tail, read_journal


def test_a_line_that_a_kill_cut_off_is_gone_when_the_next_writer_comes(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    Journal(folder, "j").append(step=1)
    with open(tmp_path / "j", "a") as file:
        file.write('{"time": 1, "st')
    assert [r["step"] for r in read_journal(folder, "j")] == [1]
    Journal(folder, "j").append(step=2)
    assert [r["step"] for r in read_journal(folder, "j")] == [1, 2]


def test_a_tail_sees_each_new_record_once_also_when_the_journal_is_rewound_and_overtakes_it(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    journal = Journal(folder, "j")
    for step in range(1, 6):
        journal.append(step=step, time=100.0 + step)
    tail = Tail(folder, "j")
    assert tail.new() == [], "what was there before is not new"
    now = tail._since
    journal.append(step=6, time=now + 6)
    assert [r["step"] for r in tail.new()] == [6]
    journal.rewind(3)
    for step in range(4, 20):
        journal.append(step=step, time=now + 10 + step)
    assert [r["step"] for r in tail.new()] == list(range(4, 20))
    assert tail.new() == []


def test_numbers_that_json_has_not_become_null(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    Journal(folder, "j").append(step=1, loss=float("nan"))
    assert read_journal(folder, "j")[0]["loss"] is None


def test_a_line_that_is_not_what_was_written_is_left_out_and_counted(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    journal = Journal(folder, "j")
    for step in (1, 2, 3):
        journal.append(step=step, loss=0.25)
    text = (tmp_path / "j").read_text()
    (tmp_path / "j").write_text(text.replace("0.25", "0.35", 2).replace("0.35", "0.25", 1))
    assert [r["step"] for r in read_journal(folder, "j")] == [1, 3]
    again = Journal(folder, "j")
    assert (len(again), again.damaged) == (2, 1)


def test_records_wait_for_storage_and_none_is_lost(tmp_path: Path) -> None:
    """A folder in the journal's place makes it impossible to write."""
    folder, delays = Folder.at(tmp_path), list[str]()
    journal = Journal(folder, "j", delays.append)
    journal.append(step=1)
    (tmp_path / "j").rename(tmp_path / "aside")
    (tmp_path / "j").mkdir()
    journal.append(step=2)
    journal.append(step=3)
    assert len(delays) == 1, "told once"
    (tmp_path / "j").rmdir()
    journal.append(step=4)
    assert [r["step"] for r in read_journal(folder, "j")] == [1, 2, 3, 4]
