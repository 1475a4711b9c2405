"""Says in words what a file of mergekit recipes will do: inputs, layers, semantics, warnings, size, and our twin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from explorer.checkpoints.staging import megabytes
from explorer.errors import InputError
from explorer.mergekit.methods import METHODS, Method
from explorer.mergekit.plan import Plan
from explorer.mergekit.recipes import Limits, plan_file
from explorer.mergekit.schema import Document, RecipeFile
from explorer.mergekit.settings import to_plain
from explorer.mergekit.twin import twin

SEMANTICS: Mapping[str, str] = {
    "linear": "Σ w θ / Σ w over whole weights, or Σ w θ without normalize; a base_model takes part only with a weight.",
    "slerp": "the arc between the weights of two models, tensor by tensor; t = 0 is the base; the chord above |cos| "
    "0.9995, which siblings nearly always are.",
    "nuslerp": "the arc between two models, or between their task vectors where there is a base; t = w₂ / (w₁ + w₂).",
    "multislerp": "the weighted mean direction at the weighted mean length, of task vectors where there is a base.",
    "karcher": "the mean on the sphere of the directions of whole weights, at their mean length; all models alike.",
    "sce": "selects by variance within each tensor, weighs tasks by their mean squares, drops the minority sign.",
    "ram": "what one task alone changed by more than epsilon is added whole, what several changed is averaged.",
    "ramplus_tl": "as ram, with unique changes times 1 + r · min(shared / unique, alpha), counted in each tensor.",
    "model_stock": "the mean drawn towards the base by the mean angle of all pairs, by tensors; not cut to 0 … 1.",
    "nearswap": "the base moved towards the other model, no weight by more than t.",
    "arcee_fusion": "the base with those changes whose importance is an outlier in their tensor.",
    "passthrough": "tensors as they are, or times scale.",
}
_SPARSE = {
    None: "nothing is dropped",
    "magnitude": "the largest density · n changes of each tensor stay",
    "random": "each change stays with the chance density",
    "outliers": "of each tensor the gamma · n largest changes are dropped, then the smallest, so that density · n stay",
    "ranked": "changes stay with chances from density − epsilon to density + epsilon by their rank in the row",
}


def semantics(method: Method) -> str:
    """What a method of mergekit computes, in one sentence."""
    if method.family != "task_vectors":
        return f"{method.title}: {SEMANTICS[method.name]}"
    defaults = {p.name: p.default for p in method.parameters}
    sign = "only changes with the sign of the weighted sum count (0 is +)" if method.elects else "all of them count"
    grow = "on" if defaults["rescale"] else "off"
    divide = "on" if defaults["normalize"] else "off"
    return (
        f"{method.title}: base + lambda · Σ weight · task vector. {_SPARSE[method.sparsify].capitalize()}; {sign}. "
        f"rescale (back to each tensor's old L1 norm) is {grow} by default; normalize (division by the sum of the "
        f"weights that count) is {divide}."
    )


def explain(file: RecipeFile, limits: Limits | None = None) -> dict[str, Any]:
    """All of it as plain values. What cannot be planned, such as missing models, is said under `problems`."""
    plans: tuple[Plan, ...] = ()
    problems: list[str] = []
    try:
        plans = plan_file(file, limits or Limits())
    except InputError as error:
        problems.append(str(error))
    planned = {id(p.document): p for p in plans}
    documents = [_document(d, planned.get(id(d))) for d in file.documents]
    return {"file": file.source, "warnings": list(file.warnings), "documents": documents, "problems": problems}


def _document(document: Document, planned: Plan | None) -> dict[str, Any]:
    recipe, notes = twin(document)
    return {
        "name": document.name,
        "method": document.merge_method,
        "semantics": semantics(METHODS[document.merge_method]),
        "base_model": str(document.base_model) if document.base_model else None,
        "inputs": list(_inputs(document)),
        "parameters": {n: to_plain(v) for n, v in (document.parameters or {}).items()},
        "dtype": document.dtype,
        "out_dtype": document.out_dtype,
        "plan": _plan(planned) if planned else None,
        "warnings": list(planned.warnings) if planned else [],
        "twin": recipe.to_yaml() if recipe else None,
        "twin_notes": list(notes),
    }


def _inputs(document: Document) -> Iterator[str]:
    for source in document.sources():
        layers = f" layers {source.layers[0]} to {source.layers[1] - 1}" if source.layers else ""
        values = {name: to_plain(v) for name, v in (source.parameters or {}).items()}
        yield f"{source.model}{layers}" + (f" {values}" if values else "")


def _plan(planned: Plan) -> dict[str, Any]:
    dtypes = sorted({str(out.dtype).removeprefix("torch.") for out in planned.tensors})
    return {
        "tensors": len(planned.tensors),
        "layers": dict(planned.layers),
        "dtypes": dtypes,
        "output_bytes": planned.total_bytes,
        "read_bytes": planned.read_bytes,
    }


def explanation(told: Mapping[str, Any]) -> str:
    """The values of `explain` as text for a terminal."""
    lines = [str(told["file"])]
    for one in told["documents"]:
        lines += ["", *_lines(one)]
    lines += _block("warnings", told["warnings"]) + _block("this cannot run", told["problems"])
    return "\n".join(lines)


def _lines(one: Mapping[str, Any]) -> Iterator[str]:
    yield f"{one['name'] or 'merge'}: {one['method']}"
    yield f"  {one['semantics']}"
    if one["base_model"]:
        yield f"  base: {one['base_model']}"
    yield from (f"  input: {text}" for text in one["inputs"])
    if one["parameters"]:
        yield f"  for all: {one['parameters']}"
    if one["plan"]:
        layers = ", ".join(f"{count} of {prefix.rstrip('.')}" for prefix, count in one["plan"]["layers"].items())
        sizes = megabytes(one["plan"]["output_bytes"]), megabytes(one["plan"]["read_bytes"])
        dtypes = ", ".join(one["plan"]["dtypes"])
        yield f"  output: {one['plan']['tensors']} tensors, layers: {layers or 'none'}, {sizes[0]} in {dtypes}"
        yield f"  reads {sizes[1]}"
    yield "  arithmetic: " + ("float64" if one["dtype"] == "float64" else "float32, rounded once when stored")
    yield from _block("  warnings", one["warnings"])
    yield from _block("  differences from our method with the paper's semantics", one["twin_notes"])
    if one["twin"]:
        yield "  our recipe:"
        yield from (f"    {line}" for line in one["twin"].rstrip().splitlines())


def _block(title: str, texts: list[str]) -> list[str]:
    indent = " " * (len(title) - len(title.lstrip()))
    return [f"{title}:", *(f"{indent}  - {t}" for t in texts)] if texts else []
