"""Block sums against a numpy restatement, levels as sums of finer ones, windows cut to the matrix."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from explorer.compute.matrix_view import Grid, MatrixView
from explorer.compute.source import StateDictSource
from explorer.errors import CheckpointError, ParameterError
from explorer.executor import SerialExecutor, ThreadExecutor
from explorer.tiles import SUMS, Pyramid, rectangles

SHAPES = st.one_of(
    st.just(()),
    st.tuples(st.integers(0, 70)),
    st.tuples(st.integers(0, 37), st.integers(0, 41)),
    st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)),
)


def source_of(deltas: np.ndarray) -> StateDictSource:
    """A source whose task vectors are exactly deltas [T, ...]: the base is 0."""
    base = {"w": torch.zeros(deltas.shape[1:])}
    tasks = {f"t{i}": {"w": torch.from_numpy(np.array(d))} for i, d in enumerate(deltas.astype(np.float32))}
    return StateDictSource(base, tasks)


def drawn(shape: tuple[int, ...], tasks: int, seed: int) -> np.ndarray:
    """Small multiples of 1/8, many of them 0: every sum of them is exact."""
    generator = np.random.default_rng(seed)
    return generator.integers(-3, 4, (tasks, *shape)).astype(np.float32) / 8


def as_matrix(values: np.ndarray) -> np.ndarray:
    """One task's values on its grid, NaN at places without a weight."""
    grid = Grid.of(values.shape)
    flat = np.full(grid.rows * grid.cols, np.nan)
    flat[: grid.total] = values.reshape(-1)
    return flat.reshape(grid.rows, grid.cols)


def expected(deltas: np.ndarray, thresholds: tuple[float, ...] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Channels of every single weight [6 + T, r, c], and where there is one [r, c], written down anew."""
    seen = np.stack([as_matrix(d) for d in deltas])
    there = ~np.isnan(seen[0])
    seen = np.nan_to_num(seen)
    if thresholds:
        seen = np.where(np.abs(seen) >= np.array(thresholds)[:, None, None], seen, 0)
    up, down = np.maximum(seen, 0).sum(0), np.maximum(-seen, 0).sum(0)
    voters = (seen != 0).sum(0)
    chance = np.where(voters >= 2, 1 - 2.0 ** (1 - voters), 0)
    rows = [up, down, np.minimum(up, down), voters >= 2, (up > 0) & (down > 0), chance]
    return np.concatenate([np.stack(rows), seen]), there


def in_blocks(values: np.ndarray, high: int, wide: int) -> np.ndarray:
    """Sums over blocks of the last two axes, by plain loops."""
    *_, rows, cols = values.shape
    return np.stack(
        [
            np.stack([values[..., i : i + high, j : j + wide].sum((-2, -1)) for j in range(0, cols, wide)], -1)
            for i in range(0, rows, high)
        ],
        -2,
    )


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.integers(1, 8), st.integers(0, 99), st.sampled_from([1, 3, 8, 16, 64]), st.booleans())
def test_blocks_are_what_numpy_says(shape: tuple[int, ...], tasks: int, seed: int, most: int, trims: bool) -> None:
    deltas = drawn(shape, tasks, seed)
    thresholds = (0.25,) * tasks if trims else None
    view = MatrixView(source_of(deltas), "w", tuple(range(tasks)), thresholds)
    tiles = Pyramid(view).window((0, 1 << 40), (0, 1 << 40), most)
    single, there = expected(deltas, thresholds)
    assert tiles.n.sum() == int(np.prod(shape))
    if not tiles.n.size:
        assert tiles.sums.shape == (6 + tasks, 0, 0)
        return
    assert max(tiles.n.shape) <= most
    np.testing.assert_allclose(tiles.sums, in_blocks(single, *tiles.block), rtol=1e-6)
    np.testing.assert_array_equal(tiles.n, in_blocks(there, *tiles.block))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 8), st.integers(0, 99))
def test_every_level_is_the_sum_of_the_one_below(rows: int, cols: int, tasks: int, seed: int) -> None:
    pyramid = Pyramid(MatrixView(source_of(drawn((rows, cols), tasks, seed)), "w", tuple(range(tasks))))
    for level in range(1, 8):
        for coarse, fine, step in (
            (pyramid.level(level, 0), pyramid.level(level - 1, 0), (2, 1)),
            (pyramid.level(level, level), pyramid.level(level - 1, level - 1), (2, 2)),
        ):
            np.testing.assert_allclose(coarse, in_blocks(fine, *step), rtol=1e-12)


def test_a_base_above_single_weights_and_windows_below_it_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("explorer.tiles._BASE_BLOCKS", 8)
    monkeypatch.setattr("explorer.tiles._STEP_ELEMENTS", 64)
    deltas = drawn((75, 130), 3, 5)
    pyramid = Pyramid(MatrixView(source_of(deltas), "w", (0, 1, 2)))
    assert pyramid.base_level == (4, 5)
    single, _ = expected(deltas)
    for rows, cols, most in (((0, 75), (0, 130), 8), ((3, 20), (60, 100), 16), ((70, 75), (129, 130), 8)):
        tiles = pyramid.window(rows, cols, most)
        (top, bottom), (left, right) = tiles.rows, tiles.cols
        assert top <= rows[0] and bottom >= rows[1] and left <= cols[0] and right >= cols[1]
        cut = single[:, top:bottom, left:right]
        np.testing.assert_allclose(tiles.sums, in_blocks(cut, *tiles.block), rtol=1e-6)
    np.testing.assert_allclose(pyramid.row_conflict, single[2].sum(1))
    np.testing.assert_allclose(pyramid.col_conflict, single[2].sum(0))


@pytest.mark.parametrize("which", ["rows", "columns", "both"])
def test_another_order_moves_rows_and_columns_and_nothing_else(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("explorer.tiles._BASE_BLOCKS", 8)
    monkeypatch.setattr("explorer.tiles._STEP_ELEMENTS", 64)
    deltas, generator = drawn((40, 51), 4, 9), np.random.default_rng(1)
    rows = generator.permutation(40) if which != "columns" else None
    cols = generator.permutation(51) if which != "rows" else None
    pyramid = Pyramid(MatrixView(source_of(deltas), "w", (0, 1, 2, 3), None, rows, cols))
    moved = deltas[:, rows if rows is not None else slice(None)]
    moved = moved[:, :, cols if cols is not None else slice(None)]
    single, _ = expected(moved)
    for most in (8, 64):
        tiles = pyramid.window((0, 40), (0, 51), most)
        np.testing.assert_allclose(tiles.sums, in_blocks(single, *tiles.block), rtol=1e-6)
    tiles = pyramid.window((7, 19), (30, 44), 16)
    np.testing.assert_allclose(tiles.sums, single[:, 7:19, 30:44], rtol=1e-6)
    assert pyramid.view.at(2, 3) == (2 if rows is None else rows[2], 3 if cols is None else cols[3])


def test_a_pair_is_read_alone_and_in_its_order() -> None:
    deltas = drawn((9, 7), 4, 3)
    tiles = Pyramid(MatrixView(source_of(deltas), "w", (3, 1))).window((0, 9), (0, 7))
    np.testing.assert_allclose(tiles.sums, expected(deltas[[3, 1]])[0], rtol=1e-6)
    assert tiles["chance"].sum() == tiles["both"].sum() / 2
    assert tiles.net.shape == (2, 9, 7)


@pytest.mark.parametrize(
    ("rows", "cols", "seen"),
    [
        ((-5, 3), (0, 10**9), ((0, 3), (0, 33))),
        ((19, 99), (32, 33), ((19, 20), (32, 33))),
        ((50, 60), (-9, -2), ((19, 20), (0, 1))),
        ((7, 7), (4, 2), ((7, 8), (4, 5))),
    ],
)
def test_a_window_is_cut_to_the_matrix(rows: tuple[int, int], cols: tuple[int, int], seen: tuple) -> None:
    tiles = Pyramid(MatrixView(source_of(drawn((20, 33), 2, 0)), "w", (0, 1))).window(rows, cols)
    assert (tiles.rows, tiles.cols) == seen
    assert tiles.sums.shape[1:] == tiles.n.shape == (seen[0][1] - seen[0][0], seen[1][1] - seen[1][0])


@pytest.mark.parametrize("most", [0, -1, 257])
def test_a_window_has_between_one_and_256_blocks_a_side(most: int) -> None:
    pyramid = Pyramid(MatrixView(source_of(drawn((2, 2), 1, 0)), "w", (0,)))
    with pytest.raises(ParameterError, match=re.escape(f"must have between 1 and 256 blocks a side; got {most}.")):
        pyramid.window((0, 2), (0, 2), most)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_is_said(bad: float) -> None:
    deltas = drawn((3, 3), 2, 0)
    deltas[1, 2, 1] = bad
    with pytest.raises(CheckpointError, match="tensor w must differ from the base by finite numbers"):
        Pyramid(MatrixView(source_of(deltas), "w", (0, 1)))


def test_threads_give_the_bits_of_a_serial_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("explorer.tiles._STEP_ELEMENTS", 256)
    deltas = np.random.default_rng(0).normal(size=(5, 90, 70)).astype(np.float32)
    view = MatrixView(source_of(deltas), "w", tuple(range(5)))
    one, other = (Pyramid(view, executor=e).level(0, 0) for e in (SerialExecutor(), ThreadExecutor(3)))
    assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize(("rows", "cols", "steps"), [((0, 5), (0, 7), (1, 1)), ((8, 77), (16, 900), (8, 16))])
def test_rectangles_cover_everything_once(
    rows: tuple[int, int], cols: tuple[int, int], steps: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("explorer.tiles._STEP_ELEMENTS", 100)
    seen = np.zeros((rows[1], cols[1]), dtype=int)
    for (top, bottom), (left, right) in rectangles(rows, cols, *steps):
        seen[top:bottom, left:right] += 1
        assert (bottom - top) * (right - left) <= max(100, steps[1])
    assert (seen[rows[0] :, cols[0] :] == 1).all() and seen.sum() == (rows[1] - rows[0]) * (cols[1] - cols[0])


def test_the_channels_have_the_names_they_are_read_by() -> None:
    tiles = Pyramid(MatrixView(source_of(drawn((4, 4), 3, 1)), "w", (0, 1, 2))).window((0, 4), (0, 4))
    assert [tiles[name].tobytes() for name in SUMS] == [channel.tobytes() for channel in tiles.sums[:6]]
