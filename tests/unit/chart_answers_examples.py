"""Made-up results about single answers, of the real shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from chart_examples import TASKS, result

from explorer.results import Result, count, fraction, number, text

CALIBRATION_COLUMNS = (
    text("part", "p"), text("task", "t"), text("model", "m"), count("bin", "b"), fraction("from", "f"),
    fraction("to", "t"), count("n", "n"), count("n_total", "n"), fraction("confidence", "c"), fraction("right", "r"),
    fraction("low", "l"), fraction("high", "h"), fraction("error", "e"), fraction("null", "n"),
    fraction("null_high", "n"), number("overconfidence", "o", -1, 1),
)  # fmt: skip
TOO_SURE = {"merged": 0.09, "expert": 0.01, "base": -0.06}


def calibration(tasks: Sequence[str] = TASKS, models: Sequence[str] = tuple(TOO_SURE)) -> Result:
    """The merged model is too sure, the expert about right, the base not sure enough; the lower bins are empty."""
    rows: list[dict[str, object]] = []
    for task in tasks:
        for model in models:
            over, n = TOO_SURE.get(model, 0.0), 400
            head = {"task": task, "model": model, "n_total": n}
            whole = {"bin": 0, "from": 0.0, "to": 1.0, "n": n, "confidence": 0.85, "right": 0.85 - over}
            whole |= {"low": 0.82 - over, "high": 0.88 - over, "overconfidence": over}
            rows.append({**head, "part": "whole", **whole, "error": abs(over) + 0.01, "null": 0.03, "null_high": 0.05})
            for b in range(8, 16):
                confidence, right = (b - 0.5) / 15, float(np.clip((b - 0.5) / 15 - over, 0, 1))
                own = {"bin": b, "from": (b - 1) / 15, "to": b / 15, "n": 20 if b < 15 else 260}
                own |= {"confidence": confidence, "right": right, "overconfidence": confidence - right}
                own |= {"low": max(0.0, right - 0.1), "high": min(1.0, right + 0.08)}
                rows.append({**head, "part": "bin", **own, "error": np.nan, "null": np.nan, "null_high": np.nan})
    return result("calibration", tasks, rows, CALIBRATION_COLUMNS)


ANSWERS_EXAMPLES: dict[str, Callable[..., Result]] = {"calibration": calibration}
