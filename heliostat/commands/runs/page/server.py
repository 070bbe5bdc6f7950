"""The server of ``heliostat runs open``: it only reads, and only for those who have the token.

The token is in the URL that the command prints; the answer to it sets a cookie, which the other requests need.
"""

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from aiohttp import web

from heliostat.commands.runs import KEYS, STATES, chosen, ordered
from heliostat.commands.runs.page import views
from heliostat.commands.runs.page.index import Index, stamp_of
from heliostat.commands.runs.page.models import Models, listed, of_run, shown
from heliostat.commands.runs.page.places import Place
from heliostat.commands.runs.page.records import Records
from heliostat.errors import HeliostatError, UserError
from heliostat.workloads.run.page import WEB

STATIC = Path(__file__).parent / "static"
FILES = {
    "/": (STATIC / "index.html", "text/html"), "/app.js": (STATIC / "app.js", "text/javascript"),
    "/app.css": (STATIC / "app.css", "text/css"), "/page.css": (WEB / "page.css", "text/css"),
    "/figures.js": (WEB / "figures.js", "text/javascript"), "/echarts.js": (WEB / "echarts.min.js", "text/javascript"),
}  # fmt: skip
HEADERS = {
    # ECharts sets styles of its tooltips; nothing but our own files can run.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
}  # fmt: skip
REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
)
"""A report is a file of the storage, which others may have written: it gets an origin of its own, and no connection."""
LIMIT = 100
"""Rows of the list that are sent at once."""
FRESH = 15.0
"""Seconds after which what goes on is computed again also if no file has changed."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Page:
    """Answers the requests of the page, one at a time in a thread of its own.

    Args:
        place: whose runs are shown.
        token: of those who may look.
    """

    def __init__(self, place: Place, token: str) -> None:
        self._place, self._token = place, token
        self._cookie = f"heliostat-{hashlib.sha256(token.encode()).hexdigest()[:8]}"  # two pages may have the same host
        self._index, self._records, self._models = Index(place.copied), Records(), Models()
        self._worker = ThreadPoolExecutor(1, "page")
        self._views: dict[str, tuple[Any, float, views.Document]] = {}

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(middlewares=[self._guard])
        for path in FILES:
            app.router.add_get(path, self._file)
        for name in ("runs", "run", "compare", "log", "models", "model"):
            app.router.add_get(f"/api/{name}", self._api(getattr(self, f"_answer_{name}")))
        app.router.add_get("/report", self._report)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._is_token(request.query.get("token", "")):
            answer: web.StreamResponse = web.Response(status=303, headers={"Location": request.path})
            answer.set_cookie(self._cookie, self._token, httponly=True, samesite="Strict", path="/")
        elif self._is_token(request.cookies.get(self._cookie, "")):
            try:
                answer = await handler(request)
            except web.HTTPException as error:
                answer = web.Response(status=error.status, text=error.reason, headers=_allowed(error))
        else:
            answer = web.Response(status=403, text="Open the URL that heliostat runs open prints: it has the token.")
        for name, value in HEADERS.items():
            answer.headers.setdefault(name, value)
        return answer

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(errors="surrogatepass"), self._token.encode())

    async def _file(self, request: web.Request) -> web.StreamResponse:
        path, kind = FILES[request.path]
        return web.FileResponse(path, headers={"Content-Type": f"{kind}; charset=utf-8", "Cache-Control": "no-cache"})

    def _api(self, answer: Callable[[Mapping[str, Any]], views.Document]) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            query = {key: request.query.getall(key) for key in request.query}
            status, text = await asyncio.get_running_loop().run_in_executor(self._worker, self._document, answer, query)
            response = web.Response(status=status, text=text, content_type="application/json")
            response.enable_compression()
            return response

        return handle

    def _document(self, answer: Callable[[Mapping[str, Any]], views.Document], query: Mapping[str, Any]) -> tuple[int, str]:
        """The status and the body of an answer, with the seconds that it took, by which the page asks again later."""
        began, common = time.monotonic(), {"storage": self._place.name}
        try:
            document = answer(query)
        except FileNotFoundError as error:
            return 400, json.dumps({**common, "error": f"{error.filename or error} was deleted meanwhile", "fix": ""})
        except (HeliostatError, OSError) as error:  # what cannot be read is shown in its place
            return 400, json.dumps({**common, "error": getattr(error, "what", str(error)), "fix": getattr(error, "fix", "")})
        took = round(time.monotonic() - began, 3)
        return 200, json.dumps({**common, "trouble": self._place.trouble(), "took": took, **document}, default=str)

    def _answer_runs(self, query: Mapping[str, Any]) -> views.Document:
        """The rows that the filters leave, in their order, from ``offset`` on."""
        rows = self._index.rows(self._place.folder())
        metrics = sorted({name for row in rows for name in row["metrics"]})
        name, sort = _one(query, "name"), _one(query, "sort") or "created"
        pattern = name if any(mark in name for mark in "*?[") else f"*{name}*"
        kept = chosen(rows, pattern, _one(query, "state") or None)
        if kind := _one(query, "kind"):
            kept = [row for row in kept if row["kind"] == kind]
        if sort in (*KEYS, *metrics):  # else the metric of a row that is gone
            kept = ordered([*kept], sort, bool(_one(query, "reverse"))) if _has(kept, sort) else kept
        offset = int(given) if (given := _one(query, "offset")[:9]).isdecimal() else 0
        shown = [views.listed(row) for row in kept[offset : offset + LIMIT]]
        choices = {"states": STATES, "keys": KEYS, "metrics": metrics}
        return {**choices, "pending": self._index.pending, "rows": shown, "offset": offset, **views.summary(kept)}

    def _answer_run(self, query: Mapping[str, Any]) -> views.Document:
        """A run, a sweep or a script; nothing but its stamp if that is the one that the browser has."""
        name, storage = _one(query, "name"), self._place.folder()
        folder = views.found(storage, name)
        versions = of_run(self._models.look(storage), storage, name)
        stamp, now = (stamp_of(folder, self._place.copied), versions), time.monotonic()
        before, computed, document = self._views.get(name, (None, 0.0, {}))
        if before != stamp or (document["state"] != "finished" and now - computed > FRESH):
            computed, document = now, {**views.view(folder, self._records), "models": versions}
            if self._place.copied:  # when they are asked for
                document |= {"report": True, "logs": True}
            self._views = {name: (stamp, computed, document)}  # those who look at others read them again
        mark = hashlib.sha256(f"{stamp} {computed}".encode()).hexdigest()[:16]
        return {"mark": mark, "same": True} if _one(query, "mark") == mark else {"mark": mark, **document}

    def _answer_compare(self, query: Mapping[str, Any]) -> views.Document:
        names = list(dict.fromkeys(query.get("run", [])))[: views.MOST_COMPARED + 1]
        return views.compared([views.found(self._place.folder(), name) for name in names], names, self._records)

    def _answer_log(self, query: Mapping[str, Any]) -> views.Document:
        views.found(self._place.folder(), name := _one(query, "name"))
        return views.log(views.found(self._place.wanted(name), name))

    def _answer_models(self, query: Mapping[str, Any]) -> views.Document:
        found = self._models.look(self._place.folder())
        return {"models": [listed(known) for known in found], "pending": self._models.pending}

    def _answer_model(self, query: Mapping[str, Any]) -> views.Document:
        storage = self._place.folder()
        return shown(self._models.look(storage), _one(query, "name"), storage, self._models.pending)

    async def _report(self, request: web.Request) -> web.StreamResponse:
        read = asyncio.get_running_loop().run_in_executor(self._worker, self._read_report, request.query.get("name", ""))
        try:
            return web.Response(body=await read, content_type="text/html", charset="utf-8",
                                headers={"Content-Security-Policy": REPORT_POLICY})  # fmt: skip
        except (HeliostatError, OSError) as error:
            return web.Response(status=404, text=f"The report cannot be shown: {error}")

    def _read_report(self, name: str) -> bytes:
        views.found(self._place.folder(), name)
        folder = views.found(self._place.wanted(name), name)
        if not folder.exists("report.html"):
            raise UserError(f"{name} has no report yet", f"heliostat report {name} draws it")
        return folder.read("report.html")


def _one(query: Mapping[str, Any], key: str) -> str:
    return str(query.get(key, [""])[0])


def _has(rows: list[dict[str, Any]], key: str) -> bool:
    return key in KEYS or any(key in row["metrics"] for row in rows)


def _allowed(error: web.HTTPException) -> dict[str, str]:
    return {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
