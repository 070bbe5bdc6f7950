"""Ray's processes on this machine without those that a command does not need: ``python -m heliostat.cluster.head OPTIONS``.

It is a process of its own, so that Ray starts while the command still imports what trains. When its standard input ends, as it
does with the command, also by a kill -9, it ends with all of Ray's processes. The private parts of Ray 2.60 that it uses are
checked by tests/cluster/test_ray_contracts.py.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from ray._private import services
from ray._private.node import Node
from ray._private.parameter import RayParams
from ray._raylet import (  # type: ignore[attr-defined]  # compiled, without a stub
    DASHBOARD_AGENT_LISTEN_PORT_NAME,
    METRICS_AGENT_PORT_NAME,
    METRICS_EXPORT_PORT_NAME,
    persist_port,
)

AGENT_PORTS = (DASHBOARD_AGENT_LISTEN_PORT_NAME, METRICS_AGENT_PORT_NAME, METRICS_EXPORT_PORT_NAME)
AGENT, PRESTARTED = "--dashboard_agent_command=", "--num_prestart_python_workers="
"""The raylet's arguments for the agent that it starts and watches, and for the number of workers that it starts at once: one a
CPU by default, which would be too many to import torch on a machine with many."""
NO_AGENT = "import os, time\nparent = os.getppid()\nwhile os.getppid() == parent: time.sleep(1)"
"""A process that only ends with its parent."""


START_SECONDS = 300.0
"""Seconds in which the node must have registered; Ray gives it 30, which are too few on a machine that is busy."""


class WithoutDashboard(Node):  # type: ignore[misc]  # Ray has no types
    """Ray's processes without the dashboard, which is ten of them and takes 1.6 s of CPU time, and its agent, which takes 0.7.

    With ``include_dashboard=False`` Ray starts both, and waits for them.
    """

    def start_api_server(self, **_: Any) -> None:
        pass

    def start_raylet(self, *args: Any, **options: Any) -> None:
        for name in AGENT_PORTS:
            persist_port(self._session_dir, self._node_id, name, -1)  # "not in use", as an agent without its libraries says it
        super().start_raylet(*args, **options)


def main() -> None:
    """Start Ray, print its address and the dashboard's as JSON, and run until the end of standard input."""
    options = json.loads(sys.argv[1])
    dashboard = options["dashboard"]
    start_ray_process = services.start_ray_process
    started: list[subprocess.Popen[bytes]] = []

    def start(command: Sequence[str], *args: Any, **more: Any) -> Any:
        info = start_ray_process([_changed(word, dashboard, options["workers"]) for word in command], *args, **more)
        started.append(info.process)
        return info

    services.start_ray_process, services.get_node = start, _patient(services.get_node, started)
    parameters = RayParams(
        object_store_memory=options["object_store"],
        include_dashboard=dashboard,
        include_log_monitor=options["logs"],
        no_monitor=True,  # it scales clusters, and this is a single machine
    )
    node = (Node if dashboard else WithoutDashboard)(parameters, head=True)
    print(json.dumps({"address": node.address, "dashboard": f"http://{node.webui_url}" if dashboard else ""}), flush=True)
    sys.stdin.read()


def _patient(get_node: Callable[..., Any], started: Sequence["subprocess.Popen[bytes]"]) -> Callable[..., Any]:
    """Ray's ``get_node``, which waits until the node has registered, or one of the processes that were started has ended."""

    def get(*args: Any) -> Any:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return get_node(*args)
            except RuntimeError:
                if time.monotonic() > deadline or any(process.poll() is not None for process in started):
                    raise
                time.sleep(0.1)

    return get


def _changed(word: str, dashboard: bool, workers: int | None) -> str:
    """A word of the command line of one of Ray's processes, as it is to be here."""
    if word.startswith(AGENT) and not dashboard:
        return AGENT + subprocess.list2cmdline([sys.executable, "-I", "-S", "-c", NO_AGENT])
    if word.startswith(PRESTARTED) and workers is not None:
        return f"{PRESTARTED}{min(workers, int(word.removeprefix(PRESTARTED)))}"
    return word


if __name__ == "__main__":
    main()
