"""Requests of one tab that overtake each other on their way."""

from __future__ import annotations

from explorer.recipe import Recipe, TaskEntry
from explorer.session import Session
from explorer.slots import Slot


def slot() -> Slot:
    return Slot("tab", Session(Recipe("base", (TaskEntry("spam", "spam"),))))


def test_an_older_request_is_no_news() -> None:
    tab = slot()
    assert [tab.is_news(turn) for turn in (1, 3, 2, 3, 4, 1)] == [True, True, False, True, True, False]


def test_a_move_that_comes_after_its_own_release_is_no_news() -> None:
    tab = slot()
    assert tab.is_news(5, 1)
    assert not tab.is_news(5, 0)
    assert tab.is_news(5, 1) and tab.is_news(5, 2) and not tab.is_news(5, 1) and tab.is_news(6, 0)


def test_a_request_without_a_turn_is_always_news() -> None:
    tab = slot()
    assert tab.is_news(9, 2) and tab.is_news(None) and not tab.is_news(8)
