"""A week of simulated days: new data each day, a drift on the third, a bad candidate on the fifth that the gate stops."""

import json
import re
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.accept.test_serving import served
from tests.conftest import Command, Done, clean_environment, wait_for

CONFIG = """
task: gradient-boosting
dataset: {source: table, options: {path: shop.csv, target: bought}}
steps: 30
evaluate_every: 30
then: {steps: [gate, promote], metric: accuracy, margin: 0.05, by: [country]}
"""
ROWS, ASKED = 1500, 600
"""New rows a day, and rows a day of which the service is asked."""


@dataclass
class Shop:
    """What is sold; from the third day on to other customers."""

    random: np.random.Generator

    def rows(self, day: int, count: int) -> list[tuple[float, str, str]]:
        """The columns ``a``, ``country`` and ``bought``."""
        a = self.random.normal(size=count) + (1.5 if day >= 3 else 0)
        country = self.random.choice(["de", "fr"], count)
        bought = a + (country == "fr") + 0.3 * self.random.normal(size=count) > 0.5
        return [(float(x.round(4)), str(c), "yes" if y else "no") for x, c, y in zip(a, country, bought, strict=True)]


@dataclass
class Week:
    """The shop with its service and its commands."""

    command: Command
    shop: Shop
    url: str
    token: str

    def asks(self, day: int) -> None:
        """The day's requests."""
        rows = [{"a": a, "country": country} for a, country, _ in self.shop.rows(day, ASKED)]
        request = urllib.request.Request(
            f"{self.url}/v1/predict", json.dumps({"rows": rows}).encode(), {"Authorization": f"Bearer {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=300) as answer:
            assert len(json.load(answer)["predictions"]) == ASKED

    def new_data(self, day: int) -> None:
        """The table has the day's rows."""
        lines = [f"{a},{country},{bought}" for a, country, bought in self.shop.rows(day, ROWS)]
        (self.command.cwd / "shop.csv").write_text("\n".join(["a,country,bought", *lines]))

    def trains(self, *options: str) -> Done:
        """What the schedule does."""
        return self.command("train", "shop.yaml", "--in-process", *options)

    def serves(self, version: int) -> None:
        """Waits until the service has changed over to a version."""
        record = self.command.cwd / "home/.heliostat/services/shop.json"
        wait_for(lambda: json.loads(record.read_text())["version"] == str(version), f"version {version} in the service")


def test_a_week_of_new_data_a_drift_and_a_bad_candidate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = Command(tmp_path, clean_environment(tmp_path / "home"))
    (tmp_path / "shop.yaml").write_text(CONFIG)
    shop = Shop(np.random.default_rng(0))
    first = Week(command, shop, "", "")
    first.new_data(1)
    done = first.trains("--if-new")
    assert done.code == 0, done.err
    assert "shop@1, the champion" in done.out
    with served(command, "shop", "--sample", "1") as (url, token):
        week = Week(command, shop, url, token)
        codes, drifts = dict[int, int](), dict[int, int]()
        for day, options in (
            (2, ["--if-new"]), (3, ["--if-drift"]), (4, ["--if-new"]),
            (5, ["--if-new", "--set", "steps=1"]), (6, ["--if-new"]),
        ):  # fmt: skip
            week.asks(day)
            drifts[day] = command("model", "drift", "shop").code
            week.new_data(day)
            done = week.trains(*options)
            codes[day] = done.code
            assert done.code == (1 if day == 5 else 0), f"day {day}: {done.out}\n{done.err}"
            week.serves(day if day != 5 else 4)
        assert drifts == {2: 0, 3: 1, 4: 0, 5: 0, 6: 0}
        done = week.trains("--if-new")
        assert (done.code, "nothing is new: shop@6" in done.out) == (0, True), "the seventh is a day off"
    page = command("model", "list", "shop").out
    log = re.findall(r"(add|gate|promote) +(\d)", page.partition("\nlog ")[2])
    done_by_day = {str(day): ["promote", "gate", "add"] if day != 5 else ["gate", "add"] for day in range(1, 7)}
    assert {day: [what for what, of in log if of == day] for day in done_by_day} == done_by_day
    assert "shop@1 has drifted: a" not in page
    assert re.search(r"shop@2 has drifted: a, .*new data", page), "why it was trained on the third day"
    with capsys.disabled():
        print(f"\n{page}")
