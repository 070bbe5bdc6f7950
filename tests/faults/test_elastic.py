"""Nodes are lost and added: the run restarts on the rest, scales up again, and no sample is lost or repeated."""

import json
import re
from contextlib import suppress
from pathlib import Path

import pytest

from heliostat.workloads.run.lease import LEASE
from tests.conftest import wait_for
from tests.faults.conftest import Breakable, Seen, ended, head, kill, samples_by_step


@pytest.fixture
def slowed(tmp_path: Path) -> Path:
    """A run with ``model.slowed`` of this file does not end before the test deletes it, when what it is to meet was seen."""
    path = tmp_path / "slowed"
    path.touch()
    return path


def test_from_two_workers_to_one_and_back_with_the_same_samples_in_each_step(
    breakable: Breakable, undisturbed: Seen, slowed: Path, tmp_path: Path
) -> None:
    options = (f"model.samples={tmp_path}", f"model.slowed={slowed}")
    process = breakable.train("elastic", "workers=[1,4]", "grow_seconds=2", *options)
    run = breakable.seen("elastic")
    run.trains(2)
    with breakable.without_autoscaler():  # else the next attempt may have two workers again
        before = len(run.starts)
        kill(breakable.raylet(run.starts[-1]["workers"][1]["node"]))
        run.trains(1, after=before)
        before = len(run.starts)
    run.trains(2, after=before)
    slowed.unlink()
    code, printed = ended(process)
    assert code == 0, printed
    sizes = [len(start["workers"]) for start in run.starts]
    assert [size for n, size in enumerate(sizes) if sizes[n - 1 : n] != [size]][-3:] == [2, 1, 2]
    assert re.search("was lost with its node|does not respond|lost its connection to another worker", printed)
    assert "more workers fit" in printed
    expected = samples_by_step(Path(undisturbed.place.path).parent.parent / "samples")
    assert samples_by_step(tmp_path) == expected
    assert list(expected) == list(range(400))
    # Sums of floats in another order: the same up to rounding, which training amplifies from step to step.
    assert run.losses.keys() == undisturbed.losses.keys()
    assert max(abs(run.losses[step] - undisturbed.losses[step]) for step in run.losses if step <= 300) < 1e-2


def test_a_drained_node_loses_no_step_and_a_second_driver_is_refused(
    breakable: Breakable, undisturbed: Seen, slowed: Path
) -> None:
    options = ("max_failures=0", f"model.slowed={slowed}")
    process = breakable.train("drained", *options)
    run = breakable.seen("drained")
    run.trains(2)
    owner = json.loads(run.place.read(LEASE))
    code, printed = ended(breakable.train("drained", *options))
    assert code == 2
    assert f"run 'drained' has been driven by {owner['user']}'s process {owner['pid']} on {owner['host']}" in printed
    assert "last heartbeat" in printed
    assert "Traceback" not in printed
    node = run.starts[-1]["workers"][0]["node"]
    breakable.drain(node)
    wait_for(lambda: any(a["event"] == "left" for a in run.attempts), "the workers to leave")
    slowed.unlink()
    run.trains(2, after=1)
    code, printed = ended(process)
    assert code == 0, printed
    (left,) = [a for a in run.attempts if a["event"] == "left"]
    assert (left["reason"], left["failures"]) == ("drain", 0)
    notice = next(e for e in run.events if e["event"] == "drain")
    assert run.starts[1]["step"] == notice["step"] == left["saved"]
    assert node not in [worker["node"] for worker in run.starts[1]["workers"]]
    assert f"a node is being drained; saved at step {notice['step']}" in printed
    assert notice["seconds"] > 0
    print(f"from the notice to the saved checkpoint: {notice['seconds']:.2f} s")
    assert run.losses == undisturbed.losses
    assert run.measured == undisturbed.measured


def test_a_drain_of_the_head_saves_the_run_and_the_same_command_resumes_it(
    breakable: Breakable, undisturbed: Seen, slowed: Path
) -> None:
    options = (f"model.slowed={slowed}",)
    process = breakable.train("headless", *options)
    run = breakable.seen("headless")
    run.trains(2)
    breakable.drain(head(breakable))
    code, printed = ended(process)
    slowed.unlink()
    assert code != 0, printed
    (stopped,) = [event for event in run.events if event["event"] == "stopped"]
    # Ray ends a drained head as soon as nothing runs on it, and with it the way to the last lines of the job's output.
    assert run.starts[-1]["step"] < stopped["step"] < 400
    wait_for(lambda: not breakable.workers(), "the last worker to end")
    for process_of_the_head in breakable.processes("gcs_server"):  # the rest of its machine goes, too
        with suppress(ProcessLookupError):  # by itself
            kill(process_of_the_head)
    wait_for(lambda: not breakable.processes("start", "--head"), "the rest of the head to end")
    breakable.up()
    code, printed = ended(breakable.train("headless", *options))
    assert code == 0, printed
    assert run.starts[-1]["step"] == stopped["step"]
    assert run.losses == undisturbed.losses
