"""The cost of a cluster, from the record of its nodes: all parts add up, whatever the jobs on them were and did."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliostat.cli import main
from heliostat.cluster.advice import advice
from heliostat.cluster.cost import KINDS, NONE, charges, in_cents, keys, priced, rows
from heliostat.cluster.history import history
from heliostat.cluster.in_pod.record import Interval, Record, RecordedJob, parse
from heliostat.cluster.in_pod.recorder import line
from heliostat.cluster.profile import Profile
from heliostat.cluster.static_fleets import cheapest_fleet, peak_fleet
from heliostat.commands.train.then import named_by_data
from heliostat.errors import UserError
from heliostat.workloads.run.chunks import sealed
from tests.conftest import Done

HOUR = 3600.0
T0 = datetime(2026, 11, 25, 12).timestamp()
PROFILE = Profile.model_validate(
    {
        "name": "priced",
        "platform": "local",
        "storage": {"uri": "runs"},
        "head": {"price_per_hour": 0.5},
        "groups": [{"name": "gpu", "gpu": 4, "max": 2, "price_per_hour": 10, "idle_seconds": 120}],
    }
)


@dataclass(frozen=True)
class Span:
    kind: str
    begin: float
    end: float
    workers: int = 1


def interval(state: str, begin: float, end: float, node: str = "a", price: float | None = 10.0, **work: float) -> Interval:
    """An interval of a node with 4 GPUs; times are in hours."""
    return Interval(node, node, "gpu", "spot", price, 4, state, T0 + begin * HOUR, T0 + end * HOUR, work)


def job(id: str, run: str = "", status: str = "SUCCEEDED", command: str = "", **labels: str) -> RecordedJob:
    return RecordedJob(id, run, command, status, labels, None, None)


def record(*intervals: Interval, jobs: tuple[RecordedJob, ...] = (), end: float = 4) -> Record:
    return Record(T0, T0 + end * HOUR, intervals, [], {each.id: each for each in jobs})


def spent(found: Record, by: str = "group", **goodput: list[Span]) -> dict[str, dict[str, float]]:
    """What each key cost, by kind, without zeros."""
    table = rows(charges(found, goodput), keys(by, found))
    return {row.key: {kind: round(money, 6) for kind, money in row.money.items() if money} for row in table}


def test_each_second_of_a_node_is_charged_to_the_jobs_that_held_it_and_the_rest_is_idle() -> None:
    found = record(
        interval("starting", 0, 0.5), interval("busy", 0.5, 1.5, one=0.5, two=0.25), interval("idle", 1.5, 2),
        interval("unknown", 2, 3),
        jobs=(job("one", "digits"), job("two", status="FAILED")),
    )  # fmt: skip
    assert spent(found) == {"gpu": {"starting": 5, "productive": 5, "lost": 2.5, "idle": 7.5, "unrecorded": 10}}
    assert spent(found, "run") == {
        NONE: {"starting": 5, "idle": 7.5, "unrecorded": 10}, "digits": {"productive": 5}, "two": {"lost": 2.5},
    }  # fmt: skip


def test_the_goodput_of_a_run_divides_what_its_job_held() -> None:
    spans = [
        Span("starting", T0 + 0.5 * HOUR, T0 + HOUR), Span("productive", T0 + HOUR, T0 + 1.75 * HOUR),
        Span("recomputed", T0 + 1.75 * HOUR, T0 + 2 * HOUR), Span("evaluating", T0 + 2 * HOUR, T0 + 2.5 * HOUR),
    ]  # fmt: skip
    found = record(interval("busy", 0, 3, one=1.0), jobs=(job("one", "digits"),))
    assert spent(found, digits=spans) == {"gpu": {"starting": 10, "productive": 7.5, "recomputed": 2.5, "overhead": 10}}


def test_a_job_that_continues_a_run_starts_again_and_is_lost_if_it_did_not_come_to_it() -> None:
    spans = [Span("productive", T0, T0 + HOUR), Span("productive", T0 + 2.5 * HOUR, T0 + 3 * HOUR)]
    jobs = [
        replace(job(name, "digits", status), begin=T0 + begin * HOUR, end=T0 + (begin + 1) * HOUR)
        for name, status, begin in (("one", "LOST", 0), ("two", "FAILED", 1), ("three", "SUCCEEDED", 2))
    ]
    found = record(
        interval("busy", 0, 1, one=1.0), interval("busy", 1, 2, two=1.0), interval("busy", 2, 3, three=1.0), jobs=tuple(jobs)
    )
    assert spent(found, digits=spans) == {"gpu": {"productive": 15, "lost": 10, "starting": 5}}


def test_the_trials_of_a_sweep_weigh_as_many_workers_as_they_have() -> None:
    spans = [Span("productive", T0, T0 + HOUR, 3), Span("starting", T0, T0 + HOUR, 1)]
    found = record(interval("busy", 0, 1, one=1.0), jobs=(job("one", "search"),))
    assert spent(found, search=spans) == {"gpu": {"productive": 7.5, "starting": 2.5}}


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("submitter", {"ann": 10, "bob": 10, NONE: 20}),
        ("sweep", {"search": 10, NONE: 30}),
        ("label", {"team=vision": 10, NONE: 30}),
        ("day", {"2026-11-25": 20, "2026-11-26": 20}),
    ],
)
def test_a_row_is_what_by_says(by: str, expected: dict[str, float]) -> None:
    found = record(
        interval("busy", 10, 12, one=0.5, two=0.5), interval("idle", 12, 14),
        jobs=(
            job("one", "digits", submitter="ann", team="vision"),
            job("two", "search", command="python -P -m heliostat sweep digits.yaml", submitter="bob"),
        ),
    )  # fmt: skip
    table = rows(charges(found, {}), keys(by, found))
    assert {row.key: round(row.total, 6) for row in table} == expected


TIMES = st.floats(0, 50)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["starting", "idle", "busy", "unknown"]), TIMES, TIMES, st.floats(0, 1.2)), max_size=20),
    st.lists(st.tuples(st.sampled_from(["productive", "idle", "nodes", "data"]), TIMES, TIMES, st.integers(0, 4)), max_size=12),
)
def test_the_parts_are_the_whole_to_the_cent(nodes: list[tuple[Any, ...]], spans: list[tuple[Any, ...]]) -> None:
    intervals = [
        interval(state, begin, begin + length, node=str(n), **({"one": share} if state == "busy" and share else {}))
        for n, (state, begin, length, share) in enumerate(nodes)
        if length
    ]
    goodput = [Span(kind, T0 + begin * HOUR, T0 + (begin + length) * HOUR, w) for kind, begin, length, w in spans if length]
    found = record(*intervals, jobs=(job("one", "digits"),))
    whole = sum(each.seconds / HOUR * 10 for each in intervals)
    for by in ("group", "run", "day"):
        table = rows(charges(found, {"digits": goodput}), keys(by, found))
        assert sum(row.total for row in table) == pytest.approx(whole)
        cents = in_cents(table)
        parts = sum(round(row.money[kind] * 100) for row in cents for kind in KINDS)
        assert abs(parts - whole * 100) <= 0.5 + 1e-6
        exact = [row.money[kind] - given.money[kind] for row, given in zip(cents, table, strict=True) for kind in KINDS]
        assert all(abs(change) < 0.01 + 1e-9 for change in exact)


def test_a_static_fleet_has_the_most_nodes_that_there_were_at_once() -> None:
    found = record(interval("busy", 0, 1), interval("busy", 0.5, 2, "b"), interval("idle", 2, 3, "c"))
    static = peak_fleet(found, PROFILE)
    assert (static.nodes, static.money) == ({"gpu": 2}, 2 * 4 * 10)
    replaced = record(*found.intervals, interval("starting", 0.9, 1.5, "d"))
    assert peak_fleet(replaced, PROFILE).nodes == {"gpu": 2}, "not more than the profile's maximum"


def test_the_cheapest_static_fleet_keeps_the_wait_that_was_recorded() -> None:
    # Three jobs of a node each at the same time, of which each has waited half an hour: two nodes one after the other do too.
    jobs = tuple(replace(job(name), begin=T0) for name in "abc")
    found = record(*(interval("busy", 0.5, 1, each.id, **{each.id: 1.0}) for each in jobs), jobs=jobs)
    peak, static = peak_fleet(found, PROFILE), cheapest_fleet(found, PROFILE, history(found, PROFILE))
    assert static is not None
    assert (peak.nodes, static.nodes, static.jobs, static.wait) == ({"gpu": 2}, {"gpu": 2}, 3, HOUR / 2)
    assert static.money == 2 * 4 * 10
    late = record(*(interval("busy", 1, 1.5, each.id, **{each.id: 1.0}) for each in jobs), jobs=jobs)
    static = cheapest_fleet(late, PROFILE, history(late, PROFILE))
    assert static is not None
    assert (static.nodes, static.node_hours, static.gpu_hours) == ({"gpu": 1}, 4, 16)
    assert cheapest_fleet(record(), PROFILE, history(record(), PROFILE)) is None


def test_the_advice_is_what_a_shorter_idle_time_would_have_saved() -> None:
    states = [
        each
        for n in range(41)
        for each in (interval("starting", n, n + 0.005, str(n)), interval("busy", n + 0.005, n + 0.2, str(n), one=1.0),
                     interval("idle", n + 0.2, n + 0.2 + 120 / HOUR, str(n)))
    ]  # fmt: skip
    (found,) = advice(record(*states, end=50), PROFILE)
    assert (found.group, found.instead, found.idle_nodes, found.starts) == ("gpu", 5, 41, 0)
    assert found.saved == pytest.approx(41 * 115 / HOUR * 10)
    assert found.text.startswith("group gpu was idle for more than 5 s 41 times: idle_seconds: 5 instead of 120 would have")
    between = [interval("starting", 0, 0.1), interval("busy", 0.1, 1), interval("idle", 1, 1.01), interval("busy", 1.01, 2)]
    assert advice(record(*between), PROFILE) == [], "the node would have had to start again, which costs more"
    kept = PROFILE.model_copy(update={"groups": [PROFILE.groups[0].model_copy(update={"min": 1})]})
    assert advice(record(*states, end=50), kept) == []


def test_a_price_that_was_not_recorded_is_the_profiles_or_refused() -> None:
    found = record(interval("idle", 0, 1, price=None))
    assert spent(priced(found, PROFILE)) == {"gpu": {"idle": 10}}
    old = replace(found, intervals=[replace(found.intervals[0], group="old")])
    with pytest.raises(UserError, match="nodes of group old, whose price is neither in the record nor in its profile"):
        priced(old, PROFILE)


# The command.

NODE = {
    "e": "node", "name": "gpu-1", "group": "gpu", "market": "spot", "price": 36.0, "gpus": 2, "asked": T0, "begin": T0,
    "until": None,
}  # fmt: skip
JOB = {
    "e": "job", "id": "digits-1", "run": "digits", "command": "", "status": "RUNNING", "driver": "01", "begin": T0, "end": None,
    "labels": {"submitter": "ann"},
}  # fmt: skip


@dataclass(frozen=True)
class Here:
    """The command in this process, in a folder."""

    cwd: Path
    captured: pytest.CaptureFixture[str]

    def __call__(self, *words: str) -> Done:
        code = main(list(words))
        found = self.captured.readouterr()
        return Done(code, found.out, found.err)


def write_record(folder: Path) -> None:
    """``mine.yaml``, a profile, and the record of its cluster, which is gone: 100 s at 36 $/h, of which 40 s are a run's."""
    group = "{name: gpu, gpu: 2, gpu_type: T4, max: 1, idle_seconds: 120}"
    (folder / "mine.yaml").write_text(f"name: mine\nplatform: local\ngroups: [{group}]\nstorage: {{uri: store}}\n")
    lines: list[dict[str, Any]] = [
        {"t": T0, "e": "start"}, {"t": T0, "id": "a", **NODE, "state": "starting", "work": {}},
        {"t": T0 + 20, "id": "a", **NODE, "state": "busy", "work": {"digits-1": 1.0}}, {"t": T0 + 20, **JOB},
        {"t": T0 + 60, "id": "a", **NODE, "state": "idle", "work": {}}, {"t": T0 + 60, **JOB, "status": "SUCCEEDED"},
        {"t": T0 + 100, "e": "gone", "id": "a", "end": T0 + 100}, {"t": T0 + 101, "e": "off"},
    ]  # fmt: skip
    nodes = folder / "store/.nodes/local/mine/2026-11"
    nodes.mkdir(parents=True)
    (nodes / "25T120000-ab12cd34-0001.jsonl").write_bytes(b"".join(map(line, lines)))
    run = folder / "store/runs/digits"
    run.mkdir(parents=True)
    events: dict[str, list[dict[str, Any]]] = {
        "attempts": [{"event": e, "time": T0 + t, "workers": 1} for e, t in (("launched", 20), ("running", 30), ("ended", 60))],
        "events": [{"event": "first_step", "step": 0, "time": T0 + 40}],
        "metrics": [],
    }
    for name, records in events.items():
        (run / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    write_record(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return Here(tmp_path, capsys)


SINCE = ("--since", "2026-11-25T00:00")


def test_a_cluster_that_is_gone_still_says_what_it_cost(mine: Here) -> None:
    done = mine("cost", "mine.yaml", *SINCE, "--until", "2026-11-25T12:01:41")
    assert done.code == 0, done.err
    table = [row.split() for row in done.out.splitlines()[1:4]]
    assert table[0] == ["group", "node-hours", "GPU-hours", "cost", "$", "productive", "starting", "idle"]
    assert table[1] == ["gpu", "0.03", "0.06", "1.00", "0.20", "0.40", "0.40"]
    assert table[2] == ["all", *table[1][1:]]
    static = "in the same time, at the same prices: 1 gpu, $1.01; this is 1% less."
    assert f"A static fleet of the peak size {static}" in done.out
    assert f"The cheapest static fleet with the same wait (95 % of 1 job waited at most 20 s) {static}" in done.out
    assert "idle_seconds: 5 instead of 120 would have saved $0.35 (35%)" in done.out
    assert "Not recorded" not in done.out


def at_price(mine: Here, price: float) -> None:
    """Give the node of the record another price."""
    for path in mine.cwd.glob("store/.nodes/local/mine/*/*"):
        lines = [json.loads(text.rpartition(b" ")[0]) for text in path.read_bytes().splitlines()]
        path.write_bytes(b"".join(line(each | {"price": price} if "price" in each else each) for each in lines))


def test_costs_below_a_cent_are_compared_as_they_are(mine: Here) -> None:
    at_price(mine, 0.1)
    done = mine("cost", "mine.yaml", *SINCE, "--until", "2026-11-25T12:01:41")
    assert done.out.splitlines()[2].split() == ["gpu", "0.03", "0.06", "0.00"]
    assert "1 gpu, $0.00281; this is 1% less" in done.out


def test_nodes_without_a_price_are_divided_in_node_hours(mine: Here) -> None:
    at_price(mine, 0.0)
    done = mine("cost", "mine.yaml", *SINCE)
    assert done.out.splitlines()[2].split() == ["gpu", "0.03", "0.06", "0.00", "0.01", "0.01", "0.01"]
    assert "No node has a price, so the columns after cost $ are node-hours" in done.out


def test_large_costs_are_grouped(mine: Here) -> None:
    at_price(mine, 432_000.0)
    done = mine("cost", "mine.yaml", *SINCE, "--until", "2026-11-25T12:01:41")
    assert done.out.splitlines()[2].split() == ["gpu", "0.03", "0.06", "12,000.00", "2,400.00", "4,800.00", "4,800.00"]
    assert "1 gpu, $12,120.00; this is" in done.out
    assert "would have saved $4,200.00" in done.out


def as_json(out: str) -> Any:
    found = json.loads(out)
    rows = {row["key"]: round(row["total"], 9) for row in found["rows"]}
    return rows, round(found["cost"], 9), len(found["intervals"])


def as_csv(out: str) -> Any:
    header, *table = csv.reader(io.StringIO(out))
    costs = {row[0]: float(row[header.index("cost $")]) for row in table}
    assert costs.pop("static fleet of the peak size") == costs.pop("cheapest static fleet with the same wait") > 0
    return costs, costs.pop("all"), 3


@pytest.mark.parametrize(("shape", "parsed"), [("--json", as_json), ("--csv", as_csv)])
def test_it_is_printed_for_programs(mine: Here, shape: str, parsed: Callable[[str], Any]) -> None:
    done = mine("cost", "mine.yaml", *SINCE, "--by", "submitter", shape)
    assert parsed(done.out) == ({NONE: 0.6, "ann": 0.4}, 1.0, 3)


def test_a_run_has_its_own_share(mine: Here) -> None:
    done = mine("cost", "digits", "--on", "mine.yaml", *SINCE, "--by", "run", "--csv")
    assert done.out.splitlines()[1:] == ["digits,0.0111,0.0222,0.4,0.2,0.2", "all,0.0111,0.0222,0.4,0.2,0.2"]


IF_NEW = "python -P -m heliostat train nightly.yaml --if-new"
BY_DATA = named_by_data("nightly", "f6ea3b4dec833a4cc6debc3556451b3f")


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize(
    ("run", "cluster", "command"),
    [
        ("nightly-20261125-1200", "nightly-11251200-x", ""),
        (BY_DATA, "nightly-11251200-x", IF_NEW[:20]),
        (BY_DATA, "", IF_NEW),
    ],
)
def test_a_job_is_divided_by_the_goodput_of_its_run_whose_name_has_the_time_or_the_data(
    mine: Here, run: str, cluster: str, command: str, before: bool
) -> None:
    """Scheduled ones and those with ``--if-new``; also if there was a run of the very name before."""
    runs = mine.cwd / "store/runs"
    (runs / "digits").rename(runs / run)
    if before:
        shutil.copytree(runs / run, runs / "nightly")
        for path in (runs / "nightly").iterdir():
            records = [json.loads(text) for text in path.read_text().splitlines()]
            path.write_text("".join(json.dumps({**each, "time": each["time"] - HOUR}) + "\n" for each in records))
    (file,) = (mine.cwd / "store/.nodes/local/mine/2026-11").iterdir()
    lines, _ = parse(file.read_bytes())
    lines[0] |= {"cluster": cluster, "until": T0 + 7200} if cluster else {}
    about = {"run": "nightly", "command": command, "asked": T0}
    file.write_bytes(b"".join(line({**each, **about} if "id" in each else each) for each in lines))
    done = mine("cost", "nightly", "--on", "mine.yaml", *SINCE, "--by", "run", "--csv")
    header, row, _ = done.out.splitlines()
    assert header == "run,node-hours,GPU-hours,cost $,productive,starting"
    assert row == "nightly,0.0111,0.0222,0.4,0.2,0.2"


def test_a_run_of_its_own_whose_name_looks_like_data_is_no_part_of_another(mine: Here) -> None:
    (mine.cwd / "store/runs/digits").rename(mine.cwd / "store/runs/digits-20261125")
    (file,) = (mine.cwd / "store/.nodes/local/mine/2026-11").iterdir()
    lines, _ = parse(file.read_bytes())
    other = [{**each, "id": "other-1", "run": "digits-20261125"} for each in lines if each.get("e") == "job"]
    changed = [{**each, "command": IF_NEW} if each.get("e") == "job" else each for each in lines]
    file.write_bytes(b"".join(map(line, [*changed, *other])))
    row = json.loads(mine("cost", "digits", "--on", "mine.yaml", *SINCE, "--json").out)["rows"][0]
    assert {key: round(money, 6) for key, money in row["money"].items() if money} == {"productive": 0.4}


@pytest.mark.parametrize(("state", "kind"), [("finished", "productive"), ("failed", "lost")])
def test_a_sweep_is_divided_by_what_became_of_its_trials(mine: Here, state: str, kind: str) -> None:
    start = {"where": "", "price": None, "workers": 1, "gpus": 1}
    end = {"state": state, "values": {}, "metrics": {}, "step": 1, "message": ""}
    records: list[dict[str, Any]] = [
        {"event": "session", "slots": 1, "time": T0 + 30},
        {"event": "trial", "trial": 0, "params": {}, "key": "", "twin": None, "time": T0 + 30},
        {"event": "start", "trial": 0, **start, "time": T0 + 40}, {"event": "end", "trial": 0, **end, "time": T0 + 60},
    ]  # fmt: skip
    sweep = mine.cwd / "store/runs/digits"
    (sweep / "journal").mkdir()
    (sweep / "journal/000000.jsonl").write_bytes(b"".join(map(sealed, records)))
    row = json.loads(mine("cost", "digits", "--on", "mine.yaml", *SINCE, "--json").out)["rows"][0]
    assert {key: round(money, 6) for key, money in row["money"].items() if money} == {kind: 0.2, "starting": 0.2}


def test_a_page_shows_it(mine: Here) -> None:
    done = mine("cost", "mine.yaml", *SINCE, "--report", "cost.html")
    assert (done.code, done.out) == (0, "cost.html\n"), done.err
    page = (mine.cwd / "cost.html").read_text()
    for text in ("Cost of mine", "$1.00", "nodes by what they did", "dollars an hour", ">digits</td>", "idle_seconds: 5"):
        assert text in page
    assert page.count("<svg") == 2


def test_the_jobs_of_the_record_are_a_trace_for_the_planner(mine: Here) -> None:
    done = mine("plan", "mine.yaml", "--from-record", *SINCE, "--json", "--set", "groups.gpu.start_seconds=10")
    assert done.code == 0, done.err
    (found,) = json.loads(done.out)["traces"]
    assert (found["trace"], found["jobs"], found["gpu_hours"]) == ("the record of mine", 1, pytest.approx(80 / HOUR))
    real, simulated = found["fleets"][:2]
    assert (real["fleet"], simulated["fleet"]) == ("as recorded", "profile")
    # In reality 100 s at 36 $/h until its end at 60 s; the last time-out is only in the simulation.
    assert (real["cost"], real["mean_wait"], real["mean_time"]) == pytest.approx((0.6, 20, 60))
    assert real["utilisation"] == pytest.approx(40 / 60)
    assert simulated["groups"][0]["busy_hours"] == pytest.approx(40 / HOUR)
    assert mine("plan", "mine.yaml", "--from-record", *SINCE, "--report", "plan.html").code == 0
    assert "as it ran, by the record" in (mine.cwd / "plan.html").read_text()
    for words, part in (
        (("--from-record", "--since", "1s"), "the record of mine has no job of that time that can be planned, but no job"),
        (("--from-record", "other"), "there is no profile other"),
        (("--trace", "jobs.csv", *SINCE), "--since and --until choose a part of a record"),
        (("--from-record", "--time-zone", "UTC"), "--time-zone is of a trace's times"),
    ):
        done = mine("plan", "mine.yaml", *words)
        assert done.code == 2
        assert part in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("mine.yaml", "--since", "yesterday"), "--since is yesterday, which is not a time\n  fix: give an age such as 90m"),
        (("mine.yaml", "--since", "1h", "--until", "2h"), "--since and --until are not a period in the past"),
        (("mine.yaml", "--until", "2999-01-01"), "--since and --until are not a period in the past"),
        (("digitz", "--on", "mine.yaml", *SINCE), "no job of digitz is in the record\n  fix: did you mean digits?"),
        (("digits",), "there is no profile digits"),
        (("digits",), "Then add --on PROFILE"),
        (("mine.yaml", "--until", "2026-11-25T00:00"), "the storage of mine has no record of its nodes in that time"),
        (("mine.yaml", "--set", "name=other"), "has no record of its nodes in that time\n  fix: heliostat up mine.yaml starts"),
    ],
)
def test_what_is_not_there_is_named(mine: Here, words: tuple[str, ...], message: str) -> None:
    done = mine("cost", *words)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err


def test_a_run_that_is_not_in_the_record_is_named(mine: Here) -> None:
    for cluster, job, run in (("mine", "digits-1", "digits"), ("mine", "brief-1", "brief"), ("other", "theirs-1", "theirs")):
        about = {"id": job, "cluster": cluster, "run": run, "command": "", "started": T0 - 10, "ended": None, "exit_code": None}
        (folder := mine.cwd / "store/.jobs" / job).mkdir(parents=True)
        (folder / "job.json").write_text(json.dumps(about))
    assert "Not in the record: brief; each ran in a gap of the record" in mine("cost", "mine.yaml", *SINCE).out
    for words in (("brief", "--on", "mine.yaml", *SINCE), ("mine.yaml", *SINCE, "--until", "2026-11-25T12:00:00")):
        done = mine("cost", *words)
        assert (done.code, "not in the record: brief; each ran in a gap of the record" in done.err) == (2, True), done.err


def test_labels_that_are_none_are_all_listed(mine: Here) -> None:
    done = mine("submit", "mine.yaml", "--label", "team", "--label", "a=1", "--label", "a=2", "--", "true")
    assert done.code == 2
    assert (
        "--label team is not a label; --label a=1 gives a twice; --label a=2 gives a twice\n  fix: write KEY=VALUE" in done.err
    )
