"""The command `survey`: its options, and the files that it writes."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from explorer.store import cache_folder
from explorer.terminal import make_folder, print_table, progress_line, write_text, write_whole

ReportWriter = Callable[[Mapping[str, Any], Path, Mapping[str, Any]], None]
"""Writes a survey (results by metric, and its summary) as one page at a path; given by whoever starts the command."""

SCHEMA = 1
_UNITS = {"": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "kb": 10**3, "mb": 10**6, "gb": 10**9}


def add_survey(command: argparse.ArgumentParser) -> None:
    """Add the options to the command line."""
    command.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="folder for the tables")
    command.add_argument(
        "--metrics",
        nargs="+",
        metavar="NAME",
        help="only these metrics, as a,b or a b; all: also those that decompose matrices, which take longest",
    )
    command.add_argument(
        "--trim-density",
        type=float,
        default=0.2,
        metavar="FRACTION",
        help="trim each task vector to this fraction first, for metrics on trimmed vectors (default 0.2; 1 = all)",
    )
    command.add_argument(
        "--mask-threshold",
        type=float,
        default=0.4,
        metavar="NUMBER",
        help="mask threshold of TALL masks that single tensors and figures are shown at (default 0.4)",
    )
    command.add_argument(
        "--denominator",
        choices=("all", "changed"),
        default="all",
        help="which weights densities and shares are fractions of: all, or those that any task changed (default all)",
    )
    command.add_argument(
        "--only",
        nargs="+",
        action="extend",
        default=[],
        metavar="PATTERN",
        help="only tensors whose names fit, such as 'layers.3.*' (after any dot of the name; * stands for anything)",
    )
    command.add_argument(
        "--budget",
        type=size_bytes,
        default=1 << 30,
        metavar="SIZE",
        help="memory for the pass over the weights, such as 512MiB (default 1GiB); the model's size does not matter",
    )
    command.add_argument(
        "--policy",
        choices=("refuse", "keep_base", "common_rows"),
        default="refuse",
        help="where a tensor does not fit the base's: refuse, leave it out, or compare the rows that both have "
        "(default refuse)",
    )
    again = command.add_mutually_exclusive_group()
    again.add_argument(
        "--resume",
        action="store_true",
        help="take up what an earlier survey of the same models finished (the default)",
    )
    again.add_argument("--fresh", action="store_true", help="compute everything anew, and keep that")


def size_bytes(text: str) -> int:
    """A size such as 512MiB, 1GiB, 2GB or a number of bytes. Raises ArgumentTypeError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip(), re.IGNORECASE)
    if not match or match[2].lower() not in _UNITS:
        raise argparse.ArgumentTypeError(f"must be a size; got {text!r}. Write 512MiB or 1GiB.")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def run_survey(arguments: argparse.Namespace, tasks: Mapping[str, str], write_report: ReportWriter | None) -> int:
    """Survey, write every file, and print the tables."""
    make_folder(arguments.out)
    try:
        results, summary = _surveyed(arguments, tasks)
        files = _write(arguments.out, results, summary, write_report)
    except KeyboardInterrupt:
        print(
            "stopped; finished tensors are kept: the same command goes on from there (--fresh apart)", file=sys.stderr
        )
        return 1
    if arguments.json:
        print(json.dumps(summary, indent=1, ensure_ascii=False))
        return 0
    for name, result in results.items():
        print(f"\n{name}")
        whole = result.at("model").drop(columns=["level", "layer", "layer_index", "kind", "tensor"])
        print_table(whole.head(60))
    print(f"\nwrote {len(results)} tables to {arguments.out}: {', '.join(sorted({f.suffix[1:] for f in files}))}")
    if write_report:
        print(f"open {arguments.out / 'report.html'} in a browser for the figures")
    return 0


def _surveyed(arguments: argparse.Namespace, tasks: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    from explorer.library import open_for_survey
    from explorer.surveys import declaring, only, survey_models

    metrics = _metrics(arguments.metrics)
    models = only(open_for_survey(arguments.base, tasks, arguments.policy), arguments.only)
    survey = survey_models(
        models,
        metrics,
        parameters=declaring("mask_threshold", arguments.mask_threshold, metrics),
        trim_density=arguments.trim_density,
        denominator=arguments.denominator,
        cache=cache_folder(),
        fresh=arguments.fresh,
        budget_bytes=arguments.budget,
        progress=progress_line,
    )
    results = {name: survey.finish(name) for name in survey.planned}
    return results, summary_of(models, survey, results, arguments)


def _metrics(given: Sequence[str] | None) -> list[str] | None:
    names = [name for text in given or [] for name in text.split(",") if name]
    return ["all"] if "all" in names else names or None


def summary_of(models: Any, survey: Any, results: Mapping[str, Any], settings: argparse.Namespace) -> dict[str, Any]:
    """What was found of the whole model, with chance levels, and from what: plain values for JSON."""
    import numpy
    import torch

    from explorer import __version__
    from explorer.headlines import headlines, plain

    made_of = {"base": models.base, **{f"task {name}": c for name, c in models.tasks.items()}}
    rows_of = lambda result: result.at("model").to_dict(orient="records")  # noqa: E731
    tables = {n: [{k: plain(v) for k, v in row.items()} for row in rows_of(r)] for n, r in results.items()}
    return {
        "schema": SCHEMA,
        "headlines": headlines(results, mask_threshold=settings.mask_threshold),
        "metrics": tables,
        "provenance": {
            "models": {name: {"path": str(c.path), "digest": c.digest} for name, c in made_of.items()},
            "versions": {"explorer": __version__, "torch": torch.__version__, "numpy": numpy.__version__},
            "tensors": len(models.names),
            **{k: survey.provenance[k] for k in ("n", "seconds", "trim_density", "denominator", "trim_thresholds")},
            "mask_threshold": settings.mask_threshold,
            "only": list(settings.only),
            "policy": settings.policy,
        },
    }


def _write(
    folder: Path, results: Mapping[str, Any], summary: Mapping[str, Any], write_report: ReportWriter | None
) -> list[Path]:
    """Every file of a survey, each whole or not at all; Parquet where pyarrow is installed. Raises OutputError."""
    from explorer.results import csv_text

    files = []

    def put(name: str, write: Callable[[Path], object]) -> None:
        write_whole(folder / name, write)
        files.append(folder / name)

    for name, result in results.items():
        put(f"{name}.json", result.save)
        write_text(folder / f"{name}.csv", csv_text(result.table))
        files.append(folder / f"{name}.csv")
        if find_spec("pyarrow"):
            put(f"{name}.parquet", lambda path, table=result.table: table.to_parquet(path, index=False))  # type: ignore[misc]
    write_text(folder / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    files.append(folder / "summary.json")
    if write_report:
        put("report.html", lambda path: write_report(results, path, summary))
    return files
