"""The command line: every command, with and without --json, and how it says no."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from workbench_zoo import TASKS, make_models, recipe_of, write_recipe

import explorer.reference
from explorer.cli import main, named_tasks
from explorer.errors import InputError
from explorer.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp("zoo"))


def models_of(zoo: Path) -> list[str]:
    return [str(zoo / "base"), *(str(zoo / t) for t in TASKS)]


@pytest.mark.parametrize("kind", ["methods", "metrics", "tasks"])
def test_catalogues_list_parameters_with_ranges_defaults_and_help(kind: str, capsys: Captured) -> None:
    assert main([kind, "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert len({e["name"] for e in entries}) == len(entries) > 0
    for entry in entries:
        assert entry["title"] and entry["docstring"]
        for parameter in entry["parameters"]:
            assert parameter["allowed"] and parameter["help"] and parameter["default"] is not None
    assert main([kind]) == 0
    text = capsys.readouterr().out
    for entry in entries:
        assert f"{entry['name']}: {entry['title']}" in text
        assert all(f"{p['name']}  {p['allowed']}, default {p['default']}" in text for p in entry["parameters"])


def test_methods_say_the_range_of_density(capsys: Captured) -> None:
    main(["methods", "--json"])
    ties = next(m for m in json.loads(capsys.readouterr().out) if m["name"] == "ties")
    density = next(p for p in ties["parameters"] if p["name"] == "density")
    assert (density["allowed"], density["default"], density["per_task"]) == ("(0, 1]", 0.2, True)


def test_inspect(zoo: Path, capsys: Captured) -> None:
    assert main(["inspect", *models_of(zoo), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [m["name"] for m in found["models"]] == ["base", *TASKS]
    assert found["mergeable_tensors"] == found["tensors"] > 0 and found["problems"] == []
    assert [d["task"] for d in found["differences"]] == list(TASKS)
    assert main(["inspect", *models_of(zoo)]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("architecture", "frozen", "base", *TASKS)) and "..." not in text


def test_inspect_shows_a_task_called_base_beside_the_base(zoo: Path, capsys: Captured) -> None:
    assert main(["inspect", str(zoo / "base"), f"base={zoo / 'colours'}", "--json"]) == 0
    paths = [m["path"] for m in json.loads(capsys.readouterr().out)["models"]]
    assert paths == [str(zoo / "base"), str(zoo / "colours")]


def test_inspect_warns_of_a_fine_tune_that_is_the_base(zoo: Path, capsys: Captured) -> None:
    assert main(["inspect", str(zoo / "base"), f"same={zoo / 'base'}"]) == 0
    assert "task same: every shared tensor equals the base's" in capsys.readouterr().out


def test_survey_writes_tables_and_prints_them(zoo: Path, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "deep" / "tables"
    assert main(["survey", *models_of(zoo), "-o", str(out), "--json", "--metrics", "cosine", "norm_profile"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed["metrics"]) == {"cosine", "norm_profile"} and all(printed["metrics"].values())
    assert json.loads((out / "summary.json").read_text("utf-8")) == printed
    written = {"cosine.json", "cosine.csv", "norm_profile.json", "norm_profile.csv", "summary.json"}
    assert {p.name for p in out.iterdir() if p.suffix != ".parquet"} == written
    assert main(["survey", *models_of(zoo), "-o", str(out), "--metrics", "cosine"]) == 0
    assert "wrote 1 tables" in capsys.readouterr().out


def test_survey_of_a_density_out_of_range(zoo: Path, tmp_path: Path, capsys: Captured) -> None:
    assert main(["survey", *models_of(zoo), "-o", str(tmp_path / "x"), "--trim-density", "20"]) == 2
    assert "trim_density must be in (0, 1]; got 20. Use 0.2 for 20 %." in capsys.readouterr().err


def test_survey_into_a_file_is_an_output_error(zoo: Path, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "file").write_text("x")
    assert main(["survey", *models_of(zoo), "-o", str(tmp_path / "file")]) == 1
    assert "must be a folder for the tables" in capsys.readouterr().err


def test_merge_then_evaluate_with_and_without_json(zoo: Path, tmp_path: Path, capsys: Captured) -> None:
    recipe, out = write_recipe(tmp_path / "r.yaml", recipe_of(zoo)), tmp_path / "out"
    assert main(["merge", str(recipe), str(out)]) == 0
    assert f"wrote {out}" in capsys.readouterr().out
    tables = []
    for model in (out, recipe):
        arguments = ["evaluate", str(model), "--tasks-folder", str(zoo / "tasks"), "--device", "cpu"]
        assert main([*arguments, "--json"]) == 0
        tables.append(json.loads(capsys.readouterr().out)["table"])
        assert main([*arguments, "--tasks", TASKS[0], TASKS[0]]) == 0
        assert "over 1 tasks" in capsys.readouterr().out
    assert tables[0] == tables[1]


def test_evaluate_takes_a_single_file_with_its_tokenizer_beside_it(zoo: Path, capsys: Captured) -> None:
    arguments = ["--tasks-folder", str(zoo / "tasks"), "--json", "--tasks", "colours"]
    found = []
    for model in (zoo / "colours", zoo / "colours" / "model.safetensors"):
        assert main(["evaluate", str(model), *arguments]) == 0
        found.append(json.loads(capsys.readouterr().out)["table"])
    assert found[0] == found[1]


def test_an_exported_folder_is_scored_on_its_own_tasks(zoo: Path, tmp_path: Path, capsys: Captured) -> None:
    recipe = recipe_of(zoo, tasks={"numbers": str(zoo / "numbers")})
    assert main(["merge", str(write_recipe(tmp_path / "r.yaml", recipe)), str(tmp_path / "out")]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "out"), "--tasks-folder", str(zoo / "tasks"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"] == ["numbers"]


def test_set_replaces_a_parameter_also_where_tasks_have_their_own(zoo: Path, tmp_path: Path, capsys: Captured) -> None:
    tasks = {t: {"checkpoint": str(zoo / t), "scale": 0.9} for t in TASKS}
    recipe = write_recipe(tmp_path / "r.yaml", recipe_of(zoo, tasks=tasks, method="ties"))
    changes = ["--set", "scale=0.5", "--set", "density=0.3", "--set", "reduce=sum"]
    assert main(["merge", str(recipe), str(tmp_path / "out"), *changes]) == 0
    written = Recipe.load(tmp_path / "out" / "explorer_recipe.yaml")
    assert written.values() == {"scale": 0.5, "density": 0.3, "reduce": "sum"}
    per_task = ["--set", "scale={colours: 0.1, numbers: 0.2}"]
    assert main(["merge", str(recipe), str(tmp_path / "two"), *per_task]) == 0
    assert Recipe.load(tmp_path / "two" / "explorer_recipe.yaml").values()["scale"] == {"colours": 0.1, "numbers": 0.2}
    capsys.readouterr()
    for text, said in (("density", "--set: must be NAME=VALUE"), ("denstiy=0.2", "Did you mean 'density'?")):
        assert main(["merge", str(recipe), str(tmp_path / "three"), "--set", text]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "three").exists()


def test_add_ons_are_applied_and_written_down(zoo: Path, tmp_path: Path, capsys: Captured) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", recipe_of(zoo))
    add_ons = ["--add-on", "lines:alpha=0.1,beta=0.9", "--add-on", "consensus_mask"]
    assert main(["merge", str(recipe), str(tmp_path / "out"), *add_ons]) == 0
    written = Recipe.load(tmp_path / "out" / "explorer_recipe.yaml")
    assert written.add_ons == (("lines", {"alpha": 0.1, "beta": 0.9}), ("consensus_mask", {}))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Then **LiNeS**" in card and card.index("**LiNeS**") < card.index("**Consensus mask**")
    capsys.readouterr()
    assert main(["merge", str(recipe), str(tmp_path / "two"), "--add-on", "line"]) == 2
    assert "Did you mean 'lines'?" in capsys.readouterr().err
    assert main(["add-ons", "--json"]) == 0
    assert [a["name"] for a in json.loads(capsys.readouterr().out)] == ["consensus_mask", "layer_scales", "lines"]


def test_task_names_on_the_command_line(tmp_path: Path) -> None:
    assert named_tasks(["spam=m/a", "m/movies", "m/x.safetensors"]) == {
        "spam": "m/a", "movies": "m/movies", "x": "m/x.safetensors",
    }  # fmt: skip
    assert named_tasks(["runs/lr=0.1/spam"]) == {"spam": "runs/lr=0.1/spam"}
    (tmp_path / "lr=1").mkdir()
    assert named_tasks([f"{tmp_path}/lr=1"]) == {"lr=1": f"{tmp_path}/lr=1"}
    with pytest.raises(InputError, match=r"(?s)3 problems.*'a'.*'=x'.*'b='"):
        named_tasks(["a=1", "a=2", "=x", "b="])


def test_progress_goes_to_a_terminal_only(zoo: Path, tmp_path: Path, capsys: Captured) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", recipe_of(zoo))
    assert main(["merge", str(recipe), str(tmp_path / "out")]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("arguments", [["methods", "--json"], ["tasks"]], ids=["much", "little"])
def test_a_reader_that_has_seen_enough_is_no_error_message(arguments: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "explorer", *arguments]
    buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True, check=False, env=buffered)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_ctrl_c_leaves_nothing_and_says_so(
    zoo: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    import explorer.export_pass

    calls = []

    def stop(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    real = explorer.export_pass.merge_piece
    monkeypatch.setattr(explorer.export_pass, "merge_piece", stop)
    recipe = write_recipe(tmp_path / "r.yaml", recipe_of(zoo))
    assert main(["merge", str(recipe), str(tmp_path / "deep" / "out")]) == 1
    captured = capsys.readouterr()
    assert captured.err == "stopped; nothing half-written remains\n" and captured.out == ""
    assert [p.name for p in tmp_path.iterdir()] == ["r.yaml"]


def test_unknown_commands_and_missing_arguments_exit_with_2(capsys: Captured) -> None:
    for arguments in ([], ["mrege"], ["merge"], ["survey", "a", "b"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        assert "usage:" in capsys.readouterr().err


def test_docs_check_fails_when_a_page_is_stale(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explorer.reference, "FOLDER", tmp_path / "reference")
    assert main(["docs", "--check"]) == 1
    assert "out of date" in capsys.readouterr().err
    assert main(["docs"]) == 0
    assert main(["docs", "--check"]) == 0
    (tmp_path / "methods.md").write_text("old")
    capsys.readouterr()
    assert main(["docs", "--check"]) == 1
    captured = capsys.readouterr().err
    assert captured.count("out of date") == 1 and "methods.md" in captured
