"""Folders of images as people have them: learnt as they are meant, or refused with all that is odd about them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from heliostat.datasets import build
from heliostat.datasets.sources import open_source
from heliostat.errors import UserError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twenty images of each of two classes."""
    for name in ("cat", "dog"):
        images(tmp_path / "photos" / name, 20)
    return tmp_path / "photos"


def images(folder: Path, count: int = 2) -> None:
    folder.mkdir(parents=True)
    pixels = np.random.RandomState(len(str(folder)) + count).randint(0, 255, (count, 4, 4, 3)).astype(np.uint8)
    for number in range(count):
        Image.fromarray(pixels[number]).save(folder / f"{number}.png")


def refusal(photos: Path, shard_bytes: int = 1 << 20) -> str:
    out = photos.parent / "out"
    with pytest.raises(UserError) as caught:
        build(open_source("images", {"path": str(photos), "size": 4}), str(out), shard_bytes)
    assert not out.exists(), "nothing half-written"
    return str(caught.value)


@pytest.mark.parametrize(
    "names",
    [
        ("train", "val", "test"),
        ("training", "validation"),
        ("Train", "Test"),
        ("train_set", "dev"),
        ("cat", "dog", "test"),
        ("trainA", "testB"),
        ("Training", "PrivateTest", "PublicTest"),
        ("x_train", "y_train"),
    ],
)
@pytest.mark.parametrize("nested", [True, False])
def test_splits_are_no_classes(tmp_path: Path, names: tuple[str, ...], nested: bool) -> None:
    for name in names:
        for inner in ("cat", "dog") if nested else ("",):
            images(tmp_path / "photos" / name / inner)
    message = refusal(tmp_path / "photos")
    assert "which are splits and not classes" in message
    fix = f"set path to {tmp_path}/photos/{names[0]}, or merge" if "cat" not in names else f"move them out of {tmp_path}/photos"
    assert fix in message


@pytest.mark.parametrize("error", [RuntimeError, EOFError])
def test_what_a_decoder_raises_names_the_file(photos: Path, error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(image: Image.Image) -> Image.Image:
        raise error("Failed to decode frame 0")

    monkeypatch.setattr("heliostat.datasets.sources.images.ImageOps.exif_transpose", fail)  # as Pillow's AVIF plugin does
    assert f"{photos}/cat/0.png cannot be read as an image: Failed to decode" in refusal(photos)


def test_a_train_is_a_vehicle(tmp_path: Path) -> None:
    for name in ("bus", "train"):
        images(tmp_path / "photos" / name, 20)
    assert build(open_source("images", {"path": str(tmp_path / "photos")}), str(tmp_path / "out")).index.classes == [
        "bus",
        "train",
    ]


def test_what_would_be_left_out_or_mixed_up_is_listed_at_once(photos: Path) -> None:
    for inner in ("poodle", "husky"):
        images(photos / "dogs" / inner)
    images(photos / "Cat")
    (photos / "fish").mkdir()
    (photos / "dog" / "lost.png").symlink_to("/nowhere.png")
    Image.new("RGB", (4, 4)).save(photos / "stray.jpg")
    message = refusal(photos)
    assert "images lie beside the folders: stray.jpg" in message
    assert "there are folders inside of the classes: dogs/husky, dogs/poodle" in message
    assert "links to files that do not exist: dog/lost.png" in message
    assert "classes without an image: fish" in message
    assert "classes differ only in case: Cat, cat" in message


def test_the_folder_inside_is_proposed_where_there_is_one_folder_only(photos: Path) -> None:
    photos.rename(photos.parent / "flowers")
    (photos.parent / "unpacked").mkdir()
    (photos.parent / "flowers").rename(photos.parent / "unpacked" / "flowers")
    message = refusal(photos.parent / "unpacked")
    assert "has 1 folders, but needs one per class" in message
    assert f"set path to {photos.parent}/unpacked/flowers" in message


def test_what_systems_and_notebooks_leave_behind_is_no_class_and_no_image(photos: Path) -> None:
    for place in (photos / ".ipynb_checkpoints", photos / "__MACOSX", photos / "cat" / ".ipynb_checkpoints"):
        images(place)
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._0.png"):
        (photos / "dog" / name).write_text("junk")
    (photos / "README.txt").write_text("beside the classes")
    index = build(open_source("images", {"path": str(photos)}), str(photos.parent / "out")).index
    assert index.classes == ["cat", "dog"]
    assert sum(index.rows(split) for split in index.splits) == 40


@pytest.mark.parametrize("shard_bytes", [1 << 20, 50])
def test_all_files_that_are_no_images_are_listed_at_once(
    photos: Path, shard_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heliostat.datasets.sources.images.CHUNK", 8)  # so that shards are written before the first is met
    whole = (photos / "dog" / "7.png").read_bytes()
    (photos / "dog" / "7.png").write_bytes(whole[: len(whole) // 2])
    (photos / "dog" / "empty.jpg").touch()
    (photos / "dog" / "labels.txt").write_text("cat, dog")
    message = refusal(photos, shard_bytes)
    assert "has 3 problems" in message
    assert all(f"{photos}/dog/{name} cannot be read as an image" in message for name in ("7.png", "empty.jpg", "labels.txt"))
    for number in range(20):
        (photos / "dog" / f"{number}.xml").write_text("annotation")
    assert "and 13 more" in refusal(photos, shard_bytes)
