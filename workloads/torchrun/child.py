"""``python -IS child.py PARENT COMMAND...``: replaces itself by a command that is killed when its parent exits.

Run as a file that imports only the standard library, so that it takes milliseconds.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Resets the signal handlers, ties the process to its parent, and executes the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent exited before prctl
            sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
