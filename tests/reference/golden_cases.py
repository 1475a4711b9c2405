"""Reads the golden vectors and maps the settings of published implementations to our parameters."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from explorer.compute.source import StateDictSource

FOLDER = Path(__file__).parent / "golden"
CASES: dict[str, dict[str, Any]] = {
    c["id"]: c for c in json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))["cases"]
}
FAMILIES: dict[str, tuple[str, ...]] = {
    "test_golden": ("ta.", "mk.linear", "mk.ties", "ties.", "tall.", "magmask", "consensus."),
    "test_golden_elementwise": (
        *("dare.", "breadcrumbs.", "pcb.", "emr.", "localize_stitch.", "tatr.", "adamergingpp."),
        *("mk.dare", "mk.della", "mk.breadcrumbs", "mk.sce", "mk.ram", "mk.nearswap", "mk.arcee"),
    ),
    "test_golden_matrix": (
        *("mk.slerp", "mk.nuslerp", "mk.multislerp", "mk.karcher", "mk.model_stock"),
        *("tsv", "iso_c", "wudi.", "knots", "twin."),
    ),
    "test_golden_add_ons": ("lines.",),
    "test_golden_matching": ("rebasin.",),
    "test_golden_metrics": ("metric.", "weight_disentanglement."),
    "test_golden_data": ("fisher.", "regmean."),
    "test_golden_adapters": ("peft.", "peftfn."),
}
"""Which test file compares which cases, by how their ids begin."""
SIGN_RULES = {"sum": "mass", "none": "none"}


def cases_of(file: str) -> dict[str, dict[str, Any]]:
    """The cases that one test file compares, by id."""
    return {i: c for i, c in CASES.items() if i.startswith(FAMILIES[file])}


@cache
def tensors(file: str) -> dict[str, dict[str, Tensor]]:
    """Tensors of one file by prefix, then name: {"base": {...}, "task0": {...}}."""
    grouped: dict[str, dict[str, Tensor]] = {}
    for key, value in load_file(FOLDER / file).items():
        prefix, name = key.split("/", 1)
        grouped.setdefault(prefix, {})[name] = value
    return grouped


def source_of(case: dict[str, Any]) -> StateDictSource:
    """The case's models, only those tensors that can be merged."""
    read = tensors(case["input_file"])
    used = case.get("tasks_used") or range(case["num_tasks"])
    floats = [n for n, v in read["base"].items() if v.is_floating_point()]
    return StateDictSource(read["base"], {f"task{t}": read[f"task{t}"] for t in used}, floats)


def task_vectors_of(case: dict[str, Any]) -> StateDictSource:
    """The case's task vectors on a base of zeros: merged weights are then the merged task vector itself."""
    full = source_of(case)
    zeros = {n: torch.zeros(full.shape(n)) for n in full.names}
    read = tensors(case["input_file"])
    deltas = {t: {n: read[t][n].float() - read["base"][n].float() for n in full.names} for t in full.tasks}
    return StateDictSource(zeros, deltas)


def expected(case: dict[str, Any], prefix: str) -> dict[str, Tensor]:
    """The case's outputs with that prefix, by tensor name."""
    return tensors(case["output_file"]).get(prefix, {})


def expected_mask(case: dict[str, Any], prefix: str, name: str, shape: tuple[int, ...]) -> Tensor:
    """One bit-packed mask, unpacked."""
    bits = np.unpackbits(expected(case, prefix)[name].numpy())
    return torch.from_numpy(bits[: int(np.prod(shape))].astype(bool)).reshape(shape)


def per_task(values: Any, tasks: tuple[str, ...]) -> Any:
    """A list of a case as our mapping task -> value; one number stays one number."""
    return dict(zip(tasks, values, strict=True)) if isinstance(values, list) else values


def task_arithmetic(case: dict[str, Any]) -> dict[str, Any]:
    """λ of a task is the case's scale times the task's weight."""
    used = case.get("tasks_used") or range(case["num_tasks"])
    return {"scale": {f"task{t}": case["params"]["scale"] * case["params"]["weights"][t] for t in used}}


def weight_average(case: dict[str, Any]) -> dict[str, Any]:
    """Weights, and whether they are normalised."""
    tasks = tuple(f"task{t}" for t in case["tasks_used"])
    return {"weight": per_task(case["params"]["weights"], tasks), "normalize": case["params"]["normalize"]}


def authors_ties(case: dict[str, Any]) -> dict[str, Any]:
    """The paper's code, its copy in the TALL-masks repository, and their variants."""
    given = case["params"]
    mapped: dict[str, Any] = {
        "scope": given["scope"],
        "sign_rule": SIGN_RULES.get(given["sign_rule"], given["sign_rule"]),
        "zero_sign": given["zero_sign"],
        "reduce": given["reduce"],
        "scale": 1.0 if given["scale"] is None else given["scale"],
    }
    if given["density"] is not None:
        return {**mapped, "density": given["density"]}
    source = case["source_params"]
    rule = {"nf": "norm_fraction", "std": "std"}[source["reset_type"]]
    return {**mapped, "trim_rule": rule, "trim_amount": source["reset_thresh"]}


def mergekit_ties(case: dict[str, Any]) -> dict[str, Any]:
    """mergekit: exact counts per tensor, weights before the election, divided by the weights that agree."""
    given = case["params"]
    tasks = tuple(f"task{t}" for t in case["tasks_used"])
    return {
        "scope": given["scope"],
        "density": per_task(given["density"], tasks),
        "weight": per_task(given["weights"], tasks),
        "scale": given["scale"],
        "zero_sign": given["zero_sign"],
        "reduce": "mean" if given["normalize"] else "sum",
        "divisor": "weights",
        "trim_count": "exact",
        "rescale": "l1" if "rescale" in given else "none",
    }


def multi_task_vector(case: dict[str, Any]) -> dict[str, Any]:
    """Which update the masks select from, and how it was trimmed."""
    given = case["params"]["multi_task_vector"]
    if given == "TIES k=20% disjoint sum" or (isinstance(given, dict) and given["method"] == "ties"):
        return {"multi_task_vector": "ties", "density": 0.2}
    return {"multi_task_vector": "task_arithmetic"}


def mask_threshold(case: dict[str, Any]) -> Any:
    """One threshold, or one per task."""
    return per_task(case["params"]["mask_threshold"], tuple(f"task{t}" for t in range(case["num_tasks"])))
