"""What every registered interference metric must keep, whoever wrote it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from explorer.compute.source import StateDictSource
from explorer.errors import CheckpointError, ParameterError
from explorer.executor import SerialExecutor, ThreadExecutor
from explorer.interference import METRICS, Context, Metric, survey
from explorer.interference._matrices import MatrixContext
from explorer.results import SCOPE, SCOPE_COLUMNS, Result

NAMES = METRICS.names()
SHAPES = {
    "bias": (1,),
    "embeddings.weight": (4, 5),
    "empty": (0,),
    "encoder.layer.0.q.weight": (30, 10),
    "encoder.layer.1.q.weight": (77,),
    "scalar": (),
}


@pytest.fixture(params=NAMES)
def metric(request: pytest.FixtureRequest) -> Metric:
    """Every registered metric."""
    return METRICS.get(request.param)


def source_of(tasks: tuple[str, ...] = ("a", "b", "c"), *, fill: float | None = None) -> StateDictSource:
    """Quarters, so that float32 is exact; a task's values depend on its name only. The embeddings are frozen."""
    base = {n: torch.ones(s) for n, s in SHAPES.items()}
    made: dict[str, dict[str, Tensor]] = {}
    for task in tasks:
        generator = torch.Generator().manual_seed(ord(task))
        draw = lambda s, g=generator: torch.randint(-4, 5, s, generator=g) / 4  # noqa: E731
        made[task] = {n: base[n] + (draw(s) if fill is None else fill) for n, s in SHAPES.items()}
        made[task]["embeddings.weight"] = base["embeddings.weight"].clone()
    return StateDictSource(base, made)


def one(metric: Metric, source: StateDictSource, **options: object) -> Result:
    """The metric's result, trimmed where it looks at trimmed vectors."""
    return survey(source, [metric.name], **{"trim_density": 0.6, **options})[metric.name]  # type: ignore[arg-type]


def partials(metric: Metric, deltas: Tensor, *, start: int = 0, unchanged: bool = False) -> dict[str, np.ndarray]:
    """Partial sums of one chunk (or one matrix of ten rows) with every parameter at its default."""
    values, _ = metric.check({})
    if metric.on == "matrix":
        matrices = deltas.reshape(len(deltas), 10, -1)
        seen = MatrixContext("w", tuple("abcdef"[: len(deltas)]), matrices)
        return {k: v.numpy() for k, v in metric.partial(matrices, **values, context=seen).items()}
    base = lambda: torch.arange(float(deltas.shape[1])) + start  # noqa: E731
    context = Context("w", start, tuple("abcdef"[: len(deltas)]), base, unchanged)
    return {k: v.numpy() for k, v in metric.partial(deltas, **values, context=context).items()}


def deltas_of(count: int = 3, n: int = 200) -> Tensor:
    return torch.randint(-3, 4, (count, n), generator=torch.Generator().manual_seed(8)) / 8


def test_the_promised_metrics_exist() -> None:
    promised = {"sign_conflict", "minority_mass", "cosine", "norm_profile", "mask_overlap", "mask_agreement"}
    promised |= {"conflict_map", "redundancy", "sign_agreement", "sum_energy", "top_k_overlap"}
    promised |= {"sti", "sar", "spectrum", "subspace_overlap", "row_space_interference", "wudi_loss"}
    assert promised <= set(NAMES)


def test_declares_itself_in_full(metric: Metric) -> None:
    assert metric.title and metric.how and metric.unit and metric.paper
    assert metric.help.endswith(".") and len(metric.help) < 120
    for word in ("Null", "Edges", "Paper", "nterference"):
        assert word in metric.doc, f"the docstring of {metric.name} does not say {word}"
    names = [c.name for c in metric.columns]
    assert "null" in names and not set(names) & set(SCOPE_COLUMNS) and len(names) == len(set(names))


def test_gives_the_promised_columns_in_order_and_survives_a_file(metric: Metric, tmp_path: object) -> None:
    result = one(metric, source_of())
    assert list(result.table.columns) == [c.name for c in (*SCOPE, *metric.columns)]
    assert set(result.table.level) == {"model", "layer", "kind", "cell", "tensor"}
    path = tmp_path / "result.json"  # type: ignore[operator]
    result.save(path)
    pd.testing.assert_frame_equal(Result.load(path).table, result.table, check_dtype=False, rtol=1e-13)


def test_leaves_its_inputs_as_they_were(metric: Metric) -> None:
    deltas = deltas_of()
    before = deltas.clone()
    partials(metric, deltas)
    assert torch.equal(deltas, before)


def test_gives_the_same_bits_again_and_does_not_touch_the_global_generator(metric: Metric) -> None:
    before = torch.get_rng_state()
    first, second = partials(metric, deltas_of()), partials(metric, deltas_of())
    assert all(np.array_equal(first[k], second[k]) for k in first)
    assert torch.equal(before, torch.get_rng_state())


def test_partial_sums_add_up_over_any_cut(metric: Metric) -> None:
    if metric.on == "matrix":
        pytest.skip("a matrix is not cut")
    whole = partials(metric, deltas_of())
    parts = [partials(metric, deltas_of()[:, a:b], start=a) for a, b in [(0, 1), (1, 120), (120, 120), (120, 200)]]
    for key in [k for k in whole if not k.startswith("null_")]:
        np.testing.assert_allclose(sum(p[key] for p in parts), whole[key], rtol=1e-14)


def test_skipping_an_unchanged_chunk_changes_no_sum(metric: Metric) -> None:
    zeros = torch.zeros(3, 90)
    long, short = partials(metric, zeros), partials(metric, zeros, unchanged=True)
    assert long.keys() == short.keys()
    assert all(np.array_equal(long[k], short[k]) for k in long)


def test_threads_give_the_bits_of_a_serial_run(metric: Metric) -> None:
    serial = one(metric, source_of(), executor=SerialExecutor(), chunk_elements=50)
    threads = one(metric, source_of(), executor=ThreadExecutor(4), chunk_elements=50)
    pd.testing.assert_frame_equal(serial.table, threads.table, check_exact=True)


def test_the_order_of_tasks_only_permutes_rows(metric: Metric) -> None:
    there, back = one(metric, source_of(("a", "b", "c"))).table, one(metric, source_of(("c", "a", "b"))).table
    # a decomposition of a sum knows no order of its terms, but its rounding does
    pd.testing.assert_frame_equal(_ordered(there), _ordered(back), rtol=1e-9 if metric.on == "matrix" else 1e-14)


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """Pairs turned so that task_a < task_b, rows sorted."""
    table = table.copy()
    if "task_a" in table:
        turn = table.task_a > table.task_b
        for name in [c[:-2] for c in table.columns if c.endswith("_a")]:
            first, second = table[f"{name}_a"].copy(), table[f"{name}_b"].copy()
            table[f"{name}_a"], table[f"{name}_b"] = first.where(~turn, second), second.where(~turn, first)
    known = (*SCOPE_COLUMNS, "threshold", "k", "rank_fraction", "pattern", "task", "density", "task_a", "task_b")
    by = [c for c in known if c in table]
    return table.sort_values(by).reset_index(drop=True)


@pytest.mark.parametrize("tasks", [("a",), ("a", "b"), tuple("abcdef")])
@pytest.mark.parametrize("fill", [None, 0.0, 0.5])
def test_takes_one_task_no_change_and_equal_changes(metric: Metric, tasks: tuple[str, ...], fill: float | None) -> None:
    result = one(metric, source_of(tasks, fill=fill))
    assert result.tasks == tasks
    paired = "task_a" in result.table
    assert len(result.table) == 0 if paired and len(tasks) == 1 else len(result.table) > 0
    values = result.table[[c.name for c in metric.columns if c.type == "number"]].to_numpy(float)
    assert not np.isinf(values).any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_refuses_what_is_not_finite_by_tensor_and_task(metric: Metric, bad: float) -> None:
    source = source_of()
    source._tasks[1]["encoder.layer.0.q.weight"][17] = bad
    with pytest.raises(CheckpointError) as caught:
        one(metric, source)
    text = str(caught.value)
    assert text.startswith("task b: tensor encoder.layer.0.q.weight ") and f"got {bad} at flat position 17" in text


def _cases(pick: Callable) -> list:
    return [(n, s.name, v) for n in NAMES for s in METRICS.get(n).specs for v in pick(s)]


@pytest.mark.parametrize(("name", "parameter", "value"), _cases(lambda s: s.edges()))
def test_takes_both_ends_of_every_range(name: str, parameter: str, value: object) -> None:
    result = survey(source_of(), [name], parameters={name: {parameter: value}})[name]
    assert len(result.table) and result.provenance["parameters"][parameter] == value


@pytest.mark.parametrize(("name", "parameter", "value"), _cases(lambda s: s.illegal()))
def test_refuses_illegal_values_with_the_exact_sentence(name: str, parameter: str, value: object) -> None:
    spec = next(s for s in METRICS.get(name).specs if s.name == parameter)
    with pytest.raises(ParameterError) as caught:
        survey(source_of(), [name], parameters={name: {parameter: value}})
    assert str(caught.value) == spec.message(name, value)
