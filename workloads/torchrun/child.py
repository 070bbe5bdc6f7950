"""``python -IS child.py PARENT COMMAND...``: becomes the command, which ends when its parent does.

Run as a file, with nothing but the standard library, so that it costs milliseconds.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Give signals the meaning that they have for a program of a shell, tie the end to the parent's, and become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before it could tell
            sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
