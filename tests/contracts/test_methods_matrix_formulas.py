"""Methods that see whole tensors and matrices against their formulas, written down once more in plain numpy."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from explorer.compute.source import StateDictSource
from explorer.merging import merge_tensor, prepare

SHAPE, T = (30, 20), 5
SCALES = [0.5, 1.0, 0.0, -0.4, 0.8]
NAMES = tuple("abcde")
svd = np.linalg.svd


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(23)
    base = rng.normal(size=SHAPE)
    return base, base + 0.1 * rng.standard_t(4, size=(T, *SHAPE)) + 0.05 * rng.normal(size=SHAPE)


BASE, TUNED = data()
TAU = TUNED - BASE


def ours(method: str, *, tau: np.ndarray = TAU, base: np.ndarray = BASE, **parameters: Any) -> np.ndarray:
    tasks = {t: {"w": torch.from_numpy(base + d)} for t, d in zip(NAMES, tau, strict=False)}
    source = StateDictSource({"w": torch.from_numpy(base)}, tasks)
    given = {k: dict(zip(NAMES, v, strict=False)) if isinstance(v, list) else v for k, v in parameters.items()}
    out = merge_tensor(prepare(method, source, given), source, "w")
    return np.stack([o.numpy() for o in out]) if isinstance(out, list) else out.numpy()


def per_task(values: Any) -> np.ndarray:
    return np.broadcast_to(np.asarray(values, dtype=float), T).reshape(T, 1, 1)


def arc(first: np.ndarray, second: np.ndarray, t: float) -> np.ndarray:
    """The point at t on the arc between two flat vectors, their lengths blended as the formula says."""
    omega = np.arccos(first @ second / np.linalg.norm(first) / np.linalg.norm(second))
    return (np.sin((1 - t) * omega) * first + np.sin(t * omega) * second) / np.sin(omega)


def numpy_slerp(t: float = 0.5, lerp_above: float = 0.9995) -> np.ndarray:
    return arc(TUNED[0].ravel(), TUNED[1].ravel(), t).reshape(SHAPE)


def numpy_nuslerp(weight: Any = (1.0, 1.0), group: str = "tensor", on: str = "task_vectors") -> np.ndarray:
    t = weight[1] / (weight[0] + weight[1])
    start = BASE if on == "task_vectors" else np.zeros(SHAPE)
    first, second = (m - start for m in TUNED[:2])
    if group == "tensor":
        return start + arc(first.ravel(), second.ravel(), t).reshape(SHAPE)
    if group == "last_axis":
        return start + np.stack([arc(a, b, t) for a, b in zip(first, second, strict=True)])
    return start + np.stack([arc(a, b, t) for a, b in zip(first.T, second.T, strict=True)], axis=1)


def numpy_multislerp(weight: Any = 1.0, on: str = "task_vectors", normalize: bool = True) -> np.ndarray:
    start = BASE if on == "task_vectors" else np.zeros(SHAPE)
    w = per_task(weight) / (per_task(weight).sum() if normalize else 1)
    lengths = np.linalg.norm((TUNED - start).reshape(T, -1), axis=1).reshape(T, 1, 1)
    mean = (w * (TUNED - start) / lengths).sum(0)
    return start + (w * lengths).sum() * mean / np.linalg.norm(mean)


def numpy_karcher(weight: Any = 1.0, on: str = "weights", max_steps: int = 10, tolerance: float = 1e-5) -> np.ndarray:
    start = BASE if on == "task_vectors" else np.zeros(SHAPE)
    flat = (TUNED - start).reshape(T, -1)
    w = per_task(weight).ravel() / per_task(weight).sum()
    lengths = np.linalg.norm(flat, axis=1)
    units = flat / lengths[:, None]
    mean = w @ units / np.linalg.norm(w @ units)
    for _ in range(max_steps):
        angles = np.arccos(units @ mean)
        step = (w * angles / np.sin(angles)) @ (units - np.outer(units @ mean, mean))
        size = np.linalg.norm(step)
        if size < tolerance:
            break
        mean = np.cos(size) * mean + np.sin(size) * step / size
    return start + (w @ lengths * mean).reshape(SHAPE)


def numpy_model_stock(ratio: str = "clamped", group: str = "tensor") -> np.ndarray:
    flat = TAU.reshape(T, 1, -1) if group == "tensor" else TAU
    units = flat / np.linalg.norm(flat, axis=-1, keepdims=True)
    cosine = np.mean([(units[a] * units[b]).sum(-1) for a, b in itertools.combinations(range(T), 2)], axis=0)
    t = T * cosine / (1 + (T - 1) * cosine)
    return BASE + TAU.mean(0) * (np.clip(t, 0, 1) if ratio == "clamped" else t)[:, None]


def procrustes(columns: np.ndarray) -> np.ndarray:
    left, _, right = svd(columns, full_matrices=False)
    return left @ right


def numpy_tsv_merge(scale: Any = 1.0, rank_rule: str = "shared", whiten: bool = True) -> np.ndarray:
    k = min(SHAPE) if rank_rule == "full" else min(SHAPE) // T
    triplets = [svd(d, full_matrices=False) for d in TAU]
    left = np.hstack([u[:, :k] for u, _, _ in triplets])
    right = np.vstack([v[:k] for _, _, v in triplets])
    values = np.concatenate([s[:k] * f for (_, s, _), f in zip(triplets, per_task(scale).ravel(), strict=True)])
    if whiten:
        left, right = procrustes(left), procrustes(right)
    return BASE + left @ np.diag(values) @ right


def truncated(matrix: np.ndarray, k: int) -> np.ndarray:
    left, values, right = svd(matrix, full_matrices=False)
    return left[:, :k] * values[:k] @ right[:k]


def numpy_tsv_compress(scale: Any = 1.0, rank_fraction: float = 0.1) -> np.ndarray:
    k = int(rank_fraction * min(SHAPE))
    return BASE + per_task(scale) * np.stack([truncated(d, k) for d in TAU])


def numpy_iso_c(scale: Any = 1.0) -> np.ndarray:
    left, values, right = svd((per_task(scale) * TAU).sum(0), full_matrices=False)
    return BASE + values.mean() * left @ right


def numpy_iso_cts(scale: Any = 1.0, common_fraction: float = 0.8) -> np.ndarray:
    scaled = per_task(scale) * TAU
    r = min(SHAPE)
    own = round((r - int(r * common_fraction)) / T)
    left, values, right = svd(scaled.sum(0), full_matrices=False)
    parts = [(left[:, : r - T * own], values[: r - T * own], right[: r - T * own])]
    for d in scaled[per_task(scale).ravel() != 0]:
        u, s, v = svd(d - parts[0][0] @ parts[0][0].T @ d, full_matrices=False)
        parts.append((u[:, :own], s[:own], v[:own]))
    columns, rows = np.hstack([u for u, _, _ in parts]), np.vstack([v for _, _, v in parts])
    return BASE + np.concatenate([s for _, s, _ in parts]).mean() * procrustes(columns) @ procrustes(rows)


def numpy_wudi(scale: float = 1.0, steps: int = 300, learning_rate: float = 1e-5) -> np.ndarray:
    merged, m, v = TAU.sum(0), np.zeros(SHAPE), np.zeros(SHAPE)
    for i in range(1, steps + 1):
        gradient = sum(2 * (merged - d) @ d.T @ d / (d**2).sum() for d in TAU)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        merged = merged - learning_rate * (m / (1 - 0.9**i)) / (np.sqrt(v / (1 - 0.999**i)) + 1e-8)
    return BASE + scale * merged


def numpy_wudi_closed_form(scale: Any = 1.0) -> np.ndarray:
    sizes = (TAU**2).sum((1, 2))
    targets = sum(f * d @ d.T @ d / n for f, d, n in zip(per_task(scale).ravel(), TAU, sizes, strict=True))
    return BASE + targets @ np.linalg.pinv(sum(d.T @ d / n for d, n in zip(TAU, sizes, strict=True)))


def numpy_knots(scale: float = 0.6, density: float = 0.2, reduce: str = "mean", basis: str = "inputs") -> np.ndarray:
    tau = TAU if basis == "inputs" else TAU.transpose(0, 2, 1)
    left, values, right = svd(np.hstack(list(tau)), full_matrices=False)
    rows = np.stack(np.split(values[:, None] * right, T, axis=1))
    sizes = np.sort(np.abs(rows).reshape(T, -1), axis=1)[:, ::-1]
    trimmed = np.where(np.abs(rows) >= sizes[:, int(density * sizes.shape[1])].reshape(T, 1, 1), rows, 0)
    agree = (np.sign(trimmed) == np.sign(trimmed.sum(0))) & (trimmed != 0)
    total = (trimmed * agree).sum(0)
    merged = left @ (total / np.maximum(agree.sum(0), 1) if reduce == "mean" else total)
    return BASE + scale * (merged if basis == "inputs" else merged.T)


def numpy_twin_merging(
    shared_scale: Any = 0.3, exclusive_weight: Any = 1.0, rank_fraction: float = 0.1, compress: str = "svd"
) -> np.ndarray:
    shared = (per_task(shared_scale) * TAU).sum(0)
    rest = TAU - shared
    if compress == "svd":
        kept = np.stack([truncated(d, int(rank_fraction * min(SHAPE))) for d in rest])
    else:
        sizes = np.sort(np.abs(rest).reshape(T, -1), axis=1)[:, ::-1]
        kept = rest * (np.abs(rest) >= sizes[:, int(rank_fraction * rest[0].size) - 1].reshape(T, 1, 1))
    return BASE + shared + per_task(exclusive_weight) * kept


def numpy_reversible(scale: Any = 1.0, components: int = 1, scope: str = "model") -> np.ndarray:
    flat = TAU.reshape(T, -1)
    _, _, directions = svd(flat - flat.mean(0), full_matrices=False)
    kept = directions[:components]
    return BASE + per_task(scale) * (flat.mean(0) + (flat - flat.mean(0)) @ kept.T @ kept).reshape(T, *SHAPE)


def numpy_reversible_low_rank(scale: Any = 1.0, rank: int = 16, components: int = 1) -> np.ndarray:
    factors: list[list[np.ndarray]] = [[], []]
    for delta in TAU:
        u, s, v = svd(delta, full_matrices=False)
        u, s, v = u[:, :rank], np.sqrt(s[:rank]), v[:rank]
        signs = np.array([np.sign(column[np.argmax(np.abs(column))]) for column in u.T])
        factors[0].append(u * s * signs)
        factors[1].append(v.T * s * signs)
    rebuilt = []
    for side in map(np.stack, factors):  # [T, positions, rank]
        places = []
        for place in side.transpose(1, 0, 2):
            mean = place.mean(0)
            _, _, directions = svd(place - mean, full_matrices=False)
            kept = directions[:components]
            places.append(mean + (place - mean) @ kept.T @ kept)
        rebuilt.append(np.stack(places, axis=1))
    return BASE + per_task(scale) * (rebuilt[0] @ rebuilt[1].transpose(0, 2, 1))


CASES: list[tuple[str, dict[str, Any]]] = [
    ("slerp", {"lerp_above": 1.0}),
    ("slerp", {"t": 0.2, "lerp_above": 1.0}),
    ("nuslerp", {}),
    ("nuslerp", {"weight": [0.4, 1.0], "group": "last_axis"}),
    ("nuslerp", {"weight": [2.0, 1.0], "group": "first_axis"}),
    ("nuslerp", {"weight": [0.4, 1.0], "on": "weights"}),
    ("multislerp", {}),
    ("multislerp", {"weight": [0.5, 1.0, 0.0, 2.0, 0.2], "normalize": False}),
    ("multislerp", {"weight": [0.5, 1.0, 0.0, 2.0, 0.2], "on": "weights"}),
    ("karcher", {}),
    ("karcher", {"weight": [0.5, 1.0, 0.0, 2.0, 0.2], "on": "task_vectors", "max_steps": 3}),
    ("model_stock", {}),
    ("model_stock", {"group": "row", "ratio": "published"}),
    ("tsv_merge", {}),
    ("tsv_merge", {"scale": SCALES}),
    ("tsv_merge", {"rank_rule": "full"}),
    ("tsv_merge", {"scale": 0.5, "whiten": False}),
    ("tsv_compress", {}),
    ("tsv_compress", {"scale": SCALES, "rank_fraction": 0.5}),
    ("iso_c", {}),
    ("iso_c", {"scale": SCALES}),
    ("iso_cts", {"common_fraction": 0.4}),
    ("iso_cts", {"scale": SCALES, "common_fraction": 0.5}),
    ("wudi", {}),
    ("wudi", {"scale": -0.5, "steps": 40, "learning_rate": 1e-4}),
    ("wudi_closed_form", {}),
    ("wudi_closed_form", {"scale": SCALES}),
    ("knots", {}),
    ("knots", {"scale": -0.5, "density": 0.6, "reduce": "sum", "basis": "outputs"}),
    ("twin_merging", {}),
    ("twin_merging", {"shared_scale": SCALES, "exclusive_weight": [0.0, 1.0, 0.5, 0.2, 0.7], "rank_fraction": 0.4}),
    ("twin_merging", {"compress": "magnitude", "rank_fraction": 0.2}),
    ("reversible", {}),
    ("reversible", {"scale": SCALES, "components": 3, "scope": "tensor"}),
    ("reversible_low_rank", {}),
    ("reversible_low_rank", {"scale": SCALES, "rank": 6, "components": 2}),
]


@pytest.mark.parametrize(("method", "parameters"), CASES, ids=[f"{m}-{i}" for i, (m, _) in enumerate(CASES)])
def test_formula(method: str, parameters: dict[str, Any]) -> None:
    want = globals()[f"numpy_{method}"](**parameters)
    got = ours(method, tau=TAU[:2] if method in ("slerp", "nuslerp") else TAU, **parameters)
    np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-8)
