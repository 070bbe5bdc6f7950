"""The whole way on a little data: the rows, the task, training, a prediction."""

from pathlib import Path

import pytest

from heliostat import train


def test_the_spirals_are_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    run = train("train.yaml", name="test", storage=str(tmp_path), epochs=30, in_process=True, quiet=True)
    assert (run.metrics["test"]["accuracy"] or 0) > 0.8
    assert run.predict([{"x": 1.0, "y": 2.0}]).num_rows == 1
