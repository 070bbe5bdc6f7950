"""``heliostat train`` as a user runs it, with real Ray processes, and what can be done with the run."""

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from heliostat.datasets.sources.bundled import BUNDLED
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.workloads.run.attempts import ATTEMPTS
from heliostat.workloads.run.goodput import account
from heliostat.workloads.run.journal import read_journal
from heliostat.workloads.run.record import EVENTS, METRICS
from tests.browser import browse
from tests.conftest import ROOT, Command, Done, clean_environment, gone

DIGITS = ROOT / "workloads" / "configs" / "digits.yaml"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """A folder in which the digits example has been trained."""
    folder = tmp_path_factory.mktemp("shop")
    return Command(folder, clean_environment(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="module")
def trained(shop: Command) -> Done:
    """What the training printed."""
    return shop("train", DIGITS, "--json")


@pytest.fixture
def digits(trained: Done, shop: Command) -> Command:
    assert trained.code == 0, trained.err
    return shop


def test_the_digits_example_learns_with_two_workers_and_leaves_no_process(trained: Done, shop: Command) -> None:
    assert trained.code == 0, trained.err
    result = json.loads(trained.out)
    assert result["state"] == "finished"
    assert result["metrics"]["test"]["accuracy"] >= 0.95
    gone(shop.env)


def test_progress_is_quiet_when_standard_error_is_no_terminal(trained: Done) -> None:
    assert trained.err == ""


def test_nothing_is_left_in_the_home_but_the_token_which_only_its_owner_can_read(digits: Command) -> None:
    home = Path(digits.env["HOME"])
    token = home / ".heliostat" / "ray-token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert not (home / ".ray" / "auth_token").exists(), "it would switch every later `ray start` to tokens"


def test_the_run_folder_holds_what_must_outlive_the_machines(digits: Command) -> None:
    run = digits.cwd / "runs" / "digits"
    assert {"config.yaml", "metrics.jsonl", "events.jsonl", "checkpoints", "report.html", "result.json"} <= set(os.listdir(run))
    config = (run / "config.yaml").read_text()
    for key in ("hash:", "fingerprint:", "torch:", "ray:", "git:", "lanes: 64", "seed: 0"):
        assert key in config
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {r["kind"] for r in records} == {"train", "eval"}
    start = json.loads((run / "events.jsonl").read_text().splitlines()[0])
    assert [worker["rank"] for worker in start["workers"]] == [0, 1]
    assert sorted(os.listdir(digits.cwd / "runs")) == [".datasets", "digits"]


def test_evaluations_record_the_goodput_so_far_as_it_is_computed_afterwards(digits: Command) -> None:
    attempts, events, metrics = (
        read_journal(Folder.at(digits.cwd / "runs" / "digits"), name) for name in (ATTEMPTS, EVENTS, METRICS)
    )
    last = [record for record in metrics if record["kind"] == "eval"][-1]
    known = ([r for r in records if r["time"] <= last["time"]] for records in (attempts, events, metrics))
    expected = {kind: seconds for kind, seconds in account(*known).worker_seconds.items() if seconds}
    assert last["goodput"].keys() >= {"starting", "productive", "evaluating"}
    assert sum(last["goodput"].values()) == pytest.approx(sum(expected.values()), abs=0.5)
    assert last["goodput"] == pytest.approx({**dict.fromkeys(last["goodput"], 0), **expected}, abs=1.0)


def test_the_same_command_again_says_that_it_is_finished_and_starts_nothing(digits: Command) -> None:
    before = (digits.cwd / "runs" / "digits" / "result.json").read_bytes()
    done = digits("train", DIGITS)
    assert done.code == 0
    assert "digits is already finished" in done.out
    assert (digits.cwd / "runs" / "digits" / "result.json").read_bytes() == before


def test_the_same_name_with_another_config_is_refused_with_the_difference(digits: Command) -> None:
    done = digits("train", DIGITS, "--set", "optimizer.lr=0.01", "--set", "seed=3")
    assert done.code == 2
    assert "optimizer.lr: 0.003 there, 0.01 now" in done.err
    assert "seed: 0 there, 3 now" in done.err
    assert "--set name=" in done.err


def test_where_a_run_goes_may_change(digits: Command) -> None:
    assert digits("train", DIGITS, "--set", "workers=1", "--set", "log_every=5").code == 0


def test_evaluate_gives_the_metrics_that_the_run_reported(digits: Command, trained: Done) -> None:
    done = digits("evaluate", "digits", "--json")
    evaluated = json.loads(done.out)
    assert evaluated["split"] == "test"
    assert evaluated["metrics"]["accuracy"] == json.loads(trained.out)["metrics"]["test"]["accuracy"]
    other = json.loads(digits("evaluate", "runs/digits", "--split", "validation", "--json").out)
    assert other["metrics"]["accuracy"] == json.loads(trained.out)["metrics"]["validation"]["accuracy"]


def test_evaluate_names_what_is_wrong(digits: Command) -> None:
    for args, words in (
        (("evaluate", "digts"), ("'digts'", "did you mean digits?")),
        (("evaluate", "digits", "--split", "tset"), ("'tset'", "did you mean test?")),
    ):
        done = digits(*args)
        assert done.code == 2
        assert all(word in done.err for word in words)
        assert "Traceback" not in done.err


def test_predict_reads_an_image(digits: Command) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(BUNDLED / "digits.parquet").slice(100, 8)
    for number, pixels in enumerate(table["image"].to_pylist()):
        image = Image.new("L", (8, 8))
        image.putdata([value * 255 // 16 for value in pixels])
        image.resize((64, 64), Image.Resampling.NEAREST).save(digits.cwd / f"{number}.png")
    done = digits("predict", "digits", *(f"{number}.png" for number in range(8)), "--json")
    predicted = [int(result["class"]) for result in json.loads(done.out)]
    assert sum(a == b for a, b in zip(predicted, table["label"].to_pylist(), strict=True)) >= 7
    assert sum(json.loads(done.out)[0]["probabilities"].values()) == pytest.approx(1)
    missing = digits("predict", "digits", "nothing.png")
    assert (missing.code, "nothing.png" in missing.err) == (2, True)


def test_what_is_no_image_as_the_run_has_learnt_is_refused_with_what_is_expected(tmp_path: Path) -> None:
    """The negative of a digit, a thin one in a large image, and nothing; but none of the images of the data."""
    import numpy as np
    import pyarrow.parquet as pq

    from heliostat.workloads.tasks.image_classification import check_like

    images = np.array(pq.read_table(BUNDLED / "digits.parquet")["image"].to_pylist(), np.float32).reshape(-1, 1, 8, 8) / 16
    mean, std = float(images.mean()), float(images.std())
    for image in images[:200]:
        check_like("seven.png", image, mean, std)
        with pytest.raises(UserError, match=r"is dark on light .*\n  fix: invert it: .* grey images, light on dark, .* 8x8"):
            check_like("seven.png", 1 - image, mean, std)
    for faint in (images[0] * 0.3, np.zeros((1, 8, 8), np.float32)):
        with pytest.raises(UserError, match=r"is blank, faint or too small .*\n  fix: crop it"):
            check_like("seven.png", faint, mean, std)


def test_runs_lists_it(digits: Command) -> None:
    (row,) = json.loads(digits("runs", "--json").out)
    assert (row["name"], row["state"], row["task"]) == ("digits", "finished", "image-classification")
    assert "digits" in digits("runs").out


class Page(HTMLParser):
    """The tags of a page and whatever it would load from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.foreign: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and not (value or "").startswith(("data:", "#")):
                self.foreign.append(f"{tag} {name}={value}")


def test_the_report_is_one_page_that_needs_nothing_else(digits: Command) -> None:
    text = (digits.cwd / "runs" / "digits" / "report.html").read_text()
    page = Page(text)
    assert page.foreign == []
    assert text.count("data-figure=") == 8
    for heading in (
        "Curves", "Predictions", "Classes", "Confusion matrix", "Most confident mistakes", "Goodput", "Attempts",
    ):  # fmt: skip
        assert heading in text
    cells = re.findall(r'<td class="(?:right|wrong)"[^>]*>(\d*)</td>', text)
    assert len(cells) == 100
    assert sum(int(cell or 0) for cell in cells) == 241


def test_the_report_opens_in_a_browser(digits: Command, tmp_path: Path) -> None:
    picture = tmp_path / "report.png"
    report = digits.cwd / "runs" / "digits" / "report.html"
    # The time of the page runs ahead, until its figures are drawn.
    size = ["--window-size=1100,1800", f"--screenshot={picture}", "--virtual-time-budget=3000"]
    browse(report.as_uri(), tmp_path / "profile", *size)
    image = Image.open(picture).convert("RGB")
    colours = {colour for _, colour in image.getcolors(1 << 24) or []}
    assert (37, 99, 168) in colours, "the training curve"
    assert (194, 87, 12) in colours, "the validation curve"
    assert image.size == (1100, 1800)


def test_a_task_of_ones_own_in_the_working_directory(on_ray: Command) -> None:
    """The README's example, to the letter; what it prints must not mix with the JSON."""
    command = on_ray
    readme = (ROOT / "README.md").read_text()
    (command.cwd / "spirals.py").write_text(re.findall(r"```python\n(# spirals\.py\n.*?)```", readme, re.S)[0])
    (command.cwd / "spirals.yaml").write_text(re.findall(r"```yaml\n(# spirals\.yaml\n.*?)```", readme, re.S)[0])
    made = command.python("spirals.py")
    assert made.wait(300) == 0
    done = command("train", "spirals.yaml", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["metrics"]["test"]["accuracy"] > 0.95


def test_a_failing_task_shows_its_own_traceback_once(on_ray: Command) -> None:
    command = on_ray
    (command.cwd / "mine.py").write_text(
        "from heliostat.workloads.tasks.tabular_classification import TabularClassification\n"
        "from torch.distributed import is_initialized\n"
        "class Mine(TabularClassification):\n"
        "    def loss(self, model, batch):\n"
        "        if is_initialized():  # not in the try before the start\n"
        "            print('my own :print:', len(batch['label']))\n"
        "            raise ZeroDivisionError('my own mistake')\n"
        "        return super().loss(model, batch)\n"
    )
    (command.cwd / "c.yaml").write_text("task: mine:Mine\ndataset: {source: breast-cancer}\nsteps: 3\nworkers: 2\n")
    done = command("train", "c.yaml")
    assert done.code == 1
    assert done.err.count("ZeroDivisionError: my own mistake") == 1
    assert 'mine.py", line 7, in loss' in done.err
    assert re.search(r"^\[rank [01]\] my own :print: \d+$", done.err, re.MULTILINE), "what a task prints arrives"
    assert len(done.err[done.err.index("heliostat: ") :].splitlines()) < 15
