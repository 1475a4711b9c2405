"""What a merge is made of, for the page: from the merged row as it lies in memory, so no evaluation is waited for."""

from __future__ import annotations

from dataclasses import dataclass

from explorer.executor import CancelToken, SerialExecutor, ThreadExecutor
from explorer.live import LiveModel
from explorer.merging import METHODS, Reference, contribution_sums, contribution_table, reference_sums
from explorer.recipe import Recipe
from explorer.results import Result
from explorer.workbench import Slot, Workbench


@dataclass(frozen=True, eq=False)
class Explained:
    """The table of contributions, and the seconds its merge took: 0 where it was there already."""

    table: Result
    merge_seconds: float


def contributions(bench: Workbench, slot: Slot, recipe: Recipe, token: CancelToken) -> Explained:
    """What each task contributes to this merge and loses in it; see `contribution_table`. Kept by content.

    Merges first unless the slot's live model holds this merge already; then one read of models and merged row, and
    once per set of models two more. Takes one turn on the device.
    Raises Cancelled when a newer request took the slot's token, InputError as `Workbench.live` and `LiveModel.merge`.
    """
    with bench.turns.turn():
        token.check("contributions")
        live = bench.live(slot, recipe)
        seconds = live.merge(recipe, cache=bench.store, cancel=token)
        make = lambda: _measured(bench, live, recipe, token)  # noqa: E731
        return Explained(bench.store.get_or_make(f"contributions/{live.key}", make, 1 << 16), seconds)


def _measured(bench: Workbench, live: LiveModel, recipe: Recipe, token: CancelToken) -> Result:
    arena, method = live.arena, METHODS.get(recipe.method)
    threads = ThreadExecutor(2) if arena.device.type == "cpu" else SerialExecutor()

    def make() -> Reference:
        return reference_sums(arena, executor=threads, cancel=token)

    reference = bench.store.get_or_make(f"contributions/average/{arena.digest}", make, lambda r: r.size_bytes)
    rows = [live.weights()] if method.output == "single" else [live.weights(task) for task in arena.tasks]
    sums = contribution_sums(arena, rows, executor=threads, cancel=token)
    mixes = any(s.per_task and s.name in ("scale", "weight") for s in method.specs)
    told = {
        "source": arena.digest,
        "method": method.name,
        "output": method.output,
        "stored_as": recipe.dtype or "as the base",
        "controls": [*(s.name for s in method.specs), *["coefficient"] * mixes],
    }
    return contribution_table(arena, sums, reference, told)
