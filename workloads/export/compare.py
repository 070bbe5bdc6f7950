"""Loads what was exported in a process of its own, without Heliostat, and compares its outputs with those of the run."""

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from heliostat.errors import UserError
from heliostat.wording import agreeing, counted
from heliostat.workloads.task import Batch

SIZES = (1, 7, 256)
"""Samples of the first batches, and of all others: none is that of the example."""
RELATIVE = 1e-4
"""The largest difference, as a share of the largest output."""
SHOWN = 5
Arrays = dict[str, npt.NDArray[Any]]

START = """
import sys
import numpy
sys.modules["heliostat"] = None  # so that an import of it fails
folder, given, result, *places = sys.argv[1:]
sys.path[:0] = [folder]
sys.path += places
arrays = dict(numpy.load(given))
"""
RUN = """
from loader import Model
model, sizes, outputs, start = Model(folder), [*SIZES], [], 0
total = len(next(iter(arrays.values())))
while start < total:
    size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
    outputs.append(model.run({name: values[start : start + size] for name, values in arrays.items()}))
    start += size
numpy.savez(result, **{name: numpy.concatenate([each[name] for each in outputs]) for name in outputs[0]})
""".replace("SIZES", str(SIZES))
WEIGHTS = """
from safetensors import safe_open
import torch
with safe_open(folder + "/model.safetensors", "pt") as file:
    state = {name: file.get_tensor(name) for name in file.keys()}
numpy.savez(result, **{name: value.float().numpy() for name, value in state.items()})
"""
HF = """
import torch, transformers
config = transformers.AutoConfig.from_pretrained(folder)
model = getattr(transformers, config.architectures[0]).from_pretrained(folder).eval()
found = []
with torch.no_grad():
    for start in range(len(next(iter(arrays.values())))):
        given = {name: torch.from_numpy(values[start : start + 1]) for name, values in arrays.items()}
        outputs = model(**given)
        found.append(next(each for each in outputs.to_tuple() if isinstance(each, torch.Tensor)).float().numpy())
numpy.savez(result, output=numpy.concatenate(found))
"""


def run_alone(program: str, folder: Path, arrays: Mapping[str, Tensor]) -> Arrays:
    """The outputs of an exported model, computed by a fresh process that cannot import Heliostat.

    Raises:
        UserError: the process failed; with its last lines.
    """
    with tempfile.TemporaryDirectory() as place:
        given, result = Path(place, "given.npz"), Path(place, "result.npz")
        np.savez(given, allow_pickle=False, **{name: values.numpy() for name, values in arrays.items()})
        places = [each for each in sys.path if each.endswith(("site-packages", "dist-packages"))]
        command: list[str | Path] = [sys.executable, "-I", "-c", START + program, folder, given, result, *places]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, errors="replace")
        if done.returncode:
            lines = "".join(f"\n  | {line}" for line in done.stderr.strip().splitlines()[-SHOWN:])
            raise UserError(f"what was exported does not run by itself, so nothing is kept:{lines}",
                            "leave out what needs code of yours or of Heliostat, or --to safetensors")  # fmt: skip
        with np.load(result) as found:
            return dict(found)


@torch.no_grad()
def largest_difference(wanted: Mapping[str, Tensor], found: Mapping[str, npt.NDArray[Any]]) -> float:
    """The largest difference of two sets of outputs, each as a share of the largest value of its output.

    Raises:
        UserError: it is above the tolerance, or there are other outputs; or classes differ in more than a thousandth.
    """
    problems, most = [], 0.0
    for name, values in wanted.items():
        other = torch.from_numpy(found[name]) if name in found else None
        if other is None or other.shape != values.shape:
            problems.append(f"{name} is {'missing' if other is None else f'of shape {tuple(other.shape)}'}")
        elif not values.is_floating_point():
            differing = int((other != values).sum())
            problems += (
                [f"{differing:,} of {counted(values.numel(), 'value')} of {name} {agreeing(differing, 'differ')}"]
                if differing * 1000 > values.numel()
                else []
            )
        else:
            share = _share(values.double(), other.double())
            most = max(most, share)
            problems += [f"{name} differs by {share:.1e} of its largest value"] if not share <= RELATIVE else []
    if problems:
        raise UserError(
            f"the exported model computes other outputs than the run, so nothing is kept: {'; '.join(problems)}",
            "look for what depends on the number of samples, or on the device; or --to safetensors",
        )
    return most


def _share(one: Tensor, other: Tensor) -> float:
    """NaN where one of the two is NaN."""
    gone = one.isnan() & other.isnan()
    one, other = one.masked_fill(gone, 0), other.masked_fill(gone, 0)
    return float((one - other).abs().max() / one.abs().max().clamp(min=1e-30)) if one.numel() else 0.0


def parts(batch: Batch, size: int = SIZES[-1]) -> Sequence[Batch]:
    """A batch in smaller ones."""
    total = len(next(iter(batch.values())))
    return [{name: values[start : start + size] for name, values in batch.items()} for start in range(0, total, size)]
