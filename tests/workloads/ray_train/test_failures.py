"""What follows a worker's failure: the decision alone, on the errors that real workers raise."""

import pickle
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from heliostat.errors import JobFailed, UserError
from heliostat.workloads.ray_train.failures import (
    Failures,
    RestartRequested,
    WorkerFailed,
    first_failure,
    kind_of,
    worker_failed,
)

GROUP = ("heliostat.workloads.training.distributed", "torch.distributed.distributed_c10d")
"""The modules of a collective."""


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def raised_in(error: BaseException, *modules: str) -> BaseException:
    """An exception that code of the last module has raised, which that of the one before it has called, and so on."""
    line = "raise error"
    call: Callable[[], None] | None = None
    for module in reversed(modules):
        there: dict[str, Any] = {"__name__": module, "error": error, "call": call}
        exec(f"def function():\n    {line}", there)
        line, call = "call()", there["function"]
    assert call
    try:
        call()
    except BaseException as caught:
        return caught
    raise AssertionError


def lost_peer() -> BaseException:
    return raised_in(RuntimeError("Connection closed by peer [10.0.0.2]:1234"), *GROUP)


def timeout() -> BaseException:
    return raised_in(RuntimeError("Timed out waiting 5000ms for recv"), *GROUP)


def error_at(step: int, text: str = "cuda error 719", rank: int = 0, at: float = 1.0) -> WorkerFailed:
    return worker_failed(raised(RuntimeError(text)), rank, step, at)


def test_a_restart_after_a_checkpoint_is_never_charged() -> None:
    failures = Failures(most=0)
    for step in range(20):
        decision = failures.decide({0: RestartRequested("drain", step), 1: RestartRequested("drain", step)}, saved=step)
        assert decision.retry
        assert not decision.charged


def test_failures_with_a_checkpoint_between_them_are_always_retried() -> None:
    failures = Failures(most=1)
    for step in range(1, 30):
        assert failures.decide({0: RuntimeError("Worker died: SIGKILL")}, saved=step).retry


def test_failures_without_a_new_checkpoint_end_the_run_and_back_off() -> None:
    failures = Failures(most=3)
    decisions = [failures.decide({1: RuntimeError("died: SIGKILL")}, saved=7) for _ in range(4)]
    assert [v.retry for v in decisions] == [True, True, True, False]
    assert [v.wait for v in decisions[:3]] == [0.0, 1.0, 2.0]
    assert isinstance(decisions[3].error, JobFailed)
    assert "worker 1 was killed, by a signal" in str(decisions[3].error)
    assert "max_failures 3" in str(decisions[3].error)


def test_the_same_step_that_fails_three_times_in_the_same_way_is_the_users_error() -> None:
    failures = Failures(most=100)
    decisions = [failures.decide({0: error_at(5, f"bad value at 0x{n}")}, saved=4) for n in range(3)]
    assert [v.retry for v in decisions] == [True, True, False]
    assert "the same step failed 3 times with this error" in str(decisions[2].error)
    assert "RuntimeError: bad value" in str(decisions[2].error)


def test_other_steps_or_other_errors_are_no_repetition() -> None:
    failures = Failures(most=100)
    ends = [error_at(5), error_at(6), error_at(7), error_at(5, "ECC"), error_at(5)]
    assert all(failures.decide({0: end}, saved=4).retry for end in ends)


def test_a_mistake_in_the_code_is_not_retried() -> None:
    decision = Failures(most=100).decide({0: worker_failed(raised(TypeError("no such argument")), 0, 3, 1.0)}, saved=0)
    assert not decision.retry
    assert str(decision.error).startswith("worker 0 failed after step 3:\n  File ")
    assert str(decision.error).endswith("TypeError: no such argument")


def test_the_worker_that_failed_first_is_the_one_that_is_reported() -> None:
    """The others lose their connection to it, and may report that earlier."""
    ends = {
        0: worker_failed(lost_peer(), 0, 8, 1.0),
        1: error_at(9, "second", rank=1, at=5.0),
        2: error_at(9, "first", rank=2, at=4.0),
    }
    rank, first = first_failure(ends)
    assert rank == 2
    assert "first" in str(first)


def test_a_user_error_takes_precedence() -> None:
    wrong = UserError("lr is x", "set it")
    decision = Failures(most=9).decide({0: error_at(1), 1: wrong}, saved=0)
    assert decision.error is wrong
    assert not decision.retry


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "memory"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "error"),
        (KeyError("pixels"), "mistake"),
        (SystemExit(0), "mistake"),
        (FileNotFoundError(2, "No such file or directory", "weights.pt"), "mistake"),
    ],
)
def test_kinds(error: BaseException, kind: str) -> None:
    assert kind_of(raised(error)) == kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Timed out waiting 1000ms for recv operation to complete", "timeout"),
        ("timed out after 5 s: rank 0 did not join", "timeout"),
        ("Connection closed by peer [127.0.0.1]:3", "peer_lost"),
        ("Connection reset by peer", "peer_lost"),
    ],
)
def test_only_what_waits_for_other_workers_reports_a_lost_one(text: str, kind: str) -> None:
    """The user's own database, or a library that asks it, may say the same."""
    step, user = "heliostat.workloads.training.step", "tasks"
    waits: Sequence[Sequence[str]] = (
        GROUP,
        (step, "torch._tensor", "torch.autograd.graph"),
        (step, user, "torch.distributed.nn"),
    )
    others: Sequence[Sequence[str]] = (
        (user,),
        (step, user, "database"),
        (step, "torch.nn.modules.module", user),
        (step, "torch_of_others"),
    )
    for modules in waits:
        assert kind_of(raised_in(RuntimeError(text), *modules)) == kind
    for modules in others:
        assert kind_of(raised_in(RuntimeError(text), *modules)) == "error"
        assert kind_of(raised_in(ConnectionRefusedError(111, "Connection refused"), *modules)) == "error"


def test_a_connection_that_the_users_code_is_refused_ends_the_run_with_its_traceback() -> None:
    failures = Failures(most=9)
    error = raised_in(ConnectionRefusedError(111, "Connection refused"), "tasks", "socket")
    decisions = [
        failures.decide({0: worker_failed(error, 0, 3, 1.0), 1: worker_failed(lost_peer(), 1, 3, 0.5)}, 0) for _ in "123"
    ]
    assert [decision.retry for decision in decisions] == [True, True, False]
    assert "the same step failed 3 times" in (said := str(decisions[-1].error))
    assert "ConnectionRefusedError: [Errno 111] Connection refused" in said
    assert decisions[-1].cause == "error"


def test_what_torch_says_of_a_store_that_others_do_not_reach_is_a_timeout() -> None:
    with pytest.raises(dist.DistError) as late:
        dist.TCPStore("127.0.0.1", 0, 2, True, timeout=timedelta(milliseconds=10))  # type: ignore[attr-defined]
    assert kind_of(late.value) == "timeout"


def test_an_error_deep_in_a_library_shows_the_frame_of_the_users_code() -> None:
    def users_loss() -> None:
        nn.Sequential(nn.Sequential(nn.Linear(3, 2)))(torch.ones(1, 7))

    with pytest.raises(RuntimeError) as caught:
        users_loss()
    text = str(worker_failed(caught.value, 0, 3, 1.0))
    assert "in users_loss" in text
    assert "torch/nn/modules/linear.py" in text
    assert "cannot be multiplied (1x7 and 3x2)" in text


def test_the_reason_of_a_long_message_is_its_first_line() -> None:
    text = "CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n"
    noted = raised(RuntimeError(text))
    noted.add_note("a note")
    decision = Failures(most=9).decide({2: worker_failed(noted, 2, 3, 1.0)}, saved=0)
    assert decision.reason == "worker 2: RuntimeError: CUDA error: device-side assert triggered"


def test_out_of_memory_names_the_peak_and_what_to_set() -> None:
    failure = worker_failed(raised(torch.OutOfMemoryError("CUDA out of memory")), 1, 3, 1.0)
    assert "the peak was" in str(failure)
    assert "GiB" in str(failure)
    assert "set micro_batch to a smaller divisor" in str(failure)
    assert not Failures(most=9).decide({1: failure}, saved=0).retry


def test_two_timeouts_at_the_same_step_end_the_run() -> None:
    failures = Failures(most=9)
    ends = [worker_failed(timeout(), 1, 3, 1.0, missing=[2]) for _ in range(2)]
    assert [failures.decide({1: end}, saved=0).retry for end in ends] == [True, False]


def test_a_timeout_names_the_ranks_that_did_not_reach_the_collective() -> None:
    failure = worker_failed(timeout(), 1, 3, 1.0, missing=[2, 5])
    assert "a collective timed out after step 3; ranks that did not reach it: 2, 5" in str(failure)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("The actor is dead because its node has died. Node Id: 62d8", "was lost with its node"),
        (
            "The actor c2a71106 is unavailable: The actor is temporarily unavailable: RpcError: RPC error: recvmsg:Connection "
            "reset by peer rpc_code: 14. The task may or may not have been executed on the actor.",
            "does not respond",
        ),
        (
            "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
            "unexpectedly exits with a connection error code 2. End of file. (1) the process was killed by the OOM killer for "
            "memory, consider enabling resource isolation to prevent node deaths",
            "was killed, by a signal or by the kernel's OOM killer",
        ),
        ("Worker exit type: NODE_OUT_OF_MEMORY", "its node ran out of memory"),
    ],
)
def test_what_ray_reports_of_a_dead_worker_is_one_line(text: str, meaning: str) -> None:
    assert meaning in Failures(most=9).decide({3: RuntimeError(text)}, saved=0).reason


@pytest.mark.parametrize("error", [RestartRequested("grow", 3), error_at(5)])
def test_failures_can_be_pickled(error: Exception) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)
