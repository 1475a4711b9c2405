"""Below the mixer: take away exactly what is shown, as a model folder, a recipe, or a command."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import gradio as gr

from explorer.errors import ExplorerError
from explorer.executor import Progress
from explorer.proof import proof_text, prove
from explorer.recipe import DTYPES
from explorer.rounding import survival_shown
from explorer.streaming import current_scores
from explorer.survival import survival_text
from explorer.workbench import Slot, Workbench
from viz.panels import words
from viz.panels.export_plan import ExportPlans
from viz.panels.recipe_in import RecipeIn
from viz.panels.recipe_out import RecipeOut
from viz.style import bytes_text, seconds_text

_AS_BASE = "as the base"
_NAME = "merged"
_MAX_ZIP_BYTES = 2 << 30


class ExportPlace:
    """Layout and callbacks of the export section."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self._written: WeakKeyDictionary[Slot, Path] = WeakKeyDictionary()
        self._target: WeakKeyDictionary[Slot, tuple[str, bool]] = WeakKeyDictionary()
        self.plans = ExportPlans(bench)
        gr.Markdown(
            "### Export\nWrites the model you see, bit for bit, as a Hugging Face folder with tokenizer, model card "
            "and recipe. Figures and tables are saved with the buttons under each of them.",
            elem_id="export",
        )
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=330):
                with gr.Row():
                    self.name = gr.Textbox(
                        _NAME, label="Folder name", info=f"in {_short(bench.exports)}", min_width=140
                    )
                    self.dtype = gr.Dropdown(
                        [_AS_BASE, *DTYPES], value=_AS_BASE, label="Stored as", min_width=140,
                        info="The scores above are those of this dtype.",
                    )  # fmt: skip
                self.rounding = gr.HTML(padding=False, elem_id="export-rounding")
                self.replace = gr.Checkbox(False, label="Replace a folder of that name")
                self.plan = gr.HTML(padding=False, elem_id="export-plan")
                with gr.Row():
                    self.write = gr.Button("Export model", variant="primary", elem_id="export-model")
                    self.zip = gr.DownloadButton("Download as .zip", visible=False, elem_id="export-zip")
                    self.prove = gr.Button("Prove it", visible=False, elem_id="export-prove")
                self.note = gr.HTML(padding=False, elem_id="export-note")
                self.proof = gr.HTML(padding=False, elem_id="export-proof")
            with gr.Column(scale=3, min_width=330):
                self.texts = RecipeOut(bench)
        self.incoming = RecipeIn(bench)
        self.outputs = [*self.texts.outputs, self.plan, self.rounding]
        self.set_by_code = [self.dtype, *self.texts.outputs, self.plan]

    def connect(self, slot_of: Callable[[gr.Request], Slot], live: Mapping[str, Any]) -> None:
        """Bind the buttons; `live` are the options of events that answer at once."""

        def write(name: str, replace: bool, request: gr.Request) -> Iterator[list[Any]]:
            yield from self.run(slot_of(request), name, replace)

        def offer(request: gr.Request) -> list[Any]:
            return self.offer(slot_of(request))

        def proved(request: gr.Request) -> Iterator[str]:
            yield from self.proved(slot_of(request))

        written = self.write.click(write, [self.name, self.replace], [self.note, self.zip], **live)
        written.then(offer, None, [self.prove, self.proof], **live)
        self.prove.click(proved, None, self.proof, **live)

        def aimed(name: str, replace: bool, request: gr.Request) -> list[Any]:
            return self.aim(slot_of(request), name, replace)

        target = [self.name, self.replace]
        gr.on([self.name.input, self.replace.input], aimed, target, [*self.texts.outputs, self.plan], **live)
        written.then(aimed, target, [*self.texts.outputs, self.plan], **live)

    def show(self, slot: Slot) -> list[Any]:
        """The values of `set_by_code` for a recipe that was set from outside."""
        aim = self._aim_of(slot)
        texts, plan = self.texts.show(slot, *aim, again=True), self.plans.show(slot, *aim)
        return [gr.update(value=slot.session.recipe.dtype or _AS_BASE), *texts, plan]

    def dtype_of(self, shown: str | None) -> str | None:
        """The recipe's dtype for what the list shows."""
        return shown if shown in DTYPES else None

    def shown(self, slot: Slot, rounding: Any = "") -> list[Any]:
        """The values of `outputs` for the session's recipe: the texts, the last plan, what rounding leaves."""
        return [*self.texts.show(slot, *self._aim_of(slot)), self.plans.known(slot), rounding]

    def look(self, slot: Slot) -> None:
        """Make texts and plan anew for the session's recipe, with what is known of the models since they were read."""
        self.texts.show(slot, *self._aim_of(slot), again=True)
        self.plans.show(slot, *self._aim_of(slot))

    def aim(self, slot: Slot, name: str, replace: bool) -> list[Any]:
        """Another folder for the export: the texts and the plan say it."""
        self._target[slot] = (str(name), bool(replace))
        return [*self.texts.show(slot, name, replace), self.plans.show(slot, name, replace, again=True)]

    def _aim_of(self, slot: Slot) -> tuple[str, bool]:
        return self._target.get(slot, (_NAME, False))

    def left(self, slot: Slot) -> str:
        """What the stored dtype leaves of the task vectors, once the session's recipe is scored; empty until then."""
        try:
            found = survival_shown(self.bench, slot)
        except ExplorerError:  # superseded, or not storable so: the scores or the export say what is wrong
            return ""
        return words.note(survival_text(found)) if found else ""

    def run(self, slot: Slot, name: str, replace: bool) -> Iterator[list[Any]]:
        """Write the folder; the note with what was written, and the download."""
        recipe = slot.session.recipe
        self._written.pop(slot, None)
        yield [words.note("Writing …"), gr.update(visible=False)]
        steps: list[Progress] = []
        try:
            scores = current_scores(self.bench, slot, recipe)
            done = self.bench.export(recipe, name, scores=scores, overwrite=replace, progress=steps.append)
        except ExplorerError as error:
            yield [words.note(str(error), kind="problem"), gr.update(visible=False)]
            return
        self._written[slot] = done.path
        self.plans.measured(slot, done.seconds)
        several = f", one model per task: {', '.join(f.name for f in done.folders)}" if len(done.folders) > 1 else ""
        text = f"Wrote {_short(done.path)} ({bytes_text(done.total_bytes)} in {seconds_text(done.seconds)}{several})."
        text += f"\n{survival_text(done.survival)}"
        yield [words.note(text, kind="done"), self._download(done.path, done.total_bytes)]

    def offer(self, slot: Slot) -> list[Any]:
        """The button "Prove it", while there is an export to prove; and no proof yet."""
        return [gr.update(visible=slot in self._written), ""]

    def proved(self, slot: Slot) -> Iterator[str]:
        """Read the last export again and say whether every bit of it is what was merged."""
        folder = self._written.get(slot)
        if folder is None:
            yield words.note("There is no export to prove yet: export the model first.")
            return
        yield words.note("Reading the folder again …")
        try:
            found = prove(self.bench, slot, folder)
        except ExplorerError as error:
            yield words.note(str(error), kind="problem")
            return
        size = f"\n{bytes_text(found.total_bytes)} compared in {seconds_text(found.seconds)}."
        yield words.note(proof_text(found) + size, kind="done" if found.holds else "problem")

    def _download(self, folder: Path, size: int) -> dict[str, Any]:
        if size > _MAX_ZIP_BYTES:
            return gr.update(visible=False)
        where = Path(tempfile.mkdtemp(prefix="zip-", dir=self.bench.scratch)) / folder.name
        archive = shutil.make_archive(str(where), "zip", folder.parent, folder.name)
        return gr.update(value=archive, visible=True)


def _short(path: Path) -> str:
    path, here = path.resolve(), Path.cwd().resolve()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
