"""The dashboards and the alert rules with a real Prometheus (Debian's) that scrapes a real run and a sweep on a local cluster.

Grafana's own types of the JSON, from its SDK, check the dashboards.
"""

import json
import os
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from heliostat import cluster
from heliostat.cluster.ports import free_ports
from tests.accept.conftest import overlay
from tests.conftest import Command, clean_environment, end_group, gone, wait_for
from tests.faults.conftest import Breakable, ended, kill, write_project

FOLDER = Path(cluster.__file__).with_name("dashboards")
ALERTS = FOLDER / "alerts.yaml"
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
SDK = "grafana-foundation-sdk==1769699379!11.6.0"
CHECK = """
import json, sys
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

register_default_plugins()
for path in sys.argv[1:]:
    print(JSONEncoder().encode(Dashboard.from_json(json.load(open(path)))).replace("\\n", " "))
"""
PROFILE = """
name: breakable
platform: local
head: {price_per_hour: 1}
groups:
  - {name: gpu, cpu: 1, memory: 1Gi, gpu: 1, gpu_type: A100-80GB, max: 2, idle_seconds: 60, start_seconds: 1}
storage: {uri: STORAGE}
idle_shutdown_seconds: null
"""
BUDGET = "budget: {day: 0.001, month: 0.001}\n"
RUN = ("steps=60", "log_every=5", "evaluate_every=10", "checkpoint_every=5", "model.seconds=0.2")
SWEEP = """
name: search
train: {task: patient:Patient, dataset: {source: digits}, steps: 60, evaluate_every: 20,
        model: {width: 8, stages: 1, dropout: 0.0}, resources: {gpu: 1}}
space: {optimizer.lr: {choice: [0.001, 0.01, 0.1]}}
algorithm: grid
scheduler: none
"""
PATIENT = """
import time

from heliostat.workloads.tasks.image_classification import ImageClassification


class Patient(ImageClassification):
    def loss(self, model, batch):
        time.sleep(0.4 * model.training)
        return super().loss(model, batch)
"""
SOONER = {
    "> 900": "> 5",
    "> 3600": "> 5",
    "> 0.9": "> 0.001",
    "for: 1m": "for: 0s",
    "for: 2m": "for: 0s",
    "for: 30m": "for: 0s",
}
"""What is changed in the rules so that they fire in a test."""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``prometheus`` and ``promtool``: of this machine, or else from Debian's package, which is not installed."""
    if found := shutil.which("prometheus"):
        return Path(found).parent
    place = tmp_path_factory.mktemp("prometheus")
    subprocess.run(["apt-get", "-o", "APT::Sandbox::User=root", "download", "prometheus"], cwd=place, check=True)
    (package,) = place.glob("*.deb")
    subprocess.run(["dpkg", "-x", package, place], check=True)
    return place / "usr/bin"


@dataclass(frozen=True)
class Prometheus:
    """A server that has scraped a cluster since it was started."""

    url: str
    since: float

    def get(self, path: str, **query: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=60) as response:
            return json.load(response)["data"]

    def answers(self) -> bool:
        try:
            return bool(self.get("targets")["activeTargets"])
        except OSError:
            return False

    def series(self, expression: str) -> list[Any]:
        """What a query has returned at any time."""
        times = {"start": str(self.since), "end": str(time.time()), "step": "2"}
        found: list[Any] = self.get("query_range", query=expression, **times)["result"]
        return found


@contextmanager
def scraping(config: Path, programs: Path, place: Path) -> Iterator[Prometheus]:
    """Prometheus with the configuration that the cluster has, but more often, and with rules that fire sooner."""
    rules = ALERTS.read_text()
    for text, sooner in SOONER.items():
        assert text in rules
        rules = rules.replace(text, sooner)
    (place / "rules.yaml").write_text(rules)
    found = json.loads(config.read_text())
    assert found["rule_files"] == [str(ALERTS)]
    found["global"], found["rule_files"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}, [str(place / "rules.yaml")]
    (place / "prometheus.json").write_text(json.dumps(found))
    (port,) = free_ports(1)
    words = [
        f"--config.file={place}/prometheus.json",
        f"--storage.tsdb.path={place}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(
            [programs / "prometheus", *words], stdout=log, stderr=log, text=True, start_new_session=True, env={**os.environ}
        )
    server = Prometheus(f"http://127.0.0.1:{port}", time.time())
    try:
        wait_for(server.answers, "Prometheus to answer")
        yield server
    finally:
        end_group(process)


def queries() -> Iterator[tuple[str, str]]:
    """Each query of the dashboards with what a user would have chosen, after the name of its panel."""
    for name, document in DASHBOARDS.items():
        for panel in document["panels"]:
            for target in panel["targets"]:
                expression = target["expr"].replace("$cluster", ".*").replace("$run", ".*").replace("$__range", "1h")
                assert "$" not in expression
                yield f"{name}: {panel['title']}", expression


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Breakable]:
    work, storage = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("storage")
    env = clean_environment(tmp_path_factory.mktemp("home"))
    profile = PROFILE.replace("STORAGE", str(storage))
    (work / "profile.yaml").write_text(profile + BUDGET)
    (work / "sweep.yaml").write_text(SWEEP)
    (work / "patient.py").write_text(PATIENT)
    write_project(work)
    found = Breakable(Command(work, env), storage)
    found.up()
    (work / "profile.yaml").write_text(profile)  # the cluster goes on with its budget, which would refuse work
    try:
        yield found
    finally:
        assert found.command("down", "profile.yaml", "--yes").code == 0
        gone(env)


def test_each_query_has_data_and_each_rule_fires_on_a_real_run(monitored: Breakable, programs: Path, tmp_path: Path) -> None:
    home = Path(monitored.command.env["HOME"])
    held, seen = tmp_path / "held", monitored.seen("watched")
    held.touch()
    with scraping(home / ".heliostat/clusters/breakable/prometheus.json", programs, tmp_path) as server:

        def lacking(*words: str) -> list[str]:
            found = [panel for panel, expression in queries() if not server.series(expression)]
            return [panel for panel in found if not any(word in panel for word in words)]

        def fired() -> set[str]:
            return {each["metric"]["alertname"] for each in server.series('ALERTS{alertstate="firing"}')}

        train = monitored.train("watched", *RUN, f"model.held={held}")
        wait_for(lambda: seen.step >= 20, "the run to be held after 20 steps")
        wait_for(
            lambda: {"HeliostatNoProgress", "HeliostatCheckpointTooOld"} <= fired(), "a run without progress to be noticed"
        )
        kill(monitored.workers()[0])
        wait_for(lambda: len(seen.starts) > 1, "the workers to begin again")
        wait_for(lambda: not lacking("sweeps"), "each figure of the run to have data")
        held.unlink()
        code, said = ended(train)
        assert code == 0, said
        sweep = monitored.command.start("sweep", "sweep.yaml", "--on", "profile.yaml")
        wait_for(lambda: not lacking() or sweep.poll() is not None, "each figure to have data, or the sweep to end")
        code, said = ended(sweep)
        assert (code, lacking()) == (0, []), said
        rules = server.get("rules")["groups"][0]["rules"]
        assert [rule["name"] for rule in rules if rule["health"] != "ok"] == []
        wait_for(lambda: {rule["name"] for rule in rules} == fired(), "each rule to fire")
        restarts = server.series("ray_heliostat_run_restarts")
        assert {each["metric"]["cause"] for each in restarts} <= {"killed", "peer_lost", "node_lost"}


def steady(name: str, values: str, **labels: str) -> dict[str, str]:
    """A series of promtool's, one value a minute."""
    pairs = ",".join(f'{key}="{value}"' for key, value in {"instance": "head", "ray_io_cluster": "gpu", **labels}.items())
    return {"series": f"{name}{{{pairs}}}", "values": values}


FIRING: dict[str, tuple[list[dict[str, str]], str, str]] = {
    "HeliostatNoProgress": (
        [
            steady("ray_heliostat_run_progress_timestamp_seconds", "0x60", run="r"),
            steady("ray_heliostat_run_workers_ready", "2x60", run="r"),
        ],
        "15m", "17m",
    ),
    "HeliostatCheckpointTooOld": (
        [
            steady("ray_heliostat_run_checkpoint_timestamp_seconds", "0x90", run="r"),
            steady("ray_heliostat_run_workers_ready", "2x90", run="r"),
        ],
        "60m", "62m",
    ),
    "HeliostatIdleGpus": ([steady("ray_heliostat_group_gpus", "8x60", group="g", state="idle")], "29m", "31m"),
    "HeliostatSpendingAboveBudget": (
        [steady("ray_heliostat_group_cost_total", "0+1x90", group="g"), steady("ray_heliostat_budget_per_day", "50x90")],
        "40m", "60m",
    ),
    "HeliostatSpendingAboveMonthlyBudget": (
        [steady("ray_heliostat_group_cost_total", "0+1x90", group="g"), steady("ray_heliostat_budget_per_month", "50x90")],
        "40m", "60m",
    ),
    "HeliostatHeadNearlyOutOfMemory": (
        [
            steady("ray_node_mem_used", "50x4 95x20", IsHeadNode="true"),
            steady("ray_node_mem_total", "100x24", IsHeadNode="true"),
        ],
        "5m", "10m",
    ),
    "HeliostatLongWait": (
        [
            steady("ray_heliostat_group_wait_seconds", "0+60x20", group="g", cause="image"),
            steady("ray_heliostat_group_start_seconds", "300x20", group="g"),
        ],
        "5m", "6m",
    ),
}  # fmt: skip
"""For each rule its series, a time at which it does not fire yet and one at which it does."""


@pytest.mark.parametrize("name", FIRING)
def test_a_rule_fires_in_time_and_not_before(name: str, programs: Path, tmp_path: Path) -> None:
    series, before, after = FIRING[name]
    rules = YAML(typ="safe", pure=True).load(ALERTS.read_text())["groups"][0]["rules"]
    assert {rule["alert"] for rule in rules} == FIRING.keys()
    alert = f'count(ALERTS{{alertname="{name}",alertstate="firing"}})'
    tests = [
        {
            "interval": "1m", "input_series": series,
            "promql_expr_test": [
                {"expr": alert, "eval_time": before, "exp_samples": []},
                {"expr": alert, "eval_time": after, "exp_samples": [{"value": 1}]},
            ],
        }
    ]  # fmt: skip
    (tmp_path / "test.yaml").write_text(json.dumps({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests}))
    done = subprocess.run([programs / "promtool", "test", "rules", tmp_path / "test.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_grafanas_own_types_have_each_key_of_the_dashboards(tmp_path: Path) -> None:
    python = overlay(tmp_path / "venv", SDK) / "python"
    paths = [FOLDER / f"{name}.json" for name in DASHBOARDS]
    done = subprocess.run([python, "-c", CHECK, *paths], capture_output=True, text=True, check=True)
    for ours, read in zip(DASHBOARDS.values(), map(json.loads, done.stdout.splitlines()), strict=True):
        assert list(lost(ours, read, ours["title"])) == []


def lost(ours: Any, read: Any, place: str) -> Iterator[str]:
    """What Grafana's types have not read from a document."""
    if isinstance(ours, dict) and isinstance(read, dict):
        for key, value in ours.items():
            yield from lost(value, read.get(key), f"{place}.{key}")
    elif isinstance(ours, list) and isinstance(read, list) and len(ours) == len(read):
        for number, (mine, theirs) in enumerate(zip(ours, read, strict=True)):
            yield from lost(mine, theirs, f"{place}.{number}")
    elif ours != read:
        yield f"{place}: {ours!r} became {read!r}"
