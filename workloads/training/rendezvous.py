"""The TCPStore by which the ranks of a process group find each other, on the narrowest address that reaches all of them."""

import errno
import socket
from collections.abc import MutableMapping
from datetime import timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not in __all__

LOOPBACK = "127.0.0.1"
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""The variables by which gloo and NCCL choose the network interface that their own sockets listen on."""


def on_one_machine(node: str, local: int, world: int) -> bool:
    """Whether all ranks are on one machine.

    Args:
        node: the address of this rank's node; if it is loopback, all nodes are processes of this machine.
        local, world: how many ranks are on the node, and in all.
    """
    return local == world or _is_loopback(node)


def _is_loopback(address: str) -> bool:
    """Whether an address is loopback; a host name is not, although Debian resolves a machine's own to 127.0.1.1."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def address_for(node: str, alone: bool) -> str:
    """The address that rank 0 listens on: loopback if all ranks are on its machine, else its node's own."""
    return LOOPBACK if alone else node


def choose_interface(environment: MutableMapping[str, str], node: str, alone: bool) -> None:
    """Let gloo listen where the other ranks reach it, and not where the host name leads; the user's own choice stays."""
    if alone:
        return keep_local(environment)
    addresses = psutil.net_if_addrs().items()
    name = next((name for name, all_of_it in addresses if node in [each.address.partition("%")[0] for each in all_of_it]), None)
    if name:
        environment.setdefault(INTERFACES[0], name)
    return None


def keep_local(environment: MutableMapping[str, str]) -> None:
    """Let gloo and NCCL listen on loopback, for ranks that are all on one machine; the user's own choice stays."""
    loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    if loopback:
        for variable in INTERFACES:
            environment.setdefault(variable, loopback)


def listen(address: str) -> socket.socket:
    """A socket for `serve` at a free port of this address alone, not of all addresses of the machine as TCPStore's own.

    It listens on all addresses if the node's is one that this machine does not have, as behind NAT, or a host name that leads
    to loopback here. The store takes over this socket itself, so that no other process can take the port in between.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        found = socket.getaddrinfo(address, 0, family, socket.SOCK_STREAM)[0][4][0]
        if _is_loopback(str(found)) == _is_loopback(address):
            return socket.create_server((str(found), 0), family=family, backlog=1024)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL and not isinstance(error, socket.gaierror):
            raise
    return socket.create_server(("", 0), family=family, backlog=1024)


def serve(listener: socket.socket, world: int | None = None, timeout: timedelta = timedelta(minutes=5)) -> "TCPStore":
    """Serve the store of a process group on a socket of `listen`; it ends with the returned object."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)
    return TCPStore(host, port, world, True, timeout, wait_for_workers=False, master_listen_fd=listener.detach())
