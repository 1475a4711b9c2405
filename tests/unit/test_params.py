"""The declaration law: one signature gives validation, sentences, schema and boundary values."""

import math
from typing import Annotated

import pytest

from explorer.errors import ParameterError
from explorer.params import Advanced, Choice, PerTask, Range, check_values, specs_of


def example(
    deltas: object,
    *,
    density: Annotated[float, Range(0, 1, open_low=True, step=0.01), PerTask(), "fraction kept"] = 0.2,
    reduce: Annotated[str, Choice("mean", "sum"), "how survivors combine"] = "mean",
    rounds: Annotated[int, Range(1, 9), Advanced(), "how often"] = 3,
    rescale: Annotated[bool, "restore the norm"] = False,
    stats: object = None,
) -> None:
    """Example."""


SPECS = specs_of(example, supplied=("stats",))
BY_NAME = {s.name: s for s in SPECS}


def test_signature_gives_specs_in_order() -> None:
    assert [s.name for s in SPECS] == ["density", "reduce", "rounds", "rescale"]
    assert BY_NAME["density"].per_task and BY_NAME["rounds"].advanced and not BY_NAME["reduce"].per_task


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("density", 20, "ties: density must be in (0, 1]; got 20. Use 0.2 for 20 %."),
        ("density", 0, "ties: density must be in (0, 1]; got 0. The default is 0.2."),
        ("reduce", "maen", "ties: reduce must be one of mean, sum; got maen. Did you mean 'mean'?"),
        ("rounds", 2.5, "ties: rounds must be a whole number in [1, 9]; got 2.5. The default is 3."),
        ("rescale", "maybe", "ties: rescale must be true or false; got maybe. The default is False."),
    ],
)
def test_illegal_value_gives_the_exact_sentence(name: str, value: object, message: str) -> None:
    with pytest.raises(ParameterError) as error:
        BY_NAME[name].check(value, who="ties")
    assert str(error.value) == message


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
def test_generated_values_are_what_they_claim(spec) -> None:
    for value in spec.edges():
        assert spec.check(value, who="x") == value
    for value in spec.illegal():
        with pytest.raises(ParameterError):
            spec.check(value, who="x")


def test_per_task_mapping_is_ordered_and_filled() -> None:
    checked = BY_NAME["density"].check({"b": 0.5}, who="ties", tasks=("a", "b"))
    assert list(checked.items()) == [("a", 0.2), ("b", 0.5)]


def test_unknown_task_and_bad_value_are_reported_together() -> None:
    with pytest.raises(ParameterError) as error:
        BY_NAME["density"].check({"spma": 0.5, "spam": 7}, who="ties", tasks=("spam",))
    assert "Did you mean 'spam'?" in str(error.value) and "got 7" in str(error.value)


def test_all_problems_at_once_with_near_names() -> None:
    with pytest.raises(ParameterError) as error:
        check_values(SPECS, {"densty": 0.2, "reduce": "x"}, who="ties")
    assert "Did you mean 'density'?" in str(error.value) and "one of mean, sum" in str(error.value)


def test_numbers_in_text_are_accepted_but_nan_is_not() -> None:
    assert BY_NAME["density"].check("1e-1", who="x") == pytest.approx(0.1)
    with pytest.raises(ParameterError):
        BY_NAME["density"].check(math.nan, who="x")


def test_schema_holds_the_bounds() -> None:
    single = BY_NAME["density"].json_schema()["anyOf"][0]
    assert single["exclusiveMinimum"] == 0 and single["maximum"] == 1
    assert BY_NAME["reduce"].json_schema()["enum"] == ["mean", "sum"]


def _number_without_range(x, *, a: Annotated[float, "help"] = 1.0): ...
def _no_help(x, *, a: Annotated[float, Range(0, 1)] = 1.0): ...
def _bad_default(x, *, a: Annotated[float, Range(0, 1), "help"] = 2.0): ...
def _bare(x, *, a: float = 2.0): ...


@pytest.mark.parametrize("function", [_number_without_range, _no_help, _bad_default, _bare])
def test_incomplete_declarations_are_refused(function) -> None:
    with pytest.raises(TypeError, match=function.__name__):
        specs_of(function)
