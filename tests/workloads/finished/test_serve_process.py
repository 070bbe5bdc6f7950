"""A service as a process of its own: it follows an alias, withstands requests that are none, and ends without a trace."""

import hashlib
import json
import os
import random
import shutil
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.csv
import pytest

from heliostat.folder import Folder
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.export import SUMS
from heliostat.workloads.registry.add import add
from heliostat.workloads.registry.registry import Registry
from heliostat.workloads.registry.version import checksum_of
from tests.conftest import Command, clean_environment, end_group, processes_of, wait_for
from tests.workloads.finished.test_predictions import rows_of
from tests.workloads.training.test_loop import train

REQUESTS = int(os.environ.get("SERVE_REQUESTS", "150"))
"""Of the fuzz; `make soak` has 10,000."""
GOOD = {"rows": [{"age": 41, "country": "DE", "income": 2500.5, "member": True, "joined": "2024-05-11"}]}


@dataclass(frozen=True)
class Served:
    """The service ``churn@champion`` with its registry, which has two versions."""

    command: Command
    registry: Registry
    pid: int
    port: int
    token: str

    def ask(self, connection: HTTPConnection, body: Any = GOOD) -> tuple[int, Any]:
        """A request on a connection that stays open: the status and the document."""
        connection.request("POST", "/v1/predict", json.dumps(body), {"Authorization": f"Bearer {self.token}"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    def connect(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=300)


def two_versions(place: Path) -> Registry:
    """A registry with two versions of ``churn`` in ``place / "runs"``, of which the first is the champion."""
    pyarrow.csv.write_csv(pa.Table.from_pylist(rows_of(300)), place / "rows.csv")
    options = {"path": str(place / "rows.csv"), "target": "churn", "drop": ["price", "id"]}
    dataset = {"source": "table", "options": options}
    keys = {
        "name": "trees", "storage": str(place / "runs"), "task": "gradient-boosting", "dataset": dataset, "steps": 5,
        "evaluate_every": 5, "checkpoint_every": 5,
    }  # fmt: skip
    train(TrainConfig.model_validate(keys))
    registry = Registry(place / "runs")
    first = add(registry, place / "runs" / "trees", "churn", alias="champion")
    other = shutil.copytree(first.fetch(place), place / "other")
    signature = json.loads((other / "signature.json").read_text())
    (other / "signature.json").write_text(json.dumps({**signature, "classes": ["stays", "leaves"]}))
    lines = [line.partition("  ")[2] for line in (other / SUMS).read_text().splitlines()]
    (other / SUMS).write_text("".join(f"{_sum(other / name)}  {name}\n" for name in lines))
    manifest = first.manifest.model_copy(update={"checksum": checksum_of(Folder.at(other))})
    assert registry.put("churn", "0" * 16, manifest, other, b"config: {name: trees}\n") == 2
    return registry


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    place = tmp_path_factory.mktemp("service")
    registry = two_versions(place)
    command = Command(place, clean_environment(place / "home"))
    process = command.start("serve", "churn@champion", "--port", "0", "--set", "seconds=600")
    record = place / "home/.heliostat/services/churn.json"
    try:
        wait_for(lambda: record.exists() or process.poll() is not None, "the file of the service")
        assert record.exists(), process.stderr.read() if process.stderr else ""
        token = record.with_suffix(".token")
        assert token.stat().st_mode & 0o777 == 0o600
        url = json.loads(record.read_text())["url"]
        yield Served(command, registry, process.pid, int(url.rpartition(":")[2]), token.read_text().strip())
    finally:
        end_group(process)
        process.communicate()


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_promotion_and_a_rollback_change_a_service_over_with_no_request_lost(served: Served) -> None:
    answers: list[tuple[int, Any]] = []
    failures: list[Exception] = []
    ended = threading.Event()

    def ask() -> None:
        connection = served.connect()
        try:
            while not ended.is_set():
                answers.append(served.ask(connection))
        except Exception as error:  # whatever it is, a request was lost
            failures.append(error)

    def answered_by(version: str) -> bool:
        return bool(failures) or (bool(answers) and answers[-1][1].get("version") == version)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: answered_by("1"), "an answer by the first version")
        served.registry.promote("churn@2")
        wait_for(lambda: answered_by("2"), "an answer by the second version")
        served.registry.rollback("churn")
        wait_for(lambda: answered_by("1"), "an answer by the first version again")
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert {status for status, _ in answers} == {200}
    named = {(each["version"], each["predictions"][0]["prediction"] in ("yes", "no")) for _, each in answers}
    assert named == {("1", True), ("2", False)}, "each answer is of one version"


def test_requests_that_are_none_are_refused_and_leave_the_service_as_it_was(served: Served) -> None:
    draw = random.Random(REQUESTS)
    process, statuses, memory = psutil.Process(served.pid), dict[int, int](), [0]
    for number in range(REQUESTS):
        status = _send(served.port, *_request(draw, served.token))
        statuses[status] = statuses.get(status, 0) + 1
        assert status < 500, (number, statuses)
        if number == REQUESTS // 2:
            memory = [process.memory_info().rss]
    assert served.ask(served.connect())[0] == 200
    grown = (process.memory_info().rss - memory[0]) / 1e6
    print(f"answers by status (0: the connection was closed): {statuses}; in the second half {grown:+.1f} MB")
    assert grown < 20
    assert statuses.get(200, 0) < REQUESTS / 2


def _request(draw: random.Random, token: str) -> tuple[bytes, bool]:
    """A request and whether the server can know its end."""
    bodies: list[Any] = [
        GOOD, {"rows": [_value(draw, 3) for _ in range(draw.randint(0, 4))]},
        {"rows": [{name: _value(draw, 2) for name in ("age", "country", "joined", "member")}], "partial": True},
        {"inputs": [_tensor(draw) for _ in range(draw.randint(0, 6))], "outputs": _value(draw, 2)},
        {"model": "churn", "prompt": _value(draw, 2)}, _value(draw, 5),
    ]  # fmt: skip
    body = json.dumps(draw.choice(bodies), ensure_ascii=draw.random() < 0.5).encode(errors="surrogatepass")
    if draw.random() < 0.4:
        body = _damaged(draw, body)
    usual = ["/v1/predict", "/v2/models/churn/infer"] * 8
    path = draw.choice([*usual, "/v1/completions", "/v2/models/%ff/infer", "/v2", "//", "/v1/x"])
    more = {
        "Authorization": f"Bearer {draw.choice([token] * 9 + ['x', ''])}", "Content-Length": str(len(body)),
        "Connection": "close",
    }  # fmt: skip
    if draw.random() < 0.3:
        more["Inference-Header-Content-Length"] = draw.choice(["0", "-1", "x", "10", str(len(body)), "9" * 30])
    if draw.random() < 0.1:
        more["Content-Encoding"] = draw.choice(["gzip", "br", ""])
    wire = draw.random() < 0.15
    if wire:
        more["Content-Length"] = draw.choice(["-1", "x", "99", "1e9", "18446744073709551616"])
        if draw.random() < 0.5:
            more = {**more, "Transfer-Encoding": "chunked"}
    head = "".join(f"{name}: {value}\r\n" for name, value in more.items())
    method = draw.choice(["POST"] * 20 + ["GET", "PUT", "OPTIONS", "BREW"])
    data = f"{method} {path} HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode() + body
    return (_damaged(draw, data), False) if wire and draw.random() < 0.5 else (data, not wire)


def _value(draw: random.Random, depth: int) -> Any:
    plain = [
        None, True, 0, -1, 2**63, 10**40, 1.5, 1e308, float("nan"), "", "DE", "2024-01-31", "\ud800", "é\x00", "1" * 5000,
        "1,1" * 50,
    ]  # fmt: skip
    if depth == 0 or draw.random() < 0.5:
        return draw.choice(plain)
    if draw.random() < 0.5:
        return [_value(draw, depth - 1) for _ in range(draw.randint(0, 4))]
    names = ["age", "country", "rows", "name", "é", "", "member"]
    return {draw.choice(names): _value(draw, depth - 1) for _ in range(draw.randint(0, 4))}


def _tensor(draw: random.Random) -> Any:
    if draw.random() < 0.1:
        return _value(draw, 2)
    count = draw.choice([0, 1, 2, 3, 2**40])
    data = [draw.choice([1, 2.5, "DE", None, True]) for _ in range(count if count < 9 else 1)]
    return {
        "name": draw.choice(["age", "country", "member", "joined", "income", "x", 3]), "data": data,
        "shape": draw.choice([[count], [count, 1], [1, count], [], [-1], "x"]),
        "datatype": draw.choice(["FP64", "BYTES", "BOOL", "INT64", "UINT8", "FP16", "FP99"]),
        **({"parameters": {"binary_data_size": draw.choice([0, 8, -1, 2**40, "8"])}} if draw.random() < 0.2 else {}),
    }  # fmt: skip


def _damaged(draw: random.Random, data: bytes) -> bytes:
    found = bytearray(data)
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(len(found) + 1)
        kind = draw.random()
        if kind < 0.4 and at < len(found):
            found[at] = draw.randrange(256)
        elif kind < 0.7:
            found[at:at] = draw.choice([b"[" * 2000, b'{"a":', b"\x00\xff", b"NaN", b"1e999", b'"\\ud800"', draw.randbytes(8)])
        else:
            del found[at : at + draw.randint(1, 20)]
    return bytes(found)


def _send(port: int, data: bytes, is_complete: bool) -> int:
    """Sends bytes as they are; returns the status of the answer, or 0 if the connection was closed without one."""
    with socket.create_connection(("127.0.0.1", port), timeout=300) as connection, suppress(ConnectionError):
        connection.sendall(data)
        if not is_complete:  # half of the connection is closed: the server must not wait for more
            connection.shutdown(socket.SHUT_WR)
        found = b""
        while part := connection.recv(65536):
            found += part
        if not is_complete:  # a reset in place of an end
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return int(found.split(b" ", 2)[1]) if found.startswith(b"HTTP/1.1 ") else 0
    return 0


def test_a_second_service_of_the_name_is_refused_and_stop_leaves_nothing(served: Served) -> None:
    command = served.command
    again = command("serve", "churn@champion", "--port", "0")
    assert (again.code, "is served already, by process" in again.err) == (2, True)
    taken = command("serve", "trees", "--port", str(served.port))
    assert (taken.code, "Address already in use\n  fix: give another --port" in taken.err) == (2, True)
    (state,) = json.loads(command("serve", "status", "--json").out)
    checksum = served.registry.resolve("churn@1").manifest.checksum
    assert (state["reference"], state["version"], state["checksum"]) == ("churn@champion", "1", checksum)
    done = command("serve", "stop", "churn")
    assert done.code == 0, done.err
    assert [each for each in processes_of(command.env) if each.pid == served.pid] == []
    assert "no service runs" in command("serve", "status").out
    gone = command("serve", "stop", "churn")
    assert (gone.code, "no service 'churn' runs" in gone.err) == (2, True)
