"""Weight matching: permutations are recovered, functions stay the same, ties and bad input are settled in words."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from explorer.compute.matching import PermutationSpec, chain_spec, inverse, match, permuted, sizes
from explorer.errors import AlignmentError, CheckpointError

LAYERS = [(f"l{i}.weight", f"l{i}.bias") for i in range(4)]
SPEC = chain_spec(LAYERS)
WIDTHS = (6, 16, 12, 9, 4)


def mlp(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for i, (rows, columns) in enumerate(zip(WIDTHS[1:], WIDTHS[:-1], strict=True)):
        made[f"l{i}.weight"] = torch.randn(rows, columns, generator=generator)
        made[f"l{i}.bias"] = torch.randn(rows, generator=generator)
    return made


def forward(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    for i, (weight, bias) in enumerate(LAYERS):
        x = x @ weights[weight].T + weights[bias]
        x = torch.nn.functional.gelu(x) if i + 1 < len(LAYERS) else x
    return x


def shuffles(seed: int, spec: PermutationSpec = SPEC, of: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    counts = sizes(spec, of or mlp(0))
    return {p: torch.randperm(n, generator=generator) for p, n in counts.items()}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_random_permutation_of_a_network_is_recovered(seed: int, noise: float) -> None:
    model, hidden = mlp(seed), shuffles(seed + 100)
    generator = torch.Generator().manual_seed(seed)
    tuned = {n: t + noise * torch.randn(t.shape, generator=generator) for n, t in model.items()}
    shuffled = permuted(tuned, SPEC, hidden)
    found = match(model, shuffled, SPEC, seed=seed)
    assert all(torch.equal(found.permutations[p], inverse(hidden[p])) for p in hidden)
    back = permuted(shuffled, SPEC, found.permutations)
    assert all(torch.equal(back[n], tuned[n]) for n in model)
    assert found.distance_after < found.distance_before and (found.distance_after == 0) == (noise == 0)
    assert all(g > 0 for g in found.gain.values()) and found.sweeps >= 2


def test_the_gain_is_what_the_inner_product_grew_by() -> None:
    model, shuffled = mlp(1), permuted(mlp(1), SPEC, shuffles(5))
    found = match(model, shuffled, SPEC)
    back = permuted(shuffled, SPEC, found.permutations)
    grown = sum(float((model[n].double() * (back[n] - shuffled[n]).double()).sum()) for n in model)
    assert sum(found.gain.values()) == pytest.approx(grown)
    length = sum(float(t.double().square().sum()) for t in model.values())
    apart = sum(float((model[n] - shuffled[n]).double().square().sum()) for n in model)
    assert found.distance_before == pytest.approx((apart / length) ** 0.5)


def test_permuting_does_not_change_the_function() -> None:
    model, x = mlp(2), torch.randn(7, WIDTHS[0], generator=torch.Generator().manual_seed(3))
    moved = permuted(model, SPEC, shuffles(4))
    assert not torch.equal(moved["l1.weight"], model["l1.weight"])
    torch.testing.assert_close(forward(moved, x), forward(model, x), rtol=1e-5, atol=1e-5)


def test_a_single_permutation_is_the_best_of_all() -> None:
    from itertools import permutations

    spec = chain_spec([("a", None), ("b", None)])
    generator = torch.Generator().manual_seed(0)
    ours, theirs = ({"a": torch.randn(5, 3, generator=generator), "b": torch.randn(2, 5, generator=generator)}
                    for _ in range(2))  # fmt: skip
    found = match(ours, theirs, spec)
    distances = []
    for order in permutations(range(5)):
        moved = permuted(theirs, spec, {"P_0": torch.tensor(order)})
        distances.append(sum(float((ours[n] - moved[n]).square().sum()) for n in ours))
    length = sum(float(t.square().sum()) for t in ours.values())
    assert found.distance_after == pytest.approx((min(distances) / length) ** 0.5, rel=1e-6)


def test_siblings_stay_in_place() -> None:
    model = mlp(3)
    generator = torch.Generator().manual_seed(9)
    sibling = {n: t + 0.05 * torch.randn(t.shape, generator=generator) for n, t in model.items()}
    found = match(model, sibling, SPEC)
    assert (found.in_place, found.units, found.sweeps) == (1.0, 37, 1) and not any(found.gain.values())
    assert found.distance_after == found.distance_before


def test_units_that_are_exactly_alike_stay_where_they_are() -> None:
    model = {n: torch.zeros_like(t) for n, t in mlp(0).items()}
    found = match(model, mlp(1), SPEC)  # every order is as good as every other
    assert found.in_place == 1.0 and found.distance_before != found.distance_before  # a reference of zeros: NaN
    twins = mlp(0)
    twins["l0.weight"][3] = twins["l0.weight"][8]
    twins["l0.bias"][3] = twins["l0.bias"][8]
    twins["l1.weight"][:, 3] = twins["l1.weight"][:, 8]
    assert match(twins, twins, SPEC).in_place == 1.0


def test_the_same_seed_gives_the_same_order_of_visits_and_inputs_stay_as_they_are() -> None:
    ours, theirs = mlp(5), mlp(6)
    first, second = match(ours, theirs, SPEC, seed=3), match(ours, theirs, SPEC, seed=3)
    assert all(torch.equal(first.permutations[p], second.permutations[p]) for p in first.permutations)
    assert first.distance_after <= first.distance_before
    assert all(torch.equal(t, mlp(5)[n]) for n, t in ours.items())
    assert all(torch.equal(t, mlp(6)[n]) for n, t in theirs.items())


def test_half_precision_is_matched_in_double() -> None:
    model = {n: t.half() for n, t in mlp(7).items()}
    hidden = shuffles(1)
    found = match(model, permuted(model, SPEC, hidden), SPEC)
    assert all(torch.equal(found.permutations[p], inverse(hidden[p])) for p in hidden) and found.distance_after == 0


def test_parts_that_share_no_tensor_are_matched_alone() -> None:
    spec = PermutationSpec({"a": ("p", None), "b": (None, "p"), "c": ("q",), "d": ("q", "r"), "e": (None,)})
    assert [part.permutations for part in spec.independent()] == [("p",), ("q", "r")]
    assert {n for part in spec.independent() for n in part.axes} == set("abcd")
    assert len(SPEC.independent()) == 1


def test_kernels_stored_the_other_way_round() -> None:
    turned = {n: t.T.contiguous() if t.dim() == 2 else t for n, t in mlp(8).items()}
    spec, hidden = chain_spec(LAYERS, input_axis=0), shuffles(2)
    found = match(turned, permuted(turned, spec, hidden), spec)
    assert all(torch.equal(found.permutations[p], inverse(hidden[p])) for p in hidden)
    with pytest.raises(ValueError, match="input_axis must be 0 or 1"):
        chain_spec(LAYERS, input_axis=2)


def test_a_network_without_hidden_units() -> None:
    spec = chain_spec([("l", None)])
    found = match({"l": torch.ones(2, 3)}, {"l": torch.zeros(2, 3)}, spec)
    assert (found.units, found.in_place, found.sweeps, found.distance_after) == (0, 1.0, 0, 1.0)


def test_models_that_do_not_fit_are_refused_with_every_problem() -> None:
    model = mlp(0)
    with pytest.raises(AlignmentError, match=r"(?s)2 problems.*l0.bias must be there.*shape \[3, 3, 3\]"):
        match({**{n: t for n, t in model.items() if n != "l0.bias"}, "l2.weight": torch.ones(3, 3, 3)}, model, SPEC)
    with pytest.raises(AlignmentError, match=r"permutation P_0 must have 16 units; got 15 in l0.bias"):
        match({**model, "l0.bias": torch.ones(15)}, model, SPEC)
    other = {**model, "l0.weight": torch.ones(16, 7)}
    with pytest.raises(AlignmentError, match=r"same shapes; got l0.weight \[16, 6\] and \[16, 7\]"):
        match(model, other, SPEC)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_named(bad: float) -> None:
    model = mlp(0)
    model["l2.weight"][1, 1] = bad
    for pair in ((model, mlp(0)), (mlp(0), model)):
        with pytest.raises(CheckpointError, match=r"tensor l2\.weight must hold finite numbers"):
            match(*pair, SPEC)
