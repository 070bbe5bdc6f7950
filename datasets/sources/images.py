"""Image files in a folder per class."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import Field as Key

from heliostat.config import Config
from heliostat.datasets.index import Field
from heliostat.datasets.sources import Base, Chunk, Problems
from heliostat.errors import UserError

CHUNK = 1024
SHOWN = 10
"""Files and folders that a message lists."""
SPLIT = re.compile(
    r"(?P<prefix>(?![xy][_-]).*[_ -])?(public|private)?"
    r"(?P<split>([xy][_-])?(train|trn|val|dev|test|eval|holdout|unlabell?ed))(ing|id|idation|uation)?(?-i:[AB])?"
    r"[_ -]?(set|data|split|images|imgs)?[_ -]?\d*",
    re.IGNORECASE,
)
NO_CLASS = {"test", "holdout", "unlabeled", "unlabelled"}
"""Splits that are none of the classes even alone, unlike a train (a vehicle) and what is valid."""
NOT_DATA = {"__macosx", "@eadir", "lost+found", "$recycle.bin", "thumbs.db", "ehthumbs.db", "desktop.ini"}
"""What operating systems leave in folders, beside what is hidden."""


class Images(Base):
    """Column ``image``: uint8 (channels, size, size), scaled with its longer side to ``size`` and padded with black.

    The classes are the names of the folders in alphabetical order, and the images lie directly in them. The split is determined
    by the pixels, so copies of an image under two names are in the same split.
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
        folders = {path.name: _visible(path) for path in _visible(root) if path.is_dir()}
        _check_classes(options.path, folders)
        self._classes = list(folders)
        self._files = [(path, label) for label, inside in enumerate(folders.values()) for path in inside if path.is_file()]
        _check_files(root, folders)
        shape = (options.channels, options.size, options.size)
        self.fields = {"image": Field(dtype="uint8", shape=shape), "label": Field(dtype="int64")}

    def chunks(self) -> Iterator[Chunk]:
        """The images, unless some cannot be read: then all are tried, so that one message has all of those.

        Raises:
            UserError: some are no images.
        """
        broken = Problems(self.options.path, most=SHOWN)
        whole = True
        for start in range(0, len(self._files), CHUNK):
            part = self._files[start : start + CHUNK]
            images = [image for path, _ in part if (image := self._image(path, broken)) is not None]
            whole = whole and len(images) == len(part)
            if whole:
                labels = np.array([label for _, label in part], np.int64)
                yield Chunk([image.tobytes() for image in images], {"image": np.stack(images), "label": labels})
        broken.refuse()

    def files(self) -> list[Path]:
        return [path for path, _ in self._files]

    def meta(self) -> dict[str, Any]:
        return {"classes": self._classes, "white": 255}

    def _image(self, path: Path, broken: Problems) -> npt.NDArray[np.uint8] | None:
        try:
            return read_image(path, self.fields["image"].shape)
        except UserError as error:
            broken.add(error.what, error.fix)
            return None


def _check_files(root: Path, folders: dict[str, list[Path]]) -> None:
    """Raise a UserError for what would be left out or mixed up: images beside the folders or deeper in them, empty classes."""
    problems = Problems(str(root))
    beside = [path.name for path in _visible(root) if path.suffix.lower() in Image.registered_extensions()]
    if beside:
        problems.add(f"images lie beside the folders: {_listed(beside)}", "move each to the folder of its class")
    deeper = [f"{name}/{path.name}" for name, inside in folders.items() for path in inside if path.is_dir()]
    if deeper:
        fix = "set path to a folder whose folders are the classes, or move the images up into the folder of their class"
        problems.add(f"there are folders inside of the classes: {_listed(deeper)}", fix)
    lost = [f"{name}/{path.name}" for name, inside in folders.items() for path in inside if not path.exists()]
    if lost:
        problems.add(f"links to files that do not exist: {_listed(lost)}", "restore the files, or remove the links")
    empty = [name for name, inside in folders.items() if not inside]
    if empty:
        problems.add(f"classes without an image: {_listed(empty)}", "add images, or remove the folders")
    lower = [name.casefold() for name in folders]
    same = [name for name in folders if lower.count(name.casefold()) > 1]
    if same:
        problems.add(f"classes differ only in case: {_listed(same)}", "merge them, or rename all but one")
    problems.refuse()


def _check_classes(path: str, folders: dict[str, list[Path]]) -> None:
    """Raise a UserError if folders are no classes: too few, or splits."""
    found = {name: match for name in folders if (match := SPLIT.fullmatch(name))}
    words = {name: match["split"].lower() for name, match in found.items()}
    if len({*words.values()}) > 1 or any(word in NO_CLASS and not found[name]["prefix"] for name, word in words.items()):
        first = min(words, key=lambda name: words[name] not in ("train", "trn"))
        fix = f"set path to {Path(path) / first}, or merge the folders of each class; the splits are made from all images"
        if len(found) < len(folders):
            fix = f"move them out of {path}; the splits are made from all images"
        raise UserError(f"{path} has the folders {_listed([*found])}, which are splits and not classes", fix)
    if len(folders) < 2:
        inner = [name for name, inside in folders.items() if sum(each.is_dir() for each in inside) > 1]
        fix = f"set path to {Path(path) / inner[0]}" if inner else "add the classes"
        raise UserError(f"{path} has {len(folders)} folders, but needs one per class", fix)


def _visible(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and path.name.lower() not in NOT_DATA]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


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
    except (
        UnidentifiedImageError,
        Image.DecompressionBombError,
        OSError,
        EOFError,
        RuntimeError,
        SyntaxError,
        ValueError,
    ) as error:
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
