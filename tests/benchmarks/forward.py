"""How fast an upload reaches a head: through our forward, through that of the ``kubernetes`` package, and without any.

python -m tests.benchmarks.forward PROFILE [--megabytes 60] [--rounds 7]

The cluster of the profile must be up, and the direct way needs pods that this machine can reach. A head that Kubernetes limits
to less than a CPU, as in small test clusters, is slower than any of the three ways.
"""

import argparse
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import urllib3
from kubernetes import client
from kubernetes.stream import portforward

from heliostat.cluster.kube.port_forward import Forward
from heliostat.cluster.profile import find
from heliostat.cluster.targets.kubernetes import KubernetesCluster
from tests.benchmarks import spread

DASHBOARD = 8265


@contextmanager
def ours(remote: KubernetesCluster) -> Iterator[str]:
    """Our forward."""
    with Forward(remote.api, remote.name, {DASHBOARD: 0}) as forward:
        yield f"http://127.0.0.1:{forward.ports[DASHBOARD]}"


@contextmanager
def stock(remote: KubernetesCluster) -> Iterator[str]:
    """The forward of the kubernetes package."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_stock_connection, args=(remote, listener), daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def direct(remote: KubernetesCluster) -> Iterator[str]:
    """No forward."""
    yield f"http://{_head(remote)['status']['podIP']}:{DASHBOARD}"


def main() -> None:
    """Print the megabytes a second of each way, taken in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile")
    parser.add_argument("--megabytes", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    remote = KubernetesCluster(find(args.profile))
    data = random.randbytes(args.megabytes * 10**6)
    speeds: dict[str, list[float]] = {}
    for _ in range(args.rounds):
        for way in (direct, stock, ours):
            with way(remote) as url:
                speeds.setdefault(str(way.__doc__), []).append(_upload(url, remote.token, data))
    for name, measured in speeds.items():
        print(f"{name:45} MB/s {spread(measured, 0)}")


def _upload(url: str, token: str, data: bytes) -> float:
    began = time.perf_counter()
    # Always the same name, so that the head keeps only one.
    place = f"{url}/api/packages/gcs/_ray_pkg_benchmark.zip"
    headers = {"Authorization": f"Bearer {token}"}
    answer = urllib3.PoolManager().request("PUT", place, body=data, headers=headers, timeout=600, retries=False)
    assert answer.status == 200, answer.data
    return len(data) / 1e6 / (time.perf_counter() - began)


def _head(remote: KubernetesCluster) -> dict[str, dict[str, str]]:
    name = Forward(remote.api, remote.name, {}).head()
    pod: dict[str, dict[str, str]] = remote.api.request("GET", remote.api.path("Pod", str(name)))
    return pod


def _stock_connection(remote: KubernetesCluster, listener: socket.socket) -> None:
    accepted = listener.accept()[0]
    core = client.CoreV1Api(remote.api.client)
    where = (_head(remote)["metadata"]["name"], remote.api.namespace)
    tunnel = portforward(core.connect_get_namespaced_pod_portforward, *where, ports=str(DASHBOARD)).socket(DASHBOARD)
    tunnel.setblocking(True)
    threading.Thread(target=_pump, args=(tunnel, accepted), daemon=True).start()
    _pump(accepted, tunnel)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 20):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    main()
