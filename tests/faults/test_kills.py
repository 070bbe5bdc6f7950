"""kill -9 of each part of a running job: it goes on, or the same command does, and the result is the undisturbed run's."""

import json

import pytest

from tests.conftest import wait_for
from tests.faults.conftest import Breakable, Seen, ended, head, kill
from workloads.lease import LEASE

SLOW = "model.seconds=0.06"
"""Ray notices only after 15 s that a node is gone, and its workers train on meanwhile."""


@pytest.mark.parametrize("victim", ["worker", "raylet"])
def test_the_run_goes_on_by_itself(breakable: Breakable, undisturbed: Seen, victim: str) -> None:
    process = breakable.train(victim, SLOW)
    run = breakable.seen(victim)
    run.trains(2)
    kill(breakable.workers()[0] if victim == "worker" else breakable.raylet(run.starts[0]["workers"][1]["node"]))
    run.trains(2, after=1)
    code, told = ended(process)
    assert code == 0, told
    (failed,) = [a for a in run.attempts if a["event"] == "failed"]
    assert ("was killed, by a signal" if victim == "worker" else "was lost with its node") in failed["reason"]
    assert f"goes on from step {run.starts[1]['step']} (failure 1 of 5)" in told
    assert run.losses == undisturbed.losses
    assert run.measured == undisturbed.measured
    assert not (run.folder / LEASE).exists()


@pytest.mark.parametrize("victim", ["driver", "head"])
def test_the_same_command_goes_on(breakable: Breakable, undisturbed: Seen, victim: str) -> None:
    process = breakable.train(victim, SLOW)
    run = breakable.seen(victim)
    run.trains(2)
    kill(breakable.driver() if victim == "driver" else breakable.raylet(head(breakable)))
    if victim == "driver":
        code, told = ended(process)
        assert code != 0
    else:
        wait_for(lambda: process.poll() is not None, "the command to notice", 180)
        code, told = ended(process)
        assert code in (1, 75), told
    breakable.up()
    code, told = ended(breakable.train(victim, SLOW))
    assert code == 0, told
    assert len(run.starts) == 2
    assert run.starts[1]["step"] > 0
    assert run.losses == undisturbed.losses
    assert run.measured == undisturbed.measured


def test_a_second_driver_is_refused_while_the_first_lives(breakable: Breakable) -> None:
    process = breakable.train("owned", "model.seconds=0.05")
    run = breakable.seen("owned")
    run.trains(2)
    owner = json.loads((run.folder / LEASE).read_text())
    code, told = ended(breakable.train("owned", "model.seconds=0.05"))
    assert code == 2
    assert f"run 'owned' is being driven by {owner['user']}'s process {owner['pid']} on {owner['host']}" in told
    assert "last sign of life" in told
    assert "Traceback" not in told
    code, told = ended(process)
    assert code == 0, told
