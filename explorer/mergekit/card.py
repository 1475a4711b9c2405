"""The model card of a merge by a mergekit recipe."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

import yaml

from explorer import __version__
from explorer.mergekit.plan import Plan
from explorer.mergekit.schema import ModelRef
from explorer.mergekit.tokens import folder_of


def card(plan: Plan, text: str, seed: int) -> str:
    """Markdown with the front matter that model hubs read, and the sections that readers of merges know."""
    document = plan.document
    models = [m for m in document.models if m != document.base_model]
    base = [f"Base: {shown(document.base_model)}.", ""] if document.base_model else []
    return "\n".join(
        [
            _front_matter(plan),
            "# Merged model",
            "",
            "## Merge Details",
            "",
            "### Merge Method",
            "",
            f"**{plan.method.title}** (`{plan.method.name}`), as mergekit 0.1.5 defines it. Arithmetic is "
            f"{'float64' if document.dtype == 'float64' else 'float32'}, rounded once to the stored dtype.",
            *([f"Seed of the random draws: {seed}."] if plan.method.sparsify in ("random", "ranked") else []),
            "",
            *base,
            "### Models Merged",
            "",
            *(f"* {shown(m)}" for m in models),
            "",
            *_licence_lines(plan),
            "### Configuration",
            "",
            _fenced(_shareable(text.rstrip(), plan)),
            "",
            f"Made with Task Interference Explorer {__version__}.",
            "",
        ]
    )


def _shareable(text: str, plan: Plan) -> str:
    """The recipe with paths that mean nothing elsewhere by their last parts; mergekit_config.yml keeps them whole."""
    paths = {p for m in plan.document.models for p in (m.path, m.lora) if p}
    for path in sorted(paths, key=len, reverse=True):
        text = text.replace(path, shown(ModelRef(path)))
    return text


def _fenced(text: str) -> str:
    """The recipe in a fence that is longer than any in it."""
    longest = max((len(line) - len(line.lstrip("`")) for line in text.splitlines()), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}yaml\n{text}\n{fence}"


def _front_matter(plan: Plan) -> str:
    licences = _licences(plan)
    known = {licence for licence in licences.values() if licence}
    front: dict[str, object] = {
        "base_model": [shown(m) for m in plan.document.models],
        "base_model_relation": "merge",
        "library_name": "transformers",
        "tags": ["mergekit", "merge"],
    }
    if len(known) == 1 and all(licences.values()):
        front["license"] = known.pop()
    return "---\n" + yaml.safe_dump(front, sort_keys=False, allow_unicode=True) + "---\n"


def _licence_lines(plan: Plan) -> list[str]:
    licences = _licences(plan)
    if len(set(licences.values())) < 2:
        return []
    listed = (f"* {model}: {licence or 'not stated'}" for model, licence in licences.items())
    return ["### Licences", "", "The merged models do not state one common licence:", "", *listed, ""]


def _licences(plan: Plan) -> dict[str, str | None]:
    return {shown(m): _licence(folder_of(c) / "README.md") for m, c in plan.models.items()}


def _licence(readme: Path) -> str | None:
    """The licence in the front matter of a model card, or None."""
    try:
        with open(readme, encoding="utf-8") as stream:
            head = stream.read(65_536).split("---")
        front = yaml.safe_load(head[1]) if len(head) > 2 and not head[0].strip() else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    found = front.get("license") if isinstance(front, dict) else None
    return found if isinstance(found, str) else None


def shown(model: ModelRef | None) -> str:
    """A model as others know it: a name on the hub as it is, a path that means nothing elsewhere by its last part."""
    path = str(model)
    posix, windows = PurePosixPath(path), PureWindowsPath(path)
    elsewhere = posix.is_absolute() or bool(windows.anchor) or windows.parts[:1] in (("..",), ("~",))
    return windows.name or "model" if elsewhere else path
