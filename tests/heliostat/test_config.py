from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from heliostat.config import Config, config_path, load, nearest, validate
from heliostat.errors import UserError


class Inner(Config):
    lr: float = Field(0.001, gt=0, description="a number above 0")
    steps: int = Field(10, ge=1, description="a whole number")


class Outer(Config):
    name: str = Field(description="a name")
    inner: Inner = Inner()
    options: dict[str, int] = Field({}, description="a mapping")
    texts: dict[str, str] = Field({}, description="a mapping of texts")
    any: dict[str, Any] = Field({}, description="a mapping")


def load_text(tmp_path: Path, text: str, *overrides: str) -> Outer:
    (tmp_path / "c.yaml").write_text(text)
    return load(tmp_path / "c.yaml", Outer, overrides)


def test_a_file_becomes_a_typed_frozen_value(tmp_path: Path) -> None:
    config = load_text(tmp_path, "name: a\ninner: {lr: 1e-3}\n")
    assert config.inner.lr == 0.001, "YAML 1.2: 1e-3 is a number"
    with pytest.raises(Exception, match="frozen"):
        config.__setattr__("name", "b")


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    config = load_text(tmp_path, "name: a\ninner: {lr: 1, steps: 3}\n", "inner.lr=0.5", "options.x=2", "name=b")
    assert (config.inner.lr, config.inner.steps, config.options, config.name) == (0.5, 3, {"x": 2}, "b")


@pytest.mark.parametrize(
    "text", ["8", "true", "True", "1_000", "0x10", "0o17", "0755", "1e3", "12e5678", "3.10", "yes", "2026-01-02", "+5", ".inf"]
)
def test_a_text_is_what_is_written_without_quotes_too(tmp_path: Path, text: str) -> None:
    config = load_text(tmp_path, f"name: {text}\ntexts: {{{text}: {text}}}\n")
    assert (config.name, config.texts) == (text, {text: text})
    assert load_text(tmp_path, "name: a", f"name={text}", f"texts.a={text}").texts == {"a": text}


def test_where_no_text_is_needed_a_value_is_what_yaml_says(tmp_path: Path) -> None:
    config = load_text(tmp_path, "name: a\nany: {a: 0x10, b: [true, 1e3], c: {1: 2}}\noptions: {x: 1_0}\n", "any.d=false")
    assert config.any == {"a": 16, "b": [True, 1000.0], "c": {1: 2}, "d": False}
    assert [type(value) for value in (config.any["a"], config.options["x"])] == [int, int]


def test_a_value_that_was_read_as_a_number_before_says_that_quotes_are_missing() -> None:
    with pytest.raises(UserError, match=r"name is 1234567, but must be a text\n  fix: write it in quotes, name: '...'"):
        validate({"name": 1234567}, Outer)


def test_a_dot_in_a_key_is_escaped(tmp_path: Path) -> None:
    config = load_text(tmp_path, "name: a", r"texts.cloud\.google\.com/gke-accelerator=nvidia-l4")
    assert config.texts == {"cloud.google.com/gke-accelerator": "nvidia-l4"}


@pytest.mark.parametrize(
    ("text", "overrides", "field", "value", "fix"),
    [
        ("name: a\ninner: {learning_rat: 1}", [], "inner.learning_rat", "1", "use one of: lr, steps"),
        ("name: a\ninner: {step: 1}", [], "inner.step", "1", "did you mean steps?"),
        ("nme: a", [], "name", "", "add it: a name"),
        ("name: a\ninner: {lr: fast}", [], "inner.lr", "'fast'", "a number above 0 (default: 0.001)"),
        ("name: a\ninner: {lr: .nan}", [], "inner.lr", "nan", "a number above 0"),
        ("name: a\ninner: {lr: -0.1}", [], "inner.lr", "-0.1", "a number above 0"),
        ("name: a\ninner: {steps: 1.5}", [], "inner.steps", "1.5", "a whole number"),
        ("name: a\ninner: {steps: yes}", [], "inner.steps", "'yes'", "a whole number"),
        ("name: a\ninner: 3", [], "inner", "3", "a mapping of lr, steps"),
        ("name: [3]", [], "name", "[3]", "a name"),
        ("name: a", [r"options.a.b=1"], "options.a", "{'b': 1}", "a mapping"),
        ("name: a", ["texts.a.b/c=x"], "texts.a", "{'b/c': 'x'}", r"write each as \.: --set 'texts.a\.b/c=x'"),
        ("name: a", ["inner.lr"], "--set", "inner.lr", "write it as --set"),
        ("name: a", ["inner..lr=1"], "--set", "inner..lr=1", "write it as --set"),
        ("name: a", ["inner.lr=[1"], "--set", "[1", "quotes"),
        ("name: a\nname: b", [], "c.yaml", "the key 'name' twice, again in line 2", "leave one out"),
        ("- a\n- b", [], "c.yaml", "list", "key: value"),
        ("", [], "c.yaml", "empty", "key: value"),
        ("name: [", [], "c.yaml", "not valid YAML", "correct that line"),
    ],
)
def test_each_mistake_names_the_field_the_value_and_the_fix(
    tmp_path: Path, text: str, overrides: list[str], field: str, value: str, fix: str
) -> None:
    with pytest.raises(UserError) as caught:
        load_text(tmp_path, text, *overrides)
    message = str(caught.value)
    assert field in message
    assert value in message
    assert fix in message
    assert caught.value.exit_code == 2


def test_a_missing_file_names_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "digits.yaml").write_text("name: a")
    with pytest.raises(UserError, match=r"digit\.yaml does not exist\n  fix: did you mean .*digits\.yaml"):
        load(tmp_path / "digit.yaml", Outer)


def test_a_name_is_that_of_a_config_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = "workloads/configs"
    (tmp_path / "digits").mkdir()  # a dataset, for instance
    (tmp_path / "wine.yaml").touch()
    found = config_path("digits", folder)
    assert Path(found).is_file()
    assert config_path(f"{folder}/digits.yaml", folder) == found
    for name, hint in {"breast_cancer": "breast-cancer", "digit": "digits", "wine": "wine.yaml"}.items():
        with pytest.raises(UserError, match=rf"there is no config {name}\n  fix: did you mean {hint}\? Or give the path"):
            config_path(name, folder)
    (tmp_path / "digits.yaml").touch()
    assert config_path("digits.yaml", folder) == "digits.yaml"


def test_a_folder_and_a_binary_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path, tmp_path / "b.yaml"):
        with pytest.raises(UserError, match="config file"):
            load(path, Outer)


def test_nearest() -> None:
    assert nearest("digts", ["digits", "text"]) == "did you mean digits?"
    assert nearest("zzz", ["digits", "text"]) == "use one of: digits, text"
