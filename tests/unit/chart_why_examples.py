"""Made-up contributions with the columns and sizes of real ones, for the tests of charts and of advice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from chart_examples import TASKS, result, scopes

from explorer.merging import CONTRIBUTIONS
from explorer.results import Result


def row(task: str, **changes: Any) -> dict[str, Any]:
    """One task of a whole model, as plain averaging of seven like tasks gives it; `changes` replace numbers."""
    even: dict[str, Any] = {"share": 0.14, "dropped": 0.0, "outvoted": 0.25, "cosine": 0.38, "departure": 0.93}
    numbers = {**even, **{f"{name}_average": value for name, value in even.items()}, **changes}
    numbers["kept"] = 1 - numbers["dropped"] - numbers["outvoted"]
    rest = {"coefficient": 0.14, "norm": 5.0, "update_norm": 2.0, "explained": 1.0, "n": 8_000_000}
    return {**scopes()[0], "task": task, **rest, **numbers}


def contributions(tasks: Sequence[str] = TASKS) -> Result:
    """Shares, losses and distances a little off plain averaging's."""
    draw = np.random.default_rng(8)
    rows = []
    for scope in scopes(cells=False):
        for task in tasks:
            own = {
                "share": draw.uniform(0.05, 0.3),
                "outvoted": draw.uniform(0.2, 0.3),
                "dropped": draw.uniform(0, 0.2),
            }
            rows.append({**row(task, **own, departure=draw.uniform(0.8, 1.2)), **scope})
    return result("contributions", tasks, rows, CONTRIBUTIONS)


WHY_EXAMPLES = {"contributions": contributions}
