"""Reads files of weights, as torch.save and safetensors write them, and as other frameworks nest them."""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from heliostat.errors import UserError

NESTED = ("state_dict", "model_state_dict", "model", "MODEL_STATE")
"""Where files of other frameworks have the state of the model."""
WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that DistributedDataParallel and torch.compile give all names."""


def read_tensors(path: str, key: str, expected: str) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU; a file cannot run code.

    Args:
        path: of the file, relative to the working directory.
        key: of the config that has the path, for messages.
        expected: what it may name, for messages.

    Raises:
        UserError: there is no such file, or it has no dictionary of tensors.
    """
    place = Path(path).expanduser()
    if not place.is_file():
        raise UserError(f"{key} is {path!r}, but there is no file {place.absolute()}", f"give the path of {expected}")
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            found: Any = load_file(place)
        else:
            found = torch.load(place, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise _unusable(path, key, str(error).strip().splitlines()[0]) from None
    except Exception as error:  # safetensors has an exception of its own, derived from Exception
        raise _unusable(path, key, str(error)) from None
    for name in NESTED:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()) or not found:
        raise _unusable(path, key, "it holds no dictionary of tensors")
    tensors: dict[str, Tensor] = found
    for prefix in WRAPPERS:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _unusable(path: str, key: str, reason: str) -> UserError:
    return UserError(f"{key} is {path!r}, which cannot be used: {reason}", "save it with torch.save(model.state_dict(), ...)")
