"""Tiny models of the shapes that people merge, and the recipes they merge them with."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

H, LAYERS, VOCABULARY = 16, 4, 40


def llama(seed: int, *, layers: int = LAYERS, prefix: str = "model.", bias: bool = False) -> dict[str, Tensor]:
    """A Llama-shaped model of random weights."""
    generator = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.1

    state = {f"{prefix}embed_tokens.weight": some(VOCABULARY, H), f"{prefix}norm.weight": some(H) + 1}
    state["lm_head.weight"] = some(VOCABULARY, H)
    for i in range(layers):
        at = f"{prefix}layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            state[f"{at}self_attn.{name}.weight"] = some(H, H)
            if bias and name != "o_proj":
                state[f"{at}self_attn.{name}.bias"] = some(H)
        state[f"{at}mlp.gate_proj.weight"], state[f"{at}mlp.up_proj.weight"] = some(24, H), some(24, H)
        state[f"{at}mlp.down_proj.weight"] = some(H, 24)
        state[f"{at}input_layernorm.weight"], state[f"{at}post_attention_layernorm.weight"] = some(H) + 1, some(H) + 1
    return state


LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": H,
    "intermediate_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def tuned(state: dict[str, Tensor], seed: int, share: float = 0.6, size: float = 0.02) -> dict[str, Tensor]:
    """A fine-tune: a share of all floats moved a little."""
    generator = torch.Generator().manual_seed(seed)

    def one(value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value.clone()
        moved = torch.rand(value.shape, generator=generator) < share
        return value + moved * torch.randn(value.shape, generator=generator) * size

    return {name: one(value) for name, value in state.items()}


def save(folder: Path, state: dict[str, Tensor], config: dict[str, Any], dtype: torch.dtype | None = None) -> Path:
    """A model folder of one file."""
    folder.mkdir(parents=True)
    cast = {n: (v.to(dtype) if dtype and v.is_floating_point() else v).contiguous().clone() for n, v in state.items()}
    save_file(cast, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def family(
    folder: Path, base: dict[str, Tensor], config: dict[str, Any], tasks: int = 3, dtype: torch.dtype = torch.bfloat16
) -> Path:
    """`base` and fine-tunes ft1 … of it."""
    save(folder / "base", base, config, dtype)
    for i in range(1, tasks + 1):
        save(folder / f"ft{i}", tuned(base, 100 + i), config, dtype)
    return folder


def recipe(text: str, folder: Path) -> str:
    """A recipe's text with @NAME for the models of a folder."""
    return textwrap.dedent(text).replace("@", f"{folder}/").strip() + "\n"


def result(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a written model."""
    return {n: t for file in sorted(folder.glob("*.safetensors")) for n, t in load_file(file).items()}


def _tasks(method: str, per: str, more: str = "", count: int = 3, base: str = "base_model: @base") -> str:
    models = "\n".join(f"- {{model: @ft{i}, parameters: {{{per}}}}}" for i in range(1, count + 1))
    return f"merge_method: {method}\nmodels:\n{models}\n{base}\ndtype: float32\nout_dtype: bfloat16\n{more}\n"


PLAIN: dict[str, str] = {
    "linear": _tasks("linear", "weight: 0.4", base=""),
    "linear_sum": _tasks("linear", "weight: 0.4", "parameters: {normalize: false}", base=""),
    "task_arithmetic": _tasks("task_arithmetic", "weight: 0.3"),
    "task_arithmetic_normalized": _tasks(
        "task_arithmetic", "weight: 0.3", "parameters: {normalize: true, lambda: 0.7}"
    ),
    "task_arithmetic_negative": _tasks("task_arithmetic", "weight: -0.4"),
    "ties": _tasks("ties", "weight: 0.5, density: 0.3"),
    "ties_rescaled": _tasks("ties", "weight: 0.5, density: 0.3", "parameters: {rescale: true, lambda: 1.2}"),
    "ties_sum": _tasks("ties", "weight: [0.1, 0.9], density: 0.4", "parameters: {normalize: false, int8_mask: true}"),
    "ties_negative": _tasks("ties", "weight: -0.5, density: 0.5"),
    "breadcrumbs": _tasks("breadcrumbs", "weight: 0.5, density: 0.6, gamma: 0.05"),
    "breadcrumbs_ties": _tasks(
        "breadcrumbs_ties", "weight: 0.5, density: 0.5, gamma: 0.02", "parameters: {rescale: true}"
    ),
    "dare_full": _tasks("dare_ties", "weight: 0.5, density: 1.0"),
    "della_full": _tasks("della", "weight: 0.5, density: 1.0, epsilon: 0.1"),
    "sce": _tasks("sce", "", "parameters: {select_topk: 0.5}").replace("parameters: {}", "parameters: {x: 1}"),
    "sce_all": _tasks("sce", "x: 1"),
    "ram": _tasks("ram", "x: 1", "parameters: {epsilon: 0.001}"),
    "ramplus_tl": _tasks("ramplus_tl", "x: 1", "parameters: {epsilon: 0.01, r: 0.5, alpha: 0.7}"),
    "model_stock": _tasks("model_stock", "x: 1"),
    "model_stock_rows": _tasks("model_stock", "x: 1", "parameters: {filter_wise: true}"),
    "karcher": _tasks("karcher", "x: 1", base=""),
    "multislerp": _tasks("multislerp", "weight: 0.5", base=""),
    "multislerp_base": _tasks("multislerp", "weight: 0.5"),
    "nuslerp": _tasks("nuslerp", "weight: [0.3, 0.8]", count=2),
    "nuslerp_plain": _tasks("nuslerp", "weight: 0.4", count=2, base=""),
    "nuslerp_rows": _tasks("nuslerp", "weight: 0.4", "parameters: {nuslerp_flatten: false}", count=2),
    "nuslerp_columns": _tasks(
        "nuslerp", "weight: 0.4", "parameters: {nuslerp_flatten: false, nuslerp_row_wise: true}", count=2
    ),
    "nearswap": _tasks("nearswap", "x: 1", "parameters: {t: 0.01}", count=1),
    "arcee_fusion": _tasks("arcee_fusion", "x: 1", count=1),
    "slerp_models": _tasks("slerp", "x: 1", "parameters: {t: 0.3}", count=1),
    "slerp": """
        slices:
        - sources:
          - {model: @ft1, layer_range: [0, 4]}
          - {model: @ft2, layer_range: [0, 4]}
        merge_method: slerp
        base_model: @ft1
        parameters:
          t:
          - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}
          - {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}
          - value: 0.5
        dtype: float32
        out_dtype: bfloat16
        """,
    "passthrough": """
        slices:
        - sources: [{model: @ft1, layer_range: [0, 3]}]
        - sources:
          - model: @ft2
            layer_range: [1, 4]
            parameters:
              scale:
              - {filter: o_proj, value: 0.5}
              - {filter: down_proj, value: 0.0}
              - {value: 1.0}
        merge_method: passthrough
        dtype: bfloat16
        """,
    "slices_linear": """
        slices:
        - sources:
          - {model: @base, layer_range: [0, 2], parameters: {weight: 1}}
          - {model: @ft1, layer_range: [2, 4], parameters: {weight: [0.2, 0.8]}}
        - sources:
          - {model: @ft2, layer_range: [1, 4]}
          - {model: @ft3, layer_range: [0, 3], parameters: {weight: 0.25}}
          parameters: {weight: 0.75}
        merge_method: linear
        dtype: float32
        out_dtype: bfloat16
        """,
    "first_match": """
        models:
        - model: @base
        - model: @ft1
          parameters:
            weight:
            - {filter: mlp, value: [0.1, 0.9, 0.3]}
            - {filter: q_proj, value: 2.0}
            - {filter: "*", value: 0.5}
            density: 1e-1
        - {model: @ft2, parameters: {weight: 0.5, density: [1, 0.5, 0.1]}}
        merge_method: ties
        base_model: @base
        parameters: {normalize: true, density: 0.9}
        dtype: float32
        out_dtype: float16
        """,
}
"""Recipes over `base` and ft1 … ft3 of one Llama shape whose result involves no chance."""
RANDOM: dict[str, str] = {
    "dare_linear": _tasks("dare_linear", "weight: 0.5, density: 0.4"),
    "dare_ties": _tasks("dare_ties", "weight: 0.5, density: 0.4"),
    "della": _tasks("della", "weight: 0.5, density: 0.5, epsilon: 0.2"),
    "della_linear": _tasks("della_linear", "weight: 0.5, density: 0.5, epsilon: 0.2"),
}
"""Recipes that draw."""
