"""Ray's node with the time that it needs on a busy machine: ``python ray_node.py start ...`` is ``ray start ...``.

In Ray 2.60 a raylet aborts when its agent, a Python process with many imports, does not have its ports after 15 s, and a node
that has not registered after 30 s is given up. Here the raylet does not wait: it finds the ports that the node was given for
its agent, and -1 for others, as an agent without its libraries writes it; the agent writes its own when it is there. A node
has `START_SECONDS` to register. tests/cluster/test_ray_contracts.py checks the private parts of Ray that it uses. It is also
run as a file, and imports nothing of ours.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from ray._private import services
from ray._private.node import Node
from ray._raylet import (  # type: ignore[attr-defined]  # compiled, without a stub
    DASHBOARD_AGENT_LISTEN_PORT_NAME,
    METRICS_AGENT_PORT_NAME,
    METRICS_EXPORT_PORT_NAME,
    persist_port,
)

START_SECONDS = 300.0


def patient() -> None:
    """Give the nodes that this process starts their time."""
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", f"{START_SECONDS:.0f}")
    started: list[subprocess.Popen[bytes]] = []
    start_ray_process, start_raylet = services.start_ray_process, Node.start_raylet

    def process(*args: Any, **options: Any) -> Any:
        info = start_ray_process(*args, **options)
        started.append(info.process)
        return info

    def raylet(node: Node, *args: Any, **options: Any) -> None:
        given = node._ray_params
        ports = {
            DASHBOARD_AGENT_LISTEN_PORT_NAME: given.dashboard_agent_listen_port,
            METRICS_AGENT_PORT_NAME: given.metrics_agent_port,
            METRICS_EXPORT_PORT_NAME: given.metrics_export_port,
        }
        for name, port in ports.items():
            persist_port(node._session_dir, node._node_id, name, port or -1)
        start_raylet(node, *args, **options)

    services.start_ray_process, services.get_node = process, registered(services.get_node, started)
    Node.start_raylet = raylet


def registered(get_node: Callable[..., Any], started: Sequence["subprocess.Popen[bytes]"]) -> Callable[..., Any]:
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


if __name__ == "__main__":
    from ray.scripts.scripts import main

    patient()
    sys.exit(main())
