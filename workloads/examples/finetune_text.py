"""Fine-tunes a Hugging Face model from a local folder to classify texts, whole or with LoRA; docs/finetuning.md.

The dataset holds the tokens, and beside them the model's config and its tokenizer, which so are kept with the run: it needs the
weights until its first checkpoint, and predicts without the folder.
"""

import csv
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from heliostat import Batch, Source, Task
from heliostat.config import Config
from heliostat.errors import UserError

try:
    import transformers
    from peft import LoraConfig, inject_adapter_in_model
except ModuleNotFoundError as error:
    raise UserError(
        f"fine-tuning a text model needs {error.name}, which is not installed",
        "pip install 'heliostat[transformers]'; for a cluster also write requirements: [transformers, peft]",
    ) from None

FILES = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "vocab.json",
    "merges.txt",
)  # fmt: skip
"""What a folder has beside the weights, as far as it is there."""


class Texts(Source):
    """A csv file with a column of texts and one of labels, as tokens of one length."""

    def __init__(self, path: str, pretrained: str, text: str = "text", label: str = "label", length: int = 128) -> None:
        self.path, self.text, self.label, self.length = path, text, label, length
        self.kept = [place for name in FILES if (place := Path(pretrained, name)).is_file()]
        texts = {place.name: place.read_text() for place in self.kept}
        self.meta = {"config": texts.pop("config.json"), "tokenizer": texts, "length": length}

    def files(self) -> list[Path]:
        return self.kept

    def rows(self) -> Iterator[dict[str, Any]]:
        tokenizer = tokenizer_of(self.meta)
        with open(self.path, newline="") as file:
            for row in csv.DictReader(file):
                tokens = np.array(encode(tokenizer, row[self.text], self.length), np.int64)
                yield {"tokens": tokens, "label": row[self.label]}


class Classifier(Task):
    class Options(Config):
        pretrained: str = Field(description="the folder with the weights")
        lora: dict[str, Any] | None = Field(None, description="options of peft's LoraConfig, such as {r: 8, lora_alpha: 16}")

    needs = {"tokens": "int64/1", "label": "int64"}
    metric, better = "accuracy", "higher"

    def model(self) -> nn.Module:
        config = json.loads(self.index.meta["own"]["config"])
        kind = transformers.AutoConfig.for_model(config.pop("model_type"), **config)
        kind.num_labels = len(self.index.classes)
        model: nn.Module = transformers.AutoModelForSequenceClassification.from_config(kind)
        if self.options.lora is not None:
            head = {name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}.")}
            model = inject_adapter_in_model(LoraConfig(**self.options.lora), model)  # which freezes all others
            for name, parameter in model.named_parameters():
                parameter.requires_grad_("lora_" in name or name in head)
        return model

    def pretrained(self, model: nn.Module) -> None:
        theirs = transformers.AutoModelForSequenceClassification.from_pretrained(
            self.options.pretrained, num_labels=len(self.index.classes), ignore_mismatched_sizes=True, local_files_only=True
        ).state_dict()
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if "lora_" not in name:
                    tensor.copy_(theirs[name.replace(".base_layer.", ".")])

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(self._logits(model, batch), batch["label"])

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = self._logits(model, batch)
        accuracy = (logits.argmax(1) == batch["label"]).float().mean()
        return {"loss": F.cross_entropy(logits, batch["label"]), "accuracy": accuracy}

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"probabilities": self._logits(model, batch).float().softmax(1)}

    def read(self, value: str) -> Batch:
        meta = self.index.meta["own"]
        return {"tokens": torch.tensor([encode(tokenizer_of(meta), value, meta["length"])])}

    def _logits(self, model: nn.Module, batch: Batch) -> Tensor:
        tokens = batch["tokens"]
        padding = json.loads(self.index.meta["own"]["config"]).get("pad_token_id") or 0
        logits: Tensor = model(input_ids=tokens, attention_mask=(tokens != padding).long()).logits
        return logits


def tokenizer_of(meta: Mapping[str, Any]) -> Any:
    """The tokenizer whose files are kept with the dataset."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in {**meta["tokenizer"], "config.json": meta["config"]}.items():
            Path(folder, name).write_text(text)
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)


def encode(tokenizer: Any, text: str, length: int) -> list[int]:
    """A text as tokens, padded or cut to a length."""
    tokens: list[int] = tokenizer(text, padding="max_length", truncation=True, max_length=length)["input_ids"]
    return tokens
