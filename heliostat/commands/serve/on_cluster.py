"""heliostat serve with --on PROFILE: the same service in Ray Serve, on the cluster of a profile."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from heliostat.cluster.documents.serving import BEYOND, PORT, Replicas, application, check_room, serve_config
from heliostat.cluster.errors import NotFound, Unreachable
from heliostat.cluster.in_pod.ray_usage import SERVICE
from heliostat.cluster.jobs.contents import Contents
from heliostat.cluster.jobs.packaging import Package, compact, packages, runtime_env
from heliostat.cluster.names import Document
from heliostat.cluster.profile import Profile, find
from heliostat.cluster.targets.run import open_target
from heliostat.commands.terminal.live import line, note, show
from heliostat.config import assignments, validate
from heliostat.console import err, out
from heliostat.workloads.serve.refusal import Limits

BUILT_BY = "heliostat.commands.serve.replica:application"


class Keys(Limits, Replicas):
    """The keys of ``--set`` with ``--on``."""


def serve_there(args: argparse.Namespace) -> int:
    """Serve on the cluster of a profile; on Kubernetes forward a port to it until Ctrl-C."""
    from heliostat.cluster.ray_version import check_ray
    from heliostat.commands.job.sending import files_to_send

    profile = find(args.on)
    keys = validate(assignments(args.set), Keys, "--set")
    check_room(profile, keys)
    files = files_to_send()
    check_ray()
    return (_locally if profile.platform == "local" else _on_kubernetes)(args, profile, keys, files)


def name_of(model: str) -> str:
    """The name of the service of a run or a model, which is that in the paths of requests."""
    return model.rstrip("/").rpartition("/")[2].partition("@")[0]


def _applied(name: str, keys: Keys, args: Document) -> Callable[[Sequence[Package]], Document]:
    """The application of Serve, by the packages with the URIs that its processes find them by."""
    limits = {key: value for key, value in keys.model_dump().items() if key in Limits.model_fields}

    def applied(code: Sequence[Package]) -> Document:
        environment = runtime_env(list(code), {"PYTHONUNBUFFERED": "1"})
        return application(name, BUILT_BY, {**args, "limits": limits}, environment, keys, keys.requests, keys.seconds)

    return applied


def _allowed(args: argparse.Namespace, target: Any, name: str) -> Callable[[], None]:
    """Refuses a new service if a budget is spent."""
    from heliostat.cluster.targets.budget import Guard

    def allowed() -> None:
        with line() as shown:
            Guard(target, shown.say, args.over_budget, f"{SERVICE}{name}").check()

    return allowed


def _waiting(profile: Profile, keys: Keys) -> float:
    """Seconds that a request may wait for a replica: where there may be none, until a node has started."""
    return BEYOND if keys.least else float(profile.slowest_start)


def _locally(args: argparse.Namespace, profile: Profile, keys: Keys, files: Contents) -> int:
    from heliostat.cluster.targets.local import LocalCluster
    from heliostat.cluster.targets.serving import services, start_locally
    from heliostat.commands.serve import _token_file
    from heliostat.commands.serve.source import source_of
    from heliostat.folder import absolute, expanded
    from heliostat.workloads.serve.token import token_in

    cluster = LocalCluster(profile)
    storage = absolute(expanded(args.storage), cluster.storage)
    name = source_of(args.model, storage).name
    file = _token_file(args.token_file, name)
    applied = _applied(name, keys, {"model": args.model, "storage": storage, "token_file": str(file)})

    def config(code: Sequence[Package], port: int) -> Document:
        # The nodes are processes of one machine, whose port only one proxy can have.
        return serve_config(applied(code), "127.0.0.1", port, keys.seconds, _waiting(profile, keys), everywhere=False)

    if args.dry_run:
        _show(config(packages(files), PORT if args.port is None else args.port), files)
        return 0
    token_in(file)
    show(start_locally(cluster, name, packages(files), config, args.port, _allowed(args, cluster, name)))
    note(cluster, "serve", name)
    state = next(each for each in services(cluster.dashboard()) if each.name == name)
    _started(args, state.url, str(file), name)
    return 0


def _on_kubernetes(args: argparse.Namespace, profile: Profile, keys: Keys, files: Contents) -> int:
    import secrets

    from heliostat.cluster.documents.render import text
    from heliostat.cluster.targets.code_maps import mounted
    from heliostat.cluster.targets.kubernetes import KubernetesCluster
    from heliostat.cluster.targets.kubernetes_serving import KubernetesService, documents
    from heliostat.cluster.targets.session import write_token
    from heliostat.commands.job.needed import job_variables
    from heliostat.commands.job.on_cluster import place_there
    from heliostat.workloads.serve.token import token_in

    name = name_of(args.model)
    storage = place_there(profile, args.storage, "--storage", job_variables(profile, {}))
    code = [compact(package) for package in packages(files)]
    applied = _applied(name, keys, {"model": args.model, "storage": storage})(mounted(code))
    config = serve_config(applied, "0.0.0.0", PORT, keys.seconds, _waiting(profile, keys))
    given = token_in(Path(args.token_file).absolute()) if args.token_file else None
    if args.dry_run:
        from heliostat.cluster.documents.manifests import FEATURES

        hidden = documents(profile, name, code, config, "", FEATURES[min(FEATURES)])
        out.print(text(map(_without_data, hidden), f"heliostat serve {args.model} --on {args.on} --dry-run"),
                  highlight=False, markup=False, soft_wrap=True, end="")  # fmt: skip
        return 0
    service = KubernetesService(KubernetesCluster(profile), name)
    token = given or service.token() or secrets.token_hex(32)
    show(
        service.start(
            documents(profile, name, code, config, token, service.target.api.features),
            applied,
            _allowed(args, service.target, name),
        )
    )
    note(service.target, "serve", name)
    file = write_token(service.target.api, service.object, token)
    out.print(f"{name} is served at {service.inside} for pods in the cluster", highlight=False, markup=False, soft_wrap=True)
    if args.detach:
        _ends(args, name)
        return 0
    return _forward(args, service, str(file))


def _without_data(document: Document) -> Document:
    """A document as it is shown: without the bytes of packages, and the token."""
    hidden = {key: f"({len(value) * 3 // 4} bytes)" for key, value in document.get("binaryData", {}).items()}
    return {**document, **({"binaryData": hidden} if hidden else {}), **({"data": {}} if document["kind"] == "Secret" else {})}


def _forward(args: argparse.Namespace, service: Any, file: str) -> int:
    """Forward a port of this machine to the service until Ctrl-C."""
    import time

    from heliostat.cluster.kube.port_forward import Forward
    from heliostat.interrupts import interrupts

    local, cluster = PORT if args.port is None else args.port, service.cluster().name
    with interrupts() as received:
        while cluster and not received:
            with Forward(service.target.api, cluster, {PORT: local}) as forward:
                local, forwarded = forward.ports[PORT], cluster
                _started(args, f"http://127.0.0.1:{local}", file, service.name)
                err.print("Ctrl-C ends the forwarding of the port; the service goes on", highlight=False)
                while not received and cluster == forwarded:  # another one comes after a change of the profile or of the code
                    time.sleep(1)
                    with suppress(Unreachable):
                        cluster = _cluster_of(service)
    if not cluster:
        err.print(f"{service.name} is not served any more", highlight=False, markup=False)
    return 0


def _cluster_of(service: Any) -> str:
    """The name of the cluster that answers; empty if the service was deleted."""
    try:
        return str(service.cluster().name)
    except NotFound:
        return ""


def _started(args: argparse.Namespace, url: str, file: str, name: str) -> None:
    lines = [f"{name} is served at {url}", f"  try it: {url}/ in a browser, with the token in {file}"]
    out.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
    _ends(args, name)


def _ends(args: argparse.Namespace, name: str) -> None:
    out.print(f"  heliostat serve stop {name} --on {args.on} ends it", highlight=False, markup=False, soft_wrap=True)


def _show(config: Document, files: Contents) -> None:
    from heliostat.commands.job import sending
    from heliostat.config import to_yaml

    out.print(to_yaml(config), highlight=False, markup=False, soft_wrap=True, end="")
    sending.show(files, {})


def states(on: str, name: str | None) -> list[Any]:
    """The services of a cluster, or the one of that name.

    Raises:
        UserError: there is none of that name.
    """
    from heliostat.cluster.targets import serving

    target = open_target(find(on))
    if target.profile.platform == "local":
        found = serving.services(target.dashboard())
        chosen = [serving.find(found, name, target.name)] if name else found
        return [serving.with_served(each, partial(_reached, each)) for each in chosen]
    from heliostat.cluster.targets.kubernetes import KubernetesCluster
    from heliostat.cluster.targets.kubernetes_serving import KubernetesService, names_of

    assert isinstance(target, KubernetesCluster)
    there = [KubernetesService(target, each) for each in ([name] if name else names_of(target))]
    return [serving.with_served(each.state(), each.reached) for each in there]


@contextmanager
def _reached(state: Any) -> Iterator[tuple[str, str]]:
    """The URL of a service on this machine, and the token that requests need."""
    yield state.url, Path(state.config["args"]["token_file"]).read_text().strip()


def stop_there(on: str, name: str) -> None:
    """End a service of a cluster, after the requests that it works on."""
    from heliostat.cluster.targets.local import LocalCluster
    from heliostat.cluster.targets.serving import stop_locally

    target = open_target(find(on))
    if isinstance(target, LocalCluster):
        stop_locally(target, name)
        note(target, "serve stop", name)
        return
    from heliostat.cluster.targets.kubernetes_serving import KubernetesService

    show(KubernetesService(target, name).stop())
    note(target, "serve stop", name)
