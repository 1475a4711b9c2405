"""The command `gather`, apart from the others: its arguments, and what it prints."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

KINDS = {"fisher": ("fisher",), "gram": ("gram",), "both": ("fisher", "gram")}


def add_gather(commands: Any, tasks_folder: Path) -> None:
    """Adds the command to the command line."""
    command = commands.add_parser("gather", help="measure what Fisher merging and RegMean need, and write a recipe")
    command.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    command.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="new folder for the statistics and the recipe")
    command.add_argument("--kind", choices=list(KINDS), default="both", help="what to measure (default both)")
    command.add_argument(
        "--examples", type=int, default=256, metavar="N", help="examples of each task, at most (default 256)"
    )
    command.add_argument("--split", default="tune", help="split to measure on (default tune)")
    command.add_argument(
        "--labels",
        choices=("auto", "expected", "sampled"),
        default="auto",
        help="Fisher values averaged exactly over all labels, one backward pass each; or for one label drawn from the "
        "model's prediction; auto: the first for tasks of at most 32 labels (default auto)",
    )
    command.add_argument("--seed", type=int, default=0, help="chooses the examples and draws the labels (default 0)")
    command.add_argument("--tasks-folder", type=Path, default=tasks_folder, metavar="DIR", help="where tasks lie")
    command.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU when there is one)")


def run_gather(arguments: argparse.Namespace, progress: Any) -> int:
    """Measures, writes, and says where everything went."""
    from explorer.gathering import gather
    from explorer.recipe import Recipe

    found = gather(
        Recipe.load(arguments.recipe),
        arguments.out_dir,
        tasks_folder=arguments.tasks_folder,
        kinds=KINDS[arguments.kind],
        examples=arguments.examples,
        split=arguments.split,
        labels=arguments.labels,
        seed=arguments.seed,
        device=arguments.device,
        progress=progress,
    )
    for path in found.files:
        print(f"wrote {path}")
    print(f"wrote {found.recipe}  ({found.total_bytes:,} bytes in {found.seconds:.1f} s)")
    print("set its method to fisher or regmean, and merge by it")
    return 0
