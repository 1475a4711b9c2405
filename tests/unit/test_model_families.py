"""Folders of common architectures, saved by transformers: merged by a recipe and opened again by transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import explorer
from explorer.checkpoints import open_checkpoint
from explorer.checkpoints.groups import FINAL, OTHER, group_of, layer_order
from explorer.checkpoints.tied import tied_tensors
from explorer.errors import AlignmentError
from explorer.recipe import Recipe

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig(vocab_size=40, num_labels=3, **SIZES))


def vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_labels=3, **SIZES))


def clip() -> nn.Module:
    from transformers import CLIPConfig, CLIPModel

    text = {"vocab_size": 40, "max_position_embeddings": 10, **SIZES}
    vision = {"image_size": 8, "patch_size": 4, **SIZES}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))


def t5() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0)
    return T5ForConditionalGeneration(config)


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=20))


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(vocab_size=40, num_key_value_heads=1, tie_word_embeddings=False, **SIZES))


IDS = torch.arange(6).reshape(1, 6)
PIXELS = torch.linspace(-1, 1, 192).reshape(1, 3, 8, 8)
FAMILIES: dict[str, tuple[Callable[[], nn.Module], dict[str, Tensor], set[str]]] = {
    "bert": (bert, {"input_ids": IDS}, {"embeddings", "layer 0", "layer 1", FINAL}),
    "vit": (vit, {"pixel_values": PIXELS}, {"embeddings", "layer 0", "layer 1", FINAL}),
    "clip": (
        clip,
        {"input_ids": IDS, "pixel_values": PIXELS},
        {"embeddings", "text 0", "text 1", "text final", "vision embeddings", "vision 0", "vision 1", "vision final"}
        | {FINAL, OTHER},
    ),
    "t5": (
        t5,
        {"input_ids": IDS, "decoder_input_ids": IDS},
        {"embeddings", "encoder 0", "encoder 1", "encoder final", "decoder 0", "decoder 1", "decoder final"},
    ),
    "gpt2": (gpt2, {"input_ids": IDS}, {"embeddings", "layer 0", "layer 1", FINAL}),
    "llama": (llama, {"input_ids": IDS}, {"embeddings", "layer 0", "layer 1", FINAL}),
}


def perturbed(module: nn.Module, seed: int) -> nn.Module:
    """The module with a little of everything added; tied parameters stay tied, for they are one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return module


def save_family(folder: Path, family: str, *, dtype: torch.dtype = torch.float32) -> dict[str, nn.Module]:
    """`folder/base`, `folder/a`, `folder/b` as save_pretrained writes them, and the modules."""
    make, _, _ = FAMILIES[family]
    with torch.random.fork_rng():
        base = perturbed(make(), 0)
    made: dict[str, nn.Module] = {"base": base}
    for seed, task in enumerate("ab", 1):
        module = make()
        module.load_state_dict(base.state_dict())
        made[task] = perturbed(module, seed)
    for name, module in made.items():
        module.to(dtype).eval().save_pretrained(folder / name)  # type: ignore[operator]
    return made


def recipe_of(folder: Path, **changes: Any) -> Recipe:
    plain = {
        "base": str(folder / "base"),
        "tasks": {t: {"checkpoint": str(folder / t)} for t in "ab"},
        "method": "task_arithmetic",
        "parameters": {"scale": 0.5},
    }
    return Recipe.from_dict({**plain, **changes})


def answers(module: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    with torch.inference_mode():
        out = module(**inputs)
    return out.logits_per_image if hasattr(out, "logits_per_image") else out.logits


@pytest.mark.parametrize("family", FAMILIES)
def test_a_merge_opens_in_transformers_and_answers_as_the_merged_weights_do(family: str, tmp_path: Path) -> None:
    made = save_family(tmp_path, family)
    _, inputs, _ = FAMILIES[family]
    export = explorer.run_recipe(recipe_of(tmp_path), tmp_path / "out")
    reopened, info = type(made["base"]).from_pretrained(export.path, output_loading_info=True)  # type: ignore[attr-defined]
    assert not any(info.values()), info
    base, a, b = (dict(made[n].named_parameters()) for n in ("base", "a", "b"))
    with torch.no_grad():
        for name, parameter in made["base"].named_parameters():
            expected = base[name] + 0.5 * (a[name] - base[name]) + 0.5 * (b[name] - base[name])
            assert torch.allclose(reopened.get_parameter(name), expected, atol=1e-6), name
            parameter.copy_(expected)
    assert torch.allclose(answers(reopened.eval(), inputs), answers(made["base"], inputs), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_and_kinds_are_known(family: str, tmp_path: Path) -> None:
    module = FAMILIES[family][0]()
    module.save_pretrained(tmp_path)  # type: ignore[operator]
    checkpoint = open_checkpoint(tmp_path)
    groups = {name: group_of(name, checkpoint.config) for name in checkpoint}
    assert {g.layer for g in groups.values()} == FAMILIES[family][2]
    order = layer_order(groups.values())
    assert order[0] == "embeddings" and [o for o in order if o.endswith("1")] == [
        o.replace("0", "1") for o in order if o.endswith("0")
    ]
    other = [n for n, g in groups.items() if g.kind == "other"]
    assert other == (["logit_scale"] if family == "clip" else [])


def test_the_folders_open_in_auto_classes_too(tmp_path: Path) -> None:
    from transformers import AutoModel, AutoModelForSequenceClassification

    made = save_family(tmp_path, "bert")
    export = explorer.run_recipe(recipe_of(tmp_path), tmp_path / "out")
    merged = load_file(export.path / "model.safetensors")
    whole = AutoModelForSequenceClassification.from_pretrained(export.path)
    assert torch.equal(whole.classifier.weight, merged["classifier.weight"]) and whole.config.num_labels == 3
    trunk = AutoModel.from_pretrained(export.path, add_pooling_layer=False)
    name = "encoder.layer.1.output.dense.weight"
    assert torch.equal(trunk.get_parameter(name), merged[f"bert.{name}"])
    assert torch.equal(whole.bert.get_parameter(name), merged[f"bert.{name}"]) and made


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_folders_keep_their_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    save_family(tmp_path, "llama", dtype=dtype)
    export = explorer.run_recipe(recipe_of(tmp_path), tmp_path / "out")
    merged, *others = (
        load_file(p / "model.safetensors") for p in (export.path, *(tmp_path / n for n in ("base", *"ab")))
    )
    base, a, b = ({n: t.float() for n, t in state.items()} for state in others)
    assert {t.dtype for t in merged.values()} == {dtype}
    for name, tensor in merged.items():
        expected = base[name] + (0.5 * (a[name] - base[name]) + 0.5 * (b[name] - base[name]))
        assert torch.equal(tensor, expected.to(dtype)) or torch.allclose(tensor.float(), expected, rtol=1e-2), name


def test_mixed_dtypes_and_buffers_of_whole_numbers(tmp_path: Path) -> None:
    """Norms in float32 beside float16 matrices, one task in bfloat16, position_ids in every model."""
    save_family(tmp_path, "bert")
    ids = torch.arange(512).reshape(1, -1)
    for name, dtype in (("base", torch.float16), ("a", torch.bfloat16), ("b", torch.float32)):
        path = tmp_path / name / "model.safetensors"
        state = {n: t if "LayerNorm" in n else t.to(dtype) for n, t in load_file(path).items()}
        save_file({**state, "bert.embeddings.position_ids": ids}, path, metadata={"format": "pt"})
    checkpoint = open_checkpoint(tmp_path / "base")
    assert sorted(checkpoint.dtypes) == ["float16", "float32", "int64"]
    export = explorer.run_recipe(recipe_of(tmp_path), tmp_path / "out")
    merged, base = load_file(export.path / "model.safetensors"), load_file(tmp_path / "base" / "model.safetensors")
    assert {n: t.dtype for n, t in merged.items()} == {n: t.dtype for n, t in base.items()}
    assert torch.equal(merged["bert.embeddings.position_ids"], ids)
    a, b = (load_file(tmp_path / t / "model.safetensors") for t in "ab")
    for name in ("bert.pooler.dense.weight", "bert.embeddings.LayerNorm.weight"):
        first, second, zero = a[name].float(), b[name].float(), base[name].float()
        expected = (zero + (0.5 * (first - zero) + 0.5 * (second - zero))).to(base[name].dtype)
        assert torch.allclose(merged[name].float(), expected.float(), rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_tied_embeddings_stored_under_every_name_stay_tied(tmp_path: Path, family: str) -> None:
    made = save_family(tmp_path, family)
    names = {"gpt2": ("transformer.wte.weight", "lm_head.weight"), "t5": ("shared.weight", "lm_head.weight")}[family]
    for task, module in made.items():
        (tmp_path / task / "model.safetensors").unlink()
        torch.save(module.state_dict(), tmp_path / task / "pytorch_model.bin")
    checkpoint = open_checkpoint(tmp_path / "base")
    assert checkpoint.format == "PyTorch" and names[1] in tied_tensors(checkpoint)
    assert len({checkpoint.info(n).offset_bytes for n in names}) == 1
    export = explorer.run_recipe(recipe_of(tmp_path, method="ties"), tmp_path / "out")
    merged = load_file(export.path / "model.safetensors")
    assert torch.equal(merged[names[0]], merged[names[1]])
    reopened = type(made["base"]).from_pretrained(export.path)  # type: ignore[attr-defined]
    assert torch.equal(reopened.get_parameter(names[0]), merged[names[0]])
    assert reopened.get_input_embeddings().weight is reopened.lm_head.weight


@pytest.mark.parametrize("policy", ["refuse", "keep_base"])
def test_heads_of_other_sizes_keep_the_bases_and_the_trunk_merges(tmp_path: Path, policy: str) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    made = save_family(tmp_path, "bert")
    wide = BertForSequenceClassification(BertConfig(vocab_size=40, num_labels=5, **SIZES))
    wide.bert.load_state_dict(made["a"].bert.state_dict())  # type: ignore[union-attr, operator]
    wide.save_pretrained(tmp_path / "a")
    export = explorer.run_recipe(recipe_of(tmp_path, policy=policy), tmp_path / "out")
    assert "classifier.* are layers on top" in (export.path / "README.md").read_text("utf-8"), (
        "the card says what is not merged"
    )
    merged, base = load_file(export.path / "model.safetensors"), load_file(tmp_path / "base" / "model.safetensors")
    assert torch.equal(merged["classifier.weight"], base["classifier.weight"])
    name = "bert.encoder.layer.0.output.dense.weight"
    assert not torch.equal(merged[name], base[name])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_added_tokens_merge_their_common_rows(tmp_path: Path, family: str) -> None:
    made = save_family(tmp_path, family)
    made["a"].resize_token_embeddings(43)  # type: ignore[operator]
    made["a"].save_pretrained(tmp_path / "a")  # type: ignore[operator]
    with pytest.raises(AlignmentError, match="Policy common_rows merges the rows that both have"):
        explorer.run_recipe(recipe_of(tmp_path), tmp_path / "out")
    export = explorer.run_recipe(recipe_of(tmp_path, policy="common_rows"), tmp_path / "out")
    reopened, info = type(made["base"]).from_pretrained(export.path, output_loading_info=True)  # type: ignore[attr-defined]
    assert not any(info.values()) and reopened.config.vocab_size == 40
    base, a, b = (made[n].get_input_embeddings().weight.detach()[:40] for n in ("base", *"ab"))  # type: ignore[operator]
    expected = base + 0.5 * (a - base) + 0.5 * (b - base)
    assert torch.allclose(reopened.get_input_embeddings().weight, expected, atol=1e-6)
    assert "Its last 3 rows are dropped." in (export.path / "README.md").read_text(encoding="utf-8")
