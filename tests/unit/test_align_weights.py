"""What only the weights can tell: frozen and tied tensors, another ancestor, NaN."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from explorer.checkpoints import Checkpoint, compare, open_checkpoint
from explorer.checkpoints.align import align
from explorer.checkpoints.compare import check_finite, drift_and_cosine, largest_matrices, same_bytes
from explorer.errors import Cancelled, CheckpointError
from explorer.executor import CancelToken

SAMPLES = Path(__file__).resolve().parents[2] / "sample_checkpoints"


def opened(folder: Path, *shards: dict[str, torch.Tensor], **config: object) -> Checkpoint:
    folder.mkdir(parents=True, exist_ok=True)
    for number, state in enumerate(shards):
        save_file({k: v.clone() for k, v in state.items()}, folder / f"part{number}.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return open_checkpoint(folder)


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_frozen_is_byte_for_byte(tmp_path: Path) -> None:
    base = {"a": torch.tensor([0.0, 1.0]), "b": torch.tensor([float("nan")]), "c": torch.ones(3), "d": torch.ones(2)}
    task = {**base, "a": torch.tensor([-0.0, 1.0]), "d": torch.ones(2).half()}
    alignment = align(opened(tmp_path / "b", base), {"t": opened(tmp_path / "t", task)})
    assert alignment.frozen("t") == ("b", "c")  # NaN equals itself; -0 is not 0; another dtype is not the same bytes
    assert ("frozen", "c") in {(r["category"], r["tensor"]) for r in alignment.rows()}
    assert alignment.reports["t"].counts()["frozen"] == 2


def test_identical_shards_need_no_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    same, other = {"a": random(0, 50)}, {"b": random(1, 50)}
    base, task = opened(tmp_path / "b", same, other), opened(tmp_path / "t", same, {"b": random(2, 50)})
    compared: list[str] = []
    original = compare.same_bytes

    def spy(*arguments: object) -> bool:
        compared.append(str(arguments[1]))
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(compare, "same_bytes", spy)
    assert align(base, {"t": task}).frozen("t") == ("a",)
    assert compared == ["b"]


def test_a_difference_in_the_last_chunk_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "_CHUNK_ELEMENTS", 10)
    values = random(0, 25)
    late = values.clone()
    late[24] += 1
    base, task = opened(tmp_path / "b", {"a": values, "b": late}), opened(tmp_path / "t", {"a": late, "b": late})
    assert not same_bytes(base, "a", task, "a") and same_bytes(base, "b", task, "b")


@pytest.mark.parametrize(
    ("config", "head", "expected"),
    [
        ({"tie_word_embeddings": True}, "same", ("lm_head.weight",)),
        ({}, "same", ("lm_head.weight",)),
        ({"tie_word_embeddings": False}, "same", ()),
        ({"tie_word_embeddings": True}, "other", ()),
        ({"tie_word_embeddings": True}, "shape", ()),
    ],
)
def test_tied_head(tmp_path: Path, config: dict, head: str, expected: tuple[str, ...]) -> None:
    embedding = random(0, 6, 4)
    heads = {"same": embedding, "other": random(1, 6, 4), "shape": embedding[:5]}
    state = {"model.embed_tokens.weight": embedding, "lm_head.weight": heads[head], "x.weight": embedding}
    checkpoint = opened(tmp_path / "m", state, **config)
    assert align(checkpoint, {"t": checkpoint}).reports["t"].tied == expected


def test_t5_names_one_source(tmp_path: Path) -> None:
    names = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
    checkpoint = opened(tmp_path / "m", dict.fromkeys(names, random(0, 6, 4)))
    assert align(checkpoint, {"t": checkpoint}).reports["t"].tied == tuple(sorted(names[1:]))


def test_lineage(tmp_path: Path) -> None:
    state = {f"w{i}": random(i, 20, 30) for i in range(6)} | {"bias": random(9, 5)}
    base = opened(tmp_path / "base", state)
    tasks = {
        "child": {n: t + 0.01 * random(50, *t.shape) for n, t in state.items()},
        "stranger": {n: random(100 + i, *t.shape) for i, (n, t) in enumerate(state.items())},
        "scaled": {n: 3 * t for n, t in state.items()},
        "broken": {n: t * float("nan") for n, t in state.items()},
    }
    alignment = align(base, {n: opened(tmp_path / n, s) for n, s in tasks.items()})
    assert alignment.lineage_warning("child") is None
    warning = alignment.lineage_warning("stranger")
    assert warning is not None and warning.startswith(
        "task stranger: a fine-tune of base stays near it (drift at most 0.7, cosine at least 0.5); got a drift of 1."
    )
    scaled = alignment.lineage_warning("scaled")
    assert scaled is not None and "got a drift of 2.00 and a cosine of 1.00" in scaled
    assert alignment.lineage_warning("broken") is None  # check_finite says what is wrong there


def test_drift_and_cosine_by_hand(tmp_path: Path) -> None:
    base = opened(tmp_path / "b", {"a": torch.tensor([[3.0, 0.0]]), "z": torch.zeros(1, 2)})
    task = opened(tmp_path / "t", {"a": torch.tensor([[3.0, 4.0]]), "z": torch.zeros(1, 2)})
    drift, cosine = drift_and_cosine(base, task, ["a"])
    assert drift == pytest.approx(4 / 3) and cosine == pytest.approx(3 / 5)
    assert all(value != value for value in drift_and_cosine(base, task, ["z"]))


def test_largest_matrices_are_two_dimensional(tmp_path: Path) -> None:
    shapes = {"v": (1000,), "c": (10, 10, 10), "s": (2, 2), "m": (5, 5), "n": (5, 5), "l": (9, 9)}
    base = opened(tmp_path / "b", {n: torch.zeros(*s) for n, s in shapes.items()})
    assert largest_matrices(base, shapes, count=3) == ("l", "m", "n")


def test_the_sample_is_a_family() -> None:
    names = ("spam", "movies", "intents")
    alignment = align(open_checkpoint(SAMPLES / "base"), {n: open_checkpoint(SAMPLES / n) for n in names})
    assert len(alignment.require()) == 53
    for name in names:
        assert len(alignment.frozen(name)) == 5 and all(n.startswith("embeddings.") for n in alignment.frozen(name))
        assert alignment.lineage_warning(name) is None


def test_nan_and_infinity_are_named_and_counted(tmp_path: Path) -> None:
    state = {
        "good": torch.ones(4),
        "nan": torch.tensor([1.0, float("nan"), float("nan")]).half(),
        "ids": torch.arange(3),
    }
    checkpoint = opened(tmp_path / "m", {**state, "inf": torch.tensor([float("-inf")], dtype=torch.bfloat16)})
    check_finite(checkpoint, ["good", "ids"])
    with pytest.raises(CheckpointError) as caught:
        check_finite(checkpoint, list(checkpoint))
    assert str(caught.value).splitlines()[0] == f"{checkpoint.path}: 2 problems"
    assert f"{checkpoint.path}: tensor nan must hold finite numbers; got 2 NaN. The training run diverged" in str(
        caught.value
    )
    assert "tensor inf must hold finite numbers; got 1 infinite." in str(caught.value)


def test_at_most_ten_bad_tensors_are_listed(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path / "m", {f"t{i:02}": torch.tensor([float("nan")]) for i in range(13)})
    with pytest.raises(CheckpointError) as caught:
        check_finite(checkpoint, list(checkpoint))
    assert "tensor t09 must" in str(caught.value) and "tensor t10 must" not in str(caught.value)
    assert "and 3 more" in str(caught.value)


def test_check_finite_can_be_stopped(tmp_path: Path) -> None:
    checkpoint, cancel = opened(tmp_path / "m", {"a": torch.ones(1)}), CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        check_finite(checkpoint, ["a"], cancel=cancel)
