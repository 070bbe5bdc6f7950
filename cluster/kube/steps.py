"""Documents and the live objects: what an apply of each would change, and the apply."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from heliostat.cluster.documents.ownership import decided, is_ours
from heliostat.cluster.kube.kuberay import KubeRay
from heliostat.cluster.names import TEMPLATE, Document
from heliostat.difference import ABSENT, Change, difference


@dataclass(frozen=True)
class Step:
    """A document to apply, the live object, and the changes."""

    document: Document
    live: Document | None
    changes: list[Change]

    @property
    def title(self) -> str:
        return f"{self.document['kind']} {self.document['metadata']['name']}"

    @property
    def adopts(self) -> bool:
        """Whether it takes over an object that belonged to no profile."""
        return self.live is not None and not is_ours(self.live, self.document)

    @property
    def shown(self) -> list[Change]:
        """The changes without template hashes, which only follow from other changes."""
        return [change for change in self.changes if not change.path.endswith(TEMPLATE)]


def step_of(kube: KubeRay, document: Document, live: Document | None, adopt: bool = False) -> Step:
    """The step for a document, which the API server checks by a dry run."""
    would = kube.objects(document["kind"]).apply(document, dry_run=True, force=True, adopt=adopt)
    if live is None:
        return creation(document)
    return Step(document, live, list(difference(_compared(live), _compared(would))))


def _compared(document: Document) -> Document:
    """What a document decides of an object, with its annotations: the dry run keeps those of other programs."""
    return {**decided(document), "annotations": document["metadata"].get("annotations")}


def creation(document: Document) -> Step:
    """The step for a document of which there is no object."""
    return Step(document, None, [Change(document["kind"], ABSENT, document["metadata"]["name"])])


def applied(kube: KubeRay, steps: Iterable[Step], force: bool = False) -> Iterator[str]:
    """Apply the steps that change something; yields a status line before each.

    Raises:
        Conflict: another client changes an object at the same time.
    """
    for step in steps:
        if step.changes or step.live is None:
            yield f"applies {step.title}"
            kube.objects(step.document["kind"]).apply(step.document, step.live, force or step.adopts, adopt=step.adopts)
