"""Image classification with a small residual network (He et al. 2016, pre-activation) with group norm."""

from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from heliostat.config import Config
from heliostat.datasets.sources.images import read_image
from heliostat.errors import UserError
from heliostat.workloads.metric import accuracy
from heliostat.workloads.pretrained.backbone import Backbone, create_backbone, load_backbone
from heliostat.workloads.task import Batch, Task, spread

PLAIN = 0.35
"""The mean brightness, from 0 to 1, up to which images have a dark background, and as far from 1 a light one."""
FAINT, BLANK = 0.45, 0.02
"""The least contrast of an image with such a background, as a share of the usual one, and of any image."""


class ImageClassification(Task):
    """Needs the columns image (channels, height, width) and label."""

    class Options(Config):
        width: int = Field(32, ge=8, multiple_of=8, description="channels of the first stage, a multiple of 8")
        stages: int = Field(2, ge=1, le=5, description="stages, each with half the side and twice the channels")
        blocks: int = Field(1, ge=1, description="residual blocks a stage, at least 1")
        dropout: float = Field(0.1, ge=0, lt=1, description="a share from 0 to below 1")
        shift: int = Field(0, ge=0, description="random shift of training images, in pixels, at least 0")
        label_smoothing: float = Field(0.0, ge=0, lt=1, description="a share from 0 to below 1")
        backbone: str | None = Field(None, description="a model such as torchvision:resnet18 or timm:resnet18, or null")
        weights: str | None = Field(None, description="a file with the pretrained weights of the backbone, or null")

        @model_validator(mode="after")
        def _one_model(self) -> Self:
            ignored = {"width", "stages", "blocks", "dropout"} & self.model_fields_set
            if self.backbone and ignored:
                raise ValueError(f"has {', '.join(sorted(ignored))}, which the backbone decides; remove them, or the backbone")
            if self.weights and not self.backbone:
                raise ValueError("has weights, but no backbone; write backbone: torchvision:resnet18, or use start_from")
            return self

    needs = {"image": "uint8/3", "label": "int64"}
    metric, better = "accuracy", "higher"

    def model(self) -> nn.Module:
        options, channels = self.options, self.index.fields["image"].shape[0]
        if options.backbone:
            white = int(self.index.meta.get("white", 255))
            return create_backbone(options.backbone, channels, len(self.index.classes), white)
        return ResNet(
            channels, options.width, options.stages, options.blocks, len(self.index.classes), options.dropout,
            self.index.stats["image"],
        )  # fmt: skip

    def pretrained(self, model: nn.Module) -> None:
        if self.options.weights:
            assert isinstance(model, Backbone)
            load_backbone(model, self.options.weights)

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        if isinstance(model, Backbone):
            return super().blocks(model)
        return [module for module in model.modules() if isinstance(module, Block)]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        images = batch["image"]
        if self.options.shift and model.training:
            images = _shift(images, self.options.shift)
        return F.cross_entropy(model(images), batch["label"], label_smoothing=self.options.label_smoothing)

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits, labels = model(batch["image"]), batch["label"]
        return {"loss": F.cross_entropy(logits, labels), "accuracy": accuracy(logits, labels)}

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"probabilities": model(batch["image"]).float().softmax(1)}

    def read(self, value: str) -> Batch:
        """Reads an image file, scaled to the size and the value range of the dataset.

        Raises:
            UserError: it is no image, or one of a single brightness, or the negative of what the dataset has.
        """
        pixels = read_image(Path(value), self.index.fields["image"].shape)
        white = int(self.index.meta.get("white", 255))
        scaled = (pixels.astype("float32") * white / 255).round()
        stats = self.index.stats["image"]
        check_like(value, scaled / white, stats["mean"][0] / white, stats["std"][0] / white)
        return {"image": torch.from_numpy(scaled.astype("uint8"))[None]}


def check_like(name: str, pixels: npt.NDArray[np.floating[Any]], mean: float, std: float) -> None:
    """Raises a UserError for an image that is unlike those that a model has learnt from.

    Args:
        name: for messages.
        pixels: (channels, height, width), from 0 (black) to 1 (white).
        mean: that of the pixels of the train split, in the same unit.
        std: their standard deviation.
    """
    channels, height, width = pixels.shape
    found, contrast = float(pixels.mean()), float(pixels.std())
    dark = mean < PLAIN
    # Only images with a plain background can be distinguished from their negatives, and have a usual contrast.
    plain = channels == 1 and (dark or mean > 1 - PLAIN)
    learnt, other = ("light on dark", "dark on light") if dark else ("dark on light", "light on dark")
    wanted = f"{'grey' if channels == 1 else 'colour'} images, {f'{learnt}, ' * plain}that fill {width}x{height} pixels"
    if plain and (found > 0.5) == dark and abs(1 - found - mean) < abs(found - mean):
        what = f"is {other} (mean brightness {found:.0%}, and {mean:.0%} in the data of the run)"
        raise UserError(f"{name} {what}", f"invert it: expected are {wanted}")
    if contrast < (FAINT * std if plain else BLANK):
        what = f"is blank, faint or too small (standard deviation {contrast:.0%}, and {std:.0%} in the data of the run)"
        raise UserError(f"{name} {what}", f"crop it, or write thicker: expected are {wanted}")


class ResNet(nn.Module):
    """(samples, channels, height, width) of any number type -> (samples, classes).

    Group norm instead of batch norm, so that a sample's result does not depend on the worker that computes it.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, channels: int, width: int, stages: int, blocks: int, classes: int, dropout: float, stats: dict[str, list[float]]
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(stats["mean"]).view(1, -1, 1, 1))
        self.register_buffer("std", spread(stats).view(1, -1, 1, 1))
        self.stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        body: list[nn.Module] = []
        for stage in range(stages):
            for block in range(blocks):
                outputs = width << stage
                inputs = outputs if block or not stage else outputs // 2
                body.append(Block(inputs, outputs, 2 if stage and not block else 1))
        self.body = nn.Sequential(*body)
        last = width << (stages - 1)
        self.head = nn.Sequential(
            nn.GroupNorm(8, last),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(last, classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        x = (images.to(self.mean.dtype) - self.mean) / self.std
        logits: Tensor = self.head(self.body(self.stem(x)))
        return logits


class Block(nn.Module):
    """Two 3x3 convolutions, each after group norm and ReLU, around a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, inputs), nn.GroupNorm(8, outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = (
            nn.Identity() if inputs == outputs and stride == 1 else nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(x))
        shortcut = x if isinstance(self.shortcut, nn.Identity) else self.shortcut(y)
        y = self.conv2(F.relu(self.norm2(self.conv1(y))))
        total: Tensor = shortcut + y
        return total


def _shift(images: Tensor, most: int) -> Tensor:
    """Shifts each image randomly by up to ``most`` pixels along each axis, padded with 0."""
    count, _, height, width = images.shape
    padded = F.pad(images, (most, most, most, most))
    dy, dx = torch.randint(0, 2 * most + 1, (2, count), device=images.device)
    rows = dy[:, None] + torch.arange(height, device=images.device)
    cols = dx[:, None] + torch.arange(width, device=images.device)
    picked = padded[torch.arange(count, device=images.device)[:, None, None], :, rows[:, :, None], cols[:, None, :]]
    return picked.permute(0, 3, 1, 2)
