"""Accuracy of every merge method on the sample zoo: at its defaults, and at the best of a small grid.

    python benchmarks/zoo.py                      # every method that is not measured yet
    python benchmarks/zoo.py --methods ties dare  # these, in this order
    python benchmarks/zoo.py --again              # measure anew what is measured already
    python benchmarks/zoo.py --quick              # a first impression from few texts; kept out of the results file

Grids (`zoo_grids.py`) are searched on each task's `tune` split (rows of the training data that no model was trained
on); what is reported is the untouched `test` split, so the "best" rows do not flatter themselves. Each finished method
goes into `benchmarks/results/zoo.json` at once, so a run that is cut off goes on where it stopped. Ends with the table.
"""

from __future__ import annotations

import argparse
import atexit
import os
import platform
import shutil
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import torch

from benchmarks.zoo_grids import axes
from explorer.compute.device import pick_device
from explorer.errors import Cancelled, ExplorerError
from explorer.evaluation import Evaluator, find_tasks, load_module, load_task, wilson
from explorer.executor import CancelToken
from explorer.gathering import gather
from explorer.live import LiveModel, load_resident
from explorer.measured import ZOO_RESULTS, load_results, said, save_results, table_lines
from explorer.merging import METHODS, Method
from explorer.opening import open_models
from explorer.recipe import Recipe
from explorer.samples import FOLDER, sample_recipe
from explorer.seeds import digest_of
from explorer.store import Store

TUNE_EXAMPLES = 64
"""Examples per task, about, balanced over its classes, on which grids are searched: the tune split's first block."""

GATHERED_EXAMPLES = 32
"""Examples per task from which the statistics of methods that need data are taken (`explorer gather`)."""

MAX_MERGE_SECONDS = 240.0
"""A method whose one merge takes longer is left out."""

MAX_TUNING_SECONDS = 300.0
"""No further setting is tried after this long."""

QUICK_RESULTS = ROOT / "build" / "zoo-quick.json"

Counts = dict[str, tuple[int, int]]
Accuracies = dict[str, float]


class Zoo:
    """The sample models in memory, and evaluators of both splits."""

    def __init__(self, *, quick: bool = False) -> None:
        self.quick = quick
        self.recipe = sample_recipe(FOLDER)
        self.device = pick_device()
        self.live = LiveModel(load_resident(open_models(self.recipe), self.device.torch))
        self.store = Store(1 << 28)
        known = find_tasks(FOLDER / "tasks")
        self.evaluators = {
            split: Evaluator(
                [load_task(known[n], split=split) for n in self.recipe.task_names],
                self.recipe.base,
                self.device.torch,
                quick=size,
            )
            for split, size in (("tune", TUNE_EXAMPLES), ("test", 24))
        }

    def _final(self, module: object, key: str, split: str, tasks: list[str] | None = None) -> Counts:
        part = self.quick or split == "tune"
        scores = {}
        runs = self.evaluators[split].run(module, key=key, store=self.store, tasks=tasks, only_quick=part)  # type: ignore[arg-type]
        for partial in runs:
            scores = partial.scores
        return {name: (int(s.correct), s.n) for name, s in scores.items()}

    def give_statistics(self) -> None:
        """Open the models anew with what methods that need data read: measured once, on the tune split."""
        if any(t.statistics for t in self.recipe.tasks):
            return
        folder = Path(tempfile.mkdtemp(prefix="zoo-statistics-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        gathered = gather(
            self.recipe,
            folder / "gathered",
            tasks_folder=FOLDER / "tasks",
            examples=GATHERED_EXAMPLES,
            device=self.device.name,
        )
        self.recipe = Recipe.load(gathered.recipe)
        self.live = LiveModel(load_resident(open_models(self.recipe), self.device.torch))

    def merge(self, method: str, values: dict[str, Any]) -> float:
        """Merge by one setting; the seconds it took. Raises Cancelled when it takes too long."""
        recipe: Recipe = replace(self.recipe, method=method, parameters=values)
        token = CancelToken()
        timer = threading.Timer(MAX_MERGE_SECONDS, token.cancel)
        timer.start()
        try:
            return self.live.merge(recipe, cache=self.store, cancel=token)
        finally:
            timer.cancel()

    def counts(self, split: str) -> Counts:
        """(correct, n) per task of the setting that was merged last."""
        return self._final(self.live.module_for, self.live.key, split)

    def fresh(self) -> None:
        """Forget statistics and answers, so that the next method is timed with all that it needs."""
        self.store = Store(1 << 28)

    def references(self) -> dict[str, Counts]:
        """The base on every task, and every expert on its own."""
        experts: Counts = {}
        for entry in self.recipe.tasks:
            module = load_module(entry.checkpoint, device=self.device.torch)
            experts |= self._final(module, f"expert {entry.name}", "test", [entry.name])
        base = load_module(self.recipe.base, device=self.device.torch)
        return {"base, zero-shot": self._final(base, "base", "test"), "single-task expert": experts}

    def how(self) -> dict[str, Any]:
        """What the results file says about this run."""
        sizes = {s: sum(self._n(e, t, s) for t in self.recipe.task_names) for s, e in self.evaluators.items()}
        device = "" if self.device.torch.type == "cpu" else f", {self.device.title}"
        machine = f"{os.cpu_count()} cores ({platform.machine()}{device}), torch {torch.__version__}"
        return {
            "command": "python benchmarks/zoo.py" + (" --quick" if self.quick else ""),
            "machine": machine,
            "tasks": len(self.recipe.tasks),
            "n_tune": sizes["tune"],
            "n_test": sizes["test"],
            "seed": self.recipe.seed,
            "samples": _samples(),
        }

    def _n(self, evaluator: Evaluator, task: str, split: str) -> int:
        plan = evaluator.plan(task)
        blocks = range(1) if self.quick or split == "tune" else range(len(plan.blocks))
        return sum(len(plan.indices(b)) for b in blocks)


def _samples() -> str:
    return digest_of((FOLDER / "MANIFEST.json").read_text(encoding="utf-8"))


def scored(counts: Counts, experts: Accuracies) -> dict[str, Any]:
    """Accuracy per task; mean and share of the experts' (mean of ratios), each with half its 95 % interval.

    Half-widths are the tasks' Wilson half-widths in quadrature over their number; experts count as exact.
    """
    ours = {t: c / n for t, (c, n) in counts.items()}
    halves = {t: (high - low) / 2 for t, (low, high) in ((t, wilson(*counts[t])) for t in counts)}
    return {
        "mean": round(float(np.mean(list(ours.values()))), 5),
        "mean_half": round(float(np.linalg.norm(list(halves.values()))) / len(ours), 5),
        "normalized": round(float(np.mean([ours[t] / experts[t] for t in ours])), 5),
        "normalized_half": round(float(np.linalg.norm([halves[t] / experts[t] for t in ours])) / len(ours), 5),
        "accuracy": {t: round(v, 5) for t, v in ours.items()},
    }


def mean(counts: Counts) -> float:
    """Mean accuracy over tasks."""
    return float(np.mean([c / n for c, n in counts.values()]))


def search(zoo: Zoo, method: Method) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The best setting on the tune split, and all that were tried: one axis after another, the defaults first."""
    started = time.perf_counter()
    best: dict[str, Any] = {}
    zoo.merge(method.name, best)
    top = mean(zoo.counts("tune"))
    tried = [{"parameters": {}, "tune_mean": round(top, 5)}]
    for name, values in axes(method):
        start = best
        for value in values[:1] if zoo.quick else values:
            if time.perf_counter() - started > MAX_TUNING_SECONDS:
                return best, tried
            setting = {**start, name: value}
            try:
                zoo.merge(method.name, setting)
            except ExplorerError as error:
                tried.append({"parameters": setting, "refused": str(error)})
                continue
            found = mean(zoo.counts("tune"))
            tried.append({"parameters": setting, "tune_mean": round(found, 5)})
            if found > top:
                best, top = setting, found
    return best, tried


def measure(zoo: Zoo, method: Method, experts: Accuracies) -> dict[str, Any]:
    """One method's entry of the results file. Raises ExplorerError where it cannot merge the samples."""
    zoo.fresh()
    if method.needs_data:
        zoo.give_statistics()
    seconds = zoo.merge(method.name, {})
    default = scored(zoo.counts("test"), experts)
    best, tried = search(zoo, method)
    zoo.merge(method.name, best)
    best_scores = scored(zoo.counts("test"), experts)
    return {
        "setup": setup_of(method),
        "merge_seconds": round(seconds, 3),
        "default": {"parameters": {}, **default},
        "best": {"parameters": best, **best_scores},
        "tried": tried,
    }


def setup_of(method: Method) -> str:
    """Changes when a row has to be measured anew: other parameters, another grid, other samples."""
    specs = [(s.name, s.default, str(s.allowed)) for s in method.specs]
    return digest_of(method.name, specs, axes(method), TUNE_EXAMPLES, _samples())


def add_references(zoo: Zoo, results: dict[str, Any]) -> Accuracies:
    """The experts' accuracies; measured, with the base's, unless the file holds those of these samples."""
    if results["how"].get("samples") != _samples() or not results["references"]:
        counts = zoo.references()
        experts = {t: c / n for t, (c, n) in counts["single-task expert"].items()}
        results["references"] = {label: scored(c, experts) for label, c in counts.items()}
    results["how"] = zoo.how()
    known: Accuracies = results["references"]["single-task expert"]["accuracy"]
    return known


def run(names: list[str], out: Path, *, quick: bool, again: bool) -> dict[str, Any]:
    """Measure the methods that need it, saving after each; everything that is known then."""
    results = load_results(out)
    held = results["methods"]
    todo = [n for n in names if again or held.get(n, {}).get("setup") != setup_of(METHODS.get(n))]
    if not todo and results["references"]:
        return results
    zoo = Zoo(quick=quick)
    experts = add_references(zoo, results)
    for number, name in enumerate(todo, 1):
        started = time.perf_counter()
        for known in (results["methods"], results["skipped"]):
            known.pop(name, None)
        try:
            results["methods"][name] = row = measure(zoo, METHODS.get(name), experts)
            text = f"{row['default']['mean']:.3f}, best {row['best']['mean']:.3f} ({said(row['best']['parameters'])})"
        except Cancelled:
            text = results["skipped"][name] = f"one merge takes more than {MAX_MERGE_SECONDS:.0f} s."
        except ExplorerError as error:
            text = results["skipped"][name] = str(error)
        save_results(results, out)
        print(f"{number}/{len(todo)} {name}: {text}  [{time.perf_counter() - started:.0f} s]", flush=True)
    return results


def main() -> int:
    """Measure, then print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="only these, in this order (default: all)")
    parser.add_argument("--again", action="store_true", help="also what is measured already")
    parser.add_argument("--quick", action="store_true", help="few texts and few settings, for a first impression")
    parser.add_argument("--json", type=Path, metavar="FILE", help="results file (default: benchmarks/results/zoo.json)")
    arguments = parser.parse_args()
    names = [METHODS.get(n).name for n in arguments.methods or [m.name for m in METHODS]]
    out = arguments.json or (QUICK_RESULTS if arguments.quick else ZOO_RESULTS)
    results = run(names, out, quick=arguments.quick, again=arguments.again)
    print("\n".join(table_lines(results)))
    for name, reason in sorted(results["skipped"].items()):
        print(f"left out: {name}: {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
