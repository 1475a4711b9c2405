"""Dropping, scoring and masking methods against their formulas, written down once more in plain numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from explorer.compute.source import StateDictSource
from explorer.merging import merge_tensor, prepare

SHAPE, T = (30, 20), 5
SCALES = [0.5, 1.0, 0.0, -0.4, 0.8]
NAMES = tuple("abcde")


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(11)
    base = rng.normal(size=SHAPE).astype(np.float32)
    tuned = base + 0.1 * rng.standard_t(3, size=(T, *SHAPE)) * (rng.random((T, *SHAPE)) < 0.7)
    return base, tuned.astype(np.float32)


BASE, TUNED = data()
TAU = (TUNED - BASE).astype(np.float64)
magnitudes = np.abs(TAU)


def ours(method: str, *, seed: int = 0, tasks: tuple[str, ...] = NAMES, **parameters: Any) -> np.ndarray:
    tuned = {t: {"w": torch.from_numpy(TUNED[NAMES.index(t)])} for t in tasks}
    source = StateDictSource({"w": torch.from_numpy(BASE)}, tuned)
    given = {k: dict(zip(tasks, v, strict=True)) if isinstance(v, list) else v for k, v in parameters.items()}
    out = merge_tensor(prepare(method, source, given, seed=seed), source, "w")
    return np.stack([o.numpy() for o in out]) if isinstance(out, list) else out.numpy()


def per_task(values: Any) -> np.ndarray:
    return np.broadcast_to(np.asarray(values, dtype=float), T).reshape(T, 1, 1)


def largest(values: np.ndarray, k: int) -> np.ndarray:
    """The k-th largest value of each task, shaped to broadcast."""
    return np.sort(values.reshape(len(values), -1), axis=1)[:, ::-1][:, k - 1].reshape(-1, 1, 1)


def elected(values: np.ndarray, scale: Any, mean: bool) -> np.ndarray:
    """The scaled values that have the sign of their sum, added or averaged over the tasks that agree."""
    votes = per_task(scale) * values
    agree = (np.sign(votes) == np.where(votes.sum(0) >= 0, 1, -1)) & (votes != 0)
    total = (votes * agree).sum(0)
    return total / np.maximum(agree.sum(0), 1) if mean else total


def numpy_breadcrumbs(
    scale: Any = 0.3, drop_smallest: Any = 0.85, drop_largest: Any = 0.007, scope: str = "tensor", elect: str = "none"
) -> np.ndarray:
    order = magnitudes.reshape(T, *((1, -1) if scope == "tensor" else SHAPE)).argsort(-1).argsort(-1).reshape(T, *SHAPE)
    n = BASE.size if scope == "tensor" else SHAPE[1]
    first, last = np.floor(per_task(drop_smallest) * n + 1e-6), n - np.floor(per_task(drop_largest) * n + 1e-6)
    crumbs = TAU * ((order >= first) & (order < last))
    return BASE + (elected(crumbs, scale, False) if elect == "mass" else (per_task(scale) * crumbs).sum(0))


def numpy_dare(scale: Any = 0.3, density: float = 0.5, drop: str = "smallest", elect: str = "none") -> np.ndarray:
    """Only what is not random: the smallest entries dropped, the rest divided by the density."""
    n = BASE.size
    kept = TAU * (magnitudes >= largest(magnitudes, n - int((1 - density) * n + 1e-6))) / density
    return BASE + (elected(kept, scale, False) if elect == "mass" else (per_task(scale) * kept).sum(0))


def numpy_della(scale: Any = 1.0, density: float = 1.0, elect: str = "mass") -> np.ndarray:
    """Only what is not random: nothing dropped."""
    if elect == "none":
        return BASE + (per_task(scale) * TAU).sum(0) / np.count_nonzero(per_task(scale))
    return BASE + elected(TAU, scale, True)


def numpy_pcb(scale: Any = 1.2, density: float = 0.05, variant: str = "es") -> np.ndarray:
    if variant == "paper":
        return BASE + numpy_pcb_of_the_paper(per_task(scale), density)
    q, n = (0.0001 if variant == "root" else 0.01), BASE.size
    low, high = (largest(magnitudes, n - int(i)) for i in (n * q, n * (1 - q) - 1))
    clamped = np.clip(magnitudes, low, high)
    nu = (clamped - low) / (high - low)
    signed = np.sign(TAU) * nu
    if variant == "es":
        agreement = np.tanh(signed[:, None] * signed[None]).sum(1)
    else:
        agreement = np.tanh(TAU * (signed if variant == "vision" else TAU).sum(0))
    score = np.exp(T * nu**2) * agreement
    score = np.maximum(score, largest(score, n - int(n * (1 - density))))
    low, high = (f(score, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
    share = (score - low) / (high - low)
    return BASE + (per_task(scale) * np.sign(TAU) * clamped * share).sum(0) / np.maximum(share.sum(0), 1e-12)


def numpy_pcb_of_the_paper(scale: np.ndarray, density: float) -> np.ndarray:
    def softmax(values: np.ndarray, factor: float) -> np.ndarray:
        power = np.exp(factor * (values - values.min()) / (values.max() - values.min()))
        return power / power.sum()

    within = np.stack([softmax(t**2, T) for t in TAU])
    between = np.stack([sum(softmax(t * other, 1) for other in TAU) for t in TAU])
    score = within * between
    score *= score >= largest(score, BASE.size - int(BASE.size * (1 - density)))
    return (scale * TAU * score).sum(0) / np.maximum(score.sum(0), 1e-12)


def numpy_emr(scale: Any = 1.0, rescaler: str = "paper") -> np.ndarray:
    sign = np.where(TAU.sum(0) > 0, 1, -1)
    masks = TAU * sign > 0
    unified = sign * (magnitudes * masks).max(0)
    factor = magnitudes.sum((1, 2)) / (masks * np.abs(unified)).sum((1, 2))  # one tensor: sums and means agree
    return BASE + per_task(scale) * factor.reshape(T, 1, 1) * masks * unified


def numpy_localize_and_stitch(scale: Any = 1.0, density: float = 0.05) -> np.ndarray:
    masks = magnitudes > (largest(magnitudes, int(density * BASE.size)) if density < 1 else 0)
    return BASE + (per_task(scale) * masks * TAU).sum(0) / np.maximum(masks.sum(0), 1)


def numpy_sce(scale: Any = 1.0, select_density: float = 1.0) -> np.ndarray:
    variance = TAU.var(0)
    k = int(select_density * np.count_nonzero(variance))
    tau = TAU * (variance >= np.sort(variance, axis=None)[::-1][k - 1]) if select_density < 1 else TAU
    weights = (tau**2).mean((1, 2)).reshape(T, 1, 1)
    agree = weights * (np.sign(tau) == np.where(tau.sum(0) >= 0, 1, -1))
    return BASE + (per_task(scale) * agree * tau).sum(0) / np.where(agree.sum(0) > 0, agree.sum(0), 1)


def numpy_ram(scale: Any = 1.0, change_threshold: float = 1e-5) -> np.ndarray:
    changed = change_threshold < magnitudes
    return BASE + (per_task(scale) * changed * TAU).sum(0) / np.maximum(changed.sum(0), 1)


def numpy_ram_plus(
    scale: Any = 1.0, change_threshold: float = 1e-5, boost: float = 0.1, ratio_limit: float = 0.2
) -> np.ndarray:
    changed = change_threshold < magnitudes
    alone = changed & (changed.sum(0) == 1)
    ratio = (changed & ~alone).sum((1, 2)) / np.maximum(alone.sum((1, 2)), 1e-5)
    factor = np.where(alone, 1 + boost * np.minimum(ratio, ratio_limit).reshape(T, 1, 1), 1)
    return BASE + (per_task(scale) * factor * changed * TAU).sum(0) / np.maximum(changed.sum(0), 1)


def numpy_tatr(scale: Any = 0.3, trusted: float = 0.99) -> np.ndarray:
    conflict = sum(magnitudes[s] * magnitudes[t] for s in range(T) for t in range(T) if s != t)
    border = np.sort(conflict, axis=None)[min(int(trusted * BASE.size), BASE.size - 1)]
    return BASE + ((conflict < border) | (conflict == 0)) * (per_task(scale) * TAU).sum(0)


def numpy_ownership(scale: Any = 1.0, owner: str = "largest", density: float = 1.0) -> np.ndarray:
    claims = (magnitudes >= (largest(magnitudes, int(density * BASE.size)) if density < 1 else 0)) & (TAU != 0)
    owners = (magnitudes * claims).argmax(0) if owner == "largest" else claims.argmax(0)
    mine = (owners == np.arange(T).reshape(T, 1, 1)) & claims
    return BASE + (per_task(scale) * mine * TAU).sum(0)


def numpy_half_reset(scale: Any = 1.0, reset_fraction: Any = 0.0) -> np.ndarray:
    """Only what is not random: one block, reset by some tasks."""
    return BASE + (per_task(scale) * (per_task(reset_fraction) == 0) * TAU).sum(0)


def numpy_adamerging_pp(scale: Any = 0.3, density: float = 0.2) -> np.ndarray:
    trimmed = TAU * (magnitudes >= largest(magnitudes, min(int(density * BASE.size) + 1, BASE.size)))
    agree = np.sign(trimmed) == np.sign(trimmed.sum(0))
    return BASE + (per_task(scale) * agree * trimmed).sum(0)


CASES: list[tuple[str, dict[str, Any]]] = [
    ("breadcrumbs", {}),
    ("breadcrumbs", {"scale": SCALES, "drop_smallest": [0.5, 0.25, 0.0, 0.75, 0.1], "drop_largest": 0.05}),
    ("breadcrumbs", {"scope": "row", "drop_smallest": 0.6, "drop_largest": [0.1, 0.05, 0.2, 0.0, 0.15]}),
    ("breadcrumbs", {"scale": SCALES, "elect": "mass", "drop_smallest": 0.4}),
    ("dare", {"drop": "smallest", "scale": SCALES, "density": 0.3}),
    ("dare", {"drop": "smallest", "elect": "mass", "density": 1.0}),
    ("della", {"density": 1.0}),
    ("della", {"density": 1.0, "scale": SCALES, "elect": "none"}),
    ("pcb", {"density": 0.2}),
    ("pcb", {"variant": "vision", "scale": SCALES, "density": 0.1}),
    ("pcb", {"variant": "nlp", "density": 0.9}),
    ("pcb", {"variant": "root", "density": 0.3}),
    ("pcb", {"variant": "paper", "scale": SCALES, "density": 0.2}),
    ("emr", {}),
    ("emr", {"scale": SCALES, "rescaler": "published"}),
    ("localize_and_stitch", {}),
    ("localize_and_stitch", {"scale": SCALES, "density": 0.4}),
    ("localize_and_stitch", {"density": 1.0}),
    ("sce", {}),
    ("sce", {"scale": SCALES, "select_density": 0.3}),
    ("ram", {}),
    ("ram", {"scale": SCALES, "change_threshold": 0.05}),
    ("ram_plus", {"change_threshold": 0.1}),
    ("ram_plus", {"scale": SCALES, "change_threshold": 0.1, "boost": 1.0, "ratio_limit": 3.0}),
    ("tatr", {}),
    ("tatr", {"scale": SCALES, "trusted": 0.5}),
    ("ownership", {}),
    ("ownership", {"scale": SCALES, "density": 0.3}),
    ("ownership", {"owner": "first", "density": 0.5}),
    ("half_reset", {"scale": SCALES, "reset_fraction": [0.0, 1.0, 0.0, 1.0, 0.0]}),
    ("adamerging_pp", {}),
    ("adamerging_pp", {"scale": SCALES, "density": 0.6}),
]


@pytest.mark.parametrize(("method", "parameters"), CASES, ids=[f"{m}-{i}" for i, (m, _) in enumerate(CASES)])
def test_formula(method: str, parameters: dict[str, Any]) -> None:
    want = globals()[f"numpy_{method}"](**parameters)
    np.testing.assert_allclose(ours(method, **parameters), want, rtol=1e-4, atol=2e-6)


OTHERS = ("nearswap", "arcee_fusion")
"""Methods of one donor, compared below."""


def test_nearswap_moves_by_at_most_the_step() -> None:
    want = BASE + 0.5 * np.clip(TAU[0], -0.02, 0.02)
    np.testing.assert_allclose(ours("nearswap", tasks=("a",), scale=0.5, largest_step=0.02), want, atol=1e-6)


def test_arcee_fusion_copies_outliers() -> None:
    old, new = (np.exp(x) / np.exp(x).sum(1, keepdims=True) + 1e-8 for x in (BASE.astype(float), BASE + TAU[1]))
    importance = magnitudes[1] * (new * np.log(new / old)).sum(1, keepdims=True)
    low, middle, high = (np.sort(importance, axis=None)[int(q * (BASE.size - 1))] for q in (0.25, 0.5, 0.75))
    chosen = importance >= middle + 1.5 * (high - low)
    assert 0 < chosen.sum() < BASE.size / 4
    np.testing.assert_allclose(ours("arcee_fusion", tasks=("b",)), BASE + chosen * TAU[1], atol=1e-6)
