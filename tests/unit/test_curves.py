"""Curves over depth: where tensors lie, the patterns that a curve becomes, and the curve that patterns say."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
import yaml

from explorer.blocks import block_value, compact
from explorer.compute.source import StateDictSource
from explorer.curves import LANES, blocks_of, curve_of, places_of, presets
from explorer.merging import merge_tensor, prepare
from explorer.recipe import Recipe, TaskEntry

IN_BERT = (
    "attention.self.query",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)
BERT = (
    "bert.embeddings.word_embeddings.weight", "bert.embeddings.LayerNorm.bias", "classifier.weight",
    *(f"bert.encoder.layer.{i}.{m}.{k}" for i in range(12) for m in IN_BERT for k in ("weight", "bias")),
)  # fmt: skip
IN_LLAMA = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm")
LLAMA = (
    "lm_head.weight", "model.embed_tokens.weight", "model.norm.weight",
    *(f"model.layers.{i}.{m}.weight" for i in range(32) for m in IN_LLAMA),
)  # fmt: skip
IN_T5 = ("0.SelfAttention.q", "0.layer_norm", "1.DenseReluDense.wi")
T5 = (
    "shared.weight", "encoder.final_layer_norm.weight", "decoder.final_layer_norm.weight",
    *(f"{s}.block.{i}.layer.{m}.weight" for s in ("encoder", "decoder") for i in range(2) for m in IN_T5),
)  # fmt: skip
FLAT_NAMES = ("w", "b")


def coefficients(value: Any, names: tuple[str, ...]) -> dict[str, float]:
    return {n: block_value(value, n, 0.3) for n in names}


def test_knots_follow_the_depth_of_the_model() -> None:
    assert [k.label for k in places_of(BERT).knots] == ["emb", *map(str, range(12)), "end"]
    assert [k.title for k in places_of(LLAMA).knots] == [
        "embeddings", "layers 0 to 9", "layers 10 to 20", "layers 21 to 31", "final",
    ]  # fmt: skip
    assert [k.label for k in places_of(T5).knots] == ["emb", "e0", "e1", "e end", "d0", "d1", "d end"]
    assert [k.label for k in places_of(FLAT_NAMES).knots] == ["rest"]
    assert places_of(BERT).holds("attention") == (False, *[True] * 12, False)
    assert places_of(BERT).holds("norm") == (*[True] * 13, False)


def test_presets_by_their_formulas() -> None:
    small = presets(places_of(tuple(n for n in BERT if not any(f".{i}." in n for i in range(3, 12)))))
    assert small == {
        "flat": (1, 1, 1, 1, 1), "ramp up": (0, 0.25, 0.5, 0.75, 1), "ramp down": (1, 0.75, 0.5, 0.25, 0),
        "middle only": (0, 0, 1, 0, 0), "LiNeS": (0.5, 0.5, 0.75, 1, 0.5),
    }  # fmt: skip
    assert presets(places_of(FLAT_NAMES))["middle only"] == (1,)
    assert presets(places_of(()))["flat"] == ()


@pytest.mark.parametrize("names", [BERT, LLAMA, T5, FLAT_NAMES], ids=["bert", "llama", "t5", "no depth"])
@pytest.mark.parametrize("scale", [0.3, 1 / 3, -0.7, 0.01, 2.0])
def test_a_curve_becomes_patterns_that_survive_yaml_and_come_back(names: tuple[str, ...], scale: float) -> None:
    places, draw = places_of(names), random.Random(1)
    named = [{lane: shape} for shape in presets(places).values() for lane in LANES]
    drawn = {lane: tuple(round(draw.uniform(0, 2), 2) for _ in places.knots) for lane in LANES}
    for curve in [*named, drawn]:
        made = blocks_of(scale, curve, places, -1, 2)
        task = TaskEntry("t", "m", {"scale": made})
        again = Recipe.from_yaml(Recipe("b", (task,)).to_yaml()).tasks[0].parameters["scale"]
        assert again == made and (isinstance(made, float) or list(again) == list(made))
        for name, lane, knot in places.tensors:
            multiplier = curve.get(lane, (1.0,) * 99)[knot]
            wanted = scale if multiplier == 1 else min(max(round(scale * multiplier, 6), -1), 2)
            assert block_value(again, name, 9.0) == wanted
        back = curve_of(again, 0.3, places, -1, 2)
        assert back[0] == scale and back[1] is not None
        assert coefficients(blocks_of(scale, back[1], places, -1, 2), names) == coefficients(made, names)


def test_a_curve_comes_back_as_it_was_drawn() -> None:
    places = places_of(BERT)
    shape = (1.0, *[i / 20 for i in range(12)], 1.0)
    for curve in ({"attention": shape}, {"attention": shape, "norm": (0.5, *shape[1:])}):
        assert curve_of(blocks_of(0.45, curve, places, -1, 2), 0.3, places, -1, 2) == (0.45, curve)
    assert curve_of(0.45, 0.3, places, -1, 2) == (0.45, {})
    assert blocks_of(0.45, {"mlp": (1.0,) * 14}, places, -1, 2) == 0.45
    assert blocks_of(0.0, {"mlp": shape}, places, -1, 2) == 0.0


def test_what_no_curve_gives_is_said_to_have_none() -> None:
    places = places_of(BERT)
    for value in (
        {"*query*": 0.1, "*.layer.3.attention.output.LayerNorm.bias": 0.4, "*": 0.3},  # two norms of one layer
        {"*.layer.3.*": 0.9, "*": 0.3},  # more than twice the coefficient
        {"*.layer.3.*": -0.1, "*": 0.3},  # below zero
        {"*.layer.3.*": 0.1, "*": 0.0},  # nothing to multiply
        {"*.layer.3.*": 0.1000000123, "*": 0.3},  # learned to more decimals than curves have
    ):
        assert curve_of(value, 0.3, places, -1, 2) == (list(value.values())[-1], None), value
    shown = curve_of({"*.layer.3.*": 0.15, "*": 0.3}, 0.3, places, -1, 2)[1]
    assert shown and set(shown) == {"attention", "mlp", "norm"} and shown["mlp"][4] == 0.5
    assert curve_of({"*.layer.3.*": 0.6}, 0.3, places, -1, 2)[1], "what nothing matches takes the default"


def test_patterns_are_few_and_never_reach_too_far() -> None:
    values = {n: 0.5 if ".layer.1." in n else 0.1 if "embeddings" in n else 0.3 for n in BERT}
    assert compact(values, 0.3) == {"bert.embeddings.*": 0.1, "bert.encoder.layer.1.*": 0.5, "*": 0.3}
    odd = {"a[0].w": 0.1, "a0.w": 0.5, "a.b": 0.5, "a.b.c": 0.2, "a*": 0.5, "x?": 0.3}
    for some in (odd, {n: v for n, v in odd.items() if n.startswith("a.")}, {"a.b": 0.2, "a.b.c": 0.2, "x": 0.5}, {}):
        assert coefficients(compact(some, 0.5), tuple(some)) == some
    learned = {n: 0.1 + i / 1000 for i, n in enumerate(BERT)}
    assert coefficients(compact(learned, 0.3), BERT) == learned and len(compact(learned, 0.3)) == len(BERT) + 1


def test_a_curve_reaches_the_weights() -> None:
    names = ("embeddings.weight", "encoder.layer.0.attention.self.query.weight", "encoder.layer.1.output.dense.weight")
    draw = torch.Generator().manual_seed(1)
    base = {n: torch.randn(4, 3, generator=draw) for n in names}
    task = {n: v + torch.randn(4, 3, generator=draw) for n, v in base.items()}
    models = StateDictSource(base, {"a": task})
    made = blocks_of(0.6, {"attention": (1, 0.5, 1), "rest": (0.25, 1, 1)}, places_of(names), -1, 2)
    recipe = Recipe("b", (TaskEntry("a", "a", {"scale": made}),))
    read = Recipe.from_dict(yaml.safe_load(replace(recipe, seed=1).to_yaml()))
    ready = prepare("task_arithmetic", models, read.values())
    for name, scale in zip(names, (0.15, 0.3, 0.6), strict=True):
        merged = merge_tensor(ready, models, name)
        torch.testing.assert_close(merged, base[name] + scale * (task[name] - base[name]))
