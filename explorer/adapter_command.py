"""`python -m explorer merge-adapters`: adapters into one adapter, with its error."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

COMBINATIONS = ("concatenate", "svd")


def add_parser(commands: Any) -> None:
    """Declare the command."""
    command = commands.add_parser("merge-adapters", help="merge PEFT adapters by a recipe into a new adapter")
    command.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    command.add_argument("out_dir", type=Path, metavar="OUT_DIR")
    command.add_argument(
        "--combine",
        choices=COMBINATIONS,
        default=COMBINATIONS[0],
        help="concatenate: exact, ranks add up, for task_arithmetic and weight_average (default); "
        "svd: any method, cut to --rank, error stated",
    )
    command.add_argument("--rank", type=int, metavar="N", help="rank for svd (default: the largest of the adapters)")
    command.add_argument("--overwrite", action="store_true", help="replace OUT_DIR when it exists")


def run(arguments: argparse.Namespace) -> int:
    """Merge, and print the error per matrix and in total."""
    from explorer.adapters import merge_adapters

    made = merge_adapters(
        arguments.recipe,
        arguments.out_dir,
        combine=arguments.combine,
        rank=arguments.rank,
        overwrite=arguments.overwrite,
    )
    for name, rank, error in made.errors:
        print(f"{name}  rank {rank}  relative error {error:.3g}")
    print(f"relative error in total {made.total_error:.3g}")
    print(f"wrote {made.path}  ({made.total_bytes:,} bytes in {made.seconds:.1f} s)")
    return 0
