"""The progress of a run."""

from types import SimpleNamespace

import pytest

from heliostat.commands.progress import Display


def test_an_error_with_brackets_is_printed_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    """As gloo words it: rich would take the source location for a tag."""
    reason = "worker 0: [/src/gloo/pair.cc:545] Connection closed by peer"
    plan = SimpleNamespace(total_steps=10)
    record = {"event": "failed", "reason": reason, "again": True, "wait": 0.0, "saved": 5, "failures": 1, "most": 3}
    with Display(plan) as display:
        display.update([record])
    assert f"{reason}; resumes from step 5 (failure 1 of 3)" in capsys.readouterr().err
