"""Trials with several workers on a Ray without a dashboard, whose State API Ray Train uses for its placement groups."""

import json
import tempfile

from tests.conftest import Command, end_group, gone
from tests.tuning.conftest import TASK

SCRIPT = """
import json, time
import ray
from ray.util import placement_group_table
ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=200 << 20)
from heliostat.tuning.config import SweepConfig
from heliostat.tuning.drive import drive
from heliostat.tuning.plan import plan_sweep
train = {
    "task": "toy:Toy", "dataset": {"source": "breast-cancer"}, "workers": 2, "steps": 100, "evaluate_every": 10,
    "checkpoint_every": 10, "optimizer": {"warmup_steps": 0},
}
sweep = SweepConfig(
    name="levels", train=train, space={"model.level": {"choice": [0.9, 0.8, 0.1, 0.2]}}, algorithm="grid",
    scheduler={"kind": "asha", "grace": 0.1, "reduction": 2},
)
result = drive(plan_sweep(sweep, [{"CPU": 4.0, "GPU": 0.0}]))
until = time.monotonic() + 30
while ray.available_resources().get("CPU") != 4 and time.monotonic() < until:
    time.sleep(0.1)
left = [group for group in placement_group_table().values() if group["state"] != "REMOVED"]
print(json.dumps({"states": result.states, "left": left, "free": ray.available_resources().get("CPU")}))
"""


def test_stopped_trials_leave_no_placement_group(command: Command) -> None:
    (command.cwd / "toy.py").write_text(TASK)
    path = f"{command.env['PYTHONPATH']}:{command.cwd}"
    # A short folder of its own: the paths of sockets must be short.
    with tempfile.TemporaryDirectory(prefix="heliostat-ray-", dir="/tmp") as scratch:
        process = Command(command.cwd, {**command.env, "PYTHONPATH": path, "RAY_TMPDIR": scratch}).python("-c", SCRIPT)
        try:
            out, err = process.communicate(timeout=300)
        finally:
            end_group(process)
        gone(command.env)
    assert process.returncode == 0, err
    seen = json.loads(out.splitlines()[-1])
    assert seen["states"]["stopped"] >= 1
    assert sum(seen["states"].values()) == 4
    assert seen["left"] == []
    assert seen["free"] == 4
