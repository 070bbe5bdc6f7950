"""The progress of a run."""

from types import SimpleNamespace

import pytest

from heliostat.commands import building
from heliostat.commands.progress import Display


def test_an_error_with_brackets_is_printed_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    """As gloo words it: rich would take the source location for a tag."""
    reason = "worker 0: [/src/gloo/pair.cc:545] Connection closed by peer"
    plan = SimpleNamespace(total_steps=10)
    record = {"event": "failed", "reason": reason, "again": True, "wait": 0.0, "saved": 5, "failures": 1, "most": 3}
    with Display(plan) as display:
        display.update([record])
    assert f"{reason}; resumes from step 5 (failure 1 of 3)" in capsys.readouterr().err


def test_building_shows_what_is_done_how_fast_and_what_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "FIRST", 0.0)
    monkeypatch.setattr(building, "LINES", 0.0)
    shown = building.Building()
    for done in (0, 500):
        shown("reading photos", done, 2000, "images")
    shown("", 0, 0, "")
    first, second = capsys.readouterr().err.splitlines()
    assert first == "reading photos: 0 of 2,000 images"
    assert second.startswith("reading photos: 500 of 2,000 images, ")
    text = building.progress_text("checking t.csv", 10 << 20, 40 << 20, "bytes", 5.0)
    assert text == "checking t.csv: 10.0 MB of 40.0 MB, 2.0 MB/s, 15 s left"
