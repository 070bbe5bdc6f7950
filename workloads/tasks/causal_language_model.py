"""Fine-tuning of a pretrained causal language model of transformers, whole or with LoRA; docs/finetuning.md."""

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from heliostat.workloads.pretrained.text import PretrainedText, mask_of
from heliostat.workloads.task import Accumulator, Batch


class CausalLanguageModel(PretrainedText):
    """Needs the columns tokens and count of the source ``tokenized``. Losses are in nats a token; of a batch it is the mean of
    its samples' means."""

    class Options(PretrainedText.Options):
        prompt: str | None = Field(None, description="the prompt of the sample text in the report, or null for none")
        generate: int = Field(64, ge=1, description="tokens by which predict continues a text, at least 1")

    needs = {"tokens": "int64/1", "count": "int64"}
    metric, better = "loss", "lower"
    auto = "AutoModelForCausalLM"

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        total, count = self._losses(model, batch)
        return (total / count).mean()

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, Any]:
        total, count = self._losses(model, batch)
        return {"loss": (total / count).mean(), "perplexity": (total, count)}

    def accumulators(self) -> dict[str, Accumulator]:
        return {"perplexity": perplexity}

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Each text continued by the most probable tokens, up to ``generate`` of them."""
        theirs: Any = model
        most = getattr(theirs.config, "max_position_embeddings", None) or 1 << 20
        new, padding = min(self.options.generate, most - 1), theirs.config.pad_token_id
        found = []
        for tokens, count in zip(batch["tokens"], batch["count"].tolist(), strict=True):
            prompt = tokens[:count][-(most - new) :][None]
            mask = torch.ones_like(prompt)
            whole: Tensor = theirs.generate(
                input_ids=prompt, attention_mask=mask, max_new_tokens=new, do_sample=False, pad_token_id=padding
            )
            found.append(F.pad(whole[0], (0, len(prompt[0]) + new - len(whole[0])), value=padding))
        longest = max(map(len, found))
        return {"tokens": torch.stack([F.pad(each, (0, longest - len(each)), value=padding) for each in found])}

    def exported(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """``logits`` (samples, length, vocabulary) of the token that follows each."""
        return {"logits": self.logits(model, batch)}

    def sample(self, model: nn.Module) -> str | None:
        if self.options.prompt is None:
            return None
        device = next(model.parameters()).device
        prompt = {name: values.to(device) for name, values in self.read(self.options.prompt).items()}
        return self.text(self.predict(model, prompt)["tokens"][0])

    def text(self, tokens: Tensor) -> str:
        """Decodes tokens to text."""
        return str(self.tokenizer.decode(tokens.tolist(), skip_special_tokens=True))

    def _losses(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """The sum of each sample's losses (samples,), and the number of tokens that are predicted."""
        logits, following = self.logits(model, batch)[:, :-1], batch["tokens"][:, 1:]
        losses = F.cross_entropy(logits.flatten(0, 1).float(), following.flatten(), reduction="none").view(following.shape)
        mask = mask_of(batch)[:, 1:]
        return (losses * mask).sum(1), mask.sum(1).clamp(min=1)


def perplexity(total: Tensor, count: Tensor) -> Tensor:
    """The exponential of the mean loss of all tokens."""
    return (total.double().sum() / count.sum()).exp()
