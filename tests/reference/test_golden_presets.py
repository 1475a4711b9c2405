"""Presets named after published code give what that code gave, at the scale of the case."""

from __future__ import annotations

import golden_cases as golden
import pytest
import torch

from explorer.compute.source import StateDictSource
from explorer.merging import merge_tensor, prepare
from explorer.merging.presets import PRESETS
from explorer.recipe import Recipe, TaskEntry

WEIGHTS = {
    "ties.authors.T4.k20.mean": ("ties_authors", {}),
    "ties.authors.T8.k20.sum.s0.3": ("ties_fusionbench", {}),
    "mk.ties.T4.d0.5": ("ties_mergekit", {}),
    "breadcrumbs.authors.T4.keep0.15.rem0.006": ("breadcrumbs_authors", {"scale": 0.4}),
}
VECTORS = {
    "consensus.ta.T4.l0.4.min2": ("consensus_ta", {"scale": 1.0}),
    "consensus.ties.T4.l0.4.min2": ("consensus_ties", {"scale": 1.0}),
}
ROLES = {"ta.analogy.T4.s0.5": ("analogy", 0.5), "ta.negate.T4.s0.6": ("negation", 0.6)}


def by_preset(preset: str, source: StateDictSource, changed: dict[str, float]) -> dict[str, torch.Tensor]:
    recipe = PRESETS.get(preset).apply(Recipe("base", tuple(TaskEntry(t, t) for t in source.tasks)))
    ready = prepare(recipe.method, source, {**recipe.values(), **changed})
    return {n: merge_tensor(ready, source, n, torch.float32) for n in source.names}  # type: ignore[misc]


@pytest.mark.parametrize("case_id", [*WEIGHTS, *VECTORS])
def test_published_settings(case_id: str) -> None:
    case = golden.CASES[case_id]
    preset, changed = {**WEIGHTS, **VECTORS}[case_id]
    source = golden.task_vectors_of(case) if case_id in VECTORS else golden.source_of(case)
    got = by_preset(preset, source, changed)
    tolerance = {k: case["tolerance"][k] for k in ("atol", "rtol")}
    wrong = 0
    for name, want in golden.expected(case, "out").items():
        wrong += int((~torch.isclose(got[name], want.float(), **tolerance)).sum())
    assert wrong <= case["tolerance"].get("mask_mismatch_max", 0)


@pytest.mark.parametrize("case_id", ROLES)
def test_roles_in_the_order_of_the_tasks(case_id: str) -> None:
    case = golden.CASES[case_id]
    preset, factor = ROLES[case_id]
    source = golden.source_of(case)
    recipe = PRESETS.get(preset).apply(Recipe("base", tuple(TaskEntry(t, t) for t in source.tasks)))
    ready = prepare(recipe.method, source, {"scale": {t: s * factor for t, s in recipe.values()["scale"].items()}})
    for name, want in golden.expected(case, "out").items():
        torch.testing.assert_close(merge_tensor(ready, source, name, torch.float32), want, **case["tolerance"])
