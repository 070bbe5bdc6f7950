"""Kubernetes documents of a profile as YAML, for ``kubectl apply``, GitOps and reading.

``python -m heliostat.cluster.documents.render`` writes those of the bundled profiles to ``cluster/manifests/``.
"""

import io
import re
from collections.abc import Iterable
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter

from heliostat.cluster.documents.manifests import FEATURES, documents, unknown_to
from heliostat.cluster.names import POD_MONITOR, Document
from heliostat.cluster.profile import BUNDLED, Profile, find
from heliostat.errors import UserError

FOLDER = Path(__file__).parents[1] / "manifests"
OLDEST = min(FEATURES)
"""The KubeRay version whose documents all supported ones accept."""
PLAIN = re.compile(r"(?!(y|n|yes|no|on|off|true|false|null)$)[a-z/][\w./@-]*(:[\w./@-]+)*", re.IGNORECASE)
"""Strings that need no quotes, even in YAML 1.1, as kubectl reads it, where ``on`` and ``12:30`` are not strings."""
BLOCK = re.compile(r"\S[^\r\x85\u2028\u2029]*\n[^\r\x85\u2028\u2029]*")
"""Strings that every parser reads unchanged from a block."""


def text(documents: Iterable[Document], made_by: str) -> str:
    """Dump documents as a YAML stream, with keys in order and no anchors; ``made_by`` is the command that prints it."""
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.width = 1 << 20
    stream = io.StringIO()
    stream.write(f"# Made by: {made_by}\n# Change the profile, not this.\n")
    for document in documents:
        stream.write("---\n")
        yaml.dump(document, stream)
    return stream.getvalue()


def rendered(profile: Profile, version: str = OLDEST, pod_monitor: bool = False) -> list[Document]:
    """The documents of a profile for a KubeRay version.

    Args:
        profile: of the cluster.
        version: of KubeRay.
        pod_monitor: whether there is Prometheus Operator, which then gets a PodMonitor in the place of annotations.

    Raises:
        UserError: the profile is a local one, or needs a newer KubeRay.
    """
    if profile.platform == "local":
        raise UserError(f"platform of {profile.name} is local: it has no Kubernetes documents", "use another profile")
    for key in unknown_to(profile, FEATURES[version]):
        raise UserError(f"{key} is set, which KubeRay {version} does not know", f"add --kuberay {max(FEATURES)}, or remove it")
    return documents(profile, FEATURES[version] | ({POD_MONITOR} if pod_monitor else set()))


class _Representer(RoundTripRepresenter):
    """Represents multi-line strings as blocks, and repeats equal parts instead of aliases."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def text(self, value: str) -> ScalarNode:
        style = "|" if BLOCK.fullmatch(value) else None if PLAIN.fullmatch(value) else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Representer.add_representer(str, _Representer.text)


def main() -> None:
    """Write the documents of the bundled profiles."""
    for path in sorted(BUNDLED.glob("*.yaml")):
        profile = find(str(path))
        if profile.platform == "kubernetes":
            target = FOLDER / path.name
            target.write_text(text(rendered(profile), f"heliostat render {path.stem}"))
            print(f"wrote {target}")


if __name__ == "__main__":
    main()
