"""Who may import whom, what a bare import costs, how long a file may be; each guard is shown to be able to fail."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LEVEL_0 = {"errors", "params", "blocks", "registry", "results", "seeds", "recipe", "executor", "store"}
LEVEL_1 = {"checkpoints", "compute", "task_vectors", "masks"}
LEVEL_2 = {"merging", "interference", "evaluation", "tuning"}
NEVER_IN_EXPLORER = {"gradio", "plotly", "viz", "app"}
PUT_TOGETHER = {"__main__": {"viz.report"}}
"""What starts the command line may hand it what draws; nothing else in explorer knows of viz."""
MAX_LINES = 300


def imports(text: str) -> set[str]:
    """Dotted names of every absolute import in a module, however deep."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
    return found


def room_of(path: Path) -> str:
    """`merging` for explorer/merging/ties.py, `errors` for explorer/errors.py, `charts` for viz/charts/…"""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if len(parts) > 1 else parts[0]


def rooms_used(names: set[str]) -> set[str]:
    """Rooms of explorer that the imports touch."""
    return {n.split(".")[1] for n in names if n.startswith("explorer.")}


def explorer_violations(room: str, names: set[str]) -> list[str]:
    """What one module of explorer may not import."""
    used = rooms_used(names) - {room}
    given = PUT_TOGETHER.get(room, set())
    top = {n.split(".")[0] for n in names if not any(n == g or n.startswith(f"{g}.") for g in given)}
    bad = sorted(top & NEVER_IN_EXPLORER)
    if room in LEVEL_0:
        bad += sorted(top & {"torch", "transformers", "safetensors"}) + sorted(used - LEVEL_0)
    elif room in LEVEL_1 or room in LEVEL_2:
        bad += sorted(used - LEVEL_0 - LEVEL_1)
    return bad


def viz_violations(room: str, names: set[str]) -> list[str]:
    """What one module of viz may not import."""
    top, used = {n.split(".")[0] for n in names}, rooms_used(names)
    if room in ("charts", "style", "export", "report", "words"):
        return sorted(top & {"torch", "gradio", "transformers"}) + sorted(used - LEVEL_0)
    if room == "parts":
        return sorted(top & {"torch", "transformers"}) + sorted(used - LEVEL_0)
    return sorted(top & {"torch", "transformers"}) + sorted(used & (LEVEL_1 | LEVEL_2))


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", modules("explorer"), ids=lambda p: str(p.relative_to(ROOT)))
def test_explorer_layers(path: Path) -> None:
    assert explorer_violations(room_of(path), imports(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", modules("viz"), ids=lambda p: str(p.relative_to(ROOT)))
def test_viz_layers(path: Path) -> None:
    assert viz_violations(room_of(path), imports(path.read_text(encoding="utf-8"))) == []


def test_the_layer_guard_can_fail() -> None:
    assert explorer_violations("merging", imports("from explorer.interference import x")) == ["interference"]
    assert explorer_violations("params", imports("def f():\n    import torch")) == ["torch"]
    assert explorer_violations("session", imports("import plotly.graph_objects")) == ["plotly"]
    assert explorer_violations("__main__", imports("from viz.report import write_survey_report")) == []
    assert explorer_violations("__main__", imports("from viz.panels.page import build")) == ["viz"]
    assert explorer_violations("cli", imports("from viz.report import write_survey_report")) == ["viz"]
    assert viz_violations("report", imports("from explorer.headlines import headlines")) == ["headlines"]
    assert explorer_violations("checkpoints", imports("import explorer.merging._api")) == ["merging"]
    assert viz_violations("charts", imports("import torch")) == ["torch"]
    assert viz_violations("panels", imports("from explorer.merging import METHODS")) == ["merging"]
    assert explorer_violations("merging", imports("from explorer.compute.select import k")) == []


def loaded_after(statement: str, package: str) -> bool:
    """Whether `package` is loaded in a fresh interpreter after `statement`."""
    code = f"import sys; {statement}; sys.exit(7 if {package!r} in sys.modules else 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 7), done.stderr
    return done.returncode == 7


@pytest.mark.parametrize("package", ["torch", "pandas", "ray", "transformers", "gradio", "numba"])
def test_import_explorer_is_light(package: str) -> None:
    assert not loaded_after("import explorer", package)


def test_merging_leaves_numba_unloaded_until_it_merges() -> None:
    assert not loaded_after("import explorer.merging", "numba")
    assert loaded_after("import explorer.merging._fused as f; f.kernels()", "numba")


def test_reading_recipes_of_others_leaves_torch_unloaded() -> None:
    assert not loaded_after("import explorer.mergekit.reading", "torch")


def test_import_report_leaves_torch_and_gradio_unloaded() -> None:
    assert not loaded_after("import viz.report", "torch") and not loaded_after("import viz.report", "gradio")


def test_import_charts_leaves_torch_unloaded() -> None:
    assert not loaded_after("import viz.charts", "torch")


def test_the_import_guard_can_fail() -> None:
    assert loaded_after("import explorer.results", "pandas")


def too_long(text: str) -> bool:
    return len(text.splitlines()) > MAX_LINES


SOURCES = [*modules("explorer"), *modules("viz"), ROOT / "app.py", *sorted((ROOT / "viz").rglob("*.js"))]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_readable(path: Path) -> None:
    assert not too_long(path.read_text(encoding="utf-8"))


def test_app_is_thin() -> None:
    assert len((ROOT / "app.py").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_length_guard_can_fail() -> None:
    assert too_long("\n" * (MAX_LINES + 1)) and not too_long("\n" * MAX_LINES)


UNSAFE = {
    "pickle": r"\bpickle\.loads?\(|torch\.load\((?![^)]*weights_only=True)",
    "remote code": r"trust_remote_code\s*=\s*True",
    "global random numbers": r"torch\.manual_seed\(|np\.random\.(seed|rand|randn|permutation)\(",
}


@pytest.mark.parametrize("what", UNSAFE)
def test_nothing_unsafe_in_the_product(what: str) -> None:
    found = [p.name for f in ("explorer", "viz") for p in modules(f) if re.search(UNSAFE[what], p.read_text("utf-8"))]
    assert found == []


def test_the_safety_guard_can_fail() -> None:
    assert re.search(UNSAFE["pickle"], "torch.load(path)")
    assert not re.search(UNSAFE["pickle"], "torch.load(path, weights_only=True)")
    assert re.search(UNSAFE["global random numbers"], "np.random.seed(0)")
