"""The settings that were tried as a table of the page, with buttons for each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from explorer.errors import ParameterError, sentence
from viz.parts import assets

MAX_NAME = 60
_SCRIPT = assets.script("history_table.js", css="history_table.css", MAX_NAME=MAX_NAME)
_ACTS = ("rename", "star", "delete", "pin", "unpin")
_LONGEST = 400


with assets.no_stub_file():

    class HistoryTable(gr.HTML):
        """A row per setting: sort by any column, search, name, star, restore, pin as A, delete; all by keyboard too.

        The value is what `history_rows` returns. Events with their payload in `gr.EventData._data`: `restore` and
        `act` (the rest); read both with `read_act`, which checks everything. Use it as an output only.
        """

        def __init__(self, value: Mapping[str, Any] | None = None, **options: Any) -> None:
            super().__init__(
                value=value,
                html_template='<section class="explorer-history"></section>',
                css_template="",
                js_on_load=_SCRIPT,
                apply_default_css=False,
                padding=False,
                **options,
            )

        def postprocess(self, value: Any) -> str | None:
            """The value as JSON text."""
            if value is None:
                return None
            if not isinstance(value, Mapping) or not isinstance(value.get("rows"), list):
                got = type(value).__name__
                raise ParameterError(sentence("HistoryTable", "value must hold rows", got, "Use history_rows()."))
            return json.dumps(value, ensure_ascii=False, allow_nan=False)

        def preprocess(self, payload: Any) -> None:
            """Nothing: what a person does arrives as events."""
            return None


def history_rows(rows: Sequence[Mapping[str, Any]], tasks: Sequence[str], *, picked: str, empty: str) -> dict[str, Any]:
    """Value of a `HistoryTable`. `picked` is the id of the row that is marked; `empty` is said without any row.

    A row has id, move, name, starred, pinned, shown, complete, n, method, words, when (seconds since 1970), mean,
    worst, worst_task, and scores: per task [score, hint] or None. Every text is shown as text, never as markup.
    """
    return {"rows": [dict(r) for r in rows], "tasks": list(tasks), "picked": picked, "empty": empty}


@dataclass(frozen=True)
class Act:
    """What a person did to one setting; `turn` as for every part."""

    do: str
    id: str
    name: str = ""
    starred: bool = False


def read_act(payload: object) -> Act | None:
    """What the events `act` and `restore` carry, or None where that is not what this page sends; nothing is trusted."""
    if not isinstance(payload, Mapping):
        return None
    do, id, name = payload.get("do", "restore"), payload.get("id"), payload.get("name", "")
    if do not in (*_ACTS, "restore") or not isinstance(id, str) or not 0 < len(id) <= 64:
        return None
    if not isinstance(name, str) or len(name) > _LONGEST:
        return None
    return Act(do, id, name, payload.get("starred") is True)
