"""Ray's processes on this machine without those that a command does not need: ``python -m heliostat.cluster.head OPTIONS``.

It is a process of its own, so that Ray starts while the command still imports what trains. When its standard input ends, as it
does with the command, also by a kill -9, it ends with all of Ray's processes. The private parts of Ray 2.60 that it uses are
checked by tests/cluster/test_ray_contracts.py.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from ray._private import services
from ray._private.node import Node
from ray._private.parameter import RayParams

from heliostat.cluster.ray_node import patient

AGENT, PRESTARTED = "--dashboard_agent_command=", "--num_prestart_python_workers="
"""The raylet's arguments for the agent that it starts and watches, and for the number of workers that it starts at once: one a
CPU by default, which would be too many to import torch on a machine with many."""
NO_AGENT = "import os, time\nparent = os.getppid()\nwhile os.getppid() == parent: time.sleep(1)"
"""A process that only ends with its parent."""


class WithoutDashboard(Node):  # type: ignore[misc]  # Ray has no types
    """Ray's processes without the dashboard, which is ten of them and takes 1.6 s of CPU time, and its agent, which takes 0.7.

    With ``include_dashboard=False`` Ray starts both, and waits for them.
    """

    def start_api_server(self, **_: Any) -> None:
        pass


def main() -> None:
    """Start Ray, print its address and the dashboard's as JSON, and run until the end of standard input."""
    options = json.loads(sys.argv[1])
    ports = options["ports"]
    dashboard = bool(ports)
    patient()
    start_ray_process = services.start_ray_process

    def start(command: Sequence[str], *args: Any, **more: Any) -> Any:
        return start_ray_process([_changed(word, dashboard, options["workers"]) for word in command], *args, **more)

    services.start_ray_process = start
    parameters = RayParams(
        object_store_memory=options["object_store"],
        include_dashboard=dashboard,
        **dict(zip(("dashboard_port", "dashboard_agent_listen_port"), ports, strict=False)),
        include_log_monitor=options["logs"],
        no_monitor=True,  # it scales clusters, and this is a single machine
    )
    node = (Node if dashboard else WithoutDashboard)(parameters, head=True)
    print(json.dumps({"address": node.address, "dashboard": f"http://{node.webui_url}" if dashboard else ""}), flush=True)
    sys.stdin.read()


def _changed(word: str, dashboard: bool, workers: int | None) -> str:
    """A word of the command line of one of Ray's processes, as it is to be here."""
    if word.startswith(AGENT) and not dashboard:
        return AGENT + subprocess.list2cmdline([sys.executable, "-I", "-S", "-c", NO_AGENT])
    if word.startswith(PRESTARTED) and workers is not None:
        return f"{PRESTARTED}{min(workers, int(word.removeprefix(PRESTARTED)))}"
    return word


if __name__ == "__main__":
    main()
