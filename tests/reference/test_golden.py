"""Our methods against outputs of other people's published implementations, case by case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import golden_cases as golden
import pytest
import torch
from torch import Tensor

from explorer.compute.source import StateDictSource
from explorer.merging import _parts as parts
from explorer.merging import merge_tensor, prepare

CASES = golden.cases_of("test_golden")
NO_TARGET = {
    "ta.bf16.native.T4": "bfloat16 arithmetic; we compute in float32",
    "ties.authors.T4_bf16.k20.mean.native": "bfloat16 arithmetic; we compute in float32",
    "mk.linear.T4_bf16.w.v014": "an older release that rounds after every addition",
}
PUBLISHED_FAILS = {"ties.authors.T4.k100.error", "ties.authors.T4.k1.error", "tall.saveload.error"}
ORDINARY = [i for i in CASES if i not in NO_TARGET and i not in PUBLISHED_FAILS]
WEIGHTS = [i for i in ORDINARY if "out" in CASES[i]["outputs"] and i.startswith(("ta.", "mk.", "ties.authors"))]
VECTORS = [i for i in ORDINARY if i.startswith("ties.")]
MASKS = [i for i in ORDINARY if i.startswith(("tall.", "magmask"))]
CONSENSUS = [i for i in ORDINARY if i.startswith("consensus.")]


def settings(case: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    if case["id"].startswith("ta."):
        return "task_arithmetic", golden.task_arithmetic(case)
    if case["id"].startswith("mk.linear"):
        return "weight_average", golden.weight_average(case)
    return "ties", golden.mergekit_ties(case) if case["id"].startswith("mk.") else golden.authors_ties(case)


def merged(method: str, source: StateDictSource, parameters: Mapping[str, Any]) -> dict[str, Tensor]:
    ready = prepare(method, source, parameters)
    return {n: merge_tensor(ready, source, n, torch.float32) for n in source.names}


def rows(method: str, source: StateDictSource, parameters: Mapping[str, Any]) -> dict[str, Tensor]:
    return {n: torch.stack(v) for n, v in merged(method, source, parameters).items()}


def assert_close(case: dict[str, Any], got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert set(got) == set(want)
    atol, rtol = case["tolerance"]["atol"], case["tolerance"]["rtol"]
    for name, tensor in want.items():
        assert got[name].shape == tensor.shape
        torch.testing.assert_close(
            got[name].float(), tensor.float(), atol=atol, rtol=rtol, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_every_case_is_compared_or_accounted_for() -> None:
    compared = {*WEIGHTS, *VECTORS, *MASKS, *CONSENSUS}
    assert compared | set(NO_TARGET) | PUBLISHED_FAILS == set(CASES)
    assert {i for i, c in CASES.items() if c.get("informative_only")} == set(NO_TARGET)
    assert {i for i, c in CASES.items() if c["output_file"] is None} == PUBLISHED_FAILS


def test_every_case_belongs_to_one_test_file() -> None:
    for case_id in golden.CASES:
        owners = [file for file, prefixes in golden.FAMILIES.items() if case_id.startswith(prefixes)]
        assert len(owners) == 1, f"{case_id}: {owners}"


@pytest.mark.parametrize("case_id", WEIGHTS)
def test_merged_weights(case_id: str) -> None:
    case = CASES[case_id]
    method, parameters = settings(case)
    got = merged(method, golden.source_of(case), parameters)
    base = golden.tensors(case["input_file"])["base"]
    # Integer buffers are not merged: the base's values stay.
    got.update({n: v for n, v in base.items() if not v.is_floating_point()})
    assert_close(case, got, golden.expected(case, "out"))


@pytest.mark.parametrize("case_id", VECTORS)
def test_merged_task_vector(case_id: str) -> None:
    case = CASES[case_id]
    source = golden.task_vectors_of(case)
    got = merged("ties", source, {**golden.authors_ties(case), "scale": 1.0})
    want = dict(golden.expected(case, "tv" if "tv" in case["outputs"] else "out"))
    if "nf0.9" in case_id:
        # The published mask always keeps the last entry of the flattened model as well; ours does not.
        last = source.names[-1]
        want[last] = want[last].clone()
        want[last].view(-1)[-1] = got[last].view(-1)[-1]
    assert_close(case, got, want)


@pytest.mark.parametrize("case_id", [i for i in VECTORS if "kept_per_task" in CASES[i].get("scalars", {})])
def test_kept_counts(case_id: str) -> None:
    case = CASES[case_id]
    source = golden.task_vectors_of(case)
    ready = prepare("ties", source, golden.authors_ties(case))
    assert kept(source, ready.stats["threshold"]) == case["scalars"]["kept_per_task"]


def kept(source: StateDictSource, threshold: Tensor) -> list[int]:
    return [
        sum(int((source.task(t, n, 0, 10**9).abs() >= threshold[t]).sum()) for n in source.names)
        for t in range(len(source.tasks))
    ]


@pytest.mark.parametrize("case_id", MASKS)
def test_masks(case_id: str) -> None:
    case = CASES[case_id]
    source = golden.task_vectors_of(case)
    tall = case_id.startswith("tall.")
    kind = golden.multi_task_vector(case) if tall else {}
    total = merged("consensus", source, {**kind, "min_tasks": 0, "scale": 1.0})
    threshold = golden.mask_threshold(case) if tall else None
    values = {**kind, "mask_threshold": threshold} if tall else {"density": case["params"]["density"]}
    name_of_method = "tall_masks" if tall else "magnitude_masking"
    rebuilt = rows(name_of_method, source, values)
    stats = prepare(name_of_method, source, values).stats
    mismatches, counts = 0, torch.zeros(len(source.tasks) + 1, dtype=torch.long)
    for name in source.names:
        shape = source.shape(name)
        deltas = torch.stack([source.task(t, name, 0, 10**9) for t in range(len(source.tasks))]).view(-1, *shape)
        if tall:
            masks = parts.tall_masks(deltas, total[name], torch.full((len(source.tasks),), threshold))
        else:
            masks = deltas.abs() >= parts.column(stats["threshold"], deltas)
        want = torch.stack([golden.expected_mask(case, f"maskbits{t}", name, shape) for t in range(len(source.tasks))])
        mismatches += int((masks != want).sum())
        counts += torch.bincount(want.sum(0).view(-1), minlength=len(counts))
        assert torch.equal(rebuilt[name], torch.where(masks, total[name], 0))
    assert mismatches <= case["tolerance"]["mask_mismatch_max"]
    if tall:
        assert counts.tolist() == case["scalars"]["agreement_profile_counts"]
    if "out" in case["outputs"]:
        assert_close(case, total, golden.expected(case, "out"))


@pytest.mark.parametrize("case_id", CONSENSUS)
def test_consensus(case_id: str) -> None:
    case = CASES[case_id]
    source = golden.task_vectors_of(case)
    kind = golden.multi_task_vector(case)
    values = {**kind, "scale": 1.0, "mask_threshold": golden.mask_threshold(case)}
    total = merged("consensus", source, {**values, "min_tasks": 0})
    got = merged("consensus", source, {**values, "min_tasks": case["params"]["min_tasks"]})
    mismatches = 0
    for name, want in golden.expected(case, "out").items():
        mask = golden.expected_mask(case, "maskbits", name, source.shape(name))
        wrong = got[name] != torch.where(mask, total[name], 0)
        mismatches += int(wrong.sum())
        got[name] = torch.where(wrong, want, got[name])
    assert mismatches <= case["tolerance"]["mask_mismatch_max"]
    assert_close(case, got, golden.expected(case, "out"))


@pytest.mark.parametrize("case_id", list(NO_TARGET))
def test_outputs_that_are_no_target_differ_only_by_rounding(case_id: str) -> None:
    case = CASES[case_id]
    method, parameters = settings({"tasks_used": list(range(case["num_tasks"])), **case})
    vectors = case_id.startswith("ties.")
    got = merged(method, golden.task_vectors_of(case) if vectors else golden.source_of(case), parameters)
    for name, want in golden.expected(case, "tv" if vectors else "out").items():
        near = torch.isclose(got[name], want.float(), atol=2e-3, rtol=2e-2)
        assert near.float().mean() > 0.97, f"{name}: {NO_TARGET[case_id]}"


def test_density_one_keeps_everything_where_the_published_code_fails() -> None:
    source = golden.task_vectors_of(CASES["ties.authors.T4.k100.error"])
    whole = merged("ties", source, {"density": 1.0})
    assert_close(CASES["ties.authors.T4.none.mean"], whole, golden.expected(CASES["ties.authors.T4.none.mean"], "tv"))


def test_density_one_percent_keeps_one_percent_where_the_published_code_fails() -> None:
    source = golden.task_vectors_of(CASES["ties.authors.T4.k1.error"])
    ready = prepare("ties", source, {"density": 0.01})
    assert kept(source, ready.stats["threshold"]) == [87] * 4
