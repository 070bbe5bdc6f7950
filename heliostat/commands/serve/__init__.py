"""heliostat serve: answers requests with the model of a run, or of the registry, until it is stopped."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from heliostat.commands import RUN_HELP
from heliostat.commands.job.options import add_over_budget

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from heliostat.errors import UserError
    from heliostat.workloads.serve.sample import Keep
    from heliostat.workloads.serve.sources import Source

PORT = 8000


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="RUN|MODEL", help=f"{RUN_HELP}; or a model of the registry: NAME@champion, NAME@3")
    parser.add_argument("--plain", action="store_true", help="one process of uvicorn on this machine, the default without --on")
    parser.add_argument("--host", help="the address to listen on (default: 127.0.0.1, this machine only)")
    parser.add_argument("--port", type=int, help=f"the port on this machine, or 0 for a free one (default: {PORT})")
    parser.add_argument(
        "--token-file", metavar="FILE",
        help="the token that requests need; made if it does not exist (default: ~/.heliostat/services/NAME.token)",
    )  # fmt: skip
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="a limit: megabytes of a body (8), rows (10000) and seconds (30) of a request, requests at once (64); with --on "
        "also replicas (1, or [least,most]), cpus (1) and gpus (0) of each, per_node of them, in_flight (8) requests a replica",
    )  # fmt: skip
    parser.add_argument(
        "--sample", type=float, default=0.0, metavar="SHARE",
        help="of a model of the registry: keep this share of the rows of a table, for heliostat model drift (default: 0, none)",
    )  # fmt: skip
    parser.add_argument("--storage", default="runs", help="where the runs are (default: runs)")
    parser.add_argument("--on", metavar="PROFILE", help="serve on the cluster of a profile, until heliostat serve stop")
    parser.add_argument(
        "--detach", action="store_true", help="with --on Kubernetes: forward no port of this machine to the service"
    )
    add_over_budget(parser, "with --on: ")
    parser.add_argument("--dry-run", action="store_true", help="with --on: print what would be created, and start nothing")
    parser.epilog = """examples: heliostat serve churn; heliostat serve churn@champion --port 8080 --set seconds=5;
        heliostat serve churn@champion --on gpu --set replicas=[1,4] --set gpus=1;
        heliostat serve status; heliostat serve stop churn (docs/serving.md has the requests)"""


def run(args: argparse.Namespace) -> int:
    from heliostat.errors import UserError, combined

    problems = list(_problems(args))
    if problems:
        raise combined(problems, "the command")
    if args.on:
        from heliostat.commands.serve.on_cluster import serve_there

        return serve_there(args)
    from heliostat.config import assignments, validate
    from heliostat.workloads.serve import host
    from heliostat.workloads.serve.refusal import Limits

    host.check_installed()
    limits = validate(assignments(args.set), Limits, "--set")
    from heliostat.commands.serve.source import loaded, source_of
    from heliostat.commands.terminal.phases import phase
    from heliostat.workloads.serve import services

    source = source_of(args.model, args.storage)
    if args.sample:
        _check_followed_by_drift(source)
    token_file = _token_file(args.token_file, source.name)
    with (
        services.claimed(source.name),
        host.bound(args.host or "127.0.0.1", PORT if args.port is None else args.port) as listening,
    ):
        keep = _keep(source.name, args.sample)
        with phase(f"loading {args.model}"):
            from heliostat.workloads.serve.token import token_in

            token = token_in(token_file)
            served, model, took = loaded(source)
            if args.sample and model.codec is None:
                raise UserError(f"--sample keeps rows of a table, and {model.name} takes none", "leave it out")
        return _serve(args, source, served, model, limits, listening, token, token_file, keep, took)


def _problems(args: argparse.Namespace) -> "Iterator[UserError]":
    """What is wrong with the options, before anything is read."""
    from heliostat.errors import UserError

    if args.port is not None and not 0 <= args.port < 1 << 16:
        yield UserError(f"--port is {args.port}, but must be from 0 to 65535", "give another one, or 0 for a free one")
    if not 0 <= args.sample <= 1:
        yield UserError(f"--sample is {args.sample:g}, but is a share from 0 to 1", "write 0.1 for a tenth")
    if args.on:
        here = {"--plain": args.plain, "--host": args.host, "--sample": args.sample}
        for option in (option for option, given in here.items() if given):
            yield UserError(
                f"{option} is for a service on this machine, and --on {args.on} is a cluster", f"leave {option} out"
            )
    else:
        for option in (option for option in ("detach", "over_budget", "dry_run") if getattr(args, option)):
            yield UserError(f"--{option.replace('_', '-')} needs a cluster", "add --on PROFILE, such as --on gpu")


def _token_file(given: str | None, name: str) -> "Path":
    from pathlib import Path

    from heliostat.workloads.serve.services import path_of

    return Path(given).absolute() if given else path_of(name, "token")


def _check_followed_by_drift(source: "Source") -> None:
    """Raise a `UserError` if no ``heliostat model drift`` can read a sample of this source."""
    from heliostat.errors import UserError
    from heliostat.workloads.serve.sources import ModelSource

    if not isinstance(source, ModelSource):
        raise UserError(
            f"--sample is for heliostat model drift, which takes models of the registry, and {source.name} is a run here",
            f"heliostat serve {source.name}@champion --sample 0.1, after heliostat model add {source.name}",
        )


def _keep(name: str, share: float) -> "Keep":
    """What keeps a share of the rows of a service."""
    from heliostat.workloads.serve.sample import Sample, folder_of, nothing

    return Sample(folder_of(name), share).add if share else nothing


def _serve(
    args: argparse.Namespace, source: "Source", served: str, model: Any, limits: Any, listening: Any, token: str, file: "Path",
    keep: "Keep", took: str,
) -> int:  # fmt: skip
    """Answer until it is stopped."""
    import os
    import signal

    import psutil

    from heliostat.interrupts import interrupts
    from heliostat.workloads.serve import host, services
    from heliostat.workloads.serve.app import Service, application
    from heliostat.workloads.serve.sample import folder_of
    from heliostat.workloads.serve.sources import Follower

    name, port = listening.getsockname()[:2]
    url = f"http://{f'[{name}]' if ':' in name else name}:{port}"
    record = services.ServiceRecord(
        name=model.name, pid=os.getpid(), created=psutil.Process().create_time(), url=url, source=model.source,
        version=model.version, token_file=str(file), reference=model.reference, checksum=model.checksum,
    )  # fmt: skip
    service = Service(model, limits, keep)

    def write(problem: str = "") -> None:
        now = service.model
        try:
            about = {"version": now.version, "source": now.source, "checksum": now.checksum, "problem": problem}
            services.write(record.model_copy(update=about))
        except OSError as error:  # requests are still answered
            _say(f"the file of the service cannot be written: {error}")

    def change(new: Any) -> None:
        service.model = new
        write()
        _say(f"{new.name} is version {new.version} now")

    def problem(text: str) -> None:
        write(text)
        if text:
            now = service.model
            _say(f"version {now.version} of {now.name} is still served, as the new one cannot be: {text}")

    follower = Follower(source, served, change, problem) if source.follows else None

    # The handlers of these are called again by uvicorn at its end, and would end the process before it is tidied up.
    with interrupts() as received:

        def begin() -> None:
            if received:  # before uvicorn had its handlers
                signal.raise_signal(signal.Signals(received[0]))
                return
            services.write(record)
            if follower:
                follower.start()
            _started(service, url, file, took)
            if args.sample:
                _say(f"  {args.sample * 100:.3g}% of the rows are kept in {folder_of(model.name)}")

        try:
            host.serve(application(service, token), listening, limits.seconds, begin)
        finally:
            if follower:
                follower.close()
            services.forget(model.name)
            service.engine.close()
    _say(f"{model.name} is not served any more")
    return 0


def _started(service: Any, url: str, file: "Path", took: str) -> None:
    model = service.model
    if model.codec:
        path, body = "v1/predict", '{"rows": [{...}]}'
    elif model.language:
        path, body = "v1/completions", f'{{"model": "{model.name}", "prompt": "def ", "max_tokens": 32}}'
    else:
        path, body = f"v2/models/{model.name}/infer", '{"inputs": [...]}'
    _say(f"{model.name}, version {model.version} of {model.source}, is served at {url} ({took})")
    _say(f"  try it: {url}/ in a browser, with the token in {file}")
    _say(f"  curl -H \"Authorization: Bearer $(cat {file})\" {url}/{path} -d '{body}'")
    _say(f"  Ctrl-C or heliostat serve stop {model.name} ends it")


def _say(text: str) -> None:
    from heliostat.console import err

    err.print(text, highlight=False, markup=False, soft_wrap=True)
    sys.stderr.flush()
