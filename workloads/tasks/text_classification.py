"""Classification of texts with a pretrained model of transformers, whole or with LoRA; docs/finetuning.md."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from heliostat.workloads.metric import accuracy
from heliostat.workloads.pretrained.text import PretrainedText
from heliostat.workloads.task import Batch


class TextClassification(PretrainedText):
    """Needs the columns tokens, count and label of the source ``tokenized``."""

    needs = {"tokens": "int64/1", "count": "int64", "label": "int64"}
    metric, better = "accuracy", "higher"
    auto = "AutoModelForSequenceClassification"

    def configure(self, config: Any) -> None:
        config.id2label = dict(enumerate(self.index.classes))  # which also sets the number of labels
        config.label2id = {name: number for number, name in config.id2label.items()}
        config.problem_type = None

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(self.logits(model, batch), batch["label"])

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = self.logits(model, batch)
        return {"loss": F.cross_entropy(logits, batch["label"]), "accuracy": accuracy(logits, batch["label"])}

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"probabilities": self.logits(model, batch).float().softmax(1)}
