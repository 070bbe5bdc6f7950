"""The kinds of ``model:``: a batch of a table -> outputs (samples, members, outputs), whose mean over the members predicts."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heliostat.datasets import Index
from heliostat.datasets.signature import CATEGORIES, FEATURES
from heliostat.workloads.tabular.encoder import Batch, Category, Encoder, Numbers, described


class MLP(nn.Module):
    """A multilayer perceptron of several members, which differ in signs of the inputs and in the last layer.

    That is TabM-mini of Gorishniy et al. 2024, "TabM: Advancing tabular deep learning with parameter-efficient ensembling".
    """

    def __init__(self, index: Index, outputs: int, hidden: int, layers: int, dropout: float, members: int, bins: int) -> None:
        super().__init__()
        self.encoder = Encoder(index)
        self.steps = PiecewiseLinear(index, bins) if bins and self.encoder.numbers else None
        width = self.encoder.width + (self.steps.width if self.steps else 0)
        members = members if layers else 1
        signs = torch.randint(0, 2, (members, width)) * 2.0 - 1
        self.signs = nn.Parameter(signs) if members > 1 else None
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(hidden if layer else width, hidden), nn.ReLU(), nn.Dropout(dropout))
            for layer in range(layers)
        )
        self.head = Heads(members, hidden if layers else width, outputs)

    def forward(self, batch: Batch) -> Tensor:
        x = self.encoder(batch)
        if self.steps:
            x = torch.cat((x, self.steps(batch[FEATURES])), 1)
        x = x[:, None] if self.signs is None else x[:, None] * self.signs
        for block in self.blocks:
            x = block(x)
        outputs: Tensor = self.head(x)
        return outputs


class Heads(nn.Module):
    """A linear layer for each member: (samples, members, width) -> (samples, members, outputs)."""

    def __init__(self, members: int, width: int, outputs: int) -> None:
        super().__init__()
        bound = width**-0.5
        self.weight = nn.Parameter(torch.empty(members, width, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(members, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nmw,mwo->nmo", x, self.weight) + self.bias


class PiecewiseLinear(nn.Module):
    """Features (samples, n) -> their piecewise-linear encoding (samples, n * bins), without a gap 0.

    Bins end at quantiles of the train split (Gorishniy et al. 2022, "On Embeddings for Numerical Features", section 3.2.1).
    """

    left: Tensor
    scale: Tensor

    def __init__(self, index: Index, bins: int) -> None:
        super().__init__()
        quantiles = torch.tensor(described(index)[1].quantiles, dtype=torch.float64).nan_to_num()
        edges = quantiles[:, torch.linspace(0, quantiles.shape[1] - 1, bins + 1).round().long()]
        widths = edges.diff(dim=1)
        self.register_buffer("left", edges[:, :-1].float())
        self.register_buffer("scale", torch.where(widths > 0, 1 / widths, 0).float())
        self.width = edges.shape[0] * bins

    def forward(self, features: Tensor) -> Tensor:
        return ((features[:, :, None] - self.left) * self.scale).clamp(0, 1).nan_to_num().flatten(1)


class ResNet(nn.Module):
    """Residual blocks of Gorishniy et al. 2021, "Revisiting Deep Learning Models for Tabular Data", with layer norm."""

    def __init__(self, index: Index, outputs: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.encoder = Encoder(index)
        self.stem = nn.Linear(self.encoder.width, hidden)
        # Layer norm, so that a sample's result does not depend on the others in its batch.
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(hidden), nn.Linear(hidden, 2 * hidden), nn.ReLU(), nn.Dropout(dropout),
                nn.Linear(2 * hidden, hidden), nn.Dropout(dropout),
            )
            for _ in range(layers)
        )  # fmt: skip
        self.norm, self.head = nn.LayerNorm(hidden), nn.Linear(hidden, outputs)

    def forward(self, batch: Batch) -> Tensor:
        x = self.stem(self.encoder(batch))
        for block in self.blocks:
            x = x + block(x)
        outputs: Tensor = self.head(F.relu(self.norm(x)))
        return outputs[:, None]


class Transformer(nn.Module):
    """FT-Transformer of Gorishniy et al. 2021: a token a column and one for the output, pre-norm, ReGLU."""

    def __init__(self, index: Index, outputs: int, hidden: int, layers: int, dropout: float, heads: int, bins: int) -> None:
        super().__init__()
        self.tokens = Tokens(index, hidden, bins)
        self.blocks = nn.ModuleList(Attention(hidden, heads, dropout) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(hidden), nn.Linear(hidden, outputs)

    def forward(self, batch: Batch) -> Tensor:
        x = self.tokens(batch)
        for block in self.blocks:
            x = block(x)
        outputs: Tensor = self.head(F.relu(self.norm(x[:, 0])))
        return outputs[:, None]


class Tokens(nn.Module):
    """A batch -> (samples, 1 + features + category columns, width). A feature's token is linear in its encoding."""

    def __init__(self, index: Index, width: int, bins: int) -> None:
        super().__init__()
        signature, train = described(index)
        self.numbers = Numbers(signature, train, index.stats) if signature.numeric else None
        self.steps = PiecewiseLinear(index, bins) if self.numbers else None
        self.bins = bins
        features = self.numbers.features if self.numbers else 0
        self.categories = nn.Sequential(*(Category(counts, width) for counts in train.counts))
        self.scaled, self.missing, self.bias = (nn.Parameter(torch.randn(features, width) * width**-0.5) for _ in range(3))
        self.stepped = nn.Parameter(torch.randn(features, bins, width) * (bins * width) ** -0.5)
        self.output = nn.Parameter(torch.randn(width) * width**-0.5)

    def forward(self, batch: Batch) -> Tensor:
        samples = next(iter(batch.values())).shape[0]  # not `len`, which is a constant in an exported graph
        tokens = [self.output.expand(samples, 1, -1)]
        if self.numbers and self.steps:
            features = batch[FEATURES]
            scaled, _ = self.numbers(features)
            steps = self.steps(features).unflatten(1, (-1, self.bins))
            token = scaled[:, :, None] * self.scaled + torch.einsum("nfb,fbw->nfw", steps, self.stepped) + self.bias
            tokens.append(token + features.isnan()[:, :, None] * self.missing)
        tokens += [category(batch[CATEGORIES][:, at])[:, None] for at, category in enumerate(self.categories)]
        return torch.cat(tokens, 1)


class Attention(nn.Module):
    """Self-attention and a ReGLU perceptron, each after layer norm and around a shortcut."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, nn.Dropout(dropout)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * (width * 4 // 3)), nn.Linear(width * 4 // 3, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v)
        x = x + self.dropout(self.out(attended.transpose(1, 2).flatten(2)))
        value, gate = self.up(self.norm2(x)).chunk(2, 2)
        added: Tensor = x + self.dropout(self.down(self.dropout(value * F.relu(gate))))
        return added
