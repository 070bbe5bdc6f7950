"""A service, the application in this process: what it answers, and what it refuses."""

import base64
import io
import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from PIL import Image
from starlette.testclient import TestClient

from heliostat.cli import main
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.inference import Trained, load_run, predict
from heliostat.workloads.serve import sources
from heliostat.workloads.serve.app import OPEN, Service, application
from heliostat.workloads.serve.codecs import Codec, finite
from heliostat.workloads.serve.language import Sampler
from heliostat.workloads.serve.refusal import Limits
from heliostat.workloads.serve.servable import Servable, from_run
from tests.conftest import wait_for
from tests.workloads.finished.test_predictions import rows_of
from tests.workloads.training.test_loop import config, train

TOKEN = "0123456789abcdef"
LENGTH = "inference-header-content-length"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished runs ``churn`` and ``trees`` on a table, ``words`` on texts and ``digits`` on images."""
    folder = tmp_path_factory.mktemp("served")
    pyarrow.csv.write_csv(pa.Table.from_pylist(rows_of(300)), folder / "rows.csv")
    table = {"path": str(folder / "rows.csv"), "target": "churn", "drop": ["price", "id"]}
    (folder / "texts").mkdir()
    for number in range(20):
        (folder / "texts" / f"{number}.txt").write_text(f"def f{number}(x):\n    return x + {number}  # é\n" * 10)
    texts = {"path": str(folder / "texts"), "length": 32}
    small = {"steps": 5, "evaluate_every": 5}
    for name, task, source, options, model in (
        ("churn", "tabular-classification", "table", table, {}),
        ("words", "language-model", "text", texts, {"width": 32, "layers": 1, "heads": 2}),
        ("digits", "image-classification", "digits", {}, {"width": 8, "stages": 1}),
    ):
        train(config(folder, name=name, task=task, model=model, dataset={"source": source, "options": options}, **small))
    trees = {
        "name": "trees", "storage": str(folder), "task": "gradient-boosting", "steps": 5,
        "dataset": {"source": "table", "options": table},
    }  # fmt: skip
    train(TrainConfig.model_validate(trees))
    return folder


@pytest.fixture(scope="module")
def models(place: Path) -> dict[str, tuple[Trained, Servable]]:
    return {
        name: (load_run(place / name), from_run(Folder.at(place / name), name).warmed_up())
        for name in ("churn", "trees", "words", "digits")
    }


Start = Callable[..., TestClient]


@pytest.fixture
def start() -> Iterator[Start]:
    """Serves a model; the client has the token."""
    services: list[Service] = []

    def served(model: Servable, **limits: Any) -> TestClient:
        services.append(Service(model, Limits(**{"seconds": 600.0, **limits})))  # a busy machine is no reason to refuse
        return TestClient(
            application(services[-1], TOKEN), headers={"Authorization": f"Bearer {TOKEN}"}, raise_server_exceptions=False
        )

    yield served
    for service in services:
        service.engine.close()


def test_rows_are_answered_as_predict_answers_them(
    models: dict[str, tuple[Trained, Servable]], start: Start, tmp_path: Path
) -> None:
    rows = [{key: value for key, value in row.items() if key != "id"} for row in rows_of(20)]
    for name in ("churn", "trees"):
        run, model = models[name]
        answer = start(model).post("/v1/predict", json={"rows": rows}).json()
        assert (answer["model"], answer["version"]) == (name, "5")
        same(answer["predictions"], run.predict(rows).to_pylist())

    run, model = models["digits"]
    pixels = run.dataset.take("test", np.arange(3))["image"]
    images = []
    for number, each in enumerate(pixels):
        file = io.BytesIO()
        Image.fromarray((each[0] * 15).astype("uint8")).save(file, "PNG")
        images.append(file.getvalue())
        (tmp_path / f"{number}.png").write_bytes(file.getvalue())
    body = {"rows": [{"image": base64.b64encode(each).decode()} for each in images]}
    found = start(model).post("/v1/predict", json=body).json()["predictions"]
    for number, each in enumerate(found):
        wanted = predict(run, str(tmp_path / f"{number}.png"))
        assert each["prediction"] == wanted["class"]
        assert each[f"probability_{wanted['class']}"] == pytest.approx(wanted["probabilities"][wanted["class"]], abs=1e-5)
    refused = start(model).post("/v1/predict", json={"rows": [{"image": str(tmp_path / "0.png")}]})
    assert (refused.status_code, "not base64" in refused.text) == (422, True), "a path of the server's is not read"


def same(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    assert [each["prediction"] for each in found] == [each["prediction"] for each in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_the_inference_protocol_takes_columns_and_arrays_in_json_and_binary(
    models: dict[str, tuple[Trained, Servable]], start: Start
) -> None:
    run, model = models["churn"]
    client, rows = start(model), rows_of(9)
    wanted = run.predict(rows)["probability_yes"].to_numpy()
    described = client.get("/v2/models/churn").json()
    assert [(each["name"], each["datatype"]) for each in described["inputs"]] == [
        ("age", "FP64"), ("income", "FP64"), ("country", "BYTES"), ("member", "BOOL"), ("joined", "BYTES")
    ]  # fmt: skip
    texts = {
        each["name"]: [["" if row[each["name"]] is None else str(row[each["name"]])] for row in rows]
        for each in described["inputs"]
    }
    inputs = [{"name": name, "shape": [9, 1], "datatype": "BYTES", "data": data} for name, data in texts.items()]
    answer = client.post("/v2/models/churn/infer", json={"id": "7", "inputs": inputs}).json()
    by_name = {each["name"]: each["data"] for each in answer["outputs"]}
    assert (answer["id"], by_name["probability_yes"]) == ("7", pytest.approx(wanted, abs=1e-5))

    ages = np.array([np.nan if row["age"] is None else row["age"] for row in rows])
    numbers = {"name": "age", "shape": [9], "datatype": "FP64", "parameters": {"binary_data_size": ages.nbytes}}
    request = {"inputs": [numbers, *inputs[1:]], "outputs": [{"name": "probability_yes", "parameters": {"binary_data": True}}]}
    head = json.dumps(request).encode()
    answered = client.post("/v2/models/churn/infer", content=head + ages.tobytes(), headers={LENGTH: str(len(head))})
    found = np.frombuffer(answered.content[int(answered.headers[LENGTH]) :], "<f8")
    assert found == pytest.approx(wanted, abs=1e-5)

    run, model = models["digits"]
    images = run.dataset.take("test", np.arange(2))["image"]
    entry = {"name": "image", "shape": [*images.shape], "datatype": "UINT8", "data": images.tolist()}
    outputs = start(model).post("/v2/models/digits/versions/5/infer", json={"inputs": [entry]}).json()["outputs"]
    assert {each["name"]: each["shape"] for each in outputs} == {"probabilities": [2, 10], "class": [2]}
    refused = start(model).post("/v2/models/digits/infer", json={"inputs": [{**entry, "datatype": "INT64"}]})
    assert refused.json()["error"] == "input image is INT64 [2, 1, 8, 8], but must be UINT8 [-1, 1, 8, 8]"


def test_rows_and_their_predictions_are_handed_over_if_that_is_asked_for(models: dict[str, tuple[Trained, Servable]]) -> None:
    kept: list[Any] = []
    model = models["churn"][1]
    service = Service(model, Limits(), lambda *given: kept.append(given))
    client = TestClient(application(service, TOKEN), headers={"Authorization": f"Bearer {TOKEN}"})
    rows = [{key: value for key, value in row.items() if key not in ("id", "churn", "price")} for row in rows_of(2)]
    answer = client.post("/v1/predict", json={"rows": rows}).json()
    assert kept.pop() == (model, rows, answer["predictions"])
    bad = {**rows[0], "age": "old"}
    answer = client.post("/v1/predict", json={"rows": [bad, *rows], "partial": True}).json()
    assert kept.pop() == (model, rows, answer["predictions"][1:])
    assert answer["predictions"][0] is None
    assert client.post("/v1/predict", json={"rows": [bad, *rows]}).status_code == 422
    inputs = [{"name": "age", "datatype": "FP64", "shape": [1], "data": [41.0]}]
    assert client.post("/v2/models/churn/infer", json={"inputs": inputs}).status_code == 200
    [(by, found, predictions)] = kept
    assert (by, found, len(predictions)) == (model, [{"age": 41.0}], 1)
    assert json.dumps(predictions)
    service.engine.close()


def test_text_is_continued_as_predict_does_whole_and_in_pieces(
    models: dict[str, tuple[Trained, Servable]], start: Start
) -> None:
    run, model = models["words"]
    client = start(model)
    body = {"model": "words", "prompt": "def é", "max_tokens": 320, "temperature": 0.7, "seed": 0}
    answer = client.post("/v1/completions", json=body).json()
    assert "def é" + answer["choices"][0]["text"] == predict(run, "def é")["text"]
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"] == {"prompt_tokens": 6, "completion_tokens": 320, "total_tokens": 326}
    short = {**body, "max_tokens": 60, "stream": True, "stream_options": {"include_usage": True}}
    stream = client.post("/v1/completions", json=short)
    lines = [line.removeprefix("data: ") for line in stream.text.split("\n\n") if line]
    events = [json.loads(line) for line in lines[:-1]]
    assert lines[-1] == "[DONE]"
    whole, pieces = answer["choices"][0]["text"], [choice["text"] for event in events for choice in event["choices"]]
    assert len(pieces) > 10
    assert whole.startswith("".join(pieces))
    assert events[-1]["usage"]["completion_tokens"] == 60
    stopped = client.post("/v1/completions", json={**body, "stop": [whole[40:42]], "stream": True}).text
    choices = [json.loads(line[6:])["choices"][0] for line in stopped.split("\n\n") if line and "[DONE]" not in line]
    assert "".join(choice["text"] for choice in choices) == whole[: whole.index(whole[40:42])]
    assert choices[-1]["finish_reason"] == "stop"
    assert client.get("/v1/models").json()["data"][0]["id"] == "words"
    for changed, words in (
        ({"n": 2}, "n is 2"), ({"model": "gpt"}, "there is no model"), ({"prompt": [300]}, "from 0 to 255"),
        ({"temperature": -1}, "temperature"), ({"logprobs": 3}, "logprobs"), ({"prompt": ""}, "at least one character"),
    ):  # fmt: skip
        refused = client.post("/v1/completions", json={**body, **changed})
        assert (refused.status_code // 100, words in refused.json()["error"]["message"]) == (4, True), refused.text


def test_a_bad_row_fails_itself_and_every_problem_is_listed(models: dict[str, tuple[Trained, Servable]], start: Start) -> None:
    run, model = models["churn"]
    client, good = start(model), {"age": 41, "country": "DE"}
    rows = [good, {"age": "old"}, {"agee": 3}, {"churn": "yes"}]
    refused = client.post("/v1/predict", json={"rows": rows})
    assert (refused.status_code, refused.json()["error"].count("; row")) == (422, 2)
    assert "row 2: column 'age' has 'old', but each value must be a number; row 3: 'agee' is not" in refused.json()["error"]
    partial = client.post("/v1/predict", json={"rows": rows, "partial": True}).json()
    assert [each["row"] for each in partial["errors"]] == [2, 3, 4]
    same([partial["predictions"][0]], run.predict([good]).to_pylist())
    with ThreadPoolExecutor(8) as many:  # those of other requests are computed together with it
        bodies = [{"rows": [good if number % 4 else {"age": "old"}]} for number in range(40)]
        codes = [answer.status_code for answer in many.map(lambda body: client.post("/v1/predict", json=body), bodies)]
    assert codes == [200 if number % 4 else 422 for number in range(40)]


def test_no_path_but_health_and_the_page_answers_without_the_token(
    models: dict[str, tuple[Trained, Servable]], start: Start
) -> None:
    client = start(models["churn"][1])
    found = client.get("/openapi.json").json()
    paths = [*found["paths"], "/openapi.json", "/v1/models/churn", "/v1/completions", "/nowhere", "/docs", "/-/routes"]
    for path in paths:
        for given in ("", TOKEN, f"Bearer {TOKEN}x", f"Basic {TOKEN}"):
            for method in ("GET", "POST"):
                answer = client.request(method, path, headers={"Authorization": given})
                assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer"), path
    assert [client.get(path, headers={"Authorization": ""}).status_code for path in OPEN] == [200] * len(OPEN)
    for path, methods in found["paths"].items():  # the examples of the page can be sent as they are
        for method, operation in methods.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
            assert client.request(method.upper(), path, json=body).status_code == 200, path
    page = client.get("/").text
    assert "http://" not in page
    assert "https://" not in page


NO_REQUESTS = [
    (b'{"rows": [{"age": NaN}]}', 400, "NaN is no number of JSON"),
    (b'{"rows": [{"age": 1e999}]}', 400, "beyond the numbers of 64 bits"),
    (b'{"rows": [{"age": 1, "age": 2}]}', 400, "'age' twice"),
    (b'{"rows": ' + b"[" * 100_000, 400, "nested too deeply"),
    (b'{"rows": [{"country": "\\ud800"}]}', 400, "surrogates not allowed"),
    (b'{"rows": [{"country": "\xff"}]}', 400, "not JSON"),
    (b'{"rows": [{"age": ' + b"9" * 5000 + b"}]}", 400, "not JSON"),
    (b"[]", 400, "must be an object"),
    (b'{"rows": []}', 400, "at least one object"),
    (b'{"row": [{}]}', 400, "'row'"),
    (b'{"rows": [{"age": {"years": 3}}]}', 422, "'age'"),
    (b'{"rows": [{}]}', 422, "none of the columns"),
    (b'{"rows": [{"age": "' + b"0" * 100_000 + b'x"}]}', 422, "a text of 100001 characters"),  # patterns take its square
    (b'{"rows": [{"age": 1}, {"age": 2}, {"age": 3}]}', 413, "at most 2 are taken"),
    (b'{"rows": [{"country": "' + b"x" * (1 << 20) + b'"}]}', 413, "longer than 1 MB"),
]


@pytest.mark.parametrize(("body", "status", "words"), NO_REQUESTS, ids=[words for _, _, words in NO_REQUESTS])
def test_what_is_no_request_is_refused_with_the_reason(
    models: dict[str, tuple[Trained, Servable]], start: Start, body: bytes, status: int, words: str
) -> None:
    answer = start(models["churn"][1], megabytes=1, rows=2).post("/v1/predict", content=body)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text[:300]


def test_numbers_of_any_size_in_a_request_are_refused(models: dict[str, tuple[Trained, Servable]], start: Start) -> None:
    client = start(models["churn"][1])
    long = {"Inference-Header-Content-Length": "9" * 5000}
    assert client.post("/v2/models/churn/infer", content=b"{}", headers=long).status_code == 400
    column = {"name": "age", "datatype": "FP64", "shape": [1, 10**4200, 10**4200], "data": [1.0]}
    assert client.post("/v2/models/churn/infer", json={"inputs": [column]}).status_code == 400
    assert Sampler(1e-40, 1.0, 0)(np.array([1.0, 3.0, 2.0])) == 1


def own_model(compute: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Servable:
    """A model of one number x."""
    codec = Codec(
        lambda rows: {"x": np.array([row["x"] for row in rows], float)}, compute,
        lambda outputs: [{"y": each} for each in finite(outputs)["y"].tolist()], {"x": 0}, {"x": {"kind": "number"}},
    )  # fmt: skip
    return Servable("own", "1", "here", {"inputs": {}, "outputs": {}}, compute, codec)


def test_too_many_requests_and_slow_ones_are_refused_with_the_time_to_try_again(start: Start) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        begun.set()
        go_on.wait(300)
        return {"y": arrays["x"]}

    client = start(own_model(slow), requests=1)
    with ThreadPoolExecutor(1) as other:
        first = other.submit(client.post, "/v1/predict", json={"rows": [{"x": 1}]})
        begun.wait(300)
        refused = client.post("/v1/predict", json={"rows": [{"x": 1}]})
        ready = client.get("/v2/health/ready")
        go_on.set()
        assert first.result().json()["predictions"] == [{"y": 1.0}]
    assert (refused.status_code, refused.headers["Retry-After"], ready.status_code) == (429, "1", 200)
    go_on.clear()
    late = start(own_model(slow), seconds=0.05).post("/v1/predict", json={"rows": [{"x": 1}]})
    go_on.set()
    assert (late.status_code, late.headers["Retry-After"], "longer than 0.05 s" in late.text) == (503, "1", True)


def test_an_answer_that_is_not_finite_and_a_model_that_fails_hit_their_own_request(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting, go_on = threading.Event(), threading.Event()

    def fragile(arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        if (arrays["x"] == 0).any():
            waiting.set()
            go_on.wait(300)
        if (arrays["x"] > 100).any():
            raise RuntimeError("x is too large")
        return {"y": np.where(arrays["x"] < 0, np.nan, arrays["x"])}

    client = start(own_model(fragile))
    with ThreadPoolExecutor(5) as many:
        first = many.submit(client.post, "/v1/predict", json={"rows": [{"x": 0}]})
        waiting.wait(300)
        others = [many.submit(client.post, "/v1/predict", json={"rows": [{"x": x}]}) for x in (1, -1, 101, 2)]
        service: Any = client.app
        wait_for(lambda: service._requests == 5, "all five to wait")
        go_on.set()
        codes = [each.result().status_code for each in (first, *others)]
    assert codes == [200, 200, 422, 500, 200]
    said = capsys.readouterr().err
    assert "RuntimeError: x is too large" in said
    assert others[2].result().json()["error"].partition("see ")[2][:8] in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["churnn"], "run 'churnn' does not exist"),
        (["churn@champion"], "model 'churn' does not exist"),
        (
            ["churn", "--on", "gpu", "--plain"],
            "--plain is for a service on this machine, and --on gpu is a cluster\n  fix: leave",
        ),
        (["churn", "--dry-run"], "--dry-run needs a cluster\n  fix: add --on PROFILE"),
        (["churn", "--on", "gpu", "--set", "replicas=99"], "replicas is 99, but the groups of gpu at their maximum hold"),
        (["churn", "--on", "gpu", "--set", "replicas=x"], "--set.replicas"),
        (["churn", "--port", "70000", "--sample", "2"], "--port is 70000"),
        (["churn", "--port", "70000", "--sample", "2"], "--sample is 2, but is a share"),
        (
            ["churn", "--port", "0", "--sample", "1"],
            "fix: heliostat serve churn@champion --sample 0.1, after heliostat model add",
        ),
        (["churn", "--set", "rowz=3", "--set", "seconds=0"], "--set has 2 problems"),
        (["churn", "--port", "0", "--host", "256.0.0.1"], "256.0.0.1:0 cannot be listened on"),
        (["churn", "--port", "0", "--token-file", "short.token"], "has no token of 16 to 512"),
        (["churn", "--port", "0", "--token-file", "nowhere/a.token"], "No such file or directory"),
        (["broken", "--port", "0"], "has no checkpoint yet"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_what_cannot_be_served_is_refused_before_a_port_answers(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    monkeypatch.setenv("HOME", str(place / "home"))
    (place / "home").mkdir(exist_ok=True)
    monkeypatch.chdir(place)
    (place / "short.token").write_text("abc\n")
    shutil.copytree(place / "churn", place / "broken", ignore=shutil.ignore_patterns("checkpoints*"), dirs_exist_ok=True)
    assert main(["serve", *options, "--storage", str(place)]) == 2
    assert words in capsys.readouterr().err


def test_without_the_extra_serve_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("heliostat.workloads.serve.host.NEEDED", ("starlette", "nowhere_at_all"))
    assert main(["serve", "churn"]) == 2
    assert "serving needs nowhere_at_all, not installed here\n  fix: pip install 'heliostat[serve]'" in capsys.readouterr().err


def test_a_version_that_cannot_be_loaded_is_reported_once_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "EVERY", 0.001)
    monkeypatch.setattr(sources, "AGAIN", 0.002)
    wanted, served, problems, damaged = ["1"], list[str](), list[str](), [4]

    class Versions:
        name, follows = "own", True

        def current(self) -> str:
            return wanted[0]

        def load(self) -> tuple[str, Servable]:
            if wanted[0] == "2" and damaged[0]:
                damaged[0] -= 1
                raise UserError("version 2 is damaged", "restore it")
            return wanted[0], own_model(lambda arrays: arrays)

    full = [True]

    def change(model: Servable) -> None:
        if full.pop() if full else False:
            raise OSError(28, "No space left on device")
        served.append(wanted[0])

    follower = sources.Follower(Versions(), "1", change, problems.append)
    follower.start()
    wanted[0] = "2"
    wait_for(lambda: served == ["2"], "the version when it is restored")
    assert problems[:1] == ["version 2 is damaged\n  fix: restore it"]
    wanted[0] = "3"
    wait_for(lambda: served == ["2", "3"], "the next version")
    follower.close()
    _, while_changing, over = problems
    assert ("No space left" in while_changing, over) == (True, "")
