"""Checks of this machine for local profiles."""

import os
from collections.abc import Callable
from pathlib import Path

import psutil

from heliostat.cluster.diagnosis.findings import Found, ok, problem
from heliostat.cluster.field_types import size
from heliostat.cluster.ports import free_ports
from heliostat.cluster.profile import Profile
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
        ports = free_ports(len(PORTS))
    except OSError as error:
        yield problem(f"no free port at 127.0.0.1: {error}", "stop programs that use many of them, or change the firewall")
    else:
        yield ok(f"{len(ports)} free ones, which a head needs")


def _memory(profile: Profile) -> Found:
    """Ray counts the memory of nodes without enforcing it, but their work may use it."""
    free = psutil.virtual_memory().available
    least = size(profile.head.memory) + sum(group.min * size(group.memory) for group in profile.groups)
    most = size(profile.head.memory) + sum(group.max * size(group.memory) for group in profile.groups)
    shown = f"{free / 2**30:.1f}Gi free"
    if least > free:
        yield problem(f"{shown}, but the head and the minimum of nodes have {least / 2**30:.1f}Gi", "set memory or min lower")
    elif most > free:
        yield problem(f"{shown}, but all groups at their max have {most / 2**30:.1f}Gi", "set memory or max lower")
    else:
        yield ok(f"{shown}, and head and nodes have at most {most / 2**30:.1f}Gi")


def _storage(profile: Profile) -> Found:
    uri = absolute(profile.storage.uri or ".", Path.cwd())
    if "://" in uri:
        yield ok(uri)
        return
    existing = next(path for path in (Path(uri), *Path(uri).parents) if path.exists())
    if os.access(existing, os.W_OK | os.X_OK) and existing.is_dir():
        yield ok(f"runs are kept in {uri}")
    else:
        yield problem(f"storage.uri is {uri}, but {existing} is not a writable folder", "set storage.uri to one that is")


def _cluster(profile: Profile) -> Found:
    state = LocalCluster(profile).state()
    if state.state == "failed":
        yield problem(f"{state.name}: {state.detail}", f"heliostat up {state.name} restarts it")
    else:
        yield ok(f"{state.name} is {state.state}" + (f": {state.detail}" if state.detail else ""))


CHECKS: dict[str, Callable[[Profile], Found]] = {
    "Ray": _ray,
    "ports": _ports,
    "memory": _memory,
    "storage": _storage,
    "cluster": _cluster,
}
