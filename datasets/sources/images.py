"""Image files in a folder per class."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import Field as Key

from heliostat.config import Config
from heliostat.datasets.index import SPLITS, Field, SplitName
from heliostat.datasets.sources import Chunk, Problems, Source, hashes_of
from heliostat.datasets.sources.files import File, local_folder, table_files
from heliostat.datasets.sources.image_groups import FOLDER, check_split, places
from heliostat.datasets.splits import CONTENT, WORDS, Split
from heliostat.errors import UserError, some
from heliostat.wording import counted

CHUNK, CHUNK_BYTES = 1024, 8 << 20
"""Images after which a shard may end, and bytes of images that are held at once."""
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


class Images(Source):
    """Column ``image``: uint8 (channels, size, size), scaled with its longer side to ``size`` and padded with black.

    The classes are the names of the folders in alphabetical order, and the images lie directly in them. Folders train,
    validation and test around those of the classes are the splits; without them, and without an option, the pixels determine
    the split, so copies of an image under two names are in the same one.
    """

    name = "images"

    class Options(Config):
        path: str = Key(description="the folder that holds a folder per class")
        size: int = Key(32, ge=1, le=4096, description="the side of the square images, in pixels")
        channels: int = Key(3, ge=1, le=3, description="3 for colour, 1 for grey")
        skip_broken: bool = Key(False, description="true leaves out files that are no images, and counts them")
        split: Split = Key(CONTENT, description="how images are split: by content, stratified, group or column")
        table: str | None = Key(None, description="a csv file with the columns file and split.column")

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        if options.channels == 2:
            raise UserError("dataset.options.channels is 2", "set it to 3 for colour or 1 for grey")
        self._root = root = local_folder(options.path, "give a folder with a folder per class")
        check_split(options.split, options.table)
        self._by_folder = options.split.column == FOLDER
        roots = _roots(root)
        _check_roots(options, roots)
        self._classes = list(_classes(roots["train"], self._by_folder))
        self._found = [
            (path, self._classes.index(name), split)
            for split, part in roots.items()
            for name, inside in _classes(part, self._by_folder).items()
            for path in inside
            if path.is_file()
        ]
        self.split = options.split
        self._by = self._places(roots)
        self._skipped = 0
        shape = (options.channels, options.size, options.size)
        self.fields = {"image": Field(dtype="uint8", shape=shape), "label": Field(dtype="int64")}

    def chunks(self) -> Iterator[Chunk]:
        """The images, unless some cannot be read: then all are tried, so that one message has all of those.

        Raises:
            UserError: some are no images, and are not to be skipped; or all of a class.
        """
        broken = Problems(self.options.path, most=SHOWN)
        self._skipped, found = 0, set[int]()
        most = max(1, CHUNK_BYTES // self.fields["image"].size)
        for first in range(0, len(self._found), CHUNK):
            last = min(first + CHUNK, len(self._found))
            for start in range(first, last, most):
                stop = min(start + most, last)
                read = list(self._read(start, stop, broken))
                found |= {self._found[number][1] for _, number in read}
                self._skipped += stop - start - len(read)
                if self.options.skip_broken or not self._skipped:
                    yield self._chunk(read, start + most >= last)
        if not self.options.skip_broken:
            broken.refuse("leave them out with dataset.options.skip_broken: true")
        if empty := [name for label, name in enumerate(self._classes) if label not in found]:
            raise UserError(
                f"{self.options.path}: classes without an image that can be read: {some(empty, SHOWN)}", "add images"
            )

    def files(self) -> list[File]:
        images = (
            path
            for part in _roots(self._root).values()
            for inside in _classes(part, self._by_folder).values()
            for path in inside
            if path.is_file()
        )
        table = [*table_files(self.options.table, "dataset.options.table")] if self.options.table else []
        return [*(File.local(path, self._name(path)) for path in images), *table]

    def meta(self) -> dict[str, Any]:
        skipped = {"skipped": self._skipped} if self.options.skip_broken else {}
        return {"classes": self._classes, "white": 255, **skipped}

    def description(self) -> dict[str, Any]:
        later = {"skip_broken", "split", "table"}  # what earlier versions did not have, if it is set
        given: dict[str, Any] = self.options.model_dump(mode="json", include=later, exclude_defaults=True)
        return {name: value for name, value in super().description().items() if name not in later} | given

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self._root))

    def _places(self, roots: dict[SplitName, Path]) -> npt.NDArray[Any] | None:
        """What says the split of each image, if that is not its pixels; with folders of splits that is these."""
        if len(roots) == 1:
            return places([self._name(path) for path, *_ in self._found], self.split, self.options.table)
        validation, test = (roots[name].name if name in roots else None for name in SPLITS[1:])
        self.split = Split(by="files", validation=validation, test=test)
        return np.array([-1 if split == "train" else SPLITS.index(split) for *_, split in self._found], np.int64)

    def _chunk(self, read: list[tuple[npt.NDArray[np.uint8], int]], ends: bool) -> Chunk:
        shape = (len(read), *self.fields["image"].shape)
        images = np.stack([image for image, _ in read]) if read else np.empty(shape, np.uint8)
        numbers = [number for _, number in read]
        labels = np.array([self._found[number][1] for number in numbers], np.int64)
        by = None if self._by is None else self._by[numbers]
        return Chunk(hashes_of(image.tobytes() for image in images), {"image": images, "label": labels}, ends, by)

    def _read(self, start: int, stop: int, broken: Problems) -> Iterator[tuple[npt.NDArray[np.uint8], int]]:
        """Some of the images with their numbers, without those that are broken."""
        for number in range(start, stop):
            self.progress(f"reading {self.options.path}", number, len(self._found), "images")
            try:
                yield read_image(self._found[number][0], self.fields["image"].shape), number
            except UserError as error:
                broken.add(error.what, error.fix)


def _roots(root: Path) -> dict[SplitName, Path]:
    """The folders with the folders of the classes: those of the splits, if there are such, else the only one."""
    inside = [path for path in _visible(root) if path.is_dir()]
    found = {WORDS[path.name.lower()]: path for path in inside if path.name.lower() in WORDS}
    are_splits = len(found) == len(inside) > 1 and all(any(each.is_dir() for each in _visible(path)) for path in inside)
    if not are_splits or "train" not in found:
        return {"train": root}
    return {split: found[split] for split in SPLITS if split in found}


def _check_roots(options: Any, roots: dict[SplitName, Path]) -> None:
    """Raise a UserError for what would be left out or mixed up in any of the folders."""
    if len(roots) > 1 and (options.split != CONTENT or options.table):
        shown = ", ".join(path.name for path in roots.values())
        fix = "leave out split and table, or put the images of each class into one folder"
        raise UserError(f"dataset.options.split is set, but {options.path} has the folders {shown}, which are splits", fix)
    by_folder = options.split.column == FOLDER
    train = _classes(roots["train"], by_folder)
    _check_classes(options.path if len(roots) == 1 else str(roots["train"]), train)
    problems = Problems(options.path)
    for split, root in roots.items():
        folders = _classes(root, by_folder)
        _check_files(root, folders, problems, by_folder)
        if others := [name for name in folders if name not in train]:
            problems.add(
                f"{root.name} has the classes {some(others, SHOWN)}, and train has not", "correct their names, or add images"
            )
        if split == "train" or len(roots) == 1:
            continue
        if not any(folders.values()):
            problems.add(f"{root.name} has no image", "add some, or remove the folder")
    problems.refuse()


def _check_files(root: Path, folders: dict[str, list[Path]], problems: Problems, by_folder: bool) -> None:
    """Find what would be left out or mixed up: images beside the folders or deeper in them, empty classes."""
    beside = [path.name for path in _visible(root) if path.suffix.lower() in Image.registered_extensions()]
    if beside:
        problems.add(f"images lie beside the folders: {some(beside, SHOWN)}", "move each to the folder of its class")
    if by_folder and (alone := [f"{name}/{p.name}" for name in folders for p in _visible(root / name) if p.is_file()]):
        problems.add(f"images lie beside the folders of groups: {some(alone, SHOWN)}", "move each to the folder of its group")
    deeper = [f"{name}/{path.name}" for name, inside in folders.items() for path in inside if path.is_dir()]
    if deeper:
        fix = "set path to a folder whose folders are the classes, or move the images up into the folder of their class"
        if not by_folder:
            fix += f"; if they are groups that must stay together, set split: {{by: group, column: {FOLDER}}}"
        problems.add(f"there are folders inside of the classes: {some(deeper, SHOWN)}", fix)
    lost = [f"{name}/{path.name}" for name, inside in folders.items() for path in inside if not path.exists()]
    if lost:
        problems.add(f"links to files that do not exist: {some(lost, SHOWN)}", "restore the files, or remove the links")
    empty = [name for name, inside in folders.items() if not inside]
    if empty:
        problems.add(f"classes without an image: {some(empty, SHOWN)}", "add images, or remove the folders")
    lower = [name.casefold() for name in folders]
    same = [name for name in folders if lower.count(name.casefold()) > 1]
    if same:
        problems.add(f"classes differ only in case: {some(same, SHOWN)}", "merge them, or rename all but one")


def _check_classes(path: str, folders: dict[str, list[Path]]) -> None:
    """Raise a UserError if folders are no classes: too few, or splits."""
    found = {name: match for name in folders if (match := SPLIT.fullmatch(name))}
    words = {name: match["split"].lower() for name, match in found.items()}
    if len({*words.values()}) > 1 or any(word in NO_CLASS and not found[name]["prefix"] for name, word in words.items()):
        first = min(words, key=lambda name: words[name] not in ("train", "trn"))
        fix = f"set path to {Path(path) / first}, or name them train, validation and test, each with a folder per class"
        if len(found) < len(folders):
            fix = f"move them out of {path}, or the others into them: folders train, validation and test are splits"
        raise UserError(f"{path} has the folders {some([*found], SHOWN)}, which are splits and not classes", fix)
    if len(folders) < 2:
        inner = [name for name, inside in folders.items() if sum(each.is_dir() for each in inside) > 1]
        fix = f"set path to {Path(path) / inner[0]}" if inner else "add the classes"
        raise UserError(f"{path} has {counted(len(folders), 'folder')}, but needs one per class, of at least two", fix)


def _classes(root: Path, by_folder: bool) -> dict[str, list[Path]]:
    """What the folders of the classes hold, or with ``by_folder`` the folders of groups in these, by the class."""
    folders = {path.name: _visible(path) for path in _visible(root) if path.is_dir()}
    if not by_folder:
        return folders
    return {name: [path for each in inside if each.is_dir() for path in _visible(each)] for name, inside in folders.items()}


def _visible(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and path.name.lower() not in NOT_DATA]


def read_image(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Read an image file as uint8 of ``shape`` (channels, height, width), with its aspect ratio preserved.

    Raises:
        UserError: the file is not an image that Pillow reads.
    """
    try:
        with Image.open(path) as opened:
            return fitted(ImageOps.exif_transpose(opened), shape)
    except (FileNotFoundError, IsADirectoryError) as error:
        fix = f"give its files: {path}/*" if isinstance(error, IsADirectoryError) else "give the path of an image file"
        raise UserError(f"{path} cannot be read as an image: {error.strerror}", fix) from None
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


def fitted(image: Image.Image, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """An image as uint8 of ``shape`` (channels, height, width), with its aspect ratio preserved."""
    channels, height, width = shape
    canvas = ImageOps.pad(eight_bits(image).convert("RGB" if channels == 3 else "L"), (width, height))
    pixels = np.asarray(canvas, np.uint8)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def eight_bits(image: Image.Image) -> Image.Image:
    """Convert an image to 8 bits per channel; transparent pixels become black."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"its mode {image.mode} has no fixed white")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image
