"""What was measured of every merge method on the sample models: the results file, and its rows as Markdown.

`benchmarks/zoo.py` writes the file; the page docs/methods.md shows it. One file, so the two cannot disagree.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ZOO_RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "zoo.json"
SCHEMA = 1
HEAD = ("method", "setting", "accuracy", "of the experts'", "seconds")


def empty_results() -> dict[str, Any]:
    """A results file before the first measurement."""
    return {"schema": SCHEMA, "how": {}, "references": {}, "methods": {}, "skipped": {}}


def load_results(path: Path | None = None) -> dict[str, Any]:
    """The results file; an empty one where there is none, or where it has another schema."""
    path = path or ZOO_RESULTS
    if not path.is_file():
        return empty_results()
    data = json.loads(path.read_text(encoding="utf-8"))
    return {**empty_results(), **data} if data.get("schema") == SCHEMA else empty_results()


def save_results(results: Mapping[str, Any], path: Path) -> None:
    """Write the results, whole or not at all; methods in name order, one line each."""
    ordered = {**results, **{k: dict(sorted(results[k].items())) for k in ("methods", "skipped")}}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_text(_lines(ordered), encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _lines(results: Mapping[str, Any]) -> str:
    """JSON that a person can compare: every entry of every section on its own line."""

    def shown(value: Any, depth: int) -> str:
        if depth == 2 or not isinstance(value, Mapping) or not value:
            return json.dumps(value, ensure_ascii=False)
        pad = " " * (depth + 1)
        entries = [f"{pad}{json.dumps(k)}: {shown(v, depth + 1)}" for k, v in value.items()]
        return "{\n" + ",\n".join(entries) + "\n" + " " * depth + "}"

    return shown(results, 0) + "\n"


def method_lines(results: Mapping[str, Any], name: str) -> list[str]:
    """What is known of one method, as Markdown: its rows, why it was left out, or that nobody measured it."""
    if name in results["methods"]:
        return table_lines(results, [name])
    if name in results["skipped"]:
        return [f"Left out: {results['skipped'][name]}"]
    return ["Not measured."]


def table_lines(results: Mapping[str, Any], names: list[str] | None = None) -> list[str]:
    """A Markdown table: per method its defaults, and the best of its grid where that is another setting.

    `names` picks methods; None is every measured one after the references, highest defaults first.
    """
    rows: list[tuple[str, ...]] = []
    if names is None:
        rows = [(label, "", *_figures(s), "") for label, s in results["references"].items()]
        measured = results["methods"]
        names = sorted(measured, key=lambda n: (-measured[n]["default"]["mean"], n))
    for name in names:
        row = results["methods"][name]
        cost = f"{row['merge_seconds']:.2g}" if row["merge_seconds"] < 10 else f"{row['merge_seconds']:.0f}"
        rows.append((f"`{name}`", "defaults", *_figures(row["default"]), cost))
        if row["best"]["parameters"]:
            rows.append((f"`{name}`", said(row["best"]["parameters"]), *_figures(row["best"]), ""))
    lines = ["| " + " | ".join(HEAD) + " |", "|---|---|---|---|---|"]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows)]


def how_lines(results: Mapping[str, Any]) -> list[str]:
    """How the numbers came about, in sentences; empty before the first measurement."""
    how = results["how"]
    if not how:
        return ["Nothing is measured yet: run `python benchmarks/zoo.py`."]
    return [
        f"Measured by `{how['command']}` on {how['machine']}.",
        f"Accuracy is the mean over {how['tasks']} tasks ({how['n_test']:,} held-out texts), ± half its 95 % interval",
        "(Wilson half-widths of the tasks, in quadrature); the experts' accuracies count as exact in the share.",
        "Best: one parameter after the other (scale, then the main one), chosen on a balanced part of the tune split",
        f"({how['n_tune']} texts, which no model was trained on); so few can mislead, and a best may then score below",
        f"the defaults. Stochastic methods use seed {how['seed']}. Seconds are one merge at the defaults with all its",
        "statistics, models in memory, on a machine that did other work meanwhile: an upper bound.",
    ]


def said(values: Mapping[str, Any]) -> str:
    """Parameters in words."""
    shown = {k: f"{v:g}" if isinstance(v, float) else str(v) for k, v in values.items()}
    return ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in shown.items()) or "defaults"


def _figures(scores: Mapping[str, Any]) -> tuple[str, str]:
    share, half = 100 * scores["normalized"], 100 * scores["normalized_half"]
    return f"{scores['mean']:.3f} ± {scores['mean_half']:.3f}", f"{share:.1f} ± {half:.1f} %"
