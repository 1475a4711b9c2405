"""Greedy soup: the order of tries, what is kept, and the same on tiny models with real scores."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from workbench_zoo import TASKS, make_models, recipe_of, write_recipe

from explorer import commands, soup
from explorer.cli import main
from explorer.errors import InputError
from explorer.exporting import run_recipe
from explorer.library import evaluate_model
from explorer.recipe import Recipe
from explorer.soup import cook_greedy_soup, soup_recipe
from explorer.tuning.greedy_soup import greedy_soup

Captured = pytest.CaptureFixture[str]
NAN = float("nan")


class Book:
    """A made-up score function that remembers what it was asked."""

    def __init__(self, scores: dict[str, float]) -> None:
        self.scores, self.asked = scores, []  # type: ignore[var-annotated]

    def __call__(self, members: tuple[str, ...]) -> float:
        self.asked.append("".join(members))
        return self.scores["".join(members)]


def test_tries_in_order_of_own_score_and_keeps_what_does_not_fall() -> None:
    book = Book({"a": 0.5, "b": 0.9, "c": 0.7, "d": 0.6, "bc": 0.92, "bcd": 0.91, "bca": 0.95})
    found = greedy_soup("abcd", book)
    assert book.asked == ["a", "b", "c", "d", "bc", "bcd", "bca"]
    assert (found.members, found.score) == (("b", "c", "a"), 0.95)
    assert [(s.candidate, s.kept, s.before) for s in found.steps[1:]] == [
        ("c", True, 0.9), ("d", False, 0.92), ("a", True, 0.92),
    ]  # fmt: skip
    assert found.singles == {"a": 0.5, "b": 0.9, "c": 0.7, "d": 0.6}


def test_the_first_is_always_kept_and_alone_when_all_others_harm() -> None:
    found = greedy_soup("ab", Book({"a": 0.1, "b": 0.2, "ba": 0.15}))
    assert found.members == ("b",) and found.steps[0].kept and not found.steps[1].kept
    assert greedy_soup("a", Book({"a": 0.0})).members == ("a",)


def test_an_equal_score_is_kept_and_equal_singles_keep_their_order() -> None:
    book = Book({"x": 0.5, "a": 0.5, "m": 0.5, "xa": 0.5, "xam": 0.5})
    assert greedy_soup("xam", book).members == ("x", "a", "m")


def test_the_soup_is_never_worse_than_the_best_single_one() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        held: dict[str, float] = {}

        def score(members: tuple[str, ...], held: dict[str, float] = held) -> float:
            return held.setdefault("".join(members), float(torch.rand(1, generator=generator)))

        found = greedy_soup("abcde", score)
        assert found.score >= max(found.singles.values()) and found.score == held["".join(found.members)]


def test_scores_that_are_no_numbers_lose() -> None:
    found = greedy_soup("abc", Book({"a": NAN, "b": 0.2, "c": 0.1, "bc": NAN, "ba": 0.3}))
    assert found.members == ("b", "a") and [s.candidate for s in found.steps] == ["b", "c", "a"]
    for names in ("", "a"):
        with pytest.raises(InputError, match="needs a checkpoint with a score"):
            greedy_soup(names, Book({"a": NAN}))


def test_a_name_given_twice_is_one_checkpoint() -> None:
    assert greedy_soup(["a", "a"], Book({"a": 1.0})).members == ("a",)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp("zoo"))


@pytest.mark.parametrize("goal", soup.GOALS)
def test_scores_of_the_trail_are_those_of_the_exported_models(zoo: Path, tmp_path: Path, goal: str) -> None:
    recipe = recipe_of(zoo, dtype="float16")
    cooked = cook_greedy_soup(recipe, tasks_folder=zoo / "tasks", split="test", goal=goal, device="cpu")
    table = cooked.trail.table
    assert list(table["stage"]) == ["alone", "alone", "soup"] and (table["n"] == 120).all()
    assert (table["low"] <= table["mean_score"]).all() and (table["mean_score"] <= table["high"]).all()

    def scored(members: tuple[str, ...]) -> dict[str, float]:
        out = run_recipe(soup_recipe(recipe, members), tmp_path / "-".join(members)).path
        rows = evaluate_model(out, tasks=TASKS, tasks_folder=zoo / "tasks", device="cpu").table
        rows = rows[rows["model"] == "merged"]
        return dict(zip(rows["task"], rows["score"], strict=True))

    every = {m: scored(m) for m in ((TASKS[0],), (TASKS[1],), TASKS)}
    for row in table.itertuples():
        got = every[TASKS if row.stage == "soup" else (row.candidate,)]
        ratios = [got[t] / every[(t,)][t] for t in TASKS if every[(t,)][t]]
        want = {
            "accuracy": sum(got.values()) / 2,
            "worst": min(ratios),
            "normalized_accuracy": sum(ratios) / len(ratios),
        }
        assert row.mean_score == pytest.approx(want["accuracy"]) and row.score == pytest.approx(want[goal])
    last = table.iloc[-1]
    assert last["difference"] == pytest.approx(last["mean_score"] - table.iloc[0]["mean_score"])
    assert last["difference_low"] <= last["difference"] <= last["difference_high"]
    assert (last["kept"] == "yes") == (cooked.soup.members != (table.iloc[0]["candidate"],))


def test_the_chosen_recipe_gives_the_bits_that_were_scored(zoo: Path, tmp_path: Path) -> None:
    """Checkpoints that are left out have weight 0 while scoring; the recipe leaves them out altogether."""
    recipe = recipe_of(zoo)
    weighted = recipe_of(zoo, method="weight_average", parameters={"weight": {TASKS[0]: 1, TASKS[1]: 0}})
    one = run_recipe(weighted, tmp_path / "weighted").path
    two = run_recipe(soup_recipe(recipe, (TASKS[0],)), tmp_path / "left_out").path
    first, second = (load_file(p / "model.safetensors") for p in (one, two))
    assert all(torch.equal(first[n], second[n]) for n in first)


def test_few_examples_and_tasks_by_name(zoo: Path) -> None:
    seen: list[tuple[str, ...]] = []
    cooked = cook_greedy_soup(
        recipe_of(zoo, tasks={"one": str(zoo / "colours"), "two": str(zoo / "numbers")}),
        tasks_folder=zoo / "tasks",
        tasks=["colours"],
        split="test",
        goal="accuracy",
        examples=9,
        device="cpu",
        on_scored=seen.append,
    )
    assert (cooked.trail.table["n"] == 9).all() and len(seen) == 3
    assert set(cooked.recipe.task_names) == set(cooked.soup.members) and cooked.recipe.method == "weight_average"


def test_what_cannot_be_scored_is_said_at_once(zoo: Path) -> None:
    recipe = recipe_of(zoo, tasks={"one": str(zoo / "colours")})
    with pytest.raises(InputError, match="needs an evaluation task"):
        cook_greedy_soup(recipe, tasks_folder=zoo / "tasks")
    with pytest.raises(InputError, match=r"(?s)3 problems.*metric must be one of.*'color'.*none for 'color'"):
        cook_greedy_soup(recipe, tasks_folder=zoo / "tasks", tasks=["color"], goal="acuracy")
    with pytest.raises(InputError, match="normalized_accuracy needs a checkpoint of the recipe called like each task"):
        cook_greedy_soup(recipe, tasks_folder=zoo / "tasks", tasks=["colours"], split="test")


def test_command(zoo: Path, tmp_path: Path, capsys: Captured) -> None:
    assert commands.GOALS == soup.GOALS
    recipe, out = write_recipe(tmp_path / "r.yaml", recipe_of(zoo)), tmp_path / "deep" / "soup.yaml"
    arguments = ["greedy-soup", str(recipe), str(out), "--tasks-folder", str(zoo / "tasks"), "--split", "test"]
    arguments += ["--device", "cpu", "--examples", "12"]
    assert main([*arguments, "--metric", "accuracy", "--export", str(tmp_path / "model")]) == 0
    text = capsys.readouterr().out
    assert "chosen by accuracy on test" in text and "difference_low" in text and f"wrote {out}" in text
    assert Recipe.load(out) == Recipe.load(tmp_path / "model" / "explorer_recipe.yaml")
    assert main(arguments) == 1 and "--overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "greedy_soup" and not math.isnan(found["provenance"]["score"])
    for bad in ("0", "few"):
        with pytest.raises(SystemExit):
            main([*arguments[:-1], bad])
