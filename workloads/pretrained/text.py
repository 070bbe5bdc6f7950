"""What the tasks on pretrained text models share: the model from a local folder, LoRA, raw rows, and the model for export."""

import copy
import importlib
import json
from typing import Any, ClassVar

import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor, nn

from heliostat.config import Config, nearest
from heliostat.datasets.signature import Oddities
from heliostat.datasets.sources.tokenized import padded, padding_of, tokenizer_of, tokens_of
from heliostat.errors import UserError
from heliostat.wording import counted
from heliostat.workloads.task import Batch, Task


class PretrainedText(Task):
    """Needs the source ``tokenized``, whose dataset keeps the model's config and its tokenizer."""

    class Options(Config):
        pretrained: str = Field(description="the folder with the weights, as save_pretrained of transformers writes it")
        lora: dict[str, Any] | None = Field(None, description="options of peft's LoraConfig, such as {r: 8, lora_alpha: 16}")

    any_length = ("tokens",)
    auto: ClassVar[str]
    """The class of transformers that makes the model."""

    @property
    def kept(self) -> dict[str, Any]:
        """What the source has kept with the dataset."""
        own: dict[str, Any] = self.index.meta.get("own", {})
        if not {"files", "length", "text"} <= own.keys():
            raise UserError(
                f"the dataset has no tokenizer, which task {type(self).__name__} needs", "take the source tokenized"
            )
        return own

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, which is exported too."""
        return tokenizer_of(self.kept)

    def model(self) -> nn.Module:
        config = json.loads(bytes.fromhex(self.kept["files"]["config.json"]))
        transformers = _library("transformers")
        kind = transformers.AutoConfig.for_model(config.pop("model_type"), **config)
        if kind.pad_token_id is None:
            kind.pad_token_id = padding_of(self.tokenizer)
        self.configure(kind)
        model: nn.Module = getattr(transformers, self.auto).from_config(kind)
        return model if self.options.lora is None else self._with_adapters(model)

    def configure(self, config: Any) -> None:
        """Changes the config of transformers for the task."""

    def _with_adapters(self, model: Any) -> nn.Module:
        """With LoRA in the linear layers; all other weights but those of the head are frozen."""
        peft = _library("peft")
        head = {name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}.")}
        try:
            changed: nn.Module = peft.inject_adapter_in_model(peft.LoraConfig(**self.options.lora), model)
        except (TypeError, ValueError) as error:
            raise UserError(f"model.lora is {self.options.lora}: {error}", "correct it, see peft's LoraConfig") from None
        for name, parameter in changed.named_parameters():
            parameter.requires_grad_("lora_" in name or name in head)
        return changed

    def pretrained(self, model: nn.Module) -> None:
        config: Any = copy.deepcopy(model.config)
        loaded = getattr(_library("transformers"), self.auto).from_pretrained(
            self.options.pretrained, config=config, ignore_mismatched_sizes=True, local_files_only=True
        )
        theirs = loaded.state_dict()
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if "lora_" not in name:
                    tensor.copy_(theirs[name.replace(".base_layer.", ".")])

    def merged(self, model: nn.Module) -> nn.Module:
        """A copy without adapters, which are added to the weights: the model as transformers has it."""
        if self.options.lora is None:
            return model
        found = copy.deepcopy(model)
        layers: list[tuple[str, Any]] = [*found.named_modules()]
        for name, layer in layers:
            if hasattr(layer, "get_base_layer"):
                layer.merge()
                parent, _, own = name.rpartition(".")
                setattr(found.get_submodule(parent), own, layer.get_base_layer())
        vars(found).pop("peft_config", None)
        return found

    def read(self, value: str) -> Batch:
        """A text, or a JSON object with one in the dataset's column of texts."""
        if value.lstrip().startswith("{"):
            try:
                row = json.loads(value)
            except ValueError:
                row = {self.kept["text"]: value}
            return self.rows(pa.Table.from_pylist([row]))[0]
        return self._batch([value])

    def rows(self, table: pa.Table) -> tuple[Batch, Oddities]:
        """The texts in the dataset's column of texts, as tokens."""
        column = self.kept["text"]
        if column not in table.column_names:
            raise UserError(f"the rows have no column {column!r}", nearest(column, table.column_names))
        return self._batch(table[column].to_pylist()), Oddities()

    def _batch(self, texts: list[Any]) -> Batch:
        if empty := [number for number, text in enumerate(texts, 1) if not isinstance(text, str) or not text]:
            raise UserError(
                f"there is no text in {len(empty):,} of {counted(len(texts), 'row')}, first in row {empty[0]}", "give one"
            )
        tokenizer, length = self.tokenizer, self.kept["length"]
        pieces = [tokens_of(tokenizer, text, length) for text in texts]
        return {name: torch.from_numpy(values) for name, values in padded(tokenizer, pieces, length).items()}

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """The model's own output for a batch, without a look at the padding."""
        found: Tensor = model(input_ids=batch["tokens"], attention_mask=mask_of(batch).long()).logits
        return found


def mask_of(batch: Batch) -> Tensor:
    """Which tokens (samples, length) are no padding."""
    places = torch.arange(batch["tokens"].shape[1], device=batch["tokens"].device)
    return places < batch["count"][:, None]


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise UserError(
            f"fine-tuning a text model needs {name}, which is not installed",
            "pip install 'heliostat[transformers]'; for a cluster also write requirements: [transformers, peft]",
        ) from None
