"""What goes to the canvas, what it is coloured by, and what comes back from it unchecked."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from explorer.errors import ParameterError
from viz.parts.tile_canvas import NOBODY, TileCanvas, colour_channels, read_look, read_place, tiles_value

CHANNELS = ("up", "down", "minority", "both", "opposite", "chance")


def window(deltas: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Sums, net wishes and counts of single weights [T, r, c]."""
    up, down, voters = np.maximum(deltas, 0).sum(0), np.maximum(-deltas, 0).sum(0), (deltas != 0).sum(0)
    chance = np.where(voters >= 2, 1 - 2.0 ** (1 - voters), 0)
    values = (up, down, np.minimum(up, down), voters >= 2, (up > 0) & (down > 0), chance)
    return {n: np.asarray(v, dtype=float) for n, v in zip(CHANNELS, values, strict=True)}, deltas, np.ones(up.shape)


def value_of(deltas: np.ndarray, **changes: Any) -> dict[str, Any]:
    """The canvas's value for single weights."""
    sums, net, n = window(deltas)
    tasks = [f"t{i}" for i in range(len(deltas))]
    size = n.shape
    plain = {
        "key": "k", "title": "w", "crumbs": ["map", "w"], "size": size, "rows": (0, size[0]), "cols": (0, size[1]),
        "block": (1, 1), "sums": sums, "net": net, "n": n, "tasks": tasks, "colours": ["#0072b2"] * len(tasks),
    }  # fmt: skip
    return tiles_value(**{**plain, **changes})


def read(value: dict[str, Any], name: str, dtype: str) -> np.ndarray:
    """A channel as the page decodes it."""
    return np.frombuffer(base64.b64decode(value["channels"][name]), dtype).reshape(value["shape"])


def test_every_number_reaches_the_page() -> None:
    deltas = np.random.default_rng(0).normal(size=(3, 4, 5))
    sums, _, _ = window(deltas)
    value = json.loads(json.dumps(value_of(deltas)))
    for name, values in sums.items():
        np.testing.assert_allclose(read(value, name, "<f4"), values, rtol=1e-6)
    np.testing.assert_array_equal(read(value, "task_up", "u1"), np.where(deltas.max(0) > 0, deltas.argmax(0), NOBODY))
    np.testing.assert_array_equal(read(value, "task_down", "u1"), np.where(deltas.min(0) < 0, deltas.argmin(0), NOBODY))
    np.testing.assert_allclose(read(value, "net_down", "<f4"), np.maximum(-deltas.min(0), 0), rtol=1e-6)


def test_the_colours_say_direction_clash_and_size() -> None:
    deltas = np.array([[1, -1, 1, 1, 0, 0.25], [1, -1, -1, 0, 0, 0]], dtype=float)[:, None, :]
    sums, _, n = window(deltas)
    found = colour_channels(sums, n)
    assert found["direction"].tolist() == [[255, 1, 128, 255, 128, 255]]
    assert found["clash"].tolist() == [[0, 0, 255, 0, 0, 0]]
    assert found["excess"].tolist() == [[64, 64, 192, 0, 0, 0]]  # half a point below or above chance; 0: nothing
    strength = found["strength"][0].tolist()
    assert strength[0] == 255 and strength[4] == 0 and 0 < strength[5] < strength[3] < 255


@given(st.integers(1, 6), st.integers(0, 6), st.integers(0, 6), st.integers(0, 50))
def test_direction_and_clash_are_shares_of_one_whole(tasks: int, rows: int, cols: int, seed: int) -> None:
    sums, _, n = window(np.random.default_rng(seed).normal(size=(tasks, rows, cols)))
    found = colour_channels(sums, n)
    direction, clash = (found[k].astype(float) for k in ("direction", "clash"))
    assert (np.abs(direction - 128) / 127 + clash / 255 <= 1.01).all()
    assert all(v.dtype == np.uint8 for v in found.values())


@pytest.mark.parametrize("changes", [{"colours": []}, {"net": np.zeros((2, 1, 1))}, {"n": np.ones((2, 2))}])
def test_a_window_that_does_not_fit_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="tile view: every channel must be"):
        value_of(np.ones((1, 3, 3)), **changes)


def test_names_travel_as_text_and_nan_never() -> None:
    canvas = TileCanvas(value_of(np.ones((1, 2, 2)), title="<img src=x>", tasks=["</script>"]))
    assert json.loads(canvas.value)["title"] == "<img src=x>"
    assert canvas.postprocess(None) is None and canvas.preprocess({"x": 1}) is None
    assert json.loads(canvas.postprocess({"empty": "Nothing."}))["empty"] == "Nothing."
    with pytest.raises(ParameterError, match="value must hold channels, 'marks' or 'empty'; got \\['title'\\]"):
        canvas.postprocess({"title": "x"})


def test_a_good_look_is_read() -> None:
    look = {"rows": [0, 12.0], "cols": [3, 1 << 40], "order": "rows", "turn": 7, "key": "k"}
    assert read_look(look, orders=("stored", "rows")) == {
        "rows": (0, 12), "cols": (3, 1 << 40), "order": "rows", "turn": 7, "key": "k",
    }  # fmt: skip
    assert read_place({"row": 3, "col": 0.0}) == (3, 0)


NAN, INF = float("nan"), float("inf")
BAD_SPANS = [
    None,
    "ab",
    [1],
    [2, 1],
    [1, 1],
    [-1, 2],
    [0, 1.5],
    [0, NAN],
    [0, INF],
    [True, 2],
    [0, "1"],
    [0, 1 << 60],
    {},
]


@pytest.mark.parametrize("span", BAD_SPANS, ids=repr)
def test_a_bad_span_is_refused_in_words(span: Any) -> None:
    with pytest.raises(
        ParameterError, match="tile view: rows must be two whole numbers, start below stop, from 0; got"
    ):
        read_look({"rows": span, "cols": [0, 1]})


def test_every_problem_of_a_look_is_said_at_once() -> None:
    with pytest.raises(ParameterError) as caught:
        read_look({"rows": 3, "cols": [9, 2], "order": ["x"], "turn": -1})
    for part in ("4 problems", "rows must be", "cols must be", "order must be one of stored", "turn must be"):
        assert part in str(caught.value)
    for payload in (None, [1], "look"):
        with pytest.raises(ParameterError, match="the event look must carry a mapping"):
            read_look(payload)


@pytest.mark.parametrize("payload", [{}, {"row": -1, "col": 0}, {"row": 0, "col": "1"}, {"row": True, "col": 0}])
def test_a_bad_place_is_refused_in_words(payload: Any) -> None:
    with pytest.raises(ParameterError, match="must be a whole number from 0"):
        read_place(payload)
