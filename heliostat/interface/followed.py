"""The records of a run and the trials of a sweep on a cluster, from the lines that its job prints, for pictures that move."""

import re
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

Record = dict[str, Any]
TRAINED = re.compile(r"step +(\d+)  loss (\S+)  ([\d,]+) samples/s")
EVALUATED = re.compile(r"step +(\d+)  validation  (.+)")
TRIAL = re.compile(r"trial (\d+)  (running|finished|stopped|failed|diverged)(?:  (.+))?")
HEADLINE = re.compile(r"\d+ (of \d+ )?trials done · .*")


def record_of(line: str) -> Record | None:
    """The record that `heliostat.commands.terminal.progress.Display` has printed as a line, to its digits; else None."""
    with suppress(ValueError):  # a line that the task prints looks like one
        return _record_of(line)
    return None


def _record_of(line: str) -> Record | None:
    if found := TRAINED.match(line):
        speed = float(found[3].replace(",", ""))
        return {**_at(found), "kind": "train", "loss": float(found[2]), "samples_per_second": speed}
    if found := EVALUATED.match(line):
        pairs = [part.rpartition(" ") for part in found[2].split("  ")]
        return {
            **_at(found),
            "kind": "eval",
            "metrics": {name: None if text == "NaN" else float(text) for name, _, text in pairs},
        }
    return None


def drawing(update: Callable[[list[Record]], Any], write: Callable[[str], Any]) -> Callable[[str], Any]:
    """What takes the lines of a job: those of records go to a picture, the others are written."""

    def take(line: str) -> None:
        if record := record_of(line.rstrip("\n")):
            update([record])
        else:
            write(line)

    return take


def trial_of(line: str) -> Record | None:
    """The row of a trial, as far as `heliostat.commands.sweep.trials.trial_line` has it; None for another line."""
    with suppress(ValueError):  # a line that the task prints looks like one
        return _trial_of(line)
    return None


def _trial_of(line: str) -> Record | None:
    found = TRIAL.fullmatch(line)
    if not found:
        return None
    row: Record = {"trial": int(found[1]), "state": found[2]}
    for part in found[3].split("  ") if found[3] else ():
        key, assigned, value = part.partition("=")
        name, _, number = part.rpartition(" ")
        if assigned:
            row[f"param.{key}"] = value
        elif number == "s":
            row["seconds"] = float(name)
        else:
            row[name] = float(number)
    return row


def drawing_trials(
    update: Callable[[Record], Any], headline: Callable[[str], Any], write: Callable[[str], Any]
) -> Callable[[str], Any]:
    """What takes the lines of a sweep's job: those of trials and the headline go to a picture, the others are written."""

    def take(line: str) -> None:
        text = line.rstrip("\n")
        if row := trial_of(text):
            update(row)
        elif HEADLINE.fullmatch(text):
            headline(text)
        else:
            write(line)

    return take


def _at(found: re.Match[str]) -> Record:
    return {"time": time.time(), "step": int(found[1])}
