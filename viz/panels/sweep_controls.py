"""What a sweep varies, over which range and on which examples: the controls, and the plan that they say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from explorer.recipe import Recipe
from explorer.sweep_axes import Axis, axes_of, task_axes
from explorer.sweep_plans import MOST_POINTS, Sweep, plan_curve, plan_map, plan_mix

KINDS = (("one control", "sweep_curve"), ("two controls", "sweep_map"), ("three tasks", "sweep_mix"))
EXAMPLES: Mapping[str, int | None] = {"quick": 1, "more": 2, "all": None}
"""Blocks of examples per task and point."""
_EXAMPLES = (("quick subset, about 24 a task", "quick"), ("about 120 a task", "more"), ("all", "all"))
_POINTS = {"sweep_curve": 21, "sweep_map": 9}
_STEPS = (4, 6, 8, 12, 16)


class SweepControls:
    """Layout of the controls; every value that comes back from the page is checked by the plan it makes."""

    def __init__(self, recipe: Recipe) -> None:
        self.kind = gr.Radio(list(KINDS), value="sweep_curve", label="Vary", elem_id="sweep-kind")
        with gr.Column() as self.first_box:
            self.first = self._axis(recipe, "Control", 0)
        with gr.Column(visible=False) as self.second_box:
            self.second = self._axis(recipe, "Second control", 1)
        with gr.Column(visible=False) as self.mix_box:
            names, (three, total) = [a.task for a in task_axes(recipe) if a.task], _mix_of(recipe)
            self.tasks = gr.Dropdown(
                names, value=three, multiselect=True, max_choices=3, label="Three tasks", elem_id="sweep-tasks"
            )
            with gr.Row():
                self.total = gr.Number(total, label="total they share", min_width=120, step=0.05)
                self.steps = gr.Dropdown(list(_STEPS), value=8, label="steps along an edge", min_width=120)
        self.examples = gr.Radio(list(_EXAMPLES), value="quick", label="Examples of each point")
        self.asked = [self.kind, *self.first, *self.second, self.tasks, self.total, self.steps, self.examples]
        self.of_kind = [self.first_box, self.second_box, self.mix_box, self.first[3], *self.first[:3]]
        self.of_recipe = [*self.first[:3], *self.second[:3], self.tasks, self.total]

    def _axis(self, recipe: Recipe, label: str, which: int) -> list[Any]:
        """Dropdown, both ends and the number of points of one axis."""
        offered = axes_of(recipe)
        axis = default_axis(offered, which)
        chosen = gr.Dropdown(
            [(a.label, a.name) for a in offered],
            value=axis.name if axis else None,
            label=label,
            elem_id=f"sweep-axis-{which + 1}",
        )
        kind = "sweep_map" if which else "sweep_curve"
        with gr.Row():
            low, high = (
                gr.Number(v, label=t, min_width=80, step=0.01) for t, v in zip(("from", "to"), _ends(axis), strict=True)
            )
            points = gr.Number(
                _POINTS[kind], label="points", precision=0, minimum=2, maximum=MOST_POINTS[kind], min_width=80
            )
        return [chosen, low, high, points]

    def switch(self, recipe: Recipe, kind: str, first: str | None) -> list[Any]:
        """The updates of `of_kind`: which controls are seen, how many points are usual, and a first axis that fits.

        Of a method with one number only, a map is of two tasks' own.
        """
        mix = kind == "sweep_mix"
        seen = [gr.update(visible=v) for v in (not mix, kind == "sweep_map", mix)]
        points = gr.update(value=_POINTS.get(kind, 2))
        offered = axes_of(recipe)
        single, common = [a for a in offered if a.task], [a for a in offered if not a.task and not a.factor]
        if kind != "sweep_map" or len(common) > 1 or not single or any(a.name == first for a in single):
            return [*seen, points, *[gr.skip()] * 3]
        return [*seen, points, *(gr.update(value=v) for v in (single[0].name, *_ends(single[0])))]

    def ends(self, recipe: Recipe, name: str) -> list[Any]:
        """The usual ends of an axis that was chosen; unchanged for an unknown one."""
        axis = next((a for a in axes_of(recipe) if a.name == name), None)
        return list(_ends(axis)) if axis else [gr.skip()] * 2

    def show(self, recipe: Recipe, first: str | None, second: str | None) -> list[dict[str, Any]]:
        """The updates of `of_recipe`; an axis chosen before stays where the recipe still has it."""
        offered = axes_of(recipe)
        by_name = {a.name: a for a in offered}
        updates: list[dict[str, Any]] = []
        for which, name in enumerate((first, second)):
            axis = by_name.get(name or "") or default_axis(offered, which)
            listed = gr.update(choices=[(a.label, a.name) for a in offered], value=axis.name if axis else None)
            updates += [listed, *(gr.update(value=v) for v in _ends(axis))]
        three, total = _mix_of(recipe)
        names = [a.task for a in task_axes(recipe) if a.task]
        return [*updates, gr.update(choices=names, value=three), gr.update(value=total)]


def plan(
    recipe: Recipe, kind: Any, first: Any, second: Any, tasks: Any, total: Any, steps: Any, examples: Any
) -> Sweep:
    """The sweep that the controls say; `first` and `second` are (axis, low, high, points).

    Raises ParameterError naming every problem: the values come from the page.
    """
    rounds = EXAMPLES.get(str(examples), 1)
    if kind == "sweep_mix":
        names = [str(t) for t in tasks] if isinstance(tasks, list) else []
        return plan_mix(recipe, names, total=total, steps=steps, rounds=rounds)
    one, other = ((str(a), low, high, points) for a, low, high, points in (first, second))
    if kind == "sweep_map":
        return plan_map(recipe, one, other, rounds)
    return plan_curve(recipe, one[0], low=one[1], high=one[2], points=one[3], rounds=rounds)


def default_axis(offered: tuple[Axis, ...], which: int) -> Axis | None:
    """The axis to begin with: the scale of all tasks; as a second one the next that is not of a single task."""
    common = [a for a in offered if not a.task and not a.factor]
    single = [a for a in offered if a.task]
    chosen = common if len(common) > 1 else [*single[:2], *common] if which else [*common, *single]
    return chosen[which] if which < len(chosen) else None


def _ends(axis: Axis | None) -> tuple[float, float]:
    return axis.usual if axis else (0.0, 1.0)


def _mix_of(recipe: Recipe) -> tuple[list[str], float]:
    """Three tasks, and the total that they share now, as far as one of them may have it all."""
    axes = task_axes(recipe)[:3]
    shared = sum(a.value_of(recipe, recipe) or 0.0 for a in axes)
    most = axes[0].ends[1] if axes else 1.0
    return [a.task for a in axes if a.task], round(min(shared, most) if shared > 0 else min(1.0, most), 4)
