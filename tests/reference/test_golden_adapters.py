"""Adapters and their merges against outputs of PEFT, case by case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import golden_cases as golden
import pytest
import torch
from torch import Tensor

from explorer.compute.low_rank import concatenate, squared_errors, truncate
from explorer.compute.source import StateDictSource
from explorer.merging import merge_tensor, prepare

CASES = golden.cases_of("test_golden_adapters")
SIGN_RULES = {"sum": "mass", "count": "frequency"}
OLDER_RELEASE = {i for i in CASES if i.endswith(".v020")}
RANK_STABILISED = {i for i in CASES if i.endswith(".rslora")}
PUBLISHED_FAILS = {"peft.linear.mixedrank"}
ON_FACTORS = {
    "peft.linear": 1.08,
    "peft.linear.neg": 1.09,
    "peft.dare_linear.nodrop": 1.08,
    "peft.ties.total": 0.93,
    "peft.ties.frequency": 0.89,
    "peft.magnitude_prune": 1.03,
}
"""Not offered: PEFT merges A and B apart here, so B₁A₂ and other cross terms come in. The number is the published
result's relative distance from the weighted sum of the updates, in fc1: as large as the update itself."""
FUNCTIONS = [i for i in CASES if i.startswith("peftfn.")]
CONCATENATED = ["peft.cat", "peft.cat.mixedrank", "peft.cat.neg"]
TRUNCATED = [i for i in CASES if i.split(".")[1].endswith("svd") and i not in OLDER_RELEASE | RANK_STABILISED]


def test_every_case_is_compared_or_accounted_for() -> None:
    groups = [OLDER_RELEASE, RANK_STABILISED - OLDER_RELEASE, PUBLISHED_FAILS, set(ON_FACTORS)]
    groups += [set(FUNCTIONS), set(CONCATENATED), set(TRUNCATED)]
    assert sum(len(g) for g in groups) == len(CASES) and set().union(*groups) == set(CASES)
    assert {i for i, c in CASES.items() if c.get("informative_only")} == OLDER_RELEASE | RANK_STABILISED
    assert {i for i, c in CASES.items() if c["output_file"] is None} == PUBLISHED_FAILS


def layers(case: dict[str, Any]) -> list[str]:
    return sorted(golden.tensors(case["input_file"])["lora_A0"])


def parts_of(
    case: dict[str, Any], layer: str, weights: list[float] | None = None
) -> list[tuple[float, Tensor, Tensor]]:
    """(weight times alpha / r, or alpha / √r; B; A) of every task."""
    read, given = golden.tensors(case["input_file"]), case["params"]
    found = []
    for t, weight in enumerate(weights or given["weights"]):
        rank, alpha = given["lora_rank"][t], given["lora_alpha"][t]
        scale = alpha / rank**0.5 if given.get("rslora") else alpha / rank
        found.append((weight * scale, read[f"lora_B{t}"][layer], read[f"lora_A{t}"][layer]))
    return found


def dense(case: dict[str, Any]) -> StateDictSource:
    """The adapters' updates as task vectors on a base of zeros."""
    tasks: dict[str, dict[str, Tensor]] = {f"task{t}": {} for t in range(case["num_tasks"])}
    for layer in layers(case):
        ones = [1.0] * case["num_tasks"]
        for t, (scale, b, a) in enumerate(parts_of(case, layer, ones)):
            tasks[f"task{t}"][layer] = (scale * (b.double() @ a.double())).float()
    return StateDictSource({n: torch.zeros_like(v) for n, v in tasks["task0"].items()}, tasks)


def merged(source: StateDictSource, method: str, values: dict[str, Any]) -> dict[str, Tensor]:
    ready = prepare(method, source, values)
    found = {n: merge_tensor(ready, source, n, torch.float32) for n in source.names}
    assert all(isinstance(v, Tensor) for v in found.values())
    return found  # type: ignore[return-value]


def settings(case: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Our method and parameters for a combination: weights act after the election, counts are PEFT's."""
    given = case["params"]
    name = given.get("combination", case["variant"].split(",")[0]).split(".")[0]
    tasks = tuple(f"task{t}" for t in range(case["num_tasks"]))
    weights = dict(zip(tasks, given["weights"], strict=True))
    if name in ("svd", "task_arithmetic", "dare_linear"):  # the cases of DARE drop nothing
        return "task_arithmetic", {"scale": weights}
    common = {"scope": "tensor", "density": given["density"], "trim_count": "exact", "weight": weights, "scale": 1.0}
    if name.startswith("magnitude_prune"):
        return "ties", {**common, "sign_rule": "none", "reduce": "sum"}
    election = {"sign_rule": SIGN_RULES[given["sign_rule"]], "zero_sign": given["zero_sign"], "weighting": "after"}
    return "ties", {**common, **election}


def assert_close(case: dict[str, Any], got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert set(got) == set(want)
    for name, tensor in want.items():
        torch.testing.assert_close(got[name].float(), tensor, **case["tolerance"], msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("case_id", FUNCTIONS)
def test_functions_on_task_vectors(case_id: str) -> None:
    case = CASES[case_id]
    source = golden.task_vectors_of(case)
    got = merged(source, *settings(case))
    want = dict(golden.expected(case, "out"))
    for name in (n for n in want if want[n].numel() == 1 and (case["params"]["density"] or 1) < 1):
        # PEFT keeps int(density · 1) = 0 entries of a single number; we keep at least one.
        assert not want[name].any()
        want[name] = got[name]
    assert_close(case, got, want)


@pytest.mark.parametrize("case_id", [*CONCATENATED, "peft.cat.rslora"])
def test_concatenation(case_id: str) -> None:
    case = CASES[case_id]
    products = {layer: concatenate(parts_of(case, layer)) for layer in layers(case)}
    got = {layer: (left.float() @ right.float()) for layer, (left, right) in products.items()}
    assert_close(case, got, {n: v.float() for n, v in golden.expected(case, "dense_sum").items()})
    if case_id in CONCATENATED:
        assert_close(case, got, golden.expected(case, "out"))
        assert {left.shape[1] for left, _ in products.values()} == {sum(case["params"]["lora_rank"])}
    else:  # the published adapter is √Σr too large: its new scaling is not 1
        factor = case["params"]["new_adapter_scaling"]
        assert_close(case, {n: v * factor for n, v in got.items()}, golden.expected(case, "out"))


@pytest.mark.parametrize("case_id", TRUNCATED)
def test_merge_then_truncate(case_id: str) -> None:
    case = CASES[case_id]
    rank = case["params"]["rank"]
    whole = merged(dense(case), *settings(case))
    products = {n: truncate(m, rank) for n, m in whole.items()}
    assert all(left.shape[1] == min(rank, *whole[n].shape) for n, (left, _) in products.items())
    got = {n: (left @ right).float() for n, (left, right) in products.items()}
    assert_close(case, got, golden.expected(case, "out"))
    for name, error in case["scalars"]["relative_error_to_dense_sum"].items():
        exact = golden.expected(case, "dense_sum")[name]
        miss, size = squared_errors(exact, *products[name])
        assert (miss / size) ** 0.5 == pytest.approx(error, rel=1e-4, abs=2e-6)


def test_rank_stabilised_adapters_add_up_where_the_published_result_is_too_large() -> None:
    case = CASES["peft.svd.rslora"]
    whole = merged(dense(case), *settings(case))
    assert_close(case, whole, {n: v.float() for n, v in golden.expected(case, "dense_sum").items()})
    for name, out in golden.expected(case, "out").items():
        left, right = truncate(whole[name], case["params"]["rank"])
        torch.testing.assert_close((left @ right).float() * 2, out, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("case_id", ON_FACTORS)
def test_merging_factors_apart_is_as_wrong_as_stated(case_id: str) -> None:
    case = CASES[case_id]
    exact, out = golden.expected(case, "dense_sum")["fc1"].double(), golden.expected(case, "out")["fc1"].double()
    assert float((out - exact).norm() / exact.norm()) == pytest.approx(ON_FACTORS[case_id], abs=0.01)


@pytest.mark.parametrize("case_id", sorted(OLDER_RELEASE))
def test_the_older_release_scales_twice(case_id: str) -> None:
    case = CASES[case_id]
    newer = CASES[case_id.removesuffix(".v020")]
    for name, out in golden.expected(case, "out").items():
        exact = golden.expected(newer, "dense_sum")[name]
        assert float((out - exact).norm() / exact.norm()) > 1.4


def test_files_of_the_cases_are_there() -> None:
    for case in CASES.values():
        for file in (case["input_file"], case["output_file"]):
            assert file is None or (Path(golden.FOLDER) / file).is_file()
