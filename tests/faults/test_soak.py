"""Many faults at random moments: the run is finished, its result is the undisturbed run's, and nothing of it is left.

Its storage is an object store that drops connections all the time, and that is one of the faults. ``make soak`` runs it. The
seed is printed, and ``SOAK_SEED`` repeats its faults.
"""

import os
import random
import subprocess
import time
from collections.abc import Callable

import pytest

from heliostat.workloads.run.lease import LEASE
from tests.conftest import wait_for
from tests.faults.conftest import CONFIG, Breakable, Seen, assert_same_weights, ended, head, kill
from tests.outage import Proxy

FAULTS = int(os.environ.get("SOAK_FAULTS", "2"))
LONG = (f"steps={400 + 400 * FAULTS}", "max_failures=20", "model.seconds=0.02", "evaluate_every=1000")
KINDS = ("store", "driver", "worker", "raylet", "head", "drain")
DROPPED = 0.02
"""The share of the connections to the store that are dropped, always."""


class Soak:
    """A run that is broken again and again, and started again by the same command when its driver is gone."""

    def __init__(self, cluster: Breakable, store: Proxy, dice: random.Random) -> None:
        self.cluster, self.store, self.dice = cluster, store, dice
        self.store.fault = DROPPED
        self.run = Seen.at(store.uri("soak/soaked").replace(store.address, store.upstream))
        self.process = self.start()

    def start(self) -> "subprocess.Popen[str]":
        return self.cluster.train("soaked", *LONG, f"storage={self.store.uri('soak')}")

    def goes_on(self, starts: int) -> None:
        """Wait until the run trains after a fault, in that start or a later one; a driver that has ended is started again."""
        failed = time.time()

        def at_work() -> bool:
            if self.process.poll() is not None:
                ended(self.process)
                self.cluster.up()
                self.process = self.start()
            found = self.run.starts
            since = max(failed, found[-1]["time"])
            return len(found) >= starts and any(r["time"] > since for r in self.run.journal("metrics.jsonl"))

        wait_for(at_work, "the run to go on")

    def fault(self, kind: str) -> None:
        if kind == "store":  # no worker ends
            self.store.break_down(self.dice)
            return self.goes_on(len(self.run.starts))
        starts = len(self.run.starts) + 1
        nodes = [worker["node"] for worker in self.run.starts[-1]["workers"]]
        faults: dict[str, Callable[[], None]] = {
            "worker": lambda: kill(self.dice.choice(self.cluster.workers())),
            "raylet": lambda: kill(self.cluster.raylet(self.dice.choice(nodes))),
            "drain": lambda: self.cluster.drain(self.dice.choice(nodes)),
            "driver": lambda: kill(self.cluster.driver()),
            "head": lambda: kill(self.cluster.raylet(head(self.cluster))),
        }
        faults[kind]()
        self.goes_on(starts)


@pytest.mark.soak
def test_faults_at_random_moments_change_nothing(breakable: Breakable, calm: Seen, proxy: Proxy) -> None:
    seed = int(os.environ.get("SOAK_SEED", time.time_ns() % 10**6))
    print(f"SOAK_SEED={seed} SOAK_FAULTS={FAULTS}")
    dice = random.Random(seed)
    soak = Soak(breakable, proxy, dice)
    soak.run.trains(2)
    for number in range(FAULTS):
        time.sleep(dice.uniform(0.0, 4.0))
        kind = KINDS[number] if number < len(KINDS) else dice.choice(KINDS)
        began = time.monotonic()
        soak.fault(kind)
        print(f"{number + 1:>3} {kind:<7} trains again after {time.monotonic() - began:.1f} s, step {soak.run.step}")
    code, output = ended(soak.process, 600)
    assert code == 0, output
    assert soak.run.losses == calm.losses
    assert soak.run.measured == calm.measured
    assert soak.run.result()["metrics"] == calm.result()["metrics"]
    assert_same_weights(soak.run, calm)
    assert not soak.run.place.exists(LEASE)
    wait_for(lambda: not breakable.workers(), "the last worker to end")


@pytest.fixture(scope="module")
def calm(breakable: Breakable) -> Seen:
    """The same run on the same cluster, undisturbed, without the slowness."""
    assert "seconds: 0.01" in CONFIG
    code, output = ended(breakable.train("calm", *LONG[:2], "model.seconds=0", LONG[3]))
    assert code == 0, output
    return breakable.seen("calm")
