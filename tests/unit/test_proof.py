"""The proof of an export: it holds, it fails with the first wrong tensor, and it knows what it compared with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from workbench_zoo import TASKS, make_bench, make_models, recipe_of

from explorer.errors import CheckpointError
from explorer.proof import Proof, proof_text, prove, prove_folder
from explorer.session import change
from explorer.workbench import Slot, Workbench
from viz.panels.export import ExportPlace


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp("zoo"))


@pytest.fixture
def bench(zoo: Path, tmp_path: Path) -> Workbench:
    return make_bench(zoo, tmp_path / "exports")


def merged(bench: Workbench, slot: Slot) -> None:
    bench.live(slot, slot.session.recipe).merge(slot.session.recipe, cache=bench.store)


def changed(folder: Path, name: str, tensor: Tensor | None) -> None:
    """Puts another tensor into an exported model, or takes one away."""
    state = load_file(folder / "model.safetensors")
    state = {n: t for n, t in {**state, name: tensor}.items() if t is not None}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def test_against_the_live_model_while_it_holds_that_merge_and_else_a_new_one(bench: Workbench, zoo: Path) -> None:
    slot = bench.slot("tab")
    out = bench.export(slot.session.recipe, "out").path
    found = prove(bench, slot, out)
    assert found.holds and found.against == "a new merge by its recipe"
    merged(bench, slot)
    found = prove(bench, slot, out)
    state = load_file(out / "model.safetensors")
    assert (found.tensors, found.weights) == (len(state), sum(t.numel() for t in state.values()))
    assert found.holds and found.against == "the live model" and found.total_bytes > 4 * found.weights
    assert proof_text(found) == (
        f"Proved: out was read again, and all {found.tensors} tensors ({found.weights:,} weights) equal the live "
        "model, bit for bit."
    )
    slot.session = change(slot.session, recipe_of(zoo, parameters={"scale": 0.31}))
    merged(bench, slot)
    found = prove(bench, slot, out)
    assert found.holds and found.against == "a new merge by its recipe"
    assert replace(prove_folder(out), seconds=0) == replace(found, seconds=0)


def test_one_bit_one_dtype_one_name_too_many_or_too_few(bench: Workbench) -> None:
    slot = bench.slot("tab")
    out = bench.export(slot.session.recipe, "out").path
    merged(bench, slot)
    state = load_file(out / "model.safetensors")
    name = "encoder.layer.1.output.dense.weight"
    flipped = state[name].clone()
    flipped.view(-1).view(torch.int32)[5] ^= 1

    def tried(what: str, tensor: Tensor | None) -> Proof:
        save_file(state, out / "model.safetensors", metadata={"format": "pt"})
        changed(out, what, tensor)
        found = prove(bench, slot, out)
        assert not found.holds and found.differing == 1 and found.first is not None
        assert found.first.tensor == what and found.first.folder == str(out)
        assert "Not proved: 1 tensors of out do not equal the live model" in proof_text(found)
        return found

    said = tried(name, flipped).first
    assert said is not None and said.what.startswith(f"1 of {flipped.numel()} weights differ; the first, at 5, is ")
    zero = tried("embeddings.LayerNorm.bias", state["embeddings.LayerNorm.bias"].half()).first
    assert zero is not None and zero.what == "it is float16 [16] and must be float32 [16]"
    assert "it is missing" in proof_text(tried(name, None))
    assert "nothing of that name was merged" in proof_text(tried("strange", torch.ones(2)))


def test_the_sign_of_zero_counts(bench: Workbench, zoo: Path) -> None:
    recipe = recipe_of(zoo, parameters={"scale": 0})
    out = bench.export(recipe, "out").path
    name = "encoder.layer.0.output.LayerNorm.bias"
    held = load_file(out / "model.safetensors")[name]
    changed(out, name, torch.where(held == held[0], -held, held))
    found = prove(bench, bench.slot("tab"), out)
    assert not found.holds and found.first is not None and found.first.tensor == name


def test_every_model_of_a_per_task_merge(bench: Workbench, zoo: Path) -> None:
    slot = bench.slot("tab")
    slot.session = change(slot.session, recipe_of(zoo, method="tall_masks", dtype="bfloat16"))
    out = bench.export(slot.session.recipe, "tall").path
    fresh = prove(bench, slot, out)
    merged(bench, slot)
    live = prove(bench, slot, out)
    assert (
        fresh.holds and live.holds and (fresh.against, live.against) == ("a new merge by its recipe", "the live model")
    )
    one, other = (out / t / "model.safetensors" for t in TASKS)
    other.write_bytes(one.read_bytes())
    found = prove(bench, slot, out)
    assert not found.holds and found.first is not None and found.first.folder.endswith(TASKS[1])


def test_other_models_under_the_same_names_are_not_taken_for_these(bench: Workbench, zoo: Path) -> None:
    """The slot holds the same setting of other models: the folder is compared with a merge of its own."""
    slot = bench.slot("tab")
    out = bench.export(slot.session.recipe, "out").path
    swapped = {TASKS[0]: {"checkpoint": str(zoo / TASKS[1])}, TASKS[1]: {"checkpoint": str(zoo / TASKS[0])}}
    bench.live(slot, recipe_of(zoo, tasks=swapped)).merge(recipe_of(zoo, tasks=swapped), cache=bench.store)
    found = prove(bench, slot, out)
    assert found.holds and found.against == "a new merge by its recipe"


def test_a_folder_that_nobody_exported_is_refused(bench: Workbench, zoo: Path, tmp_path: Path) -> None:
    for folder in (zoo / "base", tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match="must be a folder that this program exported"):
            prove(bench, bench.slot("tab"), folder)


def test_the_button_comes_with_an_export_and_says_what_it_found(bench: Workbench) -> None:
    import gradio as gr

    slot = bench.slot("tab")
    with gr.Blocks():
        place = ExportPlace(bench)
    assert place.offer(slot)[0]["visible"] is False
    assert "export the model first" in [*place.proved(slot)][-1]
    list(place.run(slot, "out", False))
    assert place.offer(slot)[0]["visible"] is True and place.offer(bench.slot("other"))[0]["visible"] is False
    waiting, said = place.proved(slot)
    assert "Reading" in waiting and "done" in said and "Proved: out was read again" in said
    changed(bench.exports / "out", "embeddings.LayerNorm.bias", torch.ones(16))
    assert 'class="explorer-note problem"' in [*place.proved(slot)][-1]
    list(place.run(slot, "../out", False))  # a failed export leaves nothing to prove
    assert place.offer(slot)[0]["visible"] is False
