"""A sweep on a real Kubernetes: from no GPU node and back, with a node that goes away; as a RayJob, and every night."""

import json
import time
from datetime import datetime
from pathlib import Path

import pytest

from heliostat.config import to_yaml
from tests.conftest import wait_for
from tests.kubernetes.conftest import (
    ON_GPUS,
    Machines,
    Place,
    Running,
    document_in,
    node_of_workers,
    whole_node,
    worker_pods,
)
from tests.tuning.conftest import SWEEP, TASK

pytestmark = ON_GPUS
PRICE = 36.0
"""Of a node, an hour: a hundredth a second."""
LEVELS = [0.5, 0.9, 0.3, 0.8, 0.2, 0.6, 1.0, 0.4, 0.1, 0.7, 0.55, 0.15]


def write_sweep(place: Place, name: str, levels: list[float], seconds: float = 0.15, **changes: object) -> Path:
    """A sweep whose trials take 100 steps, and of which the ones with a high level are the good ones."""
    (place.command.cwd / "toy.py").write_text(TASK)
    space = {"model.level": {"choice": levels}}
    train = {**SWEEP["train"], "model": {"seconds": seconds}}
    path = place.command.cwd / f"{name}.yaml"
    path.write_text(to_yaml({**SWEEP, "train": train, "space": space, **changes}))
    return path


@pytest.fixture(scope="module")
def profile(place: Place) -> Path:
    return place.profile("sweeper", groups=[{**whole_node(place.kube), "price_per_hour": PRICE}])


@pytest.mark.accept  # make test has it on a cluster of processes: tests/tuning/test_on_a_cluster.py
def test_twelve_trials_from_no_gpu_node_survive_the_loss_of_one_and_cost_what_the_nodes_cost(
    place: Place, profile: Path, machines: Machines
) -> None:
    sweep = write_sweep(place, "levels", LEVELS, scheduler="asha")
    done = place.command("up", profile)
    assert done.code == 0, done.err
    assert worker_pods(place) == []
    began = time.time()
    running = Running(place, "sweep", sweep.name, "--on", profile, "--json")
    running.says(r"^[3-6] trials done · 2 running")
    lost = time.time()
    machines.replace(node_of_workers(place))
    result = running.result()
    took = time.time() - began
    assert sum(result["states"].values()) == 12
    assert result["states"].keys() == {"finished", "stopped"}
    assert result["params"] == {"model.level": 1.0}
    # A trial takes all GPUs of a node, so its cost is the node's.
    assert result["cost"] == pytest.approx(result["worker_seconds"] * PRICE / 3600, rel=0.05)
    assert 0 < result["worker_seconds"] < 2 * took
    shown = place.command("submit", profile, "--", "python", "-m", "heliostat", "sweep", "show", "levels-sweep", "--json")
    assert shown.code == 0, shown.err
    trials = document_in(shown.out)["trials"]
    # The longest trial that ended while both nodes were there: its node's time costs what the cost column says.
    both = sorted(row["began"] for row in trials)[1]
    trial = max((row for row in trials if both <= row["began"] and row["ended"] <= lost), key=lambda row: row["seconds"])
    when = [datetime.fromtimestamp(trial[at]).isoformat() for at in ("began", "ended")]
    billed = place.command("cost", profile, "--since", when[0], "--until", when[1], "--json")
    assert billed.code == 0, billed.err
    found = json.loads(billed.out)
    (nodes,) = (row for row in found["rows"] if row["key"] == "gpu")
    print(f"{trial['seconds']:.1f} s of a trial: {trial['cost']:.4f}; of two nodes, by heliostat cost: {nodes['total']:.4f}")
    assert len({each["node"] for each in found["intervals"] if each["group"] == "gpu"}) == 2
    assert trial["cost"] == pytest.approx(nodes["total"] / 2, rel=0.05)
    # A trial that was there when its node went has been begun again, on another one.
    assert sum(row["losses"] + row["failures"] for row in trials) >= 1
    began = time.time()
    wait_for(lambda: worker_pods(place) == [], "the GPU nodes to go")
    print(f"12 trials in {took:.0f} s with a node lost, {result['states']}; no GPU node {time.time() - began:.0f} s afterwards")
    assert place.command("down", profile, "--yes").code == 0
