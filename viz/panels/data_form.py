"""The controls of the part "Your data": a small table of fields and columns, and the settings of a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from explorer.data import EXAMPLES, DataFile, Guess
from explorer.data.bringing import kind_choices, kind_parts
from explorer.errors import InputError, sentence
from viz.parts import Controls, controls_value, read_controls

MOST_FIELDS = 6
ENCODINGS = [
    ("by its mark, else UTF-8", "auto"), ("UTF-8", "utf-8"), ("UTF-16", "utf-16"), ("UTF-16 LE", "utf-16-le"),
    ("UTF-16 BE", "utf-16-be"), ("Windows cp1252", "cp1252"), ("Latin-1", "latin-1"),
]  # fmt: skip
MATCHES = [("by name, else by number", "auto"), ("by name", "name"), ("by number", "number")]
_NONE = "(none)"


class DataForm:
    """Layout and reading of the controls that are seen once a table is read."""

    def __init__(self) -> None:
        with gr.Column(visible=False, elem_id="own-form") as self.box:
            self.kind = gr.Dropdown(kind_choices(), label="Kind of task", elem_id="own-kind")
            self.about = gr.HTML(padding=False, elem_id="own-about")
            self.columns: list[Any] = []
            self.several: list[Any] = []
            with gr.Row(elem_id="own-columns"):
                for number in range(MOST_FIELDS):
                    self.columns.append(gr.Dropdown([], visible=False, min_width=200, elem_id=f"own-column-{number}"))
                    self.several.append(
                        gr.Dropdown([], visible=False, multiselect=True, min_width=200, elem_id=f"own-columns-{number}")
                    )
            self.labels = gr.HTML(padding=False, elem_id="own-labels")
            with gr.Row():
                self.examples = gr.Number(
                    EXAMPLES, label="Examples at most", precision=0, minimum=2, min_width=130, elem_id="own-examples",
                    info="A larger file gives a seeded sample: each label in its share.",
                )  # fmt: skip
                self.seed = gr.Number(
                    0, label="Seed of the sample", precision=0, min_width=130, elem_id="own-seed",
                    info="The same seed takes the same rows.",
                )  # fmt: skip
                self.match = gr.Dropdown(
                    MATCHES, value="auto", label="Labels are matched", min_width=130, elem_id="own-match",
                    info="Numbers count the head's labels from 0.",
                )  # fmt: skip
            with gr.Accordion("Settings of this kind", open=False):
                self.controls = Controls(elem_id="own-settings")
        self.mapped = [self.kind, *self.columns, *self.several]
        self.settings = [self.examples, self.seed, self.match, self.controls]
        self.outputs = [self.box, self.kind, self.about, *self.columns, *self.several, self.labels, self.controls]

    def hidden(self) -> list[Any]:
        """The updates of `outputs` while there is no table."""
        return [gr.update(visible=False), *[gr.skip()] * (len(self.outputs) - 1)]

    def show(self, data: DataFile, kind: str, guess: Guess | None, about: str, labels: str) -> list[Any]:
        """The updates of `outputs` for a kind and the columns that were guessed for it."""
        _, fields, specs = kind_parts(kind)
        mapping: Mapping[str, Sequence[str]] = guess.mapping if guess else {}
        singles, lists = [], []
        for place in range(MOST_FIELDS):
            field = fields[place] if place < len(fields) else None
            chosen = list(mapping.get(field.name, ())) if field else []
            shown = {"label": _label(field), "info": field.help} if field else {}
            is_list = field is not None and field.type == "texts"
            one = chosen[0] if chosen else _NONE
            singles.append(
                gr.update(visible=bool(field) and not is_list, choices=[_NONE, *data.columns], value=one, **shown)
            )
            lists.append(gr.update(visible=is_list, choices=list(data.columns), value=chosen, **shown))
        settings = controls_value(kind, specs, empty="This kind has no settings.")
        return [gr.update(visible=True), kind, about, *singles, *lists, labels, settings]

    def mapping(self, kind: str, chosen: Sequence[Any]) -> dict[str, tuple[str, ...]]:
        """Field -> columns, as the dropdowns (single ones, then lists) say."""
        _, fields, _ = kind_parts(kind)
        found: dict[str, tuple[str, ...]] = {}
        for place, field in enumerate(fields[:MOST_FIELDS]):
            value = chosen[MOST_FIELDS + place] if field.type == "texts" else chosen[place]
            columns = value if isinstance(value, list) else [value]
            found[field.name] = tuple(c for c in columns if isinstance(c, str) and c != _NONE)
        return found

    def read_settings(self, kind: str, examples: Any, seed: Any, match: Any, controls: Any) -> dict[str, Any]:
        """Settings of a plan. Raises InputError for what is no whole number, ParameterError as the kind declares."""
        for name, value in (("examples", examples), ("seed", seed)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
                raise InputError(sentence("data", f"{name} must be a whole number", repr(value), "Type one."))
        _, _, specs = kind_parts(kind)
        given = read_controls(controls, specs, who=kind)
        own = {s.name: given[s.name] for s in specs if given[s.name] != s.default}
        how = match if match in ("name", "number") else "auto"
        return {"examples": int(examples), "seed": int(seed), "match_by": how, "parameters": own}


def _label(field: Any) -> str:
    name = field.name.replace("_", " ")
    return f"{name} (may be left out)" if field.optional else name
