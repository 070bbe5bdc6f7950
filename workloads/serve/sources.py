"""What a service serves: a run, or a model of the registry, by version or by an alias that it follows."""

import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from heliostat.errors import HeliostatError, short_traceback
from heliostat.folder import Folder
from heliostat.workloads.registry.registry import Registry, parsed
from heliostat.workloads.serve.servable import Servable, from_export, from_run

EVERY = 1.0
"""Seconds between two looks at where an alias stands."""
AGAIN = 30.0
"""Seconds until a version that could not be loaded is tried again: its storage may have been away."""


class Source(Protocol):
    """Where the model of a service comes from."""

    name: str
    """Of the model, in the paths of requests."""
    follows: bool
    """Whether `current` may change."""

    def current(self) -> str:
        """What identifies the version that is to be served; cheap."""

    def load(self) -> tuple[str, Servable]:
        """What identifies that version, and its model, which has been warmed up."""


class RunSource:
    """A run's best checkpoint when the service starts."""

    follows = False

    def __init__(self, folder: Folder) -> None:
        self.folder, self.name = folder, folder.name

    def current(self) -> str:
        """The path or URI of the run."""
        return str(self.folder)

    def load(self) -> tuple[str, Servable]:
        """See `Source`."""
        return self.current(), from_run(self.folder, self.name).warmed_up()


class ModelSource:
    """A model of the registry: a version, or that of an alias, which is followed.

    Args:
        registry: has the model.
        reference: ``NAME@3``, ``NAME@candidate``, or ``NAME`` and ``NAME@champion``.
    """

    def __init__(self, registry: Registry, reference: str) -> None:
        self.registry = registry
        self.name, wanted = parsed(reference)
        self.reference = f"{self.name}@{wanted or 'champion'}"
        self.follows = not wanted.isdigit()
        self._seen, self._number = -1, ""

    def current(self) -> str:
        """The number of the version; it is looked up only after a change of the model."""
        revision = self.registry.revision(self.name)
        if revision != self._seen:
            self._number = str(self.registry.resolve(self.reference).number)
            self._seen = revision
        return self._number

    def load(self) -> tuple[str, Servable]:
        """See `Source`; the files are verified before."""
        version = self.registry.resolve(self.reference)
        with tempfile.TemporaryDirectory(prefix="heliostat-model-") as scratch:
            model = from_export(version.fetch(Path(scratch)), self.name, str(version.number))
            source, checksum = str(version.folder), version.manifest.checksum
            model = replace(model, source=source, reference=self.reference, checksum=checksum).warmed_up()
        return str(version.number), model


class Follower:
    """Changes a service over to each new version of its source: loaded and warmed up beside the old one, then exchanged.

    Args:
        source: whose `current` is asked for each second, from a thread.
        served: what identifies the version that is served now.
        change: takes the new model.
        problem: takes why a version cannot be served or looked up, once, and an empty text when that is over.
    """

    def __init__(self, source: Source, served: str, change: Callable[[Servable], None], problem: Callable[[str], None]) -> None:
        self._source, self._served, self._change, self._problem = source, served, change, problem
        self._said = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="follower", daemon=True)

    def start(self) -> None:
        """Begins to look."""
        self._thread.start()

    def close(self) -> None:
        """Ends it, after the version that is being loaded."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        failed, again = "", 0.0
        while not self._ended.wait(EVERY):
            try:
                wanted = self._source.current()
                if wanted == self._served:
                    self._say("")
                    continue
                if wanted == failed and time.monotonic() < again:
                    continue
                failed, again = wanted, time.monotonic() + AGAIN
                served, model = self._source.load()
                self._change(model)
                self._served = served
                self._say("")
            except HeliostatError as error:
                self._say(str(error))
            except Exception as error:  # a model can raise anything, and the old one stays
                self._say(short_traceback(error))

    def _say(self, problem: str) -> None:
        if problem != self._said:
            self._said = problem
            self._problem(problem)
