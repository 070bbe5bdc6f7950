import json
from pathlib import Path

import numpy as np
import pytest

from heliostat.cli import main
from heliostat.cluster.planner.fleet import Fleet, NodeGroup
from heliostat.cluster.planner.hours import hourly
from heliostat.cluster.planner.plan import mix, plan
from heliostat.cluster.planner.search import front, search
from heliostat.cluster.planner.study import study
from heliostat.cluster.planner.trace import Trace
from heliostat.cluster.profile import find
from heliostat.commands.plan import scaling
from heliostat.commands.plan.show import beyond
from tests.cluster.planner.jobs import jobs

TRACE = str(Path(__file__).parent / "itp" / "cluster10.csv")
PROFILE = str(Path(__file__).parents[2] / "benchmarks" / "itp.yaml")
NODE = NodeGroup("gpu", 8, most=4, start_seconds=100, idle_seconds=50, price=3600, on_demand=3600)
DAY = jobs(*((day * 2000 + n * 5, 400, 8) for day in range(12) for n in range(3)))
"""Three jobs at once, twelve times, with long pauses."""


def test_a_plan_compares_with_static_fleets_of_the_same_wait() -> None:
    found = plan(DAY, Fleet((NODE,)))
    assert found.target == 100
    own, peak, static = (found.row(name) for name in ("profile", "peak static", "cheapest static"))
    assert own.cost == pytest.approx(12 * 3 * (100 + 400 + 50))
    assert (peak.nodes, static.nodes) == (3, 3)
    assert found.bound == pytest.approx(12 * 3 * 400)
    assert found.saving(own.cost) == pytest.approx(1 - own.cost / (3 * static.outcome.seconds))
    assert found.row("reserved static").cost == pytest.approx(static.cost / 2)


def test_the_mix_reserves_what_is_used_most_of_the_time() -> None:
    busy = jobs(*((n * 500, 500, 8) for n in range(40)), *((9000 + n, 50, 8) for n in range(3)))
    _, nodes, cost = mix(jobs(*sorted(zip(busy.submitted, busy.seconds, busy.gpus, strict=True))), Fleet((NODE,)))
    assert nodes == 1
    assert cost < 40 * 500


def test_the_search_finds_a_short_time_out_and_for_no_wait_nodes_that_are_always_up() -> None:
    fleet = Fleet((NODE,))
    tried, found = search(DAY, fleet, 100, trials=15)
    assert found is not None
    assert found.fleet.groups[0].idle_seconds <= 12
    assert found.fleet.groups[0].least == 0
    assert found.fleet.groups[0].most == NODE.most  # a lower one saves nothing
    _, standing = search(DAY, fleet, 0, trials=15)
    assert standing is not None
    assert standing.fleet.groups[0].least == 3
    costs = [each.cost for each in front(tried)]
    assert costs == sorted(costs)
    assert search(DAY, Fleet((NodeGroup("gpu", 8, most=1, price=1),)), 10, trials=5)[1] is None


def test_min_by_the_hour_is_found_where_jobs_come_at_the_same_hour_each_day() -> None:
    daily = jobs(*((day * 86400 + 10 * 3600 + 600, 1000, 8) for day in range(1, 22) for _ in range(3)))
    weeks = hourly(daily, Fleet((NODE,)), 1.0)[0]
    assert {hour % 24 for hour, nodes in enumerate(weeks) if nodes == 3} == {10}
    assert sum(weeks) == 3 * 7
    _, plain = search(daily, Fleet((NODE,)), 0, trials=10)
    _, found = search(daily, Fleet((NODE,)), 0, trials=10, beyond=True)
    assert found is not None
    assert plain is not None
    assert found.beyond == "min by the hour"
    assert found.cost < plain.cost / 5
    assert found.wait == 0
    whole = study("daily", Trace(daily), Fleet((NODE,)), 0, trials=10)
    (group,) = whole.document()["beyond"]["groups"]
    assert (len(group["min_by_hour"]), max(group["min_by_hour"])) == (168, 3)
    (text,) = beyond(whole)
    assert text.startswith("planned, min by the hour: group gpu with min: 0 to 3 by the hour of the week (--json has all). ")
    assert [row.name for row in whole.plan.rows[:3]] == ["profile", "planned", "planned, min by the hour"]


def test_elastic_jobs_are_used_where_they_save() -> None:
    # A job of one GPU keeps a node of eight, for which it is seven times as fast.
    lone = jobs(*((n * 5000, 1000, 1) for n in range(10))).growing(8)
    _, found = search(lone, Fleet((NODE,)), 100, trials=10, beyond=True)
    assert found is not None
    assert found.ranges == "above"
    assert found.cost == pytest.approx(10 * (100 + 1000 / 8**0.9 + 10), rel=0.01)
    compared = plan(lone, Fleet((NODE,)))
    times = [compared.row(name).outcome.times.mean() for name in ("profile, elastic jobs", "profile", "one job at a time")]
    assert times == pytest.approx([100 + 1000 / 8**0.9, 1100, 1000])


def test_one_job_at_a_time_is_as_slow_as_it_sounds() -> None:
    alone = plan(DAY, Fleet((NODE,))).row("one job at a time")
    assert alone.nodes == 1
    assert alone.cost == pytest.approx(11 * 2000 + 1200)
    assert alone.outcome.times[:3].tolist() == [400, 795, 1190]
    assert alone.outcome.utilisation == pytest.approx(12 * 3 * 400 / (11 * 2000 + 1200))


def test_the_command_prints_a_table_and_writes_the_profile_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "planned.yaml"
    assert main(["plan", PROFILE, "--trace", TRACE, "--wait-p95", "10m", "--trials", "6", "--write", str(path)]) == 0
    out = capsys.readouterr().out
    for part in (
        "profile itp",
        "planned",
        "one job at a time",
        "peak static",
        "cheapest static",
        "reserved static",
        "lower bound",
        "min: 0, max: ",
    ):
        assert part in out
    group = find(str(path)).groups[0]
    assert (group.min, group.gpu, group.start_seconds) == (0, 8, 240)
    assert find(str(path)).name == "itp"
    assert main(["profile", "check", str(path)]) == 0
    assert main(["plan", PROFILE, "--trace", TRACE, "--wait-p95", "10m", "--write", str(path)]) == 2
    assert "it was not changed" in capsys.readouterr().err


def test_the_speed_of_elastic_jobs_is_fitted_to_measured_speeds() -> None:
    assert scaling("0.8") == 0.8
    assert scaling("1:100,2:180,4:324") == pytest.approx(np.log2(1.8))


def test_the_command_says_what_a_profile_cannot_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ranged.csv"
    path.write_text(
        "job_id,submission_time,duration,num_gpu,max_gpu\n" + "".join(f"{n},{n * 9000},900,1,8\n" for n in range(20))
    )
    assert main(["plan", PROFILE, "--trace", str(path), "--wait-p95", "10m", "--trials", "5"]) == 0
    out = capsys.readouterr().out
    assert "planned, elastic jobs: with " in out
    assert "as workers: [least, most], and not the profile" in " ".join(out.split())
    assert main(["plan", PROFILE, "--trace", str(path), "--elastic", "8"]) == 2
    assert "ranged.csv has ranges of its own" in capsys.readouterr().err


def test_the_command_plans_several_traces_and_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", PROFILE, "--trace", TRACE, TRACE, "--set", "groups.gpu.max=5"]) == 0
    assert "median saving of profile" in capsys.readouterr().out
    assert main(["plan", PROFILE, "--trace", TRACE, "--json", "--set", "groups.gpu.max=1"]) == 0
    (document,) = json.loads(capsys.readouterr().out)["traces"]
    assert document["never_fit"] == 0 < len(document["remarks"])
    assert "jobs never fit" in document["remarks"][0]
    assert document["fleets"][0]["nodes"] == 1


def test_a_page_shows_cost_against_waiting(tmp_path: Path) -> None:
    path = tmp_path / "plan.html"
    assert main(["plan", PROFILE, "--trace", TRACE, "--wait-p95", "10m", "--trials", "4", "--report", str(path)]) == 0
    text = path.read_text()
    comparison = (
        "one job at a time, on nodes always up",
        "a static fleet that all share",
        "nodes follow the jobs",
        "GPUs used",
    )
    for part in ("<svg", "static fleets", "planned", "cheapest static", "cluster10.csv", "Before and after", *comparison):
        assert part in text
    options = ["--wait-p95", "0", "--trials", "1", "--set", "groups.gpu.max=2", "--report", str(path)]
    assert main(["plan", PROFILE, "--trace", TRACE, *options]) == 0
    text = " ".join(path.read_text().split())
    assert "that was tried keeps 0 s: allow a longer wait" in text or "in what is reported here: allow a longer wait" in text
    assert "with the same wait target" not in text


def test_the_page_of_a_plan_of_cents_shows_cents_and_one_job_is_one_job(tmp_path: Path) -> None:
    trace, page = tmp_path / "one.csv", tmp_path / "plan.html"
    trace.write_text("job_id,submission_time,duration,num_gpu\na,0,36,1\n")
    options = ["--set", "groups.gpu.gpu=1", "--set", "groups.gpu.price_per_hour=1"]
    assert main(["plan", PROFILE, "--trace", str(trace), *options, "--report", str(page)]) == 0
    text = " ".join(page.read_text().split())
    assert "1 job in 4 min 36 s, 0.01 GPU-hours" in text
    assert "(profile, 1 node)" in text
    assert 'jobs\' GPU-hours</td><td></td><td></td><td class="number" data-name="cost">0.01</td>' in text


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--wait-p95", "ten"], ["--wait-p95 is ten", "10m"]),
        (["--trials", "0", "--fit", "1", "--reserved", "0", "--checkpoints", "0"], ["4 problems", "--fit is 1.0"]),
        (["--write", "x.yaml"], ["--write needs a search"]),
        (["--report", "/no/such/folder/x.html"], ["/no/such/folder is not a folder"]),
        (["--elastic", "1", "--scaling", "1:100"], ["--elastic is 1, but", "--scaling is 1:100, which gives no exponent"]),
        (["--set", "groups.gpu.gpu=0"], ["none of 260 jobs fits"]),
        (["--set", "groups.gpu.price_per_hour=0"], ["the nodes of gpu cost nothing"]),
        (
            ["--set", "groups.gpu.market=spot", "--checkpoints", "10h", "--interruptions", "5"],
            ["hardly ever end", "--checkpoints 5m"],
        ),
        (["--set", "platform=local", "--set", "storage={uri: .}", "--replay", "5"], ["is local"]),
    ],
)
def test_wrong_options_are_refused_before_anything_runs(
    options: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", PROFILE, "--trace", TRACE, *options]) == 2
    error = capsys.readouterr().err
    for part in expected:
        assert part in error
