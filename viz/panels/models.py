"""The place Models: which checkpoints are open, what was found in them, and a first look at whether they fight."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from explorer.errors import ExplorerError, InputError, sentence
from explorer.recipe import Recipe, TaskEntry, model_name
from explorer.session import with_models
from explorer.workbench import Slot, Workbench
from viz.panels import words
from viz.panels.data import DataPlace
from viz.parts import PlotlyPanel
from viz.style import bytes_text, count

INTRO = (
    "A **base** and the models fine-tuned from it. What each fine-tune changed is its *task vector*; merging adds "
    "task vectors. Change the selection below and press **Open these models**."
)
POLICIES = [
    ("Refuse to merge until everything fits", "refuse"),
    ("Keep the base's values where a tensor does not fit", "keep_base"),
    ("The same, but merge the common rows of embeddings and heads (added tokens are dropped)", "common_rows"),
]
_COLUMNS = {
    "missing": "missing", "extra": "extra", "different_shape": "other shape", "different_dtype": "other dtype",
    "tied": "tied", "frozen": "unchanged", "non_float": "not float",
}  # fmt: skip


class ModelsPlace:
    """Layout and callbacks of the place Models."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        gr.Markdown(INTRO, elem_classes="explorer-intro")
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=320):
                self.status = gr.HTML(padding=False)
                self.table = gr.HTML(padding=False)
            with gr.Column(scale=2, min_width=320):
                self.first_look = PlotlyPanel({"empty": "Comparing the task vectors …"}, elem_id="first-look")
        self.data = DataPlace(bench)
        with gr.Accordion("Open other models", open=False, elem_id="open-models"):
            self._form()

    def _form(self) -> None:
        choices = self.choices()
        start = self.bench.start
        with gr.Row():
            self.base = gr.Dropdown(
                choices, value=start.base, label="Base", info="The model all fine-tunes began from.",
                allow_custom_value=True, min_width=280,
            )  # fmt: skip
            self.tasks = gr.Dropdown(
                choices, value=[t.checkpoint for t in start.tasks], label="Fine-tunes", multiselect=True,
                info="Add with the list, or type a path inside an allowed folder; remove with ×. A fine-tune is named "
                "after its folder; a folder that carries the name of an evaluation task is scored on it.",
                allow_custom_value=True, min_width=280,
            )  # fmt: skip
        self.policy = gr.Radio(POLICIES, value="refuse", label="Tensors that cannot be merged")
        self.chosen_by_code = [self.base, self.tasks, self.policy]
        self.download = gr.Checkbox(
            False, label="Allow downloads from the Hugging Face hub", visible=self.bench.hub, elem_id="allow-hub",
            info="Type org/name or org/name@revision above; only safetensors are fetched.",
        )  # fmt: skip
        with gr.Row():
            self.open = gr.Button("Open these models", variant="primary", min_width=160)
            self.upload = gr.UploadButton(
                "Upload a checkpoint",
                file_count="multiple",
                file_types=[".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".json", ".txt"],
                min_width=160,
            )
            self.refresh = gr.Button("Look again for models", min_width=160)
        roots = ", ".join(_shown(r) for r in self.bench.roots)
        gr.Markdown(
            f"Allowed folders: `{roots}`. Start the app with `--models FOLDER` to allow another. An upload is one "
            "weight file (safetensors or PyTorch), or all files of a model folder selected together (weights, index, "
            "config).",
            elem_classes="explorer-hint",
        )
        self.form_note = gr.HTML(padding=False)

    def choices(self) -> list[tuple[str, str]]:
        """Every checkpoint beneath the allowed folders, as (label, path)."""
        return [(_shown(p), str(p)) for p in self.bench.available()]

    def selection(self, recipe: Recipe) -> list[dict[str, Any]]:
        """The form's base, fine-tunes and policy for a recipe that was set elsewhere."""
        chosen = (recipe.base, [t.checkpoint for t in recipe.tasks], recipe.policy)
        return [gr.update(value=value) for value in chosen]

    def show(self, recipe: Recipe) -> tuple[str, str]:
        """The status line and the table for the open models."""
        found = self.bench.inspect(recipe)
        lines = [words.note(p, kind="problem") for p in found.problems]
        lines += [words.note(w, kind="problem") for w in found.warnings]
        if not found.problems:
            n = found.mergeable
            fits = (
                f"All {n} tensors can be merged." if n == found.tensors else f"{n} of {found.tensors} tensors can be."
            )
            lines.insert(0, words.note(f"{words.fine_tunes(len(recipe.tasks))} of one base. {fits}", kind="done"))
        elif recipe.policy != "refuse":
            lines.insert(0, words.note(f"{found.mergeable} of {found.tensors} tensors are merged.", kind="info"))
        lines += [words.note(n, kind="info") for n in found.notes]
        tasks = {t.name: t for t in self.bench.evaluation_tasks(recipe)}
        return "".join(lines), _models_table(found.models, found.differences, tasks)

    def open_selected(
        self, slot: Slot, base: str | None, tasks: Sequence[str] | None, policy: str, download: bool = False
    ) -> str:
        """Open the selection in this session; the sentence that says how it went. Nothing changes on a problem."""
        try:
            recipe = self._selected(slot.session.recipe, base, tasks, policy)
            if download:
                self.bench.download(recipe, slot.newest())
            self.bench.inspect(recipe)
            self.bench.models(recipe)
        except ExplorerError as error:
            return words.note(str(error), kind="problem")
        slot.newest()
        slot.session = with_models(slot.session, recipe)
        return words.note("Opened. All places now show these models.", kind="done")

    def _selected(self, recipe: Recipe, base: str | None, tasks: Sequence[str] | None, policy: str) -> Recipe:
        if not base or not tasks:
            raise InputError(sentence("models", "choose a base and at least one fine-tune", "none", "Use the lists."))
        old = {t.checkpoint: t for t in recipe.tasks}
        entries: dict[str, TaskEntry] = {}
        for path in tasks:
            entry = old.get(path) or TaskEntry(_free_name(path, entries), path)
            entries[entry.name] = entry
        plain = {**recipe.to_dict(), "base": base, "policy": policy}
        plain["tasks"] = {n: e.to_dict() for n, e in entries.items()}
        return Recipe.from_dict(plain, source="models")

    def receive(self, slot: Slot, files: list[str] | None) -> tuple[str, dict[str, Any]]:
        """Keep uploaded files as a checkpoint of this session and add it to the selection."""
        try:
            folder = self.bench.receive(slot.id, [Path(f) for f in files or []])
        except (ExplorerError, OSError, shutil.Error) as error:
            return words.note(str(error), kind="problem"), gr.update()
        text = f"Received {folder.name}. It is in the list of fine-tunes; press “Open these models” to merge it."
        choices = [*self.choices(), (f"uploaded: {folder.name}", str(folder))]
        current = [t.checkpoint for t in slot.session.recipe.tasks]
        return words.note(text, kind="done"), gr.update(choices=choices, value=[*current, str(folder)])


def _free_name(path: str, taken: Mapping[str, object]) -> str:
    name = model_name(path) or "task"
    options = (name, *(f"{name} {i}" for i in range(2, 1000)))
    return next(n for n in options if n not in taken)


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _models_table(models: pd.DataFrame, differences: pd.DataFrame, tasks: Mapping[str, Any]) -> str:
    by_task = differences.set_index("task") if len(differences) else pd.DataFrame()
    rows = []
    for row in models.to_dict("records"):
        own = by_task.loc[row["name"]] if row["name"] in by_task.index else None
        task = tasks.get(str(row["name"]))
        rows.append(
            {
                "model": row["name"],
                "what it is": f"{row['architecture']}, {row['format']}",
                "parameters": f"{count(int(row['parameters']))} {row['dtype']}",
                "size": bytes_text(int(row["bytes"])),
                "against the base": "–" if own is None else _difference(own),
                "scored on": "–" if own is None else _scored(task),
            }
        )
    return words.table(pd.DataFrame(rows), caption="Open models", numeric=("size",))


def _difference(own: pd.Series) -> str:
    parts = [f"{int(own[c])} {label}" for c, label in _COLUMNS.items() if int(own[c])]
    text = f"{int(own['shared'])} shared" + (", " + ", ".join(parts) if parts else "")
    return text + (f" ({own['which']})" if own["which"] else "")


def _scored(task: Any) -> str:
    if task is None:
        return "no held-out data of this name"
    return f"{task.n:,} examples" + (f", {len(task.labels)} labels" if task.labels else f", {task.metric.name}")
