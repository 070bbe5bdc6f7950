"""Real clients of a service: tritonclient in JSON and binary, openai with streaming, curl; they get what predict says."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from heliostat.workloads.inference import load_run, predict
from tests.accept.conftest import overlay
from tests.conftest import Command, clean_environment, end_group, wait_for
from tests.workloads.finished.test_predictions import rows_of
from tests.workloads.training.test_loop import config, train

TRITON = """
import json, sys
import numpy as np
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

url, token, name, given, output = sys.argv[1:]
headers = {"Authorization": f"Bearer {token}"}
client = InferenceServerClient(url)
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(name, headers=headers)
kinds = {each["name"]: each["datatype"] for each in client.get_model_metadata(name, headers=headers)["inputs"]}
dtypes = {"BYTES": object, "FP64": np.float64, "UINT8": np.uint8, "BOOL": bool, "INT64": np.int64}
found = []
for binary in (True, False):
    inputs = []
    for key, values in json.load(open(given)).items():
        array = np.array(values, dtypes[kinds[key]])
        inputs.append(InferInput(key, array.shape, kinds[key]))
        inputs[-1].set_data_from_numpy(array, binary_data=binary)
    outputs = [InferRequestedOutput(output, binary_data=binary)]
    found.append(client.infer(name, inputs, outputs=outputs, headers={**headers}).as_numpy(output).tolist())
    everything = client.infer(name, inputs, headers={**headers})  # copies: the client adds to them
    assert everything.as_numpy(output).tolist() == found[-1]
print(json.dumps(found))
"""
OPENAI = """
import json, sys
from openai import AuthenticationError, OpenAI

url, token = sys.argv[1:]
client = OpenAI(base_url=f"{url}/v1", api_key=token, max_retries=0)
assert [each.id for each in client.models.list()] == ["words"]
asked = dict(model="words", prompt="def ", max_tokens=320, temperature=0.7, seed=0)
whole = client.completions.create(**asked)
pieces = [event.choices[0].text for event in client.completions.create(**asked, stream=True)]
try:
    OpenAI(base_url=f"{url}/v1", api_key="x" * 20, max_retries=0).models.list()
except AuthenticationError:
    print(json.dumps([whole.choices[0].text, pieces, whole.usage.total_tokens]))
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return overlay(tmp_path_factory.mktemp("serving") / "venv", "-r", str(Path(__file__).with_name("serving.txt")))


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path, clean_environment(tmp_path / "home"))


@contextmanager
def served(command: Command, name: str, *options: str) -> Iterator[tuple[str, str]]:
    """The URL and the token of a service."""
    process = command.start("serve", name, "--port", "0", *options)
    record = command.cwd / f"home/.heliostat/services/{name}.json"
    try:
        wait_for(lambda: record.exists() or process.poll() is not None, "the file of the service")
        yield json.loads(record.read_text())["url"], record.with_suffix(".token").read_text().strip()
        assert command("serve", "stop", name).code == 0
    finally:
        end_group(process)
        process.communicate()


def text_files(place: Path) -> dict[str, Any]:
    """Files to train a small language model on, and the keys of its config."""
    (place / "texts").mkdir()
    for number in range(20):
        (place / "texts" / f"{number}.txt").write_text(f"def f{number}(x):\n    return x + {number}\n" * 10)
    texts = {"source": "text", "options": {"path": str(place / "texts"), "length": 32}}
    return {"task": "language-model", "model": {"width": 32, "layers": 1, "heads": 2}, "dataset": texts}


def output_of(*words: Any) -> Any:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_tritonclient_and_curl_get_what_predict_says(programs: Path, command: Command) -> None:
    place = command.cwd
    rows = [row for row in rows_of(40) if None not in row.values()]
    pyarrow.csv.write_csv(pa.Table.from_pylist(rows_of(300)), place / "rows.csv")
    options = {"path": str(place / "rows.csv"), "target": "churn", "drop": ["price", "id"]}
    table = {"source": "table", "options": options}
    train(config(place / "runs", name="churn", task="tabular-classification", model={}, dataset=table))
    train(config(place / "runs", name="digits", task="image-classification", model={"width": 8}, dataset={"source": "digits"}))
    wanted = load_run(place / "runs/churn").predict(rows)["probability_yes"].to_numpy()
    (place / "columns.json").write_text(
        json.dumps({key: [row[key] for row in rows] for key in ("age", "income", "country", "member", "joined")})
    )
    with served(command, "churn") as (url, token):
        host = url.removeprefix("http://")
        found = output_of(programs / "python", "-c", TRITON, host, token, "churn", place / "columns.json", "probability_yes")
        body = json.dumps({"rows": [{key: value for key, value in row.items() if key != "id"} for row in rows]})
        header = f"Authorization: Bearer {token}"
        curled = output_of("curl", "--silent", "--fail", "-H", header, f"{url}/v1/predict", "-d", body)
    for each in (*found, [row["probability_yes"] for row in curled["predictions"]]):
        assert each == pytest.approx(wanted, abs=1e-5)

    run = load_run(place / "runs/digits")
    images = run.dataset.take("test", np.arange(5))["image"]
    (place / "images.json").write_text(json.dumps({"image": images.tolist()}))
    import torch

    with torch.no_grad():
        probabilities = run.task.predict(run.model, {"image": torch.from_numpy(images)})["probabilities"].numpy()
    with served(command, "digits") as (url, token):
        host = url.removeprefix("http://")
        found = output_of(programs / "python", "-c", TRITON, host, token, "digits", place / "images.json", "probabilities")
    assert np.array(found) == pytest.approx(np.stack([probabilities] * 2), abs=1e-5)


def test_the_client_of_openai_gets_what_predict_says_whole_and_in_pieces(programs: Path, command: Command) -> None:
    place = command.cwd
    train(config(place / "runs", name="words", **text_files(place)))
    wanted = predict(load_run(place / "runs/words"), "def ")["text"]
    with served(command, "words") as (url, token):
        whole, pieces, tokens = output_of(programs / "python", "-c", OPENAI, url, token)
    assert "def " + whole == wanted
    assert "".join(pieces) == whole
    assert len(pieces) > 100
    assert tokens == 324
