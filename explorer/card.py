"""The model card of a merge: what a reader of the exported folder needs to trust and repeat it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import yaml

from explorer.checkpoints import Checkpoint
from explorer.front_matter import library_of, licence_of, model_index
from explorer.merging import METHODS, check_add_ons
from explorer.opening import OpenModels
from explorer.recipe import Recipe, hub_parts, model_name
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
    given = [recipe.base, *(t.checkpoint for t in recipe.tasks)]
    folders = {model_name(g): c.on_disk for g, c in zip(given, (models.base, *models.tasks.values()), strict=True)}
    licence = licence_of(folders)
    title = f"Merge of {_listed(recipe.task_names)}"
    more = {**licence.front, **library_of(models.base.config), **model_index(title, scores, task)}
    parts = [
        _front_matter(given, "merge", more),
        f"# {title}",
        "",
        *licence.warning,
        "## Merge details",
        "",
        f"Method: **{method.title}** ({method.paper}). {method.formula}".strip(),
        *(f"Then **{a.title}** ({a.paper}). {a.formula}" for a, _ in check_add_ons(recipe.add_ons)),
        *([f"This folder is the model for the task **{task}**."] if task else []),
        "",
        "### Models merged",
        "",
        f"- base: {_model(recipe.base, models.base)}",
        *_tasks_merged(recipe, models),
        "",
        f"{len(models.names)} of {len(models.base.tensors)} tensors are merged; the others keep the base's values.",
        "Arithmetic is float32 (float64 where the inputs are), rounded once to the stored dtype.",
        "",
        *_row_lines(models),
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


def adapter_card(
    recipe: Recipe,
    models: OpenModels,
    errors: Sequence[tuple[str, int, float]],
    total: float,
    *,
    how: str,
    version: str,
) -> str:
    """Markdown for a merged adapter; `errors`: (tensor, rank, relative Frobenius error) and their `total`.

    `how` is the part of the command that chose the combination.
    """
    method = METHODS.get(recipe.method)
    return "\n".join(
        [
            _front_matter([recipe.base], "adapter", {"library_name": "peft"}),
            f"# Merged adapter of {_listed(recipe.task_names)}",
            "",
            f"Method: **{method.title}** ({method.paper}). {method.formula}".strip(),
            f"Put it on {_model(recipe.base, models.base)}.",
            "",
            *_tasks_merged(recipe, models),
            "",
            f"Relative Frobenius error against the dense merge: **{total:.3g}** in total.",
            "",
            "| tensor | rank | relative error |",
            "|---|---|---|",
            *(f"| {name} | {rank} | {error:.3g} |" for name, rank, error in errors),
            "",
            "```yaml",
            _shareable_recipe(recipe).to_yaml().rstrip(),
            "```",
            "",
            f"Made with Task Interference Explorer {version}. To repeat it:",
            f"`python -m explorer merge-adapters explorer_recipe.yaml OUT {how}`.",
            "",
        ]
    )


def _tasks_merged(recipe: Recipe, models: OpenModels) -> list[str]:
    return [f"- {t.name}: {_model(t.checkpoint, models.tasks[t.name].on_disk)}" for t in recipe.tasks]


def _front_matter(models: Sequence[str], relation: str, more: Mapping[str, Any]) -> str:
    front = {
        "base_model": list(dict.fromkeys(_shareable(m) for m in models)),
        "base_model_relation": relation,
        **more,
        "tags": ["merge", "task-interference-explorer"],
    }
    return "---\n" + yaml.safe_dump(front, sort_keys=False, allow_unicode=True) + "---\n"


def _shareable(path: str) -> str:
    """A relative path or hub name as it is; a path that means nothing elsewhere by its last part."""
    posix, windows = PurePosixPath(path), PureWindowsPath(path)
    elsewhere = posix.is_absolute() or bool(windows.anchor) or windows.parts[:1] in (("..",), ("~",))
    return windows.name or "model" if elsewhere else path


def _shareable_recipe(recipe: Recipe) -> Recipe:
    tasks = tuple(
        replace(
            t,
            checkpoint=_shareable(t.checkpoint),
            statistics=_shareable(t.statistics) if t.statistics else None,
            evaluation=_shareable(t.evaluation) if t.evaluation else None,
        )
        for t in recipe.tasks
    )
    return replace(recipe, base=_shareable(recipe.base), tasks=tasks)


def _listed(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _model(given: str, checkpoint: Checkpoint) -> str:
    """One model for the list: its folder or file, or its hub name and the revision that was used."""
    digest = f"content digest `{checkpoint.digest}`"
    parts = hub_parts(given)
    if parts:
        return f"`{parts[0]}` (revision `{checkpoint.path.name}`, {digest})"
    return f"`{checkpoint.path.name}` ({digest})"


def _row_lines(models: OpenModels) -> list[str]:
    """What the merge left out of embeddings and heads that are not the base's, and what it read otherwise."""
    rows = models.alignment.row_notes(models.names)
    others = [n for n in models.alignment.notes(models.names) if n not in rows]
    lines = ["Of these tensors only the rows in common are merged:", "", *(f"- {n}" for n in rows), ""] if rows else []
    return lines + (["Names and layers on top:", "", *(f"- {n}" for n in others), ""] if others else [])


def _score_lines(scores: Result | None, task: str | None) -> list[str]:
    """The scores of this folder's model: for a per-task model, those of its one task."""
    if scores is None:
        return []
    merged = scores.table[scores.table["model"] == "merged"]
    merged = merged if task is None else merged[merged["task"] == task]
    if not len(merged):
        return []
    lines = ["### Evaluation", "", "| task | metric | score | 95 % interval | n |", "|---|---|---|---|---|"]
    for row in merged.itertuples():
        name = str(row.task).replace("|", "\\|")
        lines.append(f"| {name} | {row.metric} | {row.score:.4f} | {row.low:.4f} to {row.high:.4f} | {row.n:.0f} |")
    return [*lines, ""]
