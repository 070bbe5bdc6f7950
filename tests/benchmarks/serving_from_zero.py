"""From no process to the first answer of a service on this machine, in parts.

    python -m tests.benchmarks.serving_from_zero MODEL BODY [--storage runs] [--rounds 3]

BODY is that of a request to /v1/predict, such as '{"rows": [{"age": 41}]}'.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import urllib3

from heliostat.cluster.ports import free_ports
from tests.benchmarks import spread

HELIOSTAT = (sys.executable, "-m", "heliostat")
TOOK = re.compile(r"loaded in ([\d.]+) s, warmed up in ([\d.]+) s")
PROCESS, MODEL, WARM_UP, ANSWER = "the process", "the model loaded", "warm-up", "the first answer"
Parts = dict[str, float]


def ask(url: str, token: str, body: str) -> bool:
    """Whether a request is answered."""
    headers = {"Authorization": f"Bearer {token}"}
    try:
        answer = urllib3.request("POST", url, body=body, headers=headers, timeout=60, retries=False)
    except urllib3.exceptions.HTTPError:  # nothing listens yet
        return False
    if answer.status != 200:
        sys.exit(f"the request was answered with {answer.status}: {answer.data.decode()}")
    return True


def here(args: argparse.Namespace) -> Iterator[Parts]:
    """The parts of each round."""
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            (port,), token, log = free_ports(1), Path(folder, "token"), Path(folder, "log")
            token.write_text("0123456789abcdef")
            command = [*HELIOSTAT, "serve", args.model, "--port", str(port), "--token-file", token, "--storage", args.storage]
            with log.open("w") as file:
                began = time.time()
                process = subprocess.Popen(command, stdout=file, stderr=file)
            try:
                asked = began
                while not ask(f"http://127.0.0.1:{port}/v1/predict", token.read_text(), args.body):
                    if process.poll() is not None:
                        sys.exit(log.read_text())
                    time.sleep(0.01)
                    asked = time.time()
                ended = time.time()
            finally:
                process.terminate()
                process.wait()
            loaded, warmed_up = of_line(log.read_text())
            process_seconds = asked - began - loaded - warmed_up
            yield {PROCESS: process_seconds, MODEL: loaded, WARM_UP: warmed_up, ANSWER: ended - asked}


def of_line(text: str) -> list[float]:
    """The seconds that a service has told."""
    found = TOOK.search(text)
    assert found, text
    return [float(each) for each in found.groups()]


def main() -> None:
    """Print the parts of each round, and their medians with the range."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("body")
    parser.add_argument("--storage", default="runs")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rounds: list[Parts] = []
    for parts in here(args):
        rounds.append(parts)
        print(json.dumps({name: round(value, 2) for name, value in parts.items()}), flush=True)
    for name in rounds[0]:
        print(f"{name:28} {spread([each[name] for each in rounds], 2)}")
    print(f"{'in all':28} {spread([sum(each.values()) for each in rounds], 2)}")


if __name__ == "__main__":
    main()
