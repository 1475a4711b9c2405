"""The algebra of weights and task vectors: types, laws, precision, laziness."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from explorer.checkpoints import open_checkpoint
from explorer.errors import AlignmentError
from explorer.task_vectors import TaskVector, Weights

State = dict[str, torch.Tensor]


def state(seed: int, dtype: torch.dtype = torch.float32) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=generator).to(dtype) for n, s in (("w", (3, 4)), ("b", (5,)), ("s", ()))}


def equal(left: object, right: object) -> bool:
    assert isinstance(left, (Weights, TaskVector)) and type(left) is type(right)
    assert list(left) == list(right)
    return all(left[n].dtype == right[n].dtype and torch.equal(left[n], right[n]) for n in left)


BASE, A, B = Weights(state(0)), Weights(state(1)), Weights(state(2))


def test_differences_are_another_type() -> None:
    tau = A - BASE
    assert isinstance(tau, TaskVector) and list(tau) == ["b", "s", "w"] and len(tau) == 3
    assert torch.equal(tau["w"], state(1)["w"] - state(0)["w"])
    assert isinstance(BASE + tau, Weights) and isinstance(tau + BASE, Weights) and isinstance(BASE - tau, Weights)


def test_task_arithmetic_by_hand() -> None:
    merged = BASE + 0.3 * ((A - BASE) + (B - BASE))
    for name, x in state(0).items():
        expected = x + 0.3 * ((state(1)[name] - x) + (state(2)[name] - x))
        assert torch.equal(merged[name], expected)


def test_laws() -> None:
    tau, other = A - BASE, B - BASE
    assert equal(tau + other, other + tau)
    assert equal((-tau) * -1, tau) and equal(1 * tau, tau) and equal(tau * 2, 2 * tau)
    assert equal(tau - tau, 0 * tau) and equal(-tau, -1 * tau) and equal(tau / 4, 0.25 * tau)
    assert equal(tau + BASE, BASE + tau) and equal(BASE - tau, BASE + -tau)
    assert equal(sum([tau, other]), tau + other)  # type: ignore[arg-type]
    assert equal(BASE + 0 * tau, BASE)


@settings(max_examples=40, deadline=None)
@given(st.floats(-2, 2), st.integers(0, 1000))
def test_scaling_distributes_within_rounding(scale: float, seed: int) -> None:
    tau, other = Weights(state(seed)) - BASE, B - BASE
    for name in tau:
        left, right = (scale * (tau + other))[name], (scale * tau + scale * other)[name]
        assert torch.allclose(left, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: A + B, r"Weights \+ Weights: adding two models has no meaning.*base \+ \(finetuned - base\)"),
        (lambda: 2 * A, r"Weights \* number: scaling a model.*base \+ 0\.3 \* \(finetuned - base\)"),
        (lambda: A * 2, "scaling a model has no meaning"),
        (lambda: A / 2, "scaling a model has no meaning"),
        (lambda: -A, "scaling a model has no meaning"),
        (lambda: A + 1, "unsupported operand"),
        (lambda: A - 1, "unsupported operand"),
        (lambda: A - state(0), "unsupported operand"),
        (lambda: (A - BASE) * (B - BASE), "unsupported operand"),
        (lambda: (A - BASE) - A, "unsupported operand"),
        (lambda: (A - BASE) + 1, "unsupported operand"),
        (lambda: 1 + (A - BASE), "unsupported operand"),
        (lambda: True * (A - BASE), "unsupported operand"),
        (lambda: "2" * (A - BASE), "can't multiply|unsupported operand"),
    ],
)
def test_what_has_no_meaning_is_a_type_error(make: Callable[[], object], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        make()


def test_numbers_of_numpy_scale_too() -> None:
    tau = A - BASE
    assert equal(np.float64(0.5) * tau, tau * 0.5) and equal(tau * np.float32(0.5), 0.5 * tau)
    with pytest.raises(ZeroDivisionError, match="divisor must not be 0"):
        _ = tau / 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_subtracted_in_float32(dtype: torch.dtype) -> None:
    base, fine = state(0, dtype), state(1, dtype)
    tau = Weights(fine) - Weights(base)
    assert tau["w"].dtype == torch.float32
    assert torch.equal(tau["w"], fine["w"].float() - base["w"].float())
    assert not torch.equal(tau["w"], (fine["w"] - base["w"]).float())  # the short way would round
    back = (Weights(base) + tau).cast(dtype)
    assert back["w"].dtype == dtype and torch.equal(back["w"], fine["w"])


def test_float64_stays_float64() -> None:
    tau = Weights(state(1, torch.float64)) - Weights(state(0))
    assert tau["w"].dtype == torch.float64 and (0.5 * -tau)["w"].dtype == torch.float64
    assert (Weights(state(0)) + tau)["w"].dtype == torch.float64
    assert tau.cast(torch.float16)["w"].dtype == torch.float16 and isinstance(tau.cast(torch.float16), TaskVector)


def test_inputs_are_unchanged() -> None:
    base, fine = state(0), state(1)
    merged = Weights(base) + 0.5 * (Weights(fine) - Weights(base))
    assert merged["w"] is not base["w"]
    merged["w"].zero_()
    assert torch.equal(base["w"], state(0)["w"]) and torch.equal(fine["w"], state(1)["w"])


def test_nothing_is_computed_until_it_is_asked_for_and_nothing_is_kept() -> None:
    reads: list[str] = []

    def read(name: str) -> torch.Tensor:
        reads.append(name)
        return state(0)[name]

    lazy = Weights.lazy(state(0), read)
    merged = (BASE + 0.3 * (lazy - BASE)).cast(torch.float16)
    assert reads == [] and list(merged) == ["b", "s", "w"] and "w" in merged and len(merged) == 3
    _ = merged["w"], merged["w"]
    assert reads == ["w", "w"]


def test_from_checkpoints_on_disk(tmp_path: Path) -> None:
    for number in range(2):
        save_file(state(number, torch.float16), tmp_path / f"{number}.safetensors")
    base, fine = (open_checkpoint(tmp_path / f"{n}.safetensors") for n in range(2))
    tau = Weights.lazy(fine.tensors, fine.read) - Weights.lazy(base.tensors, base.read)
    assert torch.equal(tau["b"], state(1, torch.float16)["b"].float() - state(0, torch.float16)["b"].float())


def test_names_must_fit() -> None:
    short = Weights({n: t for n, t in state(1).items() if n != "b"})
    with pytest.raises(
        AlignmentError, match=r"Weights - Weights: tensor b must be on both sides; got only on the left\."
    ):
        _ = BASE - short
    with pytest.raises(AlignmentError, match=r"TaskVector \+ TaskVector: tensor b .* only on the right"):
        _ = (short - short) + (A - BASE)
    with pytest.raises(AlignmentError, match=r"Weights \+ TaskVector: tensor b .* only in the task vector"):
        _ = short + (A - BASE)
    partial = BASE + (short - Weights({n: BASE[n] for n in short}))
    assert torch.equal(partial["b"], BASE["b"]) and not torch.equal(partial["w"], BASE["w"])
    with pytest.raises(KeyError, match="Did you mean"):
        _ = Weights({"weight": torch.ones(1)})["weigth"]


def test_shapes_must_fit_instead_of_broadcasting() -> None:
    tau = Weights({"w": torch.ones(3, 4)}) - Weights({"w": torch.ones(4)})
    with pytest.raises(AlignmentError, match=r"tensor w: must have one shape on both sides; got \[3, 4\] and \[4\]\."):
        _ = tau["w"]
