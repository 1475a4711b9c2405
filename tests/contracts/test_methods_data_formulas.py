"""Fisher merging and RegMean against their formulas in plain numpy, and their laws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from explorer.compute.source import StateDictSource
from explorer.errors import ParameterError, RecipeError
from explorer.merging import merge_tensor, prepare

NAMES, SHAPES = "abc", {"w": (9, 6), "bias": (9,), "conv": (3, 2, 2, 2), "one": ()}
WEIGHTS = {"a": 0.5, "b": 2.0, "c": 0.0}


def draw(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {n: np.asarray(rng.normal(size=s), dtype=np.float32) for n, s in SHAPES.items()}


BASE = draw(0)
TUNED = {t: {n: BASE[n] + np.float32(0.1) * v for n, v in draw(1 + i).items()} for i, t in enumerate(NAMES)}
FISHER = {t: {n: np.where(np.abs(v) < 0.3, 0, v**2) for n, v in draw(10 + i).items()} for i, t in enumerate(NAMES)}
INPUTS = {t: np.random.default_rng(20 + i).normal(size=(40, 6)) for i, t in enumerate(NAMES)}
GRAM = {t: (x.T @ x / len(x)).astype(np.float32) for t, x in INPUTS.items()}


def given(fisher: Any = FISHER, gram: Any = GRAM) -> dict[str, dict[str, Tensor]]:
    measured = {
        t: {f"fisher/{n}": torch.as_tensor(v, dtype=torch.float32) for n, v in fisher[t].items()} for t in NAMES
    }
    return {t: {**held, "gram/w": torch.as_tensor(gram[t])} for t, held in measured.items()}


def source(tasks: str = NAMES, measured: dict[str, dict[str, Tensor]] | None = None) -> StateDictSource:
    tensors = {t: {n: torch.from_numpy(np.array(v)) for n, v in TUNED[t].items()} for t in tasks}
    base = {n: torch.from_numpy(np.array(v)) for n, v in BASE.items()}
    return StateDictSource(base, tensors, given=given() if measured is None else measured)


def ours(method: str, made: StateDictSource, **values: Any) -> dict[str, np.ndarray]:
    ready = prepare(method, made, values)
    return {n: merge_tensor(ready, made, n).numpy() for n in made.names}  # type: ignore[union-attr]


def mean(weight: Any = 1.0) -> dict[str, np.ndarray]:
    w = weight if isinstance(weight, dict) else dict.fromkeys(NAMES, weight)
    return {n: sum(w[t] * TUNED[t][n].astype(float) for t in NAMES) / sum(w.values()) for n in SHAPES}


def numpy_fisher(
    weight: Any = 1.0, normalize: str = "model", floor: Any = 1e-6, add: float = 0.0
) -> dict[str, np.ndarray]:
    w, least = (v if isinstance(v, dict) else dict.fromkeys(NAMES, v) for v in (weight, floor))

    def norm(task: str, name: str) -> float:
        if normalize == "none":
            return 1.0
        group = SHAPES if normalize == "model" else [name]
        return float(np.sqrt(sum((FISHER[task][n].astype(float) ** 2).sum() for n in group))) + add

    merged = {}
    for n in SHAPES:
        shares = {t: w[t] * (np.maximum(FISHER[t][n].astype(float), least[t]) + add) / norm(t, n) for t in NAMES}
        total = sum(shares.values())
        update = sum(shares[t] * TUNED[t][n] for t in NAMES)
        merged[n] = np.where(total > 0, update / np.where(total > 0, total, 1), mean(w)[n])
    return merged


def numpy_regmean(weight: Any = 1.0, off_diagonal_factor: float = 0.9) -> dict[str, np.ndarray]:
    w = weight if isinstance(weight, dict) else dict.fromkeys(NAMES, weight)
    a = off_diagonal_factor
    grams = {t: w[t] * (a * GRAM[t] + (1 - a) * np.diag(np.diag(GRAM[t]))).astype(float) for t in NAMES}
    right = sum(TUNED[t]["w"].astype(float) @ grams[t] for t in NAMES)
    return {**mean(w), "w": right @ np.linalg.inv(sum(grams.values()))}


CASES: list[tuple[str, dict[str, Any]]] = [
    ("fisher", {}),
    ("fisher", {"weight": WEIGHTS}),
    ("fisher", {"normalize": "none", "floor": 0.0, "add": 1e-3}),
    ("fisher", {"normalize": "tensor", "floor": {"a": 0.1, "b": 0.0, "c": 0.0}, "add": 1e-3}),
    ("fisher", {"normalize": "none", "floor": 0.0}),
    ("regmean", {}),
    ("regmean", {"weight": WEIGHTS, "off_diagonal_factor": 1.0}),
    ("regmean", {"off_diagonal_factor": 0.0}),
]


@pytest.mark.parametrize(("method", "values"), CASES, ids=[f"{m}-{i}" for i, (m, _) in enumerate(CASES)])
def test_formula(method: str, values: dict[str, Any]) -> None:
    got, want = ours(method, source(), **values), globals()[f"numpy_{method}"](**values)
    for name in SHAPES:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("normalize", ["none", "tensor", "model"])
def test_equal_fisher_values_give_the_weighted_average(normalize: str) -> None:
    same = given(fisher=dict.fromkeys(NAMES, FISHER["a"]))
    got = ours("fisher", source(measured=same), weight=WEIGHTS, normalize=normalize)
    average = ours("weight_average", source(), weight=WEIGHTS)
    for name in SHAPES:
        np.testing.assert_allclose(got[name], average[name], rtol=2e-7, atol=1e-7)


@pytest.mark.parametrize("normalize", ["none", "tensor", "model"])
@pytest.mark.parametrize("floor", [0.0, 1e-6])
def test_fisher_values_of_zero_everywhere_give_the_weighted_average(normalize: str, floor: float) -> None:
    nothing = {t: {n: np.zeros(s) for n, s in SHAPES.items()} for t in NAMES}
    got = ours("fisher", source(measured=given(fisher=nothing)), weight=WEIGHTS, normalize=normalize, floor=floor)
    for name, want in mean(WEIGHTS).items():
        np.testing.assert_allclose(got[name], want, rtol=1e-6, atol=1e-7)


def test_a_task_whose_fisher_value_is_alone_decides() -> None:
    only = {t: {n: np.full(s, 1e-30 if t == "b" else 0.0) for n, s in SHAPES.items()} for t in NAMES}
    got = ours("fisher", source(measured=given(fisher=only)), floor=0.0)
    for name in SHAPES:
        np.testing.assert_allclose(got[name], TUNED["b"][name], rtol=2e-7, atol=1e-7)


def singular(rank: int) -> np.ndarray:
    x = np.random.default_rng(5).normal(size=(rank, 6)).astype(np.float32)
    return x.T @ x


@pytest.mark.parametrize(
    "gram", [GRAM["a"], singular(2), np.zeros((6, 6), dtype=np.float32)], ids=["full", "rank 2", "0"]
)
@pytest.mark.parametrize("factor", [0.0, 0.9, 1.0])
def test_equal_gram_matrices_give_the_weighted_average(gram: np.ndarray, factor: float) -> None:
    same = given(gram=dict.fromkeys(NAMES, gram))
    got = ours("regmean", source(measured=same), weight=WEIGHTS, off_diagonal_factor=factor)
    average = ours("weight_average", source(), weight=WEIGHTS)
    for name in SHAPES:
        np.testing.assert_allclose(got[name], average[name], rtol=2e-7, atol=1e-7)


def test_singular_gram_matrices_repeat_every_task_on_its_own_inputs() -> None:
    """Tasks that see different inputs are all served; where none looks, the average stays."""
    rows = np.eye(6, dtype=np.float32)
    grams = {t: np.outer(rows[i], rows[i]) for i, t in enumerate(NAMES)}
    got = ours("regmean", source(measured=given(gram=grams)), off_diagonal_factor=1.0)["w"]
    for i, t in enumerate(NAMES):
        np.testing.assert_allclose(got[:, i], TUNED[t]["w"][:, i], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(got[:, 3:], mean()["w"][:, 3:], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["fisher", "regmean"])
def test_one_task_gives_that_tasks_model(method: str) -> None:
    got = ours(method, source("b"), weight=0.05)
    for name in SHAPES:
        np.testing.assert_allclose(got[name], TUNED["b"][name], rtol=1.2e-7, atol=1.2e-7)


@pytest.mark.parametrize("method", ["fisher", "regmean"])
def test_weights_of_zero_for_all_are_refused(method: str) -> None:
    with pytest.raises(ParameterError, match=f"{method}: weight must be above 0 for at least one task; got 0 for all"):
        prepare(method, source(), {"weight": 0})


@pytest.mark.parametrize(("method", "word"), [("fisher", "Fisher"), ("regmean", "Gram")])
def test_tasks_without_statistics_are_named_with_what_to_do(method: str, word: str) -> None:
    advice = "Run `python -m explorer gather RECIPE OUT_DIR`, then merge by the recipe that it writes."
    with pytest.raises(RecipeError) as caught:
        prepare(method, source(measured={"b": given()["b"]}))
    assert str(caught.value) == f"{method}: every task must have {word} statistics; got none for a, c. {advice}"
    partly = given()
    for key in ("fisher/w", "gram/w"):
        del partly["c"][key]
    with pytest.raises(RecipeError) as caught:
        prepare(method, source(measured=partly))
    if method == "fisher":
        must = "fisher: all tasks must have Fisher statistics of the same tensors; got none of w for c."
    else:
        must = "regmean: every task must have Gram statistics; got none for c."
    assert str(caught.value) == f"{must} {advice}"


def test_tensors_without_statistics_are_averaged() -> None:
    without = {t: {k: v for k, v in held.items() if k != "fisher/conv"} for t, held in given().items()}
    got = ours("fisher", source(measured=without))
    np.testing.assert_allclose(got["conv"], mean()["conv"], rtol=1e-6, atol=1e-7)
