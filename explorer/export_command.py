"""The command `verify`, and the options of `merge` that say how an export runs: plan, memory, shards, verification."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from explorer.store import cache_folder
from explorer.survey_command import size_bytes
from explorer.terminal import print_json, progress_line

_DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9}


def add_export_options(merge: argparse.ArgumentParser) -> None:
    """Add them to `merge`."""
    merge.add_argument("--plan", action="store_true", help="show sizes, memory, time and free disk; write nothing")
    merge.add_argument(
        "--budget",
        type=size_bytes,
        default=1 << 30,
        metavar="SIZE",
        help="memory for tensors in work, such as 512MiB (default 1GiB); the model's size does not matter",
    )
    merge.add_argument(
        "--out-shard-size",
        type=shard_bytes,
        default=5 * 10**9,
        metavar="SIZE",
        help="largest weight file, in bytes: 2B, 500M (default 5B; B is 1000 M)",
    )
    check = "read the output back before it appears: digests, finite values, loading, one pass (default below 2 GB)"
    merge.add_argument("--verify", action=argparse.BooleanOptionalAction, default=None, help=check)


def shard_bytes(text: str) -> int:
    """A size as mergekit takes it: 2B, 500M, 100K or a number, all of bytes; also 512MiB. Raises ArgumentTypeError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmbg]?)b?", text.strip(), re.IGNORECASE)
    found = int(float(match[1]) * _DECIMAL[match[2].lower()]) if match else size_bytes(text)
    if found < 1:
        raise argparse.ArgumentTypeError(f"must be above 0; got {text!r}")
    return found


def settings_of(arguments: argparse.Namespace) -> Any:
    """The options as `ExportSettings`."""
    from explorer.exporting import ExportSettings

    return ExportSettings(arguments.budget, arguments.out_shard_size, arguments.verify, cache_folder())


def run_plan(arguments: argparse.Namespace, recipe: Any) -> int:
    """Show what `merge` would do. Raises InputError with everything that keeps it from working."""
    from explorer.planning import plan_recipe

    plan = plan_recipe(recipe, arguments.out_dir, overwrite=arguments.overwrite, settings=settings_of(arguments))
    if arguments.json:
        print_json(plan.to_json())
    else:
        print("\n".join(plan.lines()))
    return 0 if not plan.problems else 1


def add_verify(commands: Any) -> None:
    """Declare `verify`."""
    command = commands.add_parser("verify", help="is an exported folder still what was computed, and does it load?")
    command.add_argument("folder", type=Path, metavar="OUT_DIR")
    command.add_argument("--no-load", action="store_true", help="compare digests only; load no model")
    command.add_argument("--json", action="store_true", help="print JSON for other programs")


def run_verify(arguments: argparse.Namespace) -> int:
    """0 when all holds, 1 when something is not as exported. Raises InputError with nothing to compare with (2)."""
    from explorer.recipe import Recipe
    from explorer.verifying import SIDECAR, verify_folder

    folder, found = arguments.folder, {}
    several = not (folder / SIDECAR).is_file() and (folder / "explorer_recipe.yaml").is_file()
    inside = (
        [folder / name for name in Recipe.load(folder / "explorer_recipe.yaml").task_names] if several else [folder]
    )
    for one in inside:
        found[str(one)] = verify_folder(one, load=not arguments.no_load, progress=progress_line)
    problems = [problem for one in found.values() for problem in one.problems]
    if arguments.json:
        print_json({name: {"held": one.held, "problems": one.problems} for name, one in found.items()})
        return 1 if problems else 0
    for name, one in found.items():
        print("\n".join([name, *(f"  {line}" for line in one.held)]))
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0
