"""The part "Your data" of the place Models: bring a table, confirm its columns, and score a task on it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import gradio as gr

from explorer.data.bringing import (
    Brought,
    brought,
    kind_parts,
    labels_shown,
    packed,
    plan_for,
    read_named,
    remove_data,
    scored_on,
    use_data,
)
from explorer.errors import ExplorerError
from explorer.recipe import Recipe
from explorer.workbench import Slot, Workbench
from viz.panels import data_words, words
from viz.panels.data_form import ENCODINGS, MOST_FIELDS, DataForm

FILES = [".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json", ".parquet", ".zip"]


@dataclass
class _Held:
    """What one tab has read: its place, its options, and what it may be for the chosen task."""

    path: str
    found: Brought | None = None


class DataPlace:
    """Layout and callbacks. A callback finds what its tab has read by the tab's slot."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self._held: WeakKeyDictionary[Slot, _Held] = WeakKeyDictionary()
        self._chosen: WeakKeyDictionary[Slot, str] = WeakKeyDictionary()
        names = list(bench.start.task_names)
        with gr.Accordion("Your data", open=False, elem_id="own-data"):
            gr.Markdown(data_words.INTRO, elem_classes="explorer-hint")
            self.table = gr.HTML(padding=False, elem_id="own-tasks")
            with gr.Row(equal_height=False):
                self.task = gr.Dropdown(
                    names, value=names[0], label="Task", min_width=160, elem_id="own-task",
                    info="The fine-tune to be scored on the data.",
                )  # fmt: skip
                self.path = gr.Textbox(
                    label="File or folder inside an allowed folder", min_width=220, lines=1, elem_id="own-path",
                    info="Press Enter to read it; or upload a file below.",
                )  # fmt: skip
                self.encoding = gr.Dropdown(
                    ENCODINGS, value="auto", label="Encoding", min_width=140, elem_id="own-encoding",
                    info="Of text files.",
                )  # fmt: skip
                self.split = gr.Textbox(
                    "test", label="Split", min_width=100, lines=1, elem_id="own-split", info="Of a folder."
                )  # fmt: skip
            with gr.Row():
                self.upload = gr.UploadButton("Upload a data file", file_types=FILES, min_width=160)
                self.drop = gr.Button("Remove own data", min_width=140, elem_id="own-remove", interactive=False)
                self.download = gr.DownloadButton("Download task file", min_width=140, visible=False, elem_id="own-zip")
            self.rows = gr.HTML(words.note(data_words.NO_DATA), padding=False, elem_id="own-rows")
            self.form = DataForm()
            self.use = gr.Button("Use for this task", variant="primary", visible=False, elem_id="own-use")
            self.note = gr.HTML(padding=False, elem_id="own-note")
        self.about_task = [self.drop, self.download]
        self.shown = [self.table, self.task, *self.about_task]
        self.read_outputs = [self.note, self.rows, self.use, *self.form.outputs]

    def connect(
        self, slot_of: Callable[[gr.Request], Slot], live: Mapping[str, Any], shown: list[Any],
        show: Callable[[Slot], list[Any]], after: Callable[[Any], None],
    ) -> None:  # fmt: skip
        """Bind the controls. `show` gives the values of `shown` after the recipe changed, `after` what follows."""
        options, form = [self.task, self.encoding, self.split], self.form

        def received(request: gr.Request, file: str, *asked: Any) -> list[Any]:
            return self.receive(slot_of(request), file, *asked)

        def named(request: gr.Request, path: str, *asked: Any) -> list[Any]:
            return self.read(slot_of(request), path, *asked)

        def again(request: gr.Request, *asked: Any) -> list[Any]:
            return self.read_again(slot_of(request), *asked)

        def chosen(request: gr.Request, *asked: Any) -> list[Any]:
            return self.choose(slot_of(request), *asked)

        def kinds(request: gr.Request, task: str, kind: str) -> list[Any]:
            return self.other_kind(slot_of(request), task, kind)

        def checked(request: gr.Request, *values: Any) -> list[Any]:
            return self.check(slot_of(request), *values)

        def used(request: gr.Request, *values: Any) -> Iterator[list[Any]]:
            yield [words.note("Reading every row of the file …"), *[gr.skip()] * len(shown)]
            yield [self.make(slot_of(request), *values), *show(slot_of(request))]

        def removed(request: gr.Request, task: str) -> list[Any]:
            return [self.remove(slot_of(request), task), *show(slot_of(request))]

        self.upload.upload(received, [self.upload, *options], self.read_outputs, **live)
        self.path.submit(named, [self.path, *options], self.read_outputs, **live)
        gr.on([self.encoding.input, self.split.submit], again, options, self.read_outputs, **live)
        self.task.input(chosen, options, [*self.about_task, *self.read_outputs], **live)
        form.kind.input(kinds, [self.task, form.kind], [self.note, *form.outputs], **live)
        moved = [c.input for c in (*form.columns, *form.several, form.match)]
        every = [self.task, *form.mapped, *form.settings]
        gr.on(moved, checked, every, [self.note, form.labels], **live)
        after(self.use.click(used, every, [self.note, *shown], **live))
        after(self.drop.click(removed, self.task, [self.note, *shown], **live))

    def show(self, slot: Slot) -> list[Any]:
        """The values of `shown`: which data every task has, the tasks to choose from, and what can be done."""
        names = slot.session.recipe.task_names
        tasks = scored_on(self.bench, slot.session.recipe)
        task = self._task_of(slot)
        table = data_words.tasks_table(names, tasks, _own(slot.session.recipe))
        return [table, gr.update(choices=list(names), value=task), *self._of_task(slot, task)]

    def receive(self, slot: Slot, file: str, *asked: str) -> list[Any]:
        """An uploaded file becomes this session's, and is read."""
        try:
            kept = self.bench.uploads.keep(slot.id, Path(file))
        except (ExplorerError, OSError, shutil.Error) as error:
            return self._problem(str(error))
        return self.read(slot, str(kept), *asked)

    def read(self, slot: Slot, path: str, task: str, encoding: str, split: str) -> list[Any]:
        """Read a table and guess what it is; the values of `read_outputs`."""
        self._held[slot] = held = _Held(path)
        try:
            data = read_named(self.bench, slot, path, encoding=encoding, split=split.strip() or "test")
            rows = data_words.preview(data)
            held.found = found = brought(self.bench, slot.session.recipe, self._task_of(slot, task), data)
        except ExplorerError as error:
            return self._problem(str(error))
        best = found.guesses[0]
        return ["", rows, self._button(slot), *self._form(slot, found, best.kind)]

    def read_again(self, slot: Slot, *asked: str) -> list[Any]:
        """The same file with other options; nothing while there is none."""
        held = self._held.get(slot)
        return self.read(slot, held.path, *asked) if held else [gr.skip()] * len(self.read_outputs)

    def choose(self, slot: Slot, task: str, *options: str) -> list[Any]:
        """Another task: what it has, and what the table would be for it."""
        self._chosen[slot] = task
        return [*self._of_task(slot, self._task_of(slot)), *self.read_again(slot, task, *options)]

    def other_kind(self, slot: Slot, task: str, kind: str) -> list[Any]:
        """Another kind of task than the one that was guessed: its fields, its columns."""
        held = self._held.get(slot)
        if held is None or held.found is None:
            return [gr.skip()] * (1 + len(self.form.outputs))
        return ["", *self._form(slot, held.found, kind)]

    def check(self, slot: Slot, task: str, kind: str, *values: Any) -> list[Any]:
        """After a column was chosen: the labels, or what is wrong with the choice."""
        held = self._held.get(slot)
        if held is None or held.found is None:
            return [gr.skip(), gr.skip()]
        try:
            plan = self._plan(slot, task, kind, *values)
            return ["", data_words.labels_table(labels_shown(held.found.data, plan))]
        except ExplorerError as error:
            return ["", words.note(str(error), kind="problem")]

    def make(self, slot: Slot, task: str, kind: str, *values: Any) -> str:
        """Make the task and score on it; what became of every row, or why not."""
        held = self._held.get(slot)
        if held is None or held.found is None:
            return words.note(data_words.NO_DATA, kind="problem")
        try:
            made = use_data(self.bench, slot, held.found.data, self._plan(slot, task, kind, *values))
        except ExplorerError as error:
            return words.note(str(error), kind="problem")
        return data_words.made(made)

    def remove(self, slot: Slot, task: str) -> str:
        """Score a task on what the app has of its name again."""
        remove_data(slot, self._task_of(slot, task))
        return words.note(f"{task} is no longer scored on your data. Undo brings it back.")

    def _plan(self, slot: Slot, task: str, kind: str, *values: Any) -> Any:
        columns, settings = values[: 2 * MOST_FIELDS], values[2 * MOST_FIELDS :]
        chosen = self.form.mapping(kind, columns)
        given = self.form.read_settings(kind, *settings)
        return plan_for(self.bench, slot.session.recipe, self._task_of(slot, task), kind, chosen, **given)

    def _form(self, slot: Slot, found: Brought, kind: str) -> list[Any]:
        """The form for a kind, its columns as guessed, and the labels that follow."""
        guess, recipe = found.guess(kind), slot.session.recipe
        about = data_words.guessed(guess, kind_parts(kind)[0])
        try:
            plan = plan_for(self.bench, recipe, self._task_of(slot), kind, guess.mapping if guess else {})
            labels = data_words.labels_table(labels_shown(found.data, plan))
        except ExplorerError as error:
            labels = words.note(str(error), kind="problem")
        return self.form.show(found.data, kind, guess, about, labels)

    def _task_of(self, slot: Slot, task: str = "") -> str:
        """The chosen task, or the first where there is none of that name."""
        names = slot.session.recipe.task_names
        wanted = task or self._chosen.get(slot, "")
        return wanted if wanted in names else names[0]

    def _of_task(self, slot: Slot, task: str) -> list[Any]:
        own = task in _own(slot.session.recipe)
        archive = packed(self.bench, slot, task) if own else None
        return [gr.update(interactive=own), gr.update(visible=archive is not None, value=archive and str(archive))]

    def _button(self, slot: Slot) -> Any:
        return gr.update(visible=True, value=f"Use for {self._task_of(slot)}")

    def _problem(self, text: str) -> list[Any]:
        return [words.note(text, kind="problem"), "", gr.update(visible=False), *self.form.hidden()]


def _own(recipe: Recipe) -> frozenset[str]:
    """Tasks that the recipe gives data of their own."""
    return frozenset(t.name for t in recipe.tasks if t.evaluation)
