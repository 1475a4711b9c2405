"""Exceptions that a person is meant to read.

    ExplorerError
    ├── InputError              something given to us is wrong (exit code 2)
    │   ├── ParameterError      a value outside its declared range, an unknown parameter
    │   ├── UnknownNameError    no such method, metric, task, chart …; offers near names
    │   ├── RecipeError         a recipe that cannot be run
    │   ├── CheckpointError     a file or folder that is no usable checkpoint
    │   ├── AlignmentError      checkpoints that cannot be merged with each other
    │   ├── DataError           evaluation data that cannot be used
    │   └── PathError           a path outside the allowed folders
    ├── OutputError             something could not be written (exit code 1); nothing half-written remains
    └── Cancelled               the person asked to stop; earlier work is as it was

Every message has one shape: *who: what must hold; got what. What to do.*
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ExplorerError(Exception):
    """Base of every error whose text is shown to the user verbatim."""


class InputError(ExplorerError):
    """Something given to us is wrong."""


class ParameterError(InputError):
    """A parameter value outside its declaration, or a parameter that does not exist."""


class UnknownNameError(InputError):
    """A name that no registry knows."""


class RecipeError(InputError):
    """A recipe that cannot be run."""


class CheckpointError(InputError):
    """A file or folder that is no usable checkpoint."""


class AlignmentError(InputError):
    """Checkpoints that cannot be merged with each other."""


class DataError(InputError):
    """Evaluation data that cannot be used."""


class PathError(InputError):
    """A path outside the allowed folders."""


class OutputError(ExplorerError):
    """Something could not be written; nothing half-written remains."""


class Cancelled(ExplorerError):  # noqa: N818 - reads as what happened, not as a fault
    """The person asked to stop."""


def sentence(who: str, must: str, got: object, what_to_do: str) -> str:
    """The house form of a message: *who: what must hold; got what. What to do.*"""
    return f"{who}: {must}; got {got}. {what_to_do}"


def near(name: str, known: Iterable[str]) -> str:
    """A hint with near names, such as `Did you mean 'ties'?`, or the whole list when nothing is near."""
    names = list(known)
    folded = {n.lower(): n for n in names}
    matches = difflib.get_close_matches(str(name).lower(), list(folded), n=3, cutoff=0.55)
    if matches:
        return "Did you mean " + " or ".join(f"'{folded[m]}'" for m in matches) + "?"
    if not names:
        return "There are none."
    return "Known: " + ", ".join(names) + "."


def all_problems(who: str, problems: list[str]) -> str:
    """One message for several problems, so that a person mends them in one go."""
    if len(problems) == 1:
        return problems[0]
    return f"{who}: {len(problems)} problems\n" + "\n".join(f"  - {p}" for p in problems)
