"""heliostat runs open: shows the runs and sweeps of a storage in the browser, while they go on."""

import argparse
import asyncio
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from heliostat.commands.runs.page.places import Place

POLL = 0.2
"""Seconds between two looks for Ctrl-C."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "heliostat runs open [STORAGE | RUN] [--on PROFILE] [--port PORT] [--host HOST] [--no-browser]"
    parser.add_argument(
        "place", metavar="STORAGE | RUN", nargs="?",
        help="a folder or URI with runs, or a run or a sweep by its name, folder or URI (default: runs)",
    )  # fmt: skip
    parser.add_argument("--on", metavar="PROFILE", help="show those on the storage of a profile's cluster, such as gpu")
    parser.add_argument("--storage", metavar="DIR", default="runs", help="where a run is that is given by name (default: runs)")
    parser.add_argument("--port", type=int, default=0, help="the port of the page (default: any free one)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="the address to listen on (default: 127.0.0.1, which other machines cannot reach)"
    )
    parser.add_argument("--no-browser", action="store_true", help="only print the URL")
    parser.epilog = "example: heliostat runs open digits (Ctrl-C ends it; the runs are only read)"


def run(args: argparse.Namespace) -> int:
    from heliostat.console import err, out
    from heliostat.interrupts import interrupts

    with interrupts() as received, _opened(args) as (place, name):
        token = secrets.token_urlsafe(24)
        if args.host not in ("127.0.0.1", "localhost", "::1"):
            err.print(f"listens on {args.host}: whoever has the URL and reaches this machine can read it, without encryption")

        def ready(port: int) -> None:
            host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}.get(args.host, args.host)
            url = f"http://{host}:{port}/?token={token}" + (f"#/run/{quote(name, safe='')}" if name else "")
            out.print(url, soft_wrap=True, highlight=False, markup=False)
            sys.stdout.flush()  # a reader of a pipe must not wait for the end
            err.print(f"shows {place.name}; Ctrl-C ends it", soft_wrap=True)
            if not args.no_browser and out.is_terminal and _has_browser():
                import webbrowser

                webbrowser.open(url)

        asyncio.run(_serve(place, token, args.host, args.port, received, ready))
    return 0


async def _serve(place: "Place", token: str, host: str, port: int, received: list[int], ready: Any) -> None:
    """Serve until a signal arrives; ``ready`` gets the port.

    Raises:
        UserError: the address is taken, or not one of this machine.
    """
    from aiohttp import web

    from heliostat.commands.runs.page.server import Page
    from heliostat.errors import UserError

    runner = web.AppRunner(Page(place, token).application(), access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"--host {host} --port {port} cannot be opened: {reason}", "choose another port, or none") from None
        ready(runner.addresses[0][1])
        while not received:
            await asyncio.sleep(POLL)
    finally:
        await runner.cleanup()


@contextmanager
def _opened(args: argparse.Namespace) -> "Iterator[tuple[Place, str]]":
    """The storage, and the run in it that is shown first, if one is given.

    Raises:
        UserError: there is no such storage or run.
    """
    from heliostat.commands import find_folder, storage_at
    from heliostat.commands.runs import PATIENCE
    from heliostat.commands.runs.page.places import Here, on_cluster
    from heliostat.commands.runs.page.views import IDENTITY
    from heliostat.errors import UserError
    from heliostat.folder import Folder, split

    def at(place: str, key: str) -> Folder:
        return Folder.at(storage_at(place, key), PATIENCE)

    if args.on:
        from heliostat.cluster.profile import find

        with on_cluster(find(args.on), args.storage) as copies:
            folder, name = copies.folder(), args.place or ""
            if name and name not in folder.names():
                raise UserError(f"run {name!r} does not exist in {copies.name}", f"heliostat runs --on {args.on} lists them")
            yield copies, name
        return
    folder = at(args.place or args.storage, "STORAGE")
    if any(map(folder.exists, IDENTITY)):  # the folder of a run
        storage, name = split(str(folder))
    elif args.place and not folder.is_folder:  # its name, or nothing: the message has the nearest
        storage, name = split(str(find_folder(args.place, args.storage)))
    else:
        if not folder.is_folder:
            raise UserError(f"{folder} does not exist", "train a run, or give the folder of others: heliostat runs open DIR")
        storage, name = str(folder), ""
    yield Here(Folder.at(storage, PATIENCE)), name


def _has_browser() -> bool:
    """Whether a browser with windows can be started: in a terminal, another one would take it over."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
