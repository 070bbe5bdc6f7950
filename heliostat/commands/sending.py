"""What a command sends to a cluster from this machine: the files of the working directory."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heliostat.cluster.jobs.contents import Contents

SHOWN = 50
"""Files that a dry run lists."""


def files_to_send(*needed: str, isolated: bool = True) -> "Contents":
    """The files of the working directory that a job gets; reports those on standard error that look like secrets.

    Args:
        needed: files that always go, such as the run's config.
        isolated: whether the working directory stays off the search path of Ray's processes.

    Raises:
        UserError: a file cannot be read.
    """
    from heliostat.cluster.jobs.contents import contents
    from heliostat.console import err

    found = contents(Path.cwd(), isolated, needed)
    if found.notice:
        err.print(f"heliostat: {found.notice}", highlight=False, markup=False, soft_wrap=True)
    return found


def document(files: "Contents") -> dict[str, Any]:
    """The files for ``--dry-run --json``: sizes in bytes by path, the biggest first."""
    return {"files": files.biggest_first, "secrets_not_sent": list(files.secrets)}


def show(files: "Contents") -> None:
    """Print the files that are sent, the biggest first."""
    from heliostat.cluster.jobs.contents import megabytes
    from heliostat.console import out

    sizes = files.biggest_first
    lines = [f"sent: {len(sizes)} files, {megabytes(sum(sizes.values()))}"]
    lines += [f"  {megabytes(size):>9}  {name}" for name, size in list(sizes.items())[:SHOWN]]
    if len(sizes) > SHOWN:
        lines.append(f"  and {len(sizes) - SHOWN} smaller files; --json lists all")
    for line in lines:
        out.print(f"# {line}", highlight=False, markup=False, soft_wrap=True)
