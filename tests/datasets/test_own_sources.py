"""Sources of the user's own: what a function, a class or a Dataset of torch yields, and what is refused."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from heliostat.cli import main
from heliostat.commands.dataset.building import progress_text
from heliostat.datasets import Dataset, build
from heliostat.datasets.sources import TooLarge, open_source
from heliostat.datasets.sources.text import decode
from heliostat.errors import UserError
from heliostat.workloads.task import create

START = """
import datetime, itertools
import numpy as np, pandas as pd, pyarrow as pa, torch
from PIL import Image
from heliostat import Source
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset

class Pictures(Dataset):
    classes = ["cat", "dog"]
    def __len__(self):
        return 90
    def __getitem__(self, at):
        return Image.fromarray(np.full((4, 6), at, np.uint8)), at % 2

class Stream(IterableDataset):
    def __iter__(self):
        for at in range(90):
            yield {"tokens": torch.arange(at, at + 5), "weight": 0.5}

ROWS = [
    {"age": None if at % 7 == 0 else 20 + at % 50, "city": ("Rome", "Oslo", None)[at % 3],
     "since": datetime.date(2020, 1, 1 + at % 28), "embedding": [at / 7, 1.0], "vip": at % 2 == 0, "price": at * 1.5}
    for at in range(120)
]
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Writes ``mine.py``, of the user's own, in a working directory; after that it is imported again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two versions of a file may have the same time and size

    def write(code: str) -> None:
        sys.modules.pop("mine", None)
        Path("mine.py").write_text(START + code)

    yield write
    sys.modules.pop("mine", None)


def built(name: str, out: str = "out", **options: Any) -> Dataset:
    return build(open_source(f"mine:{name}", options), out)


@pytest.mark.parametrize(
    ("code", "name", "fields", "classes"),
    [
        ("", "Pictures", "image: uint8[1,4,6], label: int64", ["cat", "dog"]),
        ("def f(): return Subset(Pictures(), range(80))", "f", "image: uint8[1,4,6], label: int64", ["cat", "dog"]),
        ("", "Stream", "tokens: int64[5], weight: float64", []),
        ("def f(): return TensorDataset(torch.arange(90.0)[:, None], torch.arange(90) % 3)", "f",
         "features: float32[1], label: int64", ["0", "1", "2"]),
        ("def f(count=90):\n    for at in range(count): yield [at / 7, 1.0], ('yes', 'no')[at % 2]", "f",
         "features: float32[2], label: int64", ["no", "yes"]),
        ("def f(): return [({'image': Image.new('RGB', (3, 2), (at, 0, 0)), 'mask': np.ones((2, 3), bool)}, at / 2)"
         " for at in range(90)]", "f", "image: uint8[3,2,3], mask: uint8[2,3], target: float64", []),
        ("class F(Source):\n    classes = ['a', 'b']\n    def __init__(self, count=90): self.count = count\n"
         "    def rows(self): return ({'x': np.float16([[at]]), 'label': np.int8(1)} for at in range(self.count))", "F",
         "x: float16[1,1], label: int64", ["a", "b"]),
        ("def f(): return [torch.full((4,), at).long() for at in range(90)]", "f", "tokens: int64[4]", []),
    ],
)  # fmt: skip
def test_what_each_kind_of_sample_becomes(
    own: Callable[[str], None], code: str, name: str, fields: str, classes: list[str]
) -> None:
    own(code)
    assert ", ".join(f"{k}: {v}" for k, v in (open_source(f"mine:{name}", {}).preview() or {}).items()) == fields
    index = built(name).index
    assert ", ".join(f"{name}: {field}" for name, field in index.fields.items()) == fields
    assert index.classes == classes
    assert sum(index.rows(split) for split in index.splits) in (80, 90)


def test_labels_keep_their_samples(own: Callable[[str], None]) -> None:
    own("def f(): return [(np.float32([at]), (7, 3, 5)[at % 3]) for at in range(90)]")
    dataset = built("f")
    assert dataset.index.classes == ["3", "5", "7"]
    task = create("tabular-classification", {}, dataset.index)
    assert task.read("[2]")["features"].tolist() == task.read('{"features": [2]}')["features"].tolist() == [[2]]
    with pytest.raises(UserError, match="give a JSON list of 1 number"):
        task.read('{"x": 2}')
    for split in dataset.index.splits:
        columns = dataset.columns(split, 0)
        assert [("357").index("735"[int(x) % 3]) for x in columns["features"][:, 0]] == columns["label"].tolist()


ROWS_AS = [
    "def f():\n    for row in ROWS: yield {k: v for k, v in row.items() if v is not None or row is ROWS[0]}",
    "def f(): return pa.Table.from_pylist(ROWS)",
    "def f(): return (pa.RecordBatch.from_pylist(ROWS[at:at + 40], schema=pa.table(pa.Table.from_pylist(ROWS)).schema)"
    " for at in (0, 40, 80))",
    "def f(): return (pa.Table.from_pylist(ROWS[at:at + 3]) for at in range(0, 120, 3))",
    "class f(Source):\n    def rows(self): return [{**row, 'price': torch.tensor(row['price'], dtype=float)} for row in ROWS]",
]


@pytest.mark.parametrize("code", ROWS_AS)
def test_rows_are_read_as_those_of_a_file_are(own: Callable[[str], None], code: str) -> None:
    own(code)
    ours = built("f", target="price").index
    pq.write_table(pa.Table.from_pylist(sys.modules["mine"].ROWS), "t.parquet")
    theirs = build(open_source("table", {"path": "t.parquet", "target": "price"}), "theirs").index
    assert ours.signature is not None
    assert (ours.signature, ours.fields, ours.stats, ours.train) == (
        theirs.signature,
        theirs.fields,
        theirs.stats,
        theirs.train,
    )
    assert ours.fingerprint == theirs.fingerprint
    assert ours.source == {"name": "mine:f", "target": "price"}


def test_a_table_of_pandas_with_a_label_needs_no_target(own: Callable[[str], None]) -> None:
    own("def f(): return pd.DataFrame({'x': range(90), 'label': ['a', 'b', 'b'] * 30}).set_index('x')")
    with pytest.raises(UserError, match=r"^mine:f: there is no column to learn from but the target"):
        built("f")
    own("def f(): return pd.DataFrame({'x': range(90), 'label': ['a', 'b', 'b'] * 30})")
    assert built("f", columns={"x": {"type": "number"}}).index.classes == ["a", "b"]


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def f(): return [np.zeros((3, 4, 4 + (at in (5, 9))), np.uint8) for at in range(20)]",
         ("2 problems", "sample 5 has 'image' of uint8[3,4,5], but sample 0 of uint8[3,4,4]: scale each to the same size",
          "sample 9 has")),
        ("def f(): return [np.zeros(4 + at) for at in range(50)]", ("has 11 problems", "sample 10 has", "and 1 more")),
        ("def f(): return [np.zeros((5, 5, 3), np.uint8)] * 9", ("channels last", "transpose(2, 0, 1)")),
        ("def f(): return [([1.0, float('nan')], 1)]", ("sample 0 has NaN in 'features'", "rows of a table")),
        ("def f(): return [([1.0], 1), ([1.0], 0.5)]", ("sample 1 has features, target, but sample 0 has features, label",)),
        ("def f(): return [([1.0], 'a'), ([1.0], 2)]", ("has the label 2, and others have numbers or texts",)),
        ("def f():\n    return [(np.zeros(2), 7)]\nf.classes = []\nclass G(Pictures):\n    def __getitem__(self, at):"
         " return torch.ones(3), at", ("has 11 problems", "sample 2 has the label 2, which is not among the 2 classes")),
        ("def f(): return [{'image': np.zeros((1, 2, 2), np.uint8), 'text': 'a'}]", ("'text' of type str beside arrays",)),
        ("def f(): return [(np.zeros(1), 1, 2)]", ("sample 0 has 3 values without names",)),
        ("def f(): return [(np.array([1j]), 1)]", ("'features' of type complex128",)),
        ("def f(): return [(torch.zeros(2, dtype=torch.bfloat16), 1)]", ("that is no array", ".float()")),
        ("def f(): return [(np.zeros((2, 0)), 1)]", ("an empty 'x', of shape [2, 0]",)),
        ("def f(): return TensorDataset(torch.rand(9, 2))", ("sample 0 is another when it is read again",)),
        ("def f(): return ((torch.rand(3), 1) for _ in range(9))", ("sample 0 is another when it is read again",)),
        ("def f(): return (pd.DataFrame({'x': np.random.rand(9), 'label': 1}) for _ in range(9))", ("sample 0 is another",)),
        ("count = itertools.count(50, -1)\ndef f(): return (np.zeros(3) for _ in range(next(count)))",
         ("fewer samples when it is read again",)),
        ("def f():\n    yield [1.0], 1\n    raise KeyError('gone')",
         ("fails at sample 1:", "raise KeyError('gone')", "mine.py", "KeyError: 'gone'")),
        ("def f(): return 1 / 0", ("'mine:f' fails:", "1 / 0", "ZeroDivisionError")),
        ("class f(Dataset):\n    def __getitem__(self, at): return at", ("'mine:f' fails:", "has no len()")),
        ("def f(): return DataLoader(Pictures())", ("returns a DataLoader, which yields batches", "return its dataset")),
        ("def f(): return 7", ("returns 7 of type int, which has no samples",)),
        ("def f(): return []", ("yields no samples",)),
        ("def f(): return {'x': [1], 'y': [2]}", ("a mapping with 'x', 'y', not with splits",)),
        ("def f(): return {'test': Pictures()}", ("a mapping with 'test'", "return one train")),
        ("def f(): return [{'age': 4, 'label': 1}, {'age': 'four', 'label': 1}]",
         ("column 'age' has values that do not go together: 4 (int, sample 0) and 'four' (str, sample 1)",)),
        ("def f(): return [{'age': 4, 'years': 3}]", ("with age, years, and dataset.options.target is missing",)),
        ("def f(): return [{'age': at, 'label': at % 2} for at in range(9)] + [torch.zeros(3)]",
         ("sample 9 is a Tensor, after rows of a table",)),
        ("f = 3", ("mine has no class or function f", "use one of: Pictures, Stream")),
        ("def f(path): return Pictures()", ("dataset.options.path is missing, an argument of mine:f",)),
        ("import nothing_there", ("'mine:f' fails to import", "import nothing_there")),
        ("import sys\nsys.exit(0)", ("'mine:f' fails to import", "SystemExit: 0")),
        ("import sys\ndef f(): sys.exit(0)", ("'mine:f' fails", "SystemExit: 0")),
    ],
)  # fmt: skip
def test_what_cannot_be_learnt_from_is_refused_with_its_sample(
    own: Callable[[str], None], capsys: pytest.CaptureFixture[str], code: str, says: tuple[str, ...]
) -> None:
    own(code)
    name = "G" if "class G" in code else "f"
    assert main(["dataset", "build", f"mine:{name}", "out"]) == 2
    message = capsys.readouterr().err
    for text in says:
        assert text in message
    assert "Traceback" not in message
    assert not Path("out").exists()


def test_options_are_arguments_or_those_of_tables(own: Callable[[str], None]) -> None:
    own("def f(path, size=3): return [np.zeros(size)] * 9\ndef g(**any): return Pictures()")
    with pytest.raises(UserError) as raised:
        open_source("mine:f", {"sise": 3})
    assert "dataset.options.sise is no argument of mine:f: did you mean size?" in str(raised.value)
    assert "dataset.options.path is missing" in str(raised.value)
    assert open_source("mine:g", {"anything": 3}).description() == {"name": "mine:g", "anything": 3}
    with pytest.raises(UserError, match=r"dataset.options has drop, but mine:f yields arrays"):
        open_source("mine:f", {"path": "p", "drop": ["x"]}).preview()
    with pytest.raises(UserError, match=r"dataset.source is 'mine', which is not a source\n.*or write module:Name"):
        open_source("mine", {})
    Path("rows.csv").touch()
    for data in ("rows.csv", "s3://bucket/rows.csv"):
        with pytest.raises(UserError, match=f"'{data}', which is data .*\n.*its option path: {data}"):
            open_source(data, {})


STORIES = """
TEXTS = ["".join(f"{word} {at * 7 % 11} and then. " for word in ("once", "there", "was")) * (3 + at % 4) for at in range(60)]
def texts(): return TEXTS
def rows(): return ({"story": text, "stars": at % 5} for at, text in enumerate(TEXTS))
def tables(): return (pa.table({"story": TEXTS[at:at + 7]}) for at in range(0, 60, 7))
def splits(): return {"train": TEXTS[:50], "test": TEXTS[50:]}
def gaps(): return [{"story": "x" * 99}, {"story": None}, {"other": "y"}]
"""


@pytest.mark.parametrize("tokens", ["byte", "bpe"])
def test_texts_become_the_tokens_that_those_of_files_are(own: Callable[[str], None], tokens: str) -> None:
    own(STORIES)
    Path("stories").mkdir()
    open_source("mine:texts", {})  # imports it
    for at, text in enumerate(sys.modules["mine"].TEXTS):
        Path(f"stories/{at:02d}.txt").write_text(text)
    options = {"tokens": tokens, "vocabulary": 280, "length": 16}
    theirs = build(open_source("text", {"path": "stories", **options}), "theirs").index
    for name, of_text in (("texts", {}), ("rows", {"text": "story"}), ("tables", {"text": "story"})):
        index = built(name, name, **options, **of_text).index
        assert (index.fields, index.splits) == (theirs.fields, theirs.splits)
        assert index.meta["tokenizer"] == theirs.meta["tokenizer"]
        assert (index.meta["tokens"], index.meta["texts"]) == (theirs.meta["tokens"], theirs.meta["files"])


def test_texts_keep_the_splits_of_their_source_and_are_refused_with_their_samples(own: Callable[[str], None]) -> None:
    own(STORIES)
    dataset = built("splits", tokens="byte", length=16)
    texts = sys.modules["mine"].TEXTS
    assert decode(dataset.columns("test", 0)["tokens"][0].tolist(), "byte") == texts[50][:16]
    with pytest.raises(UserError) as caught:
        built("gaps", "no", tokens="byte", text="story")
    assert "sample 1 has no value in place of the text 'story'" in str(caught.value)
    assert "sample 2 has no 'story'" in str(caught.value)
    with pytest.raises(UserError, match=r"dataset\.options has length, but not tokens"):
        built("texts", "no", length=16)
    with pytest.raises(UserError, match="tokens, for texts, and drop, for rows"):
        built("texts", "no", tokens="byte", drop=["x"])


def test_a_dataset_is_that_of_the_code_the_options_the_files_and_the_version(own: Callable[[str], None]) -> None:
    def identity(**options: Any) -> str:
        return json.dumps(open_source("mine:F", {"path": "data", **options}).identity())

    code = (
        "class F(Source):\n    def __init__(self, path, size=3): pass\n    def version(self): return open('version').read()\n"
    )
    code += "    def files(self): return ['more.bin']\n"
    Path("data").mkdir()
    for name in ("version", "data/a.bin", "more.bin"):
        Path(name).write_text("1")
    own(code)
    found = [identity(), identity(size=4)]
    for name in ("version", "data/a.bin", "more.bin"):
        Path(name).write_text("2")
        found.append(identity())
    assert found[-1] == identity()
    own(code + "# changed")
    found.append(identity())
    assert len({*found}) == len(found)


def test_what_returns_splits_has_them(own: Callable[[str], None]) -> None:
    own("def f(count):\n    x = lambda start: [np.float32([start + at]) for at in range(count)]\n"
        "    return {'train': x(0), 'valid': x(1000), 'test': (each for each in x(2000))}\n"
        "def g():\n    parts = (('train', 90.0), ('test', 5.0))\n"
        "    return {split: TensorDataset(torch.arange(rows)[:, None]) for split, rows in parts}")  # fmt: skip
    dataset = built("f", count=20)
    for start, split in ((0, "train"), (1000, "validation"), (2000, "test")):
        assert sorted(dataset.columns(split, 0)["features"][:, 0].tolist()) == [start + at for at in range(20)]
    index = built("g", "other").index
    assert index.rows("test") == 5, "what has no split of its own is cut from train"
    assert index.rows("validation") + index.rows("train") == 90
    assert index.rows("validation") > 3
    with pytest.raises(UserError, match=r"dataset.options.split is set, and mine:g returns its splits"):
        built("g", "third", split={"by": "stratified"})


def test_a_source_may_be_split_by_strata(own: Callable[[str], None]) -> None:
    own("def f(): return [(np.float32([at]), at % 10 == 0) for at in range(100)]")
    dataset = built("f", split={"by": "stratified", "shares": {"train": 0.6, "validation": 0.2, "test": 0.2}})
    assert [int(dataset.columns(split, 0)["label"].sum()) for split in ("train", "validation", "test")] == [6, 2, 2]
    with pytest.raises(UserError, match="by: time, but mine:f yields arrays"):
        built("f", "other", split={"by": "time", "column": "x"})


def test_a_source_of_unknown_size_is_read_no_further_than_is_wanted(own: Callable[[str], None]) -> None:
    own("def f():\n    for at in itertools.count(): yield np.full(1 << 16, at, np.uint8)")
    source = open_source("mine:f", {})
    source.limit = 1 << 20
    assert source.preview()
    with pytest.raises(TooLarge):
        build(source, "out")
    assert not Path("out").exists()
    assert progress_text("reading mine:f", 500, 0, "samples", 2.0) == "reading mine:f: 500 samples, 250/s"


def test_hugging_face_without_its_library_is_refused_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"needs the package datasets\n  fix: pip install 'heliostat\[huggingface\]'"):
        open_source("huggingface", {"path": "imdb"}).preview()
