"""Our method of the same name as a mergekit recipe's, with the paper's semantics, and how results differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from explorer.errors import InputError
from explorer.mergekit.methods import METHODS
from explorer.mergekit.schema import Document, ModelRef, Source
from explorer.mergekit.settings import Setting, numbers_of, resolved
from explorer.recipe import Recipe, TaskEntry, model_name

DIFFERENCES: dict[str, tuple[str, ...]] = {
    "ties": (
        "mergekit trims each tensor; the paper trims over the whole model, so layers that changed little lose more.",
        "mergekit divides by the sum of the agreeing weights; the paper divides by their number.",
        "Where votes cancel exactly mergekit takes +; the paper's code takes the majority sign of the model.",
    ),
    "dare_linear": ("mergekit enlarges what is kept until the tensor has its old L1 norm; the paper by 1 / density.",),
    "dare_ties": (
        "mergekit enlarges what is kept until the tensor has its old L1 norm; the paper by 1 / density.",
        "Signs are elected by weighted values in both.",
    ),
    "breadcrumbs": ("Both count in each tensor; the paper rounds the two dropped ends, mergekit the part kept.",),
    "della": (
        "mergekit enlarges what is kept until the tensor has its old L1 norm; the paper each value by 1 / its chance.",
        "mergekit divides by the sum of the agreeing weights; the paper by their number.",
    ),
    "slerp": ("None: the angle is that of the whole weights in both.",),
    "nuslerp": ("With a base the arc is between task vectors in both.",),
    "model_stock": ("mergekit lets the ratio leave 0 … 1 where tasks point against each other; ours is cut there.",),
    "sce": ("mergekit weighs tasks alike where mean squares sum to less than 1e-6; the paper has no such floor.",),
    "arcee_fusion": ("mergekit samples the quantiles of large tensors at random; ours are exact.",),
    "multislerp": ("Tensors that no task changed stop mergekit; ours keeps them.",),
}
DIFFERENCES["breadcrumbs_ties"] = DIFFERENCES["breadcrumbs"]
DIFFERENCES["della_linear"] = DIFFERENCES["della"][:1]
_SAME = ("None: both compute the same, but for the precision of the arithmetic.",)
_ELECT: dict[str, Any] = {"elect": "mass", "reduce": "mean"}


def twin(document: Document) -> tuple[Recipe | None, tuple[str, ...]]:
    """Our recipe with the paper's semantics, or None, and what differs or cannot be carried over, in words.

    Gradients and filters become one value, that of the middle of the depth and of no particular tensor.
    """
    make = _METHODS.get(document.merge_method)
    whole = document.modules.get("")
    if make is None or whole is None or not whole.models:
        what = "slices of layers" if make else document.merge_method
        return None, (f"There is no twin: our methods merge whole models of one base, and {what} is something else.",)
    if any(s.model.lora for s in whole.models):
        return None, ("There is no twin: give adapters as tasks of their own, without the base before the +.",)
    read = _Reader(document)
    base, tasks = read.base_and_tasks(whole.models)
    method, common, per_task = make(read, tasks)
    entries = tuple(
        TaskEntry(name, source.model.opened, per_task[place] if per_task else {})
        for place, (name, source) in enumerate(zip(_names(tasks), tasks, strict=True))
    )
    dtype = document.out_dtype or document.dtype
    recipe = Recipe(base.opened, entries, method, common, dtype=dtype if dtype != "int64" else None)
    notes = [*DIFFERENCES.get(document.merge_method, _SAME), *read.notes]
    try:
        from explorer.opening import check_method

        check_method(recipe)
    except InputError as error:
        return None, (*notes, f"There is no twin with these values. {error}")
    return recipe, tuple(notes)


def _names(tasks: Sequence[Source]) -> list[str]:
    """A name per task, each once."""
    names: list[str] = []
    for source in tasks:
        plain = model_name(source.model.path).strip(". ")[:60] or "model"
        name, number = plain, 2
        while name in names:
            name, number = f"{plain} {number}", number + 1
        names.append(name)
    return names


class _Reader:
    def __init__(self, document: Document) -> None:
        self.document = document
        self.notes: list[str] = []

    def base_and_tasks(self, models: Sequence[Source]) -> tuple[ModelRef, list[Source]]:
        """The base and the others; without a base the first model is it, and a task as well."""
        base = self.document.base_model
        if METHODS[self.document.merge_method].base == "ignored" or base is None:
            return models[0].model, list(models)
        if self.document.merge_method == "slerp":  # both ends are models of their own
            return base, sorted(_with(base, models), key=lambda s: s.model != base)
        return base, [s for s in models if s.model != base]

    def value(self, name: str, source: Source | None = None, default: float = 0.0) -> Any:
        """One value of a parameter."""
        parameter = METHODS[self.document.merge_method].parameter(name)
        settings = [source.parameters if source else None, self.document.parameters]
        if parameter is None:
            return default
        if any(_several(s[name]) for s in settings if s and name in s):
            note = f"{name} has several values; the twin takes the one at half depth."
            self.notes += [] if note in self.notes else [note]
        found = resolved(name, settings, "", 0.5, parameter.check)
        found = parameter.default if found is None else found
        return default if found is None else found


def _with(base: ModelRef, models: Sequence[Source]) -> list[Source]:
    return list(models) if base in [s.model for s in models] else [Source(base), *models]


def _several(setting: Setting) -> bool:
    return len(numbers_of(setting)) > 1


Made = tuple[str, dict[str, Any], list[dict[str, Any]]]


def _arithmetic(read: _Reader, tasks: Sequence[Source]) -> Made:
    weights = [read.value("weight", s, 1.0) for s in tasks]
    divisor = sum(weights) if read.value("normalize") and abs(sum(weights)) > 1e-8 else 1.0
    common = read.value("lambda", default=1.0) / divisor
    return "task_arithmetic", {}, [{"scale": w * common} for w in weights]


def _sparse(method: str, own: Callable[[_Reader, Source], dict[str, Any]], **common: Any) -> Callable[..., Made]:
    def make(read: _Reader, tasks: Sequence[Source]) -> Made:
        scale = read.value("lambda", default=1.0)
        return method, common, [{"weight": read.value("weight", s, 1.0), "scale": scale, **own(read, s)} for s in tasks]

    return make


def _density(read: _Reader, source: Source) -> dict[str, Any]:
    return {"density": read.value("density", source, 1.0)}


def _spread(read: _Reader, source: Source) -> dict[str, Any]:
    return {"density": read.value("density", source, 1.0), "density_spread": read.value("epsilon", source, 0.15)}


def _ends(read: _Reader, source: Source) -> dict[str, Any]:
    density, top = read.value("density", source, 1.0), read.value("gamma", source, 0.01)
    if density >= 1:
        return {"drop_smallest": 0.0, "drop_largest": 0.0}
    return {"drop_smallest": round(max(0.0, 1 - density - top), 12), "drop_largest": top}


def _weighted(method: str, **names: str) -> Callable[..., Made]:
    """A method with a weight per task, and parameters of its own under our names."""

    def make(read: _Reader, tasks: Sequence[Source]) -> Made:
        common = {ours: read.value(theirs) for theirs, ours in names.items()}
        on = {"on": "weights"} if method in ("nuslerp", "multislerp") and not read.document.base_model else {}
        return method, {**common, **on}, [{"weight": read.value("weight", s, 1.0)} for s in tasks]

    return make


def _plain(method: str, **names: str) -> Callable[..., Made]:
    """A method without values per task."""
    return lambda read, tasks: (method, {ours: read.value(theirs) for theirs, ours in names.items()}, [])


_METHODS: Mapping[str, Callable[[_Reader, Sequence[Source]], Made]] = {
    "linear": _weighted("weight_average", normalize="normalize"),
    "slerp": _plain("slerp", t="t"),
    "nuslerp": _weighted("nuslerp"),
    "multislerp": _weighted("multislerp", normalize_weights="normalize"),
    "karcher": _plain("karcher", max_iter="max_steps", tol="tolerance"),
    "task_arithmetic": _arithmetic,
    "ties": _sparse("ties", _density),
    "dare_linear": _sparse("dare", _density),
    "dare_ties": _sparse("dare", _density, elect="mass", reduce="sum"),
    "breadcrumbs": _sparse("breadcrumbs", _ends),
    "breadcrumbs_ties": _sparse("breadcrumbs", _ends, elect="mass"),
    "della": _sparse("della", _spread, **_ELECT),
    "della_linear": _sparse("della", _spread, elect="none", reduce="sum"),
    "sce": _plain("sce", select_topk="select_density"),
    "ram": _plain("ram", epsilon="change_threshold"),
    "ramplus_tl": _plain("ram_plus", epsilon="change_threshold", r="boost", alpha="ratio_limit"),
    "model_stock": _plain("model_stock"),
    "nearswap": _plain("nearswap", t="largest_step"),
    "arcee_fusion": _plain("arcee_fusion"),
}
