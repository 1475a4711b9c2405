"""The laws that every add-on keeps, on methods of every granularity."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from explorer.errors import ParameterError, UnknownNameError
from explorer.executor import SerialExecutor, ThreadExecutor
from explorer.merging import ADD_ONS, AddOn, add_on, merge_tensor, prepare
from explorer.merging._add_ons import check_add_ons
from explorer.registry import Registry

every_add_on = pytest.mark.parametrize("one", list(ADD_ONS), ids=lambda a: a.name)
METHODS = ["task_arithmetic", "ties", "tsv_merge", "tall_masks"]


def merged(method: str, source: Any, add_ons: Any = (), parameters: Any = None, **options: Any) -> list[Tensor]:
    ready = prepare(method, source, parameters or {}, add_ons=add_ons, seed=3)
    found = [merge_tensor(ready, source, n, **options) for n in source.names]
    return [t for f in found for t in (f if isinstance(f, list) else [f])]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(
        a.dtype == b.dtype and torch.equal(a.view(-1).view(torch.uint8), b.view(-1).view(torch.uint8))
        for a, b in zip(one, other, strict=True)
    )


def ends(one: AddOn) -> list[dict[str, Any]]:
    """The defaults, and both ends of every range."""
    return [{}, *({s.name: value} for s in one.specs for value in s.edges())]


@every_add_on
@pytest.mark.parametrize("method", METHODS)
def test_applies_to_any_method_and_stays_finite(one: AddOn, method: str, make_source: Any) -> None:
    source = make_source(3)
    shapes = [t.shape for t in merged(method, source)]
    for values in ends(one):
        out = merged(method, source, [(one.name, values)])
        assert [t.shape for t in out] == shapes and all(bool(torch.isfinite(t).all()) for t in out)


@every_add_on
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_what_no_task_changed_keeps_the_bits_of_the_base(one: AddOn, dtype: torch.dtype, make_source: Any) -> None:
    source = make_source(3, dtype)
    for values in ends(one):
        ready = prepare("task_arithmetic", source, {}, add_ons=[(one.name, values)])
        got = merge_tensor(ready, source, "single")
        assert same([got], [source.base("single", 0, 25).view(5, 5)])  # type: ignore[list-item]


@every_add_on
def test_scale_zero_is_the_base(one: AddOn, make_source: Any) -> None:
    source = make_source(2)
    base = [source.base(n, 0, 10**9).view(source.shape(n)) for n in source.names]
    for values in ends(one):
        assert same(merged("task_arithmetic", source, [(one.name, values)], {"scale": 0.0}), base)


@every_add_on
def test_chunks_and_threads_change_no_bit(one: AddOn, make_source: Any) -> None:
    source = make_source(4)
    for values in ends(one):
        add_ons = [(one.name, values)]
        whole = merged("task_arithmetic", source, add_ons, chunk_elements=1 << 20)
        assert same(whole, merged("task_arithmetic", source, add_ons, chunk_elements=7))
        options = {"add_ons": add_ons, "seed": 3}
        serial = prepare("ties", source, {}, executor=SerialExecutor(), **options)
        threads = prepare("ties", source, {}, executor=ThreadExecutor(3), **options)
        got = [[merge_tensor(ready, source, n) for n in source.names] for ready in (serial, threads)]
        assert same(*got)  # type: ignore[arg-type]


@every_add_on
def test_inputs_stay_as_they_are(one: AddOn, make_source: Any) -> None:
    source, untouched = make_source(3), make_source(3)
    merged("ties", source, [(one.name, {})])
    for name in source.names:
        assert same([source.base(name, 0, 10**9)], [untouched.base(name, 0, 10**9)])
        assert all(same([source.task(t, name, 0, 10**9)], [untouched.task(t, name, 0, 10**9)]) for t in range(3))


@every_add_on
def test_an_illegal_value_gives_the_exact_sentence(one: AddOn) -> None:
    for spec in one.specs:
        for value in spec.illegal():
            with pytest.raises(ParameterError) as caught:
                check_add_ons([(one.name, {spec.name: value})])
            assert str(caught.value) == spec.message(one.name, value)


def test_unknown_names_list_near_ones() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'lines'"):
        check_add_ons([("line", {})])
    with pytest.raises(ParameterError, match="Did you mean 'alpha'"):
        check_add_ons([("lines", {"alfa": 1})])


def test_add_ons_are_applied_in_their_order(make_source: Any) -> None:
    source = make_source(3)
    mask, halve = ("consensus_mask", {"against": "merged"}), ("layer_scales", {"scale": 0.5})
    assert not same(merged("ties", source, [mask, halve]), merged("ties", source, [halve, mask]))


@pytest.mark.parametrize("against", ["sum", "merged"])
def test_a_consensus_mask_on_task_arithmetic_is_consensus_task_arithmetic(against: str, make_source: Any) -> None:
    source = make_source(4, dyadic=True)
    own = merged("consensus", source, (), {"scale": 1.0, "mask_threshold": 0.5, "min_tasks": 2})
    mask = ("consensus_mask", {"mask_threshold": 0.5, "min_tasks": 2, "against": against})
    assert same(own, merged("task_arithmetic", source, [mask], {"scale": 1.0}))


def test_a_pattern_that_fits_nothing_is_an_error(make_source: Any) -> None:
    with pytest.raises(ParameterError, match="layer_scales: scale: every pattern must match a tensor"):
        prepare("ties", make_source(2), {}, add_ons=[("layer_scales", {"scale": {"blok.*": 0.5}})])


def test_one_block_counts_as_the_first(make_source: Any) -> None:
    source = make_source(2)
    ready = prepare("task_arithmetic", source, {}, add_ons=[("lines", {"alpha": 0.25, "beta": 1.0})])
    plain = prepare("task_arithmetic", source, {})
    step = {n: merge_tensor(r, source, "block.1.weight") for n, r in (("lines", ready), ("plain", plain))}
    assert ready.add_ons[0].depths["block.1.weight"] == 1.0  # of two blocks, the last
    base = source.base("block.1.weight", 0, 440).view(40, 11)
    torch.testing.assert_close(step["lines"] - base, 1.25 * (step["plain"] - base))


def test_a_declaration_without_texts_is_refused() -> None:
    registry: Registry[AddOn] = Registry("add-on")
    with pytest.raises(TypeError, match="formula, docstring must not be empty"):

        @add_on(title="t", paper="p", formula=" ", when="w", when_not="n", registry=registry)
        def silent(merged: Tensor) -> float:
            return 1.0

    with pytest.raises(TypeError, match="the first argument must be merged"):

        @add_on(title="t", paper="p", formula="f", when="w", when_not="n", registry=registry)
        def backward(deltas: Tensor) -> float:
            """Does nothing."""
            return 1.0
