"""A recipe that comes in as text, ours or mergekit's: what it asks for, and everything that is wrong, by line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from explorer.errors import InputError, RecipeError, sentence
from explorer.mergekit.located import Located, documents
from explorer.mergekit.reading import is_mergekit, read_text
from explorer.mergekit.schema import Document
from explorer.mergekit.trouble import Trouble
from explorer.mergekit.twin import twin
from explorer.merging import METHODS, check_add_ons, require_tasks
from explorer.params import check_values
from explorer.recipe import Recipe, Where, recipe_problems
from explorer.recipe_texts import stated_inputs

OURS, MERGEKIT = "ours", "mergekit"
_NEEDED = {"base", "tasks", "method", "parameters", "add_ons"}
_BASE: Where = ("base",)


@dataclass(frozen=True)
class Incoming:
    """What a text asks for.

    `recipe` is None where no merge of ours is meant by it: `notes` say why. For mergekit's YAML it is the twin with the
    paper's semantics, and `notes` say how results differ. `problems` are pairs of line and sentence; `lines` tells the
    line of a place. `inputs`: what the text says of the content of its models, by task, None for the base.
    """

    kind: str
    recipe: Recipe | None
    source: str
    notes: tuple[str, ...] = ()
    problems: tuple[tuple[int, str], ...] = ()
    lines: Mapping[Where, int] = field(default_factory=dict)
    inputs: Mapping[str | None, Mapping[str, Any]] = field(default_factory=dict)

    def line(self, where: Where) -> int:
        """The line of a place of the recipe; 1 where the text does not have it."""
        return self.lines.get(where) or self.lines.get(where[:1]) or 1

    def saying(self, *more: tuple[Where, str]) -> Incoming:
        """The same with more problems."""
        found = tuple((self.line(where), text) for where, text in more)
        return replace(self, problems=(*self.problems, *found))

    def check(self) -> None:
        """Raise RecipeError naming every problem with its line."""
        trouble = Trouble(self.source)
        for line, problem in self.problems:
            trouble.add(line, problem)
        trouble.check()


def read_incoming(text: str, *, source: str = "recipe") -> Incoming:
    """Read a text; opens no model. Raises RecipeError, with every problem, where nothing can be told of it."""
    return _mergekit(text, source) if is_mergekit(text) else _ours(text, source)


def _ours(text: str, source: str) -> Incoming:
    found, doubles = documents(text, source)
    if len(found) != 1 or found[0].entries is None:
        got = "nothing" if not found else found[0].kind if len(found) == 1 else f"{len(found)} documents"
        must = "must be one mapping with base, tasks and method, or with merge_method"
        raise RecipeError(sentence(source, must, got, "Paste the whole file."))
    root = found[0]
    data, lines = root.value, dict(_lines(root, ()))
    wrong = recipe_problems(data, source)
    bad = {where[0] for where, _ in wrong}
    read = None if bad & _NEEDED else Recipe.from_dict({k: v for k, v in data.items() if k not in bad}, source=source)
    told = Incoming(OURS, read, source, problems=tuple(doubles), lines=lines, inputs=stated_inputs(data))
    return told.saying(*wrong, *(setting_problems(read) if read else ()))


def _lines(value: Located, where: Where) -> Iterator[tuple[Where, int]]:
    """The line of every place down to the values of a task."""
    for name, entry in (value.entries or {}).items():
        yield (*where, name), entry.line
        if len(where) < 2:
            yield from _lines(entry, (*where, name))
    for number, item in enumerate(value.items or ()):
        yield (*where, str(number)), item.line


def setting_problems(recipe: Recipe) -> Iterator[tuple[Where, str]]:
    """Everything that is wrong with method, parameters and add-ons, and where it stands; opens no model."""
    try:
        method = METHODS.get(recipe.method)
    except InputError as error:
        yield ("method",), str(error)
        return
    tasks = recipe.task_names
    try:
        require_tasks(method, tasks)
    except RecipeError as error:
        yield ("tasks",), str(error)
    given: list[tuple[Where, dict[str, Any]]] = [(("parameters", n), {n: v}) for n, v in recipe.parameters.items()]
    given += [(("tasks", t.name, n), {n: {t.name: v}}) for t in recipe.tasks for n, v in t.parameters.items()]
    for where, values in given:
        try:
            check_values(method.specs, values, who=method.name, tasks=tasks)
        except InputError as error:
            yield where, str(error)
    for place, entry in enumerate(recipe.add_ons):
        try:
            check_add_ons([entry])
        except InputError as error:
            yield ("add_ons", str(place)), str(error)


def _mergekit(text: str, source: str) -> Incoming:
    file = read_text(text, source=source)
    if len(file.documents) > 1:
        why = f"There is no twin: these are {len(file.documents)} merges, of which later ones use the earlier ones."
        return Incoming(MERGEKIT, None, source, (*file.warnings, why))
    document = file.documents[0]
    recipe, notes = twin(document)
    left = tuple(_left_out(document)) if recipe else ()
    lines = dict(_model_lines(document, documents(text, source)[0][0], recipe)) if recipe else {}
    told = Incoming(MERGEKIT, recipe, source, (*file.warnings, *notes, *left), lines=lines)
    return told.saying(*setting_problems(recipe)) if recipe else told


def _left_out(document: Document) -> Iterator[str]:
    """What the file asks for beside the weights, which an export of ours takes from the base."""
    if document.tokenizer:
        yield "The tokenizer is the base's: what the file says of tokenizers is not carried over."
    if document.chat_template:
        yield "The chat template is the base's: that of the file is not carried over."


def _model_lines(document: Document, root: Located, recipe: Recipe) -> Iterator[tuple[Where, int]]:
    at = {s.model.opened: s.line for s in document.sources()}
    named = (root.entries or {}).get("base_model")
    yield _BASE, named.line if named else at.get(recipe.base, document.line)
    yield from ((("tasks", t.name), at.get(t.checkpoint, document.line)) for t in recipe.tasks)
