"""The doctor's checks of this machine, for profiles of local clusters."""

import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psutil

from heliostat.cluster.diagnosis.findings import Found, ok, problem
from heliostat.cluster.profile import Profile, size
from heliostat.cluster.targets.local import LocalCluster
from heliostat.cluster.targets.local.emulation import PORTS
from heliostat.folder import absolute


def _ray(profile: Profile) -> Found:
    try:
        import ray
    except ImportError as error:
        yield problem(
            f"Ray cannot be imported: {error}", f'pip install "ray[default,train,tune,client]=={profile.ray_version}"'
        )
        return
    if ray.__version__ != profile.ray_version:
        yield problem(
            f"this machine has Ray {ray.__version__}, but ray_version is {profile.ray_version}",
            f"set ray_version: {ray.__version__}, or pip install ray=={profile.ray_version}",
        )
    else:
        yield ok(f"Ray {ray.__version__}")


def _ports(profile: Profile) -> Found:
    try:
        with ExitStack() as stack:
            ports = [stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in PORTS]
    except OSError as error:
        yield problem(f"no free port at 127.0.0.1: {error}", "end programs that hold many of them, or a firewall's rule")
    else:
        yield ok(f"{len(ports)} free ones, as many as a head needs")


def _memory(profile: Profile) -> Found:
    """Ray counts a node's memory and does not enforce it; but work that was promised so much will use it."""
    free = psutil.virtual_memory().available
    least = size(profile.head.memory) + sum(group.min * size(group.memory) for group in profile.groups)
    most = size(profile.head.memory) + sum(group.max * size(group.memory) for group in profile.groups)
    told = f"{free / 2**30:.1f}Gi free"
    if least > free:
        yield problem(f"{told}, but head and least nodes are promised {least / 2**30:.1f}Gi", "set memory or min lower")
    elif most > free:
        yield problem(f"{told}, but all groups at their max are promised {most / 2**30:.1f}Gi", "set memory or max lower")
    else:
        yield ok(f"{told}, and at most {most / 2**30:.1f}Gi are promised to head and nodes")


def _storage(profile: Profile) -> Found:
    uri = absolute(profile.storage.uri or ".", Path.cwd())
    if "://" in uri:
        yield ok(uri)
        return
    there = next(path for path in (Path(uri), *Path(uri).parents) if path.exists())
    if os.access(there, os.W_OK | os.X_OK) and there.is_dir():
        yield ok(f"runs are kept in {uri}")
    else:
        yield problem(
            f"storage.uri is {uri}, but {there} is no folder that can be written to", "set storage.uri to one that can"
        )


def _cluster(profile: Profile) -> Found:
    state = LocalCluster(profile).state()
    if state.state == "failed":
        yield problem(f"{state.name}: {state.detail}", f"heliostat up {state.name} starts it anew")
    else:
        yield ok(f"{state.name} is {state.state}" + (f": {state.detail}" if state.detail else ""))


CHECKS: dict[str, Callable[[Profile], Found]] = {
    "Ray": _ray,
    "ports": _ports,
    "memory": _memory,
    "storage": _storage,
    "cluster": _cluster,
}
