"""Whether a process runs that is known by its pid."""

import psutil


def process_of(pid: int, created: float | None = None) -> psutil.Process | None:
    """The process with a pid, if it runs.

    One that has exited keeps its pid until its parent has waited for it, in a container without an init until that ends: such a
    zombie does not run.

    Args:
        pid: its number, which another process may have later.
        created: when it was started, in seconds since the epoch, so that no other is taken for it; None if any is meant.
    """
    try:
        process = psutil.Process(pid)
        same = created is None or abs(process.create_time() - created) < 1.0
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None
