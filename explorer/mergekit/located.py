"""YAML as plain values that remember their lines, so that every problem can be said with its place in the file.

Only scalars, lists and mappings are built, never objects. Aliases are followed, within a budget: a few lines of
nested aliases could otherwise stand for more values than any memory holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from explorer.errors import RecipeError, sentence

MOST_VALUES = 50_000
MOST_DEPTH = 40
MOST_CHARACTERS = 4_000_000


@dataclass(frozen=True)
class Located:
    """One value of the file: `plain` for a scalar, `items` for a list, `entries` for a mapping; `line` from 1."""

    line: int
    plain: Any = None
    items: tuple[Located, ...] | None = None
    entries: dict[str, Located] | None = None

    @property
    def value(self) -> Any:
        """The value without lines."""
        if self.entries is not None:
            return {key: entry.value for key, entry in self.entries.items()}
        return [item.value for item in self.items] if self.items is not None else self.plain

    @property
    def kind(self) -> str:
        """What it is, in words."""
        if self.entries is not None:
            return "a mapping"
        if self.items is not None:
            return "a list"
        return "nothing" if self.plain is None else repr(self.plain)


def documents(text: str, source: str) -> tuple[list[Located], list[tuple[int, str]]]:
    """Every document of a YAML text that is not empty, and (line, problem) of keys that are double or no text.

    Raises RecipeError where the text is no YAML, or stands for too many values.
    """
    if len(text) > MOST_CHARACTERS:
        must = f"must be at most {MOST_CHARACTERS:,} characters"
        raise RecipeError(sentence(source, must, f"{len(text):,}", "Give the recipe alone."))
    builder = _Builder(source)
    try:
        nodes = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        who = f"{source}, line {mark.line + 1}" if mark else source
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise RecipeError(sentence(who, "must be YAML", reason, "Mend this line.")) from error
    except (ValueError, RecursionError) as error:
        raise RecipeError(sentence(source, "must be YAML", str(error), "Check the file.")) from error
    return [builder.build(n, 0) for n in nodes if n is not None], builder.problems


class _Builder:
    def __init__(self, source: str) -> None:
        self.source = source
        self.left = MOST_VALUES
        self.problems: list[tuple[int, str]] = []
        self._scalars = yaml.SafeLoader("")

    def build(self, node: yaml.Node, depth: int) -> Located:
        line = node.start_mark.line + 1
        self.left -= 1
        if self.left < 0 or depth > MOST_DEPTH:
            must = f"must hold at most {MOST_VALUES:,} values, nested at most {MOST_DEPTH} deep"
            who = f"{self.source}, line {line}"
            raise RecipeError(sentence(who, must, "more, counting aliases", "Write it without aliases."))
        if isinstance(node, yaml.MappingNode):
            return Located(line, entries=dict(self._entries(node, depth)))
        if isinstance(node, yaml.SequenceNode):
            return Located(line, items=tuple(self.build(n, depth + 1) for n in node.value))
        return Located(line, plain=self._scalar(node, line))

    def _scalar(self, node: yaml.Node, line: int) -> Any:
        """The plain value; dates and other things that no recipe knows stay the text that was written."""
        try:
            plain = self._scalars.construct_object(node)
        except (yaml.YAMLError, ValueError, OverflowError):
            plain = None
            if not node.tag.startswith("tag:yaml.org,2002:"):
                must = "values must be plain YAML"
                self.problems.append((line, sentence("values", must, repr(node.tag), "Leave the tag out.")))
        return plain if isinstance(plain, str | int | float | bool) or plain is None else str(node.value)

    def _entries(self, node: yaml.MappingNode, depth: int) -> Iterator[tuple[str, Located]]:
        try:
            self._scalars.flatten_mapping(node)  # `<<: *shared`, whose keys come first
        except (yaml.YAMLError, RecursionError) as error:
            line = node.start_mark.line + 1
            self.problems.append((line, sentence("<<", "must name a mapping", str(error).split("\n")[0], "Mend it.")))
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            key, line = self.build(key_node, depth + 1), key_node.start_mark.line + 1
            if not isinstance(key.plain, str | int | float):
                self.problems.append((line, sentence("keys", "must be text", key.kind, "Quote the key.")))
                continue
            name = str(key.plain)
            if seen.get(name) == line or (name in seen and line > seen[name]):
                self.problems.append((line, sentence(name, "must stand once", "a second one", "Keep one of them.")))
            seen[name] = line
            yield name, self.build(value_node, depth + 1)
