"""A worker that the others wait for is named while the run trains, in its output and by `heliostat why`."""

import re
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, Command, clean_environment, end_group

TASK = """
import time
import torch.distributed as dist
from heliostat.workloads.tasks.image_classification import ImageClassification


class Slow(ImageClassification):
    def loss(self, model, batch):
        if dist.is_initialized() and dist.get_rank() == 1:  # not when it is tried before the start
            time.sleep(0.3)
        return super().loss(model, batch)
"""


@pytest.mark.accept
def test_a_worker_that_computes_for_longer_is_named(tmp_path: Path) -> None:
    (tmp_path / "slowtask.py").write_text(TASK)
    config = (ROOT / "workloads/configs/digits.yaml").read_text().replace("image-classification", "slowtask:Slow")
    (tmp_path / "slow.yaml").write_text(config)
    command = Command(tmp_path, clean_environment(tmp_path / "home"))
    process = command.start("train", "slow.yaml", "--set", "name=slow", "--set", "log_every=5")
    assert process.stderr is not None
    try:
        began, said = None, ""
        for line in process.stderr:
            if "samples/s" in line and began is None:
                began = time.monotonic()
            if re.search(r"worker 1 on \S+ is slow: it takes", line):
                said = line
                break
        assert said, f"nothing of a slow worker before {line}"
        print(f"named {time.monotonic() - (began or 0):.0f} s after the first steps: {said}")
        answer = command("why", "slow")
        assert answer.code == 0, answer.err
        assert "run slow  running" in answer.out
        assert "it computes for longer" in answer.out
        assert "see what else runs on" in answer.out
    finally:
        end_group(process)
