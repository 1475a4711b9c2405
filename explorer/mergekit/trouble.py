"""Collects what is wrong with a file, and what to warn about, line by line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from explorer.errors import RecipeError, all_problems, near, sentence
from explorer.mergekit.located import Located


class Trouble:
    """Problems and warnings of one file, each with its line."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.problems: list[tuple[int, str]] = []
        self.warnings: list[str] = []

    def add(self, line: int, problem: str) -> None:
        """A problem that is already a sentence."""
        self.problems.append((line, problem))

    def say(self, line: int, who: str, must: str, got: object, what_to_do: str) -> None:
        """A problem."""
        self.add(line, sentence(who, must, got, what_to_do))

    def warn(self, line: int, text: str) -> None:
        """Something that does not stop the merge."""
        self.warnings.append(f"line {line}: {text}")

    def unknown(self, entries: Mapping[str, Located], known: tuple[str, ...]) -> dict[str, Any]:
        """The keys that mergekit ignores without a word: kept, and warned about with near names."""
        kept = {key: entry.value for key, entry in entries.items() if key not in known}
        for key in kept:
            self.warn(entries[key].line, f"unknown key {key!r} is ignored. {near(key, known)}")
        return kept

    def check(self) -> None:
        """Raise RecipeError when there is any problem."""
        if self.problems:
            ordered = sorted(self.problems, key=lambda p: p[0])
            raise RecipeError(all_problems(self.source, [f"line {line}: {text}" for line, text in ordered]))
