"""The arguments of ``heliostat torchrun``."""

from pydantic import Field

from heliostat.config import Config
from heliostat.workloads.config import Name, Resources


class ScriptResources(Resources):
    """Resources of each process."""

    cpu: int | float = Field(1, ge=0, description="CPUs a worker, a number such as 1 or 0.5")  # type: ignore[assignment]


class Script(Config):
    """A script, its arguments, and how many processes run it."""

    script: str = Field(min_length=1, description="a Python file, or with -m a module")
    args: list[str] = Field([], description="the script's own arguments")
    module: bool = Field(False, description="true if script is a module's name")
    name: Name = Field(description="a folder's name, such as digits-2")
    storage: str = Field("runs", min_length=1, description="the folder or URI that holds the runs")
    workers: int = Field(1, ge=1, description="a whole number of processes, at least 1")
    resources: ScriptResources = ScriptResources()
    max_restarts: int = Field(0, ge=0, description="a whole number of restarts, at least 0")
    requirements: str | None = Field(None, min_length=1, description="the path of a file of packages")

    @property
    def command(self) -> list[str]:
        """The arguments of ``python``."""
        return [*(["-m"] if self.module else []), self.script, *self.args]
