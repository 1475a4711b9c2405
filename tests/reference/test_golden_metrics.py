"""Our interference measures against outputs of other people's published implementations, case by case."""

from __future__ import annotations

from math import sqrt
from typing import Any

import golden_cases as golden
import pytest
import torch

from explorer.compute.source import Chunk, deltas, numel
from explorer.interference import survey
from explorer.interference.norm_at_density import norm_at_density
from explorer.interference.sign_agreement import sign_agreement_ratio
from explorer.interference.subspace_alignment import rank_for_residual, subspace_alignment_ratio
from explorer.merging import merge_tensor, prepare

CASES = golden.cases_of("test_golden_metrics")
NOT_PUBLISHED = {"weight_disentanglement.skip": "the authors' repository has no such computation; nothing was run"}
FIGURE_RESIDUAL = sqrt(1 - 0.95**2)
"""√(cumulative squared energy) > 0.95, as the residual that is left."""
SAR = CASES["metric.sar.T4"]["scalars"]


def task_vectors(case: dict[str, Any], name: str) -> torch.Tensor:
    source = golden.source_of(case)
    return deltas(source, Chunk(name, 0, numel(source, name))).view(-1, *source.shape(name))


def test_every_case_is_compared_or_accounted_for() -> None:
    compared = {"metric.sign_agreement.T4", "metric.norm_at_k.T4", "metric.sar.T4"}
    assert compared | set(NOT_PUBLISHED) == set(CASES)
    for case_id in NOT_PUBLISHED:
        assert CASES[case_id]["output_file"] is None and not CASES[case_id].get("scalars")


def test_sign_agreement_of_every_weight() -> None:
    case = CASES["metric.sign_agreement.T4"]
    for name, want in golden.expected(case, "out").items():
        torch.testing.assert_close(sign_agreement_ratio(task_vectors(case, name)), want, **case["tolerance"])


def test_the_sign_agreement_metric_is_the_published_mean_without_weights_that_hold_no_vote() -> None:
    case = CASES["metric.sign_agreement.T4"]
    row = survey(golden.source_of(case), ["sign_agreement"])["sign_agreement"].at("model").iloc[0]
    ones = row["n"] - row["n_positions"]  # the published mean counts them as 1
    published = (row["agreement"] * row["n_positions"] + ones) / row["n"]
    assert published == pytest.approx(case["scalars"]["mean"], abs=1e-7)


def test_norm_of_the_largest_entries() -> None:
    case = CASES["metric.norm_at_k.T4"]
    got = norm_at_density(golden.source_of(case), case["params"]["densities"])
    torch.testing.assert_close(got.float(), golden.expected(case, "out")["norm_at_k"], **case["tolerance"])


@pytest.mark.parametrize("name", SAR)
def test_subspace_alignment_with_the_summed_task_vectors(name: str) -> None:
    case = CASES["metric.sar.T4"]
    rows = task_vectors(case, name)
    rank = rank_for_residual(rows.sum(0), FIGURE_RESIDUAL) - 1  # published: one vector fewer
    assert rank == SAR[name]["sum_rank"]
    got = subspace_alignment_ratio(rows, rows.sum(0), rank=rank)
    torch.testing.assert_close(got.float(), torch.tensor(SAR[name]["sum"]), **case["tolerance"])


@pytest.mark.parametrize("name", SAR)
def test_subspace_alignment_with_the_isotropic_merge_of_the_first_task(name: str) -> None:
    """Iso-C keeps the directions of the sum and makes the spectrum flat, so only the rank differs.

    The first task's number alone is sound: the script overwrites its projector inside the task loop.
    """
    case = CASES["metric.sar.T4"]
    source, rows = golden.task_vectors_of(case), task_vectors(case, name)
    merged = merge_tensor(prepare("iso_c", source, {"excluded": "none"}), source, name, torch.float32)
    assert isinstance(merged, torch.Tensor)
    rank = rank_for_residual(merged, FIGURE_RESIDUAL) - 1
    assert rank == SAR[name]["iso_rank"]
    got = subspace_alignment_ratio(rows, rows.sum(0), rank=rank)
    assert float(got[0]) == pytest.approx(SAR[name]["iso"][0], abs=case["tolerance"]["atol"])
