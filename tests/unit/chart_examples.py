"""Made-up results with the columns and sizes of real ones, for the tests of charts and files."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from explorer.results import SCOPE, SCOPE_COLUMNS, SCORES, Column, Result, count, fraction, number, text

TASKS = ("definitions", "intents", "languages", "movies", "newsgroups", "products", "spam")
LAYERS = (("embeddings", -1), ("layer 0", 0), ("layer 1", 1))
KINDS = (
    "embedding",
    "norm",
    "attention query",
    "attention key",
    "attention value",
    "attention output",
    "mlp in",
    "mlp out",
)
PAIR = (text("task_a", "first task"), text("task_b", "second task"))
THRESHOLDS = np.arange(1, 41) / 20


def scopes(cells: bool = True) -> list[dict[str, object]]:
    """Scope columns of the model, each layer, each kind and, if wanted, each cell that exists."""
    whole = dict(zip(SCOPE_COLUMNS, ("model", "", -1, "", ""), strict=True))
    layers = [{**whole, "level": "layer", "layer": name, "layer_index": i} for name, i in LAYERS]
    kinds = [{**whole, "level": "kind", "kind": kind} for kind in KINDS]
    inside = [
        {**layer, "level": "cell", "kind": kind}
        for layer in layers
        for kind in KINDS
        if kind == "norm" or (kind == "embedding") == (layer["layer"] == "embeddings")
    ]
    return [whole, *layers, *kinds, *(inside if cells else [])]


def result(kind: str, tasks: Sequence[str], rows: list[dict[str, object]], columns: tuple[Column, ...]) -> Result:
    """A checked result; without rows it still has its columns."""
    names = [c.name for c in columns]
    return Result(kind, tuple(tasks), pd.DataFrame(rows, columns=names), columns)


def sign_conflict(tasks: Sequence[str] = TASKS) -> Result:
    """Conflict .47-.50 beside a null of .50; the last cell of every pair changed nothing."""
    draw = np.random.default_rng(1)
    rows = []
    for scope in scopes():
        for a, b in itertools.combinations(tasks, 2):
            empty = scope["level"] == "cell" and scope["layer"] == "layer 1" and scope["kind"] == "norm"
            values = {"n_both": 0 if empty else int(draw.integers(1e4, 1e6)), "conflict": draw.uniform(0.47, 0.501)}
            values |= {"null": 0.5, "overlap": draw.uniform(0.1, 0.2), "one_sided": 0.8}
            values |= {"conflict": np.nan, "overlap": 0.0} if empty else {}
            rows.append({**scope, "task_a": a, "task_b": b, **values})
    numbers = (count("n_both", "n"), *(fraction(n, n) for n in ("conflict", "null", "overlap", "one_sided")))
    return result("sign_conflict", tasks, rows, (*SCOPE, *PAIR, *numbers))


def minority_mass(tasks: Sequence[str] = TASKS) -> Result:
    """Minority mass about .30 beside a null of about .31; no weight of the last cell is changed twice."""
    draw = np.random.default_rng(2)
    rows = []
    for scope in scopes():
        empty = scope["level"] == "cell" and scope["layer"] == "layer 1" and scope["kind"] == "norm"
        mass, null = draw.uniform(0.28, 0.32), draw.uniform(0.305, 0.315)
        values = {"minority_mass": 0.0 if empty else mass, "null": 0.0 if empty else null, "any_conflict": 0.9}
        values |= {"any_null": 0.91, "cancellation": 0.6, "n_positions": 0 if empty else 70_000, "n": 98_304}
        rows.append({**scope, **values})
    names = ("minority_mass", "null", "any_conflict", "any_null", "cancellation")
    columns = (*SCOPE, *(fraction(n, n) for n in names), count("n_positions", "n"), count("n", "n"))
    return result("minority_mass", tasks, rows, columns)


def cosine(tasks: Sequence[str] = TASKS) -> Result:
    """Cosines .004-.085 with a chance band of ± .001."""
    draw = np.random.default_rng(3)
    rows = []
    for scope in scopes(cells=False):
        for a, b in itertools.combinations(tasks, 2):
            value = draw.uniform(0.004, 0.085)
            values = {"cosine": value, "dot": value * 6, "norm_a": 2.0, "norm_b": 3.0, "null": 0.0, "null_sd": 5e-4}
            rows.append({**scope, "task_a": a, "task_b": b, **values})
    names = ("cosine", "dot", "norm_a", "norm_b", "null", "null_sd")
    return result("cosine", tasks, rows, (*SCOPE, *PAIR, *(number(n, n) for n in names)))


def norm_profile(tasks: Sequence[str] = TASKS) -> Result:
    """Relative norms of one to eight percent; later layers hold more of the change."""
    draw = np.random.default_rng(4)
    rows = []
    for scope in scopes():
        for task in tasks:
            values = {"norm": draw.uniform(1, 4), "relative_norm": draw.uniform(0.01, 0.08), "n": 98_304}
            values |= {"n_changed": 90_000, "changed": 90_000 / 98_304, "share": draw.uniform(0.1, 0.5), "null": 0.25}
            rows.append({**scope, "task": task, **values})
    columns = (
        *SCOPE, text("task", "task"), number("norm", "n"), number("relative_norm", "n"), count("n", "n"),
        count("n_changed", "n"), fraction("changed", "n"), fraction("share", "n"), fraction("null", "n"),
    )  # fmt: skip
    return result("norm_profile", tasks, rows, columns)


def mask_overlap(tasks: Sequence[str] = TASKS, thresholds: Sequence[float] = tuple(THRESHOLDS)) -> Result:
    """Overlap .39-.43 beside a null of .35 at threshold .40; masks get sparser with the threshold."""
    draw = np.random.default_rng(5)
    density = dict(zip(tasks, draw.uniform(0.45, 0.6, len(tasks)), strict=True))
    rows = []
    for a, b in itertools.combinations(tasks, 2):
        base = draw.uniform(0.39, 0.43)
        for threshold in thresholds:
            shrink = 1.2 / (1 + threshold / 2)
            iou, null = min(1.0, base * shrink), 0.35 * shrink
            values = {"density_a": min(1.0, density[a] * shrink), "density_b": min(1.0, density[b] * shrink)}
            values |= {"iou": iou, "null": null, "independent": 0.33 * shrink, "lift": iou / null}
            rows.append({**scopes()[0], "threshold": threshold, "task_a": a, "task_b": b, **values})
    names = ("density_a", "density_b", "iou", "null", "independent")
    columns = (*SCOPE, number("threshold", "t"), *PAIR, *(fraction(n, n) for n in names), number("lift", "l"))
    return result("mask_overlap", tasks, rows, columns)


def mask_agreement(tasks: Sequence[str] = TASKS, thresholds: Sequence[float] = tuple(THRESHOLDS)) -> Result:
    """Shares of weights by the number of tasks that need them: more at both ends than by chance."""
    rows = []
    for place, scope in enumerate(scopes(cells=False)):
        for threshold in thresholds:
            density = 0.6 / (1 + threshold / 2) + 0.02 * place / 12
            share, null = _mixture(len(tasks), density), _binomial(len(tasks), density)
            for k in range(len(tasks) + 1):
                rows.append({**scope, "threshold": threshold, "k": k, "share": share[k], "null": null[k]})
    columns = (*SCOPE, number("threshold", "t"), count("k", "k"), fraction("share", "s"), fraction("null", "n"))
    return result("mask_agreement", tasks, rows, columns)


def _binomial(tasks: int, density: float) -> np.ndarray:
    steps = np.ones(1)
    for _ in range(tasks):
        steps = np.convolve(steps, [1 - density, density])
    return steps


def _mixture(tasks: int, density: float) -> np.ndarray:
    return (_binomial(tasks, density * 0.7) + _binomial(tasks, min(1.0, density * 1.3))) / 2


def redundancy(tasks: Sequence[str] = TASKS) -> Result:
    """Norms kept a little above what normal numbers keep; two thirds of the weights are changed."""
    densities = np.array([0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0])
    rows = []
    for scope in scopes():
        for place, task in enumerate(tasks):
            for density in densities:
                null = min(1.0, density / 0.66) ** 0.3
                values = {"density": density, "kept": null ** (0.9 - 0.02 * (place % 7)), "null": null}
                values |= {"bin_error": 0.001, "effective_density": min(density, 0.66), "changed": 0.66}
                values |= {"of_changed": min(1.0, density / 0.66), "density_90": 0.19, "density_90_error": 0.001}
                rows.append({**scope, "task": task, **values, "null_90": 0.215})
    names = ("density", "kept", "null", "bin_error", "effective_density", "of_changed", "changed")
    names += ("density_90", "density_90_error", "null_90")
    return result("redundancy", tasks, rows, (*SCOPE, text("task", "task"), *(fraction(n, n) for n in names)))


def mask_patterns(tasks: Sequence[str] = TASKS, thresholds: Sequence[float] = (0.2, 0.4, 1.5)) -> Result:
    """Every group of the first six tasks: somewhat fewer single tasks than independent masks would show."""
    chosen, rows = tuple(tasks)[:6], []
    groups = [g for k in range(len(chosen) + 1) for g in itertools.combinations(chosen, k)] if chosen else []
    for scope in scopes(cells=False):
        for threshold in thresholds:
            density = 0.6 / (1 + threshold)
            null = np.array([density ** len(g) * (1 - density) ** (len(chosen) - len(g)) for g in groups])
            share = null * (1 + 0.1 * np.cos(np.arange(len(groups))))
            share = share / share.sum() if groups else share
            for group, s, c in zip(groups, share, null, strict=True):
                values = {"pattern": json.dumps(sorted(group)), "k": len(group), "share": s, "null": c}
                rows.append({**scope, "threshold": threshold, **values, "independent": c * 0.99})
    columns = (
        *SCOPE, number("threshold", "t"), text("pattern", "p"), count("k", "k"),
        *(fraction(n, n) for n in ("share", "null", "independent")),
    )  # fmt: skip
    return result("mask_patterns", tasks, rows, columns)


def scores(
    tasks: Sequence[str] = TASKS,
    models: Sequence[str] = ("merged", "base", "expert", "chance", "previous"),
    n: int = 400,
    n_total: int = 400,
) -> Result:
    """Base about .59, expert about .89, merged about .80; `n` of the merged model's examples are scored."""
    draw = np.random.default_rng(6)
    middle = {"merged": 0.8, "base": 0.59, "expert": 0.89, "chance": 0.25, "previous": 0.76}
    rows = []
    for task in tasks:
        for model in models:
            done = n if model == "merged" else n_total
            correct = round(done * float(np.clip(middle.get(model, 0.7) + draw.uniform(-0.07, 0.07), 0, 1)))
            accuracy = correct / done if done else np.nan
            half = 1.96 * np.sqrt(accuracy * (1 - accuracy) / done) if done else np.nan
            values = {"n": done, "n_total": n_total, "correct": correct, "score": accuracy, "metric": "accuracy"}
            # Not symmetric, as Wilson intervals are not.
            values |= {"low": max(0.0, accuracy - 1.2 * half), "high": min(1.0, accuracy + half)}
            rows.append({"model": model, "task": task, **values})
    return result("scores", tasks, rows, SCORES)


def trail(tasks: Sequence[str] = TASKS, moves: int = 9) -> Result:
    """A history that climbs, falls and ends on a quick estimate."""
    draw = np.random.default_rng(7)
    rows: list[dict[str, object]] = []
    for move in range(1, moves + 1):
        mean = 0.8 + 0.1 * np.sin(move / 3) + draw.uniform(-0.01, 0.01)
        settings = {"move": move, "label": f"density 0.2, scale {move / 10:.1f}", "method": "ties"}
        rows.append({**settings, "normalized": mean, "worst": mean - 0.15, "worst_task": (tasks or ("none",))[-1],
                     "complete": int(move < moves)})  # fmt: skip
    columns = (
        number("move", "m"), text("label", "l"), text("method", "m"), number("normalized", "n"), number("worst", "w"),
        text("worst_task", "w"), number("complete", "c", 0, 1),
    )  # fmt: skip
    return result("trail", tasks, rows, columns)


EXAMPLES: dict[str, Callable[..., Result]] = {
    f.__name__: f
    for f in (
        sign_conflict,
        minority_mass,
        cosine,
        norm_profile,
        mask_overlap,
        mask_agreement,
        mask_patterns,
        redundancy,
        scores,
        trail,
    )
}
"""Example results by kind: each function takes the tasks."""


def emptied(full: Result) -> Result:
    """The same result without any row."""
    return Result(full.kind, full.tasks, full.table.iloc[:0], full.columns)


def read(figure: go.Figure) -> dict[str, Any]:
    """A figure as a dict whose numbers are numpy arrays again: plotly packs them as base64 text."""
    return _unpacked(figure.to_dict())


def _unpacked(part: Any) -> Any:
    if isinstance(part, dict):
        if "bdata" in part:
            flat = np.frombuffer(base64.b64decode(part["bdata"]), dtype=part["dtype"])
            return flat.reshape([int(n) for n in str(part.get("shape", flat.size)).split(",")])
        return {key: _unpacked(inner) for key, inner in part.items()}
    return [_unpacked(inner) for inner in part] if isinstance(part, (list, tuple)) else part
