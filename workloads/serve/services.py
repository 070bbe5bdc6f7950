"""The services of this user on this machine: a file each in ``~/.heliostat/services``, while the service runs."""

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pydantic

from heliostat.config import Config, nearest
from heliostat.errors import NotComing, UserError
from heliostat.home import own_folder
from heliostat.running import process_of

SECONDS = 60.0
"""Within which a service must have ended that is stopped; it lets requests end for half of it at most."""


class ServiceRecord(Config):
    """A service that runs.

    ``created`` is when its process started, in seconds since the epoch: its number may be another process's later.
    """

    name: str
    pid: int
    created: float
    url: str
    source: str
    version: str
    token_file: str
    reference: str = ""
    """By what it is served, such as ``NAME@champion``."""
    checksum: str = ""
    """Of a version of the registry."""
    problem: str = ""
    """Why the version that an alias stands for is not served."""

    @property
    def process(self) -> psutil.Process | None:
        """Its process, if it runs."""
        return process_of(self.pid, self.created)


def path_of(name: str, ending: str = "json") -> Path:
    """The file of a service, or its token with the ending ``token``."""
    return own_folder("services") / f"{name}.{ending}"


def write(record: ServiceRecord) -> None:
    """Writes the file of a service, whole or not at all."""
    path = path_of(record.name)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(record.model_dump_json())
    os.replace(scratch, path)


@contextmanager
def claimed(name: str) -> Iterator[None]:
    """Holds the name of a service for this process, as long as the block lasts.

    Raises:
        UserError: another process has it.
    """
    with path_of(name, "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            check_free(name)
            raise UserError(
                f"another process is about to serve {name}", "heliostat serve status shows it when it does"
            ) from None
        yield


def forget(name: str) -> None:
    """Deletes the file of a service."""
    path_of(name).unlink(missing_ok=True)


def running() -> list[ServiceRecord]:
    """The services that run, by name; the files of those that were killed are deleted."""
    found = []
    for path in sorted(own_folder("services").glob("*.json")):
        try:
            record = ServiceRecord.model_validate_json(path.read_text())
        except FileNotFoundError:  # it has ended meanwhile
            continue
        except pydantic.ValidationError:
            raise UserError(f"{path} is no file of a service", "delete it") from None
        if record.process:
            found.append(record)
        else:
            path.unlink(missing_ok=True)
    return found


def check_free(name: str) -> None:
    """Raises a UserError if a service of that name runs."""
    for record in running():
        if record.name == name:
            raise UserError(
                f"{name} is served already, by process {record.pid} at {record.url}", f"heliostat serve stop {name}"
            )


def find(name: str) -> ServiceRecord:
    """The service of that name that runs.

    Raises:
        UserError: there is none.
    """
    known = {record.name: record for record in running()}
    if name not in known:
        raise UserError(f"no service {name!r} runs", nearest(name, known) if known else "heliostat serve RUN starts one")
    return known[name]


def stop(record: ServiceRecord) -> None:
    """Stops a service after the requests that it works on, and waits until its process has ended.

    Raises:
        NotComing: it has not ended within a minute.
    """
    process = record.process
    if process is None:
        return
    try:
        process.send_signal(signal.SIGTERM)
        process.wait(SECONDS)
    except psutil.NoSuchProcess:
        return
    except psutil.TimeoutExpired:
        raise NotComing(
            f"{record.name}, process {record.pid}, has not ended within {SECONDS:g} s", f"kill -9 {record.pid}"
        ) from None
