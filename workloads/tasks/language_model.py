"""Language modelling with a small decoder-only transformer (pre-norm, rotary positions, tied embeddings)."""

import math
from typing import Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from heliostat.config import Config
from heliostat.datasets.sources.text import decode, encode
from heliostat.errors import UserError
from heliostat.workloads.task import Accumulator, Batch, Task

SAMPLE_TOKENS = 320


class LanguageModel(Task):
    """Needs the column tokens (a sequence). Losses are in nats a token."""

    class Options(Config):
        width: int = Field(128, ge=16, multiple_of=16, description="the model's width, a multiple of 16")
        layers: int = Field(4, ge=1, description="transformer blocks, at least 1")
        heads: int = Field(4, ge=1, description="attention heads, a divisor of width")
        dropout: float = Field(0.0, ge=0, lt=1, description="a share from 0 to below 1")
        prompt: str = Field("def ", min_length=1, description="the prompt of the sample text")

        @model_validator(mode="after")
        def _even_heads(self) -> Self:
            if self.width % (2 * self.heads):
                raise ValueError(
                    f"{self.heads} heads do not divide width {self.width} evenly; set heads to a divisor of its half"
                )
            return self

    needs = {"tokens": "*/1"}
    any_length = ("tokens",)
    metric, better = "loss", "lower"

    def model(self) -> nn.Module:
        options = self.options
        return Transformer(self.index.meta["vocabulary"], options.width, options.layers, options.heads, options.dropout)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(*self._logits_and_tokens(model, batch))

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        losses = (
            F.cross_entropy(*self._logits_and_tokens(model, batch), reduction="none").view(len(batch["tokens"]), -1).mean(1)
        )
        return {"loss": losses.mean(), "perplexity": losses}

    def accumulators(self) -> dict[str, Accumulator]:
        return {"perplexity": perplexity}

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"tokens": generate(model, batch["tokens"].long(), self._context, SAMPLE_TOKENS)}

    def exported(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """``logits`` (samples, length, vocabulary) of the token that follows each."""
        return {"logits": model(batch["tokens"].long())}

    def read(self, value: str) -> Batch:
        """Encodes a prompt that the model continues."""
        if not value or (not value.isprintable() and any(0xD800 <= ord(c) < 0xE000 for c in value)):
            raise UserError(f"input {value!r} is not a text", "give at least one character")
        return {"tokens": torch.tensor([encode(value, self.index.meta["tokenizer"])])}

    def sample(self, model: nn.Module) -> str:
        device = next(model.parameters()).device
        prompt = {name: tokens.to(device) for name, tokens in self.read(self.options.prompt).items()}
        return self.text(self.predict(model, prompt)["tokens"][0])

    def text(self, tokens: Tensor) -> str:
        """Decodes tokens to text."""
        return decode(tokens.tolist(), self.index.meta["tokenizer"])

    def _logits_and_tokens(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """The logits of all tokens but each sample's first, and these tokens."""
        tokens = batch["tokens"].long()
        return model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()

    @property
    def _context(self) -> int:
        return self.index.fields["tokens"].shape[0] - 1


def perplexity(losses: Tensor) -> Tensor:
    """The exponential of the mean loss, which is no mean over samples."""
    return losses.double().mean().exp()


class Transformer(nn.Module):
    """Tokens (samples, length) -> logits (samples, length, vocabulary)."""

    def __init__(self, vocabulary: int, width: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.blocks = nn.ModuleList(Decoder(width, heads, dropout, layers) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.embedding.weight)


class Decoder(nn.Module):
    """Causal self-attention and a GELU perceptron, each after layer norm and around a shortcut."""

    def __init__(self, width: int, heads: int, dropout: float, depth: int) -> None:
        super().__init__()
        self.heads, self.dropout = heads, nn.Dropout(dropout)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        for last in (self.out, self.down):
            # As in GPT-2: residual branches are scaled down by the depth.
            nn.init.normal_(last.weight, std=0.02 / math.sqrt(2 * depth))

    def forward(self, x: Tensor) -> Tensor:
        samples, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(samples, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(_rotate(q), _rotate(k), v, is_causal=True)
        x = x + self.dropout(self.out(attended.transpose(1, 2).reshape(samples, length, width)))
        added: Tensor = x + self.dropout(self.down(F.gelu(self.up(self.norm2(x)))))
        return added


def _rotate(x: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021) of (samples, heads, length, size), ``size`` even."""
    length, half = x.shape[-2], x.shape[-1] // 2
    frequency = 10000.0 ** -(torch.arange(half, device=x.device) / half)
    angle = torch.arange(length, device=x.device)[:, None] * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


@torch.no_grad()
def generate(model: nn.Module, tokens: Tensor, context: int, count: int, temperature: float = 0.7) -> Tensor:
    """Continues ``tokens`` (samples, length) by ``count``, sampled with a fixed seed."""
    random = torch.Generator(tokens.device).manual_seed(0)
    for _ in range(count):
        logits = model(tokens[:, -context:])[:, -1].float() / temperature
        following = torch.multinomial(logits.softmax(-1), 1, generator=random)
        tokens = torch.cat((tokens, following), 1)
    return tokens
