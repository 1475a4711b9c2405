"""Takes a recipe that comes in as text to a session's models: all of it fits, or nothing changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from explorer.errors import ExplorerError, RecipeError, sentence
from explorer.incoming import MERGEKIT, OURS, Incoming, read_incoming
from explorer.mergekit.reading import is_mergekit
from explorer.merging import METHODS, require_given
from explorer.models_at_hand import (
    Offer,
    changed_inputs,
    missing_models,
    missing_statistics,
    models_of,
    offers,
    place_of,
    with_offers,
)
from explorer.recipe import Recipe
from explorer.recipe_texts import command_line
from explorer.session import Session, change, with_models
from explorer.workbench import Workbench

MOST_CHARACTERS = 1_000_000


@dataclass(frozen=True)
class Import:
    """What became of a text.

    `recipe` is to be taken, or None: then `problem` says why, and nothing may change. `offers` are models at hand for
    those that cannot be opened, by task, None for the base. `notes` say what differs from what the file means, and
    `command` runs a file of mergekit's exactly as it stands (empty for ours).
    """

    kind: str = OURS
    recipe: Recipe | None = None
    problem: str = ""
    offers: Mapping[str | None, Offer] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    command: str = ""


def import_recipe(
    bench: Workbench, now: Recipe, text: str, *, out_dir: str, source: str = "recipe", taking_offers: bool = False
) -> Import:
    """Read a text against the models that `bench` may open; `now` is the session's recipe, whose models come first.

    With `taking_offers` models at hand stand in for those that cannot be opened. Reads no weights, but for digests
    that the text states.
    """
    kind = MERGEKIT if is_mergekit(text) else OURS
    command = command_line(source, out_dir) if kind == MERGEKIT else ""
    try:
        if len(text) > MOST_CHARACTERS or not text.strip():
            got = f"{len(text):,} characters" if text.strip() else "an empty text"
            must = f"must be the text of a recipe, at most {MOST_CHARACTERS:,} characters"
            raise RecipeError(sentence(source, must, got, "Paste a recipe, or upload its file."))
        told = read_incoming(text, source=source)
        if told.recipe is None and not told.problems:
            return Import(kind, notes=told.notes, command=command)
        return replace(_fitted(bench, now, told, taking_offers), command=command)
    except ExplorerError as error:
        return Import(kind, problem=str(error), command=command)


def _fitted(bench: Workbench, now: Recipe, told: Incoming, taking_offers: bool) -> Import:
    """The recipe with its models opened. Raises ExplorerError with everything that keeps it from being merged."""
    recipe, found, notes = told.recipe, {}, told.notes
    if recipe is not None:
        missing = missing_models(recipe, allowed=bench.allowed, hub=bench.hub)
        at_hand = [*models_of(now).values(), *map(str, bench.available())] if missing else []
        found = offers(told, missing, at_hand, allowed=bench.allowed)
        if taking_offers:
            notes += offer_lines(recipe, found)
            recipe, missing = with_offers(recipe, found), {t: text for t, text in missing.items() if t not in found}
        unread = missing_statistics(recipe, allowed=bench.allowed)
        told = told.saying(*((place_of(t), text) for held in (missing, unread) for t, text in held.items()))
    try:
        told.check()
    except RecipeError as error:
        return Import(told.kind, None, str(error), {} if taking_offers else found, notes)
    assert recipe is not None
    models = bench.models(recipe)
    require_given(recipe.method, models.reading, METHODS.get(recipe.method).needs_data)
    bench.evaluation_tasks(recipe)
    return Import(told.kind, recipe, notes=(*notes, *changed_inputs(told, models)))


def offer_lines(recipe: Recipe, found: Mapping[str | None, Offer]) -> tuple[str, ...]:
    """Which model at hand stands in for which, a sentence each."""
    wanted = models_of(recipe)
    return tuple(
        f"{'The base' if task is None else task}: {offer.path} in place of {wanted[task]} ({offer.why})."
        for task, offer in found.items()
    )


def take_import(session: Session, recipe: Recipe) -> Session:
    """The session with an imported recipe; it can be undone. Other models begin a new trail."""
    before = session.recipe
    same = (before.checkpoints, before.task_names, before.policy) == (
        recipe.checkpoints, recipe.task_names, recipe.policy,
    )  # fmt: skip
    return change(session, recipe) if same else with_models(session, recipe)
