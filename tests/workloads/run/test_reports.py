"""Reports: of runs that have finished and of those that have not, with any names, and the failure to draw one."""

import base64
import io
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from heliostat.cli import main
from heliostat.console import printable
from heliostat.tuning.results import figures
from heliostat.tuning.space import Parameter
from heliostat.tuning.trials import Report, Trial, Trials
from heliostat.workloads.run.predictions import shown
from heliostat.workloads.run.record import REPORT
from heliostat.workloads.run.redraw import draw
from heliostat.workloads.run.report import pictures, write_report
from heliostat.workloads.run.so_far import result_of
from tests.workloads.training.test_loop import config, record_of, train

NAMES = (
    "$\\frac{",
    "a$b$c",
    "<script>x</script>",
    '"quoted" & %s {0} {{ x }}',
    "two\nlines\ttab",
    "🦊 \u202eright to left",
    "\ud800",
)
TASK = f"""
from heliostat.workloads.tasks.tabular_classification import TabularClassification

class Odd(TabularClassification):
    def metrics(self, model, batch):
        measured = super().metrics(model, batch)
        return {{**measured, **{{name: measured["loss"] for name in {NAMES[:6]!r}}}}}
"""


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table whose classes, and a task whose metrics, have odd names."""
    rows = [{"label": NAMES[n % 6], "x": n % 6 + 0.5, "y": n + 0.25} for n in range(240)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "odd.parquet")
    (tmp_path / "odd_task.py").write_text(TASK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("odd_task", None)
    return tmp_path


def test_any_name_of_a_class_and_a_metric_is_in_the_report_as_it_is(odd: Path) -> None:
    source = {"source": "table", "options": {"path": "odd.parquet", "target": "label"}}
    made = config(odd, task="odd_task:Odd", dataset=source)
    train(made)
    folder, record = record_of(made)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_report(folder, record, result_of(folder, running=False))
    html = folder.read(REPORT).decode()
    assert "<script>x" not in html
    for text in ("a$b$c", "&lt;script&gt;x&lt;/script&gt;", "%s {0} {{ x }}", "two\\nlines\\ttab", "🦊 \\u202eright"):
        assert html.count(text) >= 1, text
    assert html.count("a$b$c") >= 2, "a class and a metric"


def test_any_name_and_value_of_a_parameter_is_in_the_figures_of_a_sweep() -> None:
    space = {name: Parameter(choice=[*NAMES]) for name in NAMES}
    trials = [
        Trial(
            n,
            dict.fromkeys(NAMES, value),
            "finished",
            values={NAMES[0]: n, NAMES[1]: -n},
            reports=[Report(1, 1.0, {NAMES[0]: n}, n)],
        )
        for n, value in enumerate(NAMES)
    ]
    for trial in trials:
        trial.spans = [(trial.number, trial.number + 1.0)]
    objectives = {NAMES[0]: "max", NAMES[1]: "min"}
    everything = Trials()
    everything.all, everything.sessions = trials, [[0.0, 9.0]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = [
            figures.parallel(trials, space, NAMES[0], "max"),
            figures.pareto(trials, objectives),
            figures.importance_bars(dict.fromkeys(NAMES, 0.1)),
            figures.best_so_far(trials, everything, NAMES[0], "max", "time"),
            figures.learning_curves(trials, NAMES[0], "max"),
        ]
    for figure in drawn:
        text = json.dumps(figure, allow_nan=False)
        assert "$\\\\frac{" in text
        assert "right to left" not in text or "\\\\u202eright to left" in text, "it is escaped, as on a terminal"


def test_a_report_that_cannot_be_drawn_is_said_with_the_command_that_draws_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def write() -> None:
        raise ValueError("a figure [/] cannot be drawn")

    draw(write, str(tmp_path / "my run"))
    said = capsys.readouterr().err
    assert "the report cannot be drawn: ValueError: a figure [/] cannot be drawn" in said
    assert f"heliostat report '{tmp_path}/my run' draws it again" in said


def test_the_report_of_a_run_that_was_killed_shows_what_it_had_reached(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = config(tmp_path, steps=20)

    def die(metrics: dict[str, float]) -> None:
        if len(seen := [*seen_before, 1]) > 1:
            raise KeyboardInterrupt
        seen_before.extend(seen)

    seen_before: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        train(made, die)
    assert main(["report", "run", "--storage", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "run/report.html")
    html = (tmp_path / "run/report.html").read_text()
    assert "interrupted at step 14" in html
    assert "validation accuracy" in html
    assert main(["report", "rum", "--storage", str(tmp_path)]) == 2
    assert "'rum' does not exist" in capsys.readouterr().err


def test_what_cannot_be_printed_is_an_escape() -> None:
    assert printable("a\x1b[2Jb\ud800\u202e\n👩‍💻 é") == "a\\x1b[2Jb\\ud800\\u202e\\n👩‍💻 é"
    assert printable("a\n\tb", keep="\n\t") == "a\n\tb"


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_arrays_that_are_no_pictures_are_shown_from_their_least_to_their_largest_value(channels: int) -> None:
    spectrograms = np.linspace(-11.5, -2.0, 2 * channels * 6, dtype=np.float32).reshape(2, channels, 2, 3)
    found = [Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) for uri in pictures(spectrograms, None)]
    values = np.stack([np.asarray(image) for image in found])
    assert values.shape[:3] == (2, 2, 3)
    assert values.min() < 60 < 200 < values.max(), "none is all black"


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("accuracy", 0.9057, "90.57%"), ("rmse", 2234.9784, "2,235.0"), ("r2", -0.00003, "0.0000"), ("r2", -0.5, "-0.5000"),
        ("loss", None, "NaN"),
    ],
)  # fmt: skip
def test_a_metric_has_the_decimals_that_its_size_needs(metric: str, value: float | None, text: str) -> None:
    assert shown(metric, value) == text
