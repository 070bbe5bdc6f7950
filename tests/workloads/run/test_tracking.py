"""Trackers and webhooks: what they have of a run after restarts and outages, and what is said."""

import json
import math
import shutil
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from pyarrow import fs
from tensorboardX.proto.event_pb2 import Event  # type: ignore[import-untyped]

from heliostat.cli import main
from heliostat.environment import IN_A_JOB
from heliostat.errors import JobFailed, Stopped, UserError
from heliostat.folder import Folder
from heliostat.tuning.config import SweepConfig
from heliostat.tuning.tracking import SweepReader
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.plan import prepare
from heliostat.workloads.run.journal import Journal
from heliostat.workloads.run.lease import Lease, hold
from heliostat.workloads.run.record import METRICS, read_record
from heliostat.workloads.tracking import driver, events, send, tensorboard
from heliostat.workloads.tracking.choice import maker
from heliostat.workloads.tracking.driver import later, tracked
from heliostat.workloads.tracking.mlflow import MLflow
from heliostat.workloads.tracking.runs import RunReader, identity
from heliostat.workloads.tracking.send import Sender, Session
from heliostat.workloads.tracking.tracker import Tracked
from heliostat.workloads.tracking.wandb import WandB
from heliostat.workloads.tracking_config import Notify
from tests.conftest import ROOT
from tests.workloads.training.test_loop import config, record_of

OWN = '''
from pathlib import Path

from heliostat.config import Config
from heliostat.workloads.tracking import Tracker


class Lines(Tracker):
    """Appends each value to a file, where it finds what it has; not available while there is a file `away`."""

    class Options(Config):
        place: str

    def open(self, run):
        self.file = Path(self.options.place, "lines")
        self.where = str(self.file)
        self.file.touch()
        return {name: int(step) for name, step, _ in map(str.split, self.file.read_text().splitlines())}

    def log(self, points):
        if Path(self.options.place, "away").exists():
            raise ConnectionError("connection refused")
        with open(self.file, "a") as file:
            file.writelines(f"{name} {point.step} {value}\\n" for point in points for name, value in point.values.items())
'''


HERE = [{"CPU": 2.0, "GPU": 0.0}]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a tracker of one's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "trackers.py").write_text(OWN)
    sys.modules.pop("trackers", None)
    return tmp_path


def events_in(place: Path) -> list[Event]:
    """The events of a folder's files, in the order in which TensorBoard reads them."""
    found = []
    for file in sorted(place.glob("events.out.tfevents.*")):
        data, at = file.read_bytes(), 0
        while at < len(data):
            size = struct.unpack_from("<Q", data, at)[0]
            content = data[at + 12 : at + 12 + size]
            assert events.record(content) == data[at : at + 16 + size], "checksums"
            found.append(Event.FromString(content))
            at += 16 + size
    return found


def scalars(place: Path, name: str) -> list[tuple[int, float]]:
    return [(e.step, v.simple_value) for e in events_in(place) for v in e.summary.value if v.tag == name]


def log(journal: Journal, first: int, last: int) -> None:
    """The records of these steps, as the loop writes them; an evaluation every five."""
    for step in range(first, last + 1):
        journal.append(kind="train", step=step, epoch=0, loss=math.nan if step == 3 else 1 / step, lr=0.1)
        if step % 5 == 0:
            journal.append(kind="eval", step=step, epoch=0, metrics={"accuracy": step / 100}, seconds=0.1)


def send_to(item: Any, run: Folder) -> Session:
    """One session, up to what the record has now."""
    session = Session(maker(item))
    session.update(RunReader(run)("running"))
    return session


def test_each_step_is_there_once_after_a_kill_and_a_restart_of_the_workers(folder: Path) -> None:
    run, _ = record_of(config(folder))
    own = {"trackers:Lines": {"place": str(folder)}}
    journal = Journal(run, METRICS)
    log(journal, 1, 22)
    for item in ("tensorboard", own):
        send_to(item, run)  # and the process is killed
    torn = next((folder / "run/tensorboard").iterdir())
    torn.write_bytes(torn.read_bytes()[:-7])
    journal.rewind(10)
    log(journal, 11, 30)
    for item in ("tensorboard", own):
        session, reader = Session(maker(item)), RunReader(run)
        session.update(reader("running"))
        journal.rewind(20)  # the workers restart, the driver goes on
        log(journal, 21, 40)
        session.update(reader("running"))
        session.update(reader("finished"))
        journal.rewind(30)
    steps = [step for step in range(1, 41) if step != 3]
    loss = scalars(folder / "run/tensorboard", "train/loss")
    assert [step for step, _ in loss] == steps
    assert [value for _, value in loss] == pytest.approx([1 / step for step in steps])
    assert [step for step, _ in scalars(folder / "run/tensorboard", "validation/accuracy")] == list(range(5, 41, 5))
    lines = (folder / "lines").read_text().splitlines()
    assert [line.split()[1] for line in lines if line.startswith("train/loss ")] == [str(step) for step in steps]
    assert [line for line in lines if line.startswith("validation/")] == [
        f"validation/accuracy {step} {step / 100}" for step in range(5, 41, 5)
    ]


def test_an_error_is_said_with_its_cause_and_without_a_password() -> None:
    try:
        try:
            raise ConnectionRefusedError(111, "Connection refused")
        except OSError as error:
            raise OSError(f"request to http://me:hidden@example.com/api has failed {'x' * 200}") from error
    except OSError as error:
        said = send.reason(error)
    assert said.startswith("request to http://example.com/api has failed xx")
    assert said.endswith("...: [Errno 111] Connection refused")


def test_in_an_object_store_event_files_are_written_again_in_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard, "CHUNK", 300)
    store = Folder(fs.SubTreeFileSystem(str(folder), fs.LocalFileSystem()), "run")  # it cannot append
    run, _ = record_of(config(folder))
    log(Journal(run, METRICS), 1, 20)
    read = RunReader(run)("running")[0]
    for _ in range(2):
        tracker = tensorboard.TensorBoard(tensorboard.TensorBoard.Options())
        tracker.open(replace(read, folder=store))
        for point in read.points:
            tracker.log([point])
    place = folder / "run/tensorboard"
    assert len(list(place.iterdir())) > 3
    assert [step for step, _ in scalars(place, "train/loss")] == [step for step in range(1, 21) if step != 3]


def test_mlflow_is_used_with_a_server_or_a_database_and_without_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for uri, words in {
        None: "MLFLOW_TRACKING_URI is not set",
        "http://me:hidden@example.com": "has a user or a password",
        "https://hidden@example.com": "has a user or a password",
        "mlruns": "mlruns, a folder, which MLflow does not write",
    }.items():
        with pytest.raises(UserError, match=words) as refused:
            MLflow.resolved(MLflow.Options(uri=uri), ".")
        assert "hidden" not in str(refused.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hidden@example.com")
    assert MLflow.resolved(MLflow.Options(), ".").model_dump() == {"uri": None, "experiment": None}


def test_a_tracker_that_is_away_is_said_once_and_gets_everything_when_it_is_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(send, "POLL", 0.01)
    run, _ = record_of(config(folder))
    log(Journal(run, METRICS), 1, 20)
    away, said, back = folder / "away", list[tuple[str, str]](), threading.Event()
    away.touch()

    def say(event: str, text: str) -> None:
        said.append((event, text))
        if event == "delayed":
            away.unlink()
        back.set() if event == "continued" else None

    sender = Sender("mine", maker({"trackers:Lines": {"place": str(folder)}}), partial(RunReader, run), say)
    sender.start()
    assert back.wait(120)
    sender.end("finished")
    sender.join(120)
    assert [event for event, _ in said] == ["delayed", "continued"]
    assert "connection refused" in said[0][1]
    assert "the run goes on" in said[0][1]
    assert sum(line.startswith("train/loss") for line in (folder / "lines").read_text().splitlines()) == 19


def test_a_run_is_tracked_while_it_trains_and_its_end_does_not_wait_for_a_tracker_that_is_away(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], hook: "Hook"
) -> None:
    monkeypatch.setattr(driver, "LAST_SECONDS", 0.1)
    monkeypatch.setattr(driver, "GRACE", 300.0)  # a busy machine may not have started the process that tracks before
    (folder / "away").touch()
    (folder / "c.yaml").write_text(f"""
task: tabular-classification
dataset: {{source: breast-cancer}}
steps: 20
log_every: 1
evaluate_every: 10
tracking: [tensorboard, {{trackers:Lines: {{place: .}}}}]
notify: {hook.url}
""")
    assert main(["train", "c.yaml", "--in-process"]) == 0
    said = capfd.readouterr().err
    assert "tracking: trackers:Lines" in said
    assert "heliostat runs track" in said
    assert "--to trackers:Lines" in said
    assert [post["state"] for post in hook.posts] == ["finished"]
    assert hook.posts[0]["text"].startswith("c is finished: loss ")
    assert hook.posts[0]["metrics"]["test"]["accuracy"] > 0.3
    (folder / "away").unlink()
    assert main(["runs", "track", "c"]) == 0
    for steps in (
        [step for step, _ in scalars(folder / "runs/c/tensorboard", "train/loss")],
        [int(line.split()[1]) for line in (folder / "lines").read_text().splitlines() if line.startswith("train/loss")],
    ):
        assert steps == list(range(1, 21))
    assert len(scalars(folder / "runs/c/tensorboard", "test/accuracy")) == 1
    assert (folder / "runs/c/code/trackers.py").exists()


def test_a_sweep_and_its_trials_each_have_a_folder_with_hyperparameters(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sweep of version 0.1, sent later."""
    shutil.copytree(ROOT / "tests/fixtures/v0.1/storage", folder / "storage")
    for _ in range(2):
        assert main(["runs", "track", "sweep", "--storage", "storage", "--to", "tensorboard"]) == 0
    assert "tensorboard has sweep" in capsys.readouterr().out
    place = folder / "storage/sweep/tensorboard"
    runs = SweepReader(Folder.at(folder / "storage/sweep"))("finished")
    assert [run.title for run in runs] == ["sweep", "sweep/0000", "sweep/0001", "sweep/0002"]
    assert {run.parent for run in runs[1:]} == {runs[0].id}
    assert "optimizer.lr" in runs[1].params
    for run in runs[1:]:
        tags = [value.tag for event in events_in(place / run.trial) for value in event.summary.value]
        assert tags.count("_hparams_/session_start_info") == tags.count("_hparams_/session_end_info") == 1
        assert "validation/accuracy" in tags
    assert [step for step, _ in scalars(place, "best/loss")] == [1, 2, 3]


def test_a_run_that_is_driven_or_has_no_tracker_is_not_sent(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, _ = record_of(config(folder))
    assert main(["runs", "track", str(folder / "run")]) == 2
    assert "name a tracker: --to mlflow" in capsys.readouterr().err
    with hold(run):
        assert main(["runs", "track", str(folder / "run"), "--to", "tensorboard"]) == 2
    assert "its driver sends what there is to send" in capsys.readouterr().err
    assert main(["runs", "track", str(folder / "run"), "--to", "trackers:Lines"]) == 2
    assert "tracking.trackers:Lines.place is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tracking", "words"),
    [
        ("ml-flow", ("'ml-flow' is neither a tracker", "did you mean mlflow?")),
        ([3, "wand"], ("3 is not a name", "'wand'", "did you mean wandb?")),
        (["wandb", "wandb"], ("wandb is given twice",)),
        ([{"wandb": {"api_key": "x"}}], ("tracking.wandb.api_key is not a known key", "project")),
        ([{"mlflow": {"experiment": "a"}}], ("needs the package mlflow-skinny", "pip install 'heliostat[mlflow]'")),
        (["wandb"], ("needs the package wandb", "requirements: [wandb]")),
        (["nowhere:Mine"], ("there is no module nowhere", "create nowhere.py")),
        (["trackers:Liens"], ("has no class Liens", "did you mean Lines?")),
        (["trackers:Path"], ("is not a Tracker",)),
        (["trackers:Lines", {"tensorboard": {"dir": "x"}}], ("has 2 problems", "place is missing", "tensorboard.dir")),
    ],
)
def test_a_tracker_that_cannot_work_is_refused_before_the_start(folder: Path, tracking: Any, words: Sequence[str]) -> None:
    with pytest.raises(UserError) as refused:
        prepare(made(folder, tracking=tracking), HERE)
    assert all(word in str(refused.value) for word in words), refused.value
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    ("notify", "words"),
    [
        ({}, ("exactly one of url and env",)),
        ("hooks.example.com/x", ("begins with http://",)),
        ("https://hooks.slack.com/services/T/B/hidden", ("hooks.slack.com is a secret", "{env: SLACK_WEBHOOK}")),
        ("https://me:hidden@example.com", ("of example.com is a secret",)),
        ({"env": "NO_SUCH_HOOK"}, ("NO_SUCH_HOOK, but that variable is not set", "--env NO_SUCH_HOOK")),
        ({"env": "A_HOOK"}, ("notify.env is A_HOOK, whose value is not an address",)),
        ({"url": "https://example.com", "on": ["done"]}, ("notify", "finished")),
    ],
)
def test_a_webhook_that_cannot_work_is_refused_and_no_secret_is_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch, notify: Any, words: Sequence[str]
) -> None:
    monkeypatch.setenv("A_HOOK", "hidden")
    with pytest.raises(UserError) as refused:
        prepare(made(folder, notify=notify), HERE)
    assert all(word in str(refused.value) for word in words), refused.value
    assert "hidden" not in str(refused.value)


def made(folder: Path, **changes: Any) -> TrainConfig:
    from heliostat.config import validate

    return validate({**config(folder).model_dump(mode="json"), **changes}, TrainConfig)


def test_tracking_may_change_when_a_run_or_a_sweep_is_resumed(folder: Path) -> None:
    plain = config(folder)
    changed = {"tracking": ["tensorboard"], "notify": "https://example.com/x"}
    assert made(folder, **changed).hash == plain.hash
    sweep = {"name": "s", "train": {}, "space": {"optimizer.lr": {"choice": [1, 2]}}, "algorithm": "grid"}
    assert SweepConfig.model_validate({**sweep, **changed}).hash == SweepConfig.model_validate(sweep).hash


class Hook:
    """A webhook that is not available for a number of requests, and then keeps what it gets."""

    def __init__(self) -> None:
        self.posts: list[dict[str, Any]] = []
        self.refused = 0
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                found = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                hook.refused -= 1
                if hook.refused < 0:
                    hook.posts.append(found)
                self.send_response(200 if hook.refused < 0 else 503)
                self.end_headers()

            def log_message(self, *args: Any) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"


@pytest.fixture
def hook() -> Iterator[Hook]:
    found = Hook()
    thread = threading.Thread(target=found.server.serve_forever)
    thread.start()
    yield found
    found.server.shutdown()
    found.server.server_close()
    thread.join()


def end(error: BaseException | None, *receivers: Notify, taken: bool = False) -> None:
    """A run that ends with this error."""
    summary: Callable[[], dict[str, Any]] = lambda: {"metrics": {"validation": {"accuracy": 0.5}}, "cost": 0.25}  # noqa: E731
    owner = Lease(Folder.at("runs/a"))
    owner.lost = "another driver" if taken else None
    with tracked("runs/a", "a", [], receivers, owner, summary):
        if error:
            raise error


def test_a_webhook_gets_the_ends_that_it_wants_also_after_an_outage(
    hook: Hook, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("A_HOOK", hook.url)
    monkeypatch.setattr("heliostat.workloads.tracking.notify.PAUSE", 0.0)
    receivers = [Notify(env="A_HOOK", on=["failed", "stopped"]), Notify(url="http://127.0.0.1:1/secret?key=hidden")]
    hook.refused = 1
    with pytest.raises(JobFailed):
        end(JobFailed("no memory\n  more"), receivers[0])
    with pytest.raises(Stopped):
        end(Stopped("stopped"), *receivers)
    end(None, receivers[0])
    with pytest.raises(JobFailed):
        end(JobFailed("taken over"), receivers[0], taken=True)
    assert [post["state"] for post in hook.posts] == ["failed", "stopped"]
    assert hook.posts[0]["text"] == "a has failed: accuracy 0.5000, cost 0.25, no memory"
    assert hook.posts[0]["run"] == "runs/a"
    with pytest.raises(JobFailed):
        end(JobFailed("no memory"), receivers[1])
    said = capsys.readouterr().err
    assert "notify: http://127.0.0.1:1/secret was not told that a has failed" in said
    assert "hidden" not in said


def test_a_job_says_how_to_send_the_rest_from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert later("runs/a", "mlflow") == "heliostat runs track runs/a --to mlflow sends what is missing"
    monkeypatch.setenv(IN_A_JOB, json.dumps({"metadata": {"on": "gpu"}}))
    assert later("/mnt/runs/a", "mlflow") == "heliostat runs track /mnt/runs/a --to mlflow --on gpu sends what is missing"


class Account(ModuleType):
    """Stands in for wandb and its server, of which there is none here: keeps the rows of each run by its ID."""

    Settings = dict

    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs: dict[str, dict[str, Any]] = {}

    def init(self, **given: Any) -> Any:
        kept = self.runs.setdefault(given["id"], {"rows": []})
        kept |= {key: given[key] for key in ("name", "group", "job_type", "mode", "resume")}
        rows = kept["rows"]
        return SimpleNamespace(step=rows[-1] + 1 if rows else 0, url="https://w", log=lambda values, step: rows.append(step))


def test_a_resumed_run_is_the_same_one_in_wandb_and_trials_are_a_group(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    account = Account()
    monkeypatch.setitem(sys.modules, "wandb", account)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run, _ = record_of(config(folder))
    journal = Journal(run, METRICS)
    log(journal, 1, 2)
    send_to("wandb", run)
    log(journal, 4, 9)
    send_to("wandb", run)  # the driver was killed, and the run is resumed, in a job perhaps
    ((number, kept),) = account.runs.items()
    assert (number, kept["name"], kept["resume"], kept["job_type"]) == (identity(read_record(run)), "run", "allow", "train")
    assert sorted({*kept["rows"]}) == [1, 2, 4, 5, 6, 7, 8, 9]
    assert kept["group"] is None, "that of WANDB_RUN_GROUP"
    sweep = Tracked(id="0" * 16, name="s", folder=run, created=0.0, sweep=True)
    for each in (sweep, replace(sweep, id="1" * 16, trial="0000", parent=sweep.id)):
        WandB(WandB.Options()).open(each)
    found = [(each["name"], each["group"], each["job_type"]) for each in account.runs.values()]
    assert found[1:] == [("s", "s", "sweep"), ("s/0000", "s", "trial")]
    for given, mode in (("disabled", "disabled"), ("dryrun", "offline")):
        monkeypatch.setenv("WANDB_MODE", given)
        WandB(WandB.Options()).open(sweep)
        assert (account.runs[sweep.id]["mode"], account.runs[sweep.id]["resume"]) == (mode, None)
