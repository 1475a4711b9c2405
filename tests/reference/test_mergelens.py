"""Signs against MergeLens 2.0.3, where it is installed: its one figure mixes what we show apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from explorer.checkpoints import open_checkpoint
from explorer.checkpoints.source import CheckpointSource
from explorer.interference import survey

mergelens = pytest.importorskip("mergelens", reason="pip install --no-deps --target FOLDER mergelens==2.0.3")

SHAPES = {"model.layers.0.mlp.up_proj.weight": (40, 30), "model.layers.1.mlp.up_proj.weight": (25, 30)}


def folder_of(place: Path, tensors: dict[str, torch.Tensor]) -> str:
    place.mkdir()
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    (place / "config.json").write_text('{"model_type": "llama"}')
    return str(place)


def test_its_sign_disagreement_is_our_conflict_and_one_sided_changes_together(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    draw = lambda s: torch.randn(s, generator=generator) * (torch.rand(s, generator=generator) < 0.4)  # noqa: E731
    base = {n: torch.randn(s, generator=generator).bfloat16() for n, s in SHAPES.items()}
    tuned = {t: {n: (v + draw(v.shape) / 5).bfloat16() for n, v in base.items()} for t in ("a", "b", "c")}
    paths = {t: folder_of(tmp_path / t, v) for t, v in tuned.items()}
    root = folder_of(tmp_path / "base", base)
    theirs = mergelens.compare_models(
        list(paths.values()), base_model=root, metrics=["sign_disagreement_rate"], show_progress=False
    )
    opened = {t: open_checkpoint(Path(p)) for t, p in paths.items()}
    source = CheckpointSource(open_checkpoint(Path(root)), opened, list(SHAPES))
    rows = survey(source, ["sign_conflict"])["sign_conflict"].at("tensor")
    assert len(theirs.candidate_set_metrics) == len(SHAPES)
    for row in theirs.candidate_set_metrics:
        own, n = rows[rows.tensor == row.tensor_name], row.parameter_count
        mixed = own.kept_a + own.kept_b - (2 - own.conflict) * own.n_both / n
        assert row.sign_disagreement_rate == pytest.approx(mixed.mean(), rel=1e-6)  # theirs is rounded to float32
