"""The application: which path is answered by what. It imports no Ray, so that uvicorn and Ray Serve host the same one."""

import time
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route, Router

from heliostat.workloads.serve import completions, inference_protocol, openapi
from heliostat.workloads.serve.body import parse_object, read_body, to_bytes, to_json
from heliostat.workloads.serve.engine import Engine
from heliostat.workloads.serve.guard import Guard
from heliostat.workloads.serve.refusal import Limits, Refusal
from heliostat.workloads.serve.rows import predict_rows
from heliostat.workloads.serve.sample import Keep, nothing
from heliostat.workloads.serve.servable import Servable

PAGE = Path(__file__).with_name("page.html")
EVENTS = "text/event-stream"


class Service:
    """What answers: a model that can be changed over, and the engine that computes.

    A request is answered by the model that is there when it begins. Rows of tables and their predictions go to ``keep``.
    """

    def __init__(self, model: Servable, limits: Limits, keep: Keep = nothing) -> None:
        self.model, self.limits, self.keep = model, limits, keep
        self.engine, self.since = Engine(), time.time()

    def named(self, request: Request) -> Servable:
        """The model, if the path has its name, and its version if it has one.

        Raises:
            Refusal: 404.
        """
        model, name = self.model, request.path_params["name"]
        version = request.path_params.get("version", model.version)
        if (name, version) != (model.name, model.version):
            asked = f"there is no model {name[:80]!r} of version {version[:20]!r}"
            raise Refusal(404, f"{asked}: there is {model.name}, version {model.version}")
        return model

    async def predict(self, request: Request) -> Response:
        """Predictions for raw rows."""
        model = self.model
        body = parse_object(await read_body(request, self.limits))
        return to_json(await predict_rows(model, self.engine, self.limits, body, self.keep))

    async def infer(self, request: Request) -> Response:
        """Inference by the Open Inference Protocol."""
        model = self.named(request)
        length = request.headers.get(inference_protocol.JSON_LENGTH)
        body = await read_body(request, self.limits)
        document, binary = await inference_protocol.infer(model, self.engine, self.limits, body, length, self.keep)
        if not binary:
            return to_json(document)
        data = to_bytes(document)
        headers = {inference_protocol.JSON_LENGTH: str(len(data))}
        return Response(data + binary, headers=headers, media_type="application/octet-stream")

    async def complete(self, request: Request) -> Response:
        """The continuation of texts."""
        model = self.model
        completion = completions.check(model, parse_object(await read_body(request, self.limits)))
        if not completion.asked.stream:
            return to_json(await completions.whole(completion, self.engine))
        return StreamingResponse(
            completions.events(completion, self.engine, self.limits.seconds),
            headers={"Cache-Control": "no-store"},
            media_type=EVENTS,
        )

    async def server(self, request: Request) -> Response:
        """The server and its extensions."""
        return to_json(inference_protocol.SERVER)

    async def live(self, request: Request) -> Response:
        """That the process answers; needs no token."""
        return to_json({"live": True})

    async def ready(self, request: Request) -> Response:
        """That the model is loaded and has computed; needs no token."""
        return to_json({"ready": True})

    async def described(self, request: Request) -> Response:
        """The inputs and outputs of the model."""
        return to_json(inference_protocol.metadata(self.named(request)))

    async def model_ready(self, request: Request) -> Response:
        """That the model of that name can be asked."""
        return to_json({"name": self.named(request).name, "ready": True})

    async def models(self, request: Request) -> Response:
        """The models, as clients of OpenAI's ask for them."""
        return to_json(completions.models(self.model, self.since))

    async def model_entry(self, request: Request) -> Response:
        """One of these models."""
        return to_json(completions.entry(self.named(request), self.since))

    async def document(self, request: Request) -> Response:
        """The OpenAPI document."""
        return to_json(openapi.document(self.model))

    async def page(self, request: Request) -> Response:
        """The page on which requests are tried; it has nothing of the model, and asks for the token."""
        return HTMLResponse(PAGE.read_text(), headers=PAGE_HEADERS)


PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'",
    "X-Content-Type-Options": "nosniff",
}
OPEN = ("/", "/v2/health/live", "/v2/health/ready")
"""The paths that need no token."""


def application(service: Service, token: str) -> Any:
    """The ASGI application of a service; every path but `OPEN` needs the token."""
    base = "/v2/models/{name}"
    get, post = ["GET"], ["POST"]
    routes = [
        Route("/v1/predict", service.predict, methods=post),
        Route("/v1/completions", service.complete, methods=post),
        Route("/v1/models", service.models, methods=get),
        Route("/v1/models/{name}", service.model_entry, methods=get),
        Route("/v2", service.server, methods=get),
        Route("/v2/health/live", service.live, methods=get),
        Route("/v2/health/ready", service.ready, methods=get),
        *(
            route
            for path in (base, f"{base}/versions/{{version}}")
            for route in (
                Route(path, service.described, methods=get),
                Route(f"{path}/ready", service.model_ready, methods=get),
                Route(f"{path}/infer", service.infer, methods=post),
            )
        ),
        Route("/openapi.json", service.document, methods=get),
        Route("/", service.page, methods=get),
    ]
    return Guard(Router(routes, redirect_slashes=False), token, service.limits, OPEN)
