"""The card of an exported model, ``README.md``, and its ``config.json``."""

import json
import time
from collections.abc import Mapping
from typing import Any

from heliostat.workloads.inference import Trained
from heliostat.workloads.run.record import EVALUATION

Document = dict[str, Any]

HOW = {
    "torch": """```python
import torch

module = torch.export.load("model.pt2").module()
outputs = module({inputs})  # tensors, by name; see signature.json
```""",
    "onnx": """```python
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
outputs = session.run(None, {inputs})  # numpy arrays, by name; see signature.json
```""",
    "hf": """```python
import transformers

model = transformers.{architecture}.from_pretrained(".")
```""",
    "safetensors": """`model.safetensors` has the weights, and nothing that runs them: the architecture is that
of the task in `config.json`. `start_from: model.safetensors` begins a run of Heliostat with them.""",
    "lightgbm": """```python
import lightgbm

booster = lightgbm.Booster(model_file="model.txt")  # gaps, classes, quantiles: see loader/
```""",
}
ROWS = """
From raw rows, with numpy and {needs}:

```python
import sys

sys.path.insert(0, ".")  # this folder
from loader import Model

Model().predict([{{{example}}}])
```
"""
NEEDS = {"torch": "torch", "onnx": "onnxruntime", "lightgbm": "lightgbm"}


def config_of(run: Trained) -> Document:
    """What the model is and was trained with, without the paths of the machine."""
    record = run.record
    return {
        "name": record.config.name,
        "task": record.config.task,
        "model": run.task.options.model_dump(mode="json"),
        "step": run.step,
        "config_hash": record.hash,
        "data": {"source": record.config.dataset.source, "fingerprint": record.dataset.fingerprint},
        "trained": time.strftime("%Y-%m-%d", time.gmtime(record.created)),
        "git": record.git,
        "versions": record.versions,
    }


def card(run: Trained, to: str, signature: Document, compared: str) -> str:
    """The card, as Markdown."""
    config = config_of(run)
    today = time.strftime("%Y-%m-%d", time.gmtime())
    lines = [
        f"# {config['name']}", "",
        f"A model of the task `{config['task']}`, step {config['step']}, exported to `{to}` on {today}.", "",
        "## Intended use", "", "To be written by those who publish this model: what it is for, and what it is not for.", "",
        "## Use", "", _how(to, signature), *_rows(to, signature), "",
        "## Metrics on the test split", "", *_metrics(run), "", f"{compared}", "",
        "## Origin", "",
        f"- Data: {config['data']['source'] or 'a dataset of its own'}, fingerprint `{config['data']['fingerprint']}`",
        f"- Config: hash `{config['config_hash']}`; `model: {json.dumps(config['model'])}`",
        f"- Trained {config['trained']}, git {config['git'] or 'unknown'}, with "
        + ", ".join(f"{name} {version}" for name, version in config["versions"].items()),
        "- Files: checksums in `SHA256SUMS` (`sha256sum -c SHA256SUMS`)", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _how(to: str, signature: Document) -> str:
    inputs = "{" + ", ".join(f'"{name}": {name}' for name in signature.get("inputs", {})) + "}"
    return HOW[to].replace("{inputs}", inputs).replace("{architecture}", signature.get("architecture", ""))


def _rows(to: str, signature: Document) -> list[str]:
    if to not in NEEDS or "columns" not in signature:
        return []
    example = ", ".join(f"{json.dumps(column['name'])}: ..." for column in signature["columns"][:4])
    return [ROWS.format(needs=NEEDS[to], example=example).rstrip()]


def _metrics(run: Trained) -> list[str]:
    found: Mapping[str, Any] = json.loads(run.folder.read(EVALUATION)) if run.folder.exists(EVALUATION) else {}
    if not found.get("metrics"):
        return ["The run was not evaluated on it."]
    intervals, baseline = found.get("intervals", {}), found.get("baseline", {})
    rows = [
        f"| {name} | {_number(value)} | {' to '.join(map(_number, intervals[name])) if name in intervals else '-'} "
        f"| {_number(baseline.get(name))} |"
        for name, value in found["metrics"].items()
    ]
    return ["| metric | value | 95 % interval | baseline |", "|---|---|---|---|", *rows]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
