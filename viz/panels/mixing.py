"""Between the Mixer and the coefficients of a recipe: one number per task, or a number with a curve over depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from explorer.curves import HIGHEST, LANES, LOWEST, Curve, Places, blocks_of, curve_of, places_of, presets
from explorer.errors import ExplorerError, ParameterError
from explorer.params import Range, Spec
from explorer.recipe import Recipe
from viz.panels.draw import colours_of
from viz.parts import depth_value, mixer_rows, mixer_value, own_values_hold, read_curves, read_mixer

MIXED = ("scale", "weight")
_LANE_LABELS = {"attention": "attention", "mlp": "MLP", "norm": "norms", "rest": ""}
_NO_COEFFICIENT = "This method has no coefficient per task."
_NO_DEPTH = (
    "This method takes one coefficient per task for the whole model, so there is no curve over depth. "
    "The add-on LiNeS acts by depth after any method."
)


class TensorNames:
    """The names of the tensors that a recipe merges, opened once for each choice of models.

    `models` opens a recipe's models (`Workbench.models`). Where they cannot be opened there are no names, and so no
    curves; whoever merges says why.
    """

    def __init__(self, models: Callable[[Recipe], Any]) -> None:
        self._models = models
        self._known: dict[Any, tuple[str, ...]] = {}

    def __call__(self, recipe: Recipe, *, again: bool = False) -> tuple[str, ...]:
        """The names, in ascending order; `again` opens the models anew, for they may have changed."""
        key = (recipe.checkpoints, recipe.policy, recipe.include, recipe.exclude)
        if again or key not in self._known:
            try:
                self._known[key] = tuple(self._models(recipe).names)
            except ExplorerError:
                return ()
            while len(self._known) > 32:
                self._known.pop(next(iter(self._known)), None)
        return self._known.get(key, ())


def mixer_spec(specs: tuple[Spec, ...]) -> Spec | None:
    """The per-task coefficient that the Mixer sets: `scale`, else `weight`, else none."""
    by_name = {s.name: s for s in specs if s.per_task}
    return next((by_name[name] for name in MIXED if name in by_name), None)


def coefficients_of(recipe: Recipe, spec: Spec) -> dict[str, Any]:
    """The recipe's value of a per-task parameter for every task, a number or patterns; else the default."""
    value = recipe.values().get(spec.name, spec.default)
    try:
        value = spec.check(value, who=recipe.method, tasks=recipe.task_names)
    except ParameterError:
        value = spec.default
    several = value if isinstance(value, Mapping) else dict.fromkeys(recipe.task_names, value)
    return {t: spec.default if isinstance(v, Mapping) and not v else v for t, v in several.items()}


def one_of(value: Any) -> float:
    """The number that stands for a value per tensor on a slider: what most tensors take, the last one written."""
    return float(list(value.values())[-1] if isinstance(value, Mapping) else value)


def show_mixer(
    recipe: Recipe, specs: tuple[Spec, ...], previous: Any = None, *, names: Sequence[str] = ()
) -> dict[str, Any]:
    """The Mixer's value for a recipe; mute, lock, link and solo of `previous` stay, with the values they hide.

    `names` are the tensors of the merge: with them, and for a coefficient that may differ by tensor, rows unfold into
    curves over depth. Values per tensor that no curve gives are said to be there, and stay.
    """
    mixed = mixer_spec(specs)
    colours = list(colours_of(recipe.task_names).values())
    if mixed is None or not isinstance(mixed.allowed, Range):
        return mixer_value(recipe.task_names, colours, {}, disabled=_NO_COEFFICIENT)
    given = coefficients_of(recipe, mixed)
    places = _places(mixed, names)
    previous = _consistent(previous, given)
    hidden = _hidden(previous, given, mixed, places)
    shown = {t: hidden.get(t) or _shown(v, mixed, places) for t, v in given.items()}
    return mixer_value(
        recipe.task_names,
        colours,
        {t: scale for t, (scale, _) in shown.items()},
        low=mixed.allowed.low,
        high=mixed.allowed.high,
        step=mixed.allowed.step or 0.01,
        default=mixed.default,
        help=mixed.help,
        previous=previous,
        label=mixed.label,
        curves={t: curve for t, (_, curve) in shown.items() if curve},
        own={t: scale for t, (scale, curve) in shown.items() if curve is None},
        depth=_depth(places) if places else None,
        no_depth=_NO_DEPTH if names and not mixed.per_block else "",
    )


def read_coefficients(
    recipe: Recipe, method: str, spec: Spec, mixer: Any, *, names: Sequence[str] = (), past: Sequence[Recipe] = ()
) -> dict[str, Any]:
    """The coefficient of each task that the Mixer shows: a number, or patterns where it has a curve.

    Values per tensor of the recipe stay as they are written until their slider or curve is moved; after a mute they
    come back from `past`, the recipes before this one. Raises ParameterError for anything that is not allowed.
    """
    assert isinstance(spec.allowed, Range)
    low, high, places = spec.allowed.low, spec.allowed.high, _places(spec, names)
    read = read_mixer(mixer, recipe.task_names, low, high)
    knots = len(places.knots) if places else 0
    curves = read_curves(mixer, recipe.task_names, LANES if places else (), knots, LOWEST, HIGHEST)
    given = coefficients_of(recipe, spec) if recipe.method == method else {}
    written = {t: v for t, v in given.items() if isinstance(v, Mapping)}
    silent, solo = {t for t, row in mixer_rows(mixer).items() if row.get("muted")}, mixer.get("solo")

    def value(task: str, scale: float) -> Any:
        if task in silent or (solo is not None and task != solo):
            return 0.0
        own = own_values_hold(mixer, task)
        if task in written and math.isclose(scale, one_of(written[task]), abs_tol=1e-12):
            if own or curves[task] == _shown(written[task], spec, places)[1]:
                return written[task]
        elif own and (earlier := _earlier(past, method, spec, task, scale)):
            return earlier
        return blocks_of(scale, curves[task], places, low, high) if places else scale

    return {task: value(task, scale) for task, scale in read.items()}


def _places(spec: Spec, names: Sequence[str]) -> Places | None:
    """Where curves of this coefficient go, or None where it has none."""
    return places_of(tuple(names)) if spec.per_block and names else None


def _depth(places: Places) -> dict[str, Any]:
    knots = [(knot.label, knot.title) for knot in places.knots]
    lanes = {lane: (_LANE_LABELS[lane], places.holds(lane)) for lane in LANES}
    return depth_value(knots, lanes, presets(places), LOWEST, HIGHEST)


def _shown(value: Any, spec: Spec, places: Places | None) -> tuple[float, Curve | None]:
    """What a row shows of a recipe's value: slider and curve; None for a curve that no row can show."""
    assert isinstance(spec.allowed, Range)
    if places is None:
        return one_of(value), None if isinstance(value, Mapping) else {}
    return curve_of(value, spec.default, places, spec.allowed.low, spec.allowed.high)


def _earlier(past: Sequence[Recipe], method: str, spec: Spec, task: str, scale: float) -> Any:
    """The newest values per tensor that a task had under this method, standing for `scale` on its slider; else None."""
    for recipe in reversed(past):
        value = coefficients_of(recipe, spec).get(task) if recipe.method == method else None
        if isinstance(value, Mapping) and math.isclose(one_of(value), scale):
            return value
    return None


def _is_zero(value: Any) -> bool:
    return not any(value.values()) if isinstance(value, Mapping) else value == 0


def _consistent(previous: Any, given: Mapping[str, Any]) -> Any:
    """Mute and solo flags only while they agree with the coefficients: undo may bring a muted task back."""
    rows = list(mixer_rows(previous).values())
    if not rows:
        return None
    solo = previous.get("solo")
    back = [r for r in rows if r.get("muted") and not _is_zero(given.get(r["name"], 0))]
    if back or (solo and any(not _is_zero(v) for t, v in given.items() if t != solo)):
        return {**previous, "solo": None, "tasks": [{**r, "muted": False} for r in rows]}
    return {**previous, "tasks": rows}


def _hidden(
    previous: Any, given: Mapping[str, Any], spec: Spec, places: Places | None
) -> dict[str, tuple[float, Curve | None]]:
    """What rows show that the recipe, with a 0, cannot hold: the value behind a mute or solo, and any curve."""
    assert isinstance(spec.allowed, Range)
    found: dict[str, tuple[float, Curve | None]] = {}
    solo = previous.get("solo") if previous else None
    for task, row in mixer_rows(previous).items():
        if task not in given or not _is_zero(given[task]):
            continue
        try:
            lanes, knots = (LANES, len(places.knots)) if places else ((), 0)
            curve: Curve | None = read_curves(previous, [task], lanes, knots, LOWEST, HIGHEST)[task]
            value = float(spec.check(row.get("value"), who=task))
        except ParameterError:
            continue
        if row.get("muted") or (solo and task != solo):
            found[task] = (value, None if own_values_hold(previous, task) else curve)
        elif value == 0 and curve:
            found[task] = (0.0, curve)
    return found
