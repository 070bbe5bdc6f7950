"""Trains in this process, with one worker and without Ray, where ``breakpoint()`` and ``print()`` work as in any program."""

import traceback
from typing import Any

from heliostat.errors import HeliostatError, JobFailed, Stopped
from heliostat.workloads.plan import Plan
from heliostat.workloads.ray_train.records import Watch
from heliostat.workloads.run.attempts import Attempts
from heliostat.workloads.run.journal import Tail
from heliostat.workloads.run.lease import Lease
from heliostat.workloads.run.record import METRICS, RunRecord
from heliostat.workloads.training.distributed import Ranks, check_gpu
from heliostat.workloads.training.loop import Loop


def fit_here(plan: Plan, spec: dict[str, Any], owner: Lease, watch: Watch) -> dict[str, Any]:
    """Trains as `heliostat.workloads.ray_train.fit.fit_on_ray` does, but with one worker; a failure has its whole traceback.

    Raises:
        UserError: see `Loop`.
        JobFailed: the training failed.
        Stopped: Ctrl-C.
    """
    record = RunRecord.model_validate(spec["record"])
    if record.config.resources.gpu:
        check_gpu()
    attempts, state = Attempts(plan.folder), "errored"
    attempts.record("launched", launched=spec["launched"], least=1, most=1)
    attempts.record("running", workers=1)
    step, new = 0, Tail(plan.folder, METRICS)
    try:
        ranks = Ranks.of_this_process(cuda=record.config.resources.gpu != 0)

        def report(metrics: dict[str, float]) -> None:
            watch(new.new(at_once=True))

        loop = Loop(plan.folder, record, ranks, spec["launched"], report, lease=spec["lease"])
        try:
            outcome = loop.run()
        finally:
            step = loop.progress.step
        state = "finished"
        return outcome.model_dump()
    except KeyboardInterrupt:
        state = "stopped"
        raise Stopped(f"stopped after step {step}; the same command resumes from the last checkpoint") from None
    except HeliostatError:
        raise
    except (Exception, SystemExit) as error:  # else the command would end with the code of a sys.exit in the task
        raise JobFailed(f"failed after step {step}:\n{traceback.format_exc()}") from error
    finally:
        attempts.record("ended", state=state)
