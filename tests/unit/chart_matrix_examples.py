"""Made-up results of metrics on whole matrices, with the columns of real ones, for the tests of charts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from chart_examples import PAIR, TASKS, result, scopes

from explorer.results import SCOPE, Result, count, fraction, number, text

FRACTIONS = (0.0, 0.01, 0.1, 0.25, 0.5, 1.0)
COUNTS = (count("n_matrices", "n"), count("n_sketched", "n"))


def matrices_of(scope: dict[str, object]) -> int:
    """As many matrices as there are kinds below a scope; norms and embeddings have none."""
    if scope["kind"] in ("norm", "embedding") or scope["layer"] == "embeddings":
        return 0
    return {"model": 12, "layer": 6, "kind": 2}.get(str(scope["level"]), 1)


def spectrum(tasks: Sequence[str] = TASKS) -> Result:
    """Energies well above those of noise; the tasks differ a little."""
    rows = []
    for scope in scopes():
        n = matrices_of(scope)
        for place, task in enumerate(tasks):
            for part in FRACTIONS:
                values = {"energy": part ** (0.3 + 0.01 * place), "null": part**0.7, "effective_rank": 100.0 * n}
                values |= {"rank_90": 40.0 * n + place, "full_rank": 384 * n, "n_matrices": n, "n_sketched": 0}
                values |= {} if n else {k: np.nan for k in ("energy", "null", "effective_rank", "rank_90")}
                rows.append({**scope, "task": task, "rank_fraction": part, **values})
    names = ("rank_fraction", "energy", "null")
    ranks = (number(n, n) for n in ("effective_rank", "rank_90", "full_rank"))
    return result(
        "spectrum", tasks, rows, (*SCOPE, text("task", "t"), *(fraction(n, n) for n in names), *ranks, *COUNTS)
    )


def subspace_overlap(tasks: Sequence[str] = TASKS) -> Result:
    """Overlap .2-.3 beside a null of .12."""
    draw = np.random.default_rng(12)
    rows = []
    for scope in scopes():
        n = matrices_of(scope)
        for a, b in itertools.combinations(tasks, 2):
            left, right = draw.uniform(0.2, 0.3, 2) if n else (np.nan, np.nan)
            values = {"overlap": (left + right) / 2, "null": 0.12, "null_sd": 0.001, "left": left, "null_left": 0.14}
            values |= {"right": right, "null_right": 0.10, "rank": 54.0 if n else np.nan}
            rows.append({**scope, "task_a": a, "task_b": b, **values, "n_matrices": n, "n_sketched": 0})
    shares = ("overlap", "null", "left", "null_left", "right", "null_right")
    columns = (*SCOPE, *PAIR, *(fraction(n, n) for n in shares), number("null_sd", "s"), number("rank", "r"), *COUNTS)
    return result("subspace_overlap", tasks, rows, columns)


def sti(tasks: Sequence[str] = TASKS) -> Result:
    """About 30 beside a null of 12."""
    draw = np.random.default_rng(13)
    rows = []
    for scope in scopes() if tasks else []:
        n = matrices_of(scope)
        values = {"sti": draw.uniform(25, 35), "null": 12.0, "raw": 1e4, "rank": 54.0}
        values = values if n else dict.fromkeys(values, np.nan)
        rows.append({**scope, **values, "n_matrices": n, "n_sketched": 0})
    return result("sti", tasks, rows, (*SCOPE, *(number(n, n) for n in ("sti", "null", "raw", "rank")), *COUNTS))


def wudi_loss(tasks: Sequence[str] = TASKS) -> Result:
    """A disturbance about as large as a task's own effect, beside a null of about .3."""
    draw = np.random.default_rng(14)
    rows = []
    for scope in scopes():
        n = matrices_of(scope)
        for task in tasks:
            values = {"disturbance": draw.uniform(0.8, 1.5), "null": draw.uniform(0.2, 0.4), "loss": 1.5}
            values = values if n else dict.fromkeys(values, np.nan)
            rows.append({**scope, "task": task, **values, "n_matrices": n})
    numbers = (number(n, n) for n in ("disturbance", "null", "loss"))
    return result("wudi_loss", tasks, rows, (*SCOPE, text("task", "t"), *numbers, COUNTS[0]))


def sar(tasks: Sequence[str] = TASKS) -> Result:
    """Alignment about .90, as by chance."""
    draw = np.random.default_rng(15)
    rows = []
    for scope in scopes():
        n = matrices_of(scope)
        for task in tasks:
            values = {"alignment": draw.uniform(0.85, 0.95), "null": 0.9, "rank": 300.0, "rank_share": 0.8}
            values = values if n else dict.fromkeys(values, np.nan)
            rows.append({**scope, "task": task, **values, "n_matrices": n, "n_sketched": 0})
    shares = (fraction(n, n) for n in ("alignment", "null", "rank_share"))
    return result("sar", tasks, rows, (*SCOPE, text("task", "t"), *shares, number("rank", "r"), *COUNTS))


MATRIX_EXAMPLES: dict[str, Callable[..., Result]] = {
    f.__name__: f for f in (spectrum, subspace_overlap, sti, wudi_loss, sar)
}
"""Example results by kind: each function takes the tasks."""
