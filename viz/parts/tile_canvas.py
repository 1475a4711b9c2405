"""A canvas that shows one weight matrix as blocks: who wants up, who wants down, how strongly, and where they clash."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
import numpy as np

from explorer.errors import ParameterError, all_problems, sentence
from viz import style
from viz.parts import assets

NOBODY = 255
"""Stands for "no task" where the strongest task of a block is named by its number."""

_WHO = "tile view"
_THEMES: tuple[style.Theme, ...] = ("light", "dark")
_SCRIPT = assets.script(
    "tile_canvas.js",
    "tile_canvas_paint.js",
    "tile_canvas_words.js",
    css="tile_canvas.css",
    PAGE_COLOURS={theme: style.page_colour(theme) for theme in _THEMES},
    UP=style.POSITIVE,
    DOWN=style.NEGATIVE,
    NOBODY=NOBODY,
)


with assets.no_stub_file():

    class TileCanvas(gr.HTML):
        """Blocks of a matrix on a canvas: zoom, pan, read exact numbers, choose a weight; by mouse, touch or keys.

        The value is what `tiles_value` returns, `{"key", "marks"}` to name weights to go to, `{"empty": sentence}` or
        None. Events, all with their payload in `gr.EventData._data`: `look` wants another window (check it with
        `read_look`; answer with `tiles_value(..., turn=look.turn)`), `weight` chose a single weight (`read_place`),
        `leave` wants back to where it was opened from. Use it as an output only, with `show_progress="hidden"` and
        `trigger_mode="multiple"`: what answers an older `look` than the last is not shown.
        """

        def __init__(self, value: Mapping[str, Any] | None = None, **options: Any) -> None:
            super().__init__(
                value=value,
                html_template='<section class="explorer-tiles"></section>',
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
            if not isinstance(value, Mapping) or not ({"channels", "empty", "marks"} & value.keys()):
                got = sorted(value) if isinstance(value, Mapping) else type(value).__name__
                raise ParameterError(
                    sentence("TileCanvas", "value must hold channels, 'marks' or 'empty'", got, "Use tiles_value().")
                )
            return json.dumps(value, ensure_ascii=False, allow_nan=False)

        def preprocess(self, payload: Any) -> None:
            """Nothing: what a person does arrives as events."""
            return None


def tiles_value(
    *,
    key: str,
    title: str,
    crumbs: Sequence[str],
    size: tuple[int, int],
    rows: tuple[int, int],
    cols: tuple[int, int],
    block: tuple[int, int],
    sums: Mapping[str, np.ndarray],
    net: np.ndarray,
    n: np.ndarray,
    tasks: Sequence[str],
    colours: Sequence[str],
    order: str = "stored",
    orders: Mapping[str, str] | None = None,
    row_names: Sequence[int] | None = None,
    col_names: Sequence[int] | None = None,
    caption: str = "",
    turn: int = 0,
) -> dict[str, Any]:
    """Value of a `TileCanvas`: one window of blocks [R, C] of a matrix of `size` rows and columns.

    `sums` holds `up`, `down`, `minority`, `both`, `opposite` and `chance`, `net` each task's net wish [T, R, C], `n`
    the weights of each block. `key` names what is shown: another key starts again with the whole matrix. `crumbs` say
    where it is. `row_names` and `col_names`: the tensor's own rows and columns where the order is another and blocks
    are single weights. Raises ParameterError when shapes or numbers of tasks do not fit.
    """
    shape = n.shape
    wrong = [name for name, values in sums.items() if values.shape != shape]
    if wrong or net.shape != (len(tasks), *shape) or len(colours) != len(tasks):
        must = f"every channel must be {shape}, and tasks, colours and net wishes as many"
        raise ParameterError(sentence(_WHO, must, wrong or f"{net.shape}, {len(colours)} colours", "Pass one window."))
    ids = {"row_names": row_names, "col_names": col_names}
    return {
        "key": key, "title": title, "crumbs": list(crumbs), "size": list(size), "rows": list(rows), "cols": list(cols),
        "block": list(block), "shape": list(shape), "tasks": list(tasks), "colours": list(colours), "order": order,
        "orders": dict(orders or {}), "caption": caption, "turn": turn, "channels": _encoded(sums, net, n),
        **{name: None if values is None else [int(v) for v in values] for name, values in ids.items()},
    }  # fmt: skip


def _encoded(sums: Mapping[str, np.ndarray], net: np.ndarray, n: np.ndarray) -> dict[str, str]:
    """Every channel as the page reads it: float32 for numbers, one byte for colours and tasks, base64."""
    channels = {**{name: _floats(values) for name, values in sums.items()}, "n": _floats(n)}
    channels |= {name: _bytes(values) for name, values in colour_channels(sums, n).items()}
    for side, wishes in (("up", net), ("down", -net)):
        who, size = _best(wishes)
        channels |= {f"task_{side}": _bytes(who), f"net_{side}": _floats(size)}
        channels[f"strength_{side}"] = _bytes(_strength(size, n))
    return channels


def colour_channels(sums: Mapping[str, np.ndarray], n: np.ndarray) -> dict[str, np.ndarray]:
    """What is drawn, as numbers 0-255 per block.

    With mass = up + down: `direction` is 128 + 127 (up − down) / mass, `clash` 255 · 2 minority / mass: how much of the
    mass cancels between tasks within single weights. |up − down| + 2 minority ≤ mass, so the two and what is left (the
    tasks agree, weight by weight, but weights differ) are shares of one whole. `strength` is the root of mass per
    weight, 255 at the 99th percentile of the window. `excess` is (opposite − chance) / both in steps of 1/127 around
    128; 0 where no weight is changed by two tasks.
    """
    mass = sums["up"] + sums["down"]
    some = np.where(mass > 0, mass, 1)
    direction = 128 + np.round(127 * (sums["up"] - sums["down"]) / some)
    clash = np.round(255 * np.minimum(2 * sums["minority"] / some, 1))
    excess = 128 + np.round(127 * (sums["opposite"] - sums["chance"]) / np.where(sums["both"] > 0, sums["both"], 1))
    excess = np.where(sums["both"] > 0, np.maximum(excess, 1), 0)
    return {
        "direction": direction.astype(np.uint8),
        "clash": clash.astype(np.uint8),
        "strength": _strength(mass, n),
        "excess": excess.astype(np.uint8),
    }


def _strength(mass: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Root of mass per weight, 255 at its 99th percentile among blocks that have any; at least 1 where there is any."""
    each = mass / np.maximum(n, 1)
    top = float(np.quantile(each[each > 0], 0.99)) if (each > 0).any() else 1.0
    scaled = np.round(255 * np.sqrt(np.minimum(each / top, 1)))
    return np.where(each > 0, np.maximum(scaled, 1), 0).astype(np.uint8)


def _best(net: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The task with the largest positive value of each block (NOBODY where none has) and that value, 0 without."""
    if not len(net):
        return np.full(net.shape[1:], NOBODY, dtype=np.uint8), np.zeros(net.shape[1:])
    most = net.max(0)
    return np.where(most > 0, net.argmax(0), NOBODY).astype(np.uint8), np.maximum(most, 0)


def _floats(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode("ascii")


def _bytes(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=np.uint8).tobytes()).decode("ascii")


def read_look(payload: Any, *, orders: Sequence[str] = ("stored",)) -> dict[str, Any]:
    """The checked payload of `look`: rows and cols as (start, stop) with 0 ≤ start < stop, order, turn, key.

    What reaches beyond the matrix is left to the one who cuts it off. Raises ParameterError with every problem at
    once; the page is never trusted.
    """
    found = _mapping(payload, "look")
    problems: list[str] = []
    spans = {name: _span(found.get(name), name, problems) for name in ("rows", "cols")}
    order, turn = found.get("order", "stored"), found.get("turn", 0)
    if not isinstance(order, str) or order not in orders:
        problems.append(
            sentence(_WHO, "order must be one of " + ", ".join(orders), _short(order), "Choose from the list.")
        )
    if not _is_whole(turn):
        problems.append(sentence(_WHO, "turn must be a whole number", _short(turn), "Reload the page."))
    if problems:
        raise ParameterError(all_problems(_WHO, problems))
    return {**spans, "order": order, "turn": int(turn), "key": str(found.get("key", ""))[:200]}


def read_place(payload: Any) -> tuple[int, int]:
    """Row and column of the checked payload of `weight`, in places of the picture. Raises ParameterError."""
    found = _mapping(payload, "weight")
    problems = [
        sentence(_WHO, f"{name} must be a whole number from 0", _short(found.get(name)), "Click a weight.")
        for name in ("row", "col")
        if not _is_whole(found.get(name))
    ]
    if problems:
        raise ParameterError(all_problems(_WHO, problems))
    return int(found["row"]), int(found["col"])


def _mapping(payload: Any, event: str) -> Mapping[str, Any]:
    if not isinstance(payload, Mapping):
        must = f"the event {event} must carry a mapping"
        raise ParameterError(sentence(_WHO, must, type(payload).__name__, "Reload the page."))
    return payload


def _span(given: Any, name: str, problems: list[str]) -> tuple[int, int]:
    pair = isinstance(given, Sequence) and not isinstance(given, str) and len(given) == 2
    if pair and all(_is_whole(x) for x in given) and given[0] < given[1]:
        return int(given[0]), int(given[1])
    must = f"{name} must be two whole numbers, start below stop, from 0"
    problems.append(sentence(_WHO, must, _short(given), "Zoom or pan again."))
    return 0, 1


def _is_whole(value: Any) -> bool:
    """A whole number from 0 that a flat position can be; JSON may write it as 3.0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return False
    return value == int(value) and 0 <= value < 1 << 53


def _short(value: Any) -> str:
    return repr(value)[:60]
