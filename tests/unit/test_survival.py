"""What rounding leaves of the task vectors: the formula, its laws, and where it is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from workbench_zoo import TASKS, make_bench, make_models, recipe_of, write_recipe

from explorer.cli import main
from explorer.compute.source import StateDictSource
from explorer.errors import Cancelled, InputError
from explorer.executor import CancelToken, Progress, SerialExecutor, ThreadExecutor
from explorer.merging import merge_tensor, prepare, survival, survival_table, tensor_sums
from explorer.opening import open_models
from explorer.results import SURVIVAL, Result
from explorer.rounding import survival_shown
from explorer.session import Session
from explorer.streaming import stream
from explorer.survival import share_text, survival_lines, survival_text

SHAPES = {"a.weight": (300, 200), "b.bias": (70,), "scalar": (), "empty": (0, 4), "frozen": (50, 3)}
NAMES = ("zebra", "ant", "mole")  # not in name order, which is the order the kernel sees


def models(dtype: torch.dtype = torch.float32, size: float = 1e-3) -> tuple[dict[str, Tensor], dict[str, Any]]:
    generator = torch.Generator().manual_seed(3)
    draw = lambda shape, std: torch.randn(shape, generator=generator) * std  # noqa: E731
    base = {n: draw(s, 0.05).to(dtype) for n, s in SHAPES.items()}
    move = lambda n, t, k: t if n == "frozen" else (t.float() + draw(t.shape, size * k)).to(dtype)  # noqa: E731
    return base, {name: {n: move(n, t, k) for n, t in base.items()} for k, name in enumerate(NAMES, 1)}


def measured(
    base: dict[str, Tensor], tasks: dict[str, Any], dtype: str | None, method: str = "task_arithmetic", **values: Any
) -> Result:
    source = StateDictSource(base, tasks)
    return survival(prepare(method, source, values), source, getattr(torch, dtype) if dtype else None)


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values rounded to a dtype and back, by numpy alone; bfloat16 is the upper 16 bits, ties to even."""
    if dtype != "bfloat16":
        return values.astype(dtype).astype(np.float64)
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    kept = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return kept.astype(np.uint32).view(np.float32).astype(np.float64)


def restated(base: dict[str, Tensor], weights: dict[str, np.ndarray], dtype: str) -> tuple[float, float]:
    """(survives, rounded away) of merged weights beside the base, in float64."""
    origin = np.concatenate([base[n].float().numpy().ravel() for n in sorted(base)])
    merged = np.concatenate([weights[n].ravel() for n in sorted(base)])
    change = merged.astype(np.float64) - origin
    left = rounded(merged, dtype) - rounded(origin, dtype)
    changed = change != 0
    return 1 - np.linalg.norm(left - change) / np.linalg.norm(change), float((left[changed] == 0).mean())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_formula_for_the_merge_and_for_every_task_alone(dtype: str) -> None:
    base, tasks = models()
    scales = {"zebra": 0.3, "ant": -0.2, "mole": 1.5}
    table = measured(base, tasks, dtype, scale=scales).table
    deltas = {t: {n: (sd[n] - base[n]).numpy() for n in base} for t, sd in tasks.items()}
    summed = {n: sum(np.float32(scales[t]) * deltas[t][n] for t in sorted(NAMES)) + base[n].numpy() for n in base}
    alone = {t: {n: np.float32(scales[t]) * deltas[t][n] + base[n].numpy() for n in base} for t in NAMES}
    as_float32 = [{n: np.asarray(v, np.float32) for n, v in w.items()} for w in (summed, *alone.values())]
    expected = [restated(base, weights, dtype) for weights in as_float32]
    assert table["task"].tolist() == ["", *NAMES] and table["scale"].tolist()[1:] == list(scales.values())
    # The last bit of a float32 sum may differ from the kernel's: one entry in a thousand then rounds otherwise.
    np.testing.assert_allclose(table["survives"], [e[0] for e in expected], atol=2e-4)
    np.testing.assert_allclose(table["rounded_away"], [e[1] for e in expected], atol=2e-3)
    assert table["changed"].tolist()[1] <= 300 * 200 + 70 + 1
    assert 0.2 < table["survives"].iloc[0] < 0.999


@pytest.mark.parametrize("stored", ["float32", "float64", None])
def test_float32_from_float32_loses_nothing(stored: str | None) -> None:
    result = measured(*models(), stored)
    assert (result.table["survives"] == 1).all() and (result.table["rounded_away"] == 0).all()
    assert survival_text(result) == f"Stored as {stored or 'float32'}, all of the merged task vector survives."


def test_float64_inputs_lose_a_little_in_float32() -> None:
    base, tasks = models(torch.float64)
    result = measured(base, tasks, "float32")
    assert (result.table["survives"] < 1).all() and (result.table["survives"] > 0.999).all()
    assert "> 99.9 %" in survival_text(result)


def test_bfloat16_costs_about_four_percent_where_the_field_measured_it() -> None:
    """Deltas N(0, 0.002) at 40 % of the entries of bfloat16 weights N(0, 0.02), four tasks at 0.3."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda std: std * torch.randn(600, 1000, generator=generator)  # noqa: E731
    base = draw(0.02).bfloat16()
    moved = lambda: base.float() + draw(0.002) * (torch.rand(base.shape, generator=generator) < 0.4)  # noqa: E731
    tasks = {f"t{i}": {"w": moved().bfloat16()} for i in range(4)}
    survives = measured({"w": base}, tasks, None, scale=0.3).table["survives"].iloc[0]
    assert 0.945 < survives < 0.97


def test_changes_below_half_a_step_are_gone() -> None:
    base = {"w": torch.full((1000,), 1.0, dtype=torch.bfloat16)}
    tasks = {"t": {"w": torch.full((1000,), 1.0 + 2**-7).bfloat16()}}
    row = measured(base, tasks, None, scale=0.3).table.iloc[0]
    assert (row["survives"], row["rounded_away"], row["changed"]) == (0, 1, 1000)
    whole = measured(base, tasks, None, scale=1).table.iloc[0]
    assert (whole["survives"], whole["rounded_away"]) == (1, 0)


def test_rounding_of_weights_that_nobody_changed_does_not_count() -> None:
    generator = torch.Generator().manual_seed(1)
    base = {"w": torch.randn(5000, generator=generator)}  # float32: stored as bfloat16, every entry is rounded
    tuned = base["w"].clone()
    tuned[:10] += 4.0
    survives = measured(base, {"t": {"w": tuned}}, "bfloat16", scale=1).table["survives"].iloc[0]
    assert survives > 0.99


def test_a_vector_of_zeros_has_nothing_to_lose() -> None:
    base, tasks = models()
    result = measured(base, tasks, "bfloat16", scale=0)
    assert result.table["survives"].isna().all() and (result.table["changed"] == 0).all()
    assert "the merged task vector is zero" in survival_text(result)
    one = measured(base, {**tasks, "same": base}, "bfloat16")
    assert "same" not in survival_text(one) and "| same, alone | 0.3 | – | – |" in survival_lines(one)


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "tall_masks", "model_stock"])
def test_threads_and_the_exporter_give_the_same_bits(method: str) -> None:
    source = StateDictSource(*models(torch.float16))
    prepared = prepare(method, source)
    serial, threads = (survival(prepared, source, torch.bfloat16, executor=e) for e in (None, ThreadExecutor(3)))
    sums = [
        tensor_sums(prepared, source, n, merge_tensor(prepared, source, n, torch.float32), torch.bfloat16)
        for n in source.names
    ]
    written = survival_table(prepared, source, sums, torch.bfloat16)
    assert serial.table.equals(threads.table) and serial.table.equals(written.table)
    assert serial.columns == SURVIVAL and serial.provenance["stored_as"] == {"bfloat16": 60221}
    several = method == "tall_masks"
    assert serial.table["part"].tolist() == ["merged"] * (3 if several else 1) + ["alone"] * 3
    assert ("the least of 3 models" in survival_text(serial)) == several


def test_mixed_dtypes_are_named() -> None:
    base, tasks = models()
    half = {**base, "frozen": base["frozen"].half()}
    assert survival_text(measured(half, tasks, None)).startswith("Stored as float32 and float16, ")


def test_progress_and_cancel() -> None:
    source = StateDictSource(*models())
    seen: list[Progress] = []
    survival(prepare("ties", source), source, executor=SerialExecutor(), progress=seen.append)
    assert seen[-1].fraction == 1 and seen[-1].label == "rounding"
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        survival(prepare("ties", source), source, cancel=token)


def test_a_merge_that_does_not_fit_is_refused_and_a_task_alone_loses_everything() -> None:
    base = {"w": torch.zeros(8)}
    tasks = {"up": {"w": torch.full((8,), 9e4)}, "down": {"w": torch.full((8,), -8e4)}}
    table = measured(base, tasks, "float16", scale=1).table
    assert table["survives"].tolist() == [1 - abs(np.float64(np.float16(1e4)) - 1e4) / 1e4, 0, 0]
    with pytest.raises(InputError, match="merged weights must fit float16"):
        measured(base, {"up": tasks["up"]}, "float16", scale=1)


def test_shares_in_words() -> None:
    said = {0.0: "0 %", 1.0: "100 %", 0.99995: "> 99.9 %", 0.0002: "< 0.1 %", 0.9576: "95.8 %", float("nan"): "–"}
    assert {v: share_text(v) for v in said} == said


# ---------------------------------------------------------------- where it is said


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp("zoo"))


def test_merge_prints_it_and_the_card_holds_it(zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = recipe_of(zoo, dtype="bfloat16")
    file = write_recipe(tmp_path / "r.yaml", recipe)
    assert main(["merge", str(file), str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert main(["merge", str(file), str(tmp_path / "two"), "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    source = open_models(recipe).source
    result = survival(prepare(recipe.method, source, recipe.values()), source, torch.bfloat16)
    assert survival_text(result) in printed and "Stored as bfloat16, 9" in printed
    assert plain["survival"]["table"] == result.to_json()["table"] and plain["path"] == str(tmp_path / "two")
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "\n".join(survival_lines(result)) in card
    assert all(f"| {t}, alone | 0.3 | " in card for t in TASKS)


def test_each_model_of_a_per_task_merge_says_its_own(zoo: Path, tmp_path: Path) -> None:
    bench = make_bench(zoo, tmp_path / "exports")
    done = bench.export(recipe_of(zoo, method="tall_masks", dtype="bfloat16"), "tall")
    for task, folder in zip(TASKS, done.folders, strict=True):
        card = (folder / "README.md").read_text("utf-8")
        assert "\n".join(survival_lines(done.survival, task)) in card
        assert f"| **merged, {task}** |" in card and card.count(", alone |") == 1


def test_the_page_says_it_below_the_dtype_and_after_an_export(zoo: Path, tmp_path: Path) -> None:
    import gradio as gr

    from viz.panels.export import ExportPlace

    bench = make_bench(zoo, tmp_path / "exports", start=recipe_of(zoo, dtype="bfloat16"))
    slot = bench.slot("tab")
    with gr.Blocks():
        place = ExportPlace(bench)
    assert place.left(slot) == ""
    list(stream(bench, slot, slot.session.recipe, slot.newest()))
    shown = survival_shown(bench, slot)
    assert shown is not None and survival_text(shown) in place.left(slot)
    *_, (note, _) = place.run(slot, "out", False)
    assert "Wrote " in note and survival_text(shown) in note


def test_the_page_measures_once_the_scores_are_complete_and_only_what_is_cheap(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import explorer.rounding

    recipe = recipe_of(zoo, dtype="bfloat16")
    bench = make_bench(zoo, tmp_path / "exports", start=recipe)
    slot = bench.slot("tab")
    assert survival_shown(bench, slot) is None
    updates = stream(bench, slot, recipe, slot.newest())
    next(updates)
    assert survival_shown(bench, slot) is None
    list(updates)
    shown = survival_shown(bench, slot)
    assert shown is not None and survival_shown(bench, slot) is shown
    assert shown.table.equals(bench.export(recipe, "out").survival.table)
    slot.session = Session(recipe_of(zoo, dtype="float16"))
    assert survival_shown(bench, slot) is None
    slot.session = Session(recipe)
    monkeypatch.setattr(explorer.rounding, "CHEAP_ELEMENTS", 10)
    assert survival_shown(bench, slot) is None


def test_a_scale_per_tensor_counts_as_one_number_where_it_says_one_number() -> None:
    base, tasks = models()
    blocks = {t: {"a.*": 0.5, "*": 0.5} for t in NAMES}
    plain, several = (measured(base, tasks, "bfloat16", scale=s).table for s in (0.5, blocks))
    pd.testing.assert_frame_equal(plain.drop(columns="scale"), several.drop(columns="scale"))
    assert several["scale"].isna().all() and plain["scale"].notna().sum() == len(NAMES)
