"""mergekit recipes as text: every problem with its line, unknown keys kept and said, parameters by layer and name."""

from __future__ import annotations

import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from explorer.errors import RecipeError
from explorer.mergekit.methods import METHODS
from explorer.mergekit.reading import is_mergekit, read_text
from explorer.mergekit.schema import ModelRef
from explorer.mergekit.settings import Conditional, evaluated, resolved

RECIPE = """\
# a comment
models:
- model: org/one@main+org/lora@v2
  parameters: {weight: [0, 0.5, 1], densty: 0.3}
- model: {model: {path: two, revision: abc}, override_architecture: LlamaForCausalLM}
  parameters:
    weight:
    - {filter: mlp, value: [0.1, 0.2]}
    - value: 1e-1
merge_method: ties
base_model: base
parametrs: {lambda: 0.5}
tokenizer: {source: union, tokens: {"<x>": {source: {kind: zero}, force: true}}, pad_to_multiple_of: 64}
chat_template: chatml
dtype: torch.bfloat16
"""


def test_reads_and_writes_again_what_nobody_knows() -> None:
    file = read_text(RECIPE, source="r.yml")
    (document,) = file.documents
    first, second = document.modules[""].models
    assert first.model == ModelRef("org/one", "main", "org/lora", "v2")
    assert second.model == ModelRef("two", "abc", architecture="LlamaForCausalLM")
    assert second.parameters == {"weight": (Conditional((0.1, 0.2), "mlp"), Conditional("1e-1"))}
    assert document.dtype == "bfloat16" and document.tokenizer and document.tokenizer.tokens["<x>"].zero
    assert [w.split(".")[0] for w in file.warnings] == [
        "line 4: parameter 'densty' is unknown to ties and changes nothing",
        "line 12: unknown key 'parametrs' is ignored",
    ]
    assert "'density'" in file.warnings[0] and "'parameters'" in file.warnings[1]
    again = read_text(file.to_yaml()).documents[0]
    assert again.to_plain() == document.to_plain() and again.unknown == {"parametrs": {"lambda": 0.5}}


def test_says_every_problem_at_its_line() -> None:
    text = textwrap.dedent("""\
        merge_method: tis
        models:
        - model: a
        - model: a
        - {modl: b}
        slices:
        - sources:
          - {model: a, layer_range: [3, 1]}
          - {model: b}
        dtype: bf16
        out_dtype: [1]
        tokenizer: {source: base}
        tokenizer_source: union
        chat_template: nonsense
        """)
    with pytest.raises(RecipeError) as error:
        read_text(text, source="r.yml")
    said = str(error.value).splitlines()
    assert said[0] == "r.yml: 10 problems"
    assert [int(line.split("line ")[1].split(":")[0]) for line in said[1:]] == [1, 1, 4, 5, 8, 9, 10, 11, 12, 14]
    assert "Did you mean 'ties'" in said[1] and "exactly one of models, slices and modules" in str(error.value)
    assert any("line 10: dtype" in line and "'bfloat16'" in line for line in said)


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ("{weight: x}", "line 4: weight: must be a number; got 'x'"),
        ("{weight: [1, {value: 2}]}", "line 4: weight: must be numbers, or conditions, not both"),
        ("{weight: []}", "an empty list"),
        ("{density: 20}", "density: must be a fraction in [0, 1]; got 20"),
        ("{weight: .inf}", "must be finite"),
        ("{weight: {filter: mlp}}", "a condition needs a value"),
        ("[1]", "parameters: must be a mapping"),
    ],
)
def test_refuses_values_of_the_wrong_kind(parameters: str, problem: str) -> None:
    text = f"merge_method: ties\nmodels:\n- model: a\n  parameters: {parameters}\nbase_model: b\n"
    with pytest.raises(RecipeError) as error:
        read_text(text)
    assert problem in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "a: [1",
        "",
        "- 1",
        "5",
        "!!python/object/apply:os.system ['true']",
        "merge_method: !!python/name:os.system x\nmodels: [{model: a}]",
        "a: &a [*a]",
        "merge_method: linear\nmerge_method: ties\nmodels: [{model: a}]",
        "? [1]\n: 2",
        "a: &a {x: 1}\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b, *b]\n"
        "d: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c, *c]\ne: &e [*d, *d, *d, *d, *d, *d, *d, *d, *d, *d]\n"
        "f: &f [*e, *e, *e, *e, *e, *e, *e, *e, *e, *e]\ng: [*f, *f, *f, *f, *f, *f, *f, *f, *f, *f]",
    ],
)
def test_what_is_no_recipe_is_refused_in_words(text: str) -> None:
    with pytest.raises(RecipeError):
        read_text(text)


WORDS = st.sampled_from([*METHODS, "models", "slices", "sources", "model", "layer_range", "parameters", "weight", "t"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4) | WORDS, inner, max_size=5),
    max_leaves=20,
)
KEYS = ("merge_method", "models", "slices", "modules", "base_model", "parameters", "tokenizer", "dtype", "name")


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), VALUES) | VALUES, st.text(max_size=30))
def test_garbage_is_refused_or_read_never_worse(data: object, tail: str) -> None:
    import yaml

    for text in (yaml.safe_dump(data, allow_unicode=True), f"merge_method: ties\n{tail}", tail):
        try:
            read = read_text(text)
        except RecipeError as error:
            assert str(error)
        else:
            assert read_text(read.to_yaml()).documents[0].to_plain() == read.documents[0].to_plain()


def test_several_documents_have_names() -> None:
    one = "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]\n"
    file = read_text(f"name: first\n{one}---\n{one.replace('a,', 'first,')}")
    assert [d.name for d in file.documents] == ["first", None]
    with pytest.raises(RecipeError, match="at most one of several documents"):
        read_text(f"{one}---\n{one}")
    with pytest.raises(RecipeError, match="needs its own name"):
        read_text(f"name: x\n{one}---\nname: x\n{one}")


def test_knows_whose_recipe_it_is() -> None:
    assert is_mergekit("# x\nmodels: []\nmerge_method: ties\n")
    assert not is_mergekit("base: a\nmethod: ties\n") and not is_mergekit("x: {merge_method: ties}\n")


def test_gradients_filters_and_precedence() -> None:
    number = METHODS["ties"].parameter("weight")
    truth = METHODS["ties"].parameter("normalize")
    assert number and truth
    assert [evaluated((0, 1, 0.5), "x", t, number.check) for t in (0, 0.25, 0.5, 1)] == [0, 0.5, 1, 0.5]
    assert [evaluated((True, False), "x", t, truth.check) for t in (0, 0.6, 1)] == [True, True, False]
    several = (Conditional((0, 1), "mlp"), Conditional(5.0, "q_proj"), Conditional("1e-1", "*"), Conditional(9.0))
    names = ("a.mlp.b", "a.q_proj.w", "a.norm")
    assert [evaluated(several, n, 0.5, number.check) for n in names] == [0.5, 5, 0.1]
    assert evaluated(several[:2], "a.norm", 0.5, number.check) is None
    sources = ({"weight": several[0]}, None, {"weight": 2}, {"weight": 3})
    assert resolved("weight", sources, "a.mlp", 1, number.check) == 1
    assert resolved("weight", sources, "a.norm", 1, number.check) == 2
    assert resolved("density", sources, "a.norm", 1, number.check) is None
