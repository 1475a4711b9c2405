"""Add-ons against outputs of their published implementations, case by case."""

from __future__ import annotations

from typing import Any

import golden_cases as golden
import pytest
import torch

from explorer.checkpoints.groups import depths_of
from explorer.merging import merge_tensor, prepare

CASES = golden.cases_of("test_golden_add_ons")
KEY_TRAP = "lines.keytrap"
COMPARED = [i for i in CASES if i != KEY_TRAP]


def method_of(case: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The method that the case scales by depth, without any scale of its own."""
    if case["id"].endswith(".ties"):
        return "ties", {"density": 0.2, "reduce": "sum", "scale": 1.0}
    return "task_arithmetic", {"scale": 1.0}


ALPHA_FROM = [(i, "given") for i in COMPARED] + [(i, "norms") for i in COMPARED if "alpha_rule" in CASES[i]["params"]]


@pytest.mark.parametrize(("case_id", "alpha_from"), ALPHA_FROM)
def test_lines(case_id: str, alpha_from: str) -> None:
    case = CASES[case_id]
    source = golden.task_vectors_of(case)
    given = {"beta": case["params"]["beta"]}
    given |= {"alpha": case["params"]["alpha"]} if alpha_from == "given" else {"alpha_from": "norms"}
    method, values = method_of(case)
    ready = prepare(method, source, values, add_ons=[("lines", given)])
    rtol, atol = case["tolerance"]["rtol"], case["tolerance"]["atol"]
    for name, want in golden.expected(case, "out").items():
        torch.testing.assert_close(merge_tensor(ready, source, name), want, rtol=rtol, atol=atol)


def test_the_norms_of_the_published_case_give_its_alpha() -> None:
    case = CASES["lines.T4.multi.ties"]
    source = golden.task_vectors_of(case)
    method, values = method_of(case)
    ready = prepare(method, source, values, add_ons=[("lines", {"alpha_from": "norms"})])
    scalars = case["scalars"]
    assert float(ready.add_ons[0].stats["alpha"]) == pytest.approx(scalars["l1_sum"] / scalars["l1_mtv"] / 4, rel=1e-5)


def test_a_number_inside_a_block_is_not_its_depth_where_the_published_code_takes_it_for_one() -> None:
    factors = CASES[KEY_TRAP]["scalars"]
    depths = depths_of(factors)
    ours = {name: 0.1 + 0.9 * (depth or 0.0) for name, depth in depths.items()}
    trapped = "blocks.1.mlp.0.weight"
    assert ours[trapped] == pytest.approx(0.55) and factors[trapped] == pytest.approx(0.1)
    assert {n: v for n, v in ours.items() if n != trapped} == pytest.approx(
        {n: v for n, v in factors.items() if n != trapped}
    )
