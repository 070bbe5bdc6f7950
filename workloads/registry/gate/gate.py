"""Decides whether the model of a run may replace a version of a model."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heliostat.datasets import Index
from heliostat.datasets.signature import LABEL, TARGET
from heliostat.errors import UserError, combined, nearest
from heliostat.folder import Folder
from heliostat.wording import counted
from heliostat.workloads.config import BETTER
from heliostat.workloads.export.export import export
from heliostat.workloads.inference import Trained, load_run
from heliostat.workloads.registry.add import check_same, default_format, finished
from heliostat.workloads.registry.gate.learnt import learnt_from
from heliostat.workloads.registry.gate.predictions import Exported, formulas_of, latencies
from heliostat.workloads.registry.gate.sides import Predicted, Sides, predicted
from heliostat.workloads.registry.gate.statistics import ALPHA, LEAST, Comparison, holm, rows_needed
from heliostat.workloads.registry.registry import Registry
from heliostat.workloads.registry.version import Version
from heliostat.workloads.training.groups import by_problems

CALIBRATION, CALIBRATION_MARGIN = "calibration_error", 0.01
"""How much worse the calibration error may be."""
MILLISECONDS, BYTES = 1.0, 10_000_000
"""Differences of latency and of size that are never too much."""
MEASURED = 3
"""How often the latency is measured at most."""
Document = dict[str, Any]


@dataclass(frozen=True)
class Terms:
    """What a candidate must show."""

    metric: str = ""
    """That decides; empty: the one by which the run has chosen its checkpoint."""
    margin: float = 0.0
    """How much worse it may be, in units of the metric; 0: it must be better."""
    by: Sequence[str] = ()
    """Columns, for none of whose values it may be worse."""
    slower: float = 2.0
    """The largest ratio of the 95th percentiles of the time for one row."""
    larger: float = 2.0
    """The largest ratio of the sizes."""

    def __post_init__(self) -> None:
        limits = (
            ("margin", self.margin, "0 or more, in units of the metric, such as 0.01", 0 <= self.margin < float("inf")),
            ("slower", self.slower, "above 0, such as 2", self.slower > 0),
            ("larger", self.larger, "above 0, such as 2", self.larger > 0),
        )
        problems = [
            UserError(f"--{name} is {value:g}", f"give a number, {what}") for name, value, what, good in limits if not good
        ]
        if problems:
            raise combined(problems, "the gate")


def gate(registry: Registry, run: Folder | str | Path, reference: str, terms: Terms) -> Document:
    """Compares the best checkpoint of a run with a version of a model, on the run's test rows that neither has learnt from.

    Args:
        registry: of the model.
        run: the candidate: its folder, or its path or URI.
        reference: the version, such as ``churn@champion``.
        terms: what the candidate must show.

    Returns:
        ``passed``, ``verdict`` (``better``, ``not worse``, ``undecided`` or ``worse``), ``candidate``, ``champion``, ``rows``,
        ``metric``, ``checks`` and ``notes``; docs/registry.md describes them.

    Raises:
        UserError: a dataset is missing, so that it is not known what a model has learnt from; no rows are left; the models
            predict different things, or nothing that has a truth; the metric or a column does not exist.
    """
    version = registry.resolve(reference)
    trained = load_run(run)
    finished(trained)
    check_same(trained, version)
    if problems := by_problems(trained.index, terms.by, "--by"):
        raise combined(problems, "--by")
    metric = _metric(trained, terms.metric)
    if metric == "accuracy" and terms.margin >= 1:
        raise UserError(f"--margin is {terms.margin:g}, but accuracy is a share", "write 0.01 for one percentage point")
    learnt = learnt_from(trained, version, registry.storage)
    with tempfile.TemporaryDirectory(prefix="heliostat-") as scratch:
        place = Path(scratch)
        champion = Exported.open(version.fetch(place / "champion"), f"version {version}")
        _check_kind(trained.index, champion)
        export(trained, default_format(trained.task), str(place / "candidate"))
        candidate = Exported.open(place / "candidate", f"the model of run {trained.folder}")
        _check_kind(trained.index, candidate)
        found = predicted(learnt, candidate, champion, terms.by)
        compared = found.sides.compared(metric, BETTER[metric] == "higher", terms.margin)
        if compared is None:
            raise UserError(
                f"{metric} is not defined on what is left, {counted(found.sides.rows, 'row')}", "give another --metric"
            )
        latency = _latency(found, candidate, champion, terms.slower)
    checks = [
        *_no_harm(found, metric, terms.margin),
        latency,
        _ratio("size", candidate.size, champion.size, terms.larger, BYTES),
    ]
    verdict = _verdict(compared, terms.margin)
    return {
        "passed": verdict in ("better", "not worse") and all(check["passed"] for check in checks),
        "verdict": verdict,
        **_models(trained, version),
        "rows": found.counts,
        "metric": _described(found.sides, compared, metric, terms.margin, verdict),
        "checks": checks,
        "notes": [*learnt.notes],
    }


def _metric(trained: Trained, wanted: str) -> str:
    """The metric that decides."""
    fields = trained.index.fields
    known = formulas_of(trained.index, trained.index.classes) if LABEL in fields or TARGET in fields else {}
    if not known:
        raise UserError(
            f"task {trained.record.config.task} learns neither classes nor a number from a column {LABEL} or {TARGET}",
            "look at both models yourself, then heliostat model promote NAME@VERSION: others have no metric here",
        )
    metric = wanted or trained.task.metric
    if metric not in known:
        what = f"--metric is {metric!r}" if wanted else f"the metric of the run is {metric!r}"
        fix = nearest(metric, known) if wanted else f"give --metric: {', '.join(known)}"
        raise UserError(f"{what}, which cannot be computed of the predictions of an exported model", fix)
    return metric


def _check_kind(index: Index, exported: Exported) -> None:
    """Raises a UserError if a model does not predict what the rows have."""
    wanted = "classes" if LABEL in index.fields else "numbers"
    if exported.kind != wanted:
        found = exported.kind or "neither classes nor one number a row"
        raise UserError(
            f"the test rows have {wanted}, but {exported.what} predicts {found}", "compare models of the same target"
        )


def _latency(found: Predicted, candidate: Exported, champion: Exported, most: float) -> Document:
    """The check of the time for one row; measured again where it fails, because load of the machine only adds to it."""
    check: Document = {}
    for _ in range(MEASURED):
        times = latencies({"candidate": (candidate, found.single[0]), "champion": (champion, found.single[1])})
        check = _ratio("latency", times["candidate"], times["champion"], most, MILLISECONDS)
        if check["passed"]:
            break
    return check


def _verdict(compared: Comparison, margin: float) -> str:
    if compared.trusted and compared.p_better <= ALPHA:
        return "not worse" if margin else "better"
    return "worse" if compared.trusted and compared.p_worse <= ALPHA else "undecided"


def _models(trained: Trained, version: Version) -> Document:
    manifest = version.manifest
    return {
        "candidate": {"run": str(trained.folder), "name": trained.record.config.name, "step": trained.step},
        "champion": {"version": str(version), "run": manifest.run_name, "step": manifest.step},
    }


def _described(sides: Sides, compared: Comparison, metric: str, margin: float, verdict: str) -> Document:
    needed = rows_needed(compared, margin) if verdict == "undecided" else None
    return {
        "name": metric, "better": BETTER[metric], "margin": margin, **sides.values(metric), "gain": compared.gain,
        "interval": [compared.low, compared.high], "method": compared.method, "p_better": compared.p_better,
        "p_worse": compared.p_worse, "rows_needed": max(needed, LEAST) if needed else None,
    }  # fmt: skip


def _no_harm(found: Predicted, metric: str, margin: float) -> list[Document]:
    """The checks that the calibration and no group has become worse; corrected for their number together (Holm)."""
    families = [(group.name, found.sides.at(group.places), metric, margin) for group in found.groups]
    if found.sides.candidate.chosen is not None:
        families.insert(0, ("calibration error", found.sides, CALIBRATION, CALIBRATION_MARGIN))
    compared = [sides.compared(name, BETTER[name] == "higher", least) for _, sides, name, least in families]
    trusted = [each for each in compared if each and each.trusted]
    adjusted = dict(zip(map(id, trusted), holm([each.p_worse for each in trusted]), strict=True))
    checks = []
    for (name, sides, of, _), each in zip(families, compared, strict=True):
        p = adjusted.get(id(each))
        checks.append({"check": name, "rows": sides.rows, **sides.values(of), "p_worse": p, "passed": p is None or p > ALPHA})
    return checks


def _ratio(name: str, candidate: float, champion: float, most: float, free: float) -> Document:
    """The check that a figure has not grown by more than a ratio, and by more than what is free."""
    passed = candidate <= most * champion or candidate - champion <= free
    return {"check": name, "candidate": candidate, "champion": champion, "most": most, "free": free, "passed": passed}
