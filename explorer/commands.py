"""Commands beside the basic ones of `cli`: siblings, permute, greedy-soup and presets."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

GOALS = ("normalized_accuracy", "accuracy", "worst")


def add_commands(commands: Any, sample_tasks: Path) -> None:
    """Declare them to the parser."""
    siblings = commands.add_parser("siblings", help="are the models of a recipe really fine-tunes of one base?")
    siblings.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    siblings.add_argument("--base-only", action="store_true", help="compare the base with each task, not task pairs")
    siblings.add_argument("--json", action="store_true", help="print JSON for other programs")
    permute = commands.add_parser("permute", help="write a model with its hidden units in the order of BASE's")
    permute.add_argument("base", type=Path, metavar="BASE")
    permute.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    permute.add_argument("out_dir", type=Path, metavar="OUT_DIR")
    permute.add_argument("--overwrite", action="store_true", help="replace OUT_DIR when it exists")
    soup = commands.add_parser("greedy-soup", help="choose which checkpoints of a recipe to average, by held-out score")
    soup.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    soup.add_argument("out", type=Path, metavar="OUT.yaml", help="where to write the chosen recipe")
    soup.add_argument("--tasks", nargs="+", metavar="NAME", help="evaluation tasks (default: the recipe's)")
    soup.add_argument("--tasks-folder", type=Path, default=sample_tasks, metavar="DIR", help="where tasks lie")
    soup.add_argument("--split", default="tune", help="split to score on (default tune)")
    soup.add_argument("--metric", choices=GOALS, default=GOALS[0], help=f"what to choose by (default {GOALS[0]})")
    soup.add_argument("--examples", type=positive_number, metavar="N", help="about N examples per task (default: all)")
    soup.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU when there is one)")
    soup.add_argument("--export", type=Path, metavar="DIR", help="also write the soup as a model folder")
    soup.add_argument("--overwrite", action="store_true", help="replace OUT.yaml and the model folder")
    soup.add_argument("--json", action="store_true", help="print JSON for other programs")
    presets = commands.add_parser("presets", help="named settings: a method with the parameters of a paper or library")
    presets.add_argument("--json", action="store_true", help="print JSON for other programs")


def positive_number(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {value}")
    return value


def _print(table: Any) -> None:
    print(table.to_string(index=False, float_format=lambda x: f"{x:.4g}", na_rep="-"))


def _siblings(arguments: argparse.Namespace) -> int:
    from explorer.recipe import Recipe
    from explorer.siblings import compare_siblings

    recipe = Recipe.load(arguments.recipe)
    tasks = {t.name: t.checkpoint for t in recipe.tasks}
    result = compare_siblings(recipe.base, tasks, pairs=not arguments.base_only)
    if arguments.json:
        print(json.dumps(result.to_json(), indent=1, ensure_ascii=False))
        return 0
    _print_pairs(result)
    print(f"\n{result.provenance['verdict']}")
    return 0


def _print_pairs(result: Any) -> None:
    """One line per pair, then the modules whose units moved."""
    pairs = result.table["part"] == "all"
    _print(result.table[pairs].drop(columns="part"))
    moved = result.table[~pairs & (result.table["in_place"] < 1)]
    if len(moved):
        print("\nwhere units moved")
        _print(moved.head(60))
    for line in result.provenance["left_out"]:
        print(f"\n{line}")


def _permute(arguments: argparse.Namespace) -> int:
    from explorer.siblings import permute_checkpoint

    result = permute_checkpoint(arguments.base, arguments.checkpoint, arguments.out_dir, overwrite=arguments.overwrite)
    _print_pairs(result)
    whole = result.table.iloc[0]
    moved = int(whole["units"] - whole["units_in_place"])
    print(f"\nwrote {arguments.out_dir}  ({moved:,} of {int(whole['units']):,} hidden units moved)")
    return 0


def _greedy_soup(arguments: argparse.Namespace) -> int:
    from explorer.errors import OutputError, sentence
    from explorer.exporting import run_recipe
    from explorer.recipe import Recipe
    from explorer.soup import cook_greedy_soup

    if arguments.out.exists() and not arguments.overwrite:  # before the work, not after it
        raise OutputError(sentence(str(arguments.out), "must not exist yet", "a file", "Use --overwrite."))
    cooked = cook_greedy_soup(
        Recipe.load(arguments.recipe),
        tasks_folder=arguments.tasks_folder,
        tasks=arguments.tasks,
        split=arguments.split,
        goal=arguments.metric,
        examples=arguments.examples,
        device=arguments.device,
        on_scored=_say_scored,
    )
    _write_recipe(arguments.out, cooked.recipe.to_yaml())
    if arguments.export:
        run_recipe(cooked.recipe, arguments.export, overwrite=arguments.overwrite)
    if arguments.json:
        print(json.dumps(cooked.trail.to_json(), indent=1, ensure_ascii=False))
        return 0
    _print(cooked.trail.table)
    chosen = ", ".join(cooked.soup.members)
    print(f"\nchosen by {arguments.metric} on {arguments.split}: {chosen}  ({cooked.soup.score:.4f})")
    for path in (arguments.out, *([arguments.export] if arguments.export else [])):
        print(f"wrote {path}")
    return 0


def _say_scored(members: tuple[str, ...]) -> None:
    if sys.stderr.isatty():
        print(f"scored {' + '.join(members)}", file=sys.stderr, flush=True)


def _write_recipe(path: Path, text: str) -> None:
    """Write the recipe, whole or not at all; a folder that is missing is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _presets(arguments: argparse.Namespace) -> int:
    from explorer.merging.presets import PRESETS

    described = [preset.describe() for preset in PRESETS]
    if arguments.json:
        print(json.dumps(described, indent=1, ensure_ascii=False))
        return 0
    for entry in described:
        print(f"{entry['name']}: {entry['title']}\n  {entry['summary']}\n  method {entry['method']}")
        for name, value in entry["parameters"].items():
            print(f"    {name} = {value}")
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "siblings": _siblings,
    "permute": _permute,
    "greedy-soup": _greedy_soup,
    "presets": _presets,
}
