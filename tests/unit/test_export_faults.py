"""What goes wrong while a model is written: never half a model under the final name, and a clear sentence."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from workbench_zoo import make_models, recipe_of, save, write_recipe

import explorer.export_pass
from explorer.checkpoints import staging
from explorer.checkpoints.staging import JOURNAL, Staging
from explorer.errors import CheckpointError, OutputError
from explorer.exporting import Export, ExportSettings, run_recipe, write_merge
from explorer.opening import open_models
from explorer.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
PLAIN = ExportSettings(verify=False)
SHAPES = {f"layer.{i}.weight": (64, 32) for i in range(40)}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of many small tensors, without a tokenizer: something to be stopped in the middle of."""
    folder = tmp_path_factory.mktemp("many")
    for number, name in enumerate(("base", "colours", "numbers")):
        generator = torch.Generator().manual_seed(number)
        save(folder / name, {n: torch.randn(s, generator=generator) for n, s in SHAPES.items()})
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {n: t for f in sorted(folder.glob("*.safetensors")) for n, t in load_file(f).items()}


def equal(one: Path, other: Path) -> bool:
    left, right = weights(one), weights(other)
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


SLOW_RUN = """
import sys, time
import explorer.export_pass as work
from pathlib import Path
from explorer.exporting import ExportSettings, run_recipe
real = work.merge_piece
def slow(*arguments):
    made = real(*arguments)
    time.sleep(0.02)
    return made
work.merge_piece = slow
print("begin", flush=True)
done = run_recipe(Path(sys.argv[1]), Path(sys.argv[2]), settings=ExportSettings(verify=False, shard_bytes=100_000))
print("resumed", done.resumed_bytes, flush=True)
"""


def start(recipe: Path, out: Path) -> subprocess.Popen[str]:
    """An export in a process of its own, slow enough to be caught in the middle."""
    command = [sys.executable, "-c", SLOW_RUN, str(recipe), str(out)]
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stdout is not None and run.stdout.readline() == "begin\n"
    return run


def journal_lines(parent: Path) -> int:
    """How many pieces the run that writes in `parent` has noted."""
    for found in parent.glob(f".*.partial/{JOURNAL}"):
        return found.read_text().count("\n")
    return 0


def kill_after(run: subprocess.Popen[str], parent: Path, pieces: int) -> None:
    deadline = time.monotonic() + 60
    while journal_lines(parent) <= pieces and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    run.send_signal(signal.SIGKILL)
    run.communicate()


def test_a_killed_run_is_taken_up_and_gives_the_same_weights(many: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", recipe_of(many, method="ties"))
    out = tmp_path / "place" / "out"
    kill_after(start(recipe, out), out.parent, 15)
    assert not out.exists() and journal_lines(out.parent) > 15
    settings = ExportSettings(verify=True, shard_bytes=100_000)
    done = run_recipe(recipe, out, settings=settings)
    assert done.resumed_bytes >= 15 * 64 * 32 * 4
    assert [p.name for p in out.parent.iterdir()] == ["out"] and len(list(out.glob("*.safetensors"))) > 2
    fresh = run_recipe(recipe, tmp_path / "fresh", settings=settings)
    assert fresh.resumed_bytes == 0 and equal(out, tmp_path / "fresh")
    # The killed run had not loaded the compiled loops, whose sums differ in the last places.
    pd.testing.assert_frame_equal(done.survival.table, fresh.survival.table)


def leave_half(recipe: Recipe, out: Path, pieces: int) -> Path:
    """What a killed run leaves after so many pieces, as if by a process that is gone."""
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, pieces, KeyboardInterrupt)
        patch.setattr(Staging, "discard", lambda self: staging._live.discard(self.folder))
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe, out, settings=PLAIN)
    (left,) = out.parent.glob(".*.partial")
    return left.rename(left.with_name(left.name.replace(f".{os.getpid()}-", ".4194305-")))  # above any process number


def stop_after(patch: pytest.MonkeyPatch, pieces: int, error: type[BaseException]) -> None:
    """Let the next export fail at its piece of this number."""
    real, made = explorer.export_pass.merge_piece, []

    def stop(*arguments: object) -> object:
        made.append(1)
        if len(made) > pieces:
            raise error
        return real(*arguments)  # type: ignore[arg-type]

    patch.setattr(explorer.export_pass, "merge_piece", stop)


def test_what_a_killed_run_left_is_not_trusted_blindly(many: Path, tmp_path: Path) -> None:
    recipe, out = recipe_of(many), tmp_path / "place" / "out"
    left = leave_half(recipe, out, 20)
    noted = (left / JOURNAL).read_text().count("\n")
    (file,) = left.glob("*.safetensors")  # a power cut: the journal is there, half of the weights are not
    file.write_bytes(file.read_bytes()[:60_000] + bytes(file.stat().st_size - 60_000))
    done = run_recipe(recipe, out, settings=PLAIN)
    assert 0 < done.resumed_bytes < 60_000 < noted * 64 * 32 * 4
    run_recipe(recipe, tmp_path / "fresh", settings=PLAIN)
    assert equal(out, tmp_path / "fresh") and [p.name for p in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("change", ["nothing", "recipe", "input", "shards"])
def test_another_merge_takes_nothing_up(many: Path, tmp_path: Path, change: str) -> None:
    models = shutil.copytree(many, tmp_path / "models")
    recipe, out = recipe_of(models), tmp_path / "place" / "out"
    leave_half(recipe, out, 10)
    if change == "recipe":
        recipe = recipe_of(models, parameters={"scale": 0.7})
    if change == "input":
        save(models / "colours", {n: torch.ones(s) for n, s in SHAPES.items()})
    settings = ExportSettings(verify=False, shard_bytes=100_000) if change == "shards" else PLAIN
    done = run_recipe(recipe, out, settings=settings)
    assert (done.resumed_bytes > 0) == (change == "nothing") and [p.name for p in out.parent.iterdir()] == ["out"]


@pytest.mark.slow
def test_kills_at_random_moments(many: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", recipe_of(many))
    run_recipe(recipe, tmp_path / "right", settings=PLAIN)
    out, moments = tmp_path / "place" / "out", random.Random(0)
    for _ in range(5):
        run = start(recipe, out)
        time.sleep(moments.uniform(0, 1.5))
        run.send_signal(signal.SIGKILL)
        run.communicate()
        assert not out.exists() or equal(out, tmp_path / "right")
        if out.exists():
            shutil.rmtree(out)
    run_recipe(recipe, out, settings=PLAIN)
    assert equal(out, tmp_path / "right") and [p.name for p in out.parent.iterdir()] == ["out"]


def test_ctrl_c_leaves_nothing(many: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", recipe_of(many))
    out = tmp_path / "place" / "out"
    run = start(recipe, out)
    while not journal_lines(out.parent) and run.poll() is None:
        time.sleep(0.005)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert run.returncode != 0 and "KeyboardInterrupt" in said
    assert not out.parent.exists() or list(out.parent.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs needs more rights than this process has")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk(many: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutputError, match=r"the disk must have 1\.\d MB free; got 0\.3 MB free"):
        run_recipe(recipe_of(many), small_disk / "out", settings=PLAIN)
    assert list(small_disk.iterdir()) == []
    monkeypatch.setattr("explorer.checkpoints.staging.Staging.require_space", lambda self, need: None)
    with pytest.raises(OutputError, match=r"the disk must have room.*Nothing half-written remains"):
        run_recipe(recipe_of(many), small_disk / "out", settings=PLAIN)
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("how", ["truncated", "removed"])
def test_an_input_that_goes_midway(many: Path, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    models = shutil.copytree(many, tmp_path / "models")
    file, made = models / "numbers" / "model.safetensors", []
    real = explorer.export_pass.merge_piece

    def spoil(*arguments: object) -> object:
        made.append(1)
        if len(made) == 10:
            file.unlink() if how == "removed" else os.truncate(file, 5000)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(explorer.export_pass, "merge_piece", spoil)
    expected = "must be a readable file" if how == "removed" else "must stay as it was when it was opened"
    with pytest.raises(CheckpointError, match=expected):
        run_recipe(recipe_of(models), tmp_path / "place" / "out", settings=PLAIN)
    assert not (tmp_path / "place").exists()


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("mount"), reason="root may write anywhere")
def test_a_target_that_cannot_be_written(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.mkdir

    def read_only(self: Path, *arguments: object, **options: object) -> None:
        if "place" in self.parts:
            raise OSError(30, "Read-only file system")
        real(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(OutputError, match="must be writable; got read-only file system"):
        run_recipe(recipe_of(zoo), tmp_path / "place" / "out", settings=PLAIN)


def test_a_target_that_exists(zoo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_recipe(recipe_of(zoo), out, settings=PLAIN)
    before = (out / "model.safetensors").read_bytes()
    with pytest.raises(OutputError, match="must be a new or empty folder"):
        run_recipe(recipe_of(zoo, parameters={"scale": 0.9}), out, settings=PLAIN)
    assert (out / "model.safetensors").read_bytes() == before
    run_recipe(recipe_of(zoo, parameters={"scale": 0.9}), out, overwrite=True, settings=PLAIN)
    assert (out / "model.safetensors").read_bytes() != before


def test_two_runs_at_one_target(many: Path, tmp_path: Path) -> None:
    recipe, out = recipe_of(many), tmp_path / "place" / "out"
    models, ends = open_models(recipe), []

    def one(made: Recipe) -> None:
        try:
            ends.append(write_merge(made, models, out, settings=PLAIN))
        except OutputError as error:
            ends.append(error)

    runs = [threading.Thread(target=one, args=(recipe,)) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    done = [end for end in ends if isinstance(end, Export)]
    assert len(done) == 1 and re.search(
        "Another run wrote|new or empty folder", str(next(e for e in ends if e not in done))
    )
    assert [p.name for p in out.parent.iterdir()] == ["out"]
    run_recipe(recipe, tmp_path / "alone", settings=PLAIN)
    assert equal(out, tmp_path / "alone")
