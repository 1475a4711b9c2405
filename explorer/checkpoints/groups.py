"""From the name of a tensor to where it lies: its layer in depth, and the kind of module it belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

EMBEDDINGS, FINAL, OTHER = "embeddings", "final", "other"
STACK_STRIDE = 1000
"""Room for the layers of one stack: layer i of stack s has index s x 1000 + i."""
FINAL_INDEX = 9999
OTHER_INDEX = 9998

_BLOCK = re.compile(r"(?:\w*layers?|\w*layer_groups|h|\w*blocks?|stages?|layer_module)")
_NUMBERED = re.compile(r"(?:layer|stage|block)_?(\d+)")
_TEXT = re.compile(r"text_model|text_encoder|language_model|text")
_VISION = re.compile(r"vision_model|vision_tower|visual|image_encoder|vision_encoder|vision")
_SPACES = re.compile(
    r"embed|wte\b|wpe\b|cls_token|pos_emb|(?:^|\.)shared\.|pre_layrnorm|pre_layernorm|ln_pre|mask_token|visual\.conv1|conv_stem|^_bn0\."
)
_HEAD = re.compile(
    r"(?:^|\.)(?:\w*head|classifier|score|cls|pooler|\w*_projection|embed_out|vocab_\w+|qa_outputs|visual\.proj)(?:\.|$)"
)
_NORM = re.compile(r"norm|(?:^|\.)ln_|layrnorm|(?:^|[._])bn\d?\.|(?:^|\.)ln\d?\.", re.IGNORECASE)
_ATTENTION = re.compile(r"att(?:n|ention)", re.IGNORECASE)
_CROSS = re.compile(r"EncDecAttention|cross_?att|encoder_attn", re.IGNORECASE)
_MLP = re.compile(
    r"mlp|ffn|feed_forward|DenseReluDense|intermediate|(?:^|\.)fc\d|dense_h_to_4h|dense_4h_to_h|experts|moe"
)

_IN_ATTENTION = (
    ("fused qkv", re.compile(r"qkv|query_key_value|c_attn|in_proj|\bWqkv\b|att_proj")),
    ("attention query", re.compile(r"(?:query|query_proj|q_proj|q_lin|wq|to_q|\bq)$")),
    ("attention key", re.compile(r"(?:key|key_proj|k_proj|k_lin|wk|to_k|\bk)$")),
    ("attention value", re.compile(r"(?:value|value_proj|v_proj|v_lin|wv|to_v|\bv)$")),
    ("attention output", re.compile(r"(?:o_proj|out_proj|c_proj|out_lin|wo|to_out(?:\.\d)?|\bo|\bproj|dense)$")),
)
_IN_MLP = (
    ("mlp gate", re.compile(r"(?:gate_proj|gate_up_proj|wi_0|w1|linear_v)$")),
    ("mlp router", re.compile(r"(?:\bgate|router(?:\.\w+)?)$")),
    (
        "mlp out",
        re.compile(r"(?:down_proj|c_proj|fc2|fc_out|lin2|w2|wo|\boutput\.dense|dense_4h_to_h|linear2|\b[1-9])$"),
    ),
    (
        "mlp in",
        re.compile(r"(?:up_proj|c_fc|fc1|fc_in|lin1|w3|wi_1|wi|intermediate\.dense|dense_h_to_4h|linear1|\b0)$"),
    ),
)


@dataclass(frozen=True)
class Group:
    """Where a tensor lies.

    `layer`: "embeddings", "layer 3", "decoder 0", "vision 11", "final" or "other"; `layer_index` sorts layers;
    `kind`: the module in plain words, such as "attention query"; a bias belongs to its module's kind.
    """

    layer: str
    layer_index: int
    kind: str


@lru_cache(maxsize=65536)
def _group(name: str) -> Group:
    parts = name.split(".")
    stack, first = _stack(parts)
    block = _block_index(parts)
    if block is None:
        return _outside(name, stack, first)
    layer = f"{stack} {block}" if stack else f"layer {block}"
    return Group(layer, first + block, _kind(name))


def group_of(name: str, config: Mapping[str, Any] | None = None) -> Group:
    """The layer and the kind of module of a tensor, from its name alone.

    Knows BERT, RoBERTa, DistilBERT, ViT, CLIP, GPT-2, NeoX, Llama, Mistral, Qwen, Gemma, T5 and BART names; any
    other name gets the layer of its first numbered block and the kind "attention", "mlp", "norm" or "other".
    `config` is part of the contract and not needed so far: names say enough.
    """
    return _group(name)


def layer_order(groups: Iterable[Group]) -> tuple[str, ...]:
    """Names of the layers, each once, in depth: embeddings, layers of each stack, other, final."""
    return tuple(layer for _, layer in sorted({(g.layer_index, g.layer) for g in groups}))


def _stack(parts: list[str]) -> tuple[str, int]:
    """The stack that a name lies in ("" for the only one), and the index of its first layer."""
    for part in parts:
        if _VISION.fullmatch(part):
            return "vision", STACK_STRIDE
        if _TEXT.fullmatch(part):
            return "text", 0
    if "decoder" in parts and not {"cls", "lm_head"} & set(parts):
        return "decoder", STACK_STRIDE
    # BERT and ViT call their only stack encoder.layer; T5 and BART write encoder.block and encoder.layers.
    if "encoder" in parts:
        after = [*parts[parts.index("encoder") + 1 :], ""][0]
        if after != "layer" and (_BLOCK.fullmatch(after) or after in ("final_layer_norm", "layer_norm")):
            return "encoder", 0
    return "", 0


def block_of(name: str) -> tuple[str, int, str] | None:
    """The text before the number of a tensor's block, the number, and the text after it; None outside the blocks.

    `model.layers.3.mlp.up_proj.weight` gives ("model.layers.", 3, ".mlp.up_proj.weight").
    """
    return _block(name.split("."))


def _block(parts: list[str]) -> tuple[str, int, str] | None:
    for place, (part, following) in enumerate(zip(parts, [*parts[1:], ""], strict=True)):
        numbered = _NUMBERED.fullmatch(part)
        if following.isdecimal() and _BLOCK.fullmatch(part):
            before, number, rest = [*parts[: place + 1], ""], following, parts[place + 2 :]
        elif numbered:
            before, number, rest = [*parts[:place], part[: numbered.start(1)]], numbered[1], parts[place + 1 :]
        else:
            continue
        return ".".join(before), int(number), "".join(f".{p}" for p in rest)
    return None


def _block_index(parts: list[str]) -> int | None:
    found = _block(parts)
    return None if found is None else found[1]


def _outside(name: str, stack: str, first: int) -> Group:
    """A tensor of no numbered block: before the layers, after them, or neither."""
    kind = _kind(name)
    if kind == "head":
        return Group(FINAL, FINAL_INDEX, kind)
    if _SPACES.search(name):
        layer = f"{stack} {EMBEDDINGS}" if stack in ("vision", "decoder") else EMBEDDINGS
        return Group(layer, first - 1, kind if kind == "norm" else "embedding")
    if kind == "norm":
        # A second stack may follow, so the norm that ends a named stack stays with it.
        return Group(f"{stack} {FINAL}", first + STACK_STRIDE - 2, kind) if stack else Group(FINAL, FINAL_INDEX, kind)
    return Group(OTHER, OTHER_INDEX, kind)


def _kind(name: str) -> str:
    """The kind of module in plain words."""
    module = re.sub(r"[._](?:weight|bias)$", "", name)
    if _block_index(name.split(".")) is None and _HEAD.search(module):
        return "head"
    if _NORM.search(module + "."):
        return "norm"
    if _ATTENTION.search(module):
        kind = next((kind for kind, pattern in _IN_ATTENTION if pattern.search(module)), "attention")
        return f"cross-{kind}" if _CROSS.search(module) and kind.startswith("attention") else kind
    for kind, pattern in _IN_MLP:
        # BERT's second MLP matrix is plain `output.dense`, without any word for MLP.
        if pattern.search(module) and (_MLP.search(module) or module.endswith(".output.dense")):
            return kind
    if _MLP.search(module):
        return "mlp"
    return "embedding" if _SPACES.search(name) else "other"


def depths_of(names: Iterable[str]) -> dict[str, float | None]:
    """How deep each tensor's block lies in its stack: 0 the first, 1 the last; None for a tensor outside the blocks.

    A stack's depth is its highest block number; the only block of a stack is its first.
    """
    places: dict[str, tuple[str, int | None]] = {}
    for name in names:
        parts = name.split(".")
        places[name] = (_stack(parts)[0], _block_index(parts))
    last: dict[str, int] = {}
    for stack, block in places.values():
        last[stack] = max(last.get(stack, 0), block or 0)
    return {n: None if b is None else b / max(1, last[s]) for n, (s, b) in places.items()}
