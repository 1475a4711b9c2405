"""The parts of a model card's front matter that come from the parents' cards and from scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from explorer.checkpoints import Checkpoint
from explorer.opening import companions_folder
from explorer.results import Result

_KEYS = ("license", "license_name", "license_link")
_MOST_BYTES = 1 << 20
_TEXT_MODELS = ("CausalLM", "LMHead")


@dataclass(frozen=True)
class Licence:
    """The front matter's keys about the licence, and lines of the card that warn where parents do not agree."""

    front: dict[str, str]
    warning: tuple[str, ...] = ()


def licence_of(parents: Mapping[str, Checkpoint]) -> Licence:
    """Inherited where all parents state the same one; flagged where they differ, or where some state none."""
    stated = {name: _said(checkpoint) for name, checkpoint in parents.items()}
    known = {name: s["license"] for name, s in stated.items() if "license" in s}
    if not known:
        return Licence({})
    without = [name for name in parents if name not in known]
    lines = [f"- {name}: {known.get(name, 'states none')}" for name in parents]
    if len({tuple(sorted(stated[n].items())) for n in known}) > 1:
        says = "**The parents' licences differ.** Whether this merge may be shared depends on all of them:"
        return Licence({"license": "other"}, (says, "", *lines, ""))
    front = stated[next(iter(known))]
    if without:
        says = "**Some parents state no licence** beside their weights; make sure that theirs allows this merge:"
        return Licence(front, (says, "", *lines, ""))
    return Licence(front)


def _said(checkpoint: Checkpoint) -> dict[str, str]:
    """The keys about the licence in the front matter of a model's card; nothing where there is none to be read."""
    path = companions_folder(checkpoint) / "README.md"
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read(_MOST_BYTES)
        parts = text.split("\n---", 1)
        front = yaml.safe_load(parts[0].removeprefix("---")) if text.startswith("---") and len(parts) > 1 else None
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    if not isinstance(front, dict):
        return {}
    return {k: " ".join(front[k].split())[:200] for k in _KEYS if isinstance(front.get(k), str) and front[k].strip()}


def library_of(config: Mapping[str, Any]) -> dict[str, str]:
    """The library that loads the model, and what it is for where the architecture says so."""
    named = config.get("architectures")
    architecture = named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""
    task = {"pipeline_tag": "text-generation"} if architecture.endswith(_TEXT_MODELS) else {}
    return {"library_name": "transformers", **task}


def model_index(title: str, scores: Result | None, task: str | None) -> dict[str, Any]:
    """Scores of the merged model as hubs read them; nothing without scores. `task`: those of one task only."""
    if scores is None:
        return {}
    table = scores.table[scores.table["model"] == "merged"]
    table = table if task is None else table[table["task"] == task]
    results = [
        {
            "task": {"type": "text-classification", "name": str(row["task"])},
            "dataset": {"type": str(row["task"]), "name": str(row["task"])},
            "metrics": [
                {"type": str(row["metric"]), "name": str(row["metric"]), "value": round(float(row["score"]), 6)}
            ],
        }
        for row in table.to_dict("records")
    ]
    return {"model-index": [{"name": title, "results": results}]} if results else {}


def _metric(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": str(row["metric"]), "name": str(row["metric"]), "value": round(float(row["score"]), 6)}
