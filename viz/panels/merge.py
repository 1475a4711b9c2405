"""The place Merge: method and coefficients on the left, live scores on the right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import gradio as gr
import pandas as pd

from explorer.errors import Cancelled, ExplorerError
from explorer.executor import CancelToken
from explorer.noting import models_key, noted
from explorer.recipe import Recipe
from explorer.results import Result, number, text
from explorer.session import change, remember
from explorer.streaming import LiveUpdate, stream
from explorer.workbench import Slot, Workbench
from viz.panels import words
from viz.panels.add_ons import show_add_ons, with_add_ons
from viz.panels.draw import draw, empty
from viz.panels.methods import choices, left_out
from viz.panels.mixing import TensorNames
from viz.panels.settings import describe_change, recipe_from, show_controls, show_mixer, switch_method, turn_of
from viz.parts import Controls, Mixer, PlotlyPanel
from viz.style import count, seconds_text

TRAIL = (
    number("move", "number of the move"),
    text("label", "what changed"),
    text("method", "merge method"),
    number("normalized", "mean over tasks of merged / expert score", 0),
    number("worst", "the same for the worst task", 0),
    text("worst_task", "name of the worst task"),
    number("complete", "1 when every held-out example is scored", 0, 1),
)
_NO_DATA = (
    "None of these fine-tunes carries the name of an evaluation task, so there is nothing to score. Name a task after "
    "a folder in the tasks folder, or start the app with --tasks FOLDER."
)


class MergePlace:
    """Layout and callbacks of the place Merge."""

    def __init__(self, bench: Workbench) -> None:
        self.bench, self.names = bench, TensorNames(bench.models)
        self._told: WeakKeyDictionary[Slot, Recipe] = WeakKeyDictionary()
        recipe = bench.start
        method = bench.method(recipe.method)
        with gr.Row(equal_height=False, elem_id="merge-place"):
            with gr.Column(scale=2, min_width=330):
                self.method = gr.Dropdown(self._offered(recipe), value=recipe.method, label="Method", elem_id="method")
                self.about = gr.HTML(self.describe(recipe), padding=False)
                gr.Markdown("### Mixer")
                self.mixer = Mixer(show_mixer(recipe, method.specs, names=self.names(recipe)), elem_id="mixer")
                gr.Markdown("### Settings of this method")
                self.controls = Controls(show_controls(recipe, method.title, method.specs), elem_id="controls")
                gr.Markdown("### Add-ons to any method")
                self.add_ons = Controls(show_add_ons(recipe), elem_id="add-ons")
            with gr.Column(scale=3, min_width=330):
                self.headline = gr.HTML(words.headline(), padding=False, elem_id="headline")
                self.problem = gr.HTML(padding=False, elem_id="merge-problem")
                self.scores = PlotlyPanel(empty("Scoring the first examples …"), elem_id="scores")
                self.trail = PlotlyPanel(empty("Move a slider: each setting you try appears here."), elem_id="trail")
        self.outputs = [self.headline, self.problem, self.scores, self.trail]
        self.settings = [self.mixer, self.controls, self.method]

    def _offered(self, recipe: Recipe) -> list[tuple[str, str]]:
        """The methods that fit the recipe's models, and the one that is chosen."""
        measured = self.bench.measured(recipe)
        return choices(self.bench.methods(), len(recipe.tasks), recipe.method, measured=measured)

    def describe(self, recipe: Recipe) -> str:
        """When to use the method and when not, its formula and paper, and which methods do not fit these models."""
        m = self.bench.method(recipe.method)
        away = left_out(self.bench.methods(), len(recipe.tasks), measured=self.bench.measured(recipe))
        esc = words.escape
        return (
            f'<div class="explorer-about"><p>{esc(m.summary)}</p><p><b>Use it</b> {esc(_lower(m.when))} '
            f'<b>Not</b> {esc(_lower(m.when_not))}</p><p class="formula">{esc(m.formula)}</p>'
            f'<p class="paper">{esc(m.paper)}</p><p class="away">{esc(away)}</p></div>'
        )

    def show(self, recipe: Recipe, mixer: Any = None) -> list[Any]:
        """The controls' values for a recipe, and the method's description."""
        method = self.bench.method(recipe.method)
        return [
            show_mixer(recipe, method.specs, mixer, names=self.names(recipe, again=True)),
            show_controls(recipe, method.title, method.specs),
            gr.update(choices=self._offered(recipe), value=recipe.method),
            self.describe(recipe),
            show_add_ons(recipe),
        ]

    def switch(self, slot: Slot, name: str, mixer: Any) -> list[Any]:
        """Another method: shared values stay. Gives the controls' new values."""
        if name == slot.session.recipe.method:  # the list says so too when it merely loses the focus
            return [gr.skip()] * 5
        slot.is_news(turn_of(mixer), 2)  # what was let go before, but comes later, must not undo this
        before = self.bench.method(slot.session.recipe.method)
        after = self.bench.method(name)
        recipe = switch_method(slot.session.recipe, before.specs, name, after.specs)
        slot.session = change(slot.session, recipe)
        return self.show(recipe, mixer)

    def moved(self, slot: Slot, mixer: Any, controls: Any, method: str, *, keep: bool) -> Recipe | None:
        """The recipe that the controls say now; `keep` makes it a step of undo. None for what came too late.

        Raises ExplorerError for values out of range.
        """
        if not slot.is_news(turn_of(mixer, controls), int(keep)):
            return None
        specs, before = self.bench.method(method).specs, slot.session.recipe
        names, past = self.names(before), slot.session.past
        recipe = recipe_from(before, method, specs, mixer, controls, names=names, past=past)
        if keep:
            with slot.lock:
                slot.session = change(slot.session, recipe)
        return recipe

    def added(self, slot: Slot, add_ons: Any, *, keep: bool) -> Recipe | None:
        """The recipe with what the add-ons' controls say now; see `moved`."""
        if not slot.is_news(turn_of(add_ons), int(keep)):
            return None
        recipe = with_add_ons(slot.session.recipe, add_ons)
        if keep:
            with slot.lock:
                slot.session = change(slot.session, recipe)
        return recipe

    def scored(
        self, slot: Slot, recipe: Recipe, token: CancelToken, *, keep: bool, merge_seconds: float
    ) -> Iterator[tuple[list[Any], LiveUpdate | None]]:
        """Scores of a recipe as they come in, and the updates of `outputs`, until a newer request takes the token.

        `keep` makes it a step of the trail and of the history; `merge_seconds` is what its merge has taken already.
        """
        try:
            models = ""
            for update in stream(self.bench, slot, recipe, token, merge_seconds=merge_seconds):
                kept = keep and bool(update.summary.tasks)
                if kept:
                    with slot.lock:
                        slot.session = remember(slot.session, update.move(self._label(slot, recipe)))
                yield self._shown(slot, update), update
                if kept:  # after what people look at
                    models = models or models_key(self.bench, recipe)
                    with slot.lock:
                        slot.session = noted(slot.session, update, models)
        except Cancelled:
            yield [gr.skip()] * 4, None
        except ExplorerError as error:
            yield [gr.skip(), words.note(str(error), kind="problem"), {"stale": True}, gr.skip()], None

    def _label(self, slot: Slot, recipe: Recipe) -> str:
        """What the recipe changes of the setting before it, in words."""
        method = self.bench.method(recipe.method)
        earlier = [m for m in slot.session.trail if m.recipe != recipe]
        defaults = {s.name: s.default for s in method.specs}
        return describe_change(earlier[-1].recipe if earlier else None, recipe, method.title, defaults)

    def _shown(self, slot: Slot, update: LiveUpdate) -> list[Any]:
        if not update.scores.tasks:
            return [words.headline(), words.note(_NO_DATA), empty(_NO_DATA), gr.skip()]
        previous = [m for m in slot.session.trail if m.recipe != update.recipe]
        scores = _with_previous(update.scores, previous[-1].accuracies if previous else {})
        first = slot.session.trail and slot.session.trail[-1].recipe == update.recipe and self._drawn(slot, update)
        trail = draw("trail", self.trail_result(slot)) if first else gr.skip()
        return [self._headline(slot, update), "", draw("scores", scores), trail]

    def _drawn(self, slot: Slot, update: LiveUpdate) -> bool:
        """Whether the trail is drawn with this update: with a setting's first, and when all of it is scored."""
        again, self._told[slot] = self._told.get(slot) == update.recipe, update.recipe
        return update.complete or not again

    def _headline(self, slot: Slot, update: LiveUpdate) -> str:
        summary = update.summary
        earlier = [m for m in slot.session.trail if m.recipe != update.recipe]
        now = summary.normalized_accuracy
        moved, tone = words.change_text(now, earlier[-1].normalized) if earlier else ("", "")
        worst = summary.worst
        share_worst = words.share(worst.normalized_accuracy) if worst else "–"
        scored = count(update.total) if update.complete else f"{count(update.done)} of {count(update.total)}"
        to_go = "all scored" if update.complete else f"about {seconds_text(update.eta_seconds or 0)} to go"
        merged_in = seconds_text(update.merge_seconds) if update.merge_seconds else "at once"
        rebuilt = words.rebuilt(update.rebuild.errors, update.rebuild.stored) if update.rebuild else ""
        return words.headline(
            words.figure("mean, % of experts", words.share(now), f"{moved} from the last" if moved else "", tone=tone),
            words.figure("worst task", share_worst, worst.task if worst else ""),
            words.figure("mean score", words.share(summary.accuracy)),
            words.figure("held-out examples", scored, to_go, tone="small"),
            words.figure("merged in", merged_in, words.PLACES.get(update.place, "")),
            rebuilt,
        )

    def trail_result(self, slot: Slot) -> Result:
        """The session's evaluated settings as a table."""
        rows = [
            (i + 1, m.label, self.bench.method(m.recipe.method).title, m.normalized, m.worst, m.worst_task, m.complete)
            for i, m in enumerate(slot.session.trail)
        ]
        table = pd.DataFrame(rows, columns=[c.name for c in TRAIL]).astype({"complete": int})
        return Result("trail", slot.session.recipe.task_names, table, TRAIL)


def _lower(sentence: str) -> str:
    """A sentence that goes on after a bold word."""
    return sentence[:1].lower() + sentence[1:] if sentence[1:2].islower() else sentence


def _with_previous(scores: Result, accuracies: Any) -> Result:
    """The score table with the last setting's accuracies as ghosts."""
    rows = scores.table[scores.table["model"] == "merged"]
    ghosts = rows[rows["task"].isin(list(accuracies))].copy()
    if ghosts.empty:
        return scores
    ghosts["model"] = "before"
    ghosts["score"] = ghosts["task"].map(accuracies).astype(float)
    ghosts["low"] = ghosts["high"] = ghosts["score"]
    ghosts["correct"] = ghosts["score"] * ghosts["n"]
    table = pd.concat([scores.table, ghosts], ignore_index=True)
    return Result(scores.kind, scores.tasks, table, scores.columns, scores.provenance)
