"""The setting that is shown as texts to take away: our recipe, mergekit's YAML, the command, Python."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import gradio as gr

from explorer.errors import ExplorerError
from explorer.opening import OpenModels
from explorer.recipe import Recipe
from explorer.recipe_texts import RECIPE_NAME, RecipeTexts, recipe_texts
from explorer.workbench import Slot, Workbench, export_folder

_FORMS = (
    ("Recipe", "yaml", f"{RECIPE_NAME}: with seed, versions and digests of the inputs", "recipe-ours"),
    ("mergekit", "yaml", "The same for mergekit, and what it cannot say", "recipe-mergekit"),
    ("Command", "shell", f"Beside {RECIPE_NAME}; with --plan it only says what it would take", "recipe-command"),
    ("Python", "python", "Complete as it stands", "recipe-python"),
)


@dataclass(frozen=True)
class _Held:
    """What a tab was shown last, and for what."""

    recipe: Recipe
    target: tuple[str, bool]
    models: OpenModels | None
    texts: RecipeTexts

    def models_for(self, recipe: Recipe) -> OpenModels | None:
        """The open models, where the recipe has the same."""
        same = (self.recipe.checkpoints, self.recipe.task_names) == (recipe.checkpoints, recipe.task_names)
        return self.models if same else None


class RecipeOut:
    """Layout of the four texts, and what they say; all of them follow the session's recipe."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self._held: WeakKeyDictionary[Slot, _Held] = WeakKeyDictionary()
        self.outputs: list[Any] = []
        with gr.Tabs(elem_id="recipe-texts"):
            for title, language, label, id in _FORMS:
                with gr.Tab(title):
                    self.outputs.append(_box(language, label, id))

    def show(self, slot: Slot, name: str, overwrite: bool, *, again: bool = False) -> list[str]:
        """The texts for an export under `name`.

        Opens the models only with `again`; until then digests of the inputs come from when they were last open.
        """
        recipe, held, target = slot.session.recipe, self._held.get(slot), (name, overwrite)
        if held is None or again or (held.recipe, held.target) != (recipe, target):
            models = self._models(recipe) if again else held.models_for(recipe) if held else None
            texts = recipe_texts(recipe, models, self._folder(name), overwrite=overwrite)
            self._held[slot] = held = _Held(recipe, target, models, texts)
        return [held.texts.ours, held.texts.mergekit, held.texts.command, held.texts.python]

    def _models(self, recipe: Recipe) -> OpenModels | None:
        try:
            return self.bench.models(recipe)
        except ExplorerError:  # the place Models says what is wrong
            return None

    def _folder(self, name: str) -> str:
        try:
            return str(export_folder(self.bench.exports, name))
        except ExplorerError:  # a name that is none: the plan says so
            return "OUT_DIR"


def _box(language: Any, label: str, id: str) -> gr.Code:
    return gr.Code(
        language=language, label=label, lines=8, max_lines=18, interactive=False, buttons=["copy", "download"],
        show_line_numbers=False, wrap_lines=language == "shell", elem_id=id,
    )  # fmt: skip
