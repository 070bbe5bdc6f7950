"""Image files in a folder per class."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import Field as Key

from heliostat.config import Config
from heliostat.datasets.index import Field
from heliostat.datasets.sources import Base, Chunk
from heliostat.errors import UserError

CHUNK = 1024


class Images(Base):
    """Column ``image``: uint8 (channels, size, size), scaled with its longer side to ``size`` and padded with black.

    The classes are the names of the folders in alphabetical order. The split is determined by the pixels, so copies of an
    image under two names are in the same split.
    """

    name = "images"

    class Options(Config):
        path: str = Key(description="the folder that holds a folder per class")
        size: int = Key(32, ge=1, le=4096, description="the side of the square images, in pixels")
        channels: int = Key(3, ge=1, le=3, description="3 for colour, 1 for grey")

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        if options.channels == 2:
            raise UserError("dataset.options.channels is 2", "set it to 3 for colour or 1 for grey")
        root = Path(os.path.expanduser(options.path))
        if not root.is_dir():
            raise UserError(f"dataset.options.path {options.path} is not a folder", "give a folder with a folder per class")
        self._classes = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        if len(self._classes) < 2:
            raise UserError(f"{options.path} has {len(self._classes)} folders, but needs one per class", "add the classes")
        self._files = [
            (path, label)
            for label, folder in enumerate(self._classes)
            for path in sorted((root / folder).rglob("*"))
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts)
        ]
        shape = (options.channels, options.size, options.size)
        self.fields = {"image": Field(dtype="uint8", shape=shape), "label": Field(dtype="int64")}

    def chunks(self) -> Iterator[Chunk]:
        for start in range(0, len(self._files), CHUNK):
            part = self._files[start : start + CHUNK]
            images = np.stack([read_image(path, self.fields["image"].shape) for path, _ in part])
            labels = np.array([label for _, label in part], np.int64)
            yield Chunk([image.tobytes() for image in images], {"image": images, "label": labels})

    def files(self) -> list[Path]:
        return [path for path, _ in self._files]

    def meta(self) -> dict[str, Any]:
        return {"classes": self._classes, "white": 255}


def read_image(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Read an image file as uint8 of ``shape`` (channels, height, width), with its aspect ratio preserved.

    Raises:
        UserError: the file is not an image that Pillow reads.
    """
    channels, height, width = shape
    try:
        with Image.open(path) as opened:
            upright = _eight_bits(ImageOps.exif_transpose(opened))
            canvas = ImageOps.pad(upright.convert("RGB" if channels == 3 else "L"), (width, height))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} cannot be read as an image: {error}", "remove it, or convert it to PNG or JPEG") from None
    pixels = np.asarray(canvas, np.uint8)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _eight_bits(image: Image.Image) -> Image.Image:
    """Convert an image to 8 bits per channel; transparent pixels become black."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"its mode {image.mode} has no fixed white")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image
