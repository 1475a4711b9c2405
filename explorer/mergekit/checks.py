"""What must hold of a recipe before anything is read: lineage, numbers of inputs, layers, values that fit together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from explorer.checkpoints import Checkpoint
from explorer.mergekit.inputs import Out
from explorer.mergekit.layers import Layout
from explorer.mergekit.methods import IGNORED, REQUIRED, Method
from explorer.mergekit.schema import Document, ModelRef, Slice
from explorer.mergekit.settings import Conditional, Setting, Settings
from explorer.mergekit.trouble import Trouble


def check_lineage(
    document: Document, models: Mapping[ModelRef, Checkpoint], trouble: Trouble, *, allow_crimes: bool
) -> None:
    """All models must be of one architecture; with `allow_crimes` it is only said."""
    kinds: dict[str, list[str]] = {}
    for model, checkpoint in models.items():
        kinds.setdefault(model.architecture or checkpoint.architecture, []).append(str(model))
    if len(kinds) < 2:
        return
    got = ", ".join(f"{kind} ({', '.join(names)})" for kind, names in kinds.items())
    if allow_crimes:
        trouble.warn(document.line, f"models of different architectures are merged, as asked: {got}.")
        return
    advice = "Choose models of one family; --allow-crimes tries it all the same."
    trouble.say(document.line, "models", "all models must have one architecture", got, advice)


def check_contract(method: Method, part: Slice, base: ModelRef | None, trouble: Trouble) -> None:
    """Whether a slice has the base and as many inputs as the method needs."""
    models = [s.model for s in part.sources]
    if method.base == IGNORED:
        base = None
    if method.base == REQUIRED and base is None:
        trouble.say(part.line, method.name, "needs a base_model", "none", "Add `base_model: …` at the top level.")
    elif base is not None and base not in models:
        advice = "Add it to the sources of the slice, with its layer_range."
        trouble.say(part.line, method.name, "the base must be among the sources of every slice", str(base), advice)
    tasks = len(models) - (base in models)
    for what, count, (least, most) in (
        ("all inputs", len(models), method.inputs),
        ("inputs beside the base", tasks, method.tasks),
    ):
        if count < least or (most is not None and count > most):
            wanted = str(least) if least == most else f"at least {least}" if most is None else f"at most {most}"
            advice = "Change the list of models."
            trouble.say(part.line, method.name, f"the number of {what} must be {wanted}", count, advice)


def check_slices(
    slices: Sequence[Slice], layouts: Mapping[ModelRef, Layout], document: Document, trouble: Trouble
) -> None:
    """Whether the layers that slices name exist."""
    for part in slices:
        for source in part.sources:
            counts = [s.count for s in layouts[source.model].stacks]
            if source.layers and counts and source.layers[1] > max(counts):
                must = f"layers of {source.model} must lie in [0, {max(counts)})"
                advice = "The end of a layer_range is left out."
                trouble.say(source.line or document.line, "layer_range", must, list(source.layers), advice)


def check_values(outs: Sequence[Out], method: Method, document: Document, trouble: Trouble) -> None:
    """Values that end in an error, or in a model of nonsense, once they meet: said once each."""
    said: set[str] = set()
    for out in outs:
        if out.copied:
            continue
        for key, problem in _value_problems(out, method):
            if key not in said:
                said.add(key)
                trouble.say(document.line, *problem)


def _value_problems(out: Out, method: Method) -> Iterator[tuple[str, tuple[str, str, object, str]]]:
    for place in out.tasks:
        values = out.each[place]
        density, spread = float(values.get("density", 1.0)), values.get("epsilon")
        if spread is not None and 0 < density < 1 and not 0 < density - spread <= density + spread < 1:
            must, got = "density − epsilon and density + epsilon must lie in (0, 1)", f"{density:g} ± {spread:g}"
            yield f"spread {got}", (f"{method.name}, {out.inputs[place][0]}", must, got, "Use a smaller epsilon.")
    weights = [e["weight"] for e in out.each if e.get("weight") is not None]
    dividing = (method.name == "linear" and out.shared["normalize"]) or out.shared.get("normalize_weights")
    if dividing and len(weights) == len(out.each) and abs(sum(weights)) < 1e-12:
        must = "weights that are normalised must not sum to 0"
        yield "sum", (method.name, must, f"{out.name} with {weights}", "Change one, or set normalize: false.")


def unused_filters(document: Document, outs: Sequence[Out], trouble: Trouble) -> None:
    """Warn about filters that fit no tensor, and gradients whose ends differ: t = 0 is also outside the layers."""
    names = {n for out in outs for _, n in out.inputs} | {out.name for out in outs}
    fits: dict[str, bool] = {}
    graded = set()
    for parameter, setting in _every_setting(document):
        conditions = setting if isinstance(setting, tuple) else (setting,)
        for one in conditions:
            if isinstance(one, Conditional) and one.filter not in (None, "*"):
                assert one.filter is not None
                fits[one.filter] = any(one.fits(n) for n in names)
        if _is_gradient(setting):
            graded.add(parameter)
    for pattern in sorted(p for p, fit in fits.items() if not fit):
        trouble.warn(document.line, f"filter {pattern!r} fits no tensor; it is compared with a part of the name.")
    for parameter in sorted(graded):
        text = f"the gradient of {parameter} runs over the layers of each slice; embeddings, the last norm and the "
        trouble.warn(document.line, f"{text}output head take its first value.")


def _is_gradient(setting: Setting) -> bool:
    if isinstance(setting, Conditional):
        return isinstance(setting.value, tuple) and setting.filter in (None, "*")
    if not isinstance(setting, tuple):
        return False
    return any(_is_gradient(s) if isinstance(s, Conditional) else len(setting) > 1 for s in setting)


def _every_setting(document: Document) -> Iterator[tuple[str, Setting]]:
    for settings in _every_settings(document):
        yield from settings.items()


def _every_settings(document: Document) -> Iterator[Settings]:
    held = [document.parameters, *(s.parameters for s in document.sources())]
    held += [s.parameters for s in document.slices()] + [m.parameters for m in document.modules.values()]
    yield from (h for h in held if h)
