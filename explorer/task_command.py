"""The command `task`, apart from the others: a table becomes an evaluation task, or is only looked at."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explorer.errors import InputError, all_problems, sentence

if TYPE_CHECKING:
    from explorer.checkpoints import Checkpoint
    from explorer.data import DataFile, Guess, Plan
    from explorer.evaluation import TaskKind

_SHOWN_BAD, _SHOWN_WIDTH = 10, 60


def add_task(commands: Any) -> None:
    """Adds the command to the command line."""
    command = commands.add_parser("task", help="make an evaluation task of a table: CSV, TSV, JSON lines, Parquet, …")
    command.add_argument("data", type=Path, metavar="DATA", help="a file, or a local folder of `datasets` or of files")
    command.add_argument("out", type=Path, metavar="OUT", help="new folder; `evaluate --tasks-folder` takes its parent")
    command.add_argument("--kind", metavar="K", help="task kind, see `tasks` (default: guessed)")
    command.add_argument(
        "--map", action="append", default=[], metavar="FIELD=COLUMN",
        help="which column holds a field (default: guessed); FIELD=A,B,C reads a list from several columns",
    )  # fmt: skip
    command.add_argument("--label-column", metavar="COLUMN", help="the same as --map label=COLUMN")
    command.add_argument(
        "--model", type=Path, metavar="CHECKPOINT", help="fine-tune whose head and labels the task has"
    )
    command.add_argument("--like", type=Path, metavar="TASK", help="task folder whose frozen head and labels it has")
    command.add_argument("--name", metavar="NAME", help="name of the task (default: the name of OUT)")
    command.add_argument("--match", choices=("auto", "name", "number"), default="auto", help="how labels are matched")
    command.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="set a parameter of the kind")
    command.add_argument("--examples", type=int, metavar="N", help="examples at most, a seeded sample (default 5000)")
    command.add_argument("--seed", type=int, default=0, help="chooses the sample (default 0)")
    command.add_argument("--split", default="test", help="split to read from a folder, and to write (default test)")
    command.add_argument(
        "--encoding", default="auto", help="of a text file, such as cp1252 (default: mark, else UTF-8)"
    )
    command.add_argument(
        "--dry-run", action="store_true", help="show the first rows, the guess and problems; write nothing"
    )
    command.add_argument("--json", action="store_true", help="print JSON for other programs")


def run_task(arguments: argparse.Namespace) -> int:
    """Reads, guesses what was not said, writes the task folder, and says what became of every row."""
    from explorer.data import make_task, open_data

    data = open_data(arguments.data, encoding=arguments.encoding, split=arguments.split)
    model = _opened(arguments.model)
    guesses = _guesses(data, arguments, model)
    plan = _plan(arguments, guesses[0], model)
    if arguments.dry_run:
        return _look(arguments, data, guesses, plan)
    made = make_task(data, arguments.out, plan)
    if arguments.json:
        from explorer.terminal import print_json

        bad = [{"number": row.number, "why": row.why} for row in made.sample.bad]
        counted = {"n_read": made.sample.n_read, "n_bad": made.sample.n_bad, "n": made.task.n, "bad": bad}
        print_json({"path": made.folder, "name": made.task.name, "kind": made.task.kind, **counted})
        return 0
    for row in made.sample.bad[:_SHOWN_BAD]:
        print(f"{made.unit} {row.number:,}: {row.why}")
    wrote = f"wrote {made.folder}  ({made.task.n:,} examples, {made.task.kind})"
    print("\n".join([*data.notes, *made.sentences, wrote]))
    return 0


def _opened(path: Path | None) -> Checkpoint | None:
    from explorer.checkpoints import open_checkpoint

    return open_checkpoint(path) if path else None


def _guesses(data: DataFile, arguments: argparse.Namespace, model: Checkpoint | None) -> list[Guess]:
    """The likeliest kinds, or the one that was named. Raises UnknownNameError."""
    from explorer.data import guess_kinds, guess_mapping
    from explorer.evaluation import KINDS, head_labels

    if arguments.kind:
        return [guess_mapping(KINDS.get(arguments.kind), data)]
    labels = head_labels(model) or () if model else ()
    return guess_kinds(data, model.config if model else {}, has_head=bool(arguments.like), labels=labels)


def _plan(arguments: argparse.Namespace, guess: Guess, model: Checkpoint | None) -> Plan:
    from explorer.data import EXAMPLES, Plan, like_task
    from explorer.evaluation import KINDS, head_labels

    kind = KINDS.get(guess.kind)
    plan = Plan(
        name=arguments.name or arguments.out.resolve().name,
        kind=kind.name,
        mapping={**guess.mapping, **_mapping(arguments, kind)},
        examples=EXAMPLES if arguments.examples is None else arguments.examples,
        seed=arguments.seed,
        split=arguments.split,
        match_by=arguments.match,
        parameters=_parameters(arguments.set, kind),
    )
    if model is not None and "own_head" in kind.needs:
        plan = replace(plan, head_labels=head_labels(model) or (), fine_tune=model)
    return like_task(plan, arguments.like) if arguments.like else plan


def _mapping(arguments: argparse.Namespace, kind: TaskKind) -> dict[str, tuple[str, ...]]:
    from explorer.data import label_field

    held = label_field(kind)
    pairs = list(arguments.map)
    if arguments.label_column:
        pairs.append(f"{held.name if held else 'label'}={arguments.label_column}")
    wrong = [t for t in pairs if not all(t.partition("="))]
    if wrong:
        problems = [sentence("--map", "must be FIELD=COLUMN", repr(t), "Write --map text=sentence.") for t in wrong]
        raise InputError(all_problems("task", problems))
    several = {f.name for f in kind.fields if f.type == "texts"}
    split = [t.partition("=") for t in pairs]
    return {name: tuple(column.split(",")) if name in several else (column,) for name, _, column in split}


def _parameters(texts: Sequence[str], kind: TaskKind) -> dict[str, Any]:
    """`NAME=VALUE` as the kind's parameters, each value read as its type."""
    specs, found, problems = {s.name: s for s in kind.specs}, {}, []
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            problems.append(sentence("--set", "must be NAME=VALUE", repr(text), "Write --set max_length=128."))
        else:
            found[name] = specs[name].check(value, who=kind.name) if name in specs else value
    if problems:
        raise InputError(all_problems("task", problems))
    return found


def _look(arguments: argparse.Namespace, data: DataFile, guesses: Sequence[Guess], plan: Plan) -> int:
    """Prints what would be made, and every problem; exit code 2 where there is one."""
    from explorer.data import check_plan, labels_of

    problem, said = "", list(data.notes)
    try:
        check_plan(data, plan)
        labels = labels_of(data, plan)
        said += labels.sentences if labels else ()
    except InputError as error:
        problem = str(error)
    first = [{"number": row.number, **row.values} for row in data.first()]
    if arguments.json:
        from explorer.terminal import print_json

        guessed = [{"kind": g.kind, "confidence": g.confidence, "mapping": g.mapping} for g in guesses]
        print_json({"rows": first, "kind": plan.kind, "mapping": plan.mapping, "guesses": guessed, "problem": problem})
        return 2 if problem else 0
    for row in first:
        print("  ".join(f"{name}={_cut(value)}" for name, value in row.items()))
    print()
    for guess in guesses[:5]:
        columns = ", ".join(f"{f}={','.join(c)}" for f, c in guess.mapping.items())
        print(f"{guess.kind}  {guess.words} ({guess.confidence:.2f})  {columns}")
    print("\n".join(["", _chosen(plan.kind, plan.mapping), *said, *([f"problem: {problem}"] if problem else [])]))
    return 2 if problem else 0


def _chosen(kind: str, mapping: Mapping[str, Sequence[str]]) -> str:
    return f"would make {kind} of " + ", ".join(f"{f}={','.join(c)}" for f, c in mapping.items())


def _cut(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= _SHOWN_WIDTH else text[: _SHOWN_WIDTH - 1] + "…"
