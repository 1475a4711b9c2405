"""Dropping, scoring and masking methods against outputs of their published implementations, case by case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import golden_cases as golden
import pytest
import torch
from torch import Tensor

from explorer.compute.source import StateDictSource
from explorer.merging import merge_tensor, pcb, prepare

CASES = golden.cases_of("test_golden_elementwise")
OLDER_RELEASE = {i for i in CASES if i.endswith(".v014")}
PUBLISHED_FAILS = {"pcb.root.constant_row"}
COMPARED = [i for i in CASES if i not in OLDER_RELEASE | PUBLISHED_FAILS]


def dare(given: dict[str, Any], tasks: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    if "weights" in given:
        scale = {t: w * given["scale"] for t, w in zip(tasks, given["weights"], strict=True)}
        return "dare", {"scale": scale, "density": 1.0, "elect": "mass" if given["zero_sign"] else "none"}
    drop = "smallest" if given["select"] == "smallest magnitudes" else "random"
    rescale = "density" if given["rescale"] else "none"
    return "dare", {"scale": 1.0, "density": 1 - given["drop_rate"], "drop": drop, "rescale": rescale}


def della(given: dict[str, Any], tasks: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    values = {"scale": given["scale"], "weight": golden.per_task(given["weights"], tasks), "density": 1.0}
    reduce = "weighted_mean" if given["normalize"] else "sum"
    return "della", {**values, "rescale": "l1", "elect": "mass" if given["zero_sign"] else "none", "reduce": reduce}


def breadcrumbs(given: dict[str, Any], tasks: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    values = {
        "scope": "tensor" if given["scope"] == "tensor" else "row",
        "scale": 1.0 if given["scale"] is None else given["scale"],
        "drop_largest": given["drop_largest"],
        "drop_smallest": given.get("drop_smallest", 1 - given.get("keep", 0)),
        "count_rule": "keep_first" if given.get("order", "").startswith("top keep first") else "keep",
    }
    if "weights" in given:
        values["weight"] = golden.per_task(given["weights"], tasks)
    return "breadcrumbs", {**values, "elect": "mass" if "zero_sign" in given else "none"}


def plain(method: str, **fixed: Any) -> Any:
    """A method whose settings have the names of the case, or the given ones."""
    return lambda given, tasks: (method, {k: given[v] if isinstance(v, str) else v for k, v in fixed.items()})


MAPPINGS: dict[str, Any] = {
    "dare": dare,
    "mergekit.dare_linear": dare,
    "mergekit.dare_ties": dare,
    "mergekit.della": della,
    "mergekit.della_linear": della,
    "breadcrumbs": breadcrumbs,
    "mergekit.breadcrumbs": breadcrumbs,
    "mergekit.breadcrumbs_ties": breadcrumbs,
    "mergekit.sce": plain("sce", select_density="select_topk", energy_floor=1e-6),
    "mergekit.ram": plain("ram", change_threshold="epsilon"),
    "mergekit.ramplus_tl": plain("ram_plus", change_threshold="epsilon", boost="r", ratio_limit="alpha"),
    "mergekit.nearswap": plain("nearswap", largest_step="t"),
    "mergekit.arcee_fusion": plain("arcee_fusion"),
    "tatr": plain("tatr", trusted="quantile", scale="scale"),
    "localize_and_stitch": plain("localize_and_stitch", density="density"),
    "ties_split": plain("adamerging_pp", density="density", scale=1.0),
}


def merged(method: str, source: StateDictSource, parameters: Mapping[str, Any]) -> dict[str, Tensor]:
    ready = prepare(method, source, parameters)
    out = {n: merge_tensor(ready, source, n, torch.float32) for n in source.names}
    return {n: torch.stack(v) if isinstance(v, list) else v for n, v in out.items()}


def settings(case: dict[str, Any], tasks: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    if case["method"] == "pcb":
        scale = golden.per_task(case["params"]["weights"], tasks)
        return "pcb", {"variant": case["id"].split(".")[1], "density": case["params"]["density"], "scale": scale}
    method, values = MAPPINGS[case["method"]](case["params"], tasks)
    return method, {**values, "scale": 1.0} if case["output_kind"].startswith("merged_task_vector") else values


def assert_close(case: dict[str, Any], got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    """Within the case's tolerance, but for the fraction of entries (at least two) that it allows as outliers."""
    assert set(got) >= set(want)
    given = case["tolerance"]
    far = sum(int((~torch.isclose(got[n], v, atol=given["atol"], rtol=given["rtol"])).sum()) for n, v in want.items())
    total = sum(v.numel() for v in want.values())
    assert far <= (max(2, given["outlier_fraction"] * total) if "outlier_fraction" in given else 0)


def test_every_case_is_compared_or_accounted_for() -> None:
    assert set(COMPARED) | OLDER_RELEASE | PUBLISHED_FAILS == set(CASES)
    assert {i for i, c in CASES.items() if c.get("informative_only")} == OLDER_RELEASE
    assert {i for i, c in CASES.items() if c["output_file"] is None} == PUBLISHED_FAILS
    assert len(COMPARED) == 54


@pytest.mark.parametrize("case_id", [i for i in COMPARED if not i.startswith("emr.")])
def test_merged(case_id: str) -> None:
    case = CASES[case_id]
    vectors = "vector" in case["output_kind"]
    source = golden.task_vectors_of(case) if vectors else golden.source_of(case)
    method, values = settings(case, source.tasks)
    want = golden.expected(case, "tv" if "tv" in case["outputs"] else "out")
    assert_close(case, merged(method, source, values), want)


@pytest.mark.parametrize("case_id", [i for i in COMPARED if "score0" in CASES[i]["outputs"]])
def test_pcb_scores(case_id: str) -> None:
    case = CASES[case_id]
    source = golden.task_vectors_of(case)
    method, values = settings(case, source.tasks)
    ready = prepare(method, source, values)
    for task in (0, 1):
        want = golden.expected(case, f"score{task}")
        got = {}
        for name in source.names:
            deltas = torch.stack([source.task(t, name, 0, 10**9) for t in range(len(source.tasks))])
            stats = {k: v for k, v in ready.stats.items() if isinstance(v, Tensor)}
            shares = pcb._score_shares(pcb._score(deltas, stats, values["variant"]), stats, values["variant"])
            got[name] = shares[task].view(source.shape(name))
        assert_close(case, got, want)


@pytest.mark.parametrize("case_id", [i for i in COMPARED if i.startswith("emr.")])
def test_emr_rebuilds_each_task(case_id: str) -> None:
    case = CASES[case_id]
    source = golden.task_vectors_of(case)
    got = merged("emr", source, {"rescaler": "published"})
    factors = golden.expected(case, "rescale")["all"]
    for task, factor in enumerate(factors):
        want = {}
        for name, unified in golden.expected(case, "out").items():
            mask = golden.expected_mask(case, f"maskbits{task}", name, source.shape(name))
            want[name] = unified * mask * factor
        assert_close(case, {n: v[task] for n, v in got.items()}, want)
    rescaler = prepare("emr", source, {"rescaler": "published"}).stats["rescaler"]
    torch.testing.assert_close(rescaler.float(), factors, atol=1e-7, rtol=2e-6)  # type: ignore[union-attr]


def test_localize_and_stitch_claims_the_published_places() -> None:
    case = CASES["localize_stitch.dataless.T4.d0.05"]
    source = golden.task_vectors_of(case)
    threshold = prepare("localize_and_stitch", source, {"density": case["params"]["density"]}).stats["threshold"]
    assert isinstance(threshold, Tensor)
    for task, kept in enumerate(case["scalars"]["kept_per_task"]):
        masks = {n: source.task(task, n, 0, 10**9).abs() > threshold[task] for n in source.names}
        assert sum(int(m.sum()) for m in masks.values()) == kept
        for name, mask in masks.items():
            want = golden.expected_mask(case, f"maskbits{task}", name, source.shape(name))
            assert torch.equal(mask.view(want.shape), want)


def test_adamerging_keeps_the_values_that_survive_in_the_published_split() -> None:
    case = CASES["adamergingpp.split.T4"]
    source = golden.task_vectors_of(case)
    for task in (0, 1):
        alone = {"scale": {t: float(i == task) for i, t in enumerate(source.tasks)}}
        got = merged("adamerging_pp", source, {"density": 0.2, **alone})
        assert_close(case, got, golden.expected(case, f"selected{task}"))


@pytest.mark.parametrize("case_id", sorted(OLDER_RELEASE))
def test_an_older_release_differs(case_id: str) -> None:
    """These outputs show what the older release got wrong; matching them would be a defect."""
    newer = CASES[case_id.removesuffix(".v014")]
    source = golden.source_of(newer)
    method, values = settings(newer, source.tasks)
    got = merged(method, source, values)
    for name, older in golden.expected(CASES[case_id], "out").items():
        assert not torch.allclose(got[name], older, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("variant", ["es", "vision", "nlp", "root", "paper"])
def test_pcb_with_a_task_equal_to_the_base_is_finite_where_the_published_code_gives_nan(variant: str) -> None:
    case = CASES["pcb.root.constant_row"]
    read = golden.tensors(case["input_file"])
    tuned = {t: read["base"] if t == "task1" else read[t] for t in ("task0", "task1", "task2", "task3")}
    floats = [n for n, v in read["base"].items() if v.is_floating_point()]
    got = merged("pcb", StateDictSource(read["base"], tuned, floats), {"variant": variant, "density": 0.1})
    moved = sum(int((got[n] != read["base"][n]).sum()) for n in floats)
    assert all(bool(torch.isfinite(v).all()) for v in got.values())
    assert moved > 100


def test_one_task_is_trusted_where_the_published_code_drops_it() -> None:
    case = CASES["tatr.zeroshot.T4.q0.99"]
    full = golden.source_of(case)
    read = golden.tensors(case["input_file"])
    one = StateDictSource(read["base"], {"task0": read["task0"]}, full.names)
    want = merged("task_arithmetic", one, {"scale": 0.3})
    got = merged("tatr", one, {"scale": 0.3})
    assert all(torch.equal(got[n], want[n]) for n in want)
