"""Our recipe as mergekit YAML, and what of it mergekit cannot say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import yaml

from explorer.merging import METHODS
from explorer.params import check_values
from explorer.recipe import Recipe

Values = Mapping[str, Any]
_RESCALES = "mergekit enlarges what is kept until the tensor has its old L1 norm; this recipe does not."


def to_mergekit(recipe: Recipe) -> tuple[str | None, tuple[str, ...]]:
    """The recipe as mergekit YAML (None where mergekit has no such method), and every difference in words.

    Raises UnknownNameError or ParameterError for a recipe that is wrong by itself.
    """
    method = METHODS.get(recipe.method)
    values = check_values(method.specs, recipe.values(), who=method.name, tasks=recipe.task_names)
    make = _METHODS.get(recipe.method)
    if make is None:
        return None, (f"mergekit has no method like {method.title} ({recipe.method}).",)
    form = _Form(recipe, values)
    name = make(form)
    if form.impossible:
        return None, tuple(form.notes)
    form.general()
    return form.yaml(name), tuple(form.notes)


class _Form:
    """A recipe on its way to mergekit's form; `notes` say what is lost."""

    def __init__(self, recipe: Recipe, values: Values) -> None:
        self.recipe, self.values = recipe, values
        self.notes: list[str] = []
        self.parameters: dict[str, Any] = {}
        self.each: list[dict[str, Any]] = [{} for _ in recipe.tasks]
        self.has_base, self.base_path = True, recipe.base
        self.impossible = False

    def of(self, name: str, place: int) -> float:
        """One task's value of a parameter; a value per tensor has no match."""
        value = self.values[name]
        value = value[self.recipe.task_names[place]] if isinstance(value, Mapping) else value
        if isinstance(value, Mapping):
            self.note(f"{name} has values per tensor; mergekit's filters compare parts of names. The rest's is taken.")
            value = value.get("*", next(iter(value.values())))
        return float(value)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def unless(self, name: str, wanted: object, text: str) -> None:
        """Note a difference unless a value is the one that mergekit always has."""
        if self.values.get(name) != wanted:
            self.note(text)

    def set(self, **fields: Callable[[int], Any]) -> None:
        """Values per task."""
        for name, value in fields.items():
            for place, entry in enumerate(self.each):
                entry[name] = value(place)

    def votes(self) -> None:
        """weight · scale / λ as mergekit's weight, and λ, the scale of largest magnitude, as its lambda."""
        places = range(len(self.each))
        common = max((self.of("scale", p) for p in places), key=abs, default=1.0)
        self.set(weight=lambda p: self.of("weight", p) * self.of("scale", p) / (common or 1.0))
        self.parameters["lambda"] = common

    def general(self) -> None:
        """What no method changes."""
        if self.recipe.add_ons:
            self.note("Add-ons (" + ", ".join(n for n, _ in self.recipe.add_ons) + ") do not exist in mergekit.")
        if self.recipe.include or self.recipe.exclude:
            self.note("include and exclude have no match: mergekit merges every tensor.")
        if self.recipe.policy != "refuse":
            self.note(f"policy {self.recipe.policy} has no match: mergekit stops at tensors that differ.")
        if self.recipe.method in ("dare", "della"):
            self.note("mergekit keeps no seed in its recipes, and draws other numbers from the same one.")

    def yaml(self, name: str) -> str:
        tasks = zip(self.recipe.tasks, self.each, strict=True)
        models = [{"model": t.checkpoint, **({"parameters": e} if e else {})} for t, e in tasks]
        plain: dict[str, Any] = {"merge_method": name, "models": models}
        if self.has_base:
            plain["base_model"] = self.base_path
        if self.parameters:
            plain["parameters"] = self.parameters
        plain["dtype"] = "float32"
        if self.recipe.dtype != "float32":
            plain["out_dtype"] = self.recipe.dtype
            if self.recipe.dtype is None:
                del plain["out_dtype"]
                self.note("Without a dtype of its own the output is float32 in mergekit; add out_dtype for less.")
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)


def _linear(form: _Form) -> str:
    form.has_base = False
    form.set(weight=lambda p: form.of("weight", p))
    form.parameters["normalize"] = form.values["normalize"]
    return "linear"


def _lerp(form: _Form) -> str:
    form.has_base, t = False, float(form.values["t"])
    form.set(weight=lambda p: t if p else 1 - t)
    return "linear"


def _arithmetic(form: _Form) -> str:
    form.set(weight=lambda p: form.of("scale", p))
    return "task_arithmetic"


def _ties(form: _Form) -> str:
    form.votes()
    form.set(density=lambda p: form.of("density", p))
    values = form.values
    form.parameters |= {"normalize": values["reduce"] == "mean", "rescale": values["rescale"] == "l1"}
    form.unless("scope", "tensor", "mergekit trims in each tensor; this recipe over the whole model.")
    form.unless("sign_rule", "mass", "mergekit elects signs by the sum of values only.")
    form.unless("trim_rule", "magnitude", "mergekit keeps a fraction of entries only.")
    form.unless("trim_count", "exact", "mergekit keeps int(density · n) entries; this recipe one more.")
    form.unless("zero_sign", "positive", "Where votes cancel exactly mergekit takes +.")
    form.unless("weighting", "before", "mergekit's weights count in the election.")
    if values["reduce"] == "mean":
        form.unless("divisor", "weights", "mergekit divides by the sum of the agreeing weights, not their number.")
    if values["reduce"] == "max":
        form.note("mergekit cannot take the largest value; this recipe becomes a sum.")
    return "ties"


def _elected(form: _Form) -> bool:
    """Weights, lambda and the divisor of the methods that may elect signs; whether they do."""
    form.votes()
    elects, reduce = form.values["elect"] == "mass", form.values["reduce"]
    form.parameters["normalize"] = reduce != "sum"
    if reduce == "mean":
        form.note("mergekit divides by a sum of weights, not by a number of tasks.")
    return elects


def _dare(form: _Form) -> str:
    elects = _elected(form)
    form.set(density=lambda p: form.of("density", p))
    rescale = form.values["rescale"]
    form.parameters["rescale"] = rescale != "none"
    if rescale == "density":
        form.note(_RESCALES)
    form.unless("drop", "random", "mergekit's DARE drops at random only.")
    return "dare_ties" if elects else "dare_linear"


def _della(form: _Form) -> str:
    elects = _elected(form)
    form.set(density=lambda p: form.of("density", p), epsilon=lambda p: form.of("density_spread", p))
    for entry in form.each:
        if not 0 < entry["density"] - entry["epsilon"] <= entry["density"] + entry["epsilon"] < 1 > entry["density"]:
            form.note("mergekit needs density ± epsilon in (0, 1); this recipe cuts epsilon instead.")
    form.parameters["rescale"] = form.values["rescale"] != "none"
    if form.values["rescale"] == "probability":
        form.note(_RESCALES)
    return "della" if elects else "della_linear"


def _breadcrumbs(form: _Form) -> str:
    elects = _elected(form)
    form.set(
        density=lambda p: round(1 - form.of("drop_smallest", p) - form.of("drop_largest", p), 12),
        gamma=lambda p: form.of("drop_largest", p),
    )
    form.unless("scope", "tensor", "mergekit counts in each tensor; this recipe in each row.")
    form.unless("count_rule", "keep", "mergekit rounds the part kept, not the parts dropped: one entry may differ.")
    return "breadcrumbs_ties" if elects else "breadcrumbs"


def _slerp(form: _Form) -> str:
    form.parameters["t"], form.base_path = form.values["t"], form.recipe.tasks[0].checkpoint
    form.unless("lerp_above", 0.9995, "mergekit takes the chord above a cosine of 0.9995.")
    return "slerp"


def _on_sphere(name: str) -> Callable[[_Form], str]:
    def make(form: _Form) -> str:
        form.has_base = form.values["on"] == "task_vectors"
        if name == "karcher":
            form.parameters |= {"max_iter": form.values["max_steps"], "tol": form.values["tolerance"]}
            if form.has_base or len({form.of("weight", p) for p in range(len(form.each))}) > 1:
                form.note("mergekit's Karcher mean is of whole weights, all weighing alike.")
            form.has_base = False
            return name
        form.set(weight=lambda p: form.of("weight", p))
        if name == "multislerp":
            form.parameters["normalize_weights"] = form.values["normalize"]
        elif form.values["group"] != "tensor":
            form.parameters |= {"nuslerp_flatten": False, "nuslerp_row_wise": form.values["group"] == "first_axis"}
        return name

    return make


def _named(name: str, scaled: str | None = "scale", **names: str) -> Callable[[_Form], str]:
    """A method whose parameters have other names there; scales other than 1 have no match."""

    def make(form: _Form) -> str:
        form.parameters |= {theirs: form.values[ours] for ours, theirs in names.items()}
        if scaled and any(form.of(scaled, p) != 1 for p in range(len(form.each))):
            form.note(f"mergekit's {name} has no scale per task; all are 1 there.")
        return name

    return make


def _model_stock(form: _Form) -> str:
    if len(form.each) < 2:
        form.impossible = True
        form.note("mergekit's model_stock needs two fine-tunes at least.")
    form.parameters["filter_wise"] = form.values["group"] == "row"
    form.unless("ratio", "published", "mergekit lets the ratio leave 0 … 1 where tasks point against each other.")
    return "model_stock"


_METHODS: Mapping[str, Callable[[_Form], str]] = {
    "weight_average": _linear,
    "lerp": _lerp,
    "task_arithmetic": _arithmetic,
    "ties": _ties,
    "dare": _dare,
    "della": _della,
    "breadcrumbs": _breadcrumbs,
    "slerp": _slerp,
    "nuslerp": _on_sphere("nuslerp"),
    "multislerp": _on_sphere("multislerp"),
    "karcher": _on_sphere("karcher"),
    "sce": _named("sce", select_density="select_topk"),
    "ram": _named("ram", change_threshold="epsilon"),
    "ram_plus": _named("ramplus_tl", change_threshold="epsilon", boost="r", ratio_limit="alpha"),
    "nearswap": _named("nearswap", largest_step="t"),
    "arcee_fusion": _named("arcee_fusion"),
    "model_stock": _model_stock,
}
