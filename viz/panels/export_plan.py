"""What an export will take, said before it is pressed: sizes, memory, time, disk, and what stands in the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import pandas as pd

from explorer.errors import ExplorerError
from explorer.export_rates import keep_rate
from explorer.exporting import ExportSettings
from explorer.planning import ExportPlan, plan_merge
from explorer.recipe import Recipe
from explorer.workbench import Slot, Workbench, export_folder
from viz.panels import words
from viz.style import bytes_text, seconds_text


class ExportPlans:
    """The plan of each tab's export; made anew where something changed that it depends on. Reads no weights."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self._held: WeakKeyDictionary[Slot, tuple[Any, ExportPlan | None, str]] = WeakKeyDictionary()
        self._settings = ExportSettings(cache=bench.scratch)

    def known(self, slot: Slot) -> str:
        """The last plan of the tab; empty before the first."""
        return self._held[slot][2] if slot in self._held else ""

    def show(self, slot: Slot, name: str, overwrite: bool, *, again: bool = False) -> str:
        """The plan for the session's recipe; `again` looks anew at the disk even where the setting is the same."""
        recipe = slot.session.recipe
        key = (_without_values(recipe), name, overwrite)
        if again or slot not in self._held or self._held[slot][0] != key:
            plan, problem = self._plan(recipe, name, overwrite)
            self._held[slot] = (key, plan, plan_html(plan) if plan else words.note(problem, kind="problem"))
        return self._held[slot][2]

    def _plan(self, recipe: Recipe, name: str, overwrite: bool) -> tuple[ExportPlan | None, str]:
        try:
            folder, models = export_folder(self.bench.exports, name), self.bench.models(recipe)
            return plan_merge(recipe, models, folder, overwrite=overwrite, settings=self._settings), ""
        except ExplorerError as error:
            return None, str(error)

    def measured(self, slot: Slot, seconds: float) -> None:
        """An export of the tab's plan took so long: later plans of the method say so."""
        _, plan, _ = self._held.get(slot, (None, None, ""))
        if plan is not None and seconds > 0:
            keep_rate(self.bench.scratch, plan.method, (plan.read_bytes + plan.write_bytes) / seconds)


def _without_values(recipe: Recipe) -> Recipe:
    """What a plan depends on: the values of single tasks change neither sizes nor passes."""
    return replace(recipe, tasks=tuple(replace(t, parameters={}) for t in recipe.tasks), seed=0)


def plan_html(plan: ExportPlan) -> str:
    """The plan as a small table, then its problems and warnings."""
    files = f" in {plan.shards} files" if plan.shards > 1 else ""
    passes = "every input once" if plan.passes == 1 else f"{plan.passes} passes, for thresholds of the whole model"
    back = ", and the output once more to verify it" if plan.verifies else ""
    rate = f"{bytes_text(int(plan.bytes_per_second))}/s"
    source = "as measured here" if plan.measured else "a cautious guess until the first export"
    rows = {
        "Output": f"{bytes_text(plan.out_bytes)}{files}",
        "To read": f"{bytes_text(plan.read_bytes)}: {passes}{back}",
        "To write": bytes_text(plan.write_bytes),
        "Peak memory": f"about {bytes_text(plan.peak_bytes)} by the command; this page holds the models already",
        "Time": f"about {seconds_text(max(plan.seconds, 0.1))} at {rate}, {source}",
        "Free disk": bytes_text(plan.free_bytes),
    }
    frame = pd.DataFrame(list(rows.items()), columns=["what", "estimate"])
    told = [words.note(text, kind="problem") for text in plan.problems]
    told += [words.note(text) for text in plan.warnings]
    return words.table(frame, caption="What this export takes") + "".join(told)
