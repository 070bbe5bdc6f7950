"""Refuses new work where a budget is spent, by the records of nodes on the storage; what runs already goes on.

``python -P -m heliostat.cluster.targets.budget ALLOWANCES`` does so in the job of a scheduled run.
"""

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from heliostat.cause import Cause
from heliostat.cluster.budget import Budget
from heliostat.cluster.errors import Forbidden
from heliostat.cluster.in_pod.record import Record, read
from heliostat.cluster.names import BUDGETS
from heliostat.cluster.spending import Spent, spent
from heliostat.cluster.targets.history import noted
from heliostat.cluster.targets.kubernetes import KubernetesCluster
from heliostat.cluster.targets.local import LocalCluster
from heliostat.cluster.targets.local.emulation import LOCAL
from heliostat.config import Config
from heliostat.console import err
from heliostat.environment import NODES_RECORD, STORAGE
from heliostat.errors import NotComing, WithFix

if TYPE_CHECKING:
    from heliostat.cluster.targets.storage import Storage

OVERRIDE = "over budget"
"""The action in the history of work that was started with ``--over-budget``."""

Target = KubernetesCluster | LocalCluster
Say = Callable[[str], Any]


class Allowance(Config):
    """A budget, and where what is spent of it is recorded."""

    owner: str
    """Whose it is: ``gpu``, or ``the namespace vision``."""
    folder: str
    """The pattern of the folders of records on the storage."""
    budget: Budget


def allowances(target: Target, say: Say = lambda line: None) -> list[Allowance]:
    """The budgets that hold for new work on a cluster: that of its profile, and that of its namespace's team.

    Raises:
        NotComing: the namespace has a budget that cannot be understood.
    """
    profile = target.profile
    place = f"{NODES_RECORD}/{LOCAL if isinstance(target, LocalCluster) else target.api.namespace}"
    found = [Allowance(owner=profile.name, folder=f"{place}/{profile.name}", budget=profile.budget)] if profile.budget else []
    if isinstance(target, KubernetesCluster) and (budget := _of_namespace(target, say)):
        found.append(Allowance(owner=f"the namespace {target.api.namespace}", folder=f"{place}/*", budget=budget))
    return found


def _of_namespace(target: KubernetesCluster, say: Say) -> Budget | None:
    namespace = target.api.namespace
    try:
        live = target.kube.objects("Namespace").find(namespace)
    except Forbidden as error:
        say(f"whether the namespace {namespace} has a budget is not known: {error.what}")
        return None
    labels = (live or {}).get("metadata", {}).get("labels", {})
    written = {period: labels[label] for period, label in BUDGETS.items() if label in labels}
    try:
        return Budget.model_validate({period: float(text) for period, text in written.items()}) if written else None
    except ValueError:
        what = f"the budget of the namespace {namespace} cannot be understood: its labels have {written}"
        raise NotComing(what, "heliostat team apply of its team's file writes it again") from None


class Guard:
    """Refuses new work if a budget is spent; mentions one of which most is spent, or of which nothing is recorded.

    Args:
        target: the profile's cluster.
        say: called with what is waited for.
        over_budget: start it nevertheless, and add that to the history of the cluster.
        work: what is started, such as a job's id, for the history.

    Raises:
        NotComing: from its methods: a budget is spent, or what is spent of it is not known.
    """

    def __init__(self, target: Target, say: Say, over_budget: bool = False, work: str = "") -> None:
        self._target, self._say, self._over_budget, self._work = target, say, over_budget, work
        self._budgets = allowances(target, say)

    def early(self) -> None:
        """Check before anything is started, if the record can be read without that."""
        target = self._target
        if self._budgets and (not _unreadable(target) or (isinstance(target, KubernetesCluster) and target.reading())):
            self.check()

    def check(self, head: KubernetesCluster | None = None) -> None:
        """Check, unless that is done; ``head`` is another cluster whose head may read what this machine cannot.

        Where no head runs, one of its own reads it, and is deleted afterwards.
        """
        budgets, self._budgets = self._budgets, []
        if not budgets:
            return
        reasons, mentioned = _refused(budgets, lambda: _spent(self._target, budgets, self._say, head))
        for line in mentioned:
            _remark(line)
        if not reasons:
            return
        refusal = _refusal(reasons)
        if not self._over_budget:
            raise refusal
        _remark(f"over budget: {refusal.what}")
        noted(self._target, _remark, OVERRIDE, self._work)


def seen(target: Target, by_head: bool = False) -> tuple[list[Spent], str]:
    """What is spent of the budgets that hold on a cluster, and why that is not known.

    Args:
        target: the profile's cluster.
        by_head: whether its head, if it runs, may read what this machine cannot: that is a job, after which its idle time
            begins again.
    """
    try:
        budgets = allowances(target)
        if not budgets:
            return [], ""
        if isinstance(target, KubernetesCluster) and (why := _unreadable(target)):
            if not by_head:
                return [], f"{_unknown(budgets)}: {why}, which heliostat why --on {target.name} has its head read"
            if not target.reading():
                return [], f"{_unknown(budgets)}: {why}, and neither {target.name} nor another cluster with it runs"
        return _spent(target, budgets, lambda line: None), ""
    except WithFix as error:
        return [], f"what is spent of a budget is not known: {error.what}"


def causes(target: Target) -> list[Cause]:
    """Why new work on a cluster is refused: its spent budgets."""
    found, unknown = seen(target, by_head=True)
    refused = [
        Cause(f"no new work starts: {each.text}", _fix([each]), then=f"work starts again from {each.until} on")
        for each in found
        if each.refuses
    ]
    return refused + [Cause(unknown, "heliostat cost reads the record", known=False)] * bool(unknown)


def guarded(command: str, budgets: Sequence[Allowance]) -> str:
    """A shell command that a job runs only if these budgets are not spent when it starts."""
    if not budgets:
        return command
    given = json.dumps([each.model_dump(exclude_none=True) for each in budgets])
    return f"{shlex.join(['python', '-P', '-m', 'heliostat.cluster.targets.budget', given])} && {command}"


def _refused(budgets: Sequence[Allowance], look: Callable[[], list[Spent]]) -> tuple[list[Spent | str], list[str]]:
    """What refuses new work, the spent budgets or why they are not known, and what else is to be mentioned."""
    try:
        found = look()
    except WithFix as error:
        return [f"{_unknown(budgets)}: {error.what}"], []
    mentioned = [each.text for each in found if not each.refuses and (each.warns or not each.recorded)]
    return [each for each in found if each.refuses], mentioned


def _refusal(reasons: Sequence[Spent | str]) -> NotComing:
    texts = [each if isinstance(each, str) else each.text for each in reasons]
    return NotComing(f"no new work starts: {'; '.join(texts)}", _fix([each for each in reasons if isinstance(each, Spent)]))


def _fix(found: Sequence[Spent]) -> str:
    """What to do about spent budgets, or without any about a storage that cannot be read."""
    override = "add --over-budget, which the history of the cluster notes"
    if not found:
        return f"make the storage readable, or {override}"
    wait = f"wait until {max(found, key=lambda each: each.ends).until}"
    raised = " and ".join(f"budget.{each.period} of {each.owner}" for each in found)
    return f"{wait}, raise {raised}, or {override}"


def _unknown(budgets: Sequence[Allowance]) -> str:
    return f"what is spent of the budget of {' and '.join(each.owner for each in budgets)} is not known"


def _unreadable(target: Target) -> str:
    from heliostat.cluster.targets.storage import unreadable  # it takes 0.3 s, which work without a budget need not wait for

    return unreadable(target.profile)


def _spent(target: Target, budgets: Sequence[Allowance], say: Say, head: KubernetesCluster | None = None) -> list[Spent]:
    reads = head or (target if isinstance(target, KubernetesCluster) else None)
    from heliostat.cluster.targets.storage import opened

    with opened(target.profile, say, reads) as storage:
        return spent_of(storage, budgets, time.time())


def spent_of(storage: "Storage", budgets: Sequence[Allowance], now: float) -> list[Spent]:
    """What is spent of budgets, from the records on a storage."""
    # A recorder begins a file with each day of UTC, so those of a month have all that was in it.
    month = time.strftime("%Y-%m", time.gmtime(now))
    with TemporaryDirectory(prefix="heliostat-budget-") as scratch:
        storage.fetch([f"{each.folder}/{month}/*.jsonl" for each in budgets], Path(scratch))
        return [
            found
            for each in budgets
            for found in spent(each.owner, each.budget, _records(Path(scratch), f"{each.folder}/{month}"), now)
        ]


def _records(scratch: Path, pattern: str) -> list[Record]:
    """The record in each folder that matches a pattern."""
    folders = sorted(scratch.glob(pattern))
    found = [read({str(path): path.read_bytes() for path in folder.glob("*.jsonl")}) for folder in folders]
    return [record for record in found if record]


def _remark(text: str) -> None:
    err.print(text, highlight=False, markup=False, soft_wrap=True)


def main(text: str) -> int:
    """Refuse the work of this job if the budgets in ``text`` are spent; returns the exit code."""
    from heliostat.cluster.targets.storage import InPlace

    budgets = [Allowance.model_validate(each) for each in json.loads(text)]
    reasons, mentioned = _refused(budgets, lambda: spent_of(InPlace(os.environ[STORAGE]), budgets, time.time()))
    for line in mentioned:
        _remark(line)
    if reasons:
        refusal = _refusal(reasons)
        _remark(f"{refusal.what}\n  fix: {refusal.fix}")
    return refusal.exit_code if reasons else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
