"""The model card of a merge: what a reader of the exported folder needs to trust and repeat it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath

import yaml

from explorer.merging import METHODS
from explorer.opening import OpenModels
from explorer.recipe import Recipe
from explorer.results import Result
from explorer.survival import survival_lines


def model_card(
    recipe: Recipe,
    models: OpenModels,
    *,
    task: str | None = None,
    scores: Result | None = None,
    survival: Result | None = None,
    version: str = "",
) -> str:
    """Markdown with the front matter that model hubs read; `task` names the one task a per-task model serves.

    Paths that mean nothing on another machine appear by their last part; the recipe file beside it keeps them whole.
    """
    method = METHODS.get(recipe.method)
    parts = [
        _front_matter(recipe),
        f"# Merge of {_listed(recipe.task_names)}",
        "",
        "## Merge details",
        "",
        f"Method: **{method.title}** ({method.paper}). {method.formula}".strip(),
        *([f"This folder is the model for the task **{task}**."] if task else []),
        "",
        "### Models merged",
        "",
        f"- base: `{Path(recipe.base).name}` (content digest `{models.base.digest}`)",
        *(f"- {name}: `{Path(c.path).name}` (content digest `{c.digest}`)" for name, c in models.tasks.items()),
        "",
        f"{len(models.names)} of {len(models.base.tensors)} tensors are merged; the others keep the base's values.",
        "Arithmetic is float32 (float64 where the inputs are), rounded once to the stored dtype.",
        "",
        "### Configuration",
        "",
        "```yaml",
        _shareable_recipe(recipe).to_yaml().rstrip(),
        "```",
        "",
        *_score_lines(scores, task),
        *(survival_lines(survival, task) if survival else []),
        f"Made with Task Interference Explorer {version}. To repeat it:",
        "`python -m explorer merge explorer_recipe.yaml OUT`.",
        "",
    ]
    return "\n".join(parts)


def _front_matter(recipe: Recipe) -> str:
    front = {
        "base_model": [_shareable(recipe.base), *(_shareable(t.checkpoint) for t in recipe.tasks)],
        "base_model_relation": "merge",
        "library_name": "transformers",
        "tags": ["merge", "task-interference-explorer"],
    }
    return "---\n" + yaml.safe_dump(front, sort_keys=False, allow_unicode=True) + "---\n"


def _shareable(path: str) -> str:
    """A relative path or hub name as it is; a path that means nothing elsewhere by its last part."""
    posix, windows = PurePosixPath(path), PureWindowsPath(path)
    elsewhere = posix.is_absolute() or bool(windows.anchor) or windows.parts[:1] in (("..",), ("~",))
    return windows.name or "model" if elsewhere else path


def _shareable_recipe(recipe: Recipe) -> Recipe:
    tasks = tuple(replace(t, checkpoint=_shareable(t.checkpoint)) for t in recipe.tasks)
    return replace(recipe, base=_shareable(recipe.base), tasks=tasks)


def _listed(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _score_lines(scores: Result | None, task: str | None) -> list[str]:
    """The scores of this folder's model: for a per-task model, those of its one task."""
    if scores is None:
        return []
    merged = scores.table[scores.table["model"] == "merged"]
    merged = merged if task is None else merged[merged["task"] == task]
    if not len(merged):
        return []
    lines = ["### Evaluation", "", "| task | accuracy | 95 % interval | n |", "|---|---|---|---|"]
    for row in merged.itertuples():
        name = str(row.task).replace("|", "\\|")
        lines.append(f"| {name} | {row.accuracy:.4f} | {row.low:.4f} to {row.high:.4f} | {row.n:.0f} |")
    return [*lines, ""]
