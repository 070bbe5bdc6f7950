"""What a script prints under ``heliostat torchrun``, and how its process is followed: plain processes and pipes, no Ray."""

import os
import pty
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from ray.train.v2.api.exceptions import WorkerGroupError

from heliostat.commands import torchrun
from heliostat.environment import IN_A_JOB
from heliostat.errors import HeliostatError, StorageUnavailable
from heliostat.interrupts import interrupts, terminal_blocked
from heliostat.workloads.torchrun import driver
from heliostat.workloads.torchrun import process as module
from heliostat.workloads.torchrun.config import Script
from heliostat.workloads.torchrun.hub import Event
from heliostat.workloads.torchrun.outcome import outcome_of
from heliostat.workloads.torchrun.output import BAR, SETTLE, TRACEBACK, UNFINISHED, InOrder, Output
from heliostat.workloads.torchrun.process import ScriptProcess, kill, start


class Shown:
    """An output, and what it has written."""

    def __init__(self, world: int = 2, terminal: bool = False) -> None:
        self.text = ""
        self.output = Output(self._write, world, {"stdout": terminal, "stderr": terminal})

    def _write(self, stream: str, text: str) -> None:
        self.text += text

    def take(self, text: str | bytes, rank: int = 0, stream: str = "stderr", now: float = 0) -> str:
        """What is written of it at once."""
        before = len(self.text)
        self.output.take(rank, stream, text if isinstance(text, bytes) else text.encode(), now)
        return self.text[before:]

    def tick(self, now: float) -> str:
        before = len(self.text)
        self.output.tick(now)
        return self.text[before:]

    def end(self) -> str:
        before = len(self.text)
        self.output.end()
        return self.text[before:]


def test_lines_have_their_rank_unless_there_is_only_one() -> None:
    shown = Shown()
    assert shown.take("a\nb\n", rank=1, stream="stdout") == "[rank 1] a\n[rank 1] b\n"
    assert shown.take("[rank0]: c\n") == "[rank 0] c\n"
    assert Shown(world=1).take("a\n") == "a\n"


def test_a_traceback_is_shown_as_one_block_and_delays_nothing_that_follows_it() -> None:
    """Also one that the script has handled."""
    shown = Shown()
    assert shown.take(f'{TRACEBACK}:\n  File "x.py", line 1\n') == ""
    assert shown.take("between\n", rank=1) == "[rank 1] between\n"
    block = f'[rank 0] {TRACEBACK}:\n[rank 0]   File "x.py", line 1\n[rank 0] ValueError: no\n'
    assert shown.take("ValueError: no\n") == block
    assert shown.take("goes on\n") == "[rank 0] goes on\n"
    assert shown.take(f"{TRACEBACK}:\n", now=10) == ""
    assert shown.tick(10 + UNFINISHED / 2) == ""
    assert shown.tick(11 + UNFINISHED) == f"[rank 0] {TRACEBACK}:\n"
    assert shown.take(f"{TRACEBACK}:\n", rank=1) == ""
    assert shown.end() == f"[rank 1] {TRACEBACK}:\n", "of a rank that was killed meanwhile"


def failure(shown: Shown, *exits: tuple[int, int]) -> HeliostatError:
    """The error after these exits, of a rank with a code each."""
    ended = [(float(at), rank, "exit", code) for at, (rank, code) in enumerate(exits)]
    error = outcome_of(Script(script="x.py", name="x", workers=3), ended, None, shown.output).error
    assert error
    return error


def test_a_script_that_has_succeeded_is_not_lost_because_its_files_cannot_be_kept() -> None:
    away = StorageUnavailable("storage s3://runs did not respond for 900 s", "try again")
    shown = Shown()
    error = WorkerGroupError("", {0: away})
    assert outcome_of(Script(script="x.py", name="x", workers=1), [(1.0, 0, "exit", 0)], error, shown.output).error is away


def test_the_cause_is_named_where_the_rank_that_failed_has_only_lost_another_one() -> None:
    shown = Shown(world=3)
    for rank, line in ((1, "ValueError: the cause"), (2, "E: Connection reset by peer"), (0, "E: Connection closed by peer")):
        shown.take(f"{TRACEBACK}:\n  x\n{line}\n", rank)
        assert line in shown.text
    cause = "; rank 1 had printed before: ValueError: the cause"
    assert str(failure(shown, (0, 1), (2, 1), (1, -15))) == f"rank 0 of x.py exited with code 1{cause}"
    assert str(failure(shown, (1, 1), (0, 1), (2, 1))) == "rank 1 of x.py exited with code 1"
    unseen = Shown(world=3)
    unseen.take(f"{TRACEBACK}:\n  x\nValueError: the cause\n", rank=1)
    assert str(failure(unseen, (0, -6), (1, 1))) == f"rank 0 of x.py was killed by SIGABRT{cause}", "by NCCL"
    assert str(failure(unseen, (0, 1), (1, 1))) == "rank 0 of x.py exited with code 1"


@pytest.mark.parametrize(
    ("code", "said", "exit_code"),
    [(3, "exited with code 3", 3), (-9, "was killed by SIGKILL (out of memory?)", 137), (-37, "was killed by signal 37", 165)],
)
def test_the_first_rank_that_failed_is_the_one_that_is_reported(code: int, said: str, exit_code: int) -> None:
    error = failure(Shown(), (2, 0), (1, code), (0, 1))
    assert (str(error), error.exit_code) == (f"rank 1 of x.py {said}", exit_code)


def test_records_are_in_the_order_of_time_though_they_arrive_in_another() -> None:
    order = InOrder(SETTLE)
    order.add([(2.0, 0, "stderr", b"consequence"), (2.5, 0, "exit", 1)], now=100)
    assert order.due(100) == []
    order.add([(1.9, 1, "stderr", b"cause")], now=100 + SETTLE / 2)
    assert [record[3] for record in order.due(100 + SETTLE)] == [b"cause", b"consequence", 1]
    assert order.wait == 0
    order.add([(3.0, 0, "stdout", b"x")], now=200)
    assert [record[3] for record in order.due(float("inf"))] == [b"x"]


def test_a_progress_bar_is_shown_every_few_seconds_and_moves_on_a_terminal() -> None:
    shown, terminal = Shown(), Shown(world=1, terminal=True)
    for percent in range(100):
        now = percent / 10
        assert terminal.take(f"\r{percent}%", now=now) == f"\r{percent}%", "as the script has written it"
        shown.take(f"\r{percent}%", now=now)
        shown.tick(now)
    shown.take("\r100%\n")
    assert shown.text.splitlines() == ["[rank 0] 0%", f"[rank 0] {BAR * 10:.0f}%", "[rank 0] 100%"]


def test_two_progress_bars_below_each_other_do_not_print_a_line_for_each_step() -> None:
    """tqdm goes down to the second one and up again, at each step."""
    shown = Shown(world=1)
    shown.take("\r outer 0")
    for step in range(100):
        shown.take(f"\n\r inner {step}\x1b[A\r outer {step}", now=step / 100)
        shown.tick(step / 100)
    assert len(shown.text.splitlines()) < 4


@pytest.mark.parametrize("world", [1, 2])
def test_a_carriage_return_and_a_newline_are_one_also_in_two_pieces(world: int) -> None:
    shown = Shown(world)
    for piece in ("a\r", "\n", "b\r\nc", "\r\n", "\n"):
        shown.take(piece, stream="stdout")
    prefix = "[rank 0] " if world > 1 else ""
    assert shown.text == "".join(f"{prefix}{line}\n" for line in ("a", "b", "c", ""))


def test_text_without_a_newline_appears_by_itself_and_long_lines_are_whole() -> None:
    alone, two, terminal = Shown(world=1), Shown(), Shown(world=1, terminal=True)
    assert terminal.take("name? ") == "name? "
    for shown in (alone, two):
        assert shown.take("loading ... ", now=5) == ""
    assert alone.tick(5 + UNFINISHED) == "loading ... "
    assert two.tick(5 + UNFINISHED) == "[rank 0] loading ... \n"
    assert (alone.take("done\n"), two.take("done\n")) == ("done\n", "[rank 0] done\n")
    long = "x" * (3 << 20)
    assert two.take(long[: 2 << 20]) == ""
    assert two.take(f"{long[2 << 20 :]}\n") == f"[rank 0] {long}\n"
    assert alone.take("no end") == ""
    assert alone.end() == "no end"


def test_a_letter_in_two_pieces_and_bytes_that_are_not_utf_8_come_out_as_they_were() -> None:
    shown = Shown(world=1)
    for byte in "é\n".encode() + b"\xff\n":
        shown.take(bytes([byte]))
    assert shown.text.encode(errors="surrogateescape") == "é\n".encode() + b"\xff\n"


def followed(tmp_path: Path, code: str, answer: Callable[[str, Any], str | None]) -> tuple[int, list[Event]]:
    """Run a script; ``answer`` gets the kind and the value of each event, and returns a new order. Its code, and the events."""
    (tmp_path / "script.py").write_text(code)
    script = start(["script.py"], tmp_path, os.environ, subprocess.DEVNULL)
    order, events = "", list[Event]()

    def send(new: list[Event]) -> str:
        nonlocal order
        for event in new:
            events.append(event)
            order = answer(*event[1:]) or order
        return order

    try:
        return ScriptProcess(script, 0, send).run(), events
    finally:
        kill(script)


def printed(events: list[Event], stream: str = "stdout") -> str:
    return b"".join(value for _, kind, value in events if kind == stream).decode()


READY = b"ready"
SAVES = """
import os, signal, sys, time
def save(*_):
    print("SIGTERM", flush=True)
    sys.exit(4)
if len("HANDLES"):
    signal.signal(signal.SIGTERM, save)
try:
    os.write(1, b"ready")  # print() would run the handler, which prints, inside of itself if the signal comes at once
    time.sleep(600)
except KeyboardInterrupt:
    print("KeyboardInterrupt", flush=True)
    sys.exit(3)
finally:
    print("finally", flush=True)
"""
NO_HANDLER = SAVES.replace("HANDLES", "")


@pytest.mark.parametrize(
    ("code", "order", "said", "exit_code"),
    [
        (SAVES, "interrupt", "KeyboardInterrupt\nfinally\n", 3),
        (SAVES, "stop", "SIGTERM\nfinally\n", 4),
        (SAVES, "cancel", "SIGTERM\nfinally\n", 4),
        (NO_HANDLER, "cancel", "KeyboardInterrupt\nfinally\n", 3),
        (NO_HANDLER, "stop", "", -signal.SIGTERM),
    ],
    ids=["Ctrl-C", "SIGTERM", "job, with a handler", "job, without", "SIGTERM, without"],
)
def test_ctrl_c_is_a_keyboard_interrupt_and_sigterm_is_sigterm(
    tmp_path: Path, code: str, order: str, said: str, exit_code: int
) -> None:
    """A job is stopped by SIGTERM, also after Ctrl-C: without a handler for it, the script gets SIGINT."""
    found, events = followed(tmp_path, code, lambda kind, value: order if value == READY else None)
    assert (found, printed(events)) == (exit_code, f"ready{said}")
    assert [event[1:] for event in events if event[1] == "exit"] == [("exit", exit_code)]


def test_a_script_that_goes_on_after_ctrl_c_gets_sigterm_and_then_sigkill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time for each begins when it has handled the one before: a slow machine must not kill it earlier."""
    code = """
import os, signal, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: os.write(1, b"%d\\n" % number))
os.write(1, b"ready")
while True:
    time.sleep(60)
"""
    assert [number for _, number in module.SIGNALS["interrupt"]] == [signal.SIGINT, signal.SIGTERM, signal.SIGKILL]
    passed = {b"2\n": 30.0, b"15\n": 45.0}
    now = [0.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(time=time.time, monotonic=lambda: now[0]))

    def answer(kind: str, value: Any) -> str | None:
        now[0] = passed.get(value, now[0])
        return "interrupt" if value == READY else None

    found, events = followed(tmp_path, code, answer)
    assert found == -signal.SIGKILL
    assert printed(events) == "ready2\n15\n"


def test_a_script_has_as_long_as_with_torchrun_when_it_is_to_exit() -> None:
    for order in ("interrupt", "stop", "failed"):
        *_, (seconds, number) = module.SIGNALS[order]
        assert number == signal.SIGKILL
        assert seconds >= 30


def test_an_exit_is_reported_while_a_helper_process_still_holds_the_output(tmp_path: Path) -> None:
    code = """
import os, signal, subprocess, sys
helper = subprocess.Popen(["sleep", "600"])
print(helper.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    seen: dict[str, Any] = {}

    def answer(kind: str, value: Any) -> None:
        first = kind not in seen
        seen.setdefault(kind, value)
        if first and kind in ("stdout", "exit") and {"stdout", "exit"} <= seen.keys():  # in either order: each has its thread
            helper = psutil.Process(int(seen["stdout"]))
            assert helper.is_running()
            helper.kill()

    found, events = followed(tmp_path, code, answer)
    assert found == -signal.SIGKILL
    assert ("exit", -signal.SIGKILL) in [event[1:] for event in events]


def test_what_is_written_is_byte_for_byte_what_the_script_has_printed(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    torchrun._write("stdout", "é\udcff\r")
    torchrun._write("stderr", "no end")
    assert capfdbinary.readouterr() == ("é".encode() + b"\xff\r", b"no end")


def test_a_closed_terminal_does_not_end_the_command_before_the_script_has_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = pty.openpty()
    with open(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        os.close(master)
        torchrun._write("stdout", "lost\n")
        torchrun._write("stdout", "lost, too\n")


@pytest.mark.parametrize(
    ("number", "in_a_job", "order"),
    [
        (signal.SIGINT, False, "interrupt"),
        (signal.SIGTERM, False, "stop"),
        (signal.SIGHUP, False, "stop"),
        (signal.SIGQUIT, False, "stop"),
        (signal.SIGTERM, True, "cancel"),
    ],
)
def test_a_signal_of_the_command_is_that_of_the_script(
    number: signal.Signals, in_a_job: bool, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(IN_A_JOB, raising=False)
    if in_a_job:
        monkeypatch.setenv(IN_A_JOB, "{}")
    before = signal.signal(number, signal.SIG_DFL)  # the shell that started the tests may ignore it
    try:
        with interrupts(*driver.TERMINAL) as received:
            os.kill(os.getpid(), number)
            assert received == [number]
    finally:
        signal.signal(number, before)
    assert driver._order(number) == order


def test_sighup_stays_ignored_after_nohup_and_ends_no_process_of_ray() -> None:
    with terminal_blocked(), subprocess.Popen(["sleep", "600"]) as sleeping:
        sleeping.send_signal(signal.SIGHUP)
        sleeping.terminate()
        assert sleeping.wait() == -signal.SIGTERM, "not -1, though that came first"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts(signal.SIGHUP) as received:
            os.kill(os.getpid(), signal.SIGHUP)
        assert received == []
    finally:
        signal.signal(signal.SIGHUP, before)


def test_standard_input_that_is_a_socket_as_under_ssh_reaches_the_script() -> None:
    here, there = socket.socketpair()
    with here, there:
        path = torchrun._stdin(there.fileno())
        here.sendall(b"piped")
        here.shutdown(socket.SHUT_WR)
        assert Path(path).read_bytes() == b"piped"
    closed, other = os.pipe()
    os.close(other)
    os.close(closed)
    assert torchrun._stdin(closed) == ""
