"""A recipe that comes in: pasted or uploaded, ours or mergekit's; it sets every control, or nothing changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from explorer.errors import RecipeError, sentence
from explorer.importing import MOST_CHARACTERS, Import, import_recipe, take_import
from explorer.incoming import MERGEKIT
from explorer.workbench import Slot, Workbench
from viz.panels import words

HINT = (
    "Paste a recipe or upload its file: ours, or mergekit's YAML. It opens its models and sets the method and every "
    "control; **Undo** brings back what was before. Models must lie inside the allowed folders."
)
SUFFIXES = (".yaml", ".yml")
EXACT = "Runs the saved file exactly as mergekit defines it"


class RecipeIn:
    """Layout and callbacks of the import."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        with gr.Accordion("Import a recipe", open=False, elem_id="import"):
            gr.Markdown(HINT, elem_classes="explorer-hint")
            self.text = gr.Code(
                language="yaml", label="Recipe to import", lines=8, max_lines=24, interactive=True, buttons=[],
                elem_id="import-text",
            )  # fmt: skip
            with gr.Row():
                self.take = gr.Button("Import", variant="primary", min_width=140, elem_id="import-take")
                self.upload = gr.UploadButton(
                    "Upload a .yaml file", file_types=list(SUFFIXES), min_width=140, elem_id="import-upload"
                )
                self.stand_in = gr.Button(
                    "Use these models instead", visible=False, min_width=140, elem_id="import-stand-in"
                )
            self.note = gr.HTML(padding=False, elem_id="import-note")
            self.command = gr.Code(
                language="shell", label=EXACT, visible=False, interactive=False, buttons=["copy"],
                show_line_numbers=False, wrap_lines=True, lines=1, elem_id="import-command",
            )  # fmt: skip
        self.source = gr.State("recipe.yaml")
        self.told = [self.note, self.stand_in, self.command]

    def connect(
        self,
        slot_of: Callable[[gr.Request], Slot],
        live: Mapping[str, Any],
        show: Callable[[Slot], list[Any]],
        shown: list[Any],
    ) -> list[Any]:
        """Bind the buttons; the events after which the page has another setting.

        `show` gives the values of `shown`, every control of the page.
        """

        def taking(text: str, source: str, request: gr.Request, stand_in: bool = False) -> list[Any]:
            slot = slot_of(request)
            done = self.run(slot, text, source, stand_in=stand_in)
            return [*self.say(slot, done), *(show(slot) if done.recipe else [gr.skip()] * len(shown))]

        def standing_in(text: str, source: str, request: gr.Request) -> list[Any]:
            return taking(text, source, request, stand_in=True)

        def received(file: str, request: gr.Request) -> list[Any]:
            try:
                text, source = read_upload(Path(file))
            except RecipeError as error:
                return [gr.skip(), gr.skip(), *_only(str(error)), *([gr.skip()] * len(shown))]
            return [text, source, *taking(text, source, request)]

        given, outputs = [self.text, self.source], [*self.told, *shown]
        return [
            self.upload.upload(received, self.upload, [*given, *outputs], **live),
            self.take.click(taking, given, outputs, **live),
            self.stand_in.click(standing_in, given, outputs, **live),
        ]

    def run(self, slot: Slot, text: str | None, source: str, *, stand_in: bool = False) -> Import:
        """Read the text and, where all of it fits, make it the session's recipe."""
        name = Path(str(source or "recipe.yaml")).name
        out_dir = str(self.bench.exports / "merged")
        now = slot.session.recipe
        done = import_recipe(self.bench, now, text or "", out_dir=out_dir, source=name, taking_offers=stand_in)
        if done.recipe is not None:
            slot.newest()
            with slot.lock:
                slot.session = take_import(slot.session, done.recipe)
        return done

    def say(self, slot: Slot, done: Import) -> list[Any]:
        """The note, the button that takes models at hand instead, and mergekit's command."""
        command = gr.update(value=done.command, visible=True) if done.command else _no_command()
        return [self._words(slot, done), gr.update(visible=bool(done.offers)), command]

    def _words(self, slot: Slot, done: Import) -> str:
        lines = "\n".join(f"· {note}" for note in done.notes)
        if done.problem:
            text = words.note(done.problem, kind="problem")
            offered = "\n".join(f"· {t or 'the base'}: {o.path} ({o.why})" for t, o in done.offers.items())
            return text + (words.note(f"At hand instead:\n{offered}") if offered else "")
        if done.recipe is None:
            return words.note(f"Nothing changed: the page cannot show this merge.\n{lines}")
        recipe = done.recipe
        title = self.bench.method(recipe.method).title
        text = (
            f"Imported {title} of {words.fine_tunes(len(recipe.tasks))}, seed {recipe.seed}. Undo brings back what was."
        )
        if done.kind == MERGEKIT:
            text += "\nIt is computed here as its paper says, not as mergekit does:"
        return words.note(f"{text}\n{lines}" if lines else text, kind="done")


def read_upload(file: Path) -> tuple[str, str]:
    """The text of an uploaded recipe, and its name. Raises RecipeError for anything else."""
    try:
        size = file.stat().st_size
        if file.suffix.lower() not in SUFFIXES or size > MOST_CHARACTERS:
            must = f"must be a .yaml or .yml file of at most {MOST_CHARACTERS:,} bytes"
            raise RecipeError(sentence(file.name, must, f"{size:,} bytes", "Upload the recipe alone."))
        return file.read_text(encoding="utf-8-sig"), file.name
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(sentence(file.name, "must be a text file", str(error), "Upload the recipe.")) from error


def _only(problem: str) -> list[Any]:
    return [words.note(problem, kind="problem"), gr.update(visible=False), _no_command()]


def _no_command() -> dict[str, Any]:
    return gr.update(visible=False)
