"""Per-tensor values: which pattern counts, what is refused, and how they reach the weights."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
import torch

from explorer.blocks import block_value, has_blocks
from explorer.checkpoints.groups import depths_of
from explorer.compute.source import StateDictSource
from explorer.errors import ParameterError
from explorer.merging import merge_tensor, prepare
from explorer.params import PerBlock, PerTask, Range, specs_of

NAMES = ("emb.weight", "layer.0.w", "layer.0.b", "layer.1.w")


def parameters(
    *,
    scale: Annotated[float, Range(-1, 2), PerTask(), PerBlock(), "h"] = 0.5,
    alone: Annotated[float, Range(-1, 2), PerBlock(), "h"] = 0.5,
    plain: Annotated[float, Range(-1, 2), PerTask(), "h"] = 0.5,
) -> None: ...


SCALE, ALONE, PLAIN = specs_of(parameters)


def source() -> StateDictSource:
    generator = torch.Generator().manual_seed(1)
    base = {n: torch.randn(4, 3, generator=generator) for n in NAMES}
    tasks = {t: {n: v + torch.randn(4, 3, generator=generator) for n, v in base.items()} for t in "ab"}
    return StateDictSource(base, tasks)


@pytest.mark.parametrize(
    ("name", "wanted"), [("layer.0.w", 9.0), ("layer.0.b", 1.0), ("layer.1.w", 2.0), ("emb.weight", 0.5)]
)
def test_own_name_first_then_the_first_pattern_then_the_default(name: str, wanted: float) -> None:
    value = {"layer.0.*": 1.0, "layer.*": 2.0, "layer.0.w": 9.0}
    assert block_value(value, name, 0.5) == wanted
    assert block_value(3.0, name, 0.5) == 3.0


def test_which_values_have_blocks() -> None:
    assert has_blocks({"*": 1.0}) and has_blocks((0.1, {"*": 1.0}))
    assert not has_blocks((0.1, 0.2)) and not has_blocks(0.1)


def test_every_shape_of_value_is_checked() -> None:
    assert SCALE.check({"a": {"x": 1}, "b": 2}, who="m", tasks=("a", "b")) == {"a": {"x": 1.0}, "b": 2.0}
    assert ALONE.check({"x": 1}, who="m") == {"x": 1.0}
    with pytest.raises(ParameterError) as caught:
        SCALE.check({"a": {"x": 3}}, who="m", tasks=("a", "b"))
    assert str(caught.value) == SCALE.message("m, task a, x", 3)
    with pytest.raises(ParameterError, match="plain takes one value; got one per block"):
        PLAIN.check({"a": {"x": 1}}, who="m", tasks=("a",))


def test_schema_allows_what_check_allows() -> None:
    number, tasks = SCALE.json_schema()["anyOf"]
    assert number["type"] == "number"
    assert [f["type"] for f in tasks["additionalProperties"]["anyOf"]] == ["number", "object"]
    assert ALONE.json_schema()["anyOf"][1]["additionalProperties"]["type"] == "number"


def test_learned_coefficients_per_task_and_tensor_are_applied_exactly() -> None:
    models = source()
    generator = torch.Generator().manual_seed(2)
    learned = {t: {n: float(torch.rand((), generator=generator)) for n in NAMES} for t in "ab"}
    ready = prepare("task_arithmetic", models, {"scale": learned})
    for name in NAMES:
        base = models.base(name, 0, 12)
        parts = [learned[t][name] * (models.task(i, name, 0, 12) - base) for i, t in enumerate("ab")]
        torch.testing.assert_close(merge_tensor(ready, models, name).flatten(), base + parts[0] + parts[1])  # type: ignore[union-attr]


def test_one_number_everywhere_is_the_same_as_patterns_that_say_so() -> None:
    models = source()
    plain = prepare("task_arithmetic", models, {"scale": 0.7})
    blocks = prepare("task_arithmetic", models, {"scale": {"a": {"*": 0.7}, "b": {"layer.*": 0.7, "*": 0.7}}})
    assert all(torch.equal(merge_tensor(plain, models, n), merge_tensor(blocks, models, n)) for n in NAMES)  # type: ignore[arg-type]


def test_every_pattern_that_fits_nothing_is_named() -> None:
    wrong: dict[str, Any] = {"a": {"layers.0.w": 1.0, "*": 1.0}, "b": {"zzz": 0.1}}
    with pytest.raises(ParameterError) as caught:
        prepare("task_arithmetic", source(), {"scale": wrong})
    text = str(caught.value)
    assert "got 'layers.0.w'. Did you mean 'layer.0.w'" in text and "got 'zzz'. Names look like 'emb.weight'." in text


def test_depth_is_counted_per_stack() -> None:
    names = ["shared.weight", "encoder.block.0.w", "encoder.block.2.w", "decoder.block.0.w", "decoder.block.1.w"]
    assert list(depths_of(names).values()) == [None, 0.0, 1.0, 0.0, 1.0]
    assert depths_of(["blocks.0.w"]) == {"blocks.0.w": 0.0}
