"""One file is one plugin: its declaration alone gives command line, controls, JSON schema and reference page."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from explorer import reference
from explorer.cli import main
from explorer.errors import ParameterError
from explorer.interference import METRICS
from explorer.library import merge_state_dicts, survey_state_dicts
from explorer.merging import METHODS
from explorer.registry import Registry
from viz.parts import controls_value, read_controls

METHOD = '''
from typing import Annotated

from explorer.merging import method
from explorer.params import Choice, PerTask, Range


@method(title="Half of each", paper="none", granularity="elementwise", formula="λ τ / 2", when="In tests.",
        when_not="Elsewhere.")
def half_of_each(
    deltas,
    *,
    scale: Annotated[float, Range(0, 1, open_low=True, step=0.25), PerTask(), "how much of each task"] = 0.5,
    mood: Annotated[str, Choice("calm", "wild"), "in which mood"] = "calm",
):
    """Half of the scaled sum of task vectors."""
    return (scale.view(-1, *[1] * (deltas.dim() - 1)) * deltas).sum(0) / 2
'''
METRIC = '''
from typing import Annotated

import torch

from explorer.interference import metric
from explorer.params import Range
from explorer.results import count, fraction


@metric(title="Large changes", columns=(fraction("share", "share of large changes"), fraction("null", "chance")),
        on="raw", higher_is_worse=None, paper="none", unit="share", how="Read it.")
def large_changes(
    deltas, *, above: Annotated[float, Range(0, 9, step=0.5), "what counts as large"] = 1.0, context
):
    """Share of changes larger than a bound."""
    return {"large": (deltas.abs() > above).sum().double(), "n": torch.tensor(float(deltas.numel())).double()}


@large_changes.finish
def _(total, tasks, parameters):
    """Share of changes larger than a bound."""
    n = float(total["n"])
    return [{"share": float(total["large"]) / n if n else float("nan"), "null": 0.0}]
'''
Installer = Callable[[Registry, str, str], str]


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installer]:
    """Write a plugin into a package of its own and let the registry find it; forget it afterwards."""
    undo: list[Callable[[], object]] = []

    def install(registry: Registry, name: str, text: str) -> str:
        package = f"plugins_of_{name}"
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
        (tmp_path / package / f"{name}.py").write_text(text, encoding="utf-8")
        monkeypatch.syspath_prepend(str(tmp_path))
        importlib.invalidate_caches()
        registry.extend(package)
        undo.append(lambda: registry.forget(name))
        undo.append(lambda: registry.retract(package))
        undo.append(lambda: [sys.modules.pop(m) for m in (package, f"{package}.{name}") if m in sys.modules])
        return name

    yield install
    for step in undo:
        step()


def test_a_method_appears_everywhere(plugin: Installer, capsys: pytest.CaptureFixture[str]) -> None:
    name = plugin(METHODS, "half_of_each", METHOD)
    found = METHODS.get(name)
    assert main(["methods", "--json"]) == 0
    entry = next(m for m in json.loads(capsys.readouterr().out) if m["name"] == name)
    ranges = {p["name"]: p["allowed"] for p in entry["parameters"]}
    assert ranges == {"scale": "(0, 1]", "mood": "one of calm, wild"}
    shown = controls_value(found.title, found.specs)
    assert [(s["name"], s["control"]) for s in shown["specs"]] == [("scale", "slider"), ("mood", "list")]
    assert shown["specs"][0]["low"] == 0.25, "the slider begins at its first legal value"
    with pytest.raises(ParameterError, match="mood must be one of calm, wild"):
        read_controls({"values": {"mood": "bored"}}, found.specs, who=name)
    text = reference.page("methods")
    assert (
        f"## Half of each (`{name}`)" in text
        and "| `scale` | (0, 1] | 0.5 | per task | how much of each task |" in text
    )
    schema = {s.name: s.json_schema() for s in found.specs}
    assert schema["mood"]["enum"] == ["calm", "wild"]
    single, several = schema["scale"]["anyOf"]
    assert single == {"type": "number", "exclusiveMinimum": 0, "maximum": 1}
    assert several == {"type": "object", "additionalProperties": single}
    merged = merge_state_dicts({"w": torch.zeros(3)}, {"a": {"w": torch.ones(3)}}, name, scale=1.0)
    assert torch.equal(merged["w"], torch.full((3,), 0.5))  # type: ignore[arg-type]


def test_a_metric_appears_everywhere(plugin: Installer, capsys: pytest.CaptureFixture[str]) -> None:
    name = plugin(METRICS, "large_changes", METRIC)
    found = METRICS.get(name)
    assert main(["metrics", "--json"]) == 0
    entry = next(m for m in json.loads(capsys.readouterr().out) if m["name"] == name)
    assert entry["parameters"][0]["allowed"] == "[0, 9]"
    assert [c["name"] for c in entry["columns"]] == ["share", "null"]
    assert controls_value(found.title, found.specs)["values"] == {"above": 1.0}
    assert "| `above` | [0, 9] | 1.0 |  | what counts as large |" in reference.page("metrics")
    schema = found.specs[0].json_schema()
    assert (schema["minimum"], schema["maximum"]) == (0, 9)
    table = survey_state_dicts({"w": torch.zeros(4)}, {"a": {"w": torch.tensor([0.0, 2, 2, 2])}}, [name])[name]
    assert table.at("model")["share"].tolist() == [0.75]


def test_a_plugin_makes_the_reference_pages_stale(plugin: Installer) -> None:
    plugin(METHODS, "half_of_each", METHOD)
    assert reference.page_path("methods") in reference.stale_pages()


def test_the_plugins_are_gone_afterwards() -> None:
    assert "half_of_each" not in METHODS and "large_changes" not in METRICS
