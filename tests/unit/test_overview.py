"""The overview: which numbers it tells, where it says they stand against chance, in which order, and as safe HTML."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import pytest
import torch
from chart_examples import (
    cosine,
    mask_agreement,
    mask_overlap,
    minority_mass,
    norm_profile,
    redundancy,
    sign_conflict,
)
from torch import Tensor

from explorer.compute.source import StateDictSource
from explorer.interference import survey
from explorer.results import Result
from viz.charts import CHARTS
from viz.overview import HOW, Finding, findings, standing
from viz.overview_cards import CSS, NOTHING, cards

MADE = (sign_conflict, minority_mass, mask_agreement, mask_overlap, cosine, redundancy, norm_profile)


def examples(tasks: tuple[str, ...] = ("movies", "spam", "news")) -> dict[str, Result]:
    return {make.__name__: make(tasks) for make in MADE}


def told(trim: float = 1.0, **vectors: Tensor) -> dict[str, Finding]:
    """What the overview says of these task vectors, by metric; two layers, so that a profile has places."""
    names = ("encoder.layer.0.w", "encoder.layer.1.w")
    tasks = {task: dict(zip(names, v.chunk(2), strict=True)) for task, v in vectors.items()}
    base = {n: torch.ones_like(v) for n, v in next(iter(tasks.values())).items()}
    models = {task: {n: base[n] + v for n, v in own.items()} for task, own in tasks.items()}
    return {f.metric: f for f in findings(survey(StateDictSource(base, models), trim_density=trim))}


def normal(seed: int, n: int = 20_000) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def changed(result: Result, **columns: float) -> Result:
    return dataclasses.replace(result, table=result.table.assign(**columns))


def test_unrelated_tasks_stand_about_chance_in_everything_the_signs_and_masks_say() -> None:
    found = told(a=normal(1), b=normal(2), c=normal(3))
    assert list(found) and {f.standing for f in found.values()} == {"about chance"}
    assert set(found) == {make.__name__ for make in MADE}


def test_the_example_of_a_pair_that_conflicts_as_chance_would() -> None:
    result = changed(sign_conflict(("movies", "spam")), conflict=0.07, null=0.068)
    trimmed = dataclasses.replace(result, provenance={"trim_density": 0.2})
    (found,) = findings({"sign_conflict": trimmed})
    assert found.sentence == (
        "Of 100 large weights that both movies and spam change, 7.0 are pulled in opposite directions: about what "
        "chance gives (6.8)."
    )
    assert (found.value, found.null, found.standing) == ("7.0 %", "chance 6.8 %", "about chance")
    assert found.pair == ("movies", "spam") and not found.worse


def test_above_chance_needs_a_tenth_of_the_level_and_three_errors() -> None:
    assert standing(0.56, 0.5) == "above chance" and standing(0.44, 0.5) == "below chance"
    assert standing(0.549, 0.5) == standing(0.451, 0.5) == standing(0.55, 0.5) == "about chance"
    assert standing(0.8, 0.5, 0.11) == "about chance" and standing(0.8, 0.5, 0.09) == "above chance"
    assert standing(0.0, 0.0) == "about chance" and standing(0.003, 0.0, 0.001 - 1e-9) == "above chance"
    few = changed(sign_conflict(("movies", "spam")), conflict=0.8, n_both=20)
    many = changed(few, n_both=40)
    assert [findings({"sign_conflict": r})[0].standing for r in (few, many)] == ["about chance", "above chance"]


def test_off_chance_towards_interference_comes_first_and_about_chance_last() -> None:
    results = examples()
    results["sign_conflict"] = changed(results["sign_conflict"], conflict=0.2)
    results["minority_mass"] = changed(results["minority_mass"], minority_mass=0.4, null=0.2)
    results["cosine"] = changed(results["cosine"], cosine=0.0)
    found = findings(results)
    ranks = [0 if f.worse else 2 if f.standing == "about chance" else 1 for f in found]
    assert ranks == sorted(ranks) and found[0].metric == "minority_mass" and found[-1].standing == "about chance"
    assert {f.metric: f.standing for f in found}["sign_conflict"] == "below chance"
    assert not next(f for f in found if f.metric == "sign_conflict").worse


def test_two_equal_tasks_agree_and_two_opposite_ones_conflict() -> None:
    same = told(a=normal(1), b=normal(1))
    assert same["sign_conflict"].value == "0.0 %" and same["sign_conflict"].standing == "below chance"
    assert same["cosine"].value == "1.000" and "lean the same way" in same["cosine"].sentence
    assert not any(f.worse for f in same.values())
    against = told(a=normal(1), b=-normal(1))
    assert against["sign_conflict"].value == "100.0 %" and against["cosine"].value == "−1.000"
    assert all(against[m].worse for m in ("sign_conflict", "minority_mass", "cosine"))


def test_one_task_and_unchanged_tasks_give_only_what_is_defined() -> None:
    assert set(told(a=normal(1))) == {"redundancy", "norm_profile"}
    zero = told(a=normal(1), b=torch.zeros(20_000), c=torch.zeros(20_000))
    assert not {"sign_conflict", "cosine", "minority_mass"} & set(zero)
    assert zero["norm_profile"].sentence.endswith("b and c changed nothing.")
    assert set(told(a=torch.zeros(8), b=torch.zeros(8))) == {"mask_agreement"}
    assert findings({}) == () and NOTHING in cards(())


def test_a_model_of_one_layer_claims_no_chance_level_for_its_profile() -> None:
    base, tau = {"w": torch.ones(50)}, {"w": torch.ones(50) * 1.5}
    found = findings(survey(StateDictSource(base, {"a": tau}), ["norm_profile"]))
    assert found[0].null == "no chance level: one layer only" and found[0].standing == "about chance"


def test_numbers_are_those_of_the_tables() -> None:
    results = examples()
    found = {f.metric: f for f in findings(results, density=0.1, mask_threshold=0.6)}
    row = results["sign_conflict"].at("model").assign(x=lambda t: t.conflict - t.null).nlargest(1, "x").iloc[0]
    assert found["sign_conflict"].value == f"{100 * row.conflict:.1f} %"
    assert found["sign_conflict"].pair == (row.task_a, row.task_b)
    two = results["mask_agreement"].at("model", threshold=0.6).iloc[:2]
    assert found["mask_agreement"].value == f"{100 * two.share.sum():.1f} %" and "0.60" in found["mask_agreement"].unit
    kept = results["redundancy"].at("model", density=0.1).kept.min()
    assert found["redundancy"].value == f"{100 * kept:.1f} %" and "top 10 %" in found["redundancy"].unit
    lift = results["mask_overlap"].at("model", threshold=0.6).nlargest(1, "lift").iloc[0]
    assert found["mask_overlap"].value == f"{100 * lift.iou:.1f} %"


@pytest.mark.parametrize("count", [1, 2, 20])
def test_every_finding_is_one_plain_claim_about_a_real_chart(count: int) -> None:
    for finding in findings(examples(tuple(f"task {i}" for i in range(count)))):
        assert finding.figure in CHARTS and "nan" not in f"{finding}".lower().replace("finance", "")
        assert finding.sentence.endswith(".") and len(finding.sentence) < 260 and "chance" in finding.null
        assert finding.metric in CHARTS.get(finding.figure).results
    assert "tenth" in HOW and "three" in HOW


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def test_names_of_tasks_never_become_markup() -> None:
    evil = ("<script>alert(1)</script>", "x' onclick=alert(1) \"y", "a\u202eb</li><img src=x>")
    html = cards(findings(examples(evil)), targets={"cosine_map": '"><b>'})
    reader = _Tags()
    reader.feed(html)
    allowed = {"section", "ol", "li", "h4", "p", "span", "a", "details", "summary"}
    assert {tag for tag, _ in reader.seen} <= allowed
    names = {key for _, attributes in reader.seen for key in attributes}
    assert names <= {"class", "aria-label", "aria-hidden", "href", "data-figure", "data-task-a", "data-task-b"}
    assert "&lt;script&gt;" in html and not re.search("[\u202a-\u202e]", re.sub(r'data-task-.="[^"]*"', "", html))
    picked = {a["data-task-a"] for _, a in reader.seen if "data-task-a" in a}
    assert picked <= set(evil)


def test_cards_link_to_their_figure_and_say_their_standing_in_words() -> None:
    html = cards(findings(examples()), targets={"sign_conflict_pairs": "sign-pairs"})
    assert html.count("<a ") == 1 and 'href="#sign-pairs"' in html
    assert html.count('class="standing"') == html.count("<li") == 7
    classes = set(re.findall(r"explorer-overview[a-z-]*", html + cards(())))
    assert all(f".{name}" in CSS.read_text(encoding="utf-8") for name in classes)
