"""Which tasks need the same weights: known answers, agreement with the other mask metrics, what may be chosen."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from explorer.compute.source import StateDictSource
from explorer.errors import ParameterError
from explorer.interference import survey
from explorer.results import Result


def found(vectors: list[Tensor], metrics: tuple[str, ...] = ("mask_patterns",), **values: object) -> dict[str, Result]:
    """Metrics of task vectors over a zero base, so that the differences are exact."""
    tasks = {f"t{i}": {"w": v} for i, v in enumerate(vectors)}
    source = StateDictSource({"w": torch.zeros_like(vectors[0])}, tasks)
    return survey(source, metrics, parameters={"mask_patterns": values})


def at(result: Result, threshold: float) -> pd.DataFrame:
    rows = result.at("model")
    return rows[np.isclose(rows.threshold, threshold)].set_index("pattern")


def gaussian(count: int, n: int = 100_000) -> list[Tensor]:
    generator = torch.Generator().manual_seed(count)
    return [torch.randn(n, generator=generator) for _ in range(count)]


def test_disjoint_tasks_share_no_pattern() -> None:
    rows = at(found([torch.tensor([1.0, -2, 0, 0, 0]), torch.tensor([0.0, 0, 3, 4, 0])])["mask_patterns"], 0.4)
    assert rows.share.to_dict() == {"[]": 0.2, '["t0"]': 0.4, '["t1"]': 0.4, '["t0", "t1"]': 0.0}
    assert rows.independent['["t0", "t1"]'] == pytest.approx(0.16) and rows.k.tolist() == [0, 1, 1, 2]


def test_patterns_of_independent_gaussian_tasks_lie_near_their_null() -> None:
    rows = at(found(gaussian(4))["mask_patterns"], 0.6)
    assert len(rows) == 16 and rows.share.sum() == pytest.approx(1) and rows.null.sum() == pytest.approx(1)
    assert rows.independent.sum() == pytest.approx(1)
    np.testing.assert_allclose(rows.share, rows.null, atol=5e-3)
    # Masks cut from one sum are not independent of one another, which is why the permuted null is there.
    assert abs(rows.share['["t0", "t1", "t2", "t3"]'] - rows.independent['["t0", "t1", "t2", "t3"]']) > 0.02


def test_patterns_add_up_to_agreement_and_overlap() -> None:
    result = found(gaussian(3, 5000), ("mask_patterns", "mask_agreement", "mask_overlap"))
    rows = at(result["mask_patterns"], 0.4)
    agreement = at_threshold(result["mask_agreement"], 0.4).set_index("k")
    for column in ("share", "null"):
        by_k = rows.groupby("k")[column].sum()
        np.testing.assert_allclose(by_k, agreement.loc[by_k.index, column], atol=1e-12)
    pair = at_threshold(result["mask_overlap"], 0.4).iloc[0]
    first = rows.index.map(lambda p: "t0" in json.loads(p))
    second = rows.index.map(lambda p: "t1" in json.loads(p))
    assert rows.share[first].sum() == pytest.approx(pair.density_a)
    assert rows.share[first & second].sum() / rows.share[first | second].sum() == pytest.approx(pair.iou)


def at_threshold(result: Result, threshold: float) -> pd.DataFrame:
    rows = result.at("model")
    return rows[np.isclose(rows.threshold, threshold)].reset_index(drop=True)


def test_tasks_that_are_not_chosen_are_summed_over_and_still_in_the_sum() -> None:
    vectors = gaussian(7, 4000)
    six = at(found(vectors, chosen={"t6": 0})["mask_patterns"], 0.4)
    two = at(found(vectors, chosen={f"t{i}": int(i in (1, 4)) for i in range(7)})["mask_patterns"], 0.4)
    assert len(six) == 64 and len(two) == 4
    inside = six.index.map(lambda p: {"t1", "t4"} <= set(json.loads(p)))
    for column in ("share", "null"):
        assert six[column][inside].sum() == pytest.approx(two[column]['["t1", "t4"]'])


def test_more_than_six_tasks_give_no_rows_and_none_the_empty_pattern() -> None:
    assert found(gaussian(7, 50))["mask_patterns"].table.empty
    none = found(gaussian(2, 50), chosen=0)["mask_patterns"].table
    assert set(none.pattern) == {"[]"} and (none[["share", "null", "independent"]] == 1).all(axis=None)


def test_names_that_are_no_tasks_are_refused_in_words() -> None:
    with pytest.raises(ParameterError, match=r"chosen names only tasks of this merge; got 'T1'\. Did you mean 't1'"):
        found(gaussian(2, 10), chosen={"T1": 1})


def test_names_with_any_letters_come_back_whole() -> None:
    name = 'a, "b" [c] ü'
    source = StateDictSource({"w": torch.zeros(2)}, {name: {"w": torch.tensor([1.0, 0])}})
    patterns = survey(source, ["mask_patterns"])["mask_patterns"].at("model").pattern
    assert {tuple(json.loads(p)) for p in patterns} == {(), (name,)}
