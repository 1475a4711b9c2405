"""The plan before an export, the check after it, and the card: what is said is what is so."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from workbench_zoo import make_models, recipe_of, save, write_recipe

import explorer.export_pass
from explorer.checkpoints import Checkpoint
from explorer.checkpoints.handle import TensorInfo
from explorer.cli import main
from explorer.errors import AlignmentError, InputError, OutputError
from explorer.executor import CancelToken, Progress
from explorer.export_command import shard_bytes
from explorer.export_pass import ByteProgress, Room
from explorer.export_rates import keep_rate, measured_rate
from explorer.exporting import ExportSettings, run_recipe
from explorer.merging import _pieces
from explorer.planning import plan_recipe
from explorer.results import SCORES, Result
from explorer.verifying import SIDECAR, verify_folder

Captured = pytest.CaptureFixture[str]
PLAIN = ExportSettings(verify=False)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp("zoo"))


@pytest.fixture
def out(zoo: Path, tmp_path: Path) -> Path:
    return run_recipe(recipe_of(zoo), tmp_path / "out", settings=PLAIN).path


def front(folder: Path) -> dict[str, object]:
    return yaml.safe_load((folder / "README.md").read_text("utf-8").split("---\n")[1])


# ---------------------------------------------------------------- plan


def test_the_plan_says_what_the_export_does(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(zoo, method="ties", dtype="bfloat16")
    real = Checkpoint._read

    def nothing(self: Checkpoint, info: TensorInfo, start: int, stop: int) -> torch.Tensor:
        assert start == stop, "a plan reads no weights"
        return real(self, info, start, stop)

    monkeypatch.setattr(Checkpoint, "_read", nothing)
    plan = plan_recipe(recipe, tmp_path / "out", settings=ExportSettings(shard_bytes=4000))
    monkeypatch.undo()
    made = run_recipe(recipe, tmp_path / "out", settings=ExportSettings(shard_bytes=4000))
    files = list(made.path.glob("*.safetensors"))
    written = sum(t.nbytes for f in files for t in load_file(f).values())
    assert (plan.out_bytes, plan.shards, plan.write_bytes) == (written, len(files), written) and plan.shards > 1
    inputs = sum(
        t.nbytes for n in ("base", "colours", "numbers") for t in load_file(zoo / n / "model.safetensors").values()
    )
    assert (plan.passes, plan.read_bytes) == (2, 2 * inputs + written) and plan.verifies
    assert (
        plan.problems == ()
        and not plan.measured
        and plan.seconds == pytest.approx((plan.read_bytes + plan.write_bytes) / 150e6)
    )
    assert "a cautious guess" in "\n".join(plan.lines()) and json.dumps(plan.to_json())


def test_a_plan_tells_all_that_stands_in_the_way(out: Path, zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("explorer.planning.free_bytes", lambda _: 100)
    plan = plan_recipe(recipe_of(zoo), out)
    assert len(plan.problems) == 2
    assert "new or empty folder" in plan.problems[0] and "free; got 0.0 MB" in plan.problems[1]
    assert "must not replace a model" in plan_recipe(recipe_of(zoo), zoo / "base", overwrite=True).problems[0]
    save(zoo / "odd", {"embeddings.word_embeddings.weight": torch.ones(2, 3)})
    with pytest.raises(AlignmentError):
        plan_recipe(recipe_of(zoo, tasks={"odd": {"checkpoint": str(zoo / "odd")}}), out)


def test_plan_on_the_command_line_writes_nothing(zoo: Path, tmp_path: Path, capsys: Captured) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", recipe_of(zoo))
    assert main(["merge", str(recipe), str(tmp_path / "out"), "--plan", "--out-shard-size", "10K"]) == 0
    said = capsys.readouterr().out
    assert "output " in said and "peak memory" in said and "free disk" in said
    assert main(["merge", str(recipe), str(tmp_path / "out"), "--plan", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["problems"] == []
    assert [p.name for p in tmp_path.iterdir()] == ["r.yaml"]
    (tmp_path / "taken").write_text("a file")
    assert main(["merge", str(recipe), str(tmp_path / "taken"), "--plan"]) == 1


def test_sizes_as_mergekit_takes_them() -> None:
    said = {"2B": 2 * 10**9, "500M": 5 * 10**8, "1.5k": 1500, "77": 77, "1MiB": 1 << 20}
    assert {text: shard_bytes(text) for text in said} == said


def test_rates_are_kept_by_method(zoo: Path, tmp_path: Path) -> None:
    assert measured_rate(tmp_path, "ties") is None and measured_rate(None, "ties") is None
    run_recipe(recipe_of(zoo), tmp_path / "out", settings=ExportSettings(cache=tmp_path / "cache"))
    rate = measured_rate(tmp_path / "cache", "task_arithmetic")
    assert rate and rate > 0 and measured_rate(tmp_path / "cache", "ties") is None
    plan = plan_recipe(recipe_of(zoo), tmp_path / "two", settings=ExportSettings(cache=tmp_path / "cache"))
    assert plan.measured and plan.bytes_per_second == rate
    keep_rate(tmp_path / "cache", "ties", 5.0)
    (tmp_path / "cache" / "export_rates.json").write_text("{nonsense")
    assert measured_rate(tmp_path / "cache", "ties") is None


# ---------------------------------------------------------------- verify


def test_a_whole_folder_holds(zoo: Path, tmp_path: Path, capsys: Captured) -> None:
    made = run_recipe(recipe_of(zoo, dtype="bfloat16"), tmp_path / "out")
    assert (
        "digests as computed" in made.checked[0]
        and made.checked[-1] == "the model loads and answers with finite numbers"
    )
    (made.path / "README.md").write_text("edited")
    found = verify_folder(made.path)
    assert found.problems == () and found.held == made.checked
    assert main(["verify", str(made.path), "--no-load"]) == 0
    assert "digests as computed" in capsys.readouterr().out


def test_every_model_of_a_per_task_export_is_verified(zoo: Path, tmp_path: Path, capsys: Captured) -> None:
    made = run_recipe(recipe_of(zoo, method="tall_masks"), tmp_path / "out")
    assert main(["verify", str(made.path), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2
    flip(made.folders[1] / "model.safetensors")
    assert main(["verify", str(made.path), "--no-load"]) == 1


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("harm", ["bit", "truncated", "removed", "config", "extra"])
def test_any_harm_is_found(out: Path, harm: str, capsys: Captured) -> None:
    file = out / "model.safetensors"
    if harm == "bit":
        flip(file)
    elif harm == "truncated":
        os.truncate(file, file.stat().st_size - 10)
    elif harm == "removed":
        file.unlink()
    elif harm == "config":
        (out / "config.json").write_text("{}")
    else:
        from safetensors.torch import save_file

        save_file({**load_file(file), "new": torch.ones(2)}, file)
    assert main(["verify", str(out), "--no-load"]) == 1
    said = {"bit": "must have the digest of what was computed", "truncated": "It is truncated", "removed": "weights",
            "config": "must be the file that was exported", "extra": "tensor new"}  # fmt: skip
    assert said[harm] in capsys.readouterr().err


def test_nothing_to_compare_with_is_the_inputs_fault(zoo: Path, out: Path) -> None:
    assert main(["verify", str(zoo / "base")]) == 2
    (out / SIDECAR).write_text('{"schema": 1, "tensors": {"a": 3}}')
    assert main(["verify", str(out)]) == 2


def test_a_write_that_goes_wrong_never_appears(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = explorer.export_pass.FolderWriter.write_piece

    def worn(self: object, name: str, start: int, values: torch.Tensor) -> None:
        real(self, name, start, values * 1.5)  # type: ignore[arg-type]

    monkeypatch.setattr(explorer.export_pass.FolderWriter, "write_piece", worn)
    with pytest.raises(OutputError, match="must have the digest of what was computed"):
        run_recipe(recipe_of(zoo), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_weight_that_is_no_number_is_refused_by_name(zoo: Path, tmp_path: Path) -> None:
    base, big = load_file(zoo / "base" / "model.safetensors"), tmp_path / "big"
    name = next(n for n, t in base.items() if t.dim() == 2)
    huge = {n: torch.full_like(t, 3e38) if n == name else t for n, t in base.items()}
    save(big, huge)
    tasks = {t: {"checkpoint": str(big)} for t in ("one", "two")}
    with pytest.raises(InputError, match=f"{name}.*finite"):
        run_recipe(recipe_of(zoo, tasks=tasks, parameters={"scale": 1.0}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- the pass


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare", "della", "tall_masks", "slerp", "iso_c"])
def test_small_pieces_and_a_small_budget_change_no_bit(
    zoo: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_recipe(recipe_of(zoo, method=method), tmp_path / "whole", settings=PLAIN)
    monkeypatch.setattr(_pieces, "PIECE_ELEMENTS", 64)
    parts = run_recipe(recipe_of(zoo, method=method), tmp_path / "parts", settings=ExportSettings(1, verify=False))
    for one, other in zip(whole.folders, parts.folders, strict=True):
        left, right = (load_file(f / "model.safetensors") for f in (one, other))
        assert all(torch.equal(left[n], right[n]) for n in left) and left.keys() == right.keys()
    pd.testing.assert_frame_equal(whole.survival.table, parts.survival.table)


def test_every_input_byte_of_a_sum_is_read_once(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    real = Checkpoint._read

    def counted(self: Checkpoint, info: TensorInfo, start: int, stop: int) -> torch.Tensor:
        read.append((stop - start) * info.dtype.itemsize)
        return real(self, info, start, stop)

    monkeypatch.setattr(Checkpoint, "_read", counted)
    run_recipe(recipe_of(zoo), tmp_path / "out", settings=PLAIN)
    assert sum(read) == plan_recipe(recipe_of(zoo), tmp_path / "two", settings=PLAIN).read_bytes


def test_progress_counts_bytes_and_cancel_stops(zoo: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    run_recipe(recipe_of(zoo), tmp_path / "out", progress=seen.append, settings=PLAIN)
    last = seen[-1]
    assert isinstance(last, ByteProgress) and last.done == last.total > 10_000 and last.bytes_per_second > 0
    token = CancelToken()
    with pytest.raises(Exception, match="stopped on request"):
        run_recipe(recipe_of(zoo), tmp_path / "no", progress=lambda _: token.cancel(), cancel=token, settings=PLAIN)
    assert not (tmp_path / "no").exists()


def test_what_is_larger_than_the_budget_gets_its_turn() -> None:
    room = Room(10)
    with room.of(50):
        pass
    with room.of(4), room.of(6):
        pass


# ---------------------------------------------------------------- the card


def test_files_can_be_read_by_others(out: Path) -> None:
    umask = os.umask(0o022)
    os.umask(umask)
    assert {oct(f.stat().st_mode & 0o777) for f in out.iterdir()} == {oct(0o644 & ~umask)}


@pytest.mark.parametrize(
    ("licences", "expected", "warned"),
    [
        (("mit", "mit", "mit"), "mit", None),
        (("mit", "apache-2.0", "mit"), "other", "licences differ"),
        (("mit", None, "mit"), "mit", "Some parents state no licence"),
        ((None, None, None), None, None),
    ],
)
def test_licences(tmp_path: Path, licences: tuple[str | None, ...], expected: str | None, warned: str | None) -> None:
    zoo = make_models(tmp_path / "zoo")
    for name, licence in zip(("base", "colours", "numbers"), licences, strict=True):
        if licence:
            (zoo / name / "README.md").write_text(f"---\nlicense: {licence}\n---\n# A model\n")
    out = run_recipe(recipe_of(zoo), tmp_path / "out", settings=PLAIN).path
    assert front(out).get("license") == expected
    text = (out / "README.md").read_text("utf-8")
    assert (warned in text) if warned else ("licence" not in text)


def test_scores_become_a_model_index(zoo: Path, tmp_path: Path) -> None:
    row = {c.name: 0 for c in SCORES} | {
        "task": "colours",
        "model": "merged",
        "metric": "accuracy",
        "score": 0.75,
        "n": 8,
    }
    table = pd.DataFrame([row])[[c.name for c in SCORES]]
    scores = Result("scores", ("colours",), table, SCORES, {})
    said = front(run_recipe(recipe_of(zoo), tmp_path / "out", scores=scores, settings=PLAIN).path)
    (entry,) = said["model-index"][0]["results"]  # type: ignore[index]
    assert entry["metrics"] == [{"type": "accuracy", "name": "accuracy", "value": 0.75}]
    assert said["base_model_relation"] == "merge" and "merge" in said["tags"]  # type: ignore[operator]
