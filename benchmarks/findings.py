"""What the samples show: which interference is above chance, and whether it predicts the loss of accuracy in a merge.

    python benchmarks/findings.py            # score what is not scored yet, measure, and write the page
    python benchmarks/findings.py --again    # score anew what is scored already

Every pair of the sample tasks is merged in two ways (`SETTINGS`), and both tasks are scored on their test data. Scores
go into `benchmarks/results/findings.json` as they are made, so a run that is cut off goes on where it stopped. Metrics
of the weights are measured each time; correlations are in `findings_statistics.py`. Ends with docs/findings.md.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import torch

from benchmarks.findings_statistics import Matrix, predictions
from explorer.compute.device import pick_device
from explorer.compute.source import Source, chunks, deltas
from explorer.evaluation import Evaluator, find_tasks, load_task
from explorer.findings import FINDINGS_RESULTS, PAGE, load_findings, page, save_findings
from explorer.headlines import headlines, nearest, value_column
from explorer.interference import Survey, collect
from explorer.live import LiveModel, load_resident
from explorer.opening import open_models
from explorer.results import Result
from explorer.samples import FOLDER, sample_recipe
from explorer.seeds import digest_of
from explorer.store import Store

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "task arithmetic, scale 1": ("task_arithmetic", {"scale": 1.0}),
    "TIES, density 0.2, scale 1": ("ties", {"scale": 1.0, "density": 0.2}),
}
"""How pairs are merged; the others of the seven tasks have scale 0, which leaves them out of sums and votes alike."""

DENSITIES = (0.2, 1.0)
MASK_THRESHOLD = 0.4


class Scorer:
    """The sample models in memory, merged by any subset of tasks and scored on the test split."""

    def __init__(self) -> None:
        self.recipe = sample_recipe(FOLDER)
        device = pick_device().torch
        self.live = LiveModel(load_resident(open_models(self.recipe), device))
        self.store = Store(1 << 28)
        known = find_tasks(FOLDER / "tasks")
        tasks = [load_task(known[n], split="test") for n in self.recipe.task_names]
        self.evaluator = Evaluator(tasks, self.recipe.base, device)

    def accuracies(self, setting: str, members: tuple[str, ...]) -> dict[str, float]:
        """Accuracy of each member task in the merge of the members alone."""
        method, values = SETTINGS[setting]
        scale = {t: values["scale"] if t in members else 0.0 for t in self.recipe.task_names}
        recipe = replace(self.recipe, method=method, parameters={**values, "scale": scale})
        self.live.merge(recipe, cache=self.store)
        *_, last = self.evaluator.run(self.live.module_for, key=self.live.key, tasks=list(members))
        return {task: round(score.score, 5) for task, score in last.scores.items()}

    def n(self) -> dict[str, int]:
        """Test examples of each task."""
        return {name: task.n for name, task in self.evaluator.tasks.items()}


def score(results: dict[str, Any], out: Path, *, again: bool) -> None:
    """Score every task alone and in every pair, under every setting, saving as it goes."""
    setup = digest_of((FOLDER / "MANIFEST.json").read_text(encoding="utf-8"), SETTINGS)
    if again or results["how"].get("setup") != setup:
        results["accuracies"] = {}
    names = sample_recipe(FOLDER).task_names
    groups = [*((n,) for n in names), *itertools.combinations(names, 2)]
    todo = [(s, g) for s in SETTINGS for g in groups if "+".join(g) not in results["accuracies"].get(s, {})]
    if not todo:
        return
    scorer = Scorer()
    machine = f"{os.cpu_count()} cores ({platform.machine()}), torch {torch.__version__}"
    results["how"] = {"command": "python benchmarks/findings.py", "machine": machine, "setup": setup, "n": scorer.n()}
    for number, (setting, members) in enumerate(todo, 1):
        found = scorer.accuracies(setting, members)
        results["accuracies"].setdefault(setting, {})["+".join(members)] = found
        save_findings(results, out)
        print(f"{number}/{len(todo)} {setting}: {found}", flush=True)


def losses(accuracies: dict[str, dict[str, float]], tasks: tuple[str, ...]) -> Matrix:
    """loss[a, b] = accuracy of a merged alone − accuracy of a merged with b, same setting; NaN on the diagonal."""
    found = np.full((len(tasks), len(tasks)), np.nan)
    for (i, a), (j, b) in itertools.permutations(enumerate(tasks), 2):
        pair = accuracies["+".join(sorted((a, b), key=tasks.index))]
        found[i, j] = accuracies[a][a] - pair[a]
    return found


def pair_matrix(result: Result, column: str, tasks: tuple[str, ...], minus: str = "") -> Matrix:
    """A pairwise column of the whole model (less another one) as a symmetric matrix."""
    found = np.full((len(tasks), len(tasks)), np.nan)
    for _, row in nearest(result.at("model"), MASK_THRESHOLD).iterrows():
        i, j = tasks.index(row["task_a"]), tasks.index(row["task_b"])
        found[i, j] = found[j, i] = row[column] - (row[minus] if minus else 0)
    return found


def magnitude_overlap(source: Source) -> tuple[Matrix, np.ndarray]:
    """Σ_i |a_i| |b_i| / (‖a‖ ‖b‖) per pair, [T, T], and the norms [T]: whether the same weights move, signs apart."""
    dots = np.zeros((len(source.tasks), len(source.tasks)))
    for chunk in chunks(source):
        size = deltas(source, chunk).abs().double()
        dots += (size @ size.T).numpy()
    norms = np.sqrt(dots.diagonal())
    return dots / np.outer(norms, norms), norms


def predictors(source: Source, surveys: dict[float, Survey]) -> dict[str, Matrix]:
    """Every pairwise number of the weights that might foretell a loss, as matrices [losing task, added task]."""
    tasks = source.tasks
    signs = {d: s.finish("sign_conflict") for d, s in surveys.items()}
    masks = surveys[1.0].finish("mask_overlap")
    overlap, norms = magnitude_overlap(source)
    return {
        "cosine": pair_matrix(surveys[1.0].finish("cosine"), "cosine", tasks),
        "sign conflict above chance, density 0.2": pair_matrix(signs[0.2], "conflict", tasks, "null"),
        "sign conflict above chance, density 1": pair_matrix(signs[1.0], "conflict", tasks, "null"),
        "overlap of the top 20 % (Jaccard)": pair_matrix(signs[0.2], "overlap", tasks),
        "one-sided share of the top 20 %": pair_matrix(signs[0.2], "one_sided", tasks),
        f"mask IoU, threshold {MASK_THRESHOLD}": pair_matrix(masks, "iou", tasks),
        f"mask lift, threshold {MASK_THRESHOLD}": pair_matrix(masks, "lift", tasks),
        "magnitude overlap": overlap,
        "norm of the added task / own norm": norms[None, :] / norms[:, None],
    }


def above_chance(survey: Survey) -> list[dict[str, Any]]:
    """Per metric of the whole model: mean value and null over its rows, and the row furthest from chance."""
    results = {name: survey.finish(name) for name in survey.planned}
    rows = []
    for entry in headlines(results, mask_threshold=MASK_THRESHOLD):
        result = results[entry["metric"]]
        table, column = nearest(result.at("model"), MASK_THRESHOLD), value_column(result)
        means = {"mean": float(table[column].mean()), "mean_null": float(table["null"].mean())}
        rows.append(_rounded({**entry, **means}))
    return rows


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value


def main() -> int:
    """Score, measure, correlate, and write the results and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", action="store_true", help="also what is scored already")
    parser.add_argument("--json", type=Path, default=FINDINGS_RESULTS, metavar="FILE", help="results file")
    arguments = parser.parse_args()
    results = load_findings(arguments.json)
    score(results, arguments.json, again=arguments.again)
    source = open_models(sample_recipe(FOLDER)).source
    surveys = {d: collect(source, trim_density=d) for d in DENSITIES}
    results["above_chance"] = {f"{d:g}": above_chance(s) for d, s in surveys.items()}
    found = predictors(source, surveys)
    for setting, accuracies in results["accuracies"].items():
        loss = losses(accuracies, source.tasks)
        results["losses"][setting] = _rounded(
            {f"{a} + {b}": float(loss[i, j]) for (i, a), (j, b) in itertools.permutations(enumerate(source.tasks), 2)}
        )
        results["predictions"][setting] = [_rounded(row) for row in predictions(found, loss)]
    save_findings(results, arguments.json)
    if arguments.json == FINDINGS_RESULTS:
        PAGE.write_text(page(results), encoding="utf-8")
        print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
