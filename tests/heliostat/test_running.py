"""Whether a process runs."""

import os
import subprocess
import sys

import psutil

from heliostat.running import process_of
from tests.conftest import wait_for


def test_a_zombie_does_not_run_and_neither_does_another_process_with_the_pid() -> None:
    process = psutil.Process()
    assert process_of(os.getpid()) == process
    assert process_of(os.getpid(), process.create_time()) == process
    assert process_of(os.getpid(), process.create_time() - 100) is None
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        wait_for(lambda: psutil.Process(ended.pid).status() == psutil.STATUS_ZOMBIE, "the process to exit")
        assert psutil.pid_exists(ended.pid)
        assert process_of(ended.pid) is None
