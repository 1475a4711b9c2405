"""Fisher merging and RegMean with given statistics against published implementations, case by case."""

from __future__ import annotations

from typing import Any

import golden_cases as golden
import pytest
import torch
from torch import Tensor

from explorer.compute.source import StateDictSource
from explorer.merging import merge_tensor, prepare

CASES = golden.cases_of("test_golden_data")
PUBLISHED_FAILS = {"fisher.fusionbench.norm", "fisher.regmeanrepo.param", "fisher.regmeanrepo.model"}
ORDINARY = [i for i in CASES if i not in PUBLISHED_FAILS]
NORMALIZE = {
    None: "none",
    "global L2 norm of each model's Fisher": "model",
    "inverse global L2 norms, rescaled to sum 1": "model",
    "inverse global norm, rescaled to sum 1": "model",
    "inverse norm per tensor, rescaled to sum 1": "tensor",
}
FLOORED = {"first (target) model only": 1, "all models": 4}
"""How many tasks the published code puts a floor under."""


def source_of(case: dict[str, Any]) -> StateDictSource:
    """The case's tensors with its statistics; Gram matrices under the name of the weight they belong to."""
    read = golden.tensors(case["input_file"])
    names = case["params"].get("tensors", "all")
    names = sorted(read["base"]) if names == "all" else names
    given = {
        f"task{t}": {
            **{f"fisher/{n}": v for n, v in read[f"fisher{t}"].items()},
            **{f"gram/{n}.weight": v for n, v in read[f"gram{t}"].items()},
        }
        for t in range(case["num_tasks"])
    }
    if "isotropic" in case["variant"]:
        given = {task: {k: torch.ones_like(v) for k, v in held.items()} for task, held in given.items()}
    return StateDictSource(read["base"], {t: read[t] for t in given}, names, given=given)


def settings(case: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The method and our parameters for a case's settings."""
    params, tasks = case["params"], [f"task{t}" for t in range(case["num_tasks"])]
    given = params["weights"]
    weight = {} if given is None else {"weight": dict(zip(tasks, given, strict=True))}
    if case["method"] == "regmean":
        return "regmean", {"off_diagonal_factor": params["off_diagonal_factor"], **weight}
    floored = tasks[: FLOORED.get(params.get("floor_applies_to", ""), 0)]
    floor = {t: params["fisher_floor"] if t in floored else 0.0 for t in tasks}
    add = params.get("fisher_add", 0.0)
    return "fisher", {"normalize": NORMALIZE[params["normalize_fisher"]], "floor": floor, "add": add, **weight}


def merged(case: dict[str, Any]) -> dict[str, Tensor]:
    method, parameters = settings(case)
    source = source_of(case)
    ready = prepare(method, source, parameters)
    return {n: merge_tensor(ready, source, n) for n in source.names}  # type: ignore[misc]


def test_every_case_is_compared_or_accounted_for() -> None:
    assert len(ORDINARY) == 17
    assert {i for i, c in CASES.items() if c["output_file"] is None} == PUBLISHED_FAILS


@pytest.mark.parametrize("case_id", ORDINARY)
def test_merged_weights(case_id: str) -> None:
    case = CASES[case_id]
    got, want = merged(case), golden.expected(case, "out")
    assert set(got) == set(want)
    for name, tensor in want.items():
        # The published code gives scalars back as [1]; ours keep their shape.
        assert got[name].shape == (tensor.shape if tensor.numel() > 1 else ())
        like = got[name].view(tensor.shape)
        torch.testing.assert_close(like, tensor, **case["tolerance"], msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("case_id", sorted(PUBLISHED_FAILS))
def test_scalars_and_convolutions_are_merged_where_the_published_code_fails(case_id: str) -> None:
    case = CASES[case_id]
    got = merged(case)
    read = golden.tensors(case["input_file"])
    _, given = settings(case)
    tasks, add = range(case["num_tasks"]), given["add"]
    names = sorted(read["base"])
    squares = {n: torch.stack([read[f"fisher{t}"][n].double().square().sum() for t in tasks]) for n in names}
    for name in names:
        group = names if given["normalize"] == "model" else [name]
        norms = sum(squares[n] for n in group).sqrt() + add  # type: ignore[union-attr]
        shares = [given["weight"][f"task{t}"] * (read[f"fisher{t}"][name].double() + add) / norms[t] for t in tasks]
        want = sum(s * read[f"task{t}"][name] for t, s in enumerate(shares)) / sum(shares)
        torch.testing.assert_close(got[name].double(), want, atol=1e-6, rtol=1e-5)
        assert got[name].shape == read["base"][name].shape
