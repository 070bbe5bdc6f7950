"""heliostat runs open: what the page gets of a storage, who gets it, and what a browser makes of it."""

import asyncio
import json
import os
import secrets
import shutil
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import pytest
from aiohttp.test_utils import TestClient, TestServer

from heliostat.cli import main
from heliostat.cluster.ports import free_ports
from heliostat.cluster.targets.storage import InPlace
from heliostat.commands.runs import row_of
from heliostat.commands.runs.page import index, models, views
from heliostat.commands.runs.page.index import Index
from heliostat.commands.runs.page.places import Copies, Here
from heliostat.commands.runs.page.records import Records
from heliostat.commands.runs.page.server import Page
from heliostat.errors import JobFailed, UserError
from heliostat.folder import Folder
from heliostat.workloads.registry.log import Decision
from heliostat.workloads.registry.registry import Registry
from heliostat.workloads.run.charts import MOST, thinned
from heliostat.workloads.run.chunks import sealed
from heliostat.workloads.run.record import read_head
from tests.browser import browse
from tests.cluster.jobs.test_results import sent_by_job
from tests.conftest import ROOT, wait_for
from tests.store import Store
from tests.workloads.finished.test_registry import exported, manifest, put

T = TypeVar("T")
NASTY = "<img src=x onerror=alert(1)>"
TOKEN = "token"


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """A run, a script and a sweep of an earlier version, and a copy of the run with a name that is HTML."""
    place = tmp_path / "runs"
    shutil.copytree(ROOT / "tests/fixtures/v0.1/storage", place)
    shutil.copytree(place / "breast-cancer", place / NASTY)
    config = place / NASTY / "config.yaml"
    config.write_text(config.read_text().replace("lr: 0.003", "lr: 0.1"))
    (place / NASTY / "output-0.jsonl").write_bytes(sealed({"time": 1.0, "rank": 0, "printed": "<b>mine</b>\x1b[2J"}))
    (place / NASTY / "report.html").write_text("<script>parent.document.title = 1</script>")
    return place


@pytest.fixture
def registry(storage: Path, tmp_path: Path) -> Registry:
    """Three versions of ``cancer``: of the run, of one that is gone, and of another one that had the name of the run."""
    found = Registry(storage, "ada")
    created = read_head(Folder.at(storage / "breast-cancer"))[2]
    for text, name, trained, alias in (
        ("1", "breast-cancer", created, "champion"), ("2", "gone", created, "candidate"), ("3", "breast-cancer", 1.0, ""),
    ):  # fmt: skip
        export = exported(tmp_path / text, text)
        about = {"run": f"/moved/{name}", "run_name": name, "trained": trained, "intervals": {"accuracy": [0.85, 0.95]}}
        found.put("cancer", text * 16, manifest(export).model_copy(update=about), export, b"config: {}\n", alias, NASTY)
    found.decide(found.resolve("cancer@2"), Decision(passed=False, against=1, terms={}), "not better")
    return found


def page(storage: Path) -> Page:
    return Page(Here(Folder.at(storage)), TOKEN)


def asked(page: Page, use: Callable[["TestClient[Any, Any]"], Awaitable[T]]) -> T:
    async def ask() -> T:
        async with TestClient(TestServer(page.application())) as client:
            return await use(client)

    return asyncio.run(ask())


def documents(page: Page, *paths: str) -> list[tuple[int, dict[str, Any]]]:
    async def use(client: "TestClient[Any, Any]") -> list[tuple[int, dict[str, Any]]]:
        await client.get("/", params={"token": TOKEN})
        answers = [await client.get(path) for path in paths]
        return [(answer.status, await answer.json()) for answer in answers]

    return asked(page, use)


def test_only_those_with_the_token_see_anything_and_nobody_changes_anything(storage: Path) -> None:
    async def use(client: "TestClient[Any, Any]") -> None:
        for path in ("/", "/app.js", "/api/runs", "/api/run?name=sweep", "/report?name=sweep", "/?token=guess", "/nothing"):
            assert (await client.get(path)).status == 403, path
        entered = await client.get("/", params={"token": TOKEN}, allow_redirects=False)
        assert (entered.status, entered.headers["Location"]) == (303, "/"), "the token does not stay in the address"
        cookie = entered.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        shown = await client.get("/")
        assert shown.status == 200
        assert "script-src 'self'" in shown.headers["Content-Security-Policy"]
        for act in (client.post, client.put, client.delete):
            assert (await act("/api/runs")).status == 405
        assert (await client.get("/api/nothing")).status == 404
        report = await client.get("/report", params={"name": NASTY})
        assert report.status == 200
        assert report.headers["Content-Security-Policy"].startswith("sandbox allow-scripts; default-src 'none'")
        assert "heliostat report sweep" in await (await client.get("/report", params={"name": "sweep"})).text()

    asked(page(storage), use)


def test_the_list_is_filtered_and_sorted_and_what_is_wrong_is_said(storage: Path) -> None:
    paths = ("?sort=step&reverse=1", "?name=cancer", "?name=b*&kind=run", "?kind=sweep", "?sort=gone", "?state=finishd",
             "?offset=" + "9" * 5000)  # fmt: skip
    found = documents(page(storage), *(f"/api/runs{query}" for query in paths))
    names = [[row["name"] for row in document.get("rows", [])] for _, document in found]
    assert set(names[0]) == {"breast-cancer", NASTY, "counts", "sweep"}
    assert names[1:4] == [["breast-cancer"], ["breast-cancer"], ["sweep"]]
    assert found[3][1]["rows"][0]["progress"] == "3/3 trials"
    assert len(names[4]) == 4, "the metric of a run that is gone"
    assert found[5][0] == 400
    assert found[5][1]["fix"] == "did you mean finished?"
    assert (found[6][0], names[6]) == (200, [])


def test_names_lead_nowhere_but_to_runs_of_the_storage(storage: Path) -> None:
    shutil.copytree(storage / "breast-cancer", storage.parent / "outside")
    shutil.copytree(storage / "breast-cancer", storage / ".hidden")
    names = ("../outside", str(storage.parent / "outside"), ".hidden", "sweep/trials/../../breast-cancer", "gone", "")
    for status, document in documents(
        page(storage), *(f"/api/{view}?name={name}" for name in names for view in ("run", "log"))
    ):
        assert status == 400
        assert "there is no run" in document["error"]
    ((status, trial),) = documents(page(storage), "/api/run?name=sweep/trials/0000")
    assert (status, trial["kind"]) == (200, "run")


def test_new_points_arrive_and_what_has_not_changed_is_not_sent_again(storage: Path) -> None:
    shown = page(storage)
    metrics = storage / "breast-cancer" / "metrics.jsonl"

    def look(mark: str = "") -> dict[str, Any]:
        ((status, document),) = documents(shown, f"/api/run?name=breast-cancer&mark={mark}")
        assert status == 200
        return document

    before = look()
    assert {"same": True}.items() <= look(before["mark"]).items()
    with metrics.open("ab") as file:
        file.write(sealed({"time": 2e9, "kind": "train", "step": 99, "epoch": 3, "loss": 0.125, "samples_per_second": 1.0}))
    after = look(before["mark"])
    assert after["created"] <= after["attempts"][0]["started"]
    train = after["figures"][0]["option"]["series"][0]
    assert (train["name"], train["data"][-1]) == ("train", [99, 0.125])


def test_a_journal_that_was_cut_or_replaced_is_read_again(tmp_path: Path) -> None:
    """As a run that resumes does."""
    records, folder = Records(), Folder.at(tmp_path)
    lines = [sealed({"step": step}) for step in range(4)]
    for content, steps in (
        (lines[:3], [0, 1, 2]),
        (lines, [0, 1, 2, 3]),
        (lines[:1], [0]),
        ([lines[3], b'{"st'], [3]),
        ([], []),
    ):
        (tmp_path / "metrics.jsonl").write_bytes(b"".join(content))
        assert [record["step"] for record in records.read(folder, "metrics.jsonl")] == steps


def test_a_long_curve_is_thinned_and_keeps_its_extremes() -> None:
    points = [(step, float(step % 7)) for step in range(10_000)]
    points[1234], points[7777], points[50] = (1234, 99.0), (7777, -99.0), (50, float("nan"))
    kept = thinned(points)
    assert len(kept) <= MOST + 2
    assert [1234, 99.0] in kept
    assert [7777, -99.0] in kept
    assert kept == sorted(kept)
    assert (kept[0], kept[-1]) == ([0, 0.0], [9999, 3.0])


def test_runs_are_compared_with_their_differences_and_curves(storage: Path) -> None:
    ((_, found), (status, refused), (_, alone)) = documents(
        page(storage), f"/api/compare?run=breast-cancer&run={NASTY}", "/api/compare?run=breast-cancer&run=sweep",
        "/api/compare?run=breast-cancer",
    )  # fmt: skip
    differs = {key: values for key, marked, values in found["settings"] if marked}
    assert differs == {"optimizer.lr": ["0.003", "0.1"]}
    assert ["epochs", False, ["2", "2"]] in found["settings"]
    loss = next(figure for figure in found["figures"] if figure["title"] == "loss")
    assert [each["name"] for each in loss["option"]["series"]] == [
        f"{name} {part}" for name in ("breast-cancer", NASTY) for part in ("train", "validation")
    ]
    assert (status, "sweep is a sweep" in refused["error"]) == (400, True)
    assert "choose 2 to 12" in alone["fix"]


def test_a_sweep_has_its_figures_and_its_trials(storage: Path) -> None:
    ((_, found),) = documents(page(storage), "/api/run?name=sweep")
    assert found["figures"][0]["title"] == "Parallel coordinates"
    assert [each["name"] for each in found["figures"][0]["option"]["parallel"]] == ["optimizer.lr", "model.layers", "loss"]
    assert len(found["trials"]["rows"]) == 3
    assert found["trials"]["rows"][0]["run"], "a trial is a run of its own"


def test_the_models_have_their_versions_and_their_log_and_are_linked_with_their_runs(registry: Registry, storage: Path) -> None:
    ((_, all_of), (_, found), (_, run), (_, other), (status, gone)) = documents(
        page(storage), "/api/models", "/api/model?name=cancer", "/api/run?name=breast-cancer", f"/api/run?name={NASTY}",
        "/api/model?name=../breast-cancer",
    )  # fmt: skip
    (row,) = all_of["models"]
    assert (row["name"], row["versions"], row["champion"]) == (
        "cancer", 3, {"version": 1, "metric": "test accuracy 0.9000"},
    )  # fmt: skip
    assert "candidate" not in row, "the gate has stopped it"
    assert (row["last"]["what"], row["last"]["version"], row["last"]["by"], all_of["pending"]) == ("gate", 2, "ada", 0)
    assert [(each["version"], each["aliases"], each["run"], each["link"]) for each in found["rows"]] == [
        (3, "", "breast-cancer", ""), (2, "", "gone", ""), (1, "champion", "breast-cancer", "breast-cancer"),
    ]  # fmt: skip
    assert found["rows"][0]["interval"] == "0.8500 to 0.9500 (95 %)"
    assert found["rows"][2]["checksum"] == registry.resolve("cancer").checksum
    assert [(each["what"], each["version"], each["before"], each["why"], each.get("passed")) for each in found["log"]] == [
        ("gate", 2, 1, "not better", False), ("add", 3, 1, NASTY, None), ("add", 2, 1, NASTY, None),
        ("add", 1, None, NASTY, None),
    ]  # fmt: skip
    assert run["models"] == [{"model": "cancer", "version": 1, "aliases": "champion"}]
    assert other["models"] == []
    assert (status, gone["error"]) == (400, "there is no model '../breast-cancer' in this storage")


def test_a_change_of_a_model_arrives_also_on_the_page_of_its_run(
    registry: Registry, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "AGAIN", 0.0)
    shown = page(storage)
    ((_, before),) = documents(shown, "/api/run?name=breast-cancer")
    registry.promote("cancer@2", "by hand")
    ((_, found), (_, run)) = documents(shown, "/api/model?name=cancer", f"/api/run?name=breast-cancer&mark={before['mark']}")
    assert (found["champion"]["version"], found["log"][0]["why"]) == (2, "by hand")
    assert run["models"] == [{"model": "cancer", "version": 1, "aliases": ""}]


def test_a_model_that_cannot_be_read_says_so_and_hides_no_other(registry: Registry, storage: Path) -> None:
    shutil.copytree(storage / "models/cancer", storage / "models/broken")
    next((storage / "models/broken/versions").glob("2-*/version.json")).write_text("{")
    ((_, all_of), (status, found)) = documents(page(storage), "/api/models", "/api/model?name=broken")
    broken, whole = all_of["models"]
    assert ("version.json cannot be used" in broken["problem"], whole["versions"]) == (True, 3)
    assert (status, "model broken cannot be read" in found["error"]) == (400, True)
    (storage / "models/config.yaml").write_text("")
    ((_, none),) = documents(page(storage), "/api/models")
    assert none["models"] == [], "a run is called models"


def test_a_file_of_the_registry_is_read_once_and_a_look_reads_for_a_limited_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store()
    folder = store.folder("runs")
    for text in "12":
        put(Registry(folder, "ada"), exported(tmp_path / text, text), "champion")
    monkeypatch.setattr(models, "LONGEST", -1.0)  # one file a look
    shown, seen = models.Models(), []
    for _ in range(4):
        store.reads.clear()
        found = shown.look(folder)
        seen.append((len(found), shown.pending, len(store.reads)))
        if shown.pending:
            with pytest.raises(UserError, match="1 model is still being read"):
                models.shown(found, "m", folder, shown.pending)
    assert seen == [(0, 1, 1), (0, 1, 1), (0, 1, 1), (1, 0, 1)], "two versions and two entries of the log"
    monkeypatch.setattr(models, "LONGEST", 600.0)
    Registry(folder, "bob").rollback("m")
    store.reads.clear()
    assert [each.log[0].by for each in shown.look(folder)] == ["ada"], "looked at a moment before"
    assert store.reads == []
    shown._next = 0.0
    assert [(each.log[0].by, each.log[0].what) for each in shown.look(folder)] == [("bob", "rollback")]
    assert len(store.reads) == 1, "the new entry"


def test_what_workers_print_is_shown_as_it_can_be(storage: Path) -> None:
    ((_, found), (_, none)) = documents(page(storage), f"/api/log?name={NASTY}", "/api/log?name=sweep")
    assert found["lines"] == ["<b>mine</b>\\x1b[2J"]
    assert none["lines"] == []


def test_a_look_at_the_list_reads_no_more_than_its_budget_and_nothing_twice(
    storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counted(folder: Folder) -> Any:
        read.append(folder.name)
        return row_of(folder)

    monkeypatch.setattr(index, "row_of", counted)
    monkeypatch.setattr(index, "BUDGET", -1.0)  # one folder a look
    rows, place = Index(), Folder.at(storage)
    assert [(len(rows.rows(place)), rows.pending) for _ in range(4)] == [(1, 3), (2, 2), (3, 1), (4, 0)]
    assert sorted(read) == [name for name in place.names() if not name.startswith(".")]
    for limit in ("BUDGET", "LONGEST", "ANYWAY"):
        monkeypatch.setattr(index, limit, 600.0)
    monkeypatch.setattr(index, "OVER", 0.0)
    monkeypatch.setattr(index, "OPEN", 0.0)
    (storage / "breast-cancer" / "result.json").unlink()
    shutil.rmtree(storage / NASTY)
    states = {row["name"]: row["state"] for row in rows.rows(place)}
    assert read[4:] == ["breast-cancer"], "only what has changed"
    assert states == {"breast-cancer": "interrupted", "counts": states["counts"], "sweep": "finished"}


@pytest.mark.parametrize("claim", [False, True])
def test_a_clusters_storage_is_shown_from_copies(registry: Registry, storage: Path, tmp_path: Path, claim: bool) -> None:
    (tmp_path / "scratch").mkdir()
    with sent_by_job(storage.parent) if claim else nullcontext(InPlace(str(storage.parent))) as source:
        check_copies(Copies(source, "runs", "runs on gpu", tmp_path / "scratch"))


def check_copies(copies: Copies) -> None:
    shown = Page(copies, TOKEN)
    ((_, listed), (_, run), (_, log)) = documents(shown, "/api/runs", f"/api/run?name={NASTY}", f"/api/log?name={NASTY}")
    ((_, model),) = documents(shown, "/api/model?name=cancer")
    assert [each["link"] for each in model["rows"]] == ["", "", "breast-cancer"]
    assert listed["total"] == 4
    assert run["figures"]
    assert (run["report"], run["logs"]) == (True, True)
    assert log["lines"], "it is copied when it is asked for"


@pytest.mark.parametrize("error", [JobFailed("the connection was lost"), OSError(28, "No space left on device")])
def test_a_copy_that_fails_leaves_no_files_and_the_one_before_is_shown(storage: Path, tmp_path: Path, error: Exception) -> None:
    class Breaks(InPlace):
        broken = False

        def fetch(self, patterns: Any, to: Path) -> None:
            super().fetch(patterns, to)
            if self.broken:
                raise error

    (tmp_path / "scratch").mkdir()
    source = Breaks(str(storage.parent))
    copies = Copies(source, "runs", "runs on gpu", tmp_path / "scratch")
    before = [*(tmp_path / "scratch").iterdir()]
    source.broken = True
    copies._next = 0.0
    shown = copies.folder()
    wait_for(lambda: bool(copies.trouble()), "trouble")
    assert str(error) in copies.trouble()
    assert [*(tmp_path / "scratch").iterdir()] == before
    assert shown.names()


def test_the_command_prints_its_url_and_serves_until_ctrl_c(
    storage: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_ports(1)[0]
    monkeypatch.setattr(secrets, "token_urlsafe", lambda size: TOKEN)
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    got: list[bytes] = []

    def visit() -> None:
        def answers() -> bool:
            with suppress(urllib.error.URLError):
                got.append(opener.open(f"http://127.0.0.1:{port}/?token={TOKEN}").read())
            return bool(got)

        try:
            wait_for(answers, "the page")
            got.append(opener.open(f"http://127.0.0.1:{port}/api/runs").read())
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    visitor = threading.Thread(target=visit)
    visitor.start()
    assert main(["runs", "open", str(storage / NASTY), "--port", str(port)]) == 0
    visitor.join()
    view = "#/run/%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E"
    assert capsys.readouterr().out == f"http://127.0.0.1:{port}/?token={TOKEN}{view}\n"
    assert b"<title>Heliostat</title>" in got[0]
    assert json.loads(got[1])["total"] == 4


def test_a_place_that_is_none_is_refused(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, message in {
        (str(storage / "nothing"),): "does not exist",
        ("swep", "--storage", str(storage)): "did you mean sweep?",
        (str(storage), "--port", "99999"): "--port 99999 cannot be opened",
        (str(storage), "--host", "192.0.2.1"): "--host 192.0.2.1 --port 0 cannot be opened",
    }.items():
        assert main(["runs", "open", *options]) == 2
        assert message in capsys.readouterr().err


def test_a_browser_shows_a_name_that_is_html_as_text(registry: Registry, storage: Path, tmp_path: Path) -> None:
    """On a phone: the page of the run has its curves, that of a model its log, that of no run says so."""

    async def look() -> list[str]:
        async with TestServer(page(storage).application()) as server:
            views = (f"run/{quote(NASTY)}", "run/gone", "model/cancer")
            urls = [f"{server.make_url('/')}?token={TOKEN}#/{view}" for view in views]
            options = ("--window-size=390,900", "--virtual-time-budget=3000", "--dump-dom")
            return [await asyncio.to_thread(browse, url, tmp_path / "profile", *options) for url in urls]

    run, gone, model = asyncio.run(look())
    assert model.count(">&lt;img src=x onerror=alert(1)&gt;</td>") == 3, "why"
    assert "<img" not in model
    assert 'href="#/run/breast-cancer"' in model
    assert "there is no run 'gone' in this storage" in gone
    assert ">reading<" not in gone
    assert "<h1>&lt;img src=x onerror=alert(1)&gt;</h1>" in run
    assert "<img" not in run
    assert run.count("<canvas") >= 4, "its curves"
    assert "0.9333" in run, "its test accuracy"


def test_all_views_have_names_that_are_checked() -> None:
    assert views.NAME.fullmatch("a/trials/0001")
    assert not views.NAME.fullmatch("a/b")
