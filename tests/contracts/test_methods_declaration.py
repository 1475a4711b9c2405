"""How methods are declared, found and refused."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from torch import Tensor

from explorer.errors import ParameterError, RecipeError, UnknownNameError
from explorer.merging import METHODS, Method, merge_tensor, method, prepare
from explorer.params import Range
from explorer.registry import Registry

PLUGIN = '''
"""A method from another package."""
from typing import Annotated
from torch import Tensor
from explorer.merging import method
from explorer.params import Range

@method(title="Half", paper="none", granularity="elementwise", formula="½ Σ τ", when="in tests", when_not="else")
def half_of_the_sum(deltas: Tensor, *, part: Annotated[float, Range(0, 1), "share"] = 0.5) -> Tensor:
    """A share of the summed task vectors."""
    return deltas.sum(0) * part
'''


@pytest.fixture
def plugin_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    folder = tmp_path / "fixture_methods"
    folder.mkdir()
    (folder / "__init__.py").write_text("", encoding="utf-8")
    (folder / "half.py").write_text(PLUGIN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield "fixture_methods"
    METHODS.forget("half_of_the_sum")
    METHODS.retract("fixture_methods")
    for name in ("fixture_methods", "fixture_methods.half"):
        sys.modules.pop(name, None)


def test_a_method_in_another_package_is_found_and_runs(plugin_package: str, make_source: Callable[..., Any]) -> None:
    assert "half_of_the_sum" not in METHODS
    METHODS.extend(plugin_package)
    assert "half_of_the_sum" in METHODS.names()
    source = make_source(2, dyadic=True)
    got = merge_tensor(prepare("half_of_the_sum", source, {"part": 0.25}), source, "one")
    base, first, second = source.base("one", 0, 1), source.task(0, "one", 0, 1), source.task(1, "one", 0, 1)
    assert torch.equal(got, base + (first + second - 2 * base) * 0.25)


def test_unknown_method_offers_near_names(make_source: Callable[..., Any]) -> None:
    with pytest.raises(UnknownNameError, match="'ties'"):
        prepare("tie", make_source(2))


def registered(**changes: Any) -> Method:
    """A legal declaration with some of it replaced, in a registry of its own."""

    def plain(deltas: Tensor, *, part: Annotated[float, Range(0, 1), "share"] = 0.5) -> Tensor:
        """A sum."""
        return deltas.sum(0) * part

    function = changes.pop("function", plain)
    declared = {"title": "t", "paper": "p", "granularity": "elementwise", "formula": "f", "when": "w", "when_not": "n"}
    return method(**{**declared, "registry": Registry("method"), **changes})(function)


def no_docstring(deltas: Tensor) -> Tensor:
    return deltas.sum(0)


def wrong_first(tau: Tensor) -> Tensor:
    """A sum."""
    return tau.sum(0)


def with_seeds(deltas: Tensor, *, seeds: tuple[int, ...]) -> Tensor:
    """Noise of each task's own seed."""
    return sum(torch.rand(deltas.shape[1:], generator=torch.Generator().manual_seed(s)) for s in seeds)  # type: ignore[return-value]


def test_a_legal_declaration_says_everything_about_itself() -> None:
    made = registered()
    assert (made.name, made.needs, made.stochastic, made.needs_base) == ("plain", (), False, False)
    assert made.summary == "A sum."
    assert made.describe()["parameters"][0]["name"] == "part"


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"granularity": "pixelwise"}, "granularity must be one of"),
        ({"output": "many"}, "output must be one of"),
        ({"when": " "}, "when must not be empty"),
        ({"function": no_docstring}, "the docstring must not be empty"),
        ({"function": wrong_first}, "the first argument must be deltas; got tau"),
        ({"granularity": "elementwise+threshold"}, "must take stats"),
        ({"granularity": "matrix"}, "other_tensors must say"),
        ({"function": with_seeds}, "must see whole tensors or take offset"),
        ({"min_tasks": 3, "max_tasks": 2}, "min_tasks must be in"),
    ],
)
def test_faulty_declarations_are_refused(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(TypeError, match=fault):
        registered(**changes)


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(TypeError, match=r"granularity.*output.*title"):
        registered(granularity="x", output="y", title="")


def test_a_name_is_taken_once_and_prepare_is_given_once() -> None:
    registry: Registry[Method] = Registry("method")
    made = registered(registry=registry)
    with pytest.raises(TypeError, match="registered twice"):
        registered(registry=registry)
    made.prepare(lambda statistics, parameters: {})
    with pytest.raises(TypeError, match="two prepare functions"):
        made.prepare(lambda statistics, parameters: {})


def test_seeds_depend_on_task_tensor_and_recipe_only(make_source: Callable[..., Any]) -> None:
    made = registered(function=with_seeds, granularity="tensor")
    assert made.stochastic
    source, turned = make_source(2, names="ab"), make_source(2, names="ba")
    first = merge_tensor(prepare(made, source, seed=1), source, "block.0.weight")
    assert torch.equal(first, merge_tensor(prepare(made, turned, seed=1), turned, "block.0.weight"))
    assert not torch.equal(first, merge_tensor(prepare(made, source, seed=2), source, "block.0.weight"))


def test_every_task_and_tensor_has_its_own_seed(make_source: Callable[..., Any]) -> None:
    seen: dict[str, tuple[int, ...]] = {}

    def remember(deltas: Tensor, *, seeds: tuple[int, ...]) -> Tensor:
        """Nothing."""
        seen[str(tuple(deltas.shape))] = seeds
        return deltas.sum(0)

    source = make_source(3)
    ready = prepare(registered(function=remember, granularity="tensor"), source)
    for name in ("block.0.weight", "block.1.weight"):
        merge_tensor(ready, source, name)
    assert len({seed for seeds in seen.values() for seed in seeds}) == 6


def test_whole_tensors_arrive_in_their_shape(make_source: Callable[..., Any]) -> None:
    seen: list[tuple[int, ...]] = []

    def shapes(deltas: Tensor, *, base: Tensor) -> Tensor:
        """The base once more."""
        seen.append(tuple(deltas.shape))
        return base

    made = registered(function=shapes, granularity="tensor")
    source = make_source(2, dyadic=True)
    ready = prepare(made, source)
    got = merge_tensor(ready, source, "block.1.weight", chunk_elements=5)
    assert seen == [(2, 40, 11)]
    assert torch.equal(got, 2 * source.base("block.1.weight", 0, 440).view(40, 11))


def test_a_method_for_few_tasks_refuses_many(make_source: Callable[..., Any]) -> None:
    with pytest.raises(RecipeError, match=r"plain: takes at most 2 tasks; got 3"):
        prepare(registered(max_tasks=2), make_source(3))


def test_weights_that_cancel_are_refused(make_source: Callable[..., Any]) -> None:
    with pytest.raises(ParameterError, match="weight_average: weight must be above 0 for at least one task; got 0 for"):
        prepare("weight_average", make_source(2), {"weight": 0})
