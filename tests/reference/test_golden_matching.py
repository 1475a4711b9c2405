"""Weight matching against the published implementation: the same permutations, the same permuted weights."""

from __future__ import annotations

import golden_cases as golden
import pytest
import torch

from explorer.compute.matching import PermutationSpec, chain_spec, match, permuted

CASES = golden.cases_of("test_golden_matching")
SPEC: PermutationSpec = chain_spec([(f"Dense_{i}/kernel", f"Dense_{i}/bias") for i in range(3)], input_axis=0)


def test_every_case_is_compared() -> None:
    assert len(CASES) == 4 and all(c["outputs"] == {"perm": 2, "out": 6} for c in CASES.values())


@pytest.mark.parametrize("case_id", CASES)
def test_permutations_and_permuted_weights(case_id: str) -> None:
    case = CASES[case_id]
    models = golden.tensors(case["input_file"])
    found = match(models["task0"], models["task1"], SPEC, seed=case["params"]["visit_order_key"])
    want = golden.expected(case, "perm")
    assert set(found.permutations) == set(want)
    assert all(torch.equal(found.permutations[p], want[p]) for p in want)
    moved = permuted(models["task1"], SPEC, found.permutations)
    for name, tensor in golden.expected(case, "out").items():
        torch.testing.assert_close(moved[name], tensor, **case["tolerance"])
    exact = "noisy" not in case_id
    assert (found.distance_after == 0) == exact and found.distance_after < found.distance_before
