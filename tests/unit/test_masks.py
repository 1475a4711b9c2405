"""Masks: packing, counting, logic; agreement and overlap of several, against plain tensors."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from explorer import masks
from explorer.errors import AlignmentError
from explorer.masks import Mask, MaskSet

SHAPES = [(), (1,), (0,), (7,), (8,), (9,), (3, 5), (0, 4), (4, 4, 4), (130,)]


def random_bools(shape: tuple[int, ...], seed: int = 0, density: float = 0.4) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density


@pytest.mark.parametrize("shape", SHAPES)
def test_round_trip_count_and_density(shape: tuple[int, ...]) -> None:
    values = random_bools(shape)
    mask = Mask.from_tensor(values)
    assert torch.equal(mask.to_tensor(), values) and mask.to_tensor().dtype == torch.bool
    assert len(mask.bits) == (values.numel() + 7) // 8
    assert mask.count() == int(values.sum())
    assert mask.density == (values.double().mean().item() if values.numel() else 0.0)


@pytest.mark.parametrize("shape", SHAPES)
def test_logic(shape: tuple[int, ...]) -> None:
    left, right = random_bools(shape, 1), random_bools(shape, 2)
    a, b = Mask.from_tensor(left), Mask.from_tensor(right)
    assert torch.equal((a & b).to_tensor(), left & right)
    assert torch.equal((a | b).to_tensor(), left | right)
    assert torch.equal((~a).to_tensor(), ~left)
    assert (~a).count() == left.numel() - a.count() and ~~a == a
    assert ~(a & b) == ~a | ~b


def test_the_first_element_is_the_highest_bit() -> None:
    mask = Mask.from_tensor(torch.tensor([True, False, False, False, False, False, True, False, True]))
    assert mask.bits == bytes([0b10000010, 0b10000000])


def test_a_view_packs_in_its_own_order_and_is_not_changed() -> None:
    values = random_bools((5, 3))
    before = values.clone()
    assert torch.equal(Mask.from_tensor(values.T).to_tensor(), values.T)
    mask = Mask.from_tensor(values)
    mask.to_tensor().zero_()
    assert torch.equal(values, before) and torch.equal(mask.to_tensor(), before)


def test_a_mask_is_a_value() -> None:
    values = random_bools((3, 5))
    one, two = Mask.from_tensor(values), Mask.from_tensor(values.clone())
    assert one == two and hash(one) == hash(two) and pickle.loads(pickle.dumps(one)) == one
    assert one != Mask.from_tensor(values.reshape(5, 3))
    with pytest.raises(ValueError, match="read-only"):
        one.packed[0] = 1


def test_bits_and_shape_must_fit() -> None:
    with pytest.raises(ValueError, match="9 elements need 2 bytes; got 1"):
        Mask(b"\0", (9,))
    with pytest.raises(ValueError, match="the bits after element 4 must be 0; got 00001000"):
        Mask(bytes([0b1000]), (4,))
    with pytest.raises(TypeError, match=r"values must be torch\.bool; got torch\.float32"):
        Mask.from_tensor(torch.ones(3))
    with pytest.raises(AlignmentError, match=r"masks: must have one shape; got \[3\] and \[4\]"):
        _ = Mask.from_tensor(random_bools((3,))) & Mask.from_tensor(random_bools((4,)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tasks", [1, 3])
def test_set_against_plain_tensors(shape: tuple[int, ...], tasks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "_BLOCK_BYTES", 2)  # several blocks even here
    plain = {f"t{i}": random_bools(shape, i) for i in range(tasks)}
    group = MaskSet({n: Mask.from_tensor(v) for n, v in plain.items()})
    n = torch.stack(list(plain.values())).sum(0)
    assert group.tasks == tuple(plain) and group["t0"].to_tensor().equal(plain["t0"])
    assert torch.equal(group.agreement().long(), n)
    counts = group.agreement_counts()
    assert counts.tolist() == [int((n == k).sum()) for k in range(tasks + 1)] and counts.sum() == n.numel()
    for k in range(tasks + 2):
        assert torch.equal(group.consensus(k).to_tensor(), n >= k)
    for (i, a), (j, b) in itertools.product(enumerate(plain.values()), repeat=2):
        both, either = int((a & b).sum()), int((a | b).sum())
        assert group.intersection()[i, j] == both and group.union()[i, j] == either
        expected = both / either if either else float("nan")
        np.testing.assert_equal(group.iou()[i, j], expected)


def test_two_empty_masks_have_no_overlap_to_speak_of() -> None:
    group = MaskSet({n: Mask.from_tensor(torch.zeros(4, dtype=torch.bool)) for n in "ab"})
    assert np.isnan(group.iou()).all() and group.agreement_counts().tolist() == [4, 0, 0]


def test_masks_of_a_set_must_have_one_shape() -> None:
    mixed = {n: Mask.from_tensor(random_bools((s,))) for n, s in (("a", 3), ("b", 4), ("c", 5))}
    with pytest.raises(AlignmentError) as caught:
        MaskSet(mixed)
    assert "task b: mask must have shape [3]; got [4]." in str(caught.value) and "task c" in str(caught.value)
    with pytest.raises(ValueError, match="needs the mask of at least one task"):
        MaskSet({})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), max_size=70), st.lists(st.booleans(), max_size=70))
def test_inclusion_and_exclusion(left: list[bool], right: list[bool]) -> None:
    length = min(len(left), len(right))
    a, b = (Mask.from_tensor(torch.tensor(v[:length], dtype=torch.bool)) for v in (left, right))
    assert (a | b).count() + (a & b).count() == a.count() + b.count()
    assert a & ~a == Mask.from_tensor(torch.zeros(length, dtype=torch.bool))
    assert (a | ~a).count() == length
