"""Records the nodes of a local cluster, and serves their metrics, see `heliostat.cluster.in_pod.recorder`.

It is a process of the cluster, run as a file with the arguments as JSON, because the package imports more than it needs.
"""

import json
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from heliostat.cluster.in_pod import ray_usage
from heliostat.cluster.in_pod.metrics import Groups, serve
from heliostat.cluster.in_pod.pods import with_uses
from heliostat.cluster.in_pod.ray_usage import NOT_KNOWN, Node
from heliostat.cluster.in_pod.recorder import FOLDER, Recorder, enforce, record, shown, stopped
from heliostat.cluster.in_pod.store import Writer
from heliostat.cluster.ports import HOST
from heliostat.running import process_of

LAST_SECONDS = 1.5
"""Seconds in which it records how the nodes end; `heliostat.cluster.targets.local.processes.stop` kills it after two."""
ASK_SECONDS = 1.0


class Processes:
    """Looks at the nodes of a cluster, which are processes, and at their use in Ray.

    Args:
        options: the cluster's ``scratch`` folder, the process ``head``, the ``prices`` by group and the variable ``marks`` that
            names the folder.
        get: of its dashboard.
        ended: is set when the head and the last node have exited.
    """

    def __init__(self, options: dict[str, Any], get: ray_usage.Get, ended: threading.Event) -> None:
        self._options, self._get, self._ended = options, get, ended
        head = process_of(options["head"])
        self._head_began = head.create_time() if head else None
        self._before: dict[str, Node] = {}

    def __call__(self) -> tuple[dict[str, Node], dict[str, Node]]:
        nodes = self._nodes()
        if not nodes and not self._head_runs():
            self._ended.set()
        jobs: dict[str, Node] = {}
        used: dict[str, Node] | None = None
        if nodes and not self._ended.is_set():
            with suppress(*NOT_KNOWN):  # the head starts, or has exited
                used, jobs = ray_usage.uses(self._get)
        self._before = with_uses(nodes, used, self._before, self._ended.is_set())
        return nodes, jobs

    def _head_runs(self) -> bool:
        return self._head_began is not None and process_of(self._options["head"], self._head_began) is not None

    def _nodes(self) -> dict[str, Node]:
        found = {}
        for process in psutil.process_iter(["name"]):
            if process.info["name"] != "raylet":
                continue
            try:
                env, began = process.environ(), round(process.create_time(), 3)
            except psutil.Error:
                continue
            if env.get(self._options["marks"]) != self._options["scratch"]:
                continue
            group = "head" if env["RAY_CLOUD_INSTANCE_ID"] == "head" else env["RAY_NODE_TYPE_NAME"]
            known = {"market": "on-demand", "price": None, "gpus": 0, **self._options["prices"].get(group, {})}
            found[f"{os.path.basename(self._options['scratch'])}-{process.pid}-{began:.0f}"] = {
                "name": env["RAY_CLOUD_INSTANCE_ID"], "group": group, **known, "asked": began, "begin": began,
                "until": None, "state": "starting", "ready": False,
            }  # fmt: skip
        return found


def main() -> None:
    """Record until SIGTERM, or until the head and all nodes have exited."""
    options, ended = json.loads(sys.argv[1]), stopped()
    token = Path(options["token"]).read_text().strip()
    dashboard = f"http://127.0.0.1:{options['port']}"
    get = ray_usage.dashboard(dashboard, token, ASK_SECONDS)
    writer = Writer(options["storage"])
    folder = f"{FOLDER}/{options['namespace']}/{options['name']}"
    groups = Groups(lambda: options["limits"])
    if options["metrics"]:
        serve(groups, options["ray_metrics"], HOST, options["metrics"])
    look = shown(Processes(options, get, ended), groups, dict)
    stops = bool(options["limits"].get("stop"))
    recorder = Recorder(look, lambda name, data: writer.write(f"{folder}/{name}", data), stops=lambda: stops)
    stop = ray_usage.stopping(dashboard, token)
    enforce(lambda: options["limits"], options["storage"], folder, writer, get, stop, ended)
    record(recorder, lambda: True, ended, LAST_SECONDS)
    writer.close(1.0)


if __name__ == "__main__":
    main()
