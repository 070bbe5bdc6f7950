"""The file of a new profile, with a comment on each line."""

import re
from pathlib import Path
from typing import Any

WORDS = {
    "platform": "kubernetes, or local for Ray processes on this machine",
    "head": "the pod of Ray's head; tasks that need a CPU do not run there",
    "groups": "worker groups: identical pods each, as many as the work needs",
    "name": "the group's name, as in --set groups.NAME.max=4",
    "market": "on-demand, or spot for cheaper pods that can be preempted",
    "max": "the most pods, which limits the cost",
    "idle_seconds": "a pod is deleted after so many seconds without work",
    "tolerations": "taints of nodes on which its pods may run",
    "storage": "where runs are kept: {claim: runs, size: 100Gi}, or {uri: s3://bucket/team}",
    "uri": "a folder, or an object store such as s3://bucket/team",
    "idle_shutdown_seconds": "seconds without work after which the cluster is suspended, head included; null: never",
}
"""Comments on the keys of a new file, where the field's own description is only for messages."""
SCHEMA_LINE = "# yaml-language-server: $schema="
"""By which editors find the schema of a file; the first line of the bundled profiles, with the place of theirs."""
COLUMN = 36
"""The column of the comments, except after longer lines."""
KEY = re.compile(r"(?P<indent> *)(?P<item>- )?(?P<key>\w+):")


def write_profile(name: str, text: str) -> Path:
    """Write the file of a new profile, in ``cluster/profiles`` if that folder exists, and return its path.

    Raises:
        UserError: it exists.
    """
    from heliostat.errors import UserError

    folder = Path("cluster/profiles")
    path = folder / f"{name}.yaml" if folder.is_dir() else Path(f"{name}.yaml")
    try:
        with path.open("x") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{path} already exists; it was not changed", "choose another name, or move that file") from None
    return path


def new_profile(source: str, schema: str = "") -> str:
    """The text of a bundled profile with comments; the first line names a JSON schema for editors, if one is given."""
    from heliostat.cluster.profile import BUNDLED

    text = commented((BUNDLED / f"{source}.yaml").read_text().partition("\n")[2])
    return f"{SCHEMA_LINE}{schema}\n{text}" if schema else text


def commented(text: str) -> str:
    """A profile's text with a comment at each key: its meaning and its default."""
    from heliostat.cluster.profile import Head, Profile, Storage, WorkerGroup

    owners: dict[str, Any] = {"head": Head, "groups": WorkerGroup, "storage": Storage}
    lines, parent = [], ""
    for line in text.splitlines():
        if found := KEY.match(line):
            nested = bool(found["indent"])
            parent = parent if nested else found["key"]
            line = f"{line:<{COLUMN}}  # {_meaning(found['key'], owners[parent] if nested else Profile)}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def _meaning(key: str, owner: Any) -> str:
    field = owner.model_fields[key]
    meaning = WORDS.get(key) or field.description
    default = None if field.is_required() else field.default
    return f"{meaning} (default: {default})" if isinstance(default, str | int | float) else meaning
