"""The schema of `tracking` and `notify`, in the configs of runs and of sweeps."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, model_validator

from heliostat.config import Config, nearest

KNOWN = ("tensorboard", "mlflow", "wandb")
End = Literal["finished", "failed", "diverged", "stopped"]
"""How the command of a run or of a sweep ends."""
SECRET_HOSTS = ("hooks.slack.com", "discord.com", "discordapp.com", "webhook.office.com")
"""Whose URLs let everyone who knows them write."""


def _tracking(value: Any) -> Any:
    """Checks the names, so that the types of a union need no explanation."""
    items = [value] if isinstance(value, str | Mapping) else value
    if not isinstance(items, list):
        return value
    problems = [problem for item in items if (problem := _problem(item))]
    names = [name_of(item) for item in items] if not problems else []
    problems += [f"{name} is given twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    if problems:
        raise ValueError(f"{', and '.join(problems)}; write tracking: [tensorboard, {{mlflow: {{experiment: digits}}}}]")
    return [item if isinstance(item, str) else {name_of(item): options_of(item)} for item in items]


def _problem(item: Any) -> str:
    """What is wrong with an item, without its options, of which each tracker has its own."""
    if isinstance(item, Mapping) and len(item) == 1 and isinstance(next(iter(item.values())), Mapping | None):
        item = next(iter(item))
    if not isinstance(item, str):
        return f"{item!r} is not a name, or one name with its options"
    if item not in KNOWN and ":" not in item:
        return f"{item!r} is neither a tracker nor module:Class of your own ({nearest(item, KNOWN)})"
    return ""


Item = str | dict[str, dict[str, Any]]
Written = str | dict[str, dict[str, Any] | None]
"""An item as it may be written."""
Tracking = Annotated[list[Item], BeforeValidator(_tracking, json_schema_input_type=Written | list[Written])]
"""Where the metrics of a run go besides its folder: names, or each with its options."""
TRACKING = "a list of tensorboard, mlflow, wandb and module:Class, or of mappings such as {mlflow: {experiment: digits}}"


def name_of(item: Item) -> str:
    """The name of a tracker in a config."""
    return item if isinstance(item, str) else next(iter(item))


def options_of(item: Item) -> dict[str, Any]:
    """Its options, as they are given."""
    return {} if isinstance(item, str) else dict(next(iter(item.values())) or {})


class Notify(Config):
    """A webhook that gets the end of a run or of a sweep."""

    url: str | None = Field(None, description="where a small JSON document is posted, such as https://example.com/hook")
    env: str | None = Field(None, min_length=1, description="the variable that has the URL, if it is a secret")
    on: list[End] = Field(
        ["finished", "failed", "diverged"], min_length=1, description="a list of finished, failed, diverged, stopped"
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.url is None) == (self.env is None):
            raise ValueError("needs exactly one of url and env; write notify: {url: https://...}, or {env: SLACK_WEBHOOK}")
        if self.url is not None and (wrong := wrong_url(self.url)):
            raise ValueError(f"url {wrong}; export the URL, and write notify: {{env: SLACK_WEBHOOK}}")
        return self


def wrong_url(url: str) -> str:
    """Why a URL cannot stand in a config; does not show it."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "is not an address that begins with http:// or https://"
    if parts.password or any(parts.hostname == host or parts.hostname.endswith(f".{host}") for host in SECRET_HOSTS):
        return f"of {parts.hostname} is a secret, and a config is kept with the run"
    return ""


def _listed(value: Any) -> Any:
    items = [value] if isinstance(value, str | Mapping) else value
    return [{"url": item} if isinstance(item, str) else item for item in items] if isinstance(items, list) else value


Notified = Annotated[list[Notify], BeforeValidator(_listed, json_schema_input_type=str | Notify | list[str | Notify])]
NOTIFY = "a mapping such as {url: https://..., on: [finished, failed]}, or a list of them"
