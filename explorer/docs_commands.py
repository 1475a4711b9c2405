"""Commands that print or write what the declarations say."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable

CATALOGUES = {
    "methods": "merge methods",
    "add-ons": "add-ons to a merge",
    "metrics": "interference metrics",
    "tasks": "task kinds",
}


def list_plugins(kind: str) -> Callable[[argparse.Namespace], int]:
    """The command that prints every plugin of a kind."""

    def run(arguments: argparse.Namespace) -> int:
        from explorer.reference import catalogue, catalogue_text

        if arguments.json:
            print(json.dumps(catalogue(kind), indent=1, ensure_ascii=False, default=str))
        else:
            print(catalogue_text(kind))
        return 0

    return run


def write_docs(arguments: argparse.Namespace) -> int:
    """Write the generated reference pages, or say which are out of date."""
    from explorer.reference import stale_pages, write_pages

    if not arguments.check:
        for path in write_pages():
            print(f"wrote {path}")
        return 0
    stale = stale_pages()
    for path in stale:
        print(f"out of date: {path}. Run `python -m explorer docs`.", file=sys.stderr)
    return 1 if stale else 0
