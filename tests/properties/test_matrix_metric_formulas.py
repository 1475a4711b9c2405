"""Every metric on whole matrices against a short restatement with numpy's full decomposition, at every level."""

from __future__ import annotations

from collections.abc import Callable
from math import nan, sqrt
from typing import Any

import numpy as np
import pandas as pd
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from explorer.compute.source import StateDictSource
from explorer.interference import survey

SHAPES = {
    "encoder.layer.0.attention.self.query.weight": (6, 9),
    "encoder.layer.0.attention.self.query.bias": (6,),
    "encoder.layer.0.output.dense.weight": (9, 5),
    "encoder.layer.1.attention.self.query.weight": (7, 7),
    "patches.conv.weight": (4, 2, 3, 1),
}
MATRICES = {n: (s[0], int(np.prod(s[1:]))) for n, s in SHAPES.items() if len(s) > 1}
Model = dict[str, np.ndarray]
Decomposed = tuple[np.ndarray, np.ndarray, np.ndarray]


@st.composite
def models(draw: st.DrawFn) -> Model:
    """Deltas [T, m, n] per matrix: any rank from 0 to full, with distinct singular values; float64."""
    count = draw(st.integers(1, 4))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    deltas = {}
    for name, (rows, columns) in MATRICES.items():
        ranks = [draw(st.integers(0, min(rows, columns))) for _ in range(count)]
        made = [random.normal(size=(rows, k)) @ random.normal(size=(k, columns)) for k in ranks]
        deltas[name] = np.array(made)
    return deltas


def source_of(deltas: Model) -> StateDictSource:
    """A base of zeros in float64, so that every difference is exact; the vector is no matrix."""
    count = len(next(iter(deltas.values())))
    base = {n: torch.zeros(s, dtype=torch.float64) for n, s in SHAPES.items()}
    tasks = {}
    for t in range(count):
        tasks[f"t{t}"] = {n: torch.tensor(deltas[n][t]).reshape(s) for n, s in SHAPES.items() if n in deltas}
        tasks[f"t{t}"]["encoder.layer.0.attention.self.query.bias"] = torch.ones(6, dtype=torch.float64)
    return StateDictSource(base, tasks)


def share(part: float, whole: float) -> float:
    return part / whole if whole else nan


def top(matrix: np.ndarray, count: int, kept: int | None = None) -> Decomposed:
    """The strongest directions: an equal share of the smaller side, of those that exist."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    exist = int((values > 1e-6 * values[0]).sum()) if matrix.any() else 0
    kept = min(exist, max(1, len(values) // count) if kept is None else kept)
    return left[:, :kept], values[:kept], right[:kept].T


def check(name: str, deltas: Model, restate: Callable[[Any, list[np.ndarray]], list[float]], columns: list[str],
          parameters: dict[str, Any] | None = None) -> None:  # fmt: skip
    """Each row equals `restate(row, matrices [T, m, n] of the scope)`."""
    table = survey(source_of(deltas), [name], parameters={name: parameters or {}})[name].table
    tensors = table[table.level == "tensor"].drop_duplicates("tensor")
    for scope, rows in table.groupby(["level", "layer", "layer_index", "kind", "tensor"], sort=False):
        level, layer, _, kind, tensor = scope
        own = tensors
        own = own[own.layer == layer] if level in ("layer", "cell") else own
        own = own[own["kind"] == kind] if level in ("kind", "cell") else own
        names = [tensor] if level == "tensor" else list(own.tensor)
        matrices = [deltas[n] for n in names if n in deltas]
        expected = np.array([restate(row, matrices) for row in rows.itertuples()], dtype=float)
        got = rows[columns].to_numpy(float)
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6, err_msg=str(scope))
    alone = len(next(iter(deltas.values()))) == 1 and "task_a" in table
    assert set(table.level) == (set() if alone else {"model", "layer", "kind", "cell", "tensor"})


def index(task: str) -> int:
    return int(task[1:])


@given(models())
@settings(max_examples=20, deadline=None)
def test_singular_task_interference(deltas: Model) -> None:
    def restate(_: Any, matrices: list[np.ndarray]) -> list[float]:
        crossed = sigma = ranks = used = 0.0
        for tau in matrices:
            parts = [top(t, len(tau)) for t in tau]
            left, values, right = (np.concatenate([p[i] for p in parts], -1) for i in range(3))
            size = len(values)
            crossed += np.abs((left.T @ left - np.eye(size)) @ np.diag(values) @ (right.T @ right - np.eye(size))).sum()
            sigma, ranks, used = sigma + values.sum(), ranks + size, used + (size > 0)
        count = len(matrices[0]) if matrices else 1
        return [share(crossed, sigma), crossed if used else nan, share(ranks, used * count), used]

    check("sti", deltas, restate, ["sti", "raw", "rank", "n_matrices"])


@given(models())
@settings(max_examples=20, deadline=None)
def test_subspace_overlap(deltas: Model) -> None:
    def restate(row: Any, matrices: list[np.ndarray]) -> list[float]:
        left = right = null_left = null_right = kept = 0.0
        for tau in matrices:
            a, b = (top(tau[index(t)], len(tau)) for t in (row.task_a, row.task_b))
            cosines = [np.linalg.svd(a[side].T @ b[side], compute_uv=False) for side in (0, 2)]
            left, right = left + (cosines[0] ** 2).sum(), right + (cosines[1] ** 2).sum()
            null_left += len(a[1]) * len(b[1]) / tau.shape[1]
            null_right += len(a[1]) * len(b[1]) / tau.shape[2]
            kept += min(len(a[1]), len(b[1]))
        shares = [share(v, kept) for v in (left, null_left, right, null_right)]
        return [*shares, (shares[0] + shares[2]) / 2, (shares[1] + shares[3]) / 2]

    check("subspace_overlap", deltas, restate, ["left", "null_left", "right", "null_right", "overlap", "null"])


@given(models(), st.integers(0, 6))
@settings(max_examples=20, deadline=None)
def test_row_space_interference(deltas: Model, rank: int) -> None:
    def restate(row: Any, matrices: list[np.ndarray]) -> list[float]:
        crossed = whole = null = 0.0
        inside, norms = np.zeros(2), np.zeros(2)
        for tau in matrices:
            pair = [tau[index(t)] for t in (row.task_a, row.task_b)]
            low = [p[0] * p[1] @ p[2].T for p in (top(t, len(tau), rank or None) for t in pair)]
            crossed += np.linalg.norm(low[0] @ low[1].T) ** 2
            both = np.linalg.norm(low[0]) ** 2 * np.linalg.norm(low[1]) ** 2
            whole, null = whole + both, null + both / tau.shape[2]
            inside += [np.linalg.norm(t) ** 2 for t in low]
            norms += [np.linalg.norm(t) ** 2 for t in pair]
        kept = [share(*v) for v in zip(inside, norms, strict=True)]
        return [sqrt(share(crossed, whole)), sqrt(share(null, whole)), *kept]

    columns = ["interference", "null", "kept_a", "kept_b"]
    check("row_space_interference", deltas, restate, columns, {"rank": rank})


@given(models(), st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5]))
@settings(max_examples=20, deadline=None)
def test_wudi_loss(deltas: Model, scale: float) -> None:
    def restate(row: Any, matrices: list[np.ndarray]) -> list[float]:
        loss = alone = null = used = 0.0
        for tau in matrices:
            own, size = tau[index(row.task)], np.linalg.norm(tau[index(row.task)]) ** 2
            if size:
                loss += np.linalg.norm((scale * tau.sum(0) - own) @ own.T) ** 2 / size
                alone += np.linalg.norm(own @ own.T) ** 2 / size
                null += scale**2 * ((tau**2).sum() - size) / tau.shape[2]
                null += (1 - scale) ** 2 * np.linalg.norm(own @ own.T) ** 2 / size
                used += 1
        return [share(loss, alone), share(null, alone), loss if used else nan, used]

    check("wudi_loss", deltas, restate, ["disturbance", "null", "loss", "n_matrices"], {"scale": scale})


@given(models(), st.sampled_from([0.05, 0.3, 0.9]), st.integers(0, 5))
@settings(max_examples=20, deadline=None)
def test_subspace_alignment_ratio(deltas: Model, residual: float, rank: int) -> None:
    def restate(row: Any, matrices: list[np.ndarray]) -> list[float]:
        inside = whole = ranks = sides = 0.0
        for tau in matrices:
            left, values, _ = top(tau.sum(0), 1)
            tail = [np.sqrt((values[k:] ** 2).sum() / max((values**2).sum(), 1e-300)) for k in range(len(values) + 1)]
            kept = min(rank, len(values)) or next(k for k, t in enumerate(tail) if t <= residual)
            own = tau[index(row.task)]
            basis = left[:, : kept if len(values) else 0]
            inside, whole = inside + np.linalg.norm(basis.T @ own) ** 2, whole + np.linalg.norm(own) ** 2
            ranks, sides = ranks + basis.shape[1] * own.any(), sides + min(own.shape) * own.any()
        return [sqrt(share(inside, whole)), share(ranks, sides)]

    check("sar", deltas, restate, ["alignment", "rank_share"], {"residual": residual, "rank": rank})


@given(models())
@settings(max_examples=20, deadline=None)
def test_spectrum(deltas: Model) -> None:
    def restate(row: Any, matrices: list[np.ndarray]) -> list[float]:
        own = [tau[index(row.task)] for tau in matrices if tau[index(row.task)].any()]
        values = [np.linalg.svd(t, compute_uv=False) for t in own]
        energy = sum(np.interp(row.rank_fraction * len(v), range(len(v) + 1), [0, *np.cumsum(v**2)]) for v in values)
        together = np.concatenate([*values, []])
        together = together[together > 1e-9]
        p = together / together.sum() if together.size else together
        enough = sum(int(np.argmax(np.cumsum(v**2) >= 0.9 * (v**2).sum()) + 1) for v in values)
        effective = np.exp(-(p * np.log(p)).sum()) if len(own) else nan
        whole = sum(len(v) for v in values)
        return [share(energy, (together**2).sum()), effective, enough if own else nan, whole, len(own)]

    check("spectrum", deltas, restate, ["energy", "effective_rank", "rank_90", "full_rank", "n_matrices"])


def test_the_tables_say_nothing_where_there_is_no_matrix() -> None:
    source = StateDictSource({"a.bias": torch.zeros(4)}, {t: {"a.bias": torch.ones(4)} for t in "xy"})
    for name in ("sti", "sar", "spectrum", "subspace_overlap", "row_space_interference", "wudi_loss"):
        result = survey(source, [name])[name]
        assert result.provenance["matrices"] == 0 and result.provenance["matrices_left_out"] == {"no matrix": 1}
        assert result.table.null.isna().all() and (result.table.n_matrices == 0).all()
        assert isinstance(result.table, pd.DataFrame) and len(result.table)
