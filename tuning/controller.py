"""The event loop of a sweep: slots run trials, and every event is written to the journal before it takes effect."""

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ray.exceptions import RayActorError

from heliostat.errors import JobFailed, UserError
from heliostat.retry import UNAVAILABLE
from heliostat.tuning.algorithms import open_algorithm
from heliostat.tuning.cost import most_expensive
from heliostat.tuning.executors import Executor, Placement, open_executor
from heliostat.tuning.plan import RecordMaker, SweepPlan, key_of
from heliostat.tuning.retention import Retention
from heliostat.tuning.schedulers import open_scheduler
from heliostat.tuning.trials import Decision, Trial, Trials
from heliostat.tuning.worker import Event
from heliostat.workloads.plan import Plan
from heliostat.workloads.run.cost import price_of
from heliostat.workloads.run.journal import Journal
from heliostat.workloads.run.signals import STOP as STOP_FILE

Watch = Callable[[Trials], None]
"""Called with the trials several times a second."""
TICK = 0.2
LOSSES = 20
"""Nodes that a trial may lose before it counts as failed."""
STARTS = 5
"""Attempts to start a worker that dies as it starts."""
SAVE_SECONDS = 30.0
"""Seconds that running trials have to save a checkpoint when the sweep stops."""


class Controller:
    """One session of a sweep: restores the state from the journal and runs the trials that are left.

    Args:
        plan: of the sweep.
        maker: makes the run record of each trial.
        journal: the sweep's journal.
        watch: called with the progress.
        opened: opens a slot.
    """

    def __init__(
        self,
        plan: SweepPlan,
        maker: RecordMaker,
        journal: Journal,
        watch: Watch,
        opened: Callable[[SweepPlan], Executor] = open_executor,
    ) -> None:
        self._plan, self._maker, self._journal, self._watch, self._open = plan, maker, journal, watch, opened
        config = plan.config
        self.trials = Trials(journal.records)
        self._note(event="session", slots=plan.slots)
        self._algorithm = open_algorithm(config, plan.base, plan.objectives, plan.folder, self.trials.all)
        self._scheduler = open_scheduler(plan, self.trials, self._note)
        self._waiting = [
            trial
            for trial in self.trials.all
            if trial.state == "waiting" and trial.duplicate_of is None and trial.generation <= self.trials.generations
        ]
        self._running: dict[int, Trial] = {}
        self._plans: dict[int, Plan] = {}
        """The plans of the trials that have not run yet."""
        self._first_with_key = {trial.key: trial.number for trial in reversed(self.trials.all) if trial.key}
        self._duplicates = [trial for trial in self.trials.all if trial.duplicate_of is not None and not trial.done]
        self._retention = Retention(plan, self._note)
        self._exhausted = False
        self._stopping = ""
        self._stop_requested: set[int] = set()
        self._changed = asyncio.Condition()
        for trial in self.trials.all:
            self._replay(trial)
        self._finish_duplicates()  # of trials that were done when the last driver was killed

    async def run(self, interrupted: Callable[[], int]) -> str:
        """Run trials until none is left or the sweep must stop.

        Args:
            interrupted: the number of requests to stop: 1 stops with checkpoints, 2 stops at once.

        Returns:
            Why the sweep stopped: interrupted, time or budget; empty if no trial is left.
        """
        slots: dict[asyncio.Task[None], Executor] = {}
        seconds = SAVE_SECONDS
        try:
            while seconds > 0 and interrupted() < 2:
                await self._check_limits(interrupted())
                self._open_slots(slots)
                opened = [slot for slot in slots if not slot.done()]
                # When all trials are done, slots that still wait for a node are cancelled.
                if self._all_done or not opened:
                    break
                await asyncio.wait(opened, timeout=TICK, return_when=asyncio.FIRST_EXCEPTION)
                for error in (slot.exception() for slot in slots if slot.done()):
                    if error:
                        raise error
                seconds -= TICK if self._stopping else 0
                self._watch(self.trials)
        finally:
            for slot in slots:
                slot.cancel()
            await asyncio.gather(*slots, return_exceptions=True)
            for executor in slots.values():
                executor.close()
            self._note(event="closed", reason=self._stopping)
        if not self._stopping:
            self._retention.finish()
        self._watch(self.trials)
        return self._stopping

    # --- slots ------------------------------------------------------------------------------------------------

    def _open_slots(self, slots: dict[asyncio.Task[None], Executor]) -> None:
        """Open as many slots as trials are left, so that no more workers are requested than are of use."""
        if self._stopping:
            return
        opened = sum(not slot.done() for slot in slots)
        for _ in range(opened, min(self._plan.slots, self._left)):
            executor = self._open(self._plan)
            slots[asyncio.create_task(self._slot(executor))] = executor

    async def _slot(self, executor: Executor) -> None:
        """Run one trial after the other, and release the resources as soon as none is left."""
        try:
            await _ready(executor)
            while trial := await self._next():
                placement = await _ready(executor)
                await self._run(trial, executor, placement)
                async with self._changed:
                    self._changed.notify_all()
        finally:
            executor.close()

    async def _next(self) -> Trial | None:
        """Wait for the next trial to run; None if there will be none."""
        async with self._changed:
            while not self._stopping:
                if trial := self._take():
                    self._running[trial.number] = trial
                    return trial
                if self._all_done or (self._all_asked and not self._scheduler.in_rounds):
                    return None
                await self._changed.wait()
        return None

    async def _run(self, trial: Trial, executor: Executor, placement: Placement) -> None:
        try:
            plan = self._plans.pop(trial.number, None) or self._plan.trial(trial.number, trial.params)
            record = self._maker.record(plan)
        except UserError as error:
            self._ended(trial, "failed", message=str(error))
            return
        each, count = plan.config.resources, plan.most_workers
        nodes, size = self._plan.nodes, (float(each.cpu), float(each.gpu))
        # Where the nodes are not known yet, the highest price; the actual cost comes with the outcome.
        price = most_expensive(nodes, *size) if placement["group"] is None else price_of(nodes, placement["group"], *size)
        price = None if price is None else price * count
        self._note(
            event="start", trial=trial.number, where=placement["node"], workers=count, gpus=count * int(each.gpu), price=price
        )
        event = await executor.run(plan, record, lambda event: self._report(trial, event))
        del self._running[trial.number]
        {"end": self._end, "pause": self._pause, "fail": self._fail}[event["event"]](trial, event)

    # --- the next trial --------------------------------------------------------------------------------------

    @property
    def _all_asked(self) -> bool:
        return self._exhausted or len(self.trials.all) >= (self._plan.config.trials or math.inf)

    @property
    def _left(self) -> int:
        """How many trials run, wait, or have not been asked for; of the last at most as many as there are slots."""
        asked, slots = len(self.trials.all), self._plan.slots
        wanted = (self._plan.config.trials or math.inf) - asked
        more = 0 if self._exhausted or wanted <= 0 else int(min(wanted, self._algorithm.left(asked, slots)))
        return more + sum(not trial.done and trial.duplicate_of is None for trial in self.trials.all)

    @property
    def _all_done(self) -> bool:
        """Whether no trial runs and none will."""
        if self._running or (self._waiting and not self._stopping):
            return False
        return bool(self._stopping) or (self._all_asked and all(trial.done for trial in self.trials.all))

    def _take(self) -> Trial | None:
        # A duplicate waits for the trial that it repeats. Their number is limited to the slots, so that an algorithm that
        # suggests the same config repeatedly learns its outcome first.
        while not self._waiting and not self._all_asked and len(self._duplicates) < self._plan.slots:
            self._ask()
        if not self._waiting and not self._running:
            self._waiting = self._scheduler.next_round()
        return self._waiting.pop(0) if self._waiting else None

    def _ask(self) -> None:
        number = len(self.trials.all)
        params = self._algorithm.ask(number)
        if params is None:
            self._exhausted = True
            return
        try:
            plan = self._plan.trial(number, params)
            key = key_of(plan)
        except UserError:
            key = ""  # it fails with that message when it is started
        first = self._first_with_key.get(key) if key and not self._scheduler.in_rounds else None
        self._note(event="trial", trial=number, params=params, key=key, twin=first)
        trial = self.trials.all[number]
        if first is None:
            if key:
                self._first_with_key[key], self._plans[number] = number, plan
            self._waiting.append(trial)
        else:
            self._duplicates.append(trial)
            self._finish_duplicates()

    async def _check_limits(self, interrupted: int) -> None:
        if self._stopping:
            self._request_stops()
            return
        config, now = self._plan.config, time.time()
        if interrupted:
            self._stopping = "interrupted"
        elif config.seconds and self.trials.seconds(now) >= config.seconds:
            self._stopping = "time"
        elif config.budget and self.trials.known_cost(now) >= config.budget:
            self._stopping = "budget"
        if self._stopping:
            self._request_stops()
            async with self._changed:
                self._changed.notify_all()

    def _request_stops(self) -> None:
        """Request a checkpoint and the end of each running trial; again at the next tick while storage is unavailable."""
        for trial in self._running.values():
            if trial.number not in self._stop_requested:
                with suppress(*UNAVAILABLE):
                    (self._plan.folder.once / "trials" / trial.name).write(STOP_FILE, b"")
                    self._stop_requested.add(trial.number)

    # --- events of trials --------------------------------------------------------------------------------------

    def _note(self, lazily: bool = False, **record: Any) -> None:
        """Write a record to the journal and apply it."""
        self.trials.apply(self._journal.append(lazily, **record))

    def _report(self, trial: Trial, event: Event) -> Decision:
        self._note(lazily=True, **{**event, "trial": trial.number})
        decision = self._scheduler.report(trial)
        return Decision.PAUSE if self._stopping and decision == Decision.CONTINUE else decision

    def _end(self, trial: Trial, event: Event) -> None:
        self._ended(trial, event["state"], event["metrics"], event["step"], event["message"], event.get("cost"))

    def _pause(self, trial: Trial, event: Event) -> None:
        # Not every pause is the scheduler's: a sweep that stops pauses its trials, too.
        round_over = bool(trial.reports) and self._scheduler.report(trial) == Decision.PAUSE
        self._note(event="pause", trial=trial.number, generation=trial.generation + round_over)
        if not round_over:
            self._waiting.append(trial)

    def _fail(self, trial: Trial, event: Event) -> None:
        lost = event.get("lost", False)
        spent = trial.losses >= LOSSES if lost else trial.failures >= self._plan.config.retries
        if event["final"] or spent:
            self._ended(trial, "failed", message=event["message"])
        else:
            self._note(event="fail", trial=trial.number, message=event["message"], lost=lost)
            self._waiting.insert(0, trial)

    def _ended(
        self,
        trial: Trial,
        state: str,
        metrics: dict[str, Any] | None = None,
        step: int | None = None,
        message: str = "",
        cost: float | None = None,
    ) -> None:
        self._running.pop(trial.number, None)
        values = self._values(trial, state, metrics or {})
        step = trial.step if step is None else step
        outcome: dict[str, Any] = {"metrics": metrics or {}, "message": message, "cost": cost}
        self._note(event="end", trial=trial.number, state=state, step=step, values=values, **outcome)
        self._algorithm.tell(trial)
        self._retention.update(trial)
        self._finish_duplicates()

    def _finish_duplicates(self) -> None:
        """End the duplicates of the trials that are over."""
        over = [trial for trial in self._duplicates if self._first_of(trial).done]
        self._duplicates = [trial for trial in self._duplicates if not self._first_of(trial).done]
        for trial in over:
            self._finish_duplicate(trial)

    def _first_of(self, trial: Trial) -> Trial:
        assert trial.duplicate_of is not None
        return self.trials.all[trial.duplicate_of]

    def _finish_duplicate(self, trial: Trial) -> None:
        """End a trial with the outcome of the first one with the same config; it was not run and cost nothing."""
        first = self._first_of(trial)
        record: dict[str, Any] = {"state": first.state, "step": first.step, "values": first.values, "metrics": first.metrics}
        self._note(event="end", trial=trial.number, message=first.message, **record)
        trial.reports = first.reports
        self._algorithm.tell(trial)

    def _values(self, trial: Trial, state: str, metrics: dict[str, dict[str, float | None]]) -> dict[str, float]:
        """The objectives of a trial: those of its best checkpoint, or the best value that a stopped trial reported."""
        if state == "finished":
            measured = {**metrics.get("validation", {}), **metrics.get("trial", {})}
            return {name: value for name in self._plan.objectives if (value := measured.get(name)) is not None}
        best = trial.best(self._plan.metric, self._plan.mode)
        return {self._plan.metric: best} if state == "stopped" and math.isfinite(best) else {}

    def _replay(self, trial: Trial) -> None:
        """Feed the reports of an earlier session to the scheduler."""
        if trial.duplicate_of is not None:
            trial.reports = self._first_of(trial).reports
            return
        reports = trial.reports
        for count in range(len(reports)):
            trial.reports = reports[: count + 1]
            self._scheduler.report(trial)
        trial.reports = reports
        if trial.done:
            self._retention.update(trial)


async def _ready(executor: Executor) -> Placement:
    """Wait for an executor's resources; a worker that dies as it starts is replaced up to `STARTS` times.

    Raises:
        JobFailed: it died each time.
    """
    for _ in range(STARTS):
        try:
            return await executor.ready()
        except RayActorError as error:
            reason = str(error)
            executor.close()
            await asyncio.sleep(1.0)
    raise JobFailed(f"a worker of the sweep died {STARTS} times in a row while it started: {reason}")
