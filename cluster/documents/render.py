"""A profile's Kubernetes documents as text, for ``kubectl apply``, for GitOps and for reading.

``python -m heliostat.cluster.documents.render`` writes those of the bundled profiles anew, into ``cluster/manifests/``.
"""

import io
import re
from collections.abc import Iterable
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter

from heliostat.cluster.documents.manifests import FEATURES, documents, unknown_to
from heliostat.cluster.names import Document
from heliostat.cluster.profile import BUNDLED, Profile, find
from heliostat.errors import UserError

FOLDER = Path(__file__).parents[1] / "manifests"
OLDEST = min(FEATURES)
"""The KubeRay whose documents every supported one takes."""
PLAIN = re.compile(r"(?!(y|n|yes|no|on|off|true|false|null)$)[a-z/][\w./@-]*(:[\w./@-]+)*", re.IGNORECASE)
"""Texts that need no quotes, also for a reader of YAML 1.1, as kubectl is one, to whom ``on`` and ``12:30`` are no texts."""
BLOCK = re.compile(r"\S[^\r\x85\u2028\u2029]*\n[^\r\x85\u2028\u2029]*")
"""Texts that every reader takes from a block as they are."""


def text(documents: Iterable[Document], made_by: str) -> str:
    """The documents as a YAML stream, in their own order, without anchors; ``made_by`` is the command that gives it."""
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.width = 1 << 20
    stream = io.StringIO()
    stream.write(f"# Made by: {made_by}\n# Change the profile, not this.\n")
    for document in documents:
        stream.write("---\n")
        yaml.dump(document, stream)
    return stream.getvalue()


def rendered(profile: Profile, version: str = OLDEST) -> list[Document]:
    """The documents of a profile for a KubeRay version.

    Raises:
        UserError: the profile has none, or wants what that KubeRay cannot do.
    """
    if profile.platform == "local":
        raise UserError(f"platform of {profile.name} is local: it has no Kubernetes documents", "use another profile")
    for key in unknown_to(profile, FEATURES[version]):
        raise UserError(f"{key} is set, which KubeRay {version} does not know", f"add --kuberay {max(FEATURES)}, or remove it")
    return documents(profile, FEATURES[version])


class _Representer(RoundTripRepresenter):
    """Texts of many lines as blocks, and the same part written out each time."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def text(self, value: str) -> ScalarNode:
        style = "|" if BLOCK.fullmatch(value) else None if PLAIN.fullmatch(value) else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Representer.add_representer(str, _Representer.text)


def main() -> None:
    """Write the documents of the bundled profiles anew."""
    for path in sorted(BUNDLED.glob("*.yaml")):
        profile = find(str(path))
        if profile.platform == "kubernetes":
            target = FOLDER / path.name
            target.write_text(text(rendered(profile), f"heliostat render {path.stem}"))
            print(f"wrote {target}")


if __name__ == "__main__":
    main()
