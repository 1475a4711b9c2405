"""Plans of mergekit recipes: which tensors, from where, with which values; what cannot work is refused unread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mergekit_zoo import LLAMA, family, llama, recipe, save, tuned

from explorer.checkpoints import Checkpoint
from explorer.checkpoints.groups import block_of
from explorer.errors import RecipeError
from explorer.mergekit.layers import layout_of, stacks_of_module
from explorer.mergekit.opening import open_references
from explorer.mergekit.plan import Plan, plan
from explorer.mergekit.reading import read_text
from explorer.mergekit.recipes import plan_file


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family(tmp_path_factory.mktemp("mergekit"), llama(0), LLAMA)


@pytest.fixture(autouse=True)
def no_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan reads no weights."""

    def never(*_: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(Checkpoint, "_read", never)


def planned(text: str, folder: Path, **options: Any) -> Plan:
    (document,) = read_text(recipe(text, folder)).documents
    return plan(document, open_references(document), **options)


def refused(text: str, folder: Path) -> str:
    with pytest.raises(RecipeError) as error:
        planned(text, folder)
    return str(error.value)


def test_gradients_run_over_layers_and_begin_outside_of_them(models: Path) -> None:
    found = planned(
        """
        models:
        - {model: @ft1, parameters: {weight: [1, 0], density: {filter: mlp, value: 0.5}}}
        - {model: @ft2, parameters: {weight: 0.5}}
        merge_method: ties
        base_model: @base
        parameters: {density: 0.9}
        """,
        models,
    )
    outs = {out.name: out for out in found.tensors}
    assert len(outs) == 39 and outs["lm_head.weight"].base == 2
    weights = [outs[n].each[0]["weight"] for n in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")]
    assert weights == [1, 1, 1]
    by_layer = [outs[f"model.layers.{i}.mlp.up_proj.weight"].each[0] for i in range(4)]
    assert [round(e["weight"], 6) for e in by_layer] == [1, 0.666667, 0.333333, 0]
    assert {e["density"] for e in by_layer} == {0.5}
    assert outs["model.layers.0.self_attn.q_proj.weight"].each[0]["density"] == 0.9
    assert outs["lm_head.weight"].each[2] == {}
    assert found.total_bytes * 3 == found.read_bytes
    assert any("take its first value" in w for w in found.warnings)


def test_slices_number_layers_anew_and_the_configuration_follows(tmp_path: Path) -> None:
    config = {**LLAMA, "layer_types": ["a", "b", "c", "d"]}
    family(tmp_path, llama(0), config, tasks=2)
    found = planned(
        """
        slices:
        - sources: [{model: @ft1, layer_range: [0, 3]}]
        - sources: [{model: @ft2, layer_range: [1, 4], parameters: {scale: 0.5}}]
        merge_method: passthrough
        out_dtype: float16
        """,
        tmp_path,
    )
    outs = {out.name: out for out in found.tensors}
    ((model, name),) = outs["model.layers.4.mlp.up_proj.weight"].inputs
    assert model.path.endswith("ft2") and name == "model.layers.2.mlp.up_proj.weight"
    assert outs["model.embed_tokens.weight"].inputs[0][0].path.endswith("ft1")
    assert outs["model.norm.weight"].inputs[0][0].path.endswith("ft2")
    assert outs["model.norm.weight"].each[0] == {"scale": 0.5}
    assert found.config["num_hidden_layers"] == 6 and found.config["layer_types"] == ["a", "b", "c", "b", "c", "d"]
    assert found.config["dtype"] == found.config["torch_dtype"] == "float16"
    assert outs["model.norm.weight"].dtype == torch.float16


@pytest.mark.parametrize(
    ("method", "extra", "problem"),
    [
        ("ties", "", "got none for model.embed_tokens.weight"),
        ("ties", "parameters: {weight: 1}", "ties: needs a base_model; got none"),
        ("slerp", "base_model: @ft1\nparameters: {t: 0.5}", "slerp: the number of all inputs must be 2; got 3"),
        ("nuslerp", "parameters: {weight: 1}", "nuslerp: the number of inputs beside the base must be 2; got 3"),
        ("passthrough", "", "the number of all inputs must be 1; got 3"),
        ("della", "base_model: @base\nparameters: {weight: 1, density: 0.9, epsilon: 0.2}", "got 0.9 ± 0.2"),
        ("linear", "parameters: {weight: 0}", "must not sum to 0"),
        ("linear", "base_model: @base\nparameters: {weight: {filter: mlp, value: 1}}", "needs a last `value` for all"),
        ("task_arithmetic", "base_model: @ft9\nparameters: {weight: 1}", "ft9"),
        ("linear", "parameters: {weight: 1}\ntokenizer: {source: base}", "source base needs a base_model"),
        ("linear", "parameters: {weight: 1}\ntokenizer: {pad_to_multiple_of: 8}", "got pad_to_multiple_of"),
    ],
)
def test_refuses_what_cannot_work(models: Path, method: str, extra: str, problem: str) -> None:
    text = f"merge_method: {method}\nmodels:\n- {{model: @ft1}}\n- {{model: @ft2}}\n- {{model: @ft3}}\n{extra}\n"
    assert problem in refused(text, models)


def test_refuses_models_that_do_not_fit_all_at_once(models: Path, tmp_path: Path) -> None:
    state = tuned(llama(0), 9)
    state["lm_head.weight"] = torch.zeros(44, 16)
    state["model.embed_tokens.weight"] = torch.zeros(44, 16)
    state["model.norm.weight"] = torch.ones(20)
    del state["model.layers.1.mlp.up_proj.weight"]
    save(tmp_path / "odd", state, {**LLAMA, "architectures": ["MistralForCausalLM"]}, torch.bfloat16)
    text = f"merge_method: linear\nmodels: [{{model: @ft1}}, {{model: {tmp_path}/odd}}]\nparameters: {{weight: 1}}\n"
    said = refused(text, models)
    for part in (
        "LlamaForCausalLM (",
        "--allow-crimes",
        "40 rows in",
        "44 rows in",
        "model.norm.weight with [16] in",
        "no model.layers.1.mlp.up_proj.weight",
    ):
        assert part in said
    with pytest.raises(RecipeError) as error:
        planned(text, models, allow_crimes=True)
    assert "44 rows in" in str(error.value) and "no model.layers.1.mlp.up_proj.weight" in str(error.value)
    assert "--allow-crimes" not in str(error.value)


def test_layers_and_bases_of_slices_are_checked(models: Path) -> None:
    said = refused(
        """
        slices:
        - sources:
          - {model: @ft1, layer_range: [2, 6]}
          - {model: @ft2, layer_range: [0, 4]}
        merge_method: slerp
        base_model: @base
        parameters: {t: 0.5}
        """,
        models,
    )
    assert "line 3: layer_range: layers of" in said and "must lie in [0, 4); got [2, 6]" in said
    text = "slices: [{sources: [{model: @ft1, layer_range: [0, 4]}, {model: @ft2, layer_range: [0, 4]}]}]\n"
    said = refused(f"{text}merge_method: slerp\nbase_model: @base\nparameters: {{t: 0.5}}\n", models)
    assert "the base must be among the sources of every slice" in said


def test_a_tied_head_stands_for_its_embedding(models: Path, tmp_path: Path) -> None:
    state = llama(0)
    del state["lm_head.weight"]
    save(tmp_path / "tied", state, LLAMA, torch.bfloat16)
    text = f"merge_method: linear\nmodels: [{{model: @ft1}}, {{model: {tmp_path}/tied}}]\nparameters: {{weight: 1}}\n"
    head = {out.name: out for out in planned(text, models).tensors}["lm_head.weight"]
    assert head.inputs[1][1] == "model.embed_tokens.weight"


def test_later_documents_are_planned_on_what_earlier_ones_will_write(models: Path) -> None:
    first = "name: one\nslices: [{sources: [{model: @ft1, layer_range: [0, 2]}]}]\nmerge_method: passthrough\n"
    last = "models: [{model: one}, {model: @base}]\nmerge_method: linear\nparameters: {weight: 1}\n"
    with pytest.raises(RecipeError, match="equally many layers"):
        plan_file(read_text(recipe(f"{last}---\n{first}", models)))
    alone = "models: [{model: one}]\nmerge_method: linear\nparameters: {weight: 1}\n"
    plans = plan_file(read_text(recipe(f"{alone}---\n{first}", models)))
    assert [p.document.name for p in plans] == ["one", None] and plans[1].layers == {"model.layers.": 2}
    circle = "name: two\nmodels: [{model: three}]\nmerge_method: linear\n---\nname: three\nmodels: [{model: two}]\n"
    with pytest.raises(RecipeError, match="must not need each other"):
        plan_file(read_text(circle + "merge_method: linear\n"))


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("model.layers.3.mlp.up_proj.weight", ("model.layers.", 3, ".mlp.up_proj.weight")),
        ("transformer.h.11.attn.c_attn.bias", ("transformer.h.", 11, ".attn.c_attn.bias")),
        ("bert.encoder.layer.0.output.dense.weight", ("bert.encoder.layer.", 0, ".output.dense.weight")),
        ("vit.encoder.layer.5.layernorm_before.bias", ("vit.encoder.layer.", 5, ".layernorm_before.bias")),
        (
            "encoder.block.2.layer.1.DenseReluDense.wi.weight",
            ("encoder.block.", 2, ".layer.1.DenseReluDense.wi.weight"),
        ),
        ("model.decoder.layers.1.fc1.weight", ("model.decoder.layers.", 1, ".fc1.weight")),
        ("model.norm.weight", None),
    ],
)
def test_finds_the_layer_in_a_name(name: str, block: tuple[str, int, str] | None) -> None:
    assert block_of(name) == block


def test_knows_the_stacks_of_models_with_several() -> None:
    names = [f"model.{side}.layers.{i}.fc1.weight" for side in ("encoder", "decoder") for i in range(3)]
    found = layout_of([*names, "model.encoder.conv1.weight", "model.decoder.embed_tokens.weight", "proj_out.weight"])
    assert [(s.prefix, s.count) for s in found.stacks] == [("model.decoder.layers.", 3), ("model.encoder.layers.", 3)]
    assert stacks_of_module("encoder", found.stacks) == ["model.encoder.layers."]
    assert stacks_of_module("text_decoder", found.stacks) == ["model.decoder.layers."]
    assert stacks_of_module("vision_tower", found.stacks) == [] and len(stacks_of_module("default", found.stacks)) == 2


def test_modules_take_layers_of_each_stack(tmp_path: Path) -> None:
    def stack(side: str) -> dict[str, torch.Tensor]:
        return {f"{side}.block.{i}.layer.0.w.weight": torch.full((2, 2), float(i)) for i in range(3)}

    state = {"shared.weight": torch.ones(4, 2), **stack("encoder"), **stack("decoder")}
    state |= {"encoder.final_layer_norm.weight": torch.ones(2), "decoder.final_layer_norm.weight": torch.ones(2)}
    config = {"architectures": ["T5"], "model_type": "t5", "num_layers": 3, "num_decoder_layers": 3}
    save(tmp_path / "t5", state, config)
    text = """
        modules:
          encoder:
            slices: [{sources: [{model: @t5, layer_range: [1, 3]}], parameters: {scale: 2}}]
          decoder: {models: [{model: @t5}], parameters: {scale: 3}}
        merge_method: passthrough
        """
    found = planned(text, tmp_path)
    scales = {out.name: out.each[0]["scale"] for out in found.tensors}
    assert found.layers == {"encoder.block.": 2, "decoder.block.": 3}
    assert scales["encoder.final_layer_norm.weight"] == scales["encoder.block.0.layer.0.w.weight"] == 2
    assert scales["decoder.final_layer_norm.weight"] == scales["decoder.block.2.layer.0.w.weight"] == 3
    assert (found.config["num_layers"], found.config["num_decoder_layers"]) == (2, 3)
    said = refused("slices: [{sources: [{model: @t5, layer_range: [0, 1]}]}]\nmerge_method: passthrough\n", tmp_path)
    assert "slices need a model with one run of layers; got decoder.block and encoder.block" in said
