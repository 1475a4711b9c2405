"""Are these models really siblings? And if not: write one with its hidden units in the order of another's.

Fine-tunes of one base keep every hidden unit in its place, which is what makes their difference a task vector. The
best permutation of the units (weight matching) tells: for siblings it is to leave nearly all of them where they are.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import pandas as pd

from explorer.checkpoints import Checkpoint, open_checkpoint
from explorer.checkpoints.permutations import HiddenUnits, hidden_units
from explorer.checkpoints.writer import FolderWriter
from explorer.compute.matching import Matching, PermutationSpec, match, permuted
from explorer.errors import AlignmentError, RecipeError, all_problems, sentence
from explorer.exporting import COMPANIONS
from explorer.opening import companions_folder, open_all
from explorer.results import Result, count, fraction, number, text

PERMUTATION_FILE = "explorer_permutation.json"
IN_PLACE = 0.95
"""From this share of units in place on, two models are called siblings."""
MOVED = 0.5
"""Below this share they are called no siblings; in between, partly."""
HELPS = 0.5
"""Alignment is said to help where it brings the distance below this share of what it was: published runs on networks
trained apart keep 80 to 94 % of it, shuffled siblings hardly any."""

COLUMNS = (
    text("a", "first model of the pair, whose order of units is the reference"),
    text("b", "second model, whose units may move"),
    text("part", "which hidden units: the module that holds them, or all"),
    count("units", "hidden units"),
    count("units_in_place", "units that the best permutation leaves where they are"),
    fraction("in_place", "units_in_place / units"),
    fraction("null", "share in place that a random order would have: 1 / units of one module"),
    number("distance_before", "relative distance ‖a − b‖ / ‖a‖ of the tensors that hold these units", 0.0),
    number("distance_after", "the same after b's units were put into the best order", 0.0),
    number("gain", "inner product of the two that the best order adds", 0.0),
)


def compare_siblings(base: str | Path, tasks: Mapping[str, str | Path], *, pairs: bool = True, seed: int = 0) -> Result:
    """Units in place and distances for the base with every task and, with `pairs`, for every two tasks.

    One row per pair for all units (part "all"), and one per feed-forward network. One network of two models is in
    memory at a time. The distances of part "all" are taken over all networks together. Provenance: `left_out` names
    networks whose units cannot be told, `verdict` is a sentence.
    Raises InputError for models that cannot be opened, AlignmentError for a base without units or other shapes.
    """
    started = time.perf_counter()
    first, others = open_all(base, tasks)
    found = _units(first)
    named = [("base", first), *others.items()]
    chosen = list(itertools.combinations(named, 2)) if pairs else [(named[0], other) for other in named[1:]]
    rows = [row for (a, left), (b, right) in chosen for row in _rows(a, left, b, right, found.spec, seed)]
    table = pd.DataFrame(rows, columns=[c.name for c in COLUMNS])
    provenance = {
        "digests": {name: checkpoint.digest for name, checkpoint in named},
        "left_out": list(found.left_out),
        "verdict": verdict(table),
        "seconds": round(time.perf_counter() - started, 3),
    }
    return Result("siblings", tuple(others), table, COLUMNS, provenance)


def verdict(table: pd.DataFrame) -> str:
    """The table of `compare_siblings` in a sentence or two."""
    pairs = table[table["part"] == "all"]
    lowest = pairs.sort_values("in_place", kind="stable").iloc[0]
    share, between = f"{lowest['in_place']:.1%}", f"{lowest['a']} and {lowest['b']}"
    if lowest["in_place"] >= IN_PLACE:
        return f"Siblings: in every pair at least {share} of the hidden units are in place ({between})."
    apart = pairs[pairs["in_place"] < MOVED]
    if apart.empty:
        return (
            f"Partly siblings: only {share} of the hidden units of {between} are in place. Merge with care, or put "
            "them in order with `python -m explorer permute` first."
        )
    names = ", ".join(f"{row.a} and {row.b} ({row.in_place:.1%} in place)" for row in apart.itertuples())
    worst = (apart["distance_after"] / apart["distance_before"]).max()
    advice = "Merging needs alignment: `python -m explorer permute` puts the units in order."
    if worst > HELPS:
        advice += f" Even in the best order {worst:.0%} of the distance stays, so a merge may still fail."
    return f"Not siblings: {names}. {advice}"


def _units(checkpoint: Checkpoint) -> HiddenUnits:
    found = hidden_units(checkpoint)
    if not found.spec.axes:
        got = "; ".join(found.left_out[:3]) or "none"
        must = "must have hidden units whose order is free: feed-forward networks, or a chain of linear layers"
        raise AlignmentError(sentence(str(checkpoint.path), must, got, "Compare it with `inspect` instead."))
    return found


def _require(spec: PermutationSpec, a: str, left: Checkpoint, b: str, right: Checkpoint) -> None:
    """Raises AlignmentError naming every tensor that the two do not share."""
    problems = [
        sentence(b, f"tensor {n} must have the shape of {a}'s, {list(left.info(n).shape)}", _got(right, n), _ADVICE)
        for n in spec.axes
        if n not in right.tensors or right.info(n).shape != left.info(n).shape
    ]
    if problems:
        raise AlignmentError(all_problems("siblings", problems))


_ADVICE = "Only models of one architecture can be siblings."


def _got(checkpoint: Checkpoint, name: str) -> str:
    return str(list(checkpoint.info(name).shape)) if name in checkpoint.tensors else "none"


@dataclass(frozen=True)
class _Part:
    """One independent part of a match, with the squared length of the reference's tensors."""

    name: str
    matching: Matching
    squared_length: float


def _matched(left: Checkpoint, right: Checkpoint, spec: PermutationSpec, seed: int) -> list[_Part]:
    """Every independent part matched alone, read when its turn comes."""
    parts = []
    for part in spec.independent():
        ours, theirs = ({n: c.read(n) for n in part.axes} for c in (left, right))
        found = match(ours, theirs, part, seed=seed)
        squared = sum(float(t.double().square().sum()) for t in ours.values())
        parts.append(_Part(", ".join(part.permutations), found, squared))
    return parts


def _rows(
    a: str, left: Checkpoint, b: str, right: Checkpoint, spec: PermutationSpec, seed: int
) -> list[dict[str, Any]]:
    _require(spec, a, left, b, right)
    parts = _matched(left, right, spec, seed)
    return [_whole(a, b, parts), *(_row(a, b, p) for p in parts)]


def _row(a: str, b: str, part: _Part) -> dict[str, Any]:
    found = part.matching
    return {
        "a": a,
        "b": b,
        "part": part.name,
        "units": found.units,
        "units_in_place": found.units_in_place,
        "in_place": found.in_place,
        "null": len(found.permutations) / found.units,
        "distance_before": found.distance_before,
        "distance_after": found.distance_after,
        "gain": sum(found.gain.values()),
    }


def _whole(a: str, b: str, parts: list[_Part]) -> dict[str, Any]:
    """All parts together: counts and gains add up; distances are pooled, each weighed by its reference's length."""
    rows = [_row(a, b, p) for p in parts]
    units, kept = sum(r["units"] for r in rows), sum(r["units_in_place"] for r in rows)
    length = sum(p.squared_length for p in parts)

    def pooled(key: str) -> float:
        squared = sum(r[key] ** 2 * p.squared_length for r, p in zip(rows, parts, strict=True) if p.squared_length)
        return sqrt(squared / length) if length else float("nan")

    return {
        **{"a": a, "b": b, "part": "all", "units": units, "units_in_place": kept, "in_place": kept / units},
        "null": sum(len(p.matching.permutations) for p in parts) / units,
        "distance_before": pooled("distance_before"),
        "distance_after": pooled("distance_after"),
        "gain": sum(r["gain"] for r in rows),
    }


def permute_checkpoint(
    base: str | Path, checkpoint: str | Path, out_dir: str | Path, *, overwrite: bool = False, seed: int = 0
) -> Result:
    """Write the checkpoint with its hidden units in the order that is closest to the base's; the pair's table.

    The written model computes what the checkpoint computes; it can then be merged with the base. Tensors keep their
    dtype; config and tokenizer are copied; `explorer_permutation.json` holds the permutations (new unit i was unit
    p[i]). Only hidden units move: models that also order their residual stream differently stay apart there.
    Raises as `compare_siblings`; RecipeError when the output would replace an input; OutputError as `merge` does.
    """
    started = time.perf_counter()
    left, right = open_checkpoint(Path(base)), open_checkpoint(Path(checkpoint))
    _spare(left, right, Path(out_dir))
    found = _units(left)
    _require(found.spec, "base", left, right.name, right)
    parts = _matched(left, right, found.spec, seed)
    permutations = {name: p for part in parts for name, p in part.matching.permutations.items()}
    with FolderWriter(out_dir, overwrite=overwrite) as writer:
        writer.plan({name: (info.shape, info.dtype) for name, info in right.tensors.items()})
        for name in right.tensors:
            tensor = right.read(name)
            only = PermutationSpec({name: found.spec.axes[name]} if name in found.spec.axes else {})
            writer.add_tensor(name, permuted({name: tensor}, only, permutations).get(name, tensor))
        _write_companions(writer, left, right, {n: p.tolist() for n, p in permutations.items()}, seed)
    rows = [_whole("base", right.name, parts), *(_row("base", right.name, p) for p in parts)]
    table = pd.DataFrame(rows, columns=[c.name for c in COLUMNS])
    provenance = {"left_out": list(found.left_out), "seconds": round(time.perf_counter() - started, 3)}
    return Result("siblings", (right.name,), table, COLUMNS, provenance)


def _spare(left: Checkpoint, right: Checkpoint, out_dir: Path) -> None:
    target = out_dir.expanduser().resolve()
    held = [c.path for c in (left, right) if c.path.resolve() == target or c.path.resolve().is_relative_to(target)]
    if held:
        must = "the output must not replace a model that is read"
        raise RecipeError(sentence("permute", must, str(held[0]), "Give another folder."))


def _write_companions(
    writer: FolderWriter, left: Checkpoint, right: Checkpoint, permutations: Mapping[str, list[int]], seed: int
) -> None:
    if right.config:
        writer.add_text("config.json", json.dumps(right.config, indent=2) + "\n")
    folder = companions_folder(right)
    for name in COMPANIONS:
        if (folder / name).is_file():
            writer.add_file(folder / name, name)
    record = {"reference": left.digest, "permuted": right.digest, "seed": seed, "permutations": permutations}
    writer.add_text(PERMUTATION_FILE, json.dumps(record) + "\n")
