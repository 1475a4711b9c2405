"""Bad input: one sentence that says who, what must hold and what to do; exit code 2; nothing left behind."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation_zoo import weights
from safetensors.torch import load_file
from workbench_zoo import TASKS, make_bench, make_models, recipe_of, save, write_recipe

import explorer
from explorer.checkpoints import writer
from explorer.cli import main
from explorer.errors import CheckpointError, OutputError, PathError
from explorer.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
Refused = Callable[..., str]


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    return make_models(tmp_path / "zoo")


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Merge (and inspect) by the command line; the one message on stderr, checked for its form."""

    def run(recipe: Recipe | str, *options: str, code: int = 2, out: str = "out") -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(recipe if isinstance(recipe, str) else recipe.to_yaml(), encoding="utf-8")
        before = sorted(p for p in tmp_path.rglob("*"))
        assert main(["merge", str(path), str(tmp_path / out), *options]) == code
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.startswith("error: ") and "Traceback" not in captured.err
        assert captured.err.count("error: ") == 1
        assert sorted(p for p in tmp_path.rglob("*")) == before, "nothing is left behind"
        return captured.err

    return run


def damaged(zoo: Path, change: Callable[[bytes], bytes]) -> Path:
    file = zoo / "colours" / "model.safetensors"
    file.write_bytes(change(file.read_bytes()))
    return file


# ---------------------------------------------------------------- checkpoints


def test_a_folder_without_weights(zoo: Path, refused: Refused) -> None:
    (zoo / "colours" / "model.safetensors").unlink()
    message = refused(recipe_of(zoo))
    assert f"{zoo / 'colours'}: must hold weights (*.safetensors); got no such file (config.json" in message
    assert "Give the folder that holds model.safetensors." in message


def test_a_truncated_file(zoo: Path, refused: Refused) -> None:
    file = damaged(zoo, lambda data: data[:-100])
    message = refused(recipe_of(zoo))
    assert str(file) in message and "It is truncated." in message and "Download or copy the file again" in message


def test_a_header_that_claims_more_bytes_than_the_file_has(zoo: Path, refused: Refused) -> None:
    def claim(data: bytes) -> bytes:
        return (1 << 40).to_bytes(8, "little") + data[8:]

    file = damaged(zoo, claim)
    assert str(file) in (message := refused(recipe_of(zoo))) and "header" in message


def test_a_header_whose_tensors_lie_beyond_the_end(zoo: Path, refused: Refused) -> None:
    def claim(data: bytes) -> bytes:
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        last = max((k for k in header if k != "__metadata__"), key=lambda k: header[k]["data_offsets"][1])
        start, _ = header[last]["data_offsets"]
        header[last] = {**header[last], "shape": [10**6], "data_offsets": [start, start + 4 * 10**6]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text + data[8 + size :]

    damaged(zoo, claim)
    message = refused(recipe_of(zoo))
    assert re.search(r"the header states \d+ bytes of tensors and the file must have them; got \d+ bytes", message)


def test_a_fine_tune_of_another_architecture(zoo: Path, refused: Refused) -> None:
    other = {f"gpt.{n}": torch.randn(5, 5) for n in "abcdef"}
    save(zoo / "colours", other, model_type="gpt2", architectures=["GPT2Model"])
    message = refused(recipe_of(zoo))
    assert "task colours: must be of the base's architecture" in message
    assert "got GPT2Model with 0% of the base's parameters in common. Choose a fine-tune of this base." in message
    assert "architecture" in refused(recipe_of(zoo, policy="keep_base"))


def test_one_tensor_of_another_shape(zoo: Path, refused: Refused) -> None:
    state = load_file(zoo / "colours" / "model.safetensors")
    name = "encoder.layer.0.attention.self.query.bias"
    save(zoo / "colours", {**state, name: torch.zeros(17)})
    message = refused(recipe_of(zoo))
    assert f"task colours: tensor {name} must have the base's shape [16]; got [17]. Policy keep_base" in message


def test_the_policy_keep_base_merges_the_rest(zoo: Path, tmp_path: Path) -> None:
    state = load_file(zoo / "colours" / "model.safetensors")
    name = "encoder.layer.0.attention.self.query.bias"
    save(zoo / "colours", {**state, name: torch.zeros(17)})
    export = explorer.run_recipe(recipe_of(zoo, policy="keep_base"), tmp_path / "out")
    merged, base = load_file(export.path / "model.safetensors"), load_file(zoo / "base" / "model.safetensors")
    assert torch.equal(merged[name], base[name])
    other = "encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(merged[other], base[other])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("who", ["base", "colours"])
def test_one_value_that_is_no_number_is_named(
    zoo: Path, refused: Refused, who: str, value: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = load_file(zoo / who / "model.safetensors")
    name = "encoder.layer.1.output.dense.weight"
    state[name][3, 4] = value
    save(zoo / who, state)
    for method in ("task_arithmetic", "ties"):
        message = refused(recipe_of(zoo, method=method))
        assert name in message and "finite" in message
        assert ("task colours" if who == "colours" else "base") in message
    code = main(["survey", *(str(zoo / n) for n in ("base", *TASKS)), "-o", str(tmp_path / "tables")])
    assert code == 2 and name in capsys.readouterr().err


def test_a_plain_pickle_under_a_pytorch_name_is_refused_and_not_run(zoo: Path, refused: Refused) -> None:
    (zoo / "colours" / "model.safetensors").unlink()
    (zoo / "colours" / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n.")
    assert refused(recipe_of(zoo)) == (
        f"error: {zoo}/colours/pytorch_model.bin: must be a zip written by torch.save; got a plain pickle or a file "
        "older than torch 1.6; it was not run. Where you trust the file, load it and save its weights: "
        "torch.save(model.state_dict(), path).\n"
    )


@pytest.mark.parametrize("name", ["weights.pickle", "weights.pkl"])
def test_a_pickle_is_refused_with_what_to_do(zoo: Path, refused: Refused, name: str) -> None:
    (zoo / "colours" / "model.safetensors").unlink()
    (zoo / "colours" / name).write_bytes(b"\x80\x04cos\nsystem\n.")
    message = refused(recipe_of(zoo))
    assert f"must hold safetensors weights; got only {name}. Pickle files can run code" in message
    assert "safe_serialization=True" in message
    direct = {"colours": str(zoo / "colours" / name)}
    assert "Pickle files can run code" in refused(recipe_of(zoo, tasks=direct))


def test_every_checkpoint_that_fails_is_named_at_once(zoo: Path, refused: Refused) -> None:
    tasks = {"a": str(zoo / "colors"), "b": str(zoo / "numbers" / "model.bin")}
    message = refused(recipe_of(zoo, tasks=tasks, method="tise", base=str(zoo / "bsae")))
    assert "recipe: 4 problems" in message
    assert "method: must be a known name; got 'tise'. Did you mean 'ties'" in message
    assert "Did you mean 'colours'" in message and "Did you mean 'base'" in message and "model.bin" in message


def test_inspect_and_evaluate_say_the_same(zoo: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    damaged(zoo, lambda data: data[:-100])
    assert main(["inspect", str(zoo / "base"), str(zoo / "colours")]) == 2
    assert "It is truncated." in capsys.readouterr().err
    assert main(["evaluate", str(zoo / "colours"), "--tasks-folder", str(zoo / "tasks")]) == 2
    assert "It is truncated." in capsys.readouterr().err


def test_the_app_opens_only_its_folders(zoo: Path, tmp_path: Path) -> None:
    bench = make_bench(zoo, tmp_path / "exports")
    outside = save(tmp_path / "outside", weights(1))
    (zoo / "linked").symlink_to(outside)
    (zoo / "colours" / "model.safetensors").unlink()
    (zoo / "colours" / "model.safetensors").symlink_to(outside / "model.safetensors")
    for path in (outside, zoo / "linked", zoo / "colours", Path("/etc"), zoo / "x" / ".." / ".." / "outside"):
        with pytest.raises(PathError, match=r"must lie inside an allowed folder; got a path outside\. Allowed: "):
            bench.models(recipe_of(zoo, tasks={"colours": str(path)}))


# ---------------------------------------------------------------- recipes


def test_unknown_method_parameter_and_task_offer_near_names(zoo: Path, refused: Refused) -> None:
    assert "Did you mean 'task_arithmetic'?" in refused(recipe_of(zoo, method="task_arithmetics"))
    parameters = {"densty": 0.2, "scale": {"colour": 0.5}, "reduce": "men", "density": 20, "trim_amount": "much"}
    message = refused(recipe_of(zoo, method="ties", parameters=parameters))
    assert "ties: takes only declared parameters; got 'densty'. Did you mean 'density'?" in message
    assert "ties: scale names only tasks of this merge; got 'colour'. Did you mean 'colours'?" in message
    assert "ties: reduce must be one of mean, sum, max; got men. Did you mean 'mean'" in message
    assert "ties: density must be in (0, 1]; got 20. Use 0.2 for 20 %." in message
    assert "ties: trim_amount must be in (0, 10]; got much. The default is 0.9." in message


@pytest.mark.parametrize("value", [7, -1.5, ".nan", ".inf", "lots", "[1, 2]", "true", "1" + "0" * 400])
def test_a_value_out_of_range(zoo: Path, refused: Refused, value: object) -> None:
    text = recipe_of(zoo).to_yaml().replace("parameters: {}", f"parameters: {{scale: {value}}}")
    assert "task_arithmetic: scale must be in [-1, 2]; got " in refused(text)


def test_unknown_task_of_an_evaluation(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", str(zoo / "base"), "--tasks-folder", str(zoo / "tasks")]
    assert main([*arguments, "--tasks", "colors", "nubmers"]) == 2
    message = capsys.readouterr().err
    assert "got 'colors'. Did you mean 'colours'?" in message and "Did you mean 'numbers'?" in message
    assert main([*arguments[:-1], str(zoo / "nowhere")]) == 2
    assert "must be a folder of task folders" in capsys.readouterr().err
    assert main([*arguments, "--split", "tset"]) == 2
    assert "tset" in capsys.readouterr().err
    assert main([*arguments, "--device", "gpu"]) == 2
    assert "device: must be auto, cpu, cuda or cuda:N; got 'gpu'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must be a mapping with base, tasks and method; got NoneType"),
        ("[1, 2]", "got list"),
        ("base: [", "must be YAML"),
        ("base: x\nmethod: ties\ntasks: {}\nseeds: 1", "Did you mean 'seed'?"),
        ("base: x\nmethod: ties\ntasks: {../evil: y}", "task names must be plain text"),
        ("base: x\nmethod: ties\ntasks: {a: {scale: 1}}\ndtype: float12", "task a must have a checkpoint"),
    ],
)
def test_what_is_no_recipe(refused: Refused, text: str, said: str) -> None:
    assert said in refused(text)


def test_a_folder_or_nothing_in_place_of_a_recipe(
    zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, said in ((zoo, "Is a directory"), (tmp_path / "gone.yaml", "No such file")):
        assert main(["merge", str(path), str(tmp_path / "out")]) == 2
        message = capsys.readouterr().err
        assert f"{path}: must be a readable recipe file; got" in message and said in message


# ---------------------------------------------------------------- output


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_taken_target_is_an_output_error_and_stays(zoo: Path, tmp_path: Path, refused: Refused) -> None:
    explorer.run_recipe(recipe_of(zoo), tmp_path / "out")
    before = contents(tmp_path / "out")
    assert "must be a new or empty folder" in refused(recipe_of(zoo, seed=1), code=1)
    assert contents(tmp_path / "out") == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    message = refused(recipe_of(zoo), "--overwrite", code=1, out="mine")
    assert "must be an earlier checkpoint folder; got thesis.txt" in message


@pytest.mark.parametrize("target", ["zoo/base", "zoo/colours", "zoo"])
def test_a_merge_never_replaces_its_own_models(zoo: Path, refused: Refused, target: str) -> None:
    message = refused(recipe_of(zoo), "--overwrite", out=target)
    assert "the output must not replace a model of its own recipe" in message


@pytest.mark.parametrize("method", ["task_arithmetic", "tall_masks"])
def test_a_disk_that_fills_up_leaves_the_earlier_folder(
    zoo: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    explorer.run_recipe(recipe_of(zoo, method=method), tmp_path / "out")
    before = contents(tmp_path / "out")
    real, calls = writer.write_all, []

    def fill(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) > 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*arguments)

    monkeypatch.setattr(writer, "write_all", fill)
    changed = recipe_of(zoo, method=method, parameters={"scale": 0.9})
    message = refused(changed, "--overwrite", code=1)
    assert "Nothing half-written remains." in message and "free" in message
    assert contents(tmp_path / "out") == before
    calls.clear()
    bench = make_bench(zoo, tmp_path / "exports")
    with pytest.raises(OutputError, match="Nothing half-written remains"):
        bench.export(changed, "merged")
    assert not (tmp_path / "exports").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB, where this machine lets us mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = hasattr(os, "geteuid") and os.geteuid() == 0
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if not mounted or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs rights that this machine does not give")
    yield folder
    subprocess.run(["umount", str(folder)], check=False)


def test_a_real_full_disk(zoo: Path, small_disk: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", recipe_of(zoo))
    assert main(["merge", str(recipe), str(small_disk / "out")]) == 1
    assert "the disk must have" in capsys.readouterr().err
    assert list(small_disk.iterdir()) == []


def test_a_real_limit_on_file_size(zoo: Path, tmp_path: Path) -> None:
    """The system refuses the write half-way; needs no rights, so it runs everywhere but Windows."""
    pytest.importorskip("resource")
    recipe = write_recipe(tmp_path / "recipe.yaml", recipe_of(zoo))
    code = (
        "import resource, signal, sys; from explorer.cli import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "merge", str(recipe), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1 and "Nothing half-written remains." in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["recipe.yaml", "zoo"]


def test_a_checkpoint_that_changes_while_it_is_merged(zoo: Path, tmp_path: Path) -> None:
    from explorer.exporting import write_merge
    from explorer.opening import open_models

    models = open_models(recipe_of(zoo))
    damaged(zoo, lambda data: data[:-100])
    with pytest.raises(CheckpointError, match="must stay as it was when it was opened"):
        write_merge(recipe_of(zoo), models, tmp_path / "out")
    assert not (tmp_path / "out").exists()
