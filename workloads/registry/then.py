"""What follows a training: its model is added to the registry, gated, and promoted if it passes.

Each step looks in the log of the model for what is done already, so that the same command goes on after one that was killed,
and adds, decides and promotes nothing twice.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

from heliostat.errors import UserError, nearest
from heliostat.folder import Folder
from heliostat.workloads.config import BETTER
from heliostat.workloads.registry.add import add
from heliostat.workloads.registry.gate.gate import Document, Terms, gate
from heliostat.workloads.registry.gate.report import reasons
from heliostat.workloads.registry.log import Decision
from heliostat.workloads.registry.registry import NOW, Moved, Registry
from heliostat.workloads.registry.version import Version
from heliostat.workloads.then_config import Then

ATTEMPTS = 5
"""How often a version is gated again because the champion has been moved meanwhile."""
FIRST = "it is the first one: there is no champion to compare it with"


@dataclass(frozen=True)
class Followed:
    """Where a version of a model is after the steps."""

    version: Version
    champion: bool
    """Whether it is the champion."""
    promoted: bool = False
    """Whether it is the champion, or was."""
    decision: Decision | None = None
    """Of its gate; None if it was not gated."""
    why: str = ""
    """The reason of the decision."""
    comparison: Document | None = None
    """What the gate has found, see `heliostat.workloads.registry.gate.gate.gate`, if it has compared now."""

    @property
    def passed(self) -> bool:
        """Whether no gate has stopped it; someone may have promoted it in spite of that."""
        return self.champion or self.promoted or self.decision is None or self.decision.passed

    @property
    def document(self) -> Document:
        """The same as plain data, for ``--json``."""
        decided = {**self.decision.model_dump(mode="json"), "why": self.why} if self.decision else None
        return {
            "model": self.version.name, "version": self.version.number, "champion": self.champion, "promoted": self.promoted,
            "gate": decided, "comparison": self.comparison,
        }  # fmt: skip


def check(registry: Registry, name: str, then: Then) -> None:
    """Raises a UserError for what can be known to fail before the training: no registry, metric, or version to gate against."""
    if then.metric and then.metric not in BETTER:
        raise UserError(f"then.metric is {then.metric!r}, which no model has", nearest(then.metric, BETTER))
    registry.names()
    _against(registry, name, then)


def follow(registry: Registry, run: Folder | str, name: str, then: Then, why: str = "") -> Followed:
    """Takes the steps that are not done yet for the best checkpoint of a run.

    Args:
        registry: of the model.
        run: its folder, or the path or URI of it.
        name: of the model.
        then: the steps, and what the gate asks for.
        why: for the log, if the model is added now.

    Raises:
        UserError: see `add` and `gate`; the steps before are done, and the same call goes on.
    """
    version = add(registry, run, name, why=why)
    if "gate" not in then.steps:
        return _standing(registry, version)
    for _ in range(ATTEMPTS):
        found = _standing(registry, version)
        if found.champion or found.promoted:
            return found
        found = _decided(registry, run, found, then)
        if found.decision is None or not found.decision.passed or "promote" not in then.steps:
            return replace(_standing(registry, version), comparison=found.comparison)  # it may have been promoted meanwhile
        against = found.decision.against
        try:
            reason = FIRST if against is None else f"gate passed against {name}@{against}"
            registry.promote(str(version), reason, against if then.against == "champion" else NOW)
        except Moved:
            continue
        return Followed(version, True, True, found.decision, found.why, found.comparison)
    raise UserError(f"the champion of {name!r} was moved {ATTEMPTS} times while {version} was gated", "give the command again")


def is_done(registry: Registry, version: Version, then: Then) -> bool:
    """Whether the steps for a version have all been taken: the command that added it may have been killed before the others."""
    found = _standing(registry, version)
    if found.champion or found.promoted or "gate" not in then.steps:
        return True
    return found.decision is not None and not (found.passed and "promote" in then.steps)


def _standing(registry: Registry, version: Version) -> Followed:
    """What the log has of a version."""
    history = registry.history(version.name)
    decided = next((entry for entry in history if entry.what == "gate" and entry.version == version.number), None)
    return Followed(
        version,
        history[0].state.aliases.get("champion") == version.number,
        any(version.number in entry.state.champions for entry in history),
        decided.gate if decided else None,
        decided.why if decided else "",
    )


def _decided(registry: Registry, run: Folder | str, found: Followed, then: Then) -> Followed:
    """The same with a decision: the last one, if it was on the same terms against the same version, or else a new one."""
    version, against = found.version, _against(registry, found.version.name, then)
    terms = Terms(then.metric, then.margin, tuple(then.by), then.slower, then.larger)
    known: dict[str, Any] = {**asdict(terms), "by": [*terms.by]}
    last = found.decision
    if last and (last.against, last.terms) == (against, known):
        return found
    if against is None:
        comparison, passed, why = None, True, FIRST
    else:
        comparison = gate(registry, run, f"{version.name}@{against}", terms)
        passed, why = comparison["passed"], " ".join(reasons(comparison))
    decision = Decision(passed=passed, against=against, terms=known)
    registry.decide(version, decision, why)
    return Followed(version, False, False, decision, why, comparison)


def _against(registry: Registry, name: str, then: Then) -> int | None:
    """The version to gate against; None if that is the champion, and there is none.

    Raises:
        UserError: there is no such version.
    """
    if then.against == "champion" and not registry.has_champion(name):
        return None
    return registry.resolve(f"{name}@{then.against}").number
