"""Undo, redo, links and the trail are pure functions on a small value."""

import pytest

from explorer.errors import InputError, RecipeError
from explorer.recipe import Recipe, TaskEntry
from explorer.session import (
    Move,
    Session,
    add_task,
    change,
    from_link,
    redo,
    remember,
    remove_task,
    to_link,
    undo,
    with_models,
    with_values,
)

RECIPE = Recipe("base", (TaskEntry("spam", "m/spam", {"scale": 0.3}), TaskEntry("movies", "m/movies")), "ties")


def other(x: float) -> Recipe:
    return RECIPE.with_parameters(density=x)


def test_undo_and_redo_walk_the_same_way() -> None:
    session = change(change(Session(RECIPE), other(0.1)), other(0.2))
    assert undo(session).recipe == other(0.1) and undo(undo(session)).recipe == RECIPE
    assert redo(undo(session)) == session and redo(redo(undo(undo(session)))) == session
    assert undo(Session(RECIPE)) == Session(RECIPE) and redo(Session(RECIPE)) == Session(RECIPE)


def test_a_change_after_undo_drops_the_undone() -> None:
    session = change(undo(change(Session(RECIPE), other(0.1))), other(0.3))
    assert not session.can_redo and session.can_undo and session.recipe == other(0.3)


def test_no_change_leaves_no_step() -> None:
    assert change(Session(RECIPE), RECIPE) == Session(RECIPE)


def test_history_is_bounded() -> None:
    session = Session(RECIPE)
    for i in range(1, 400):
        session = change(session, other(i / 1000))
    assert len(session.past) == 200


def test_tasks_are_added_and_removed() -> None:
    recipe = add_task(RECIPE, "new", "m/new")
    assert recipe.task_names == ("spam", "movies", "new")
    assert remove_task(recipe, "spam").task_names == ("movies", "new")
    with pytest.raises(InputError, match="own name"):
        add_task(RECIPE, "spam", "x")
    with pytest.raises(InputError, match="Did you mean 'spam'"):
        remove_task(RECIPE, "spma")
    with pytest.raises(InputError, match="at least one task"):
        remove_task(remove_task(RECIPE, "spam"), "movies")


def test_changing_models_starts_a_new_trail() -> None:
    session = remember(Session(RECIPE), Move(RECIPE, "start", 0.9, 0.8, "spam"))
    assert len(session.trail) == 1 and with_models(session, remove_task(RECIPE, "spam")).trail == ()


def test_a_refined_estimate_replaces_the_quick_one() -> None:
    session = remember(Session(RECIPE), Move(RECIPE, "start", 0.9, 0.8, "spam"))
    session = remember(session, Move(RECIPE, "start", 0.91, 0.8, "spam", complete=True))
    assert [m.normalized for m in session.trail] == [0.91]
    assert len(remember(session, Move(other(0.5), "next", 0.5, 0.4, "spam")).trail) == 2


def test_per_task_values_land_in_the_tasks() -> None:
    recipe = with_values(RECIPE, "task_arithmetic", {}, {"scale": {"spam": 0.1, "movies": -0.5}})
    assert recipe.values() == {"scale": {"spam": 0.1, "movies": -0.5}} and recipe.method == "task_arithmetic"


def test_links_round_trip() -> None:
    recipe, view = from_link(to_link(Session(RECIPE), {"tab": "merge"}))
    assert recipe == RECIPE and view == {"tab": "merge"}


@pytest.mark.parametrize("text", ["", "!!!", "abcd", "A" * 70_000, to_link(Session(RECIPE))[:-9]])
def test_damaged_links_are_refused_in_words(text: str) -> None:
    with pytest.raises(RecipeError, match="Copy the whole link again"):
        from_link(text)


def test_a_link_cannot_blow_up_memory() -> None:
    import base64
    import zlib

    bomb = base64.urlsafe_b64encode(zlib.compress(b" " * 50_000_000, 9)).decode()
    with pytest.raises(RecipeError):
        from_link(bomb[:63_000] if len(bomb) > 63_000 else bomb)
