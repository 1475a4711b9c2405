"""Accuracy of every merge method on the sample zoo: at its defaults, and at the best of a small grid.

    python benchmarks/zoo.py [--json FILE]

Grids are searched on each task's `tune` split (rows of the training data that no model was trained on); what is
reported is the untouched `test` split, so the "best" rows do not flatter themselves. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dataclasses import replace

import numpy as np

from explorer.compute.device import pick_device
from explorer.evaluation import Evaluator, find_tasks, load_module, load_task, wilson
from explorer.live import LiveModel, load_resident
from explorer.merging import METHODS
from explorer.opening import open_models
from explorer.recipe import Recipe
from explorer.samples import FOLDER, sample_recipe
from explorer.store import Store

GRIDS: dict[str, list[dict[str, float]]] = {
    "weight_average": [{}],
    "task_arithmetic": [{"scale": s} for s in (0.2, 0.3, 0.4, 0.5)],
    "ties": [{"scale": s} for s in (0.7, 1.0, 1.3, 1.6)],
    "consensus": [{"mask_threshold": 0.4, "scale": s} for s in (0.3, 0.5, 0.8, 1.0)],
    "tall_masks": [{"mask_threshold": t} for t in (0.2, 0.3, 0.4, 0.5, 0.6)],
}


class Zoo:
    """The sample models in memory, and evaluators of both splits."""

    def __init__(self) -> None:
        self.recipe = sample_recipe(FOLDER)
        self.device = pick_device()
        self.live = LiveModel(load_resident(open_models(self.recipe), self.device.torch))
        known = find_tasks(FOLDER / "tasks")
        self.store = Store(1 << 30)
        self.evaluators = {
            split: Evaluator(
                [load_task(known[n], split=split) for n in self.recipe.task_names], self.recipe.base, self.device.torch
            )
            for split in ("tune", "test")
        }

    def _final(
        self, module: object, key: str, split: str, tasks: list[str] | None = None
    ) -> dict[str, tuple[int, int]]:
        scores = {}
        for partial in self.evaluators[split].run(module, key=key, store=self.store, tasks=tasks):  # type: ignore[arg-type]
            scores = partial.scores
        return {name: (s.n_correct, s.n) for name, s in scores.items()}

    def merged(self, method: str, values: dict[str, float], split: str) -> dict[str, tuple[int, int]]:
        """(correct, n) per task of one setting."""
        recipe: Recipe = replace(self.recipe, method=method, parameters=values)
        self.live.merge(recipe, cache=self.store)
        return self._final(self.live.module_for, self.live.key, split)

    def references(self) -> dict[str, dict[str, tuple[int, int]]]:
        """The base on every task, and every expert on its own."""
        names = list(self.recipe.task_names)
        experts = {}
        for entry in self.recipe.tasks:
            module = load_module(entry.checkpoint, device=self.device.torch)
            experts |= self._final(module, f"expert {entry.name}", "test", [entry.name])
        base = load_module(self.recipe.base, device=self.device.torch)
        return {"base, zero-shot": self._final(base, "base", "test", names), "single-task expert": experts}


def mean(scores: dict[str, tuple[int, int]]) -> float:
    """Mean accuracy over tasks."""
    return float(np.mean([c / n for c, n in scores.values()]))


def normalized(scores: dict[str, tuple[int, int]], experts: dict[str, tuple[int, int]]) -> float:
    """Mean over tasks of accuracy / expert's accuracy."""
    return float(np.mean([(c / n) / (experts[t][0] / experts[t][1]) for t, (c, n) in scores.items()]))


def interval(scores: dict[str, tuple[int, int]]) -> float:
    """Half the 95 % interval of the mean over tasks: Wilson half-widths in quadrature."""
    halves = [(h - low) / 2 for low, h in (wilson(c, n) for c, n in scores.values())]
    return float(np.sqrt(np.sum(np.square(halves))) / len(halves))


def said(values: dict[str, float]) -> str:
    """Parameters in words."""
    return ", ".join(f"{k.replace('_', ' ')} {v:g}" for k, v in values.items()) or "defaults"


def main() -> int:
    """Run everything, print the table in Markdown and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the JSON line to this file")
    arguments = parser.parse_args()
    started = time.perf_counter()
    zoo = Zoo()
    rows: dict[str, dict[str, tuple[int, int]]] = zoo.references()
    experts = rows["single-task expert"]
    for method, grid in GRIDS.items():
        title = METHODS.get(method).title
        rows[f"{title}, defaults"] = zoo.merged(method, {}, "test")
        best = max(grid, key=lambda values: mean(zoo.merged(method, values, "tune")))
        defaults = {s.name: s.default for s in METHODS.get(method).specs}
        if any(defaults[name] != value for name, value in best.items()):
            rows[f"{title}, {said(best)}"] = zoo.merged(method, best, "test")
    names = list(zoo.recipe.task_names)
    print("| | " + " | ".join(names) + " | mean | of experts |")
    print("|---" * (len(names) + 3) + "|")
    for label, scores in rows.items():
        cells = [f"{scores[n][0] / scores[n][1]:.3f}" for n in names]
        cells += [f"{mean(scores):.3f} ± {interval(scores):.3f}", f"{100 * normalized(scores, experts):.1f} %"]
        print(f"| {label} | " + " | ".join(cells) + " |")
    figures = {
        label: {
            "mean": round(mean(s), 5),
            "interval": round(interval(s), 5),
            "normalized": round(normalized(s, experts), 5),
            "accuracy": {n: round(s[n][0] / s[n][1], 5) for n in names},
        }
        for label, s in rows.items()
    }
    line = json.dumps({"rows": figures, "device": zoo.device.title, "seconds": round(time.perf_counter() - started, 1)})
    if arguments.json:
        arguments.json.write_text(line + "\n", encoding="utf-8")
    print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
