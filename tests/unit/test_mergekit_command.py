"""`merge` and `mergekit` on mergekit recipes, and ours written as mergekit's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from adapter_zoo import exact, pair, save_adapter
from mergekit_zoo import LLAMA, PLAIN, family, llama, recipe, result

from explorer.cli import main
from explorer.export_command import shard_bytes
from explorer.mergekit.chat import NAMED
from explorer.mergekit.exporting import to_mergekit
from explorer.mergekit.methods import METHODS
from explorer.mergekit.reading import read_text
from explorer.mergekit.twin import twin
from explorer.merging import METHODS as OURS
from explorer.recipe import Recipe, TaskEntry

TOKENS = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 2, "content": "<x>"}]}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = family(tmp_path_factory.mktemp("mergekit"), llama(0, layers=2), {**LLAMA, "num_hidden_layers": 2})
    for name in ("base", "ft1", "ft2"):
        (folder / name / "tokenizer.json").write_text(json.dumps(TOKENS))
        (folder / name / "tokenizer_config.json").write_text("{}")
        (folder / name / "README.md").write_text(f"---\nlicense: {'mit' if name == 'ft2' else 'apache-2.0'}\n---\nx")
    (folder / "ft3" / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"b": 0, "c": 1}}}))
    return folder


def write(path: Path, text: str, folder: Path) -> str:
    path.write_text(recipe(text, folder))
    return str(path)


TIES = """
    models:
    - {model: @ft1, parameters: {weight: 0.5, densty: 0.2}}
    - {model: @ft2, parameters: {weight: 0.5, density: 0.4}}
    merge_method: ties
    base_model: @base
    tokenizer_source: base
    chat_template: chatml
    dtype: bfloat16
    """


def test_merge_writes_a_folder_that_others_take(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = write(tmp_path / "r.yml", TIES, models), tmp_path / "out"
    flags = ["--lazy-unpickle", "--cuda", "--device", "cpu", "--out-shard-size", "4K", "-v", "--random-seed", "3"]
    assert main(["merge", file, str(out), *flags, "--write-threads", "4"]) == 0
    said = capsys.readouterr()
    assert "note: --lazy-unpickle changes nothing" in said.err and "note: --write-threads changes nothing" in said.err
    assert "warning: line 2: parameter 'densty' is unknown to ties" in said.err and "mergekit's semantics" in said.out
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 3 and set(index["weight_map"]) == set(result(out))
    assert (out / "mergekit_config.yml").read_text() == Path(file).read_text()
    assert json.loads((out / "explorer_merge.json").read_text())["seed"] == 3
    assert (out / "chat_template.jinja").read_text() == NAMED["chatml"]
    assert json.loads((out / "tokenizer_config.json").read_text())["chat_template"] == NAMED["chatml"]
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == "bfloat16"
    card = (out / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["base_model"] == ["base", "ft1", "ft2"] and "merge" in front["tags"] and "license" not in front
    assert str(models) not in card and "* ft2: mit" in card
    assert main(["merge", file, str(out)]) == 1
    assert main(["merge", file, str(models / "ft1"), "--overwrite"]) == 2
    plain = ["--overwrite", "--no-copy-tokenizer", "--no-write-model-card", "--json"]
    assert main(["merge", file, str(out), *plain]) == 0
    assert not {"README.md", "tokenizer.json", "chat_template.jinja"} & {p.name for p in out.iterdir()}


def test_merge_refuses_in_one_message(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "merge_method: ties\nmodels: [{model: @ft1}, {model: @ft9}]\nbase_model: @base\ndtype: bf16\n"
    assert main(["merge", write(tmp_path / "r.yml", text, models), str(tmp_path / "out")]) == 2
    assert "line 4: dtype" in capsys.readouterr().err and not (tmp_path / "out").exists()
    other = TIES.replace("@ft2", "@ft3")
    assert main(["merge", write(tmp_path / "r.yml", other, models), str(tmp_path / "out")]) == 2
    assert "1 tokens more, 2 less and 1 at other places in" in capsys.readouterr().err
    assert main(["merge", write(tmp_path / "r.yml", TIES, models), str(tmp_path / "o"), "--set", "density=1"]) == 2
    assert "does not work on mergekit recipes" in capsys.readouterr().err


def test_several_documents_run_in_the_order_of_need(models: Path, tmp_path: Path) -> None:
    text = """
        models: [{model: middle, parameters: {weight: 1}}, {model: @base, parameters: {weight: 3}}]
        merge_method: linear
        dtype: float32
        ---
        name: middle
        models: [{model: @ft1, parameters: {weight: 1}}, {model: @ft2, parameters: {weight: 1}}]
        merge_method: linear
        dtype: float32
        """
    assert main(["merge", write(tmp_path / "r.yml", text, models), str(tmp_path / "out"), "--quiet"]) == 0
    made, (base, one, two) = result(tmp_path / "out"), (result(models / m) for m in ("base", "ft1", "ft2"))
    for name, value in made.items():
        wanted = ((one[name].float() + two[name].float()) / 2 + 3 * base[name].float()) / 4
        assert torch.allclose(value, wanted, atol=1e-6)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "r.yml"]


def test_an_adapter_is_put_on_its_base_first(models: Path, tmp_path: Path) -> None:
    module = "model.layers.1.mlp.up_proj"
    factors = pair(1, 24, 16)
    save_adapter(tmp_path / "lora", {module: factors})
    text = f"merge_method: linear\nmodels: [{{model: @base+{tmp_path}/lora, parameters: {{weight: 1}}}}]\n"
    file = write(tmp_path / "r.yml", text, models)
    assert main(["merge", file, str(tmp_path / "out"), "--quiet"]) == 0
    made, base = result(tmp_path / "out"), result(models / "base")
    wanted = base[f"{module}.weight"].double() + torch.from_numpy(exact(factors))
    assert torch.equal(made[f"{module}.weight"], wanted.float().bfloat16())
    assert torch.equal(made["model.norm.weight"], base["model.norm.weight"])
    alone = write(tmp_path / "r.yml", text.replace("@base+", ""), models)
    assert main(["merge", alone, str(tmp_path / "out2"), "--quiet"]) == 2


def test_explains_what_a_recipe_does(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "r.yml", TIES, models)
    assert main(["mergekit", file]) == 0
    said = capsys.readouterr().out
    for part in (
        "trims each tensor",
        "21 tensors, layers: 2 of model.layers",
        "Did you mean 'density'?",
        "method: ties",
    ):
        assert part in said
    assert main(["mergekit", write(tmp_path / "r.yml", TIES.replace("@ft2", "@ft9"), models), "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert "ft9" in told["problems"][0] and told["documents"][0]["twin"].startswith("schema: 1")


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_every_method_has_words_and_a_twin_or_a_reason(name: str, models: Path) -> None:
    from explorer.mergekit.explaining import semantics

    (document,) = read_text(recipe(PLAIN[name], models)).documents
    assert METHODS[document.merge_method].title in semantics(METHODS[document.merge_method])
    ours, notes = twin(document)
    assert notes and (ours is None) == any("no twin" in n for n in notes)
    assert ours is None or ours.method in OURS


def test_a_twin_with_equal_semantics_gives_the_same_weights(models: Path, tmp_path: Path) -> None:
    text = """
        models: [{model: @ft1, parameters: {weight: 0.4}}, {model: @ft2, parameters: {weight: -0.2}}]
        merge_method: task_arithmetic
        base_model: @base
        parameters: {lambda: 0.5}
        dtype: bfloat16
        """
    file = write(tmp_path / "r.yml", text, models)
    ours, _ = twin(read_text(Path(file).read_text()).documents[0])
    assert ours is not None
    (tmp_path / "ours.yaml").write_text(ours.to_yaml())
    exported, notes = to_mergekit(ours)
    assert notes == () and exported
    (tmp_path / "again.yml").write_text(exported)
    made = []
    for recipe_file in ("r.yml", "ours.yaml", "again.yml"):
        assert main(["merge", str(tmp_path / recipe_file), str(tmp_path / f"out {recipe_file}"), "--quiet"]) == 0
        made.append(result(tmp_path / f"out {recipe_file}"))
    for other in made[1:]:
        assert all(torch.equal(value, other[name]) for name, value in made[0].items())


def test_exports_ours_where_mergekit_can_say_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = (TaskEntry("a", "A", {"scale": 1.0}), TaskEntry("b", "B", {"scale": 0.5}))
    exact = {"scope": "tensor", "trim_count": "exact", "zero_sign": "positive", "divisor": "weights", "density": 0.3}
    text, notes = to_mergekit(Recipe("base", tasks, "ties", exact, dtype="bfloat16"))
    assert notes == () and text
    (document,) = read_text(text).documents
    assert [s.parameters for s in document.sources()] == [
        {"weight": 1.0, "density": 0.3},
        {"weight": 0.5, "density": 0.3},
    ]
    paper, said = to_mergekit(Recipe("base", tasks, "ties", {}, dtype="bfloat16", include=("*.mlp.*",)))
    assert paper and len(said) == 5 and any("over the whole model" in n for n in said) and "include" in said[-1]
    assert to_mergekit(Recipe("base", tasks, "tsv_merge" if "tsv_merge" in OURS else "emr", {}))[0] is None
    (tmp_path / "r.yaml").write_text(Recipe("base", tasks, "ties", exact, dtype="bfloat16").to_yaml())
    assert main(["mergekit", str(tmp_path / "r.yaml")]) == 0
    assert "merge_method: ties" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "size"), [("2B", 2 * 10**9), ("500M", 5 * 10**8), ("64k", 64_000), ("1.5GB", 1_500_000_000)]
)
def test_sizes_are_read_as_mergekit_writes_them(text: str, size: int) -> None:
    assert shard_bytes(text) == size
