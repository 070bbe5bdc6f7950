import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from heliostat.datasets import Dataset, build
from heliostat.datasets.index import SPLITS
from heliostat.datasets.sources import open_source
from heliostat.datasets.sources.images import read_image
from heliostat.datasets.sources.text import decode, encode
from heliostat.errors import UserError
from tests.conftest import ROOT


def all_rows(dataset: Dataset) -> dict[str, np.ndarray]:
    parts = [dataset.take(split, np.arange(dataset.index.rows(split))) for split in SPLITS]
    return {name: np.concatenate([part[name] for part in parts]) for name in dataset.index.fields}


def test_digits_are_the_1797_of_uci(tmp_path: Path) -> None:
    dataset = build(open_source("digits", {}), str(tmp_path / "d"))
    rows = all_rows(dataset)
    assert sum(dataset.index.rows(split) for split in SPLITS) == 1797
    assert np.bincount(rows["label"]).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert (rows["image"].max(), rows["image"].shape[1:]) == (16, (1, 8, 8))
    assert dataset.verify() == []


def test_the_same_input_gives_the_same_fingerprint_and_shard_size_does_not_change_the_samples(tmp_path: Path) -> None:
    source = open_source("digits", {})
    one, two = build(source, str(tmp_path / "1")), build(open_source("digits", {}), str(tmp_path / "2"))
    assert one.index.fingerprint == two.index.fingerprint
    small = build(source, str(tmp_path / "3"), shard_bytes=5000)
    assert len(small.index.splits["train"]) > 10
    assert all((all_rows(small)[name] == all_rows(one)[name]).all() for name in one.index.fields)
    assert small.index.stats["image"]["mean"] == pytest.approx(one.index.stats["image"]["mean"])


def test_taking_samples_across_shards_gives_the_samples_asked_for(tmp_path: Path) -> None:
    whole, cut = (build(open_source("digits", {}), str(tmp_path / str(size)), size) for size in (1 << 20, 3000))
    ids = np.random.RandomState(0).permutation(whole.index.rows("train"))[:300]
    for name in whole.index.fields:
        assert (whole.take("train", ids)[name] == cut.take("train", ids)[name]).all()


def test_a_sample_stays_in_its_split_when_others_are_added(tmp_path: Path) -> None:
    def table(rows: int) -> Dataset:
        data = {"x": [float(i) for i in range(rows)], "y": ["a", "b"] * (rows // 2)}
        pq.write_table(pa.table(data), tmp_path / f"{rows}.parquet")
        return build(
            open_source("table", {"path": str(tmp_path / f"{rows}.parquet"), "target": "y"}), str(tmp_path / f"d{rows}")
        )

    few, many = table(200), table(1000)
    for split in SPLITS:
        old = set(few.take(split, np.arange(few.index.rows(split)))["features"][:, 0])
        assert old == {x for x in many.take(split, np.arange(many.index.rows(split)))["features"][:, 0] if x < 200}


KILLED = """
import os, signal, sys
from heliostat.datasets import build
from heliostat.datasets.sources import open_source
from heliostat.folder import Folder

left, write = int(sys.argv[3]), Folder.write

def counted(folder, name, data):
    global left
    left -= 1
    if left < 0:
        with folder.writing(name) as file:
            file.write(data[: len(data) // 2])
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    write(folder, name, data)

Folder.write = counted
build(open_source("text", {"path": sys.argv[1], "pattern": "*.txt"}), sys.argv[2], shard_bytes=4000)
"""


def test_a_killed_build_looks_unfinished_and_the_next_one_goes_on_with_its_shards_and_leaves_no_others(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number}.txt").write_text("\n".join(f"{number} {line} {'x' * 200}" for line in range(25)))
    out, options = tmp_path / "out", {"path": str(tmp_path), "pattern": "*.txt"}
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(out), "20"], cwd=ROOT)
    assert ended.returncode == -signal.SIGKILL
    with pytest.raises(UserError, match="did not finish"):
        Dataset.open(str(out))
    whole = sorted(out.glob("*.arrow"))
    assert (len(whole), len([*out.iterdir()])) == (20, 21)
    damaged, *right = whole
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    (out / "train-99999.arrow").write_bytes(b"of another build")
    (out / "notes.txt").write_text("of the user")
    before = [path.stat().st_ino for path in right]
    again = build(open_source("text", options), str(out), shard_bytes=4000)
    assert [path.stat().st_ino for path in right] == before
    assert again.verify() == []
    shards = {shard.file for split in again.index.splits.values() for shard in split}
    assert {path.name for path in out.iterdir()} == {*shards, "index.json", "notes.txt"}
    assert again.index.fingerprint == build(open_source("text", options), str(tmp_path / "other"), 4000).index.fingerprint


@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_verify_finds_every_kind_of_damage(tmp_path: Path, damage: str) -> None:
    dataset = build(open_source("digits", {}), str(tmp_path / "d"))
    shard = tmp_path / "d" / "train-00000.arrow"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.unlink()
    if damage != "delete":
        shard.write_bytes(data if damage == "flip" else data[:-1])
    assert len(dataset.verify()) == 1
    assert "train-00000.arrow" in dataset.verify()[0]


def test_text_covers_every_token_once(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(30):
        text = "".join(chr(97 + (i * (number + 3)) % 26) for i in range(50 + 37 * number))
        (tmp_path / "in" / f"{number}.txt").write_text(text + "äß")
    dataset = build(open_source("text", {"path": str(tmp_path / "in"), "length": 32}), str(tmp_path / "d"))
    rows = all_rows(dataset)["tokens"]
    for path in (tmp_path / "in").iterdir():
        data = path.read_bytes()
        covered = {bytes(row) for row in rows}
        assert all(data[start : start + 32] in covered for start in range(0, len(data) - 32, 31))
        assert data[-32:] in covered
    assert 2 < dataset.index.meta["unigram_entropy"] < np.log(28)


def test_bpe_decodes_what_it_encoded(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(40):
        (tmp_path / "in" / f"{number}.txt").write_text(
            f"the light of the sun, number {number}, is gathered by mirrors. äöü\n" * 20
        )
    options = {"path": str(tmp_path / "in"), "tokens": "bpe", "vocabulary": 300, "length": 16}
    dataset = build(open_source("text", options), str(tmp_path / "d"))
    tokenizer = dataset.index.meta["tokenizer"]
    text = "the light is gathered äöü"
    assert decode(encode(text, tokenizer), tokenizer) == text
    assert dataset.index.meta["vocabulary"] == 300
    assert dataset.index.fields["tokens"].dtype == "uint16"


def test_images_keep_their_class_their_pixels_and_their_proportions(tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    for name, colour in (("blue", 2), ("red", 0)):
        (tmp_path / "in" / name).mkdir(parents=True)
        for number in range(20):
            pixels = np.zeros((20, 40, 3), np.uint8)
            pixels[..., colour] = random.randint(100, 255)
            Image.fromarray(pixels).save(tmp_path / "in" / name / f"{number}.png")
    dataset = build(open_source("images", {"path": str(tmp_path / "in"), "size": 8}), str(tmp_path / "d"))
    rows = all_rows(dataset)
    assert dataset.index.classes == ["blue", "red"]
    for image, label in zip(rows["image"], rows["label"], strict=True):
        colour = 0 if label == 1 else 2
        assert image[colour, 2:6].min() >= 100, "the image is in the middle"
        assert image[:, :2].max() == image[:, 6:].max() == 0, "a wide image has bars above and below"
        assert np.delete(image, colour, 0).max() == 0


def test_tables_turn_texts_into_codes_and_the_target_into_classes(tmp_path: Path) -> None:
    lines = [f"{i},{'red' if i % 3 else 'green'},{'yes' if i % 2 else 'no'}" for i in range(100)]
    (tmp_path / "t.csv").write_text("size,colour,ripe\n" + "\n".join(lines))
    dataset = build(open_source("table", {"path": str(tmp_path / "t.csv"), "target": "ripe"}), str(tmp_path / "d"))
    assert dataset.index.signature
    assert [column.categories for column in dataset.index.signature.columns] == [(), ("green", "red")]
    assert dataset.index.classes == ["no", "yes"]
    rows = all_rows(dataset)
    for (size,), (colour,), label in zip(rows["features"], rows["categories"], rows["label"], strict=True):
        assert (colour, label) == (size % 3 != 0, size % 2)


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("source", "options", "names"),
    [
        ("digit", {}, ("digit", "did you mean digits?")),
        ("digits", {"size": 3}, ("dataset.options.size", "3")),
        ("text", {}, ("dataset.options.path", "add it")),
        ("text", {"path": "nowhere"}, ("dataset.options.path", "nowhere", "folder")),
        ("text", {"path": ".", "pattern": "*.nothing"}, ("*.nothing",)),
        ("images", {"path": "."}, ("0 folders", "one per class")),
        ("images", {"path": ".", "channels": 2}, ("channels", "2")),
        ("table", {"path": "missing.csv", "target": "y"}, ("missing.csv", "does not exist")),
        ("table", {"path": "t.csv", "target": "z"}, ("'z'", "use one of: x, y")),
        ("table", {"path": "holes.csv", "target": "y"}, ("'y'", "1 of 2 rows", "fill", "without_label: drop")),
        ("table", {"path": "greek.csv", "target": "y"}, ("line 3 is not UTF-8", "save it as UTF-8", "read.encoding")),
        ("table", {"path": "head.csv", "target": "y"}, ("head.csv has no rows",)),
        ("table", {"path": "t.parquet", "target": "y"}, ("t.parquet", "is not a Parquet file")),
        ("table", {"path": "twice.csv", "target": "y"}, ("2 columns", "'x'", "rename")),
        ("table", {"path": "clash.csv", "target": "y"}, ("two features", "'a.year'", "rename")),
        ("table", {"path": "huge.csv", "target": "y"}, ("'x'", "1 value", "infinite", "replace")),
        ("table", {"path": "one.csv", "target": "y"}, ("target 'y' has 1 class,",)),
        ("text", {"path": ".", "pattern": "/abs/*"}, ("dataset.options.pattern", "/abs/*")),
        (
            "text",
            {"path": ".latin"},
            ("no UTF-8 text: .latin/00.txt, .latin/01.txt", ".latin/09.txt and 2 more", "convert them"),
        ),
        ("text", {"path": "~nobody-of-this-name/x"}, ("dataset.options.path", "~nobody")),
    ],
)
def test_bad_input_is_reported_with_its_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, options: dict[str, object], names: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "t.csv", "x,y\n1,a\n2,b\n")
    write(tmp_path / "holes.csv", "x,y\n1,a\n2,\n")
    write(tmp_path / "t.parquet", "no parquet")
    (tmp_path / "greek.csv").write_bytes("x,y\n1,a\n2,\u03b1\u03b2\u03b3\n".encode("iso8859-7"))
    write(tmp_path / "twice.csv", "x,x,y\n1,2,a\n2,3,b\n")
    write(tmp_path / "clash.csv", "a.year,a,y\n1,2024-01-31,a\n2,2024-02-29,b\n")
    write(tmp_path / "huge.csv", "x,y\n1e39,a\n2,b\n")
    write(tmp_path / "one.csv", "x,y\n1,a\n2,a\n")
    write(tmp_path / "head.csv", "x,y\n")
    (tmp_path / ".latin").mkdir()
    for number in range(12):
        (tmp_path / ".latin" / f"{number:02d}.txt").write_bytes("x\ngrün\n".encode("latin-1"))
    before = sorted(os.listdir())
    with pytest.raises(UserError) as caught:
        build(open_source(source, options), "out")
    assert all(name in str(caught.value) for name in names), str(caught.value)
    assert sorted(os.listdir()) == before


def test_a_dataset_is_not_changed_by_the_build_of_another(tmp_path: Path) -> None:
    options = {"path": str(tmp_path / "t.csv"), "target": "y"}
    write(tmp_path / "t.csv", "x,y\n" + "\n".join(f"{i},{'ab'[i % 2]}" for i in range(100)))
    first = build(open_source("table", options), str(tmp_path / "d"))
    write(tmp_path / "t.csv", "x,y\n" + "\n".join(f"{i},{'ab'[i % 2]}" for i in range(1000, 1200)))
    for other in (open_source("digits", {}), open_source("table", options)):
        with pytest.raises(UserError, match="already holds another dataset"):
            build(other, str(tmp_path / "d"))
    assert first.verify() == []
    write(tmp_path / "t.csv", "x,y\n" + "\n".join(f"{i},{'ab'[i % 2]}" for i in range(100)))
    assert build(open_source("table", options), str(tmp_path / "d")).index.fingerprint == first.index.fingerprint


def test_a_source_with_changed_files_has_another_identity(tmp_path: Path) -> None:
    options = {"path": str(tmp_path / "t.csv"), "target": "y"}
    write(tmp_path / "t.csv", "x,y\n1,a\n2,b\n")
    before = open_source("table", options).identity()
    assert open_source("table", options).identity() == before
    write(tmp_path / "t.csv", "x,y\n1,a\n2,b\n3,b\n")
    assert open_source("table", options).identity() != before


def test_an_image_is_read_as_viewers_show_it(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    assert abs(float(read_image(tmp_path / "deep.png", (1, 64, 64)).mean()) - 127) < 1
    turned = Image.new("RGB", (8, 8))
    turned.paste((255, 255, 255), (0, 0, 8, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned to the right: what is stored above is on the right
    turned.save(tmp_path / "turned.png", exif=exif)
    pixels = read_image(tmp_path / "turned.png", (3, 8, 8))
    assert (pixels[:, :, 4:].min(), pixels[:, :, :4].max()) == (255, 0)
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png", (3, 8, 8)).max() == 0


def test_opening_a_wrong_dataset_reports_the_reason(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        Dataset.open(str(tmp_path / "d"))
    build(open_source("digits", {}), str(tmp_path / "d"))
    index = json.loads((tmp_path / "d" / "index.json").read_text())
    (tmp_path / "d" / "index.json").write_text(json.dumps({**index, "format": 3}))
    with pytest.raises(UserError, match="format"):
        Dataset.open(str(tmp_path / "d"))
