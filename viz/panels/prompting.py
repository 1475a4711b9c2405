"""A prompt of the user's own, continued by base, experts and the merge side by side, as the text comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import gradio as gr

from explorer.errors import Cancelled, ExplorerError
from explorer.generations import NO_WRITER, SPECS, Writing, generations, kind_of_writer, stop_generations, writers
from explorer.recipe import Recipe
from explorer.workbench import Slot, Workbench
from viz.panels import words
from viz.panels.prompting_words import columns

CSS = Path(__file__).with_name("prompting.css")
SlotOf = Callable[[gr.Request], Slot]
INTRO = (
    "### Ask the models\nType a text: base, experts and the merge continue it side by side. One text shows what kind "
    "of thing a model says, not how good it is: the scores say that."
)
STOPPED = "Stopped. What is shown was written until then."
BEFORE = "These texts are of the setting before. Write again for the one shown now."
LONGEST = 20_000


class PromptPlace:
    """Layout and callbacks of the section; `outputs` are the note, the texts, and the models to choose from."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self._written: WeakKeyDictionary[Slot, Recipe] = WeakKeyDictionary()
        recipe, spec = bench.start, {s.name: s for s in SPECS}
        names = [w.name for w in writers(recipe)]
        gr.Markdown(INTRO, elem_id="prompting")
        self.prompt = gr.Textbox(label="Prompt", lines=3, max_lines=12, max_length=LONGEST, elem_id="prompt-text")
        with gr.Row(equal_height=False):
            self.models = gr.Dropdown(names, value=names, multiselect=True, label="Models", min_width=260, scale=2)
            self.length = self._slider(spec["max_new_tokens"], "Tokens at most", high=256)
            self.temperature = self._slider(spec["temperature"], "Temperature", high=2)
            self.seed = gr.Number(
                spec["seed"].default, label="Seed", info=spec["seed"].help, precision=0, minimum=0, min_width=140
            )
        with gr.Row(elem_id="prompt-buttons"):
            self.write = gr.Button("Write", variant="primary", min_width=110, elem_id="prompt-write")
            self.stop = gr.Button("Stop", min_width=110, elem_id="prompt-stop")
            self.chat = gr.Checkbox(False, label="As a chat", info=spec["chat"].help, min_width=260)
        self.note = gr.HTML(padding=False, elem_id="prompt-note")
        self.texts = gr.HTML(padding=False, elem_id="prompt-texts")
        self.asked = [self.prompt, self.models, self.length, self.temperature, self.seed, self.chat]
        self.outputs = [self.note, self.texts, self.models]

    def _slider(self, spec: Any, label: str, *, high: float) -> gr.Slider:
        step = spec.allowed.step or 1
        return gr.Slider(
            spec.allowed.low, high, spec.default, step=step, label=label, info=spec.help, min_width=200
        )  # fmt: skip

    def connect(self, slot_of: SlotOf, live: Mapping[str, Any]) -> None:
        """Bind the section's own events; `live` are the options of events that answer at once."""

        def asked(
            prompt: str, models: Any, length: Any, temperature: Any, seed: Any, chat: Any, request: gr.Request
        ) -> Iterator[list[Any]]:
            given = {"max_new_tokens": length, "temperature": temperature, "seed": seed, "chat": chat}
            yield from self.run(slot_of(request), prompt, models, given)

        def stopped(request: gr.Request) -> None:
            stop_generations(slot_of(request))

        gr.on([self.write.click, self.prompt.submit], asked, self.asked, self.outputs, **live)
        self.stop.click(stopped, None, None, **live)

    def show(self, slot: Slot) -> list[Any]:
        """The updates of `outputs` when models were opened or the section is looked at: who can write, or why nobody.

        Texts stay while they are of these models.
        """
        names = [w.name for w in writers(slot.session.recipe)]
        return [words.note(self._problem(slot.session.recipe)), gr.skip(), gr.update(choices=names, value=names)]

    def after_move(self, slot: Slot) -> list[Any]:
        """The updates of `outputs` once a setting was scored: texts that are shown may be of another merge."""
        before = self._written.get(slot)
        old = before is not None and before != slot.session.recipe
        return [words.note(BEFORE) if old else gr.skip(), gr.skip(), gr.skip()]

    def leave(self, slot: Slot) -> None:
        """The tab was closed."""
        stop_generations(slot)

    def run(self, slot: Slot, prompt: Any, models: Any, given: Mapping[str, Any]) -> Iterator[list[Any]]:
        """Updates of `outputs` while the models write; every value comes from the page and is checked."""
        recipe = slot.session.recipe
        shown: tuple[Writing, ...] = ()
        try:
            known = [w.name for w in writers(recipe)]
            chosen = [str(m) for m in models if m in known] if isinstance(models, list) else []
            plain = {**given, "seed": 0 if given.get("seed") is None else given["seed"]}
            text = str(prompt or "")[:LONGEST]
            yield ["", gr.skip(), gr.skip()]
            for shown in generations(self.bench, slot, recipe, text, models=chosen or None, **plain):
                self._written[slot] = recipe
                yield ["", columns(shown), gr.skip()]
        except Cancelled as stopped:
            said = str(stopped) if "changed" in str(stopped) else STOPPED
            yield [words.note(said), columns(shown, stopped=True) if shown else gr.skip(), gr.skip()]
        except ExplorerError as error:
            yield [words.note(str(error), kind="problem"), gr.skip(), gr.skip()]

    def _problem(self, recipe: Recipe) -> str:
        """Why these models write nothing; empty where they do."""
        try:
            return "" if kind_of_writer(self.bench.models(recipe).base.config) else NO_WRITER
        except ExplorerError as error:
            return str(error)
