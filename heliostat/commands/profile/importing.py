"""heliostat profile import: writes a profile from a RayCluster or RayJob, live or in a file."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heliostat.cluster.importer.fields import Findings

HELP = "write a profile from a RayCluster, RayJob or RayService that exists"
KINDS = ("RayCluster", "RayJob", "RayService")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="NAME|FILE", help="a file of Kubernetes documents, or the name of one on the cluster of KUBECONFIG"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a key of the profile that the document lacks, such as storage.claim=runs or groups.gpu.gpu_type=L4",
    )
    parser.add_argument("--namespace", help="where NAME is (default: the namespace of the kubeconfig)")
    parser.add_argument("--only", metavar="NAME", help="which document of a file, if it has several")
    parser.add_argument(
        "--partial", action="store_true", help="write what can be expressed, and list the rest in the file's first lines"
    )
    parser.epilog = "example: heliostat profile import cluster.yaml --set storage.claim=runs"


def run(args: argparse.Namespace) -> int:
    from heliostat.cluster.importer.cluster import imported
    from heliostat.cluster.profile import Profile
    from heliostat.commands.profile.file import write_profile
    from heliostat.config import as_config
    from heliostat.console import out
    from heliostat.errors import UserError, combined

    is_file = args.source.endswith((".yaml", ".yml", ".json")) or "/" in args.source
    document = _in_file(args.source, args.only) if is_file else _live(args.source, args.namespace)
    try:
        keys, found = imported(document)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{args.source} is no valid {document['kind']}: {type(error).__name__}: {error}",
            f"kubectl apply --dry-run=server -f {args.source} names the field",
        ) from None
    given = {override.partition("=")[0] for override in args.set}
    found.lost = [each for each in found.lost if each.key not in given]
    problems = [] if args.partial else [UserError(each.what, each.note) for each in found.lost]
    try:
        profile = as_config(keys, Profile, args.set)
    except UserError as error:
        problems += error.parts or [error]
    if problems:
        raise combined(problems, f"{document['kind']} {keys.get('name', '')}".strip())
    path = write_profile(profile.name, _text(profile, found, document["kind"]))
    for each in (*found.lost, *found.changed):
        out.print(
            f"{'left out: ' if each in found.lost else 'otherwise: '}{each}", highlight=False, markup=False, soft_wrap=True
        )
    # The cluster of a RayJob or RayService has a name of its own, and belongs to that.
    same = not is_file and document["kind"] == "RayCluster" and profile.name == document["metadata"]["name"]
    out.print(f"wrote {path}: read it, then\n  heliostat diff {profile.name}{' --adopt' if same else ''}", highlight=False)
    if not is_file and not same:
        out.print(f"heliostat up makes a new cluster beside {document['kind']} {document['metadata']['name']}", highlight=False)
    return 0


def _in_file(name: str, only: str | None) -> Any:
    """The document of a file that has a cluster.

    Raises:
        UserError: it cannot be read, or has none or several.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    from heliostat.errors import UserError

    yaml = YAML(typ="safe", pure=True)
    yaml.version = (1, 1)  # as kubectl reads it
    try:
        documents = [each for each in yaml.load_all(Path(name).read_text()) if isinstance(each, dict)]
    except OSError as error:
        raise UserError(
            f"{name} cannot be read: {error.strerror}", "give the path of a file, or the name of a cluster"
        ) from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{name} is not YAML: {' '.join(str(error).split())}", "give a file of Kubernetes documents") from None
    found = [each for each in documents if each.get("kind") in KINDS and only in (None, _name_of(each))]
    if len(found) == 1:
        return found[0]
    if only and (others := [_name_of(each) for each in documents if each.get("kind") in KINDS]):
        raise UserError(f"--only is {only}, but {name} has {', '.join(map(str, others))}", "give one of these")
    kinds = ", ".join(f"{each.get('kind')} {_name_of(each)}" for each in found or documents)
    if found:
        raise UserError(f"{name} has several clusters: {kinds}", "choose one by its name: --only NAME")
    raise UserError(f"{name} has no {' or '.join(KINDS)}, but {kinds or 'no document'}", "give the file that has one")


def _name_of(document: Any) -> Any:
    metadata = document.get("metadata")
    return metadata.get("name") if isinstance(metadata, dict) else None


def _live(name: str, namespace: str | None) -> Any:
    """The document of that name on the cluster.

    Raises:
        UserError: there is none.
    """
    from heliostat.cluster.kube.kuberay import KubeRay
    from heliostat.errors import UserError

    kube = KubeRay(namespace=namespace)
    for kind in KINDS:
        if live := kube.objects(kind).find(name):
            return live
    raise UserError(
        f"namespace {kube.api.namespace} has no {' or '.join(KINDS)} {name}",
        "give --namespace, or the path of a file: ./NAME.yaml",
    )


def _text(profile: Any, found: "Findings", kind: str) -> str:
    """The file: what was left out and what differs as comments, and the keys that are not the defaults."""
    from heliostat.config import to_yaml

    notes = [f"# left out: {each}" for each in found.lost] + [f"# otherwise: {each}" for each in found.changed]
    lines = [line.replace("\n", " ") for line in (f"# From the {kind} {profile.name}.", *notes)]
    keys = profile.model_dump(mode="json", exclude_defaults=True, exclude={"name"})
    first = ("name", "cpu", "memory", "gpu", "gpu_type", "min", "max")
    keys["groups"] = [
        {**{key: getattr(group, key) for key in first if getattr(group, key)}, **kept}
        for group, kept in zip(profile.groups, keys["groups"], strict=True)
    ]
    return "\n".join([*lines, to_yaml({"image": profile.image, **keys})])
