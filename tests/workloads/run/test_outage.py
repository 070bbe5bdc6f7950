"""Storage that is unavailable, in every phase of a run: an S3 server behind a proxy that misbehaves, and a full disk."""

import errno
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from heliostat import folder as folder_module
from heliostat import retry
from heliostat.cli import main
from heliostat.errors import NoSpace, NotWritable, StorageUnavailable, UserError
from heliostat.folder import Folder
from heliostat.workloads.plan import prepare
from heliostat.workloads.run import background, lease
from heliostat.workloads.run.journal import read_journal
from heliostat.workloads.run.record import EVENTS, Result, read_result
from heliostat.workloads.run.report import write_report
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.loop import Loop
from tests.conftest import beside, wait_for
from tests.outage import Fault, Proxy
from tests.workloads.run.test_checkpoint import fill
from tests.workloads.training.test_loop import config, losses, train


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request is one attempt, and pauses are short."""
    monkeypatch.setattr(folder_module, "S3_ATTEMPTS", 1)
    for pause in ("FIRST_PAUSE", "LONGEST_PAUSE"):
        for module in (retry, background):
            monkeypatch.setattr(module, pause, 0.01)
    monkeypatch.setattr(retry, "_failed", {})
    monkeypatch.setattr(retry, "NOTICE_SECONDS", math.inf)  # all in a test is one outage, however long that takes


@contextmanager
def until_noticed(end: Callable[[], object]) -> Iterator[None]:
    """Call ``end`` as soon as an operation in the block has failed, or when the block is over."""
    before = dict(retry._failed)

    def wait(over: threading.Event) -> None:
        wait_for(lambda: retry._failed != before or over.is_set(), "failure")
        end()

    with beside(wait):
        yield


@pytest.mark.parametrize("fault", [500, 503, 429, 0.9, "stop"])
def test_what_a_store_does_not_answer_is_tried_again_and_said_once(
    proxy: Proxy, fault: Fault, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Folder.at(proxy.uri("runs"))
    folder.write("a", b"1")
    attempts: dict[str, Callable[[], object]] = {
        "read": lambda: folder.read("a") == b"1", "exists": lambda: folder.exists("a"), "names": folder.names,
        "write": lambda: folder.write("b", b"2"), "delete": lambda: folder.delete("b"),
    }  # fmt: skip
    for name, attempt in attempts.items():
        if fault == "stop":
            proxy.stop()
        else:
            proxy.fault = fault
        with until_noticed(proxy.start if fault == "stop" else partial(setattr, proxy, "fault", None)):
            assert attempt() is not False, name
    assert folder.names() == ["a"]
    assert capsys.readouterr().err.count("waiting for storage, for up to 900 s: s3://bucket/runs") == 1


def test_a_store_that_does_not_come_back_ends_the_waiting_with_what_to_do(proxy: Proxy) -> None:
    proxy.stop()
    began = time.monotonic()
    with pytest.raises(StorageUnavailable, match=r"storage s3://bucket/runs did not respond for 0\.5 s: .*onnect") as gave_up:
        Folder.at(proxy.uri("runs"), 0.5).names()
    assert time.monotonic() - began >= 0.5
    assert "the same command" in gave_up.value.fix
    proxy.start()


@pytest.mark.parametrize(("path", "fault"), [("runs", 403), ("runs", 400), ("nothing", None)])
def test_what_no_retry_helps_is_said_at_once(proxy: Proxy, path: str, fault: Fault, capsys: pytest.CaptureFixture[str]) -> None:
    """Access is denied, the credentials have expired, there is no such bucket."""
    proxy.fault = fault
    uri = proxy.uri("runs") if fault else proxy.uri("runs").replace("bucket", "nothing")
    assert main(["dataset", "build", "breast-cancer", uri]) == 2
    said = capsys.readouterr().err
    assert "cannot be" in said
    assert "credentials" in said
    assert "waiting" not in said


@pytest.mark.parametrize("name", ["EIO", "ESTALE", "ETIMEDOUT", "EAGAIN", "ENOSPC", "EDQUOT", "ECONNRESET", "EHOSTDOWN"])
def test_errors_of_a_network_filesystem_are_waited_for(tmp_path: Path, name: str) -> None:
    """A disk that is full is waited for only if there is work to lose."""
    left = [1, 2]
    folder = Folder.at(tmp_path).for_work(60)

    def attempt() -> str:
        with folder.write_errors():
            if left:
                left.pop()
                raise OSError(getattr(errno, name), name)
        return "done"

    assert folder.retried(attempt) == "done"
    left = [1]
    if name in ("ENOSPC", "EDQUOT"):
        with pytest.raises(NoSpace):
            Folder.at(tmp_path).retried(attempt)

    def fails(error: OSError | NotWritable) -> None:
        raise error

    for permanent in (FileNotFoundError(errno.ENOENT, "x"), NotWritable("w", "f"), OSError("a checksum of ours")):
        with pytest.raises(type(permanent)):
            folder.retried(partial(fails, permanent))


def test_a_run_in_a_store_that_refuses_every_first_request_is_the_same_run(proxy: Proxy, tmp_path: Path) -> None:
    """From the plan to the report, each kind of request fails once."""
    calm = config(tmp_path, steps=10, checkpoint_every=10, evaluate_every=10)
    train(calm)
    proxy.fault = "first"
    plan = prepare(calm.model_copy(update={"storage": proxy.uri("first")}))
    with plan.claim() as (owner, record, finished):
        assert finished is None
        outcome = Loop(plan.folder, record, Ranks.of_this_process(), time.time(), lease=owner.id).run()
        result = Result(name="run", run=plan.uri, **outcome.model_dump())
        write_report(plan.folder, record, result)
        plan.folder.write("result.json", result.model_dump_json().encode())
    assert losses(plan.folder) == losses(Folder.at(tmp_path / "run"))
    assert (read_result(plan.folder) or result).metrics == outcome.metrics
    events = [event["event"] for event in read_journal(plan.folder, EVENTS)]
    assert events.count("start") == events.count("evaluated") == 1
    assert lease.read_lease(plan.folder) is None
    kinds = (
        "index.json",
        ".arrow",
        "config.yaml",
        "events",
        "state.pt",
        "manifest.json",
        "report.html",
        "result.json",
        "lease-",
    )
    for kind in kinds:
        assert any(kind in line for line in proxy.requests), kind


def test_workers_that_start_on_a_full_disk_wait_for_space(
    tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = prepare(config(tmp_path, steps=10))
    train(data.config)
    plan = prepare(config(small_disk, steps=10, dataset={"path": data.dataset_uri}))
    record = plan.commit()[0]
    loop = Loop(plan.folder, record, Ranks.of_this_process(), time.time())
    inner = loop._step

    def killed(batch: Any) -> None:
        if loop.progress.step == 8:
            raise RuntimeError("killed")
        inner(batch)

    loop._step = killed  # type: ignore[method-assign]
    with pytest.raises(RuntimeError):
        loop.run()
    fill(small_disk / "other")
    with until_noticed((small_disk / "other").unlink):
        assert Loop(plan.folder, record, Ranks.of_this_process(), time.time()).run().state == "finished"
    assert losses(plan.folder) == losses(data.folder)
    assert "No space left on device" in capsys.readouterr().err


def test_a_full_disk_before_the_start_is_refused_at_once(small_disk: Path) -> None:
    fill(small_disk / "other")
    with pytest.raises(UserError, match="No space left on device"), lease.hold(Folder.at(small_disk / "run")):
        pass
