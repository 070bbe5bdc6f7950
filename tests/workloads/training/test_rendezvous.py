"""The sockets of a process group listen on no more addresses than its ranks need."""

import os
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest
import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not in __all__

from heliostat.workloads.training import rendezvous
from heliostat.workloads.training.distributed import join

OTHER = "127.0.0.2"
"""An address of this machine besides 127.0.0.1."""


@pytest.fixture
def environment() -> Iterator[None]:
    """Restores what `join` sets, which gloo reads from the process itself."""
    before = {name: os.environ.pop(name, None) for name in rendezvous.INTERFACES}
    yield
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


def listening() -> set[tuple[str, int]]:
    connections = psutil.Process().net_connections("tcp")
    return {tuple(each.laddr) for each in connections if each.status == psutil.CONN_LISTEN}


@pytest.mark.usefixtures("environment")
def test_ranks_that_are_all_on_one_machine_listen_on_loopback_only() -> None:
    def joined() -> set[tuple[str, int]]:
        before = listening()
        join(rank=0, world=1, node="192.0.2.1", alone=True, broadcast=lambda value: value, seconds=60)
        try:
            dist.all_reduce(torch.ones(1))
            return listening() - before
        finally:
            dist.destroy_process_group()

    with ThreadPoolExecutor(1) as thread:  # one that ends: joining changes its scheduling policy
        opened = thread.submit(joined).result()
    assert opened
    assert {address for address, _ in opened} == {rendezvous.LOOPBACK}


@pytest.mark.skipif(sys.platform != "linux", reason="the policy is Linux's")
@pytest.mark.usefixtures("environment")
def test_what_a_rank_sends_interrupts_no_computing() -> None:
    """On CPUs: under the default policy, a worker that shares its core with gloo's threads trains a quarter slower."""

    def joined() -> dict[str, int]:
        before = {thread.id for thread in psutil.Process().threads()}
        join(rank=0, world=1, node="192.0.2.1", alone=True, broadcast=lambda value: value, seconds=60)
        try:
            dist.all_reduce(torch.ones(1))
            opened = {thread.id for thread in psutil.Process().threads()} - before
            names = {id: Path(f"/proc/self/task/{id}/comm").read_text().strip() for id in opened}
            return {name: os.sched_getscheduler(id) for id, name in names.items() if "gloo" in name} | {
                "training": os.sched_getscheduler(0)
            }
        finally:
            dist.destroy_process_group()

    with ThreadPoolExecutor(1) as thread:  # one that ends: the policy stays with it
        policies = thread.submit(joined).result()
    assert len(policies) > 1
    assert set(policies.values()) == {os.SCHED_BATCH}, policies
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_the_store_of_several_nodes_listens_on_the_nodes_own_address_only() -> None:
    listener = rendezvous.listen(rendezvous.address_for(OTHER, alone=False))
    host, port = listener.getsockname()
    server = rendezvous.serve(listener)
    server.set("key", "value")
    assert host == OTHER
    assert TCPStore(host, port).get("key") == b"value"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((rendezvous.LOOPBACK, port), timeout=5)


@pytest.mark.parametrize(
    ("node", "local", "alone"),
    [("10.0.0.7", 2, True), ("10.0.0.7", 1, False), ("127.0.0.1", 1, True), ("fd00::7", 1, False), ("gpu-node-1", 1, False)],
    ids=["one pod", "several pods", "several nodes of a local cluster", "several pods, IPv6", "a host name"],
)
def test_which_ranks_are_on_one_machine(node: str, local: int, alone: bool) -> None:
    assert rendezvous.on_one_machine(node, local, world=2) is alone


@pytest.mark.parametrize("node", ["192.0.2.77", "name-of-no-host.invalid"], ids=["NAT", "a name that only others resolve"])
def test_the_store_of_a_node_whose_address_this_machine_does_not_have_listens_on_all(node: str) -> None:
    listener = rendezvous.listen(node)
    host, port = listener.getsockname()
    server = rendezvous.serve(listener)
    server.set("key", "value")
    assert host == "0.0.0.0"
    assert TCPStore(OTHER, port).get("key") == b"value"


def test_gloo_of_several_nodes_uses_the_interface_with_the_nodes_address(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"lo": [Mock(address="127.0.0.1")], "eth1": [Mock(address="fe80::1%eth1"), Mock(address="10.0.0.7")]}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: found)
    variables: dict[str, str] = {}
    rendezvous.choose_interface(variables, "10.0.0.8", alone=False)
    assert variables == {}, "not an address of this machine"
    rendezvous.choose_interface(variables, "10.0.0.7", alone=False)
    assert variables == {"GLOO_SOCKET_IFNAME": "eth1"}


def test_the_network_interface_that_the_user_has_chosen_stays() -> None:
    variables = {"GLOO_SOCKET_IFNAME": "eth1"}
    rendezvous.keep_local(variables)
    assert variables["GLOO_SOCKET_IFNAME"] == "eth1"
    assert variables["NCCL_SOCKET_IFNAME"] in ("lo", "lo0")
