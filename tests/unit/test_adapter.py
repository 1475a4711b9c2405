"""PEFT adapters as tasks: the exact ΔW, names, refusals, and that they merge like any other checkpoint."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapter_zoo import ALPHA, RANK, Pair, exact, pair, save_adapter
from safetensors.torch import save_file
from torch import Tensor

from explorer.checkpoints import find_checkpoints, open_checkpoint
from explorer.checkpoints.adapted import AdaptedCheckpoint, put_on
from explorer.checkpoints.align import align
from explorer.checkpoints.source import CheckpointSource
from explorer.compute.arena import Arena, arena_bytes
from explorer.compute.select import scan
from explorer.compute.source import Chunk, deltas, numel
from explorer.errors import AlignmentError, CheckpointError, InputError
from explorer.inspection import inspect_models
from explorer.merging import merge_tensor, prepare
from explorer.merging._inputs import ordered
from explorer.opening import open_models
from explorer.recipe import Recipe

OUT, IN = 6, 10
Q, V = "encoder.layer.0.query", "encoder.layer.0.value"


def base_state(prefix: str = "", dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {f"{Q}.weight": (OUT, IN), f"{V}.weight": (8, 8), f"{V}.bias": (8,), "norm.weight": (4,)}
    return {prefix + n: torch.randn(s, generator=generator).to(dtype) for n, s in shapes.items()}


def save_base(folder: Path, state: dict[str, Tensor] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(base_state() if state is None else state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["Tiny"]}))
    return folder


def adapted(base: Path, adapter: Path) -> AdaptedCheckpoint:
    found = put_on(open_checkpoint(base), open_checkpoint(adapter))
    assert isinstance(found, AdaptedCheckpoint)
    return found


def source_of(base: Path, adapter: Path) -> CheckpointSource:
    alignment = align(open_checkpoint(base), {"a": open_checkpoint(adapter)})
    return CheckpointSource(alignment.base, alignment.tasks, alignment.require())


def whole(source: Any, name: str) -> Tensor:
    return deltas(source, Chunk(name, 0, numel(source, name)))[0].view(source.shape(name))


def assert_rounded(got: Tensor, want: np.ndarray) -> None:
    """Equal to the float64 values rounded once to float32."""
    assert got.dtype == torch.float32
    np.testing.assert_array_equal(got.numpy(), want.astype(np.float32))


TWO: dict[str, Pair] = {Q: pair(1, OUT, IN), V: pair(2, 8, 8)}


@pytest.mark.parametrize("segment", ["", ".default"])
def test_task_vector_is_exactly_alpha_over_r_times_b_a(tmp_path: Path, segment: str) -> None:
    base = save_base(tmp_path / "base")
    source = source_of(base, save_adapter(tmp_path / "a", TWO, segment=segment))
    assert_rounded(whole(source, f"{Q}.weight"), exact(TWO[Q], ALPHA / RANK))
    assert_rounded(whole(source, f"{V}.weight"), exact(TWO[V], 4.0))
    for name in ("norm.weight", f"{V}.bias"):
        assert not whole(source, name).any() and not source.holds_delta(0, name)


def test_the_difference_of_rounded_weights_would_be_another(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", base_state(dtype=torch.bfloat16))
    source = source_of(base, save_adapter(tmp_path / "a", TWO))
    name, size = f"{Q}.weight", OUT * IN
    weights = source.base(name, 0, size).float()
    rounded = (weights + whole(source, name).view(-1)) - weights
    assert not torch.equal(rounded, whole(source, name).view(-1))
    report = align(open_checkpoint(base), {"a": open_checkpoint(tmp_path / "a")}).reports["a"]
    assert report.different_dtype == () and report.frozen == (f"{V}.bias", "norm.weight")
    assert_rounded(whole(source, name), exact(TWO[Q]))


def test_rank_stabilised_scaling(tmp_path: Path) -> None:
    source = source_of(save_base(tmp_path / "base"), save_adapter(tmp_path / "a", TWO, use_rslora=True))
    assert_rounded(whole(source, f"{Q}.weight"), exact(TWO[Q], ALPHA / math.sqrt(RANK)))


@pytest.mark.parametrize(
    "pattern", ["value", V, r"encoder\.layer\.\d+\.value", f"^{V}", r"(?:encoder\.)?layer\..*\.v.*"]
)
def test_rank_and_alpha_patterns(tmp_path: Path, pattern: str) -> None:
    pairs = {Q: TWO[Q], V: pair(3, 8, 8, rank=5)}
    folder = save_adapter(tmp_path / "a", pairs, rank_pattern={pattern: 5}, alpha_pattern={pattern: 7, "query": 9})
    source = source_of(save_base(tmp_path / "base"), folder)
    assert_rounded(whole(source, f"{V}.weight"), exact(pairs[V], 7 / 5))
    assert_rounded(whole(source, f"{Q}.weight"), exact(pairs[Q], 9 / RANK))
    assert open_checkpoint(folder).format == "PEFT adapter, r=3 to 5, alpha=12"


def test_float64_base_gets_a_float64_task_vector(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", base_state(dtype=torch.float64))
    got = whole(source_of(base, save_adapter(tmp_path / "a", TWO)), f"{Q}.weight")
    assert got.dtype == torch.float64
    np.testing.assert_allclose(got.numpy(), exact(TWO[Q]), rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize("flag", [True, False])
def test_weights_stored_as_in_by_out(tmp_path: Path, flag: bool) -> None:
    """Conv1D of GPT-2: the shape decides where it can, fan_in_fan_out where the matrix is square."""
    state = {"h.0.c_attn.weight": torch.zeros(IN, OUT), "h.0.c_proj.weight": torch.zeros(8, 8)}
    pairs = {"h.0.c_attn": TWO[Q], "h.0.c_proj": TWO[V]}
    source = source_of(save_base(tmp_path / "base", state), save_adapter(tmp_path / "a", pairs, fan_in_fan_out=flag))
    assert_rounded(whole(source, "h.0.c_attn.weight"), exact(TWO[Q]).T)
    assert_rounded(whole(source, "h.0.c_proj.weight"), exact(TWO[V]).T if flag else exact(TWO[V]))


def test_embedding_factors(tmp_path: Path) -> None:
    state = {"embed.weight": torch.zeros(20, 4), "norm.weight": torch.ones(4)}
    factors = pair(4, 4, 20)  # A [r, vocabulary], B [dimension, r]
    folder = save_adapter(tmp_path / "a", {"embed": factors}, embeddings=("embed",))
    assert_rounded(whole(source_of(save_base(tmp_path / "base", state), folder), "embed.weight"), exact(factors).T)


def test_convolution_factors(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(5)
    a, b = torch.randn(RANK, 2, 3, 3, generator=generator), torch.randn(5, RANK, 1, 1, generator=generator)
    folder = save_adapter(tmp_path / "a", {"conv": (a, b)})
    source = source_of(save_base(tmp_path / "base", {"conv.weight": torch.zeros(5, 2, 3, 3)}), folder)
    want = 4 * torch.nn.functional.conv2d(a.double().transpose(0, 1), b.double()).transpose(0, 1)
    np.testing.assert_allclose(whole(source, "conv.weight").numpy(), want.numpy(), rtol=2e-7, atol=1e-7)


@pytest.mark.parametrize("transposed", [False, True])
def test_whole_is_split_bit_for_bit(tmp_path: Path, transposed: bool) -> None:
    rows, columns = 300, 257
    a, b = pair(6, rows, columns, rank=16)
    shape = (columns, rows) if transposed else (rows, columns)
    base = save_base(tmp_path / "base", {"x.weight": torch.zeros(shape)})
    folder = save_adapter(tmp_path / "a", {"x": (a, b)}, r=16, fan_in_fan_out=transposed)
    source = source_of(base, folder)
    total = rows * columns
    expected = whole(source, "x.weight").view(-1)
    for step in (97, 4096, 33_000, 70_000):
        pieces = [source.task(0, "x.weight", s, min(s + step, total)) for s in range(0, total, step)]
        assert torch.equal(torch.cat(pieces).view(torch.int32), expected.view(torch.int32)), step
    want = exact((a, b), ALPHA / 16)
    np.testing.assert_allclose(expected.view(shape).numpy(), want.T if transposed else want, rtol=1e-7, atol=0)
    assert source.task(0, "x.weight", 5, 5).shape == (0,)


def test_all_sources_agree(tmp_path: Path) -> None:
    alignment = align(
        open_checkpoint(save_base(tmp_path / "base")),
        {
            "dense": open_checkpoint(save_base(tmp_path / "dense", {n: t + 1 for n, t in base_state().items()})),
            "lora": open_checkpoint(save_adapter(tmp_path / "a", TWO)),
        },
    )
    source = CheckpointSource(alignment.base, alignment.tasks, alignment.require())
    arena = Arena(source)
    base_bytes = sum(t.nbytes for t in base_state().values())
    # Base and dense task, and of the adapter only its two dense updates.
    assert arena_bytes(source) == 2 * base_bytes + 4 * (OUT * IN + 64)
    assert arena_bytes(source) <= arena.resident_bytes <= arena_bytes(source) + 3 * 4 * 64
    turned = ordered(source, (1, 0))
    for name in source.names:
        chunk = Chunk(name, 0, numel(source, name))
        assert torch.equal(deltas(arena, chunk), deltas(source, chunk))
        assert torch.equal(deltas(turned, chunk), deltas(source, chunk).flip(0))
        held = [(s.holds_delta(0, name), s.holds_delta(1, name)) for s in (source, arena)]
        touched = name in (f"{Q}.weight", f"{V}.weight")
        assert held[0] == held[1] == (False, touched)
        for s in (source, arena):
            assert (s.unchanged(0, name), s.unchanged(1, name), turned.unchanged(0, name)) == (
                (False, not touched, not touched)
            )
        assert torch.equal(scan(arena, 1, [name]).delta(chunk), deltas(source, chunk)[1])


@pytest.mark.parametrize("base_prefix", ["bert.", "model.bert."])
@pytest.mark.parametrize("adapter_prefix", ["", "bert."])
def test_prefixes_are_resolved(tmp_path: Path, base_prefix: str, adapter_prefix: str) -> None:
    base = save_base(tmp_path / "base", base_state(base_prefix))
    folder = save_adapter(tmp_path / "a", {adapter_prefix + m: p for m, p in TWO.items()})
    assert_rounded(whole(source_of(base, folder), f"{base_prefix}{Q}.weight"), exact(TWO[Q]))


def test_a_prefix_the_base_lacks_is_taken_away(tmp_path: Path) -> None:
    folder = save_adapter(tmp_path / "a", {f"base.bert.{m}": p for m, p in TWO.items()})
    assert_rounded(whole(source_of(save_base(tmp_path / "base"), folder), f"{Q}.weight"), exact(TWO[Q]))


def problems(base: Path, adapter: Path) -> list[str]:
    return align(open_checkpoint(base), {"a": open_checkpoint(adapter)}).problems()


def test_two_prefixes_that_fit_alike_are_a_problem(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", {**base_state("text."), **base_state("vision.")})
    assert problems(base, save_adapter(tmp_path / "a", TWO)) == [
        "task a: the adapter must belong to the base, Tiny; got names that fit it with the prefixes 'text.' and "
        "'vision.' alike. Save the base from the model class the adapter was trained on."
    ]


def test_modules_that_the_base_lacks_are_named(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    folder = save_adapter(tmp_path / "a", {**TWO, "encoder.layer.9.query": pair(9, OUT, IN)})
    assert problems(base, folder) == [
        "task a: tensor encoder.layer.9.query.weight, which the adapter changes, must be in the base; got none there. "
        "Put the adapter on somebody/tiny. Policy keep_base leaves this tensor out."
    ]
    alignment = align(open_checkpoint(base), {"a": open_checkpoint(folder)})
    assert alignment.reports["a"].extra == ("encoder.layer.9.query.weight",)
    assert alignment.reports["a"].missing == () and f"{Q}.weight" in alignment.require("keep_base")
    assert {r["tensor"] for r in alignment.rows()} >= {"encoder.layer.9.query.weight"}


def test_an_adapter_of_another_model_fits_nowhere_under_any_policy(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    alignment = align(open_checkpoint(base), {"a": open_checkpoint(save_adapter(tmp_path / "a", {"x.y": TWO[Q]}))})
    with pytest.raises(AlignmentError) as caught:
        alignment.require("keep_base")
    assert str(caught.value) == (
        "task a: the adapter must belong to the base, Tiny; got none of its 1 modules in it, such as x.y. "
        "Put it on somebody/tiny."
    )


def test_another_shape_is_a_problem(tmp_path: Path) -> None:
    (found,) = problems(save_base(tmp_path / "base"), save_adapter(tmp_path / "a", {Q: pair(1, OUT, IN + 1)}))
    assert found.startswith(f"task a: tensor {Q}.weight must have the base's shape [6, 10]; got [6, 11].")


def test_whole_tensors_are_weights_of_the_task(tmp_path: Path) -> None:
    saved = torch.full((4,), 3.0)
    for number, name in enumerate(("norm.weight", "norm.modules_to_save.default.weight")):
        folder = save_adapter(
            tmp_path / f"a{number}", TWO, extra={f"base_model.model.{name}": saved}, modules_to_save=["norm"]
        )
        source = source_of(save_base(tmp_path / "base"), folder)
        assert torch.equal(whole(source, "norm.weight"), saved - base_state()["norm.weight"])
        assert not source.holds_delta(0, "norm.weight")
    strange = {"base_model.model.head.bias": torch.zeros(2)}
    folder = save_adapter(tmp_path / "b", TWO, extra=strange, modules_to_save=["head"])
    assert "tensor head.bias must be in the base too" in problems(tmp_path / "base", folder)[0]


@pytest.mark.parametrize("shift", [0.0, 0.25])
def test_an_embedding_whose_base_is_saved_beside_its_factors(tmp_path: Path, shift: float) -> None:
    base = torch.randn(20, 4, generator=torch.Generator().manual_seed(3))
    factors = pair(4, 4, 20)
    folder = save_adapter(
        tmp_path / "a",
        {"embed_tokens": factors},
        embeddings=("embed_tokens",),
        extra={"base_model.model.embed_tokens.base_layer.weight": base + shift},
    )
    source = source_of(save_base(tmp_path / "base", {"embed_tokens.weight": base}), folder)
    got = whole(source, "embed_tokens.weight")
    if shift == 0:
        assert_rounded(got, exact(factors).T)
    np.testing.assert_allclose(got.numpy(), exact(factors).T + shift, rtol=1e-5, atol=1e-6)


MERGE_FIRST = "Merge it into its base (merge_and_unload) and save the whole model; that can be a task."
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "dora": ({"use_dora": True}, "an adapter must be plain LoRA; DoRA also rescales the base's weights; got use_dora"),
    "kind": ({"peft_type": "IA3"}, f"a PEFT adapter must be a LoRA (peft_type LORA); got 'IA3'. {MERGE_FIRST}"),
    "no kind": ({"peft_type": None}, "a PEFT adapter must be a LoRA (peft_type LORA); got None."),
    "start": (
        {"init_lora_weights": "pissa_niter_4"},
        "an adapter must leave its base as it is; this initialisation changes the base's weights; got "
        "init_lora_weights 'pissa_niter_4'. Save it again with path_initial_model_for_weight_conversion, or merge it "
        "into its base (merge_and_unload) and save the whole model.",
    ),
    "layers": (
        {"layer_replication": [[0, 2]]},
        "an adapter must be plain LoRA, without layer_replication; got [[0, 2]]",
    ),
    "rank": ({"r": 4}, f"module {Q} must have the rank 4 that adapter_config.json states; got 3."),
    "alpha": ({"lora_alpha": "x"}, "adapter_config.json: lora_alpha must be a finite number; got 'x'."),
    "r": ({"r": 0}, "adapter_config.json: r must be a whole number of at least 1; got 0."),
    "pattern": ({"rank_pattern": {"(a+)+$": 4}}, "rank_pattern must name modules, or patterns without repeated groups"),
    "bad pattern": (
        {"alpha_pattern": {"(": 4}},
        "alpha_pattern must name modules, or patterns without repeated groups",
    ),
    "table": ({"alpha_pattern": {"a": "b"}}, "alpha_pattern must give numbers by module; got {'a': 'b'}."),
    "saved": ({"modules_to_save": "head"}, "modules_to_save must list names of modules; got 'head'."),
}


@pytest.mark.parametrize("what", REFUSED)
def test_settings_that_are_refused(tmp_path: Path, what: str) -> None:
    config, message = REFUSED[what]
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(save_adapter(tmp_path / "a", TWO, **config))
    assert message in str(caught.value) and str(tmp_path / "a") in str(caught.value)


STRANGE: dict[str, tuple[str, str]] = {
    "dora": (f"{Q}.lora_magnitude_vector.weight", "DoRA also rescales the base's weights; got tensor"),
    "bias": (f"{Q}.bias", "an adapter must train no biases (bias none); got tensor"),
    "bias of B": (f"{Q}.lora_B.bias", "an adapter must train no biases (bias none); got tensor"),
    "tokens": ("embed.token_adapter.trainable_tokens_delta", "must hold only lora_A, lora_B and modules_to_save"),
    "half": ("other.lora_A.weight", "module other must have one lora_A and one lora_B; got 1 and 0."),
    "twice": (f"{Q}.lora_A.second.weight", f"module {Q} must have one lora_A and one lora_B; got 2 and 1."),
}


@pytest.mark.parametrize("what", STRANGE)
def test_tensors_that_are_refused(tmp_path: Path, what: str) -> None:
    name, message = STRANGE[what]
    extra = {f"base_model.model.{name}": torch.zeros(3, 10)}
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(save_adapter(tmp_path / "a", TWO, extra=extra, bias="lora_only"))
    assert message in str(caught.value)


def test_a_base_must_be_whole(tmp_path: Path) -> None:
    folder = save_adapter(tmp_path / "a", TWO)
    with pytest.raises(InputError) as caught:
        inspect_models(folder, {"a": folder})
    assert str(caught.value) == (
        f"{folder}: a base must hold whole weights; got a PEFT adapter. "
        "Give somebody/tiny as the base; the adapter can be a task."
    )


def test_inspect_says_what_the_adapter_is(tmp_path: Path) -> None:
    found = inspect_models(save_base(tmp_path / "base"), {"a": save_adapter(tmp_path / "a", TWO)})
    row = found.models.iloc[1]
    assert row["format"] == "PEFT adapter, r=3, alpha=12" and row["tensors"] == 4
    assert row["parameters"] == RANK * (OUT + IN + 16) and row["path"] == str(tmp_path / "a")
    difference = found.differences.iloc[0]
    assert (difference["missing"], difference["extra"], difference["frozen"]) == (0, 0, 2)
    assert found.problems == () and found.warnings == () and found.mergeable == 4


def test_an_untrained_adapter_adds_nothing(tmp_path: Path) -> None:
    a, b = TWO[Q]
    found = inspect_models(save_base(tmp_path / "base"), {"a": save_adapter(tmp_path / "a", {Q: (a, b * 0)})})
    assert found.differences.iloc[0]["frozen"] == 4 and "its task vector is zero" in found.warnings[0]


def test_adapter_folders_are_found_and_handles_travel(tmp_path: Path) -> None:
    base, folder = save_base(tmp_path / "base"), save_adapter(tmp_path / "deep" / "a", TWO)
    save_file({"x": torch.zeros(1)}, tmp_path / "deep" / "adapter_model.safetensors")  # no settings: none at all
    assert find_checkpoints(tmp_path) == [base, folder]
    task = adapted(base, folder)
    again = pickle.loads(pickle.dumps(task))
    assert again == task and torch.equal(again.read(f"{Q}.weight"), task.read(f"{Q}.weight"))
    assert open_checkpoint(folder / "adapter_model.safetensors").format.startswith("PEFT adapter")


def test_other_settings_are_another_adapter(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    first = source_of(base, save_adapter(tmp_path / "a", TWO))
    second = source_of(base, save_adapter(tmp_path / "b", TWO, lora_alpha=13))
    assert first.digest != second.digest


def test_weights_of_the_expert_are_base_plus_update(tmp_path: Path) -> None:
    task = adapted(save_base(tmp_path / "base"), save_adapter(tmp_path / "a", TWO))
    base = base_state()
    assert_rounded(task.read(f"{Q}.weight") - 0, (base[f"{Q}.weight"] + torch.tensor(exact(TWO[Q])).float()).numpy())
    assert torch.equal(task.read("norm.weight"), base["norm.weight"])
    assert torch.equal(task.read_flat(f"{Q}.weight", 7, 31), task.read(f"{Q}.weight").view(-1)[7:31])


def test_merging_dense_and_adapter_tasks(tmp_path: Path) -> None:
    dense = {n: t + 0.5 for n, t in base_state().items()}
    recipe = Recipe.from_dict(
        {
            "base": str(save_base(tmp_path / "base")),
            "tasks": {
                "dense": {"checkpoint": str(save_base(tmp_path / "dense", dense))},
                "lora": {"checkpoint": str(save_adapter(tmp_path / "a", TWO))},
            },
            "method": "task_arithmetic",
            "parameters": {"scale": 0.5},
        }
    )
    source = open_models(recipe).source
    merged = merge_tensor(prepare("task_arithmetic", source, recipe.values()), source, f"{Q}.weight")
    base = base_state()[f"{Q}.weight"].double().numpy()
    want = base + 0.5 * 0.5 + 0.5 * exact(TWO[Q])
    assert isinstance(merged, Tensor)
    np.testing.assert_allclose(merged.numpy(), want, rtol=1e-6, atol=1e-6)
