"""What every registered merge method must do, whatever it computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from given_zoo import source_with
from torch import Tensor

from explorer.compute.arena import Arena
from explorer.errors import CheckpointError, ParameterError, RecipeError
from explorer.executor import SerialExecutor, ThreadExecutor
from explorer.merging import METHODS, Method, merge_into, merge_tensor, prepare
from explorer.params import Spec

ALL = list(METHODS)
SPECS = [(m, s) for m in ALL for s in m.specs]
every_method = pytest.mark.parametrize("method", ALL, ids=lambda m: m.name)
every_spec = pytest.mark.parametrize(("method", "spec"), SPECS, ids=[f"{m.name}-{s.name}" for m, s in SPECS])
NOT_REBUILT = {
    "iso_c": "the spectrum of one task is made flat too",
    "iso_cts": "the spectrum of one task is made flat too",
    "pcb": "the weakest scores are always mapped to 0",
    "arcee_fusion": "only outliers are copied",
}
ROUNDED = {m.name for m in ALL if m.granularity in ("matrix", "data")} | {
    "karcher",
    "model_stock",
    "multislerp",
    "reversible",
}
"""Lengths, angles, singular vectors and quotients are rounded even where sums are exact."""
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(BITS[tensor.element_size()])


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return len(left) == len(right) and all(
        a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))
        for a, b in zip(left, right, strict=True)
    )


def merged(method: Method, source: Any, parameters: dict[str, Any] | None = None, **options: Any) -> list[Tensor]:
    """Every merged tensor, for per-task methods task by task."""
    ready = prepare(method, source, parameters)
    out: list[Tensor] = []
    for name in source.names:
        value = merge_tensor(ready, source, name, **options)
        out += value if isinstance(value, list) else [value]
    return out


def fitting(method: Method, count: int) -> int:
    """The nearest number of tasks that the method takes."""
    return max(method.min_tasks, min(count, method.max_tasks or count))


def base_of(method: Method, source: Any) -> list[Tensor]:
    copies = len(source.tasks) if method.output == "per_task" else 1
    flat = [source.base(n, 0, 10**9).view(source.shape(n)) for n in source.names]
    return [t for t in flat for _ in range(copies)]


@every_method
@pytest.mark.parametrize("count", [1, 2, 8])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_any_dtype_and_number_of_tasks(method: Method, count: int, dtype: torch.dtype, make_source: Any) -> None:
    count = fitting(method, count)
    source = make_source(count, dtype)
    out = merged(method, source)
    wanted = base_of(method, source)
    assert [(t.shape, t.dtype) for t in out] == [(t.shape, t.dtype) for t in wanted]
    assert all(bool(torch.isfinite(t).all()) for t in out)
    assert count == 1 or not same(out, wanted)


@every_method
def test_inputs_stay_as_they_are_and_the_same_inputs_give_the_same_bits(method: Method, make_source: Any) -> None:
    count = fitting(method, 4)
    source, untouched = make_source(count), make_source(count)
    first, second = merged(method, source), merged(method, source)
    assert same(first, second)
    for name in source.names:
        assert same([source.base(name, 0, 10**9)], [untouched.base(name, 0, 10**9)])
        for task in range(count):
            assert same([source.task(task, name, 0, 10**9)], [untouched.task(task, name, 0, 10**9)])


@every_method
def test_order_of_the_tasks_changes_no_bit(method: Method, make_source: Any) -> None:
    if method.order_sensitive or fitting(method, 4) < 4:
        pytest.skip("declared to depend on the order of the tasks, or to take few of them")
    source = make_source(4)
    of = lambda s, i: s.default + i if s.type is int else s.default / (i + 1)  # noqa: E731
    values = {s.name: {t: of(s, i) for i, t in enumerate(source.tasks)} for s in method.specs if s.per_task}
    state = {
        t: {n: source.task(i, n, 0, 10**9).view(source.shape(n)) for n in source.names} for i, t in enumerate("abcd")
    }
    base = {n: source.base(n, 0, 10**9).view(source.shape(n)) for n in source.names}
    turned = source_with(base, {t: state[t] for t in "cadb"}, dict(zip("abcd", range(4), strict=True)))
    straight = merged(method, source, values)
    other = merged(method, turned, values)
    if method.output == "per_task":
        straight = [straight[4 * i + "abcd".index(t)] for i in range(len(source.names)) for t in "cadb"]
    assert same(straight, other)


@every_method
def test_names_of_the_tasks_do_not_matter_where_sums_are_exact(method: Method, make_source: Any) -> None:
    if method.order_sensitive or method.stochastic or fitting(method, 4) < 4:
        pytest.skip("declared to depend on the order or the names of the tasks, or to take few of them")
    exact = {"scale": 0.5} if any(s.name == "scale" for s in method.specs) else {}
    straight = merged(method, make_source(4, dyadic=True, names="abcd"), exact)
    renamed = merged(method, make_source(4, dyadic=True, names="dbca"), exact)
    if method.name in ROUNDED:
        torch.testing.assert_close(straight, renamed, rtol=1e-6, atol=1e-6)
    else:
        assert same(straight, renamed)


@every_method
def test_tasks_equal_to_the_base_give_the_base(method: Method, make_source: Any) -> None:
    model = make_source(1)
    state = {n: model.base(n, 0, 10**9).view(model.shape(n)) for n in model.names}
    source = source_with(state, {t: state for t in "ab"[: fitting(method, 2)]})
    assert same(merged(method, source), base_of(method, source))


@pytest.mark.parametrize("method", [m for m in ALL if any(s.name == "scale" for s in m.specs)], ids=lambda m: m.name)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_scale_zero_gives_the_base_bit_for_bit(method: Method, dtype: torch.dtype, make_source: Any) -> None:
    source = make_source(fitting(method, 3), dtype)
    assert same(merged(method, source, {"scale": 0}), base_of(method, source))
    assert same(merged(method, source, {"scale": {t: 0.0 for t in source.tasks}}), base_of(method, source))


@every_spec
def test_both_ends_of_every_range_run(method: Method, spec: Spec, make_source: Any) -> None:
    source = make_source(fitting(method, 3))
    for value in spec.edges():
        # A whole column of zeros is no set of weights to average with, so per-task ends are tried one task at a time.
        given = {"a": value} if spec.per_task else value
        assert all(bool(torch.isfinite(t).all()) for t in merged(method, source, {spec.name: given}))


@every_spec
def test_illegal_values_are_refused_with_the_exact_sentence(method: Method, spec: Spec, make_source: Any) -> None:
    source = make_source(fitting(method, 2))
    assert spec.illegal()
    for value in spec.illegal():
        with pytest.raises(ParameterError) as caught:
            prepare(method, source, {spec.name: value})
        assert str(caught.value) == spec.message(method.name, value)


@every_method
def test_unknown_parameters_are_refused_with_a_near_name(method: Method, make_source: Any) -> None:
    known = method.specs[0].name
    with pytest.raises(ParameterError, match=f"Did you mean '{known}'"):
        prepare(method, make_source(fitting(method, 2)), {known + "s": 1})


@every_method
def test_too_few_tasks_are_refused(method: Method, make_source: Any) -> None:
    with pytest.raises(RecipeError, match=f"{method.name}: needs at least"):
        prepare(method, make_source(0))


@every_method
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["base", "task"])
def test_values_that_are_no_numbers_are_named(method: Method, value: float, where: str, make_source: Any) -> None:
    last = min(1, fitting(method, 3) - 1)
    source = make_source(fitting(method, 3))
    tensor = source.base("one", 0, 1) if where == "base" else source.task(last, "one", 0, 1)
    tensor.fill_(value)
    with pytest.raises(CheckpointError, match=r"in tensor one\. Use") as caught:
        merged(method, source)
    assert str(caught.value).startswith("the base:" if where == "base" else f"task {'ab'[last]}:")


@every_method
def test_finite_values_whose_sum_overflows_are_merged(method: Method) -> None:
    base = {"w": torch.zeros(4)}
    task = {"w": torch.tensor([3e38, 3e38, -1.0, 0.0])}
    source = source_with(base, {t: task if t == "a" else base for t in "ab"[: fitting(method, 1)]})
    assert bool(torch.isfinite(merged(method, source)[0]).all())


@every_method
def test_votes_that_cancel_exactly_give_finite_weights(method: Method) -> None:
    base = {"w": torch.tensor([1.0, -0.0, 2.0])}
    up, down = {"w": base["w"] + 0.5}, {"w": base["w"] - 0.5}
    tasks = dict(list({"a": up, "b": down}.items())[: fitting(method, 2)])
    out = merged(method, source_with(base, tasks))
    assert all(bool(torch.isfinite(t).all()) for t in out)


@every_method
def test_serial_and_threads_and_any_cut_give_the_same_bits(method: Method, make_source: Any) -> None:
    tasks = fitting(method, 4)
    source = make_source(tasks)
    ready = prepare(method, source, executor=SerialExecutor())
    again = prepare(method, source, executor=ThreadExecutor(3))
    arena = Arena(source)
    count = tasks if method.output == "per_task" else 1
    results = []
    for prepared, executor, cut in (
        (ready, SerialExecutor(), 1 << 17),
        (again, ThreadExecutor(3), 1 << 17),
        (ready, ThreadExecutor(2), 13),
        (again, SerialExecutor(), 1),
    ):
        rows = [arena.merged_row() for _ in range(count)]
        merge_into(prepared, source, rows, None, None, executor, chunk_elements=cut)
        results.append([row.views()[n] for row in rows for n in source.names])
    assert all(same(results[0], other) for other in results[1:])


@every_method
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_resident_arena_gives_the_same_bits(method: Method, dtype: torch.dtype, make_source: Any) -> None:
    source = make_source(fitting(method, 3), dtype)
    assert same(merged(method, source), merged(method, Arena(source)))


@every_method
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, None], ids=str)
def test_preview_holds_what_export_writes(method: Method, stored: torch.dtype | None, make_source: Any) -> None:
    tasks = fitting(method, 3)
    source = make_source(tasks, torch.bfloat16)
    ready = prepare(method, source)
    rows = [Arena(source).merged_row(torch.float32) for _ in range(tasks if method.output == "per_task" else 1)]
    merge_into(ready, source, rows, stored)
    for name in source.names:
        exported = merge_tensor(ready, source, name, stored)
        exported = exported if isinstance(exported, list) else [exported]
        assert same([row.views()[name] for row in rows], [e.float() for e in exported])


@every_method
def test_one_whole_task_is_rebuilt(method: Method, make_source: Any) -> None:
    """One task, scale 1, everything kept: that task's model, to one float rounding."""
    if method.name in NOT_REBUILT or method.min_tasks > 1:
        pytest.skip(NOT_REBUILT.get(method.name, "needs several tasks"))
    source = make_source(1)
    full = {"scale": 1.0, "density": 1.0, "min_tasks": 1, "mask_threshold": 0.4, "drop_smallest": 0, "drop_largest": 0}
    full |= {"largest_step": 1.0, "reset_fraction": 0, "rank_fraction": 1.0}
    out = merged(method, source, {s.name: full[s.name] for s in method.specs if s.name in full})
    for name, got in zip(source.names, out, strict=True):
        torch.testing.assert_close(got.view(-1), source.task(0, name, 0, 10**9), rtol=1.2e-7, atol=1.2e-7)


@every_method
def test_description_is_complete(method: Method) -> None:
    described = method.describe()
    assert described["summary"].endswith(".")
    assert [p["name"] for p in described["parameters"]] == [s.name for s in method.specs]
    assert METHODS.get(method.name) is method
