from pathlib import Path

from heliostat.folder import Folder
from workloads.journal import Journal, Tail, read_journal


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
