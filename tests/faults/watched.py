"""A task for the tests of faults: the digits, slowed down, which writes down the samples that enter each step."""

import hashlib
import json
import os
import socket
import time
import uuid

import torch
import torch.distributed as dist
from torch import Tensor, nn

from heliostat.workloads.tasks.image_classification import ImageClassification


class Watched(ImageClassification):
    """Options as those of image-classification, and how it goes wrong."""

    class Options(ImageClassification.Options):
        seconds: float = 0.0
        """How much longer each step takes."""
        alone: float = 0.0
        """The same while there is only one worker, if it is to be another."""
        fail_at: int = -1
        """The step whose loss raises ``error``, every time."""
        error: str = "RuntimeError"
        hang_at: int = -1
        """The step at which rank 1 does not come back."""
        samples: str = ""
        """The folder to write the samples of each step to."""
        held: str = ""
        """A file; while it is there, no step after the 20th begins."""
        slowed: str = ""
        """A file; while it is there, each step after the 20th takes half a second more; it still sees notices."""

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        if model.training:
            self._note(batch)
        return super().loss(model, batch)

    def _note(self, batch: dict[str, Tensor]) -> None:
        if not dist.is_initialized():
            return  # the try before the start
        step, rank = seed_of()
        while step >= 20 and self.options.held and os.path.exists(self.options.held):
            time.sleep(0.05)
        if step >= 20 and self.options.slowed and os.path.exists(self.options.slowed):
            time.sleep(0.5)
        ids = [hashlib.sha1(image.numpy().tobytes()).hexdigest()[:12] for image in batch["image"]]
        if self.options.samples:
            os.makedirs(self.options.samples, exist_ok=True)
            with open(f"{self.options.samples}/{socket.gethostname()}-{os.getpid()}.jsonl", "a") as file:
                file.write(json.dumps({"step": step, "attempt": attempt(), "time": time.time(), "ids": ids}) + "\n")
        alone = dist.get_world_size() == 1
        time.sleep(self.options.alone if alone and self.options.alone else self.options.seconds)
        if step == self.options.fail_at:
            raise {"RuntimeError": RuntimeError, "TypeError": TypeError}[self.options.error]("this step never works")
        if step == self.options.hang_at and rank == 1:
            time.sleep(3600)


def attempt() -> str:
    """The same for all ranks of a process group, and another for the next one."""
    store = dist.distributed_c10d._get_default_store()
    return store.compare_set("watched", "", uuid.uuid4().hex).decode()


def seed_of() -> tuple[int, int]:
    """The step and the rank of the caller, from how the loop seeds each step (the run's own seed is 0)."""
    seed = torch.initial_seed()
    return seed // 4099, seed % 4099
