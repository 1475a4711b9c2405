"""What the sample models show, as a page: which interference is above chance, and whether it foretells lost accuracy.

`benchmarks/findings.py` measures and writes the results file; docs/findings.md is made from that file alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FINDINGS_RESULTS = ROOT / "benchmarks" / "results" / "findings.json"
PAGE = ROOT / "docs" / "findings.md"
SCHEMA = 1
LEVEL = 0.05
_OPPOSITE = (
    " Note the sign: *more* sign conflict goes with *less* loss, the opposite of what its name suggests. Here tasks"
    " whose changes point the same way cost each other more; conflict is no measure of harm by itself."
)
_SECTIONS = ("how", "accuracies", "losses", "above_chance", "predictions")


def load_findings(path: Path | None = None) -> dict[str, Any]:
    """The results file; an empty one where there is none, or where it has another schema."""
    path = path or FINDINGS_RESULTS
    data = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    empty: dict[str, Any] = {"schema": SCHEMA, **{name: {} for name in _SECTIONS}}
    return {**empty, **data} if data.get("schema") == SCHEMA else empty


def save_findings(results: Mapping[str, Any], path: Path) -> None:
    """Write the results, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def page(results: Mapping[str, Any]) -> str:
    """docs/findings.md as Markdown."""
    lines = [
        "# What the samples show",
        "",
        "Written by `python benchmarks/findings.py`; do not edit. Seven fine-tunes of one small sentence encoder",
        "([how they were made](../sample_checkpoints/README.md)); other models may show something else.",
        "",
    ]
    if not results["predictions"]:
        return "\n".join([*lines, "Nothing is measured yet."]) + "\n"
    lines += ["## Which interference is above chance?", "", *_above_chance_lines(results["above_chance"])]
    lines += ["## Does it foretell the accuracy that a merge loses?", "", *_design_lines(results)]
    for setting, rows in results["predictions"].items():
        lines += [f"### {setting}", "", *_loss_lines(results, setting), *_prediction_lines(rows)]
    return "\n".join(lines).rstrip() + "\n"


def _above_chance_lines(measured: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    lines = [
        "Whole model, each metric's own number. Mean: over its rows (pairs, tasks, or counts of tasks). The next",
        "column is the row furthest from chance, on the side that means interference where the metric has one. Shares",
        "count weights; neighbouring weights are not independent, so a small excess is a hint, not a proof.",
        "",
    ]
    for density, rows in measured.items():
        lines += [f"### Each task vector {_kept(density)}", ""]
        lines += ["| metric | mean | chance | furthest from chance | there, chance | above chance |"]
        lines += ["|---|---|---|---|---|---|", *map(_chance_row, rows), ""]
    return lines


def _kept(density: str) -> str:
    share = float(density)
    return "as it is" if share == 1 else f"trimmed to its largest {100 * share:g} % first, for the metrics on signs"


def _chance_row(row: Mapping[str, Any]) -> str:
    where = row["where"]
    place = f" ({where['task_a']}, {where['task_b']})" if "task_a" in where else ""
    place = place or (f" ({where['task']})" if "task" in where else "")
    place = place or (f" (k = {where['k']})" if "k" in where else "")
    spread = f" ± {row['null_sd']:.2g}" if row.get("null_sd") else ""
    cells = (
        f"{row['title']}: {row['column'].replace('_', ' ')}",
        f"{row['mean']:.4g}",
        f"{row['mean_null']:.4g}",
        f"{row['value']:.4g}{place}",
        f"{row['null']:.4g}{spread}",
        f"{row['above_null']} of {row['rows']}",
    )
    return "| " + " | ".join(cells) + " |"


def _design_lines(results: Mapping[str, Any]) -> list[str]:
    n = results["how"]["n"]
    tasks = len(n)
    pairs = tasks * (tasks - 1) // 2
    verdicts = [_verdict(setting, rows) for setting, rows in results["predictions"].items()]
    return [
        *verdicts,
        "",
        f"Every one of the {pairs} pairs is merged, and both of its tasks are scored on their test data",
        f"({min(n.values())} to {max(n.values())} texts each, so one accuracy has a standard error of up to",
        f"{_standard_error(results):.3f}). The loss of task a when b is added is acc(θ_0 + s τ_a) −",
        "acc(θ_0 + s (τ_a + τ_b)) at the scale s stated; for TIES both models go through TIES. A negative loss is a",
        "gain.",
        "",
        "Pairs that share a task are not independent, so a usual p-value would be far too small. p here is a Mantel",
        "test: the tasks of one side are renamed in all possible ways. Adjusted p also pays for trying several numbers",
        "at once (within a table and kind of pair, not across tables; the one-sided share is 1 − the overlap).",
        "ρ > 0: more of the number goes with a larger loss. The interval is a 95 % bootstrap over the",
        f"{tasks} tasks, which is rough for so few.",
        "",
    ]


def _standard_error(results: Mapping[str, Any]) -> float:
    """The largest standard error of an accuracy of a task alone, √(p (1 − p) / n)."""
    n = results["how"]["n"]
    alone = [a for groups in results["accuracies"].values() for k, a in groups.items() if "+" not in k]
    return float(max((p * (1 - p) / n[task]) ** 0.5 for found in alone for task, p in found.items()))


def _verdict(setting: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """What the correlations of one setting allow to say: sure only where both the test and the interval are."""
    sure = [r for r in rows if r["p_adjusted"] <= LEVEL and r["low"] * r["high"] > 0]
    hints = [r for r in rows if min(r["p"], r["p_adjusted"]) <= LEVEL and r not in sure]
    if sure:
        said = f"- **{setting}**: {_named(sure)} can be told from chance, adjusted for the numbers tried."
        opposite = [r for r in sure if r["number"].startswith("sign conflict") and r["rho"] < 0]
        return said + (_OPPOSITE if opposite else "")
    if hints:
        unsure = "none is sure, once adjusted for the numbers tried and with other tasks drawn"
        return f"- **{setting}**: hints only, from {_named(hints)}; {unsure}."
    best = max(rows, key=lambda r: abs(r["rho"]))
    said = f"the strongest is {best['number']} ({best['over']}, ρ = {best['rho']:+.2f}, p = {best['p']:.2f})"
    return f"- **{setting}**: not detectable with so few tasks; {said}."


def _named(rows: Sequence[Mapping[str, Any]]) -> str:
    return "; ".join(f"{r['number']} ({r['over']}, ρ = {r['rho']:+.2f})" for r in rows)


def _loss_lines(results: Mapping[str, Any], setting: str) -> list[str]:
    losses = results["losses"][setting]
    alone = results["accuracies"][setting]
    worst, best = max(losses, key=losses.__getitem__), min(losses, key=losses.__getitem__)
    mean = sum(losses.values()) / len(losses)
    single = sum(next(iter(v.values())) for k, v in alone.items() if "+" not in k) / len(results["how"]["n"])
    return [
        f"Alone the tasks score {single:.3f} on average; a second task costs {100 * mean:.1f} points, from"
        f" {100 * losses[best]:.1f} ({best}) to {100 * losses[worst]:.1f} ({worst}; the first loses).",
        "",
    ]


def _prediction_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "| number | over | n | ρ with the loss | 95 % interval | p | adjusted p |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        cells = (
            r["number"], r["over"], str(r["n"]), f"{r['rho']:+.2f}", f"{r['low']:+.2f} to {r['high']:+.2f}",
            _p(r["p"]), _p(r["p_adjusted"]),
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
