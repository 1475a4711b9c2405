"""Made-up sweeps with the columns and provenance of real ones, whole or stopped half-way, for the tests of charts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from chart_examples import TASKS

from explorer.recipe import Recipe, TaskEntry
from explorer.results import Result, sweep_columns
from explorer.sweep_plans import Sweep, plan_curve, plan_map, plan_mix
from explorer.sweeps import Swept


def recipe(tasks: Sequence[str] = TASKS) -> Recipe:
    """A TIES merge; never opened."""
    return Recipe("base", tuple(TaskEntry(t, t) for t in tasks), "ties")


def swept(sweep: Sweep, tasks: Sequence[str], done: int | None = None) -> Result:
    """The first `done` points of a sweep, with a mean that is best in the middle."""
    draw, found = np.random.default_rng(11), Swept(sweep)
    for cell in sweep.cells[:done] if tasks else ():
        values = np.array(sweep.values_at(cell))
        spans = [np.ptp(g) for g in sweep.grid * len(values)][: len(values)]
        away = float(np.mean([abs(v - 0.4 * s) / s for v, s in zip(values, spans, strict=True)]))
        per = {t: float(np.clip(0.85 - 0.5 * away + draw.uniform(-0.05, 0.05), 0, 1)) for t in tasks}
        mean = float(np.mean(list(per.values())))
        row: dict[str, Any] = dict(zip("xyz", values, strict=False)) | dict(zip("ijk", cell, strict=False))
        for t, a in per.items():
            row |= {f"score:{t}": a, f"low:{t}": max(0.0, a - 0.12), f"high:{t}": min(1.0, a + 0.1)}
        worst = min(per, key=lambda t: per[t])
        row |= {"n": 24 * len(tasks), "mean": mean, "low": mean - 0.05, "high": min(1.0, mean + 0.04)}
        row |= {"normalized": mean / 0.9, "worst": per[worst] / 0.9, "worst_task": worst, "reach": sweep.reach[cell]}
        found.rows[cell] = row
    plain = found.result().provenance
    facts = {"examples": dict.fromkeys(tasks, 24), "of": dict.fromkeys(tasks, 400), "method": "TIES-Merging"}
    facts |= {"experts": dict.fromkeys(tasks, 0.9), "chance": dict.fromkeys(tasks, 0.25)}
    columns = sweep_columns(sweep.kind, tuple(tasks))
    rows = [{**r, "refined": int(found._refined(c))} for c, r in found.rows.items()]
    table = pd.DataFrame(rows, columns=[c.name for c in columns])
    return Result(sweep.kind, tuple(tasks), table, columns, {**plain, **facts})


def sweep_curve(tasks: Sequence[str] = TASKS, done: int | None = None) -> Result:
    """Thirteen values of the scale."""
    return swept(plan_curve(recipe(tasks or TASKS), "scale", low=-1, high=2, points=13), tasks, done)


def sweep_map(tasks: Sequence[str] = TASKS, done: int | None = None) -> Result:
    """Nine values of the scale by seven of the density."""
    plan = plan_map(recipe(tasks or TASKS), ("scale", 0, 2, 9), ("density", 0.1, 1, 7))
    return swept(plan, tasks, done)


def sweep_mix(tasks: Sequence[str] = TASKS, done: int | None = None) -> Result:
    """Three tasks that share 1.2; with fewer tasks than three, of a merge that has more than are scored."""
    named = list(tasks)[:3] + [t for t in ("one", "two", "three") if len(tasks) < 3][: 3 - len(tasks)]
    plan = plan_mix(recipe([*tasks, *(n for n in named if n not in tasks)]), named, total=1.2, steps=8)
    return swept(plan, tasks, done)


SWEEP_EXAMPLES: dict[str, Callable[..., Result]] = {f.__name__: f for f in (sweep_curve, sweep_map, sweep_mix)}
"""Example results by kind: each function takes the tasks."""
