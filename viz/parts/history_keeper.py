"""What keeps the history of settings in a person's browser, so that closing or reloading the page loses none of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import gradio as gr

from explorer.errors import ParameterError, sentence
from viz.parts import assets

VERSION, MOST, MOST_MODELS = 1, 200, 8
_SCRIPT = assets.script(
    "history_keeper.js", css="history_table.css", VERSION=VERSION, MOST=MOST, MOST_MODELS=MOST_MODELS
)


with assets.no_stub_file():

    class HistoryKeeper(gr.HTML):
        """Nothing to see: writes its value to the browser's local storage, one item per set of models.

        The value is what `explorer.kept_history.kept_form` gives. The first value for a set of models triggers the
        event `kept` where the browser holds a history of them: `{"models", "text"}` in `gr.EventData._data`
        (`read_kept` takes the text out; `from_json` checks it). It must stand outside of tabs, whose content is not
        on the page before they are opened.

        Local storage rather than gr.BrowserState: that sends the whole history both ways with every event that
        touches it, encrypts it with a secret that stands in the page, and lets the last of two tabs win.
        """

        def __init__(self, value: Mapping[str, Any] | None = None, **options: Any) -> None:
            super().__init__(
                value=value,
                html_template='<span class="explorer-keeper" hidden></span>',
                css_template="",
                js_on_load=_SCRIPT,
                apply_default_css=False,
                padding=False,
                **{"elem_id": "history-keeper", **options},
            )

        def postprocess(self, value: Any) -> str | None:
            """The value as JSON text."""
            if value is None:
                return None
            if not isinstance(value, Mapping) or not isinstance(value.get("settings"), list):
                got, advice = type(value).__name__, "Use explorer.kept_history.kept_form()."
                raise ParameterError(sentence("HistoryKeeper", "value must be a kept history", got, advice))
            return json.dumps(value, ensure_ascii=False, allow_nan=False)

        def preprocess(self, payload: Any) -> None:
            """Nothing: what the browser held arrives as an event."""
            return None


def read_kept(payload: object) -> str | None:
    """The text that the event `kept` carries, or None; it comes from the browser and is trusted in nothing."""
    text = payload.get("text") if isinstance(payload, Mapping) else None
    return text if isinstance(text, str) else None
