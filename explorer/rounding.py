"""What the stored dtype costs the merge that a page shows now, where finding out is cheap."""

from __future__ import annotations

import torch

from explorer.compute.source import numel
from explorer.executor import SerialExecutor, ThreadExecutor
from explorer.live import LiveModel
from explorer.merging import METHODS, prepare, survival
from explorer.recipe import Recipe
from explorer.results import Result
from explorer.streaming import current_scores
from explorer.workbench import Slot, Workbench

CHEAP_ELEMENTS = 200_000_000
"""Weights of all models together up to which the page measures by itself: about a second on two cores."""


def survival_shown(bench: Workbench, slot: Slot) -> Result | None:
    """What survives of the recipe whose complete scores the page shows, from its resident models; kept by content.

    None while it is still being scored, and where the pass is not cheap: an export measures it anyway.
    Raises Cancelled when a newer request arrived, InputError where merged weights do not fit the dtype.
    """
    recipe, live, token = slot.session.recipe, slot.live, slot.token
    if live is None or live.key != live.key_of(recipe):
        return None
    if bench.evaluator(recipe).tasks and current_scores(bench, slot, recipe) is None:
        return None
    if not is_cheap(recipe, live):
        return None

    def make() -> Result:
        arena, cache = live.arena, bench.store
        threads = ThreadExecutor(2) if arena.device.type == "cpu" else SerialExecutor()
        with bench.turns.turn():
            prepared = prepare(
                recipe.method, arena, recipe.values(), executor=threads, cache=cache, cancel=token, seed=recipe.seed
            )
            return survival(prepared, arena, _dtype(recipe), executor=threads, cancel=token)

    return bench.store.get_or_make(f"survival/{live.key}", make, 1 << 14)


def is_cheap(recipe: Recipe, live: LiveModel) -> bool:
    """Whether the page may measure without being asked: merged in chunks, and not too many weights."""
    if METHODS.get(recipe.method).whole_tensors:
        return False
    return sum(numel(live.arena, n) for n in live.arena.names) * (1 + len(live.arena.tasks)) <= CHEAP_ELEMENTS


def _dtype(recipe: Recipe) -> torch.dtype | None:
    return getattr(torch, recipe.dtype) if recipe.dtype else None
