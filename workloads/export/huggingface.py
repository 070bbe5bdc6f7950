"""Folders for `transformers`, which is an extra: the bundled language model, and models that are its own already.

The bundled language model is a GPT-NeoX (Black et al. 2022) by its weights: rotary positions in halves, layer norm with a bias
before each residual branch, one after the other, attention without a bias, the exact GELU, tied embeddings.
"""

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from heliostat.errors import UserError
from heliostat.workloads.export.graph import quiet
from heliostat.workloads.tasks import language_model

if TYPE_CHECKING:
    from heliostat.workloads.export.formats import Exportable

REASON = (
    "--to hf is for models that transformers has: the language model, and a PreTrainedModel of a task of your own, "
    "but this one is {}"
)


def check(source: "Exportable") -> None:
    """Raises a UserError if transformers is not installed, or has no such model."""
    if find_spec("transformers") is None:
        raise UserError("--to hf needs transformers, which is not installed", "pip install 'heliostat[transformers]'")
    if not isinstance(source.model, language_model.Transformer) and not _is_pretrained(source.model):
        name = f"{type(source.model).__module__}.{type(source.model).__name__}"
        raise UserError(REASON.format(name), "--to torch, onnx or safetensors")


def _is_pretrained(model: nn.Module) -> bool:
    import transformers

    return isinstance(model, transformers.PreTrainedModel)


def write(source: "Exportable", folder: Path) -> dict[str, Any]:
    """Writes what ``from_pretrained`` loads, the tokenizer too, if there is one."""
    if isinstance(source.model, language_model.Transformer):
        model = _neox(source.model, source.task.index.fields["tokens"].shape[0] - 1)
        tokenizer: Any = _tokenizer(source.task.index.meta["tokenizer"])
    else:
        merged = getattr(source.task, "merged", lambda model: model)
        model, tokenizer = merged(source.model), getattr(source.task, "tokenizer", None)
    with quiet():  # it draws bars of progress
        model.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
    return {"architecture": type(model).__name__}


def _neox(model: language_model.Transformer, context: int) -> Any:
    """The same model as transformers' own."""
    import transformers

    vocabulary, width = model.embedding.weight.shape
    heads: Any = model.blocks[0].heads
    config = transformers.GPTNeoXConfig(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=len(model.blocks), num_attention_heads=heads,
        intermediate_size=4 * width, hidden_act="gelu", rotary_pct=1.0, max_position_embeddings=context, layer_norm_eps=1e-5,
        use_parallel_residual=False, attention_bias=False, tie_word_embeddings=True, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    theirs = transformers.GPTNeoXForCausalLM(config).eval()
    result = theirs.load_state_dict(_renamed(model.state_dict(), heads), strict=False)
    tied = ("lm_head.weight", "embed_out.weight")  # since transformers 5, and before
    if result.unexpected_keys or not {*result.missing_keys} <= {*tied}:
        raise RuntimeError(f"GPTNeoXForCausalLM of transformers {transformers.__version__} has other weights: {result}")
    theirs.tie_weights()
    return theirs


NAMES = {
    "norm1": "input_layernorm", "norm2": "post_attention_layernorm", "qkv": "attention.query_key_value",
    "out": "attention.dense", "up": "mlp.dense_h_to_4h", "down": "mlp.dense_4h_to_h",
}  # fmt: skip


def _renamed(state: dict[str, Tensor], heads: int) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        block, _, rest = name.removeprefix("blocks.").partition(".")
        if name == "embedding.weight":
            found |= {"gpt_neox.embed_in.weight": value}
        elif name.startswith("norm."):
            found[f"gpt_neox.final_layer_norm.{name.removeprefix('norm.')}"] = value
        else:
            part, _, kind = rest.partition(".")
            if part == "qkv":  # (3, heads, size) -> (heads, 3, size)
                value = value.view(3, heads, -1, value.shape[1]).transpose(0, 1).flatten(0, 2)
            found[f"gpt_neox.layers.{block}.{NAMES[part]}.{kind}"] = value
    return found


def _tokenizer(described: str) -> Any:
    """The tokenizer of a dataset as transformers' own; of bytes a byte-level one without merges, whose ids are the bytes."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    if described == "byte":
        letters = _letters()
        tokenizer = Tokenizer(models.BPE(vocab={letter: byte for byte, letter in enumerate(letters)}, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
    else:
        tokenizer = Tokenizer.from_str(described)
    with tempfile.TemporaryDirectory() as place:
        tokenizer.save(f"{place}/tokenizer.json")
        return transformers.PreTrainedTokenizerFast(tokenizer_file=f"{place}/tokenizer.json")


def _letters() -> list[str]:
    """The letter that stands for each byte in byte-level encoding, as in GPT-2: a visible one is itself."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in visible]
    return [chr(byte) if byte in visible else chr(256 + others.index(byte)) for byte in range(256)]


@torch.no_grad()
def recorded(source: "Exportable") -> tuple[dict[str, Tensor], Tensor]:
    """What the model is called with for a batch, by name, and the first of its outputs, of the exported folder to repeat."""
    if isinstance(source.model, language_model.Transformer):
        return {"input_ids": source.batch["tokens"]}, source.model(source.batch["tokens"])
    calls: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = []
    hook = source.model.register_forward_hook(
        lambda _, args, kwargs, result: calls.append((args, kwargs, result)), with_kwargs=True
    )
    source.task.exported(source.model, source.batch)
    hook.remove()
    if not calls:
        raise UserError(f"predict of task {type(source.task).__name__} does not call its model", "call it: model(...)")
    args, kwargs, result = calls[0]
    named = {**dict(zip(("input_ids", "attention_mask"), args, strict=False)), **kwargs}
    return {name: value for name, value in named.items() if isinstance(value, Tensor)}, _first(result)


def _first(result: Any) -> Tensor:
    return result if isinstance(result, Tensor) else next(each for each in result.to_tuple() if isinstance(each, Tensor))
