"""Every method against its formula, written down once more in plain numpy."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from explorer.compute.source import StateDictSource
from explorer.merging import METHODS, merge_tensor, prepare

SHAPE, T = (30, 20), 5
SCALES = [0.5, 1.0, 0.0, -0.4, 0.8]


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    base = rng.normal(size=SHAPE).astype(np.float32)
    return base, (base + 0.1 * rng.standard_t(3, size=(T, *SHAPE))).astype(np.float32)


BASE, TUNED = data()
TAU = (TUNED - BASE).astype(np.float64)
NAMES = tuple("abcde")


def ours(method: str, **parameters: Any) -> np.ndarray:
    tasks = {t: {"w": torch.from_numpy(TUNED[i])} for i, t in enumerate(NAMES)}
    source = StateDictSource({"w": torch.from_numpy(BASE)}, tasks)
    given = {k: dict(zip(NAMES, v, strict=True)) if isinstance(v, list) else v for k, v in parameters.items()}
    out = merge_tensor(prepare(method, source, given), source, "w")
    return np.stack([o.numpy() for o in out]) if isinstance(out, list) else out.numpy()


def per_task(values: Any) -> np.ndarray:
    return np.broadcast_to(np.asarray(values, dtype=float), T).reshape(T, 1, 1)


def numpy_weight_average(weight: Any = 1.0, normalize: bool = True) -> np.ndarray:
    w = per_task(weight)
    total = (w * TUNED).sum(0)
    return total / w.sum() if normalize else total


def numpy_task_arithmetic(scale: Any = 0.3) -> np.ndarray:
    return BASE + (per_task(scale) * TAU).sum(0)


def kth(density: float) -> np.ndarray:
    sizes = np.sort(np.abs(TAU.reshape(T, -1)), axis=1)[:, ::-1]
    count = min(int(density * sizes.shape[1]) + 1, sizes.shape[1])
    return sizes[:, count - 1].reshape(T, 1, 1)


def numpy_ties_vector(
    scale: Any = 1.0, density: float = 0.2, reduce: str = "mean", weight: Any = 1.0, weighting: str = "before"
) -> np.ndarray:
    trimmed = np.where(np.abs(TAU) >= kth(density), TAU, 0)
    early, late = (weight, 1.0) if weighting == "before" else (1.0, weight)
    votes = per_task(early) * per_task(scale) / np.abs(per_task(scale)).max() * trimmed
    agree = np.sign(votes) == np.sign(votes.sum(0))
    agree &= votes != 0
    total = np.abs(per_task(scale)).max() * np.where(agree, per_task(late) * votes, 0).sum(0)
    return total / np.maximum(agree.sum(0), 1) if reduce == "mean" else total


def numpy_ties(**parameters: Any) -> np.ndarray:
    return BASE + numpy_ties_vector(**parameters)


def masks(threshold: Any, total: np.ndarray) -> np.ndarray:
    return np.abs(TAU) > per_task(threshold) * np.abs(total - TAU)


def numpy_tall_masks(
    scale: Any = 1.0, mask_threshold: Any = 0.4, multi_task_vector: str = "task_arithmetic"
) -> np.ndarray:
    total = TAU.sum(0) if multi_task_vector == "task_arithmetic" else numpy_ties_vector(reduce="sum")
    return BASE + per_task(scale) * masks(mask_threshold, total) * total


def numpy_consensus(
    scale: Any = 0.3, min_tasks: int = 2, mask_threshold: Any = 0.4, multi_task_vector: str = "task_arithmetic"
) -> np.ndarray:
    ties = multi_task_vector == "ties"
    total = numpy_ties_vector(reduce="sum") if ties else TAU.sum(0)
    scaled = numpy_ties_vector(scale=scale, reduce="sum") if ties else (per_task(scale) * TAU).sum(0)
    return BASE + (masks(mask_threshold, total).sum(0) >= min_tasks) * scaled


def numpy_magnitude_masking(scale: Any = 1.0, density: float = 0.1) -> np.ndarray:
    return BASE + per_task(scale) * (np.abs(TAU) >= kth(density)) * TAU.sum(0)


CASES: list[tuple[str, dict[str, Any]]] = [
    ("weight_average", {}),
    ("weight_average", {"weight": [1.0, 2.0, 0.0, 0.5, 1.0]}),
    ("weight_average", {"weight": [0.5, 0.25, 0.0, 0.5, 1.0], "normalize": False}),
    ("task_arithmetic", {}),
    ("task_arithmetic", {"scale": SCALES}),
    ("ties", {}),
    ("ties", {"scale": -0.5, "density": 0.5}),
    ("ties", {"scale": SCALES, "density": 0.4}),
    ("ties", {"scale": SCALES, "reduce": "sum", "density": 1.0}),
    ("ties", {"weight": [2.0, 0.5, 1.0, 0.0, 3.0], "density": 0.5}),
    ("ties", {"weight": [2.0, 0.5, 1.0, 0.0, 3.0], "density": 0.5, "weighting": "after"}),
    ("ties", {"weight": [2.0, 0.5, 1.0, 0.0, 3.0], "scale": SCALES, "reduce": "sum", "weighting": "after"}),
    ("tall_masks", {}),
    ("tall_masks", {"scale": SCALES, "mask_threshold": [0.2, 0.4, 0.6, 0.3, 1.2]}),
    ("tall_masks", {"multi_task_vector": "ties"}),
    ("consensus", {}),
    ("consensus", {"scale": SCALES, "min_tasks": 3}),
    ("consensus", {"scale": SCALES, "multi_task_vector": "ties"}),
    ("magnitude_masking", {}),
    ("magnitude_masking", {"scale": SCALES, "density": 0.35}),
]


@pytest.mark.parametrize(("method", "parameters"), CASES, ids=[f"{m}-{i}" for i, (m, _) in enumerate(CASES)])
def test_formula(method: str, parameters: dict[str, Any]) -> None:
    want = globals()[f"numpy_{method}"](**parameters)
    np.testing.assert_allclose(ours(method, **parameters), want, rtol=1e-5, atol=1e-6)


def test_every_method_has_its_formula_written_down_again() -> None:
    """Here or in a neighbouring file: `CASES` by method, `OTHERS` for methods compared in a test of their own."""
    files = [importlib.import_module(p.stem) for p in Path(__file__).parent.glob("test_methods*formulas.py")]
    written = {m for file in files for m, _ in file.CASES} | {m for file in files for m in getattr(file, "OTHERS", ())}
    assert written == set(METHODS.names())


def test_equal_scales_are_the_paper_times_that_scale() -> None:
    """Election and divisor do not depend on a common λ, whatever its sign."""
    unit = ours("ties").astype(np.float64) - BASE
    for scale in (0.25, 2.0, -1.0):
        np.testing.assert_allclose(ours("ties", scale=scale) - BASE, scale * unit, atol=5e-7)


def test_a_task_of_scale_zero_neither_votes_nor_counts() -> None:
    tasks = {t: {"w": torch.from_numpy(TUNED[i])} for i, t in enumerate(NAMES[:4])}
    source = StateDictSource({"w": torch.from_numpy(BASE)}, tasks)
    without = merge_tensor(prepare("ties", source), source, "w")
    assert isinstance(without, torch.Tensor)
    np.testing.assert_array_equal(ours("ties", scale=[1.0, 1.0, 1.0, 1.0, 0.0]), without.numpy())


@pytest.mark.parametrize(("policy", "want"), [("positive", 0.5), ("negative", -0.25), ("majority", 0.5)])
def test_exact_cancellation_takes_the_declared_sign(policy: str, want: float) -> None:
    """Votes 0.5, −0.25, −0.25 cancel; the rest of the model elects + more often than −."""
    base = {"w": torch.zeros(4)}
    rows = ([0.5, 1.0, 1.0, -1.0], [-0.25, 0.0, 0.0, 0.0], [-0.25, 0.0, 0.0, 0.0])
    source = StateDictSource(base, {t: {"w": torch.tensor(r)} for t, r in zip("abc", rows, strict=True)})
    out = merge_tensor(prepare("ties", source, {"density": 1.0, "zero_sign": policy}), source, "w")
    assert isinstance(out, torch.Tensor)
    assert out.tolist() == [want, 1.0, 1.0, -1.0]


@pytest.mark.parametrize("policy", ["positive", "negative", "majority"])
def test_equal_negative_scales_turn_the_result_of_exact_cancellations_too(policy: str) -> None:
    rows = ([0.5, 1.0, 1.0], [-0.25, 0.0, -2.0], [-0.25, 0.0, 1.0])
    source = StateDictSource(
        {"w": torch.zeros(3)}, {t: {"w": torch.tensor(r)} for t, r in zip("abc", rows, strict=True)}
    )
    up, down = (
        merge_tensor(prepare("ties", source, {"density": 1.0, "zero_sign": policy, "scale": s}), source, "w")
        for s in (1.0, -1.0)
    )
    assert isinstance(up, torch.Tensor)
    assert isinstance(down, torch.Tensor)
    assert torch.equal(up, -down)


def test_consensus_with_ties_takes_the_majority_of_the_scaled_votes() -> None:
    rows = ([0.5, 0.0, 0.0], [0.5, -1.0, -1.0])
    source = StateDictSource(
        {"w": torch.zeros(3)}, {t: {"w": torch.tensor(r)} for t, r in zip("ab", rows, strict=True)}
    )
    values = {"multi_task_vector": "ties", "density": 1.0, "min_tasks": 0, "scale": {"a": 1.0, "b": -1.0}}
    out = merge_tensor(prepare("consensus", source, values), source, "w")
    assert isinstance(out, torch.Tensor)
    assert out.tolist() == [0.5, 1.0, 1.0]


@pytest.mark.parametrize("rule", ["mass", "frequency", "largest_norm_share", "norm_share_mass", "none"])
def test_a_task_equal_to_the_base_changes_no_ties_merge(rule: str) -> None:
    def merged(names: str) -> torch.Tensor:
        tuned = {t: {"w": torch.from_numpy(TUNED[NAMES.index(t)] if t != "e" else BASE)} for t in names}
        source = StateDictSource({"w": torch.from_numpy(BASE)}, tuned)
        out = merge_tensor(prepare("ties", source, {"density": 0.6, "sign_rule": rule}), source, "w")
        assert isinstance(out, torch.Tensor)
        return out

    assert torch.equal(merged("abcd"), merged("abcde"))


def test_majority_of_zero_counts_as_negative() -> None:
    rows = ([0.5, 1.0, -1.0], [-0.5, 0.0, 0.0])
    source = StateDictSource(
        {"w": torch.zeros(3)}, {t: {"w": torch.tensor(r)} for t, r in zip("ab", rows, strict=True)}
    )
    out = merge_tensor(prepare("ties", source, {"density": 1.0}), source, "w")
    assert isinstance(out, torch.Tensor)
    assert out.tolist() == [-0.5, 1.0, -1.0]


def test_merged_weights_that_do_not_fit_the_stored_dtype_are_refused() -> None:
    from explorer.errors import InputError

    source = StateDictSource({"w": torch.zeros(1)}, {"a": {"w": torch.tensor([7e4])}})
    ready = prepare("task_arithmetic", source, {"scale": 1.0})
    with pytest.raises(InputError, match=r"merged weights must fit float16, at most 65504; got 70000"):
        merge_tensor(ready, source, "w", torch.float16)
    assert isinstance(merge_tensor(ready, source, "w", torch.bfloat16), torch.Tensor)
