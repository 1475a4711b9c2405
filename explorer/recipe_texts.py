"""A recipe as texts to take away: our YAML with versions and inputs, mergekit's YAML, a command, Python."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pprint import pformat
from typing import Any

import torch
import yaml

from explorer import __version__
from explorer.checkpoints import Checkpoint
from explorer.errors import InputError
from explorer.opening import OpenModels
from explorer.recipe import Recipe

RECIPE_NAME = "recipe.yaml"
_WIDTH = 100


@dataclass(frozen=True)
class RecipeTexts:
    """One setting in four forms; each is complete as it stands."""

    ours: str
    mergekit: str
    command: str
    python: str


def recipe_texts(recipe: Recipe, models: OpenModels | None, out_dir: str | Path, *, overwrite: bool) -> RecipeTexts:
    """All four; `models` None leaves out what is known of the inputs. Reads no weights."""
    return RecipeTexts(
        ours=recipe_yaml(recipe, models),
        mergekit=mergekit_yaml(recipe),
        command=command_line(RECIPE_NAME, out_dir, overwrite=overwrite),
        python=python_snippet(recipe, out_dir, overwrite=overwrite),
    )


def recipe_yaml(recipe: Recipe, models: OpenModels | None) -> str:
    """The recipe as YAML with the field `made_with`: versions, and digest and size of each input.

    `Recipe.from_yaml` gives an equal recipe back: the field is no part of the merge. Digests that nobody computed yet
    are left out, for they cost a read of the whole file.
    """
    made: dict[str, Any] = {"explorer": __version__, "torch": str(torch.__version__)}
    if models is not None:
        made["base"] = _input(models.base)
        made["tasks"] = {name: _input(checkpoint.on_disk) for name, checkpoint in models.tasks.items()}
    plain = {**recipe.to_dict(), "made_with": made}
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)


def _input(checkpoint: Checkpoint) -> dict[str, Any]:
    digest = checkpoint.known_digest
    return {**({"digest": digest} if digest else {}), "bytes": checkpoint.total_bytes}


def mergekit_yaml(recipe: Recipe) -> str:
    """The recipe as mergekit's YAML, with every difference as a comment above it; comments alone where it has none."""
    from explorer.mergekit.exporting import to_mergekit

    try:
        text, notes = to_mergekit(recipe)
    except InputError as error:
        text, notes = None, (str(error),)
    if text is None:
        lines = ["mergekit cannot say this recipe:", *notes]
    elif notes:
        lines = ["mergekit will do something else here:", *notes]
    else:
        lines = ["mergekit computes the same, but for the precision of the arithmetic."]
    return "".join(f"# {line}\n" for note in lines for line in note.splitlines()) + (text or "")


def command_line(recipe_file: str, out_dir: str | Path, *, overwrite: bool = False) -> str:
    """The command that runs a recipe file, quoted for the shell."""
    words = ["python", "-m", "explorer", "merge", recipe_file, str(out_dir), *(["--overwrite"] if overwrite else [])]
    return shlex.join(words)


def python_snippet(recipe: Recipe, out_dir: str | Path, *, overwrite: bool = False) -> str:
    """Python that writes the same model folder, complete as it stands."""
    plain = pformat(recipe.to_dict(), sort_dicts=False, width=_WIDTH - 4)
    inner = "\n".join(f"    {line}" for line in plain.splitlines())
    more = ", overwrite=True" if overwrite else ""
    return (
        "from explorer import Recipe, run_recipe\n\n"
        f"recipe = Recipe.from_dict(\n{inner}\n)\n"
        f"export = run_recipe(recipe, {str(out_dir)!r}{more})\n"
        'print(f"wrote {export.path} ({export.total_bytes:,} bytes in {export.seconds:.1f} s)")\n'
    )


def stated_inputs(data: Mapping[str, Any]) -> dict[str | None, Mapping[str, Any]]:
    """What the plain values of a recipe say under `made_with`: task (None for the base) -> its digest and bytes.

    What is not in that form is left out: it decides nothing.
    """
    made = _mapping(data.get("made_with"))
    found: dict[str | None, Any] = {str(name): value for name, value in _mapping(made.get("tasks")).items()}
    found[None] = made.get("base")
    return {name: value for name, value in found.items() if isinstance(value, Mapping)}


def _mapping(value: object) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}
