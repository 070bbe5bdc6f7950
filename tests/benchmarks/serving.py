"""CPU milliseconds a request and a token of a service, against uvicorn with FastAPI, LitServe, and Ray Serve by default.

    python -m tests.benchmarks.serving [ROUNDS [MODEL ...]]      (LitServe: pip install -r tests/benchmarks/serving.txt)

`SERVERS` and the models are in serving_servers.py. Each server is a process with one thread that computes; a client in this
process sends requests over 1 and over 32 connections, one after the other on each. The CPU time is that of the server's
processes, user and system, divided by the requests (of a language model: by the tokens): unlike requests a second it hardly
depends on what else the machine does. All servers are there at once, and take turns in each round; a ratio is of one round.
"""

import asyncio
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from heliostat.cluster.documents.serving import SETTINGS
from heliostat.cluster.ports import free_ports
from heliostat.console import print_table
from tests.benchmarks import spread
from tests.benchmarks.serving_servers import HAPROXY_FILES, SERVERS, TOKEN

CONNECTIONS = (1, 32)
TURN = 2.0
"""Seconds for which requests are begun, until the next server's turn: CPU time is counted in hundredths of a second."""
TOKENS = 32
"""Of a request for text, after a prompt of as many."""
MODELS = ("noop", "small", "1 ms", "text")
ROWS = {"rows": [{f"x{number}": number / 10 for number in range(30)}]}
TEXT = {"model": "m", "prompt": [*range(TOKENS)], "max_tokens": TOKENS, "temperature": 0, "stream": True}
BASES = ("plain", "replicas, HAProxy", "replicas")
"""What the others are divided by."""
Turn = tuple[float, float]
"""CPU milliseconds for one request or token, and how many a second."""


def main(rounds: int, models: list[str]) -> None:
    """Print a table for each model and number of connections: medians, and ratios with their range."""
    names = [name for name, server in SERVERS.items() if all(map(importlib.util.find_spec, server.needs))]
    for model in models or MODELS:
        turns: dict[tuple[str, int], list[Turn]] = {}
        with started(names, model) as servers:
            for number in range(rounds + 1):
                for connections in CONNECTIONS:
                    for name, (process, port) in servers.items():
                        measured = turn(process, port, name, model, connections)
                        if number:  # the first round warms up
                            turns.setdefault((name, connections), []).append(measured)
        for connections in CONNECTIONS:
            of = {name: turns[name, connections] for name in names}
            bases = [base for base in BASES if base in of]
            unit = "token" if model == "text" else "request"
            columns = ["server", f"CPU ms a {unit}", f"{unit}s a second", *(f"times {base}" for base in bases)]
            rows = [
                [name, f"{median(cpu for cpu, _ in found):.3f}", f"{median(rate for _, rate in found):.0f}",
                 *(ratios(found, of[base]) for base in bases)]
                for name, found in of.items()
            ]  # fmt: skip
            load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
            print(f"\n{model}, {connections} connections (load {load})")
            print_table(columns, rows)
            sys.stdout.flush()


def ratios(found: list[Turn], base: list[Turn]) -> str:
    """The median and the range of the CPU times of the same rounds, each against that of ``base``."""
    each = [cpu / other for (cpu, _), (other, _) in zip(found, base, strict=True)]
    return spread(each)


def turn(process: psutil.Process, port: int, name: str, model: str, connections: int) -> Turn:
    """What a server takes for as many requests as it answers in its turn."""
    spent, began = cpu(process), time.monotonic()
    done = asyncio.run(load(port, request(name, model), connections, TOKENS if model == "text" else None))
    took = time.monotonic() - began
    count = done * (TOKENS if model == "text" else 1)
    return 1000 * (cpu(process) - spent) / count, count / took


def request(name: str, model: str) -> bytes:
    """An HTTP request for one of the models."""
    server = SERVERS[name]
    path, body = (server.text, json.dumps(TEXT)) if model == "text" else (server.rows, json.dumps(ROWS))
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


@contextmanager
def started(names: list[str], model: str) -> Iterator[dict[str, tuple[psutil.Process, int]]]:
    """The servers of a model, each with its process and its port."""
    found: dict[str, tuple[psutil.Process, int]] = {}
    with tempfile.TemporaryDirectory() as place:
        try:
            for number, name in enumerate(names):
                file = Path(place, f"server_{number}.py")  # the name of a package would hide that
                file.write_text(SERVERS[name].program)
                (port,) = free_ports(1)
                env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
                if "HAProxy" in name:
                    env |= {**SETTINGS, **{f"RAY_SERVE_HAPROXY_{key}": f"{place}/{key}" for key in HAPROXY_FILES}}
                with file.with_suffix(".log").open("w") as log:
                    process = psutil.Popen([sys.executable, file, str(port), model], env=env, cwd=place, stdout=log, stderr=log)
                found[name] = process, port
                while not answers(port, request(name, model)):
                    if process.poll() is not None:
                        raise SystemExit(f"{name} has ended:\n{file.with_suffix('.log').read_text()[-2000:]}")
                    time.sleep(0.2)
            yield found
        finally:
            for process, _ in found.values():
                for each in [*haproxies(process), *process.children(recursive=True), process]:
                    with suppress(psutil.NoSuchProcess):
                        each.kill()


def answers(port: int, sent: bytes) -> bool:
    """Whether it answers a request."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.connect()
        connection.sock.sendall(sent)
        return connection.sock.recv(12) == b"HTTP/1.1 200"
    except OSError:
        return False
    finally:
        connection.close()


def haproxies(process: psutil.Process) -> list[psutil.Process]:
    """HAProxy of a server, which is no child of it."""
    place = os.path.dirname(process.cmdline()[1]) if process.is_running() and process.cmdline() else "none"
    found = psutil.process_iter(["name", "cmdline"])
    return [each for each in found if each.info["name"] == "haproxy" and place in " ".join(each.info["cmdline"] or ())]


def cpu(process: psutil.Process) -> float:
    """The CPU seconds of a server's processes until now; of Ray's only those of Serve."""
    children = process.children(recursive=True)
    counted = [process, *children]
    if any("raylet" in each.name() for each in children):
        counted = [*(each for each in children if of_serve(each)), *haproxies(process)]
    total = 0.0
    for each in counted:
        with suppress(psutil.NoSuchProcess):
            times: Any = each.cpu_times()
            total += times.user + times.system
    return total


def of_serve(process: psutil.Process) -> bool:
    """Whether it is Serve's controller, a proxy or a replica."""
    try:
        return any(word in " ".join(process.cmdline()) for word in ("ray::Serve", "ray::Proxy", "ray::HAProxy"))
    except psutil.NoSuchProcess:
        return False


async def load(port: int, sent: bytes, connections: int, tokens: int | None) -> int:
    """The number of requests that were answered, of those begun in `TURN` seconds; each answer has so many ``tokens``."""
    deadline = time.monotonic() + TURN

    async def one() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        done = 0
        while time.monotonic() < deadline:
            writer.write(sent)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if not head.startswith(b"http/1.1 200"):
                raise SystemExit(head.decode())
            length = head.partition(b"content-length:")[2].split(b"\r\n")[0]
            body = await (reader.readexactly(int(length)) if length else chunks(reader))
            if tokens and (found := body.count(b'"text"')) != tokens:
                raise SystemExit(f"{found} tokens, not {tokens}: {body.decode()}")
            done += 1
        writer.close()
        return done

    return sum(await asyncio.gather(*(one() for _ in range(connections))))


async def chunks(reader: asyncio.StreamReader) -> bytes:
    """A body of which the length is not known before."""
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return body


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 5, sys.argv[2:])
