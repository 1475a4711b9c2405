"""What is known already of the models' answers, looked up without running a model."""

from __future__ import annotations

from torch import nn

from explorer.errors import Cancelled
from explorer.evaluation import EvaluationTask, Evaluator, TaskScore
from explorer.live import scores_key
from explorer.opening import expert_of
from explorer.recipe import Recipe
from explorer.store import Store
from explorer.streaming import checkpoint_key
from explorer.workbench import Workbench

Scores = dict[str, TaskScore]
MODELS = ("merged", "expert", "base")


def held_of(bench: Workbench, recipe: Recipe, evaluator: Evaluator | None = None) -> Scores:
    """What is held of a setting's answers, block by block from the first, up to the first that is not held.

    `evaluator`: whose tasks they are of, where these are not the recipe's own. Raises InputError when the models cannot
    be opened.
    """
    evaluator, key = evaluator or bench.evaluator(recipe), scores_key(recipe, bench.models(recipe))
    return {t: score for t in evaluator.tasks if (score := held_score(evaluator, key, bench.store, t)) is not None}


def held_models(bench: Workbench, recipe: Recipe) -> dict[str, Scores]:
    """What is held of the answers of the merge, of each task's own fine-tune on it, and of the base: MODELS, by task.

    Raises InputError when the models cannot be opened.
    """
    evaluator, models = bench.evaluator(recipe), bench.models(recipe)
    base = checkpoint_key(models.base)
    found: dict[str, Scores] = {"merged": held_of(bench, recipe), "expert": {}, "base": {}}
    for task in evaluator.tasks:
        for model, key in (("expert", checkpoint_key(expert_of(models, task))), ("base", base)):
            score = held_score(evaluator, key, bench.store, task)
            if score is not None:
                found[model][task] = score
    return found


def held_score(evaluator: Evaluator, key: str, store: Store, task: str) -> TaskScore | None:
    """The answers to one task that are held under a key, as far as they go; runs no model."""
    score = None

    def refuse(_task: EvaluationTask) -> nn.Module:  # asked for only when a block is not held
        raise Cancelled("comparison: not every answer of this setting is held.")

    try:
        for partial in evaluator.run(refuse, key=key, store=store, tasks=[task]):
            score = partial.scores[task]
    except Cancelled:
        pass
    return score
