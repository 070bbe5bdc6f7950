"""Folders of images as people have them: learnt as they are meant, or refused with all that is odd about them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from heliostat.datasets import Dataset, build
from heliostat.datasets.index import SPLITS
from heliostat.datasets.sources import open_source
from heliostat.datasets.sources.images import read_image
from heliostat.datasets.splits import WORDS, described
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


def built(photos: Path, out: str = "built", **options: Any) -> Dataset:
    return build(open_source("images", {"path": str(photos), "size": 4, **options}), str(photos.parent / out))


def refusal(photos: Path, shard_bytes: int = 1 << 20, **options: Any) -> str:
    out = photos.parent / "out"
    with pytest.raises(UserError) as caught:
        build(open_source("images", {"path": str(photos), "size": 4, **options}), str(out), shard_bytes)
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
    nested = nested and not {name.lower() for name in names} <= {*WORDS}  # those are splits
    for name in names:
        for inner in ("cat", "dog") if nested else ("",):
            images(tmp_path / "photos" / name / inner)
    message = refusal(tmp_path / "photos")
    assert "which are splits and not classes" in message
    fix = (
        f"set path to {tmp_path}/photos/{names[0]}, or name them"
        if "cat" not in names
        else f"move them out of {tmp_path}/photos"
    )
    assert fix in message


@pytest.mark.parametrize(("names", "empty"), [(("train", "val", "test"), ()), (("Train", "Test"), ("validation",))])
def test_folders_of_splits_are_the_splits(tmp_path: Path, names: tuple[str, ...], empty: tuple[str, ...]) -> None:
    for name in names:
        for inner in ("cat", "dog"):
            images(tmp_path / "photos" / name / inner, 40 if name.lower() == "train" else 3)
    dataset = built(tmp_path / "photos")
    assert dataset.index.classes == ["cat", "dog"]
    for name in names[1:]:
        split: Any = WORDS[name.lower()]
        inside = {each.tobytes() for each in dataset.columns(split, 0)["image"]}
        assert inside == {read_image(path, (3, 4, 4)).tobytes() for path in (tmp_path / "photos" / name).rglob("*.png")}
    assert all(dataset.index.rows(split) for split in ("train", *empty))
    assert described(dataset.index.meta["split"]).startswith("by files: ")
    images(tmp_path / "photos" / names[1] / "bird")
    assert f"{names[1]} has the classes bird, and train has not" in refusal(tmp_path / "photos")
    assert "which are splits" in refusal(tmp_path / "photos", split={"by": "stratified"})


def test_images_are_split_by_strata_by_folder_and_by_a_column_of_a_file(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for inner in ("cat", "dog"):
        images(photos / inner, 20)
    index = built(photos, split={"by": "stratified"}).index
    assert [index.rows(split) for split in index.splits] == [28, 6, 6]
    fold = ["train", "train", "val", "test"]
    lines = [f"{inner}/{number}.png,{fold[number % 4]}" for inner in ("cat", "dog") for number in range(20)]
    (tmp_path / "folds.csv").write_text("\n".join(["file,fold", *lines]))
    by_table: Any = {"split": {"by": "column", "column": "fold"}, "table": str(tmp_path / "folds.csv")}
    index = built(photos, "by-column", **by_table).index
    assert [index.rows(split) for split in index.splits] == [20, 10, 10]
    (tmp_path / "folds.csv").write_text("\n".join(["file,fold", *lines[1:39], "dog/19.png,later"]))
    message = refusal(photos, **by_table)
    assert "cat/0.png has no value of 'fold'" in message
    assert "'later', which is no split" in message
    assert "set dataset.options.table" in refusal(photos, split={"by": "group", "column": "patient"})
    assert "by: time, which is not for images" in refusal(photos, split={"by": "time", "column": "day"})


def test_images_of_a_group_of_folders_stay_together(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for number in range(40):
        for at, inner in enumerate(("cat", "dog")):
            folder = photos / inner / f"animal-{number}"
            folder.mkdir(parents=True)
            for each in range(2):
                Image.new("RGB", (4, 4), (number, at, each)).save(folder / f"{each}.png")
    assert "set split: {by: group, column: folder}" in refusal(photos)
    dataset = built(photos, split={"by": "group", "column": "folder"})
    groups = [{*dataset.columns(split, 0)["image"][:, 0, 0, 0].tolist()} for split in SPLITS]
    assert sum(map(len, groups)) == len(set().union(*groups)) == 40
    assert sum(dataset.index.rows(split) for split in SPLITS) == 160


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
    assert "has 1 folder, but needs one per class" in message
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


def test_a_folder_in_place_of_an_image_is_refused_with_its_files(photos: Path) -> None:
    with pytest.raises(UserError, match=rf"fix: give its files: {photos}/cat/\*"):
        read_image(photos / "cat", (3, 8, 8))
