"""A replica of a service in Ray Serve: an actor with the application that uvicorn hosts elsewhere.

Serve finds `application` by its name in its configuration (`heliostat.cluster.documents.serving`). This is imported only in
Serve's processes, which have Ray's extra ``serve``.
"""

import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from ray import serve

from heliostat.cluster.documents.serving import REPLICA
from heliostat.commands.serve.source import loaded, source_of
from heliostat.environment import SERVE_TOKEN
from heliostat.modules import FOLDER, enter_working_dir
from heliostat.workloads.serve.app import Service
from heliostat.workloads.serve.app import application as answers
from heliostat.workloads.serve.refusal import Limits
from heliostat.workloads.serve.servable import Servable
from heliostat.workloads.serve.sources import Follower
from heliostat.workloads.serve.token import token_in


class Replica:
    """Loads the model, which computes twice before the replica takes requests, and follows its alias.

    Args:
        model: a run, or a model of the registry.
        storage: the path or URI of the storage that has it.
        limits: see `Limits`; each replica has its own.
        token_file: has what requests must have; None: the variable `SERVE_TOKEN` has it.
    """

    def __init__(self, model: str, storage: str, limits: dict[str, Any], token_file: str | None = None) -> None:
        enter_working_dir(str(Path.cwd() / FOLDER))
        self.token = token_in(Path(token_file)) if token_file else os.environ[SERVE_TOKEN]
        source = source_of(model, storage)
        started = time.time() - psutil.Process().create_time()
        served, servable, took = loaded(source)
        self.service = Service(servable, Limits.model_validate(limits))
        now = datetime.now(UTC)
        _say(f"{servable.name}, version {servable.version}, is ready at {now:%T.%f} UTC: started in {started:.2f} s, {took}")
        if source.follows:
            Follower(source, served, self.change, _say).start()  # until the process of this replica ends

    def change(self, model: Servable) -> None:
        """Answer the requests that begin from now on with another version."""
        self.service.model = model
        _say(f"{model.name} is version {model.version} now")

    def __serve_build_asgi_app__(self) -> Any:
        """Serve (2.60) asks for the application after the constructor."""
        return answers(self.service, self.token)


def application(args: dict[str, Any]) -> Any:
    """What Serve deploys, by the ``args`` of its configuration, which are those of `Replica`."""
    return serve.deployment(serve.ingress()(Replica), name=REPLICA).bind(**args)


def _say(text: str) -> None:
    if text:
        print(f"heliostat: {text}", file=sys.stderr)
