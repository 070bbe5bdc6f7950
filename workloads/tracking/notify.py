"""Posts the end of a run or of a sweep to webhooks."""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

from heliostat.console import err, money, numbers
from heliostat.workloads.tracking_config import Notify

SECONDS, ATTEMPTS, PAUSE = 5.0, 3, 1.0
"""Seconds which one attempt may take, how many there are, and the seconds between two."""

LONGEST = 1000
"""Characters of the message."""


def notify(
    receivers: Sequence[Notify], name: str, state: str, message: str, run: str, summary: Callable[[], dict[str, Any]]
) -> None:
    """Posts to those who want this end; what fails is said, of a secret URL with its variable, and stops nothing.

    Args:
        receivers: who is to get it.
        name: of the run or the sweep.
        state: how it ended.
        message: why, if it failed.
        run: its folder.
        summary: its ``metrics``, ``cost`` and ``report``.
    """
    wanted = [each for each in receivers if state in each.on]
    if not wanted:
        return
    try:
        document = _document(name, state, message, run, summary())
    except Exception as error:  # of the storage, or of a record that is damaged
        document = _document(name, state, message, run, {"summary": f"cannot be read: {error}"})
    for each in wanted:
        if problem := _post(each.url or os.environ.get(each.env or "", ""), document):
            shown = each.env or (each.url or "").partition("?")[0]
            err.print(f"notify: {shown} was not told that {name} {_ended(state)}: {problem}",
                      highlight=False, markup=False, soft_wrap=True)  # fmt: skip


def _document(name: str, state: str, message: str, run: str, summary: dict[str, Any]) -> dict[str, Any]:
    """What is posted; ``text`` is what Slack, Mattermost and others show."""
    metrics = summary.get("metrics") or {}
    shown = next((values for values in (metrics.get("test"), metrics.get("validation"), metrics) if values), {})
    parts = [f"{name} {_ended(state)}"]
    parts += [numbers(shown)] if shown and all(not isinstance(value, dict) for value in shown.values()) else []
    parts += [f"cost {money(summary['cost'])}"] if summary.get("cost") is not None else []
    parts += [message.splitlines()[0]] if message else []
    return {"text": ": ".join([parts[0], ", ".join(parts[1:])]) if parts[1:] else parts[0],
            "name": name, "state": state, "message": message[:LONGEST], "run": run, **summary}  # fmt: skip


def _ended(state: str) -> str:
    return {"finished": "is finished", "stopped": "was stopped"}.get(state, f"has {state}")


def _post(url: str, document: dict[str, Any]) -> str:
    """Returns why the last attempt failed; empty if one succeeded."""
    problem = ""
    for attempt in range(ATTEMPTS):
        time.sleep(attempt and PAUSE)
        request = urllib.request.Request(url, json.dumps(document).encode(), {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=SECONDS):
                return ""
        except urllib.error.HTTPError as error:
            problem = f"HTTP status {error.code}"
            if error.code < 500 and error.code not in (408, 429):
                return problem
        except (OSError, ValueError) as error:
            problem = str(getattr(error, "reason", error))
    return problem
