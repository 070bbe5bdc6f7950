"""Environment variables of a job whose values nothing shows: its command and all its workers have them.

A job on a running cluster gets them through the memory of Ray's head. They are uploaded like a package, but are not in the
runtime environment, which the dashboard and logs show; that has only their key, in `JOB_ENVIRONMENT`. ``python -m
heliostat.job_environment`` runs the job's command with them, keeps them for the workers that start meanwhile, deletes them, and
keeps the command's output (`heliostat.job_output`).
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress

from heliostat import job_output
from heliostat.environment import JOB_ENVIRONMENT

HEADER = b"heliostat job environment\n"
"""Before the values: Ray (2.60) logs the first 15 bytes of an upload that fails."""
TIMEOUT = 30.0
KEPT, RENEWED = 600, 60.0
"""Seconds for which Ray keeps the values without a command that renews this, as after a ``kill -9``, and between renewals."""


def uri(key: str) -> str:
    """The URI of the values; Ray's GCS has it as a key, and deletes it when nothing refers to it any more."""
    return f"gcs://_ray_pkg_{key}.zip"


def packed(values: Mapping[str, str]) -> bytes:
    """The values for an upload."""
    return HEADER + json.dumps(dict(values)).encode()


def apply_in_worker() -> None:
    """Set the job's variables in a worker process; Ray calls this before the worker's first task.

    Raises:
        RuntimeError: the job has ended.
    """
    from ray.experimental.internal_kv import _internal_kv_get

    data = _internal_kv_get(uri(os.environ[JOB_ENVIRONMENT]))
    if data is None:
        raise RuntimeError("the job of this worker has ended")
    os.environ.update(_unpacked(data))


def run(command: str) -> int:
    """Run a job's shell command with its variables; returns its exit code, that of a shell after a signal."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled, without a stub
    from ray.exceptions import RpcError

    client, place = GcsClient(address=os.environ["RAY_ADDRESS"]), uri(os.environ[JOB_ENVIRONMENT])
    data = client.internal_kv_get(place.encode(), None, TIMEOUT)
    if data is None:
        sys.exit(
            "heliostat: the variables of --env have expired, because this job waited too long for its start; submit it again"
        )
    try:
        process = job_output.start(command, {**os.environ, **_unpacked(data)})
        with job_output.recorded(command) as note:
            while True:
                with suppress(RpcError):  # the next renewal is in time
                    client.pin_runtime_env_uri(place, KEPT)
                with suppress(subprocess.TimeoutExpired):
                    code = job_output.wait(process, RENEWED)
                    note(code)
                    return code
    finally:
        client.internal_kv_del(place.encode(), False, None, TIMEOUT)


def _unpacked(data: bytes) -> dict[str, str]:
    values: dict[str, str] = json.loads(data.removeprefix(HEADER))
    return values


if __name__ == "__main__":
    sys.exit(run(sys.argv[1]))
