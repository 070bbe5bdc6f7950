"""Drives a sweep: slots take trials, every report is answered, and the journal is told of everything first."""

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any

from ray.exceptions import RayActorError

from heliostat.errors import JobFailed, UserError
from heliostat.tuning.algorithms import open_algorithm
from heliostat.tuning.cost import most_expensive
from heliostat.tuning.executors import ActorPlace, Executor, Placement, TrainPlace
from heliostat.tuning.plan import RecordMaker, SweepPlan, key_of
from heliostat.tuning.retention import Kept
from heliostat.tuning.schedulers import open_scheduler
from heliostat.tuning.schedulers.pbt import Population
from heliostat.tuning.trials import Trial, Trials
from heliostat.tuning.worker import GO_ON, PAUSE, STOP, Event
from heliostat.workloads.plan import Plan
from heliostat.workloads.run.cost import price_of
from heliostat.workloads.run.journal import Journal
from heliostat.workloads.run.signals import STOP as STOP_FILE

Watch = Callable[[Trials], None]
"""Called several times a second."""
TICK = 0.2
LOSSES = 20
"""Nodes that may go away under a trial before it counts as failed."""
STARTS = 5
"""Times in a row that a worker may die while it starts."""
PATIENCE = 30.0
"""Seconds that running trials have to save a checkpoint when the sweep must stop."""


class Controller:
    """One session of a sweep, from its journal to its last trial.

    Args:
        plan: what to do.
        maker: makes the run record of each trial.
        journal: the sweep's journal, from which it goes on.
        watch: told of progress.
    """

    def __init__(self, plan: SweepPlan, maker: RecordMaker, journal: Journal, watch: Watch) -> None:
        self._plan, self._maker, self._journal, self._watch = plan, maker, journal, watch
        config = plan.config
        self.trials = Trials(journal.records)
        self._note(event="session", slots=plan.slots)
        self._algorithm = open_algorithm(config, plan.base, plan.objectives, plan.folder, self.trials.all)
        self._scheduler = open_scheduler(config, plan.metric, plan.mode)
        self._population = Population(config, plan, self.trials, self._note) if config.scheduler.kind == "pbt" else None
        self._waiting = [trial for trial in self.trials.all if trial.state == "waiting" and trial.twin is None]
        if self._population:
            self._waiting = [trial for trial in self._waiting if trial.generation <= self.trials.generations]
        self._running: dict[int, Trial] = {}
        self._plans: dict[int, Plan] = {}
        """Of trials that wait, for the first time that they run."""
        self._first = {trial.key: trial.number for trial in reversed(self.trials.all) if trial.key}
        self._twins = [trial for trial in self.trials.all if trial.twin is not None and not trial.over]
        self._kept = Kept(plan)
        self._no_more = False
        self._stopping = ""
        self._changed = asyncio.Condition()
        for trial in self.trials.all:
            self._replay(trial)

    async def run(self, interrupted: Callable[[], int]) -> str:
        """Work until nothing is left to do or it must stop; why it stopped, or nothing.

        Args:
            interrupted: how often the user has asked for the end: once to stop with checkpoints, twice to stop at once.
        """
        places = [self._place() for _ in range(self._plan.slots)]
        slots = [asyncio.create_task(self._slot(place)) for place in places]
        patience = PATIENCE
        try:
            # Slots that still wait for a node when all work is done wait in vain.
            while not self._over and patience > 0 and interrupted() < 2 and not all(slot.done() for slot in slots):
                await asyncio.wait(
                    [slot for slot in slots if not slot.done()], timeout=TICK, return_when=asyncio.FIRST_EXCEPTION
                )
                for error in (slot.exception() for slot in slots if slot.done()):
                    if error:
                        raise error
                await self._look_at_limits(interrupted())
                patience -= TICK if self._stopping else 0
                self._watch(self.trials)
        finally:
            for slot in slots:
                slot.cancel()
            await asyncio.gather(*slots, return_exceptions=True)
            for place in places:
                place.close()
            self._note(event="closed", reason=self._stopping)
        self._watch(self.trials)
        return self._stopping

    # --- slots ------------------------------------------------------------------------------------------------

    def _place(self) -> Executor:
        each = self._plan.train.config.resources
        return TrainPlace() if self._plan.workers > 1 else ActorPlace(float(each.cpu), float(each.gpu))

    async def _slot(self, place: Executor) -> None:
        """Take one trial after the other, and give the resources back as soon as none is left."""
        try:
            where = await _ready(place)
            while trial := await self._next():
                where = await _ready(place)
                await self._run(trial, place, where)
                async with self._changed:
                    self._changed.notify_all()
        finally:
            place.close()

    async def _next(self) -> Trial | None:
        """The next trial to run, as soon as there is one; None when there will be none."""
        async with self._changed:
            while not self._stopping:
                if trial := self._take():
                    self._running[trial.number] = trial
                    return trial
                if self._over or (self._all_asked and not self._population):
                    return None
                await self._changed.wait()
        return None

    async def _run(self, trial: Trial, place: Executor, where: Placement) -> None:
        try:
            plan = self._plans.pop(trial.number, None) or self._plan.trial(trial.number, trial.params)
            record = self._maker.record(plan)
        except UserError as error:
            self._ended(trial, "failed", message=str(error))
            return
        each, count = plan.config.resources, plan.most_workers
        nodes, size = self._plan.nodes, (float(each.cpu), float(each.gpu))
        # Placement nobody knows yet which nodes it will have: at most so much, and at its end what it was.
        price = most_expensive(nodes, *size) if where["group"] is None else price_of(nodes, where["group"], *size)
        price = None if price is None else price * count
        self._note(
            event="start", trial=trial.number, where=where["node"], workers=count, gpus=count * int(each.gpu), price=price
        )
        event = await place.run(plan, record, lambda event: self._report(trial, event))
        del self._running[trial.number]
        {"end": self._end, "pause": self._pause, "fail": self._fail}[event["event"]](trial, event)

    # --- what comes next --------------------------------------------------------------------------------------

    @property
    def _all_asked(self) -> bool:
        return self._no_more or len(self.trials.all) >= (self._plan.config.trials or math.inf)

    @property
    def _over(self) -> bool:
        """Whether no trial runs and none will."""
        if self._running or (self._waiting and not self._stopping):
            return False
        return bool(self._stopping) or (self._all_asked and (not self._population or self._population.over))

    def _take(self) -> Trial | None:
        # Trials that have a twin in work wait for it; not more of them than there are slots, so that an algorithm that
        # asks for the same again and again learns first what came of it.
        while not self._waiting and not self._all_asked and len(self._twins) < self._plan.slots:
            self._ask()
        if not self._waiting and self._population and not self._running:
            self._waiting = self._population.next_generation()
        return self._waiting.pop(0) if self._waiting else None

    def _ask(self) -> None:
        number = len(self.trials.all)
        params = self._algorithm.ask(number)
        if params is None:
            self._no_more = True
            return
        try:
            plan = self._plan.trial(number, params)
            key = key_of(plan)
        except UserError:
            key = ""  # it fails with that message when it is its turn
        twin = self._first.get(key) if key and not self._population else None
        self._note(event="trial", trial=number, params=params, key=key, twin=twin)
        trial = self.trials.all[number]
        if twin is None:
            if key:
                self._first[key], self._plans[number] = number, plan
            self._waiting.append(trial)
        elif self.trials.all[twin].over:
            self._as_twin(trial)
        else:
            self._twins.append(trial)

    async def _look_at_limits(self, interrupted: int) -> None:
        if self._stopping:
            return
        config, now = self._plan.config, time.time()
        if interrupted:
            self._stopping = "interrupted"
        elif config.seconds and self.trials.seconds(now) >= config.seconds:
            self._stopping = "time"
        elif config.budget and (self.trials.cost(now) or 0.0) >= config.budget:
            self._stopping = "budget"
        if self._stopping:
            for trial in self._running.values():
                (self._plan.folder / "trials" / trial.name).write(STOP_FILE, b"")
            async with self._changed:
                self._changed.notify_all()

    # --- what trials say --------------------------------------------------------------------------------------

    def _note(self, lazily: bool = False, **record: Any) -> None:
        """Write a record, then act as whoever reads it will."""
        self.trials.apply(self._journal.append(lazily, **record))

    def _report(self, trial: Trial, event: Event) -> str:
        self._note(lazily=True, **{**event, "trial": trial.number})
        if self._scheduler.report(trial):
            return STOP
        return PAUSE if self._stopping or (self._population and self._population.at_exchange(trial)) else GO_ON

    def _end(self, trial: Trial, event: Event) -> None:
        self._ended(trial, event["state"], event["metrics"], event["step"], event["message"], event.get("cost"))

    def _pause(self, trial: Trial, event: Event) -> None:
        exchange = self._population is not None and self._population.at_exchange(trial)
        self._note(event="pause", trial=trial.number, generation=trial.generation + exchange)
        if not exchange:
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
        said: dict[str, Any] = {"metrics": metrics or {}, "message": message, "cost": cost}
        self._note(event="end", trial=trial.number, state=state, step=step, values=values, **said)
        self._algorithm.tell(trial)
        self._kept.judge(trial)
        for twin in [twin for twin in self._twins if twin.twin == trial.number]:
            self._twins.remove(twin)
            self._as_twin(twin)

    def _as_twin(self, trial: Trial) -> None:
        """The trial does what an earlier one did: it has the same outcome, and cost nothing."""
        first = self.trials.all[trial.twin or 0]
        record: dict[str, Any] = {"state": first.state, "step": first.step, "values": first.values, "metrics": first.metrics}
        self._note(event="end", trial=trial.number, message=first.message, **record)
        trial.reports = first.reports
        self._algorithm.tell(trial)

    def _values(self, trial: Trial, state: str, metrics: dict[str, dict[str, float | None]]) -> dict[str, float]:
        """The objectives of a trial: those of its best checkpoint, or if it was stopped, the best value that it reported."""
        if state == "finished":
            measured = {**metrics.get("validation", {}), **metrics.get("trial", {})}
            return {name: value for name in self._plan.objectives if (value := measured.get(name)) is not None}
        pick = max if self._plan.mode == "max" else min
        reported = [value for _, value in trial.curve(self._plan.metric)]
        return {self._plan.metric: pick(reported)} if state == "stopped" and reported else {}

    def _replay(self, trial: Trial) -> None:
        """Tell the scheduler what an earlier session heard."""
        if trial.twin is not None:
            trial.reports = self.trials.all[trial.twin].reports
            return
        reports = trial.reports
        for count in range(len(reports)):
            trial.reports = reports[: count + 1]
            self._scheduler.report(trial)
        trial.reports = reports
        if trial.over:
            self._kept.judge(trial)


async def _ready(place: Executor) -> Placement:
    """Wait for a place's resources; a worker that dies as it starts is replaced a few times.

    Raises:
        JobFailed: it dies again and again.
    """
    for _ in range(STARTS):
        try:
            return await place.ready()
        except RayActorError as error:
            reason = str(error)
            place.close()
            await asyncio.sleep(1.0)
    raise JobFailed(f"a worker of the sweep died {STARTS} times as it started: {reason}")
