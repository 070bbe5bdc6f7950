"""MLflow: a run on a tracking server, found again by a tag with the ID of ours."""

import importlib
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field

from heliostat.config import Config
from heliostat.errors import UserError
from heliostat.workloads.tracking.tracker import RUNNING, Point, Tracked, Tracker

URI, EXPERIMENT = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
TAG = "heliostat.run"
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # the defaults wait for minutes, without a word
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
METRICS, PARAMS = 1000, 100
"""The most of each that a request may have."""
LONGEST = 500
"""Characters of a parameter's value, which is cut to them; servers before MLflow 2.9 accept no more."""
STATUS = {RUNNING: "RUNNING", "finished": "FINISHED", "failed": "FAILED", "diverged": "FAILED"}
"""Of the states; all others were stopped."""


class MLflow(Tracker):
    """Logs the steps above the highest that the server has, by metric; a parameter keeps the value that was logged first."""

    class Options(Config):
        uri: str | None = Field(None, min_length=1, description=f"the tracking server, by default {URI}")
        experiment: str | None = Field(None, min_length=1, description=f"by default {EXPERIMENT}, or heliostat")

    package, extra = "mlflow", "mlflow-skinny"

    @classmethod
    def resolved(cls, options: Any, base: Any) -> Any:
        uri = options.uri or os.environ.get(URI)
        if not uri:
            raise UserError(
                "tracking.mlflow has no uri, and MLFLOW_TRACKING_URI is not set",
                "write tracking: [{mlflow: {uri: http://...}}], or export it (for a job --env, or env of the profile)",
            )
        parts = urlsplit(options.uri or "")
        if parts.password or (parts.username and parts.scheme in ("http", "https")):
            raise UserError(
                "tracking.mlflow.uri has a user or a password, and a config is kept with the run",
                "remove it, and export MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
            )
        if urlsplit(uri).scheme in ("", "file"):
            raise UserError(
                f"tracking.mlflow.uri is {uri}, a folder, which MLflow does not write any more",
                "give a server, such as http://127.0.0.1:5000, or a file of its database, such as sqlite:////shared/mlflow.db",
            )
        return options

    @staticmethod
    def named(name: str) -> str:
        return re.sub(r"[^\w.\- :/]", "_", name)[:250]  # what MLflow allows

    def open(self, run: Tracked) -> Mapping[str, int]:
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        self._entities = importlib.import_module("mlflow.entities")
        self._client = importlib.import_module("mlflow").MlflowClient(tracking_uri=self.options.uri)
        self._experiment = self._experiment_id(self.options.experiment or os.environ.get(EXPERIMENT) or "heliostat")
        found = self._find(run.id) or self._create(run)
        self._run = found.info.run_id
        if found.info.status != "RUNNING":
            self._client.update_run(self._run, status="RUNNING")
        self._tag(run)
        self.where = self._address()
        self._log_params(run.params, found.data.params)
        # All that `runs/get` has of the newest value of each metric; the client shows only the value.
        return {metric.key: metric.step for metric in found.data._metric_objs}

    def _experiment_id(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            self._client.create_experiment(name)
            found = self._client.get_experiment_by_name(name)
        if found.lifecycle_stage != "active":
            raise UserError(f"experiment {name!r} is deleted", "restore it, or set tracking.mlflow.experiment to another")
        return str(found.experiment_id)

    def _find(self, id: str) -> Any:
        found = self._client.search_runs([self._experiment], f"tags.`{TAG}` = '{id}'", max_results=1)
        return found[0] if found else None

    def _create(self, run: Tracked) -> Any:
        tags = {TAG: run.id}
        if run.parent and (parent := self._find(run.parent)):
            tags["mlflow.parentRunId"] = parent.info.run_id
        return self._client.create_run(self._experiment, int(1000 * run.created), tags, run.title)

    def _address(self) -> str:
        parts = urlsplit(str(self._client.tracking_uri))
        host = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=parts.path.rstrip("/")).geturl()
        return f"{host}/#/experiments/{self._experiment}/runs/{self._run}" if parts.scheme.startswith("http") else host

    def _log_params(self, params: Mapping[str, Any], there: Mapping[str, str]) -> None:
        shown = {self.named(name): _cut(value) for name, value in params.items()}
        new = [self._entities.Param(name, value) for name, value in shown.items() if name not in there]
        for start in range(0, len(new), PARAMS):
            self._client.log_batch(self._run, params=new[start : start + PARAMS])
        changed = [f"{name}={value}" for name, value in shown.items() if there.get(name, value) != value]
        if changed:  # as the server refuses another value
            self._client.set_tag(self._run, "changed", ", ".join(changed)[:LONGEST])

    def _tag(self, run: Tracked) -> None:
        tags = [self._entities.RunTag(name, value[:LONGEST]) for name, value in run.tags.items()]
        self._client.log_batch(self._run, tags=tags)

    def log(self, points: Sequence[Point]) -> None:
        metrics = [
            self._entities.Metric(self.named(name), value, int(1000 * point.time), point.step)
            for point in points
            for name, value in point.values.items()
        ]
        for start in range(0, len(metrics), METRICS):
            self._client.log_batch(self._run, metrics=metrics[start : start + METRICS])

    def close(self, run: Tracked) -> None:
        self._tag(run)
        with tempfile.TemporaryDirectory(prefix="heliostat-") as scratch:
            for name in run.files:
                if run.folder.exists(name):
                    Path(scratch, name).write_bytes(run.folder.read(name))
                    self._client.log_artifact(self._run, str(Path(scratch, name)))
        self._client.set_terminated(self._run, STATUS.get(run.state, "KILLED"), int(1000 * run.ended))


def _cut(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
