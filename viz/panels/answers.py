"""Below the scores: which examples the merge answers otherwise than another model, and whether confidence is earned."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import gradio as gr
import pandas as pd

from explorer.calibration import calibration
from explorer.changed_examples import CHANGES, changed_examples, churn, example_table
from explorer.errors import ExplorerError
from explorer.held import Scores, held_models, held_of
from explorer.noting import models_key
from explorer.results import Result, csv_text
from explorer.workbench import Slot, Workbench
from viz.panels import words
from viz.panels.draw import draw, empty
from viz.parts import PlotlyPanel
from viz.style import count, percent

SlotOf = Callable[[gr.Request], Slot]
INTRO = (
    "### Answers that changed\nThe held-out examples that the merge answers better or worse than another model does, "
    "among those that both have answered so far."
)
PINNED = "setting A"
NOTHING = "Nothing is scored yet. Scores come in above; then open this again or move a control."
MOST = 25
_SHORT = 300


@dataclass
class _View:
    """How one tab looks at its answers."""

    task: str = ""
    beside: str = "expert"
    change: str = ""
    search: str = ""
    opened: bool = False


class AnswersPlace:
    """Layout and callbacks of the section; every callback gives `outputs`."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self._views: WeakKeyDictionary[Slot, _View] = WeakKeyDictionary()
        gr.Markdown(INTRO, elem_id="answers")
        self.churn = gr.HTML(words.note(NOTHING), padding=False, elem_id="answers-churn")
        with gr.Row():
            self.task = gr.Dropdown([], label="Task", min_width=160, elem_id="answers-task")
            self.beside = gr.Dropdown(
                [("its own fine-tune", "expert"), ("the base", "base"), ("the pinned setting A", PINNED)],
                value="expert", label="Merge beside", min_width=180, elem_id="answers-beside",
            )  # fmt: skip
            self.change = gr.Dropdown(
                [("every change", ""), *((c, c) for c in CHANGES)], value="", label="Show", min_width=160
            )
            self.search = gr.Textbox(
                label="Search", placeholder="words of text or answer", min_width=180, max_length=200
            )
        self.figure = PlotlyPanel(empty(NOTHING), elem_id="calibration")
        self.table = gr.HTML(padding=False, elem_id="answers-table")
        self.download = gr.DownloadButton("CSV of all changed answers", visible=False, size="sm", elem_id="answers-csv")
        self.outputs = [self.churn, self.task, self.table, self.download, self.figure]

    def connect(self, slot_of: SlotOf, live: Mapping[str, Any]) -> None:
        """Bind the section's own events; `live` are the options of events that answer at once."""

        def setter(name: str) -> Callable[[Any, gr.Request], list[Any]]:
            def changed(value: Any, request: gr.Request) -> list[Any]:
                slot = slot_of(request)
                setattr(self._view(slot), name, str(value or ""))
                return self.show(slot)

            return changed

        for part, name in ((self.task, "task"), (self.beside, "beside"), (self.change, "change")):
            part.input(setter(name), part, self.outputs, **live)
        self.search.input(setter("search"), self.search, self.outputs, **{**live, "trigger_mode": "always_last"})

    def open(self, slot: Slot) -> list[Any]:
        """The section is looked at: from now on it follows the scores."""
        self._view(slot).opened = True
        return self.show(slot)

    def follow(self, slot: Slot) -> Iterator[list[Any]]:
        """A setting was scored."""
        yield self.show(slot) if self._view(slot).opened else [gr.skip()] * len(self.outputs)

    def show(self, slot: Slot) -> list[Any]:
        """Churn of every task, the changed examples of the chosen one, and its calibration; runs no model."""
        view, recipe = self._view(slot), slot.session.recipe
        try:
            tasks = [t for t in self.bench.evaluator(recipe).tasks.values()]
            held: dict[str, Scores] = held_models(self.bench, recipe)
            if pinned := slot.session.history.pinned(models_key(self.bench, recipe)):
                held[PINNED] = held_of(self.bench, pinned.recipe, self.bench.evaluator(recipe))
        except ExplorerError as error:
            return [words.note(str(error), kind="problem"), gr.skip(), "", gr.update(visible=False), empty(NOTHING)]
        known = [t for t in tasks if t.name in held["merged"]]
        if not known:
            return [words.note(NOTHING), gr.update(choices=[]), "", gr.update(visible=False), empty(NOTHING)]
        task = next((t for t in known if t.name == view.task), known[0])
        chosen = gr.update(choices=[t.name for t in known], value=task.name)
        others = {name: scores for name, scores in held.items() if name != "merged"}
        told = _churn_table(churn(others, held["merged"], known))
        table, file = self._changed(slot, task, held)
        return [told, chosen, table, file, draw("calibration", calibration(held, known), task=task.name)]

    def _changed(self, slot: Slot, task: Any, held: Mapping[str, Scores]) -> tuple[str, Any]:
        """The changed examples of a task as a table, and as a file."""
        view, hidden = self._view(slot), gr.update(visible=False)
        before = held.get(view.beside, {}).get(task.name)
        if before is None:
            what = "No setting is pinned: pin one as A in History." if view.beside == PINNED else "Not scored yet."
            return words.note(what), hidden
        found = changed_examples(task, before, held["merged"][task.name], names=(view.beside, "merge"))
        told = found.provenance
        if not told["comparable"]:
            return words.note(
                f"{task.metric.name} is no sum over single examples: none is right or wrong alone."
            ), hidden
        rows = example_table(found, search=view.search, change=view.change or None, most=MOST)
        total = len(example_table(found, search=view.search, change=view.change or None))
        said = f"{count(total)} of {count(len(found.table))} changed answers, of {count(told['n'])} examples"
        said += f"; the first {MOST} are shown" if total > MOST else ""
        if rows.empty:
            return words.note(f"{said}."), hidden
        rows["content"] = [c if len(c) <= _SHORT else c[: _SHORT - 1] + "…" for c in rows["content"].astype(str)]
        return f"<p>{said}.</p>" + words.table(rows, caption="Changed answers"), self._file(slot, task, found)

    def _file(self, slot: Slot, task: Any, found: Result) -> Any:
        folder = self.bench.uploads.folder_of(slot.id) / "answers"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "changed-answers.csv"
        path.write_text(csv_text(found.table.assign(task=task.name)), encoding="utf-8")
        return gr.update(value=str(path), visible=True)

    def _view(self, slot: Slot) -> _View:
        return self._views.setdefault(slot, _View())


def _churn_table(found: Result) -> str:
    """How many answers changed, task by task, beside each model."""
    if found.table.empty:
        return words.note(NOTHING)
    rows = [_churn_row(row) for row in found.table.to_dict("records")]
    return words.table(
        pd.DataFrame(rows), caption="Answers that changed, by task", numeric=("worse", "better", "examples")
    )


def _churn_row(row: Mapping[Any, Any]) -> dict[str, Any]:
    interval = f"{percent(row['churn'])} ({percent(row['low'])} to {percent(row['high'])})"
    return {
        "task": row["task"],
        "beside": row["before"],
        "answered otherwise (95 % interval)": interval if math.isfinite(row["churn"]) else "–",
        "worse": count(int(row["lost"])),
        "better": count(int(row["gained"])),
        "examples": count(int(row["n"])),
        "p (McNemar or permutation, Holm)": f"{row['p_holm']:.3g}" if math.isfinite(row["p_holm"]) else "–",
    }
