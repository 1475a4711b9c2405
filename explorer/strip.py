"""A handful of fixed held-out examples, and what base, expert, a pinned setting and the merge answer to each.

Only answers that the scores have produced already are shown: nothing is run for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd

from explorer.evaluation import KINDS, EvaluationTask, Evaluator, TaskScore
from explorer.evaluation.pictures import picture_name
from explorer.held import held_score
from explorer.opening import OpenModels, expert_of
from explorer.recipe import Recipe
from explorer.results import Result, count, number, text
from explorer.seeds import stable_seed
from explorer.store import Store
from explorer.streaming import checkpoint_key
from explorer.workbench import Slot, Workbench

EXAMPLES = 8
"""Rows of one page."""
MODELS = ("base", "expert", "pinned", "merged")
_LONGEST = 200

STRIP = (
    text("task", "task that the example is of"),
    count("index", "its position in the split"),
    text("text", f"what is asked, cut after {_LONGEST} characters"),
    text("gold", "the right label"),
    *(text(m, f"label that {m} answers; empty until it is scored, or where it gave no finite score") for m in MODELS),
    *(number(f"{m}_right", f"1 where {m} is right, 0 where it is wrong, undefined until scored", 0, 1) for m in MODELS),
)


def strip(
    bench: Workbench, slot: Slot, recipe: Recipe, *, pinned: Recipe | None = None, page: int = 0, seed: int = 0
) -> Result:
    """`EXAMPLES` held-out examples with the answers that are known so far. Columns STRIP.

    The examples depend on the tasks' data and the seed only: the tasks take turns, each with a seeded order in which
    those come first that are scored first. `page` 0 shows the first ones, 1 the next, … and begins anew after the
    last; the provenance holds `pages`. `pinned`: a setting of the same models, else its column stays empty.
    Raises InputError for models or tasks that cannot be used. Empty when no evaluation task carries a task's name.
    """
    evaluator = bench.evaluator(recipe)
    tasks = list(evaluator.tasks.values())
    pages = -(-sum(t.n for t in tasks) // EXAMPLES)
    page = page % pages if pages else 0
    begin = page * EXAMPLES
    chosen = list(islice(_order(evaluator, tasks, seed), begin, begin + EXAMPLES))
    place = {t.name: i for i, t in enumerate(tasks)}
    chosen.sort(key=lambda pick: place[pick[0].name])
    settings = _settings(bench, slot, recipe, pinned)
    models = bench.models(recipe) if chosen else None
    known = {t.name: _known(bench.store, evaluator, models, settings, t.name) for t, _ in chosen if models}
    rows = [_row(task, index, known[task.name]) for task, index in chosen]
    table = pd.DataFrame(rows, columns=[c.name for c in STRIP])
    for model in MODELS:
        table[f"{model}_right"] = table[f"{model}_right"].astype(float)
    told = {"page": page, "pages": pages, "seed": seed, "pinned": pinned is not None}
    return Result("strip", tuple(t.name for t in tasks), table, STRIP, told)


def _order(evaluator: Evaluator, tasks: Sequence[EvaluationTask], seed: int) -> Iterator[tuple[EvaluationTask, int]]:
    """Every example of every task, the tasks in turn."""
    queues = [_shuffled(evaluator, task, seed) for task in tasks]
    for turn in range(max((t.n for t in tasks), default=0)):
        yield from ((task, int(q[turn])) for task, q in zip(tasks, queues, strict=True) if turn < len(q))


def _shuffled(evaluator: Evaluator, task: EvaluationTask, seed: int) -> np.ndarray:
    """A task's examples, shuffled within each block of its plan: what is scored first comes first."""
    generator = np.random.default_rng(stable_seed("strip", seed, task.digest))
    plan = evaluator.plan(task.name)
    return np.concatenate([generator.permutation(plan.indices(b)) for b in range(len(plan.blocks))])


def _settings(bench: Workbench, slot: Slot, recipe: Recipe, pinned: Recipe | None) -> dict[str, str]:
    """What the answers of the merge, and of the pinned setting, are held under, where the slot knows these models."""
    live = slot.live
    if live is None or live.arena.digest != bench.models(recipe).source.digest:
        return {}
    keys = {"merged": live.key_of(recipe)}
    return keys if pinned is None or not _alike(pinned, recipe) else {**keys, "pinned": live.key_of(pinned)}


def _known(
    store: Store, evaluator: Evaluator, models: OpenModels, settings: dict[str, str], task: str
) -> dict[str, TaskScore]:
    """What each model is known to answer to a task's examples."""
    keys = {"base": checkpoint_key(models.base), "expert": checkpoint_key(expert_of(models, task)), **settings}
    found = {name: held_score(evaluator, key, store, task) for name, key in keys.items()}
    return {name: score for name, score in found.items() if score is not None}


def _alike(one: Recipe, other: Recipe) -> bool:
    """Whether two recipes merge the same models."""
    models = [[(t.name, t.checkpoint, t.statistics) for t in r.tasks] for r in (one, other)]
    where = [(r.base, r.policy, r.include, r.exclude) for r in (one, other)]
    return models[0] == models[1] and where[0] == where[1]


def _row(task: EvaluationTask, index: int, known: dict[str, TaskScore]) -> dict[str, object]:
    row = task.rows[index]
    images = [f.name for f in KINDS.get(task.kind).fields if f.type == "image"]
    texts = {k: v for k, v in row.items() if isinstance(v, str) and k != "label"}
    shown = row.get("text") or " · ".join(picture_name(v) if k in images else v for k, v in texts.items())
    asked = str(shown) if len(str(shown)) <= _LONGEST else str(shown)[: _LONGEST - 1] + "…"
    made: dict[str, object] = {
        "task": task.name,
        "index": index,
        "text": asked,
        "gold": task.in_words(task.answers[index]),
    }
    for model in MODELS:
        answer = _answer(known.get(model), index)
        made[model] = "" if answer is None else task.in_words(answer[0])
        made[f"{model}_right"] = float("nan") if answer is None else answer[1]
    return made


def _answer(score: TaskScore | None, index: int) -> tuple[Any, float] | None:
    """What was answered to one example, and how right that is, 0-1 (NaN where the metric says that of no single
    example); None where it is not known.
    """
    if score is None:
        return None
    place = int(np.searchsorted(score.indices, index))
    if place >= score.n or score.indices[place] != index:
        return None
    return score.predictions[place], float(score.outcomes[place]) if score.metric.mean else float("nan")
