"""The page of runs whose storage is a claim, which only pods mount."""

import json
import signal
import urllib.request
from pathlib import Path
from urllib.parse import urljoin

import pytest

from tests.browser import browse
from tests.conftest import end_group, wait_for
from tests.kubernetes.conftest import Place, Running, cpu_group

pytestmark = pytest.mark.accept  # make test has the page of a storage that is not here: tests/heliostat/test_runs_open.py
ENDLESS = [
    option for value in ("workers=1", "resources.gpu=0", "epochs=1000000", "early_stopping=null") for option in ("--set", value)
]
"""The example of breast cancer on one CPU, until it is stopped."""


def test_the_page_shows_a_run_on_a_claim_while_it_goes_on_and_its_end(place: Place, tmp_path: Path) -> None:
    profile = place.profile("claimed", groups=[cpu_group()])
    assert place.command("up", profile).code == 0
    opened = Running(place, "runs", "open", "--on", profile, "--no-browser")
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    try:
        address = opened.says(r"^http://\S+")[0]
        opener.open(address).read()  # which gives the cookie

        def rows() -> list[dict[str, str]]:
            found: list[dict[str, str]] = json.loads(opener.open(urljoin(address, "/api/runs")).read())["rows"]
            return found

        assert rows() == []
        training = Running(place, "train", "breast-cancer", "--on", profile, *ENDLESS)
        try:

            def trains() -> bool:
                assert training.process.poll() is None, "".join(training.lines)
                return [(row["state"], row["progress"].startswith("0")) for row in rows()] == [("running", False)]

            wait_for(trains, "steps of the run", 600)
            assert place.command("stop", profile).code == 0
            assert training.end() == 130, "".join(training.lines)
        finally:
            end_group(training.process)
        wait_for(lambda: [row["state"] for row in rows()] == ["stopped"], "its end")
        assert "breast-cancer" in browse(address, tmp_path, "--dump-dom", "--virtual-time-budget=10000")
    finally:
        opened.process.send_signal(signal.SIGINT)
        code = opened.end()
    assert code == 0, "".join(opened.lines)
