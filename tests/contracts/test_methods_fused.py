"""The compiled pass and the method's own function give the same bits, for every method that has both."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from explorer.compute.arena import Arena
from explorer.compute.source import Chunk, StateDictSource, numel
from explorer.errors import CheckpointError, InputError
from explorer.executor import ThreadExecutor
from explorer.merging import METHODS, Method, _fused, _run, cast, merge_chunk, merge_into, merge_tensor, prepare

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
FUSED = [m for m in METHODS if m.fused_function]
fused_methods = pytest.mark.parametrize("method", FUSED, ids=lambda m: m.name)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
BITS = {2: torch.int16, 4: torch.int32}
COMBINED = [{"elect": e, "reduce": r} for e in ("none", "mass") for r in ("sum", "mean", "weighted_mean")]
UNEVEN = {"a": 0.7, "b": -0.4, "c": 1.3}
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "task_arithmetic": [{"scale": UNEVEN}],
    "weight_average": [{"weight": {"a": 0.3, "b": 2.0}}],
    "ties": [
        *({"reduce": r, "zero_sign": z} for r in ("mean", "sum", "max") for z in ("majority", "positive", "negative")),
        {"scale": UNEVEN, "density": {"a": 1.0, "b": 0.5}, "weight": {"b": 2.5}, "divisor": "weights"},
        {"scope": "tensor", "trim_count": "exact"},
        {"trim_rule": "norm_fraction"},
    ],
    "tall_masks": [{"mask_threshold": {"a": 0.0, "b": 1.0}, "scale": UNEVEN}],
    "consensus": [{"min_tasks": k, "scale": UNEVEN} for k in (0, 1, 2, 30)],
    "breadcrumbs": [{"drop_smallest": 0.3, "drop_largest": {"a": 0.2}, "scale": UNEVEN, **c} for c in COMBINED],
    "dare": [
        *({"density": {"a": 1.0, "b": 0.3}, "scale": UNEVEN, "weight": {"a": 2.0}, **c} for c in COMBINED),
        *({"rescale": r, "drop": d} for r in ("density", "l1", "none") for d in ("random", "smallest")),
        {"rescale": "l1", "elect": "mass", "reduce": "mean", "density": 0.01},
    ],
    "della": [
        *({"density": {"a": 1.0, "b": 0.3}, "scale": UNEVEN, "weight": {"a": 2.0}, **c} for c in COMBINED),
        *({"rescale": r, "density_spread": e} for r in ("probability", "none") for e in (0.0, 0.05, 0.5)),
        {"density": 0.01, "density_spread": {"a": 0.0, "b": 0.5}},
    ],
    "pcb": [
        *({"density": d, "scale": UNEVEN} for d in (0.6, 1.0)),
        *({"variant": v, "density": 0.6} for v in ("vision", "nlp", "root")),
    ],
}
NOT_FUSED: dict[str, list[dict[str, Any]]] = {
    "weight_average": [{"normalize": False}],
    "ties": [{"sign_rule": "frequency"}, {"rescale": "l1"}, {"trim_rule": "std"}, {"weighting": "after"}],
    "tall_masks": [{"multi_task_vector": "ties"}],
    "consensus": [{"multi_task_vector": "ties"}],
    "breadcrumbs": [{"scope": "row"}],
    "della": [{"rescale": "l1"}],
    "pcb": [{"variant": "paper"}],
}


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(BITS[tensor.element_size()])


def by_the_method(ready: Any, source: Any, name: str, stored: torch.dtype) -> list[Tensor]:
    """What the method's own function gives for a whole tensor."""
    weights = cast(merge_chunk(ready, source, Chunk(name, 0, numel(source, name))), stored)
    return list(weights) if weights.dim() > 1 else [weights]


@pytest.fixture
def compiled_only(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Without the method's own function, so a result can only come from the compiled pass."""

    def never(*_: Any) -> Tensor:
        raise AssertionError("the method's own function ran")

    monkeypatch.setattr(_run, "merge_chunk", never)
    return monkeypatch


def assert_same(method: Method, source: Any, settings: dict[str, Any], stored: torch.dtype | None = None) -> None:
    ready = prepare(method, source, settings)
    for name in source.names:
        if not numel(source, name):
            continue
        found = merge_tensor(ready, source, name, stored)
        found = found if isinstance(found, list) else [found]
        wanted_all = by_the_method(ready, source, name, stored or source.dtype(name))
        for got, wanted in zip(found, wanted_all, strict=True):
            assert torch.equal(bits(got), bits(wanted)), f"{settings} {name}"


def fitting(settings: dict[str, Any], tasks: tuple[str, ...]) -> dict[str, Any]:
    """Settings without what they say of tasks that are not there."""
    return {
        key: {t: v for t, v in value.items() if t in tasks} if isinstance(value, dict) else value
        for key, value in settings.items()
    }


@fused_methods
@every_dtype
@pytest.mark.parametrize("dyadic", [False, True], ids=["any", "ties and zeros"])
def test_same_bits_for_every_number_of_tasks(
    method: Method, dtype: torch.dtype, dyadic: bool, make_source: Any, compiled_only: pytest.MonkeyPatch
) -> None:
    for count in range(max(1, method.min_tasks), 9):
        assert_same(method, make_source(count, dtype, dyadic=dyadic), {})


@fused_methods
@every_dtype
def test_same_bits_for_every_setting(
    method: Method, dtype: torch.dtype, make_source: Any, compiled_only: pytest.MonkeyPatch
) -> None:
    for settings in SETTINGS[method.name]:
        for count in (1, 3, 5):
            for dyadic in (False, True):
                source = make_source(count, dtype, dyadic=dyadic)
                assert_same(method, source, fitting(settings, source.tasks))


@fused_methods
@pytest.mark.parametrize("stored", DTYPES, ids=str)
def test_same_bits_in_another_stored_dtype(
    method: Method, stored: torch.dtype, make_source: Any, compiled_only: pytest.MonkeyPatch
) -> None:
    for dtype in DTYPES:
        assert_same(method, make_source(3, dtype), {}, stored)


@fused_methods
def test_blocks_and_chunks_of_any_length_give_the_same_bits(method: Method, compiled_only: pytest.MonkeyPatch) -> None:
    source = long_source(torch.bfloat16)
    ready = prepare(method, source)
    rows = len(source.tasks) if method.output == "per_task" else 1
    whole = by_the_method(ready, source, "w", torch.bfloat16)
    for cut in (1 << 20, 1024, 1023, 777):
        made = [Arena(source).merged_row() for _ in range(rows)]
        merge_into(ready, source, made, None, executor=ThreadExecutor(2), chunk_elements=cut)
        assert all(torch.equal(bits(r.flat("w")), bits(w)) for r, w in zip(made, whole, strict=True))


def long_source(dtype: torch.dtype) -> StateDictSource:
    """Several blocks and a rest, with values of every size down to the smallest that the dtype has."""
    generator = torch.Generator().manual_seed(11)
    size = 3 * 1024 + 5
    scale = torch.exp2(torch.randint(-30, 4, (size,), generator=generator).float())
    draw = lambda: (torch.randn(size, generator=generator) * scale).to(dtype)  # noqa: E731
    return StateDictSource({"w": draw()}, {t: {"w": draw()} for t in "abcde"})


@fused_methods
@every_dtype
def test_every_size_of_number_is_read_and_rounded_alike(
    method: Method, dtype: torch.dtype, compiled_only: pytest.MonkeyPatch
) -> None:
    for stored in DTYPES:
        assert_same(method, long_source(dtype), {}, stored)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("stored", DTYPES, ids=str)
def test_every_bit_pattern_of_two_bytes_is_read_and_rounded_as_torch_does(
    dtype: torch.dtype, stored: torch.dtype, compiled_only: pytest.MonkeyPatch
) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    every = every[torch.isfinite(every) & (every.float().abs() < 3e4)]
    zero = torch.zeros_like(every)
    source = StateDictSource({"w": zero}, {"a": {"w": every}})
    assert_same(METHODS.get("task_arithmetic"), source, {"scale": 1.0}, stored)
    assert_same(METHODS.get("task_arithmetic"), source, {"scale": 0.37}, stored)


@pytest.mark.parametrize(("name", "settings"), [(n, s) for n, all_of in NOT_FUSED.items() for s in all_of], ids=str)
def test_other_settings_are_left_to_the_method(
    name: str, settings: dict[str, Any], make_source: Any, compiled_only: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AssertionError, match="own function"):
        assert_same(METHODS.get(name), make_source(3, torch.bfloat16), settings)


def test_float64_is_left_to_the_method(make_source: Any, compiled_only: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="own function"):
        assert_same(METHODS.get("ties"), make_source(3, torch.float64), {})


@fused_methods
@every_dtype
def test_values_that_are_no_numbers_are_named(method: Method, dtype: torch.dtype) -> None:
    for where, value in (("base", float("nan")), ("a", float("inf")), ("b", float("-inf")), ("b", float("nan"))):
        models = {m: {"w": torch.ones(2000, dtype=dtype)} for m in ("base", "a", "b")}
        models[where]["w"][1234] = value
        source = StateDictSource(models.pop("base"), models)
        who = "the base" if where == "base" else f"task {where}"
        with pytest.raises(CheckpointError, match=f"{who}.*1 NaN or infinite value in tensor w"):
            merge_tensor(prepare(method, source), source, "w")


def test_weights_that_do_not_fit_are_refused() -> None:
    base, task = torch.full((9,), 6e4, dtype=torch.float16), torch.full((9,), 6.4e4, dtype=torch.float16)
    source = StateDictSource({"w": base}, {"a": {"w": task}})
    with pytest.raises(InputError, match="must fit float16"):
        merge_tensor(prepare("task_arithmetic", source, {"scale": 2.0}), source, "w")


@pytest.mark.parametrize("settings", SETTINGS["ties"], ids=str)
@pytest.mark.parametrize("dyadic", [False, True], ids=["any", "ties and zeros"])
def test_statistics_are_those_of_the_method(
    settings: dict[str, Any], dyadic: bool, make_source: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for dtype in DTYPES:
        source = make_source(3, dtype, dyadic=dyadic)
        given = fitting(settings, source.tasks)
        compiled = prepare("ties", source, given).stats
        with monkeypatch.context() as without:
            without.setattr(_fused, "readable", lambda *_: False)
            plain = prepare("ties", source, given).stats
        assert set(compiled) == set(plain)
        assert "elected" not in plain or torch.equal(compiled["elected"], plain["elected"])  # type: ignore[arg-type]
