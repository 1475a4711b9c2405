"""Hidden units read from names and shapes: permuting them changes no transformer's output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from explorer.checkpoints.permutations import chain_units, feed_forward_units
from explorer.compute.matching import inverse, match, permuted, sizes

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
TEXT = {"vocab_size": 30, "max_position_embeddings": 16}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {**SMALL, **TEXT},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, **TEXT},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_inner": 24, "vocab_size": 30, "n_positions": 16},
    "llama": {**SMALL, **TEXT, "num_key_value_heads": 2},
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "vocab_size": 30},
    "vit": {**SMALL, "image_size": 8, "patch_size": 4, "num_channels": 1},
}
NETWORKS = {"t5": 4}


def model_of(kind: str) -> torch.nn.Module:
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(kind, **CONFIGS[kind])
    module = AutoModel.from_config(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    return module


def output_of(kind: str, module: torch.nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(1, 30, (2, 9), generator=generator)
    inputs = {"vit": {"pixel_values": torch.randn(2, 1, 8, 8, generator=generator)}}.get(kind, {"input_ids": tokens})
    if kind == "t5":
        inputs["decoder_input_ids"] = tokens
    with torch.no_grad():
        return module(**inputs).last_hidden_state


@pytest.mark.parametrize("kind", CONFIGS)
def test_permuting_hidden_units_changes_no_output_and_matching_undoes_it(kind: str) -> None:
    module = model_of(kind)
    state = {n: t.clone() for n, t in module.state_dict().items()}
    before = output_of(kind, module)
    found = feed_forward_units({n: tuple(t.shape) for n, t in state.items()}, {"model_type": kind})
    assert found.left_out == () and len(found.spec.permutations) == NETWORKS.get(kind, 2)
    counts = sizes(found.spec, state)
    assert set(counts.values()) == {24}
    generator = torch.Generator().manual_seed(3)
    hidden = {p: torch.randperm(n, generator=generator) for p, n in counts.items()}
    moved = permuted(state, found.spec, hidden)
    module.load_state_dict({**state, **moved})
    torch.testing.assert_close(output_of(kind, module), before, rtol=1e-4, atol=1e-5)
    for part in found.spec.independent():
        matching = match(state, moved, part)
        assert all(torch.equal(p, inverse(hidden[n])) for n, p in matching.permutations.items())


def shapes(**named: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"layers.0.mlp.{n.replace('__', '.')}.weight": s for n, s in named.items()}


def test_experts_are_networks_of_their_own() -> None:
    names = {}
    for expert in range(2):
        for name, shape in {"w1": (8, 4), "w2": (4, 8), "w3": (8, 4)}.items():
            names[f"model.layers.0.block_sparse_moe.experts.{expert}.{name}.weight"] = shape
    names["model.layers.0.block_sparse_moe.gate.weight"] = (2, 4)
    found = feed_forward_units(names)
    assert len(found.spec.permutations) == 2 and len(found.spec.axes) == 6 and found.left_out == ()


@pytest.mark.parametrize(
    ("named", "said"),
    [
        (shapes(gate_up_proj=(16, 4), down_proj=(4, 8)), "fused"),
        (shapes(up_proj=(2, 8, 4), down_proj=(2, 4, 8)), "stacked"),
        (shapes(up_proj=(8, 4), down_proj=(4, 9)), "do not fit"),
        (shapes(up_proj=(8, 4), gate_proj=(7, 4), down_proj=(4, 8)), "do not fit"),
        (shapes(up_proj=(8, 4), down_proj=(4, 8), ffn_layernorm=(8,)), "ffn_layernorm.weight acts on its units too"),
    ],
)
def test_what_cannot_be_told_is_left_out_with_the_reason(named: dict[str, tuple[int, ...]], said: str) -> None:
    found = feed_forward_units(named)
    assert not found.spec.axes and len(found.left_out) == 1 and said in found.left_out[0]


def test_square_matrices_follow_the_model_type() -> None:
    named = {"h.0.mlp.c_fc.weight": (8, 8), "h.0.mlp.c_fc.bias": (8,), "h.0.mlp.c_proj.weight": (8, 8)}
    owner = "h.0.mlp"
    assert feed_forward_units(named, {"model_type": "gpt2"}).spec.axes["h.0.mlp.c_fc.weight"] == (None, owner)
    assert feed_forward_units(named, {"model_type": "clip"}).spec.axes["h.0.mlp.c_fc.weight"] == (owner, None)


def test_a_chain_of_linear_layers_in_the_order_of_its_numbers() -> None:
    sizes_of = (5, 7, 9, 11, 13, 4)
    named: dict[str, tuple[int, ...]] = {}
    for i, number in enumerate((0, 2, 4, 8, 10)):  # 10 comes after 8, not after 0
        named[f"net.{number}.weight"] = (sizes_of[i + 1], sizes_of[i])
        named[f"net.{number}.bias"] = (sizes_of[i + 1],)
    spec = chain_units(named)
    assert spec.axes["net.10.weight"] == (None, "P_3") and spec.axes["net.0.weight"] == ("P_0", None)
    assert spec.axes["net.8.bias"] == ("P_3",) and spec.axes["net.10.bias"] == (None,)


@pytest.mark.parametrize(
    "named",
    [
        {"a.0.weight": (4, 3)},
        {"a.0.weight": (4, 3), "a.1.weight": (2, 5)},
        {"a.0.weight": (4, 3), "a.1.weight": (2, 4), "scale": ()},
        {"a.0.weight": (4, 3, 1), "a.1.weight": (2, 4, 1)},
        {"a.0.weight": (4, 3), "a.0.bias": (3,), "a.1.weight": (2, 4)},
    ],
)
def test_anything_else_is_no_chain(named: dict[str, tuple[int, ...]]) -> None:
    assert not chain_units(named).axes
