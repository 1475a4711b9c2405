"""What can be merged, what cannot, and what is said about it; from headers alone."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from explorer.checkpoints import Checkpoint, open_checkpoint
from explorer.checkpoints.align import Alignment, align
from explorer.errors import AlignmentError

State = dict[str, torch.Tensor]
BASE: State = {
    "embed.weight": torch.ones(10, 4),
    "layer.0.w": torch.ones(8, 4),
    "layer.0.b": torch.ones(8),
    "position_ids": torch.arange(5),
}
KEEP = "Policy keep_base keeps the base's values there; policy refuse merges nothing."


def opened(folder: Path, state: State, **config: object) -> Checkpoint:
    folder.mkdir(parents=True)
    save_file({k: v.clone() for k, v in state.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return open_checkpoint(folder)


def aligned(tmp_path: Path, **tasks: State) -> Alignment:
    base = opened(tmp_path / "base", BASE, architectures=["BertModel"])
    return align(base, {n: opened(tmp_path / n, s, architectures=["OtherModel"]) for n, s in tasks.items()})


def changed(**tensors: torch.Tensor | None) -> State:
    """The base with some tensors replaced, added or (None) left out; `__` in a name stands for a dot."""
    state = {**BASE, **{n.replace("__", "."): t for n, t in tensors.items()}}
    return {n: t for n, t in state.items() if t is not None}


def test_everything_alike(tmp_path: Path) -> None:
    alignment = aligned(tmp_path, spam=changed(layer__0__w=torch.zeros(8, 4)))
    assert alignment.mergeable == alignment.names == ("embed.weight", "layer.0.b", "layer.0.w")
    assert alignment.problems() == []
    assert alignment.require("refuse") == alignment.require("keep_base") == alignment.mergeable
    report = alignment.reports["spam"]
    assert report.shared_fraction == 1.0 and report.non_float == ("position_ids",)
    assert report.counts(read_weights=False) == {
        "shared": 3,
        "missing": 0,
        "extra": 0,
        "different_shape": 0,
        "different_dtype": 0,
        "non_float": 1,
    }


def test_every_problem_is_named_with_task_tensor_reason_and_policy(tmp_path: Path) -> None:
    spam = changed(layer__0__w=torch.ones(8, 5), layer__0__b=None)
    movies = changed(head__weight=torch.ones(2, 4), position_ids=torch.zeros(5, dtype=torch.int64))
    alignment = aligned(tmp_path, spam=spam, movies=movies)
    assert alignment.problems() == [
        f"task spam: tensor layer.0.w must have the base's shape [8, 4]; got [8, 5]. {KEEP}",
        f"task spam: tensor layer.0.b of the base must be there; got none. {KEEP}",
        "task movies: tensor head.weight must be in the base too; got none there. "
        "Policy keep_base leaves it out; policy refuse merges nothing.",
        "task movies: tensor position_ids must be a 16-, 32- or 64-bit float, or equal to the base's; "
        f"got int64, other values. {KEEP}",
    ]
    with pytest.raises(AlignmentError) as caught:
        alignment.require("refuse")
    assert str(caught.value).startswith("alignment: 4 problems\n") and "layer.0.w" in str(caught.value)
    assert alignment.require("keep_base") == ("embed.weight",)


def test_tidy_rows(tmp_path: Path) -> None:
    alignment = aligned(
        tmp_path, spam=changed(layer__0__w=torch.ones(8, 5), layer__0__b=None, new=torch.ones(1).half())
    )
    rows = {(r["category"], r["tensor"]): r for r in alignment.rows(read_weights=False)}
    assert rows["different_shape", "layer.0.w"] == {
        "task": "spam",
        "category": "different_shape",
        "tensor": "layer.0.w",
        "base_shape": "[8, 4]",
        "task_shape": "[8, 5]",
        "base_dtype": "float32",
        "task_dtype": "float32",
    }
    assert rows["missing", "layer.0.b"]["task_shape"] == ""
    assert rows["extra", "new"]["task_dtype"] == "float16" and rows["extra", "new"]["base_dtype"] == ""
    assert ("non_float", "position_ids") in rows and ("shared", "embed.weight") in rows


def test_another_dtype_alone_is_reported_but_no_problem(tmp_path: Path) -> None:
    alignment = aligned(tmp_path, spam={n: t.half() if t.is_floating_point() else t for n, t in BASE.items()})
    assert alignment.reports["spam"].different_dtype == ("embed.weight", "layer.0.b", "layer.0.w")
    assert alignment.problems() == [] and len(alignment.mergeable) == 3


def test_float_against_whole_number_cannot_be_merged(tmp_path: Path) -> None:
    alignment = aligned(tmp_path, spam=changed(layer__0__w=torch.ones(8, 4, dtype=torch.int8)))
    assert alignment.mergeable == ("embed.weight", "layer.0.b")
    assert "layer.0.w must be a 16-, 32- or 64-bit float" in alignment.problems()[0]


def test_eight_bit_floats_are_not_merged(tmp_path: Path) -> None:
    alignment = aligned(tmp_path, spam=changed(layer__0__w=torch.ones(8, 4).to(torch.float8_e4m3fn)))
    assert "layer.0.w" not in alignment.mergeable and "got float8_e4m3fn, other values" in alignment.problems()[0]


def test_buffers_of_whole_numbers_on_one_side_only_are_no_problem(tmp_path: Path) -> None:
    alignment = aligned(tmp_path, old=changed(position_ids=None), new=changed(step=torch.arange(2)))
    assert alignment.problems() == []
    assert alignment.reports["old"].missing == ("position_ids",) and alignment.reports["new"].extra == ("step",)


@pytest.mark.parametrize("policy", ["refuse", "keep_base"])
def test_another_architecture_is_refused_whatever_the_policy(tmp_path: Path, policy: str) -> None:
    state = {"transformer.wte.weight": torch.ones(50, 4), "layer.0.b": torch.ones(7)}
    alignment = aligned(tmp_path, good=BASE, spam=state)
    expected = (
        "task spam: must be of the base's architecture, BertModel; got OtherModel with 0% of the base's parameters "
        "in common. Choose a fine-tune of this base."
    )
    assert alignment.problems() == [expected]
    with pytest.raises(AlignmentError) as caught:
        alignment.require(policy)
    assert str(caught.value) == expected


def test_the_border_of_another_architecture(tmp_path: Path) -> None:
    base = opened(tmp_path / "base", {"a": torch.ones(10), "b": torch.ones(90)})
    under = opened(tmp_path / "under", {"a": torch.ones(10), "b": torch.ones(91)})
    assert not align(base, {"t": under}).reports["t"].is_other_architecture  # exactly 10 %
    base = opened(tmp_path / "base2", {"a": torch.ones(10), "b": torch.ones(91)})
    assert align(base, {"t": opened(tmp_path / "t2", {"a": torch.ones(10)})}).reports["t"].is_other_architecture


def test_a_prefix_of_all_names_is_read_past_and_said(tmp_path: Path) -> None:
    spam = {f"bert.{n}": t for n, t in BASE.items()} | {"classifier.weight": torch.ones(2)}
    alignment = aligned(tmp_path, spam=spam)
    assert alignment.problems() == [] and alignment.names == ("embed.weight", "layer.0.b", "layer.0.w")
    assert torch.equal(alignment.tasks["spam"].read("layer.0.w"), BASE["layer.0.w"])
    assert alignment.notes(alignment.names) == [
        "task spam: its tensors' names have 'bert.' in front, which the base's lack; they are matched without it.",
        "task spam: classifier.* are layers on top of the backbone and not the same in the base: left out of the "
        "merge. A task with its own head is scored with its fine-tune's.",
    ]


def test_nothing_in_common_across_tasks(tmp_path: Path) -> None:
    state: State = {"a": torch.ones(10), "b": torch.ones(10)}
    base = opened(tmp_path / "base", state)
    tasks = {n: opened(tmp_path / n, {n: state[n]}) for n in state}
    with pytest.raises(
        AlignmentError, match="alignment: base and tasks must have a float tensor of one shape in common"
    ):
        align(base, tasks).require("keep_base")


def test_no_tasks_merge_nothing_away(tmp_path: Path) -> None:
    assert aligned(tmp_path).require() == ("embed.weight", "layer.0.b", "layer.0.w")


def test_unknown_policy_offers_near_names(tmp_path: Path) -> None:
    with pytest.raises(AlignmentError, match=r"got 'keep-base'\. Did you mean 'keep_base'"):
        aligned(tmp_path, spam=BASE).require("keep-base")


def test_many_problems_are_counted(tmp_path: Path) -> None:
    state: State = {f"t{i:03}": torch.ones(1) for i in range(100)}
    base, task = opened(tmp_path / "b", state), opened(tmp_path / "t", dict(list(state.items())[:40]))
    with pytest.raises(AlignmentError) as caught:
        align(base, {"t": task}).require()
    assert "and 20 more; the model table lists all" in str(caught.value)


def test_alignment_is_made_from_headers_and_can_be_pickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from explorer.checkpoints import handle

    base = opened(tmp_path / "base", BASE)
    task = opened(tmp_path / "task", BASE)
    with monkeypatch.context() as patch:
        patch.setattr(handle, "read_into", lambda *a, **k: pytest.fail("read weights"))
        alignment = align(base, {"task": task})
        assert alignment.rows(read_weights=False)
    assert pickle.loads(pickle.dumps(alignment)).mergeable == alignment.mergeable
