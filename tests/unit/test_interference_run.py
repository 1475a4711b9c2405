"""The one pass: what it computes once, keeps, refuses, reports, and that sums suffice for another look."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from explorer.checkpoints.groups import Group
from explorer.compute.source import StateDictSource
from explorer.errors import Cancelled, ParameterError, UnknownNameError
from explorer.executor import CancelToken, Progress, ThreadExecutor
from explorer.interference import METRICS, SURVEY_SPECS, Context, collect, metric, survey
from explorer.params import Range
from explorer.results import number


def source_of(tasks: int = 3) -> StateDictSource:
    generator = torch.Generator().manual_seed(0)
    shapes = {"layers.0.q": (20, 30), "layers.0.k": (7,), "layers.1.q": (40,), "table": (50,)}
    base = {n: torch.randn(s, generator=generator) for n, s in shapes.items()}
    draw = lambda n, v: v if n == "table" else v + torch.randn(v.shape, generator=generator) / 8  # noqa: E731
    return StateDictSource(base, {f"t{i}": {n: draw(n, v) for n, v in base.items()} for i in range(tasks)})


def group(name: str) -> Group:
    """A stand-in that knows two layers."""
    if name == "table":
        return Group("embeddings", -1, "table")
    _, layer, kind = name.split(".")
    return Group(f"layer {layer}", int(layer), kind)


@contextmanager
def registered(*names: str) -> Iterator[None]:
    """Forget test metrics again."""
    try:
        yield
    finally:
        for name in names:
            METRICS.forget(name)


def told(**changes: Any) -> dict[str, Any]:
    """A complete declaration."""
    return {"title": "Probe", "columns": (number("null", "x"),), "on": "raw", "higher_is_worse": None, "paper": "none",
            "unit": "1", "how": "Look.", **changes}  # fmt: skip


def test_levels_come_model_first_then_layers_by_depth() -> None:
    table = survey(source_of(), ["minority_mass"], groups=group)["minority_mass"].table
    assert table.level.tolist() == ["model", *["layer"] * 3, *["kind"] * 3, *["cell"] * 4, *["tensor"] * 4]
    assert table.layer.tolist()[1:4] == ["embeddings", "layer 0", "layer 1"]
    assert table.layer_index.tolist()[:5] == [-1, -1, 0, 1, -1]
    assert table.n.tolist()[:7] == [697, 50, 607, 40, 7, 640, 50]
    cell = table[(table.level == "cell") & (table.layer == "layer 0") & (table["kind"] == "k")].iloc[0]
    assert cell.n == 7 and cell.tensor == ""


def test_metrics_with_one_partial_function_share_one_call_per_chunk() -> None:
    calls = []

    def counting(deltas: Tensor, *, context: Context) -> dict[str, Tensor]:
        """Count."""
        calls.append((context.tensor, context.unchanged))
        return {"n": torch.tensor(deltas.shape[1])}

    with registered("probe_a", "probe_b"):
        for name in ("probe_a", "probe_b"):
            metric(name=name, **told())(counting).finish(lambda total, tasks, parameters: [{"null": total["n"]}])
        found = survey(source_of(), ["probe_a", "probe_b"], groups=group)
    assert sorted(c for c in calls if c[0]) == [
        ("layers.0.k", False), ("layers.0.q", False), ("layers.1.q", False), ("table", True)
    ]  # fmt: skip
    assert found["probe_b"].at("model").null.tolist() == [697]


def test_other_finish_parameters_need_no_weights() -> None:
    source = source_of()
    found = collect(source, groups=group)
    source.base = source.task = None  # type: ignore[assignment,method-assign]
    tensors = found.finish("mask_overlap", mask_threshold=0.6).at("tensor")
    assert set(tensors.threshold) == {0.6} and len(tensors) == 4 * 3
    assert set(found.finish("mask_agreement").at("tensor").threshold) == {0.4}
    assert len(found.finish("mask_overlap").at("cell")) == 4 * 40 * 3
    assert found.size_bytes > 0
    with pytest.raises(ParameterError, match=r"mask_overlap: finish takes .*; got denominator\. Run the survey again"):
        found.finish("mask_overlap", denominator="changed")
    with pytest.raises(ParameterError, match="mask_threshold must be in"):
        found.finish("mask_overlap", mask_threshold=9)


def test_only_the_metrics_asked_for_are_computed() -> None:
    found = collect(source_of(), ["sign_conflict"], groups=group)
    assert list(found.planned) == ["sign_conflict"] and len(found.nothing) == 1
    with pytest.raises(UnknownNameError, match="metric of this survey; got 'cosine'"):
        found.finish("cosine")


def test_all_wrong_parameters_are_named_at_once() -> None:
    wrong = {"mask_overlap": {"mask_threshold": 7, "denominatr": "all"}, "cosin": {}}
    with pytest.raises(ParameterError) as caught:
        survey(source_of(), parameters=wrong, groups=group)
    text = str(caught.value)
    assert "mask_threshold must be in [0.05, 2]; got 7" in text
    assert "Did you mean 'denominator'?" in text and "Did you mean 'cosine'?" in text
    with pytest.raises(UnknownNameError, match=r"'sign_conflit'; |'sign_conflit'\. Did you mean 'sign_conflict'"):
        survey(source_of(), ["sign_conflit"], groups=group)
    with pytest.raises(ParameterError, match=r"survey: trim_density must be in \(0, 1\]; got 20. Use 0.2 for 20 %"):
        survey(source_of(), trim_density=20, groups=group)
    assert [s.name for s in SURVEY_SPECS] == ["trim_density", "denominator"]


def test_the_denominator_reaches_metrics_that_declare_it_unless_given() -> None:
    source = source_of()
    both = {"mask_agreement": {"denominator": "all"}}
    found = collect(source, parameters=both, denominator="changed", groups=group)
    assert found.planned["mask_overlap"].partial == {"denominator": "changed"}
    assert found.planned["mask_agreement"].partial == {"denominator": "all"}
    zero = lambda name: found.finish(name).at("model").iloc[0]  # noqa: E731
    assert found.sums["table"][found.planned["mask_overlap"].job]["n"] == 0
    assert zero("mask_agreement").share >= 50 / 697


def test_provenance_names_the_source_the_rules_and_the_seconds() -> None:
    source = source_of()
    provenance = survey(source, ["cosine", "sign_conflict"], trim_density=0.5, groups=group)["cosine"].provenance
    assert provenance["source"] == source.digest and provenance["tasks"] == ["t0", "t1", "t2"]
    assert provenance["trim_density"] == 0.5 and provenance["n"] == 697 and provenance["seconds"] >= 0
    assert list(provenance["trim_thresholds"]) == ["t0", "t1", "t2"]
    assert survey(source, ["cosine"], trim_density=0.5, groups=group)["cosine"].provenance["trim_thresholds"] is None


def test_progress_is_told_and_a_cancelled_pass_stops() -> None:
    seen: list[Progress] = []
    survey(source_of(), ["cosine"], progress=seen.append, groups=group)
    assert [(p.done, p.total) for p in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        survey(source_of(), cancel=token, executor=ThreadExecutor(2), groups=group)


def test_an_empty_model_gives_tables_without_numbers() -> None:
    empty = StateDictSource({}, {"a": {}, "b": {}})
    found = survey(empty, groups=group)
    assert found["cosine"].table.cosine.isna().all() and found["minority_mass"].at("model").n.tolist() == [0]
    assert found["mask_agreement"].table.share.isna().all()


def test_mixed_precision_sources_are_surveyed() -> None:
    base = {"a": torch.zeros(6, dtype=torch.float64), "b": torch.zeros(6), "c": torch.zeros(6, dtype=torch.bfloat16)}
    tasks = {t: {n: torch.full_like(v, s) for n, v in base.items()} for t, s in (("x", 1.0), ("y", -1.0))}
    other = lambda name: Group("layer 0", 0, "other")  # noqa: E731
    found = survey(StateDictSource(base, tasks), trim_density=0.5, groups=other)
    assert found["sign_conflict"].at("model").conflict.tolist() == [1] and found["cosine"].at("model").cosine[0] == -1


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"columns": (number("x", "x"),)}, "needs a column `null`"),
        ({"on": "both"}, "on must be raw, trimmed or matrix"),
        ({"how": ""}, "lacks how"),
        ({"name": "cosine"}, "registered twice"),
    ],
)
def test_an_incomplete_declaration_is_refused(changes: dict[str, Any], complaint: str) -> None:
    assert "cosine" in METRICS

    def probe(deltas: Tensor, *, context: Context) -> dict[str, Tensor]:
        """Probe."""
        return {}

    with pytest.raises(TypeError, match=complaint):
        metric(**told(**changes))(probe)
    assert "probe" not in METRICS


def test_a_new_metric_needs_only_its_declaration() -> None:
    with registered("largest"):

        @metric(**told(columns=(number("value", "x"), number("null", "x"))))
        def largest(
            deltas: Tensor, *, power: Annotated[float, Range(0, 4), "exponent"] = 2.0, context: Context
        ) -> dict[str, Tensor]:
            """Sum of powers."""
            return {"sum": (deltas.abs() ** power).sum(dtype=torch.float64)}

        @largest.finish
        def _(total: Any, tasks: Any, parameters: Any, *, times: Annotated[float, Range(0, 9), "factor"] = 1.0) -> list:
            return [{"value": float(total["sum"]) * times, "null": parameters["power"]}]

        assert [s.name for s in largest.specs] == ["power", "times"] and largest.help == "Sum of powers."
        with pytest.raises(TypeError, match="finish function already"):
            largest.finish(lambda total, tasks, parameters: [])
        found = collect(source_of(), ["largest"], parameters={"largest": {"power": 0.0}}, groups=group)
        assert found.finish("largest", times=2.0).at("model").value.tolist() == [2 * 3 * 697]
        pd.testing.assert_series_equal(found.finish("largest").table.null, pd.Series([0.0] * 15, name="null"))
