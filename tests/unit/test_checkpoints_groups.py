"""Names of real architectures fall into the right layer and kind of module."""

from __future__ import annotations

from pathlib import Path

import pytest

from explorer.checkpoints import open_checkpoint
from explorer.checkpoints.groups import FINAL_INDEX, Group, group_of, layer_order

SAMPLE = Path(__file__).resolve().parents[2] / "sample_checkpoints" / "base"

NAMES: dict[str, list[tuple[str, str, int, str]]] = {
    "EfficientNet": [
        ("_conv_stem.weight", "embeddings", -1, "embedding"),
        ("_bn0.running_var", "embeddings", -1, "norm"),
        ("_blocks.10._depthwise_conv.weight", "layer 10", 10, "other"),
        ("_blocks.3._bn2.bias", "layer 3", 3, "norm"),
    ],
    "BERT": [
        ("embeddings.word_embeddings.weight", "embeddings", -1, "embedding"),
        ("embeddings.LayerNorm.bias", "embeddings", -1, "norm"),
        ("encoder.layer.0.attention.self.query.weight", "layer 0", 0, "attention query"),
        ("encoder.layer.0.attention.self.query.bias", "layer 0", 0, "attention query"),
        ("bert.encoder.layer.11.attention.self.key.weight", "layer 11", 11, "attention key"),
        ("encoder.layer.1.attention.self.value.bias", "layer 1", 1, "attention value"),
        ("encoder.layer.0.attention.output.dense.weight", "layer 0", 0, "attention output"),
        ("encoder.layer.0.attention.output.LayerNorm.weight", "layer 0", 0, "norm"),
        ("encoder.layer.2.intermediate.dense.weight", "layer 2", 2, "mlp in"),
        ("encoder.layer.2.output.dense.bias", "layer 2", 2, "mlp out"),
        ("encoder.layer.2.output.LayerNorm.bias", "layer 2", 2, "norm"),
        ("pooler.dense.weight", "final", 9999, "head"),
        ("cls.predictions.decoder.weight", "final", 9999, "head"),
        ("cls.predictions.bias", "final", 9999, "head"),
        ("cls.predictions.transform.LayerNorm.weight", "final", 9999, "head"),
        ("encoder.layer.1.crossattention.self.query.weight", "layer 1", 1, "cross-attention query"),
    ],
    "RoBERTa": [
        ("roberta.embeddings.position_embeddings.weight", "embeddings", -1, "embedding"),
        ("roberta.encoder.layer.3.attention.self.value.weight", "layer 3", 3, "attention value"),
        ("lm_head.dense.weight", "final", 9999, "head"),
        ("lm_head.decoder.weight", "final", 9999, "head"),
        ("classifier.out_proj.bias", "final", 9999, "head"),
    ],
    "DistilBERT": [
        ("distilbert.transformer.layer.5.attention.q_lin.weight", "layer 5", 5, "attention query"),
        ("distilbert.transformer.layer.5.attention.out_lin.bias", "layer 5", 5, "attention output"),
        ("distilbert.transformer.layer.0.ffn.lin1.weight", "layer 0", 0, "mlp in"),
        ("distilbert.transformer.layer.0.ffn.lin2.weight", "layer 0", 0, "mlp out"),
        ("distilbert.transformer.layer.0.sa_layer_norm.weight", "layer 0", 0, "norm"),
    ],
    "ViT": [
        ("vit.embeddings.cls_token", "embeddings", -1, "embedding"),
        ("vit.embeddings.patch_embeddings.projection.weight", "embeddings", -1, "embedding"),
        ("vit.encoder.layer.4.attention.attention.query.weight", "layer 4", 4, "attention query"),
        ("vit.encoder.layer.4.layernorm_before.weight", "layer 4", 4, "norm"),
        ("vit.layernorm.weight", "final", 9999, "norm"),
        ("blocks.0.attn.qkv.weight", "layer 0", 0, "fused qkv"),
        ("blocks.0.attn.proj.bias", "layer 0", 0, "attention output"),
        ("patch_embed.proj.weight", "embeddings", -1, "embedding"),
        ("pos_embed", "embeddings", -1, "embedding"),
        ("norm.weight", "final", 9999, "norm"),
        ("head.weight", "final", 9999, "head"),
    ],
    "CLIP": [
        ("text_model.embeddings.token_embedding.weight", "embeddings", -1, "embedding"),
        ("text_model.encoder.layers.0.self_attn.q_proj.weight", "text 0", 0, "attention query"),
        ("text_model.final_layer_norm.weight", "text final", 998, "norm"),
        ("vision_model.embeddings.class_embedding", "vision embeddings", 999, "embedding"),
        ("vision_model.pre_layrnorm.weight", "vision embeddings", 999, "norm"),
        ("vision_model.encoder.layers.3.self_attn.out_proj.weight", "vision 3", 1003, "attention output"),
        ("vision_model.encoder.layers.3.mlp.fc1.weight", "vision 3", 1003, "mlp in"),
        ("vision_model.encoder.layers.3.mlp.fc2.bias", "vision 3", 1003, "mlp out"),
        ("vision_model.post_layernorm.weight", "vision final", 1998, "norm"),
        ("visual_projection.weight", "final", 9999, "head"),
        ("logit_scale", "other", 9998, "other"),
        ("model.visual.transformer.resblocks.7.attn.in_proj_weight", "vision 7", 1007, "fused qkv"),
        ("model.visual.transformer.resblocks.7.attn.in_proj_bias", "vision 7", 1007, "fused qkv"),
        ("model.visual.conv1.weight", "vision embeddings", 999, "embedding"),
        ("model.visual.proj", "final", 9999, "head"),
        ("transformer.resblocks.4.ln_1.weight", "layer 4", 4, "norm"),
    ],
    "GPT-2": [
        ("transformer.wte.weight", "embeddings", -1, "embedding"),
        ("wpe.weight", "embeddings", -1, "embedding"),
        ("transformer.h.7.attn.c_attn.weight", "layer 7", 7, "fused qkv"),
        ("h.0.attn.c_attn.bias", "layer 0", 0, "fused qkv"),
        ("h.0.attn.c_proj.bias", "layer 0", 0, "attention output"),
        ("h.0.mlp.c_fc.weight", "layer 0", 0, "mlp in"),
        ("h.0.mlp.c_proj.weight", "layer 0", 0, "mlp out"),
        ("h.0.ln_1.weight", "layer 0", 0, "norm"),
        ("transformer.ln_f.weight", "final", 9999, "norm"),
        ("lm_head.weight", "final", 9999, "head"),
    ],
    "NeoX": [
        ("gpt_neox.embed_in.weight", "embeddings", -1, "embedding"),
        ("gpt_neox.layers.0.attention.query_key_value.weight", "layer 0", 0, "fused qkv"),
        ("gpt_neox.layers.0.attention.dense.weight", "layer 0", 0, "attention output"),
        ("gpt_neox.layers.0.mlp.dense_4h_to_h.bias", "layer 0", 0, "mlp out"),
        ("gpt_neox.final_layer_norm.weight", "final", 9999, "norm"),
        ("embed_out.weight", "final", 9999, "head"),
    ],
    "Llama": [
        ("model.embed_tokens.weight", "embeddings", -1, "embedding"),
        ("model.layers.10.self_attn.q_proj.weight", "layer 10", 10, "attention query"),
        ("model.layers.10.self_attn.k_proj.bias", "layer 10", 10, "attention key"),
        ("model.layers.10.self_attn.v_proj.weight", "layer 10", 10, "attention value"),
        ("model.layers.10.self_attn.o_proj.weight", "layer 10", 10, "attention output"),
        ("model.layers.10.self_attn.q_norm.weight", "layer 10", 10, "norm"),
        ("model.layers.10.mlp.gate_proj.weight", "layer 10", 10, "mlp gate"),
        ("model.layers.10.mlp.up_proj.weight", "layer 10", 10, "mlp in"),
        ("model.layers.10.mlp.down_proj.weight", "layer 10", 10, "mlp out"),
        ("model.layers.10.input_layernorm.weight", "layer 10", 10, "norm"),
        ("model.layers.10.pre_feedforward_layernorm.weight", "layer 10", 10, "norm"),
        ("model.norm.weight", "final", 9999, "norm"),
        ("model.layers.1.block_sparse_moe.gate.weight", "layer 1", 1, "mlp router"),
        ("model.layers.1.block_sparse_moe.experts.3.w2.weight", "layer 1", 1, "mlp out"),
        ("layers.0.attention.wq.weight", "layer 0", 0, "attention query"),
        ("layers.0.feed_forward.w1.weight", "layer 0", 0, "mlp gate"),
        ("layers.0.feed_forward.w3.weight", "layer 0", 0, "mlp in"),
        ("score.weight", "final", 9999, "head"),
    ],
    "T5": [
        ("shared.weight", "embeddings", -1, "embedding"),
        ("encoder.embed_tokens.weight", "embeddings", -1, "embedding"),
        ("encoder.block.0.layer.0.SelfAttention.q.weight", "encoder 0", 0, "attention query"),
        ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "encoder 0", 0, "attention"),
        ("encoder.block.2.layer.1.DenseReluDense.wi_0.weight", "encoder 2", 2, "mlp gate"),
        ("encoder.block.2.layer.1.DenseReluDense.wi.weight", "encoder 2", 2, "mlp in"),
        ("encoder.block.2.layer.1.DenseReluDense.wo.weight", "encoder 2", 2, "mlp out"),
        ("encoder.final_layer_norm.weight", "encoder final", 998, "norm"),
        ("decoder.embed_tokens.weight", "decoder embeddings", 999, "embedding"),
        ("decoder.block.1.layer.1.EncDecAttention.k.weight", "decoder 1", 1001, "cross-attention key"),
        ("decoder.block.1.layer.0.SelfAttention.o.weight", "decoder 1", 1001, "attention output"),
        ("decoder.final_layer_norm.weight", "decoder final", 1998, "norm"),
    ],
    "BART": [
        ("model.encoder.layers.0.self_attn_layer_norm.weight", "encoder 0", 0, "norm"),
        ("model.decoder.layers.0.encoder_attn.k_proj.weight", "decoder 0", 1000, "cross-attention key"),
        ("model.decoder.layers.0.fc1.weight", "decoder 0", 1000, "mlp in"),
    ],
    "synthetic": [
        ("blocks.0.attn.weight", "layer 0", 0, "attention"),
        ("blocks.1.mlp.0", "layer 1", 1, "mlp in"),
        ("blocks.1.mlp.0.weight", "layer 1", 1, "mlp in"),
        ("blocks.1.mlp.2.bias", "layer 1", 1, "mlp out"),
        ("blocks.1.mlp.weight", "layer 1", 1, "mlp"),
        ("layer1.0.conv1.weight", "layer 1", 1, "other"),
        ("layer1.0.bn1.weight", "layer 1", 1, "norm"),
        ("a", "other", 9998, "other"),
        ("fc.weight", "other", 9998, "other"),
        ("", "other", 9998, "other"),
    ],
}
CASES = [(name, Group(layer, index, kind)) for rows in NAMES.values() for name, layer, index, kind in rows]


@pytest.mark.parametrize(("name", "group"), CASES, ids=[name or "empty" for name, _ in CASES])
def test_group_of(name: str, group: Group) -> None:
    assert group_of(name) == group
    assert group_of(name, {"model_type": "any"}) == group


def test_every_tensor_of_the_sample_is_placed() -> None:
    checkpoint = open_checkpoint(SAMPLE)
    groups = {name: group_of(name, checkpoint.config) for name in checkpoint}
    assert layer_order(groups.values()) == ("embeddings", "layer 0", "layer 1", "layer 2")
    assert {g.kind for g in groups.values()} == {
        *("embedding", "norm", "mlp in", "mlp out"),
        *("attention query", "attention key", "attention value", "attention output"),
    }
    for layer in range(3):
        assert sum(g.layer_index == layer for g in groups.values()) == 16


def test_layer_order_is_depth_not_alphabet() -> None:
    names = [
        "lm_head.weight",
        "h.10.ln_1.weight",
        "h.9.ln_1.weight",
        "h.2.ln_1.weight",
        "wte.weight",
        "strange",
        "ln_f.bias",
    ]
    order = layer_order([group_of(n) for n in names])
    assert order == ("embeddings", "layer 2", "layer 9", "layer 10", "other", "final")


def test_encoder_and_decoder_do_not_mix() -> None:
    t5 = [group_of(name) for name, *_ in NAMES["T5"]]
    assert layer_order(t5) == (
        *("embeddings", "encoder 0", "encoder 2", "encoder final"),
        *("decoder embeddings", "decoder 1", "decoder final"),
    )
    clip = layer_order([group_of(name) for name, *_ in NAMES["CLIP"] if name.startswith(("text_", "vision_"))])
    assert clip.index("text 0") < clip.index("vision embeddings") < clip.index("vision 3") < clip.index("vision final")


def test_one_index_means_one_layer() -> None:
    for architecture, rows in NAMES.items():
        layers: dict[int, set[str]] = {}
        for _, layer, index, _kind in rows:
            layers.setdefault(index, set()).add(layer)
        if architecture != "CLIP":  # its rows mix the names of two libraries
            assert all(len(same) == 1 for same in layers.values()), architecture
    assert max(group_of(name).layer_index for name, _ in CASES) == FINAL_INDEX
