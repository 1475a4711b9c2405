"""Catalogues of methods, metrics and task kinds, and the reference pages made from them.

Everything here is read from the declarations, so a page can be stale but never wrong in kind: `docs --check` fails CI
when a page differs from what would be written.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from explorer.measured import how_lines, load_results, method_lines, table_lines

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "reference"
KINDS = ("methods", "add-ons", "metrics", "tasks")
_TITLES = {
    "methods": "Merge methods",
    "add-ons": "Add-ons to a merge",
    "metrics": "Interference metrics",
    "tasks": "Evaluation task kinds",
}
_SKIPPED = ("name", "title", "parameters", "summary", "help", "columns", "how")
_COSTS = {
    "elementwise": "one pass over the weights, any piece alone",
    "elementwise+threshold": "passes that gather statistics of the whole model, kept between settings, then one pass",
    "tensor": "one pass that needs each tensor as a whole",
    "matrix": "matrix factorizations, one matrix at a time: by far the slowest part of a merge",
    "data": "one pass, after statistics were measured by forward passes over data",
}


def catalogue(kind: str) -> list[dict[str, Any]]:
    """Every plugin of a kind as plain values: texts, flags, parameters with ranges, defaults and help."""
    describe = _metric if kind == "metrics" else lambda item: item.describe()
    return [{**describe(item), "docstring": _doc(item)} for item in _registry(kind)]


def _metric(item: Any) -> dict[str, Any]:
    texts = {k: getattr(item, k) for k in ("name", "title", "help", "unit", "on", "higher_is_worse", "paper", "how")}
    columns = [{"name": c.name, "help": c.help} for c in item.columns]
    return {**texts, "columns": columns, "parameters": [s.describe() for s in item.specs]}


def _registry(kind: str) -> Any:
    if kind == "methods":
        from explorer.merging import METHODS

        return METHODS
    if kind == "add-ons":
        from explorer.merging import ADD_ONS

        return ADD_ONS
    if kind == "metrics":
        from explorer.interference import METRICS

        return METRICS
    from explorer.evaluation import KINDS as TASK_KINDS

    return TASK_KINDS


def _doc(item: Any) -> str:
    text = getattr(item, "doc", None) or inspect.getdoc(getattr(item, "function", item)) or ""
    return inspect.cleandoc(text)


def catalogue_text(kind: str) -> str:
    """The catalogue for a terminal."""
    blocks = []
    for entry in catalogue(kind):
        lines = [f"{entry['name']}: {entry['title']}", *_indented(entry["docstring"].split("\n\n")[0], 2)]
        for p in entry["parameters"]:
            per_task = (", per task" if p["per_task"] else "") + (", per tensor" if p["per_block"] else "")
            lines.append(f"    {p['name']}  {p['allowed']}, default {p['default']}{per_task}")
            lines += _indented(p["help"], 8)
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _indented(text: str, by: int) -> list[str]:
    return [" " * by + line.strip() for line in text.splitlines() if line.strip()]


def page(kind: str) -> str:
    """One reference page as Markdown."""
    parts = [
        f"# {_TITLES[kind]}",
        "",
        "Written by `python -m explorer docs` from the declarations in the code; do not edit.",
        "",
    ]
    measured = load_results() if kind == "methods" else None
    parts += _overview(measured) if measured else []
    for entry in catalogue(kind):
        parts += [f"## {entry['title']} (`{entry['name']}`)", "", *_body(entry), ""]
        if measured:
            parts += ["On the sample models:", "", *method_lines(measured, entry["name"]), ""]
    return "\n".join(parts).rstrip() + "\n"


def _overview(measured: Mapping[str, Any]) -> list[str]:
    """All methods side by side on the sample models, and why some are missing. Only what is registered counts."""
    known = _registry("methods").names()
    here = {**measured, "methods": {n: row for n, row in measured["methods"].items() if n in known}}
    lines = ["## On the sample models", "", *how_lines(here), ""]
    lines += [*table_lines(here), ""] if here["methods"] else []
    away = [n for n in known if n in here["skipped"]]
    lines += ["Left out:", "", *(f"- `{n}`: {here['skipped'][n]}" for n in away), ""] if away else []
    unknown = [f"`{n}`" for n in known if n not in here["methods"] and n not in here["skipped"]]
    return [*lines, f"Not measured: {', '.join(unknown)}.", ""] if unknown else lines


def _body(entry: Mapping[str, Any]) -> list[str]:
    lines = [entry["docstring"], ""]
    if entry.get("granularity") in _COSTS:
        entry = {**entry, "cost": _COSTS[entry["granularity"]]}
    facts = {k: v for k, v in entry.items() if k not in (*_SKIPPED, "docstring") and v not in ("", None, [], ())}
    lines += [f"- {name.replace('_', ' ')}: {_fact(value)}" for name, value in facts.items()]
    if entry.get("how"):
        lines += ["", f"How to read it: {entry['how']}"]
    if entry.get("columns"):
        lines += ["", "| column | meaning |", "|---|---|"]
        lines += [f"| `{c['name']}` | {_cell(c['help'])} |" for c in entry["columns"]]
    if entry["parameters"]:
        lines += ["", "| parameter | allowed | default | may differ | meaning |", "|---|---|---|---|---|"]
        for p in entry["parameters"]:
            per_task = " and ".join(w for w in ("task", "block") if p[f"per_{w}"])
            per_task = f"per {per_task}".replace("block", "tensor") if per_task else ""
            row = (f"`{p['name']}`", p["allowed"], f"{p['default']}", per_task, _cell(p["help"]))
            lines.append("| " + " | ".join(row) + " |")
    return lines


def _fact(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def command_page() -> str:
    """The command line as Markdown, from its own help texts."""
    from explorer.cli import parser

    root = parser()
    parts = ["# Command line", "", "Written by `python -m explorer docs`; do not edit.", ""]
    commands = next(a for a in root._actions if hasattr(a, "choices") and isinstance(a.choices, dict))
    for name, command in commands.choices.items():  # type: ignore[union-attr]
        parts += [f"## {name}", "", "| argument | meaning |", "|---|---|"]
        for action in (a for a in command._actions if a.help != argparse.SUPPRESS):
            flag = ", ".join(action.option_strings) or str(action.metavar or action.dest)
            parts.append(f"| `{_cell(flag)}` | {_cell(action.help or '')} |")
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def presets_page() -> str:
    """The named settings as Markdown."""
    from explorer.merging.presets import PRESETS

    parts = [
        "# Presets",
        "",
        "Written by `python -m explorer docs` from the declarations in the code; do not edit.",
        "",
        "Use one with `python -m explorer merge RECIPE.yaml OUT_DIR --preset NAME`: it replaces the recipe's method",
        "and parameters. `--set` changes single values after it.",
        "",
    ]
    for entry in (preset.describe() for preset in PRESETS):
        parts += [f"## {entry['title']} (`{entry['name']}`)", "", entry["summary"], ""]
        parts += [f"- paper: {entry['paper']}", f"- method: `{entry['method']}`"]
        if entry["roles"]:
            parts.append("- tasks, in this order: " + ", ".join(entry["roles"]))
        parts += ["", "| parameter | value |", "|---|---|"]
        parts += [f"| `{name}` | {_cell(_setting(value))} |" for name, value in entry["parameters"].items()]
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def _setting(value: Any) -> str:
    return ", ".join(f"{k}: {v:g}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)


def page_path(kind: str) -> Path:
    """Where the page of a kind lies: methods, which most readers look for, above the rest of the reference."""
    return (FOLDER.parent if kind == "methods" else FOLDER) / f"{kind}.md"


def pages() -> dict[Path, str]:
    """Every generated page: path -> text."""
    made = {page_path(kind): page(kind) for kind in KINDS}
    return {**made, FOLDER / "presets.md": presets_page(), FOLDER / "command-line.md": command_page()}


def write_pages() -> list[Path]:
    """Write the pages that changed; all their paths."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
    return list(pages())


def stale_pages() -> list[Path]:
    """Pages that are missing or differ from what would be written."""
    return [p for p, text in pages().items() if not p.exists() or p.read_text(encoding="utf-8") != text]
