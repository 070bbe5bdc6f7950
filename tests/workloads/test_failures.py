"""What the end of a worker means: the judgement alone, on the errors that real workers end with."""

import pickle

import pytest
import torch

from heliostat.errors import JobFailed, UserError
from heliostat.workloads.ray_train.failures import Failures, Left, WorkerFailed, cause, failed, kind_of


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def error_at(step: int, text: str = "cuda error 719", rank: int = 0, at: float = 1.0) -> WorkerFailed:
    return failed(raised(RuntimeError(text)), rank, step, at)


def test_leaving_with_saved_work_is_never_charged() -> None:
    failures = Failures(most=0)
    for step in range(20):
        verdict = failures.judge({0: Left("drain", step), 1: Left("drain", step)}, saved=step)
        assert verdict.again
        assert not verdict.charged


def test_losses_with_a_checkpoint_between_them_are_survived_for_ever() -> None:
    failures = Failures(most=1)
    for step in range(1, 30):
        assert failures.judge({0: RuntimeError("Worker died: SIGKILL")}, saved=step).again


def test_losses_without_a_new_checkpoint_end_the_run_and_wait_longer_each_time() -> None:
    failures = Failures(most=3)
    verdicts = [failures.judge({1: RuntimeError("died: SIGKILL")}, saved=7) for _ in range(4)]
    assert [v.again for v in verdicts] == [True, True, True, False]
    assert [v.wait for v in verdicts[:3]] == [0.0, 1.0, 2.0]
    assert isinstance(verdicts[3].error, JobFailed)
    assert "worker 1 was killed, by a signal" in str(verdicts[3].error)
    assert "max_failures 3" in str(verdicts[3].error)


def test_the_same_step_that_fails_three_times_in_the_same_way_is_the_users_error() -> None:
    failures = Failures(most=100)
    verdicts = [failures.judge({0: error_at(5, f"bad value at 0x{n}")}, saved=4) for n in range(3)]
    assert [v.again for v in verdicts] == [True, True, False]
    assert "the same step failed 3 times in this way" in str(verdicts[2].error)
    assert "RuntimeError: bad value" in str(verdicts[2].error)


def test_other_steps_or_other_errors_are_no_repetition() -> None:
    failures = Failures(most=100)
    ends = [error_at(5), error_at(6), error_at(7), error_at(5, "ECC"), error_at(5)]
    assert all(failures.judge({0: end}, saved=4).again for end in ends)


def test_a_mistake_in_the_code_is_not_tried_again() -> None:
    verdict = Failures(most=100).judge({0: failed(raised(TypeError("no such argument")), 0, 3, 1.0)}, saved=0)
    assert not verdict.again
    assert str(verdict.error).startswith("worker 0 failed after step 3:\n  File ")
    assert str(verdict.error).endswith("TypeError: no such argument")


def test_the_worker_that_failed_first_is_the_one_that_is_told_of() -> None:
    """The others lose their connection to it, maybe before anybody hears of the first."""
    ends = {
        0: failed(raised(RuntimeError("Connection closed by peer [10.0.0.2]:1234")), 0, 8, 1.0),
        1: error_at(9, "second", rank=1, at=5.0),
        2: error_at(9, "first", rank=2, at=4.0),
    }
    rank, first = cause(ends)
    assert rank == 2
    assert "first" in str(first)


def test_a_users_error_goes_before_everything() -> None:
    wrong = UserError("lr is x", "set it")
    verdict = Failures(most=9).judge({0: error_at(1), 1: wrong}, saved=0)
    assert verdict.error is wrong
    assert not verdict.again


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "memory"),
        (RuntimeError("Timed out waiting 1000ms for recv operation to complete"), "silence"),
        (RuntimeError("Connection closed by peer [127.0.0.1]:3"), "echo"),
        (RuntimeError("Connection reset by peer"), "echo"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "error"),
        (KeyError("pixels"), "mistake"),
    ],
)
def test_kinds(error: Exception, kind: str) -> None:
    assert kind_of(error) == kind


def test_out_of_memory_names_the_peak_and_what_to_set() -> None:
    failure = failed(raised(torch.OutOfMemoryError("CUDA out of memory")), 1, 3, 1.0)
    assert "the peak was" in str(failure)
    assert "GiB" in str(failure)
    assert "set micro_batch to a smaller divisor" in str(failure)
    assert not Failures(most=9).judge({1: failure}, saved=0).again


def test_a_step_at_which_workers_are_silent_twice_ends_the_run() -> None:
    failures = Failures(most=9)
    ends = [failed(raised(RuntimeError("Timed out waiting 5000ms for recv")), 1, 3, 1.0, silent=[2]) for _ in range(2)]
    assert [failures.judge({1: end}, saved=0).again for end in ends] == [True, False]


def test_silence_names_the_missing_ranks() -> None:
    failure = failed(raised(RuntimeError("Timed out waiting 5000ms for recv")), 1, 3, 1.0, silent=[2, 5])
    assert "silent rank: 2, 5" in str(failure)


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("The actor is dead because its node has died. Node Id: 62d8", "was lost with its node"),
        (
            "The actor c2a71106 is unavailable: The actor is temporarily unavailable: RpcError: RPC error: recvmsg:Connection "
            "reset by peer rpc_code: 14. The task may or may not have been executed on the actor.",
            "does not answer any more",
        ),
        (
            "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
            "unexpectedly exits with a connection error code 2. End of file. (1) the process was killed by the OOM killer for "
            "memory, consider enabling resource isolation to prevent node deaths",
            "was killed, by a signal or by the kernel",
        ),
        ("Worker exit type: NODE_OUT_OF_MEMORY", "its node ran out of memory"),
    ],
)
def test_what_ray_says_of_a_dead_worker_is_told_in_a_line(said: str, meaning: str) -> None:
    assert meaning in Failures(most=9).judge({3: RuntimeError(said)}, saved=0).reason


@pytest.mark.parametrize("error", [Left("grow", 3), error_at(5)])
def test_ends_travel_between_processes(error: Exception) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)
