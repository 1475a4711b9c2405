"""Result values: a tidy table, the columns it promises, and where it came from.

Everything that reaches the screen or a file is a `Result`. Its columns are checked when it is made, so a chart
can rely on them; it saves to one JSON file, so a figure can be redrawn later without torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

SCOPE_COLUMNS = ("level", "layer", "layer_index", "kind", "tensor")
LEVELS = ("model", "layer", "kind", "cell", "tensor")


@dataclass(frozen=True)
class Column:
    """One promised column: what it holds, in which unit."""

    name: str
    type: str
    help: str
    low: float | None = None
    high: float | None = None

    def check(self, series: pd.Series) -> str | None:
        """A sentence naming what is wrong with the values, or None."""
        if self.type == "text":
            return None
        if not (pd.api.types.is_numeric_dtype(series) or pd.api.types.is_bool_dtype(series)):
            return f"column {self.name} must be numeric; got {series.dtype}"
        values = series.to_numpy(dtype=float)
        values = values[~np.isnan(values)]
        slack = 1e-9
        if self.low is not None and values.size and values.min() < self.low - slack:
            return f"column {self.name} must be at least {self.low:g}; got {values.min():g}"
        if self.high is not None and values.size and values.max() > self.high + slack:
            return f"column {self.name} must be at most {self.high:g}; got {values.max():g}"
        return None


def text(name: str, help: str) -> Column:
    """A column of names."""
    return Column(name, "text", help)


def number(name: str, help: str, low: float | None = None, high: float | None = None) -> Column:
    """A column of numbers, within the stated bounds; NaN means "not defined here"."""
    return Column(name, "number", help, low, high)


def fraction(name: str, help: str) -> Column:
    """A column of fractions, 0-1."""
    return Column(name, "number", help, 0.0, 1.0)


def count(name: str, help: str) -> Column:
    """A column of counts."""
    return Column(name, "number", help, 0.0)


SCOPE = (
    text("level", "what a row sums over: model, layer, kind (of module), cell (layer x kind) or tensor"),
    text("layer", "name of the layer, empty where it does not apply"),
    number("layer_index", "position of the layer in depth, -1 where it does not apply", -1),
    text("kind", "kind of module, empty where it does not apply"),
    text("tensor", "name of the tensor, empty where it does not apply"),
)

SCORES = (
    text("model", "merged, base, expert or chance; or the name of a pinned setting"),
    text("task", "task the score is of"),
    text("metric", "what the score is, such as accuracy"),
    count("n", "examples scored so far"),
    count("n_total", "examples of the whole split"),
    number("correct", "score · n: for accuracy the examples that were answered correctly"),
    number("score", "value of the metric, more is better: for accuracy correct / n", -1, 1),
    number("low", "lower end of its 95 % interval: Wilson for accuracy, else bootstrap over examples", -1, 1),
    number("high", "upper end of its 95 % interval", -1, 1),
)

SURVIVAL = (
    text("part", "merged: the merged task vector; alone: one task vector, times its scale, with no other"),
    text("task", "task of the vector; empty for a merged model that serves all tasks"),
    number("scale", "factor of a task vector alone: its scale in the merge, 1 where the method has none"),
    number("norm", "‖v‖ of the vector before it is rounded", 0.0),
    number("lost_norm", "‖v' − v‖: v' is the stored model minus the base stored the same way", 0.0),
    fraction("survives", "1 − lost_norm / norm, at least 0; undefined for a vector of zeros"),
    count("changed", "weights that the vector changes"),
    fraction("rounded_away", "share of the changed weights that are stored as the base's own"),
)


SWEEP_KINDS = {"sweep_curve": 1, "sweep_map": 2, "sweep_mix": 3}
"""Kinds of sweeps by the numbers that each of their points has."""


def sweep_columns(kind: str, tasks: tuple[str, ...]) -> tuple[Column, ...]:
    """Columns of a sweep's table, one row per scored point; `tasks` are those with held-out examples."""
    axes = range(SWEEP_KINDS[kind])
    own = [
        (number(f"score:{t}", f"score of {t}", -1, 1), number(f"low:{t}", "lower end of its 95 % interval", -1, 1),
         number(f"high:{t}", "upper end of its 95 % interval", -1, 1))
        for t in tasks
    ]  # fmt: skip
    return (
        *(number("xyz"[i], f"value on axis {i + 1}") for i in axes),
        *(count("ijk"[i], f"place on the grid of axis {i + 1}") for i in axes),
        *(column for columns in own for column in columns),
        count("n", "examples scored, all tasks together"),
        number("mean", "mean score over the tasks", -1, 1),
        number("low", "lower end of its 95 % bootstrap interval over examples, the tasks being fixed", -1, 1),
        number("high", "upper end of that interval", -1, 1),
        number("normalized", "mean over tasks of merged / expert score on the same examples"),
        number("worst", "the same for the worst task"),
        text("worst_task", "name of the worst task"),
        count("reach", "steps of the grid to each side that this point stands for until finer ones are scored"),
        number("refined", "1 where every point within reach is scored", 0, 1),
    )


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Result:
    """A checked tidy table with its provenance.

    Raises ValueError (a programming error) when a promised column is missing or out of bounds.
    """

    kind: str
    tasks: tuple[str, ...]
    table: pd.DataFrame
    columns: tuple[Column, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        missing = [c.name for c in self.columns if c.name not in self.table.columns]
        if missing:
            raise ValueError(f"{self.kind}: missing columns {', '.join(missing)}")
        problems = [p for c in self.columns if len(self.table) and (p := c.check(cast(pd.Series, self.table[c.name])))]
        if problems:
            raise ValueError(f"{self.kind}: " + "; ".join(problems))

    def at(self, level: str, **where: Any) -> pd.DataFrame:
        """The rows of one level (and of the given column values), with a fresh index."""
        chosen = self.table[self.table["level"] == level]
        for name, value in where.items():
            chosen = chosen[chosen[name] == value]
        return chosen.reset_index(drop=True)

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON-safe values."""
        columns = [_plain_values(column) for _, column in self.table.items()]
        table = {"columns": list(self.table.columns), "data": [list(row) for row in zip(*columns, strict=True)]}
        return {
            "kind": self.kind,
            "tasks": list(self.tasks),
            "columns": [vars(c) for c in self.columns],
            "provenance": dict(self.provenance),
            "table": table,
        }

    def save(self, path: Path) -> None:
        """Write one JSON file, whole or not at all."""
        partial = path.with_name(path.name + ".part")
        try:
            partial.write_text(json.dumps(self.to_json()), encoding="utf-8")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    @staticmethod
    def load(path: Path) -> Result:
        """Read a file that `save` wrote."""
        data = json.loads(path.read_text(encoding="utf-8"))
        table = pd.DataFrame(data["table"]["data"], columns=data["table"]["columns"])
        columns = tuple(Column(**c) for c in data["columns"])
        for name in (c.name for c in columns if c.type != "text"):
            if table[name].isna().all():  # nothing in it says that it holds numbers
                table[name] = table[name].astype(float)
        return Result(data["kind"], tuple(data["tasks"]), table, columns, data["provenance"])


def _plain_values(column: pd.Series) -> list[Any]:
    """A column as JSON-safe values with every digit; what is no finite number is None."""
    if not pd.api.types.is_numeric_dtype(column):
        return column.astype(object).where(column.notna(), None).tolist()
    return column.astype(object).where(np.isfinite(column.astype(float)), None).tolist()


def csv_text(table: pd.DataFrame) -> str:
    """A table as CSV in which no text can act as a spreadsheet formula; numbers keep every digit."""
    safe = {
        place: column if pd.api.types.is_numeric_dtype(column) else column.astype(object).map(_inert)
        for place, (_, column) in enumerate(table.items())
    }
    header = [str(_inert(str(name))) for name in table.columns]
    return str(pd.DataFrame(safe, index=table.index).to_csv(index=False, header=header, lineterminator="\n"))


def _inert(cell: object) -> object:
    """Text that a spreadsheet would run gets a leading apostrophe, as `=1+1` and `@SUM(A1)` do."""
    if not isinstance(cell, str) or _NUMBER.fullmatch(cell.strip()):
        return cell
    runs = cell[:1] in ("\t", "\r", "\n") or cell.lstrip()[:1] in ("=", "+", "-", "@")
    # A bare carriage return is not quoted, and would begin a row of its own in many readers.
    cell = cell.replace("\r\n", "\n").replace("\r", "\n")
    return "'" + cell if runs and cell.strip() else cell
