"""Laws of the merge methods, on random models."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import torch
from hypothesis import assume, given, settings
from torch import Tensor

from explorer.compute.source import StateDictSource
from explorer.merging import _parts as parts
from explorer.merging import merge_tensor, prepare

FAST = settings(max_examples=25, deadline=None)
TASKS = "abcdefgh"


@st.composite
def task_vectors(draw: st.DrawFn, tasks: tuple[int, int] = (1, 5)) -> Tensor:
    """[T, n] multiples of 1/64: all sums are exact, equal magnitudes and exact cancellations abound."""
    count, n = draw(st.integers(*tasks)), draw(st.integers(1, 40))
    whole = st.lists(st.integers(-12, 12), min_size=count * n, max_size=count * n)
    return torch.tensor(draw(whole), dtype=torch.float32).view(count, n) / 64


def merged(method: str, deltas: Tensor, **parameters: Any) -> Tensor:
    """The merged task vector: a merge onto a base of zeros, in two tensors; [n] or [T, n]."""
    cut = deltas.shape[1] // 2
    pieces = [{"a": d[:cut], "b": d[cut:]} for d in deltas]
    base = {n: torch.zeros_like(v) for n, v in pieces[0].items()}
    source = StateDictSource(base, dict(zip(TASKS, pieces, strict=False)))
    ready = prepare(method, source, parameters)
    both = [merge_tensor(ready, source, n) for n in ("a", "b")]
    return torch.cat([torch.stack(b) if isinstance(b, list) else b for b in both], dim=-1)


def support(density: float, tau: Tensor) -> Tensor:
    return merged("ties", tau, density=density, sign_rule="none", reduce="sum") != 0


@FAST
@given(task_vectors(), st.randoms(use_true_random=False))
def test_permuting_the_tasks_permutes_the_result(deltas: Tensor, random: Any) -> None:
    order = list(range(len(deltas)))
    random.shuffle(order)
    for method, values in (
        ("task_arithmetic", {"scale": 0.5}),
        ("ties", {"density": 0.4}),
        ("consensus", {"scale": 1.0}),
    ):
        assert torch.equal(merged(method, deltas, **values), merged(method, deltas[order], **values))
    for method in ("tall_masks", "magnitude_masking"):
        assert torch.equal(merged(method, deltas)[order], merged(method, deltas[order]))


@FAST
@given(task_vectors(), st.sampled_from([0.25, 0.5, 4.0]))
def test_positive_factors_pass_through(deltas: Tensor, factor: float) -> None:
    for method, values in (
        ("task_arithmetic", {}),
        ("ties", {"density": 0.3}),
        ("ties", {"sign_rule": "frequency", "reduce": "max"}),
        ("ties", {"trim_rule": "norm_fraction", "trim_amount": 0.8}),
        ("tall_masks", {"multi_task_vector": "ties"}),
        ("consensus", {}),
        ("magnitude_masking", {}),
    ):
        assert torch.equal(merged(method, deltas * factor, **values), merged(method, deltas, **values) * factor)


@FAST
@given(task_vectors(), st.floats(0.05, 2), st.integers(0, 1000))
def test_tasks_that_change_different_weights_are_rebuilt_exactly(deltas: Tensor, threshold: float, seed: int) -> None:
    owner = torch.randint(len(deltas), deltas.shape[1:], generator=torch.Generator().manual_seed(seed))
    apart = torch.where(torch.arange(len(deltas))[:, None] == owner, deltas, 0)
    assert torch.equal(merged("tall_masks", apart, mask_threshold=threshold), apart)
    summed = merged("ties", apart, density=1.0, reduce="sum")
    assert torch.equal(summed, merged("task_arithmetic", apart, scale=1.0))


@FAST
@given(task_vectors(tasks=(1, 1)), st.floats(0.05, 0.95), st.floats(0.05, 0.95))
def test_a_larger_density_keeps_a_superset(deltas: Tensor, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert bool((support(low, deltas) <= support(high, deltas)).all())


@FAST
@given(task_vectors(tasks=(2, 5)), st.floats(0, 2), st.floats(0, 2))
def test_a_larger_mask_threshold_keeps_a_subset(deltas: Tensor, one: float, other: float) -> None:
    total = parts.task_sum(deltas)
    masks = [parts.tall_masks(deltas, total, torch.full((len(deltas),), t)) for t in sorted((one, other))]
    assert bool((masks[1] <= masks[0]).all())


@FAST
@given(task_vectors(tasks=(2, 5)), st.integers(0, 6), st.integers(0, 6))
def test_consensus_shrinks_with_min_tasks_and_is_everything_at_zero(deltas: Tensor, one: int, other: int) -> None:
    few, many = (merged("consensus", deltas, scale=1.0, min_tasks=k) for k in sorted((one, other)))
    total = merged("task_arithmetic", deltas, scale=1.0)
    assert torch.equal(merged("consensus", deltas, scale=1.0, min_tasks=0), total)
    assert bool(((many == few) | (many == 0)).all())
    assert not merged("consensus", deltas, scale=1.0, min_tasks=len(deltas) + 1).any()


@FAST
@given(task_vectors(), st.data())
def test_task_arithmetic_is_linear(deltas: Tensor, data: st.DataObject) -> None:
    quarters = st.lists(st.integers(-2, 4), min_size=len(deltas), max_size=len(deltas))
    left, right = (torch.tensor(data.draw(quarters)) / 4 for _ in range(2))

    def of(scales: Tensor) -> Tensor:
        return merged("task_arithmetic", deltas, scale=dict(zip(TASKS, scales.tolist(), strict=False)))

    assert torch.equal(of((left + right) / 2), (of(left) + of(right)) / 2)


@FAST
@given(task_vectors(tasks=(2, 5)), st.floats(0.1, 1), st.sampled_from(["mean", "sum", "max"]))
def test_ties_output_has_the_elected_sign_and_stays_within_the_inputs(
    deltas: Tensor, density: float, reduce: str
) -> None:
    trimmed = torch.stack([merged("ties", d[None], density=density) for d in deltas])
    out = merged("ties", deltas, density=density, reduce=reduce)
    elected = trimmed.sum(0).sign()
    assert bool(((out.sign() == elected) | (out == 0) | (elected == 0)).all())
    bound = trimmed.abs().sum(0) if reduce == "sum" else trimmed.abs().amax(0)
    assert bool((out.abs() <= bound * (1 + 1e-6)).all())


@FAST
@given(task_vectors(tasks=(1, 1)))
def test_one_task_whole_is_that_task(deltas: Tensor) -> None:
    for values in ({"density": 1.0}, {"density": 1.0, "scope": "tensor"}, {"density": 1.0, "sign_rule": "none"}):
        assert torch.equal(merged("ties", deltas, **values), deltas[0])
    assert torch.equal(merged("tall_masks", deltas)[0], deltas[0])
    assert torch.equal(merged("weight_average", deltas), deltas[0])


@FAST
@given(task_vectors(tasks=(2, 5)))
def test_without_sign_conflicts_the_whole_sum_is_task_arithmetic(deltas: Tensor) -> None:
    agreeing = deltas.abs() * deltas[0].sign()
    assume(bool(agreeing.any()))
    summed = merged("ties", agreeing, density=1.0, reduce="sum")
    assert torch.equal(summed, merged("task_arithmetic", agreeing, scale=1.0))


@FAST
@given(task_vectors(tasks=(1, 1)), st.floats(0.05, 1))
def test_l1_rescaling_keeps_the_absolute_sum_of_each_tensor(deltas: Tensor, density: float) -> None:
    out = merged("ties", deltas, density=density, scope="tensor", rescale="l1")
    cut = deltas.shape[1] // 2
    for part in (slice(0, cut), slice(cut, None)):
        torch.testing.assert_close(out[part].abs().sum(), deltas[0, part].abs().sum(), rtol=1e-5, atol=1e-6)
