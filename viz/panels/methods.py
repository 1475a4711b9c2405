"""The method list: grouped by what a method does to the tensors, and without those that do not fit the open models."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

COMMON = ("task_arithmetic", "ties", "weight_average", "consensus", "dare", "breadcrumbs", "tsv_merge", "iso_c")
NEEDS_STATISTICS = (
    "statistics that these models do not have; run `python -m explorer gather RECIPE OUT_DIR` and merge by its recipe."
)
_GROUPS = {
    "elementwise": "weight by weight",
    "elementwise+threshold": "weight by weight",
    "tensor": "whole tensors",
    "matrix": "matrices",
    "data": "needs data",
}


class Listed(Protocol):
    """What the list needs to know of a method."""

    name: str
    title: str
    granularity: str
    output: str
    min_tasks: int
    max_tasks: int | None
    needs_data: tuple[str, ...]


def group_of(method: Listed) -> str:
    """The words a method is grouped under."""
    if method.output == "per_task":
        return "one model per task"
    return "often used" if method.name in COMMON else _GROUPS[method.granularity]


def choices(
    methods: Sequence[Listed], tasks: int, keep: str = "", *, measured: Collection[str] = ()
) -> list[tuple[str, str]]:
    """(label, name) of the methods that fit the models, the often used first, then group by group.

    `measured` names the statistics that every task has. `keep` stays in the list even when it does not fit: it is the
    one that is chosen now.
    """
    order = ["often used", *dict.fromkeys(_GROUPS.values()), "one model per task"]
    fitting = [m for m in methods if (fits(m, tasks) and not lacking(m, measured)) or m.name == keep]

    def place(method: Listed) -> tuple[int, int, str]:
        common = COMMON.index(method.name) if method.name in COMMON else len(COMMON)
        return order.index(group_of(method)), common, method.title.lower()

    return [(_label(m), m.name) for m in sorted(fitting, key=place)]


def _label(method: Listed) -> str:
    return method.title if method.name in COMMON else f"{method.title}  ·  {group_of(method)}"


def fits(method: Listed, tasks: int) -> bool:
    """Whether a method takes this many fine-tunes."""
    return method.min_tasks <= tasks and (method.max_tasks is None or tasks <= method.max_tasks)


def lacking(method: Listed, measured: Collection[str]) -> bool:
    """Whether a method needs statistics that the models do not have."""
    return not set(method.needs_data) <= set(measured)


def left_out(methods: Sequence[Listed], tasks: int, *, measured: Collection[str] = ()) -> str:
    """Which methods are not offered for these fine-tunes, and why; empty when all are."""
    by_title = sorted(methods, key=lambda m: m.title.lower())
    takes = [f"{m.title} ({_takes(m)})" for m in by_title if not fits(m, tasks)]
    without = [m.title for m in by_title if fits(m, tasks) and lacking(m, measured)]
    sentences = []
    if takes:
        sentences.append(f"Not offered for {tasks} fine-tune{'s' if tasks != 1 else ''}: {', '.join(takes)}.")
    if without:
        verb = "needs" if len(without) == 1 else "need"
        sentences.append(f"{' and '.join(without)} {verb} {NEEDS_STATISTICS}")
    return " ".join(sentences)


def _takes(method: Listed) -> str:
    if method.min_tasks == method.max_tasks:
        return f"takes {method.min_tasks}"
    if method.max_tasks is not None:
        return f"takes at most {method.max_tasks}"
    return f"takes at least {method.min_tasks}"
