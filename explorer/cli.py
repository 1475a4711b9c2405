"""The command line: the same functions as the page, generated from the same declarations.

Exit codes: 0 done; 2 the input is wrong; 1 anything else, such as an output folder that is taken, a full disk or
Ctrl-C. Either way one clear message on stderr, and no traceback for what a person can mend.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from explorer import adapter_command, mergekit_command
from explorer.commands import COMMANDS, add_commands, positive_number
from explorer.docs_commands import CATALOGUES, list_plugins, write_docs
from explorer.errors import ExplorerError, InputError, all_problems, sentence
from explorer.export_command import add_export_options, add_verify, run_plan, run_verify, settings_of
from explorer.gather_command import add_gather, run_gather
from explorer.recipe import Recipe, hub_parts, model_name
from explorer.survey_command import ReportWriter, add_survey, run_survey
from explorer.task_command import add_task, run_task
from explorer.terminal import make_folder, print_json, print_table, progress_line

SAMPLE_TASKS = Path("sample_checkpoints") / "tasks"


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    root = argparse.ArgumentParser(
        prog="python -m explorer",
        description="See why merged models fight, and merge them better.",
        epilog="BASE and TASK are paths to checkpoints: a Hugging Face folder, or one weight file (safetensors or "
        "PyTorch). TASK may also be the folder of a PEFT LoRA adapter, and may be written NAME=PATH; a PATH may be "
        "org/name@revision (see --hub). Start the page with "
        "`python app.py`.",
    )
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _models_command(commands, "inspect", "what the checkpoints hold, and what differs from the base")
    add_survey(_models_command(commands, "survey", "every interference metric as tables, and one page of figures"))
    merge = commands.add_parser("merge", help="merge by a recipe, ours or mergekit's, into a model folder")
    merge.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    merge.add_argument("out_dir", type=Path, metavar="OUT_DIR")
    merge.add_argument("--preset", metavar="NAME", help="use a named setting (see `presets`) instead of the recipe's")
    merge.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="replace a method parameter")
    merge.add_argument(
        "--add-on",
        action="append",
        default=[],
        metavar="NAME[:KEY=VALUE,…]",
        help="apply an add-on to the result, such as lines:alpha=0.1,beta=0.9; may be given several times",
    )
    merge.add_argument("--overwrite", action="store_true", help="replace OUT_DIR when it exists")
    add_export_options(merge)
    mergekit_command.add_merge_options(merge)
    add_verify(commands)
    mergekit_command.add_command(commands)
    adapter_command.add_parser(commands)
    evaluate = commands.add_parser("evaluate", help="scores of a model folder or of a recipe")
    evaluate.add_argument("model", type=Path, metavar="MODEL_DIR|RECIPE.yaml")
    evaluate.add_argument("--tasks", nargs="+", metavar="NAME", help="names of evaluation tasks (default: all)")
    evaluate.add_argument("--tasks-folder", type=Path, default=SAMPLE_TASKS, metavar="DIR", help="where tasks lie")
    evaluate.add_argument("--split", default="test", help="split to score (default test)")
    evaluate.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU when there is one)")
    harness = "tasks of lm-evaluation-harness instead (an optional install: lm-eval)"
    evaluate.add_argument("--harness", nargs="+", metavar="TASK", help=harness)
    limit = "with --harness: only the first N examples of each task, which is no result to quote"
    evaluate.add_argument("--limit", type=positive_number, metavar="N", help=limit)
    add_gather(commands, SAMPLE_TASKS)
    add_task(commands)
    for name, what in CATALOGUES.items():
        commands.add_parser(name, help=f"{what} with their parameters, ranges, defaults and help")
    add_commands(commands, SAMPLE_TASKS)
    docs = commands.add_parser("docs", help="write the generated reference pages")
    docs.add_argument("--check", action="store_true", help="fail when a page is out of date instead of writing")
    for name in ("inspect", "survey", "merge", "evaluate"):
        what = "download models that are named org/name or org/name@revision from the Hugging Face hub"
        commands.choices[name].add_argument("--hub", action="store_true", help=what)
    for name in ("inspect", "survey", "merge", "evaluate", *CATALOGUES):
        commands.choices[name].add_argument("--json", action="store_true", help="print JSON for other programs")
    return root


def _models_command(commands: Any, name: str, help: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=help)
    command.add_argument("base", type=Path, metavar="BASE")
    command.add_argument("tasks", nargs="+", metavar="TASK")
    return command


def main(argv: Sequence[str] | None = None, *, write_report: ReportWriter | None = None) -> int:
    """Run one command; the exit code. `write_report` draws a survey as a page: nothing in here knows how."""
    arguments = parser().parse_args(argv, argparse.Namespace(write_report=write_report))
    try:
        code = _COMMANDS[arguments.command](arguments)
        sys.stdout.flush()  # here, where a closed pipe can still be answered
        return code
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ExplorerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        _forget_output()
        return 1
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; nothing half-written remains", file=sys.stderr)
        return 1


def _forget_output() -> None:
    """Send what is still to be written nowhere, so that Python says nothing about the closed pipe as it ends."""
    with contextlib.suppress(OSError, ValueError):  # not a real file, as in tests
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def named_tasks(texts: Sequence[str]) -> dict[str, str]:
    """`NAME=PATH` or `PATH` (named after its folder or file) as name -> path.

    A `=` inside an existing path, or after a folder separator, belongs to the path.
    Raises InputError naming every empty or double name at once.
    """
    named: dict[str, str] = {}
    problems = []
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or "/" in name or os.sep in name or Path(text).exists():
            name, path = model_name(text if hub_parts(text) else str(Path(text).resolve())), text
        if not name or not path:
            problems.append(sentence("tasks", "must be NAME=PATH or PATH", repr(text), "Write spam=models/spam."))
        elif name in named:
            problems.append(sentence("tasks", "every task needs its own name", repr(name), "Write NAME=PATH."))
        named[name] = path
    if problems:
        raise InputError(all_problems("tasks", problems))
    return named


def _inspect(arguments: argparse.Namespace) -> int:
    from explorer.inspection import inspect_models

    tasks = named_tasks(arguments.tasks)
    _download(arguments, [str(arguments.base), *tasks.values()])
    found = inspect_models(arguments.base, tasks)
    if arguments.json:
        print_json(found.to_json())
        return 0
    print_table(found.models)
    print()
    print_table(found.differences)
    for line in (*found.warnings, *found.problems):
        print(f"\n{line}")
    return 0


def _survey(arguments: argparse.Namespace) -> int:
    tasks = named_tasks(arguments.tasks)
    make_folder(arguments.out)
    _download(arguments, [str(arguments.base), *tasks.values()])
    return run_survey(arguments, tasks, arguments.write_report)


def _merge(arguments: argparse.Namespace) -> int:
    from explorer.changes import add_on_of, changed
    from explorer.exporting import run_recipe
    from explorer.survival import survival_text

    file = mergekit_command.mergekit_recipe(arguments.recipe)
    if file is not None:
        return mergekit_command.run_merge(file, arguments)
    mergekit_command.say_notes(arguments, ours=True)
    recipe = mergekit_command.seeded(Recipe.load(arguments.recipe), arguments)
    if arguments.preset:
        from explorer.merging.presets import PRESETS

        recipe = PRESETS.get(arguments.preset).apply(recipe)
    recipe = changed(recipe, arguments.set)
    recipe = replace(recipe, add_ons=(*recipe.add_ons, *map(add_on_of, arguments.add_on)))
    _download(arguments, recipe.checkpoints)
    if arguments.plan:
        return run_plan(arguments, recipe)
    how = {"overwrite": arguments.overwrite, "settings": settings_of(arguments)}
    export = run_recipe(recipe, arguments.out_dir, progress=progress_line, **how)
    if arguments.json:
        plain = {"path": export.path, "folders": export.folders, "total_bytes": export.total_bytes}
        print_json({**plain, "seconds": export.seconds, "survival": export.survival.to_json()})
        return 0
    print(f"wrote {export.path}  ({export.total_bytes:,} bytes in {export.seconds:.1f} s)")
    print("\n".join([survival_text(export.survival), *export.checked]))
    return 0


def _download(arguments: argparse.Namespace, names: Sequence[str]) -> None:
    """Fetch hub models, where the person asked for it. Raises CheckpointError."""
    from explorer.checkpoints.hub import download

    download(names if arguments.hub else (), progress=progress_line)


def _evaluate(arguments: argparse.Namespace) -> int:
    from explorer.library import evaluate_model

    merged = arguments.hub and arguments.model.suffix in (".yaml", ".yml")
    _download(arguments, Recipe.load(arguments.model).checkpoints if merged else [str(arguments.model)])
    if arguments.harness:
        from explorer.harness_command import run as run_harness

        return run_harness(arguments)
    if arguments.limit is not None:
        raise InputError(sentence("evaluate", "--limit goes with --harness", "no --harness", "Leave --limit out."))
    result = evaluate_model(
        arguments.model,
        tasks=arguments.tasks,
        tasks_folder=arguments.tasks_folder,
        split=arguments.split,
        device=arguments.device,
    )
    if arguments.json:
        print_json(result.to_json())
        return 0
    print_table(result.table)
    scored = result.table[result.table["model"] == "merged"]
    metrics = scored["metric"].unique()
    named = metrics[0] if len(metrics) == 1 else "score"
    print(f"\nmean {named} {scored['score'].mean():.4f} over {len(scored)} tasks")
    return 0


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "inspect": _inspect,
    "survey": _survey,
    "merge": _merge,
    "verify": run_verify,
    "merge-adapters": adapter_command.run,
    "mergekit": mergekit_command.run_explain,
    "evaluate": _evaluate,
    "gather": lambda arguments: run_gather(arguments, progress_line),
    "task": run_task,
    **{kind: list_plugins(kind) for kind in CATALOGUES},
    "docs": write_docs,
    **COMMANDS,
}
