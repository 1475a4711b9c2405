"""mergekit's methods on tiny models against independent numpy restatements, compiled and by torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mergekit_zoo import LLAMA, llama, recipe, save, tuned

from explorer.compute import readiness
from explorer.errors import CheckpointError
from explorer.mergekit.opening import open_references
from explorer.mergekit.plan import Plan, plan
from explorer.mergekit.reading import read_text
from explorer.mergekit.tensors import merge_out

Array = np.ndarray
NAMES = ("model.embed_tokens.weight", "model.norm.weight", "model.layers.0.mlp.down_proj.weight")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and three fine-tunes in float32, whose changes all differ in size: no ties at a threshold."""
    folder = tmp_path_factory.mktemp("mergekit")
    base = llama(0, layers=1)
    config = {**LLAMA, "num_hidden_layers": 1}
    save(folder / "base", base, config)
    for i in (1, 2, 3):
        save(folder / f"ft{i}", tuned(base, i, share=1.0, size=0.05), config)
    return folder


@pytest.fixture(params=[True, False], ids=["compiled", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if not request.param:
        monkeypatch.setattr(readiness, "ready", lambda weights=0: False)
    yield


def planned(folder: Path, method: str, each: str, shared: str = "", *, count: int = 3, base: bool = True) -> Plan:
    lines = [f"merge_method: {method}", "models:"]
    lines += [f"- {{model: @ft{i}, parameters: {{{each.format(i=i)}}}}}" for i in range(1, count + 1)]
    lines += ["base_model: @base"] if base else []
    (document,) = read_text(recipe("\n".join([*lines, f"parameters: {{{shared}}}"]), folder)).documents
    return plan(document, open_references(document))


def numbers(folder: Path, name: str, count: int = 3) -> tuple[Array, Array]:
    from safetensors.numpy import load_file

    held = [load_file(folder / m / "model.safetensors")[name].astype(np.float64) for m in ("base", "ft1", "ft2", "ft3")]
    return held[0], np.stack(held[1 : count + 1])


def check(found: Plan, folder: Path, expected: Callable[[Array, Array], Array], count: int = 3) -> None:
    for out in found.tensors:
        if out.name in NAMES:
            wanted = expected(*numbers(folder, out.name, count))
            assert np.allclose(merge_out(found, out).numpy(), wanted, rtol=2e-6, atol=2e-7), out.name


def sizes(delta: Array) -> Array:
    """The rank of every entry by size, 0 for the smallest."""
    order = np.abs(delta).ravel().argsort(kind="stable")
    ranks = np.empty_like(order)
    ranks[order] = np.arange(order.size)
    return ranks.reshape(delta.shape)


def trimmed(deltas: Array, density: float, gamma: float | None, *, rescale: bool) -> Array:
    kept = []
    for delta in deltas:
        ranks, n = sizes(delta), delta.size
        bottom = n - max(1, int(density * n)) if gamma is None else max(0, n - int(density * n) - int(gamma * n))
        mask = (ranks >= bottom) & ((ranks < bottom + int(density * n)) if gamma is not None else True)
        grow = np.abs(delta).sum() / np.abs(delta * mask).sum() if rescale else 1
        kept.append(delta * mask * grow)
    return np.stack(kept)


def elected(deltas: Array, weights: Array, *, elect: bool, normalize: bool) -> Array:
    own = weights.reshape(-1, *[1] * (deltas.ndim - 1))
    votes = deltas * own
    agree = np.sign(votes) == np.where(votes.sum(0) >= 0, 1, -1) if elect else np.ones_like(votes)
    share = (own * agree).sum(0)
    return (votes * agree).sum(0) / (np.where(share == 0, 1, share) if normalize else 1)


@pytest.mark.parametrize(
    ("method", "gamma", "elect", "normalize", "rescale", "signs"),
    [
        ("ties", None, True, True, False, 1),
        ("ties", None, True, False, True, 1),
        ("ties", None, True, True, True, -1),
        ("breadcrumbs", 0.05, False, False, False, 1),
        ("breadcrumbs_ties", 0.05, True, True, True, 1),
        ("breadcrumbs", 0.0, False, True, False, -1),
    ],
)
@pytest.mark.usefixtures("way")
def test_trimmed_task_vectors(
    models: Path, method: str, gamma: float | None, elect: bool, normalize: bool, rescale: bool, signs: int
) -> None:
    weights = signs * np.array([0.1, 0.2, 0.3])
    each = f"weight: {signs * 0.1}, density: 0.4" + (f", gamma: {gamma}" if gamma is not None else "")
    shared = f"lambda: 1.5, normalize: {str(normalize).lower()}, rescale: {str(rescale).lower()}"
    found = planned(models, method, each.replace(f"{signs * 0.1}", "{i}e-1" if signs > 0 else "-{i}e-1"), shared)

    def expected(base: Array, tasks: Array) -> Array:
        kept = trimmed(tasks - base, 0.4, gamma, rescale=rescale)
        return base + 1.5 * elected(kept, weights, elect=elect, normalize=normalize)

    check(found, models, expected)


@pytest.mark.usefixtures("way")
def test_linear_and_task_arithmetic(models: Path) -> None:
    w = np.array([1.0, 2.0, 3.0])
    check(planned(models, "linear", "weight: {i}", base=False), models, lambda b, t: np.tensordot(w, t, 1) / w.sum())
    plain = planned(models, "linear", "weight: {i}", "normalize: false", base=False)
    check(plain, models, lambda b, t: np.tensordot(w, t, 1))
    arithmetic = planned(models, "task_arithmetic", "weight: {i}", "lambda: 0.1")
    check(arithmetic, models, lambda b, t: b + 0.1 * np.tensordot(w, t - b, 1))


def on_sphere(vectors: Array, t: float, straight: float = 1.0) -> Array:
    a, b = vectors.reshape(2, -1)
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    angle = np.arccos(cosine)
    if abs(cosine) > straight:
        return (1 - t) * vectors[0] + t * vectors[1]
    return (np.sin((1 - t) * angle) * vectors[0] + np.sin(t * angle) * vectors[1]) / np.sin(angle)


@pytest.mark.usefixtures("way")
def test_methods_on_the_sphere(models: Path) -> None:
    arc = planned(models, "slerp", "", "t: 0.3", count=1)
    check(arc, models, lambda b, t: on_sphere(np.stack([b, t[0]]), 0.3, 0.9995), 1)
    between = planned(models, "nuslerp", "weight: {i}", count=2)
    check(between, models, lambda b, t: b + on_sphere(t - b, 2 / 3), 2)
    whole = planned(models, "nuslerp", "weight: {i}", count=2, base=False)
    check(whole, models, lambda b, t: on_sphere(t, 2 / 3), 2)

    def mean(b: Array, t: Array) -> Array:
        flat = (t - b).reshape(3, -1)
        w, lengths = np.array([1, 2, 3]) / 6, np.linalg.norm(flat, axis=1)
        direction = (w / (lengths + 1e-8)) @ flat
        return b + (direction / np.linalg.norm(direction) * (w @ lengths)).reshape(b.shape)

    check(planned(models, "multislerp", "weight: {i}"), models, mean)

    def riemannian(b: Array, t: Array) -> Array:
        flat = t.reshape(3, -1)
        lengths = np.linalg.norm(flat, axis=1)
        units = flat / lengths[:, None]
        point = units.mean(0) / np.linalg.norm(units.mean(0))
        for _ in range(30):
            dots = units @ point
            angles = np.arccos(np.clip(dots, -1, 1))
            step = ((angles / np.sin(angles))[:, None] * (units - dots[:, None] * point)).mean(0)
            size = np.linalg.norm(step)
            point = np.cos(size) * point + np.sin(size) * step / size if size > 1e-14 else point
        return (point * lengths.mean()).reshape(b.shape)

    check(planned(models, "karcher", "", "max_iter: 30, tol: 1e-9", base=False), models, riemannian)


def stock(deltas: Array) -> Array:
    n = len(deltas)
    lengths = np.linalg.norm(deltas, axis=-1)
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    cosine = np.mean([(deltas[i] * deltas[j]).sum(-1) / (lengths[i] * lengths[j]) for i, j in pairs], axis=0)
    return n * cosine / (1 + (n - 1) * cosine)


@pytest.mark.usefixtures("way")
def test_model_stock_whole_and_by_rows(models: Path) -> None:
    found = planned(models, "model_stock", "")
    check(found, models, lambda b, t: b + stock((t - b).reshape(3, -1)) * (t - b).mean(0))
    rows = planned(models, "model_stock", "", "filter_wise: true")
    check(rows, models, lambda b, t: b + stock(t - b)[..., None] * (t - b).mean(0))


@pytest.mark.usefixtures("way")
def test_methods_of_their_own(models: Path) -> None:
    near = planned(models, "nearswap", "", "t: 0.02", count=1)
    check(near, models, lambda b, t: b + np.clip(t[0] - b, -0.02, 0.02), 1)

    def ram(b: Array, t: Array, r: float = 0.0, alpha: float = 0.0) -> Array:
        deltas = t - b
        changed = np.abs(deltas) > 0.04
        count = changed.sum(0)
        grow = [1 + r * min(alpha, (c & (count > 1)).sum() / max((c & (count == 1)).sum(), 0.04)) for c in changed]
        alone = np.tensordot(grow, deltas * (changed & (count == 1)), 1)
        return b + alone + (deltas * (changed & (count > 1))).sum(0) / np.maximum(count, 1)

    check(planned(models, "ram", "", "epsilon: 0.04"), models, ram)
    check(planned(models, "ramplus_tl", "", "epsilon: 0.04, r: 0.5, alpha: 3"), models, lambda b, t: ram(b, t, 0.5, 3))

    def sce(b: Array, t: Array) -> Array:
        deltas = t - b
        variance = deltas.var(0)
        kept = deltas * (sizes(variance) >= variance.size - int(np.count_nonzero(variance) * 0.3))
        energy = (kept**2).reshape(3, -1).mean(1)
        weights = (energy / energy.sum()).reshape(-1, *[1] * b.ndim)
        agree = weights * (np.sign(kept) == np.where(kept.sum(0) >= 0, 1, -1))
        return b + (kept * agree).sum(0) / np.maximum(agree.sum(0), 1e-6)

    check(planned(models, "sce", "", "select_topk: 0.3"), models, sce)

    def fusion(b: Array, t: Array) -> Array:
        soft = [np.exp(x - x.max(-1, keepdims=True)) for x in (t[0], b)]
        p, q = (x / x.sum(-1, keepdims=True) + 1e-8 for x in soft)
        importance = np.abs(t[0] - b) * (p * np.log(p / q)).sum(-1, keepdims=True)
        ends = np.sort(importance.ravel())[[int(x * (importance.size - 1)) for x in (0.25, 0.5, 0.75)]]
        return b + (t[0] - b) * (importance >= ends[1] + 1.5 * (ends[2] - ends[0]))

    check(planned(models, "arcee_fusion", "", count=1), models, fusion, 1)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della", "della_linear"])
@pytest.mark.usefixtures("way")
def test_random_methods_keep_as_many_and_the_l1_norm(models: Path, method: str) -> None:
    found = planned(models, method, "weight: 1, density: 0.6", "normalize: false", count=1)
    for out in found.tensors:
        if out.name not in NAMES[::2]:
            continue
        base, tasks = numbers(models, out.name, 1)
        change = merge_out(found, out, seed=1).double().numpy() - base
        kept = np.abs(change) > 1e-6
        ratio = (change / (tasks[0] - base))[kept]
        spread = 4 * np.sqrt(0.24 / base.size)
        assert abs(kept.mean() - 0.6) < spread
        assert np.allclose(ratio, ratio.mean(), rtol=1e-3)
        assert np.isclose(np.abs(change).sum(), np.abs(tasks[0] - base).sum(), rtol=1e-4)
        again, other = merge_out(found, out, seed=1).numpy(), merge_out(found, out, seed=2).numpy()
        assert np.array_equal(again.astype(np.float64) - base, change) and not np.array_equal(other, again)


def test_both_ways_draw_alike(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans = [planned(models, m, "weight: 0.5, density: 0.6") for m in ("dare_ties", "della")]
    fast = [merge_out(p, out) for p in plans for out in p.tensors]
    monkeypatch.setattr(readiness, "ready", lambda weights=0: False)
    slow = [merge_out(p, out) for p in plans for out in p.tensors]
    assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-7) for a, b in zip(fast, slow, strict=True))


@pytest.mark.usefixtures("way")
def test_a_value_that_is_no_number_is_named(models: Path, tmp_path: Path) -> None:
    state = llama(0, layers=1)
    state["model.norm.weight"][3] = float("nan")
    save(tmp_path / "bad", state, {**LLAMA, "num_hidden_layers": 1})
    for method, base in (("linear", ""), ("ties", "base_model: @base"), ("sce", "base_model: @base")):
        text = f"merge_method: {method}\nmodels: [{{model: @ft1}}, {{model: {tmp_path}/bad}}]\n{base}\n"
        (document,) = read_text(recipe(text + "parameters: {weight: 1, density: 0.5}", models)).documents
        found = plan(document, open_references(document))
        with pytest.raises(CheckpointError, match=r"model\.norm\.weight must be finite; got a value .* in .*bad"):
            for out in found.tensors:
                merge_out(found, out)


def test_whole_numbers_must_agree(tmp_path: Path) -> None:
    for name, value in (("a", 1), ("b", 1), ("c", 2)):
        save(tmp_path / name, {"x.weight": torch.ones(2), "position_ids": torch.tensor([value])}, {})
    results: list[Any] = []
    for other in ("b", "c"):
        text = f"merge_method: linear\nmodels: [{{model: @a}}, {{model: @{other}}}]\nparameters: {{weight: 1}}\n"
        (document,) = read_text(recipe(text, tmp_path)).documents
        found = plan(document, open_references(document))
        out = next(o for o in found.tensors if o.copied)
        try:
            results.append(merge_out(found, out).tolist())
        except CheckpointError as error:
            results.append("must have the same" in str(error))
    assert results == [[1], True]
