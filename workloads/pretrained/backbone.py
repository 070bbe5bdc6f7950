"""Models of torchvision and timm for images, which are extras, with pretrained weights from a file."""

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from heliostat.config import nearest
from heliostat.errors import UserError, some
from heliostat.workloads.pretrained.weight_files import read_tensors

LIBRARIES = ("torchvision", "timm")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of the three channels, from 0 to 1, with which such models are trained."""


class Backbone(nn.Module):
    """(samples, channels, height, width), uint8 -> (samples, classes); images are scaled as the pretrained model had them."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, white: int) -> None:
        super().__init__()
        config: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}  # timm's
        for name, default in zip(("mean", "std"), IMAGENET, strict=True):
            self.register_buffer(name, torch.tensor(config.get(name, default)).view(1, -1, 1, 1) * white, persistent=False)
        self.backbone = model

    def forward(self, images: Tensor) -> Tensor:
        colour = images.expand(-1, 3, -1, -1)
        logits: Tensor = self.backbone((colour.to(self.mean.dtype) - self.mean) / self.std)
        return logits


def create_backbone(name: str, channels: int, classes: int, white: int) -> Backbone:
    """A new model, such as ``torchvision:resnet18`` or ``timm:vit_tiny_patch16_224``, for so many classes.

    Raises:
        UserError: there is no such model; the library is not installed; the images have two channels, or more than three.
    """
    library, _, model = name.partition(":")
    if library not in LIBRARIES or not model:
        raise UserError(f"model.backbone is {name!r}", "write torchvision:NAME or timm:NAME, such as torchvision:resnet18")
    if channels not in (1, 3):
        raise UserError(
            f"model.backbone is {name!r}, but the images have {channels} channels", "build them with channels 1 or 3"
        )
    try:
        loaded: Any = importlib.import_module("torchvision.models" if library == "torchvision" else "timm")
    except ModuleNotFoundError:
        raise UserError(
            f"model.backbone is {name!r}, but {library} is not installed",
            f"pip install 'heliostat[vision]'; on a cluster, put it into the image, or write requirements: [{library}]",
        ) from None
    known = loaded.list_models()
    if model not in known:
        raise UserError(f"model.backbone is {name!r}, which {library} does not have", nearest(model, known))
    create = loaded.get_model if library == "torchvision" else loaded.create_model
    return Backbone(create(model, num_classes=classes), white)


def load_backbone(model: Backbone, path: str) -> None:
    """Loads a file of weights (``.pth``, ``.safetensors``, ...) into the backbone; a head of other classes stays new.

    Raises:
        UserError: there is no such file, or it is of another model.
    """
    tensors = read_tensors(path, "model.weights", "a file of weights")
    own = model.backbone.state_dict()
    left = [name for name in own if name not in tensors or tensors[name].shape != own[name].shape]
    # The head: the last linear layer, or two where a model has an auxiliary one.
    heads = {name.rpartition(".")[0] for name in own if own[name].ndim == 2 and name in left}
    other = [name for name in left if name.rpartition(".")[0] not in heads]
    if other or len(heads) > 2:
        raise UserError(
            f"the weights in {Path(path).expanduser()} are not those of the model: {some(left, 8)} are missing there, or of "
            "another shape",
            "give the weights of the model that model.backbone names",
        )
    model.backbone.load_state_dict({**own, **{name: tensors[name] for name in own if name not in left}})
