"""What `gather` measures is what the formulas say, and it writes everything or nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from evaluation_zoo import write_task
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from workbench_zoo import TASKS, make_models, recipe_of, write_recipe

from explorer.checkpoints import open_checkpoint
from explorer.cli import main
from explorer.errors import Cancelled, DataError, InputError, OutputError
from explorer.evaluation import load_module, load_task, load_tokenizer
from explorer.evaluation.measures import Measures, single_examples
from explorer.executor import CancelToken, Progress
from explorer.gathering import gather
from explorer.opening import open_models
from explorer.recipe import Recipe, TaskEntry

QUERY = "encoder.layer.0.attention.self.query.weight"
SCALE = 0.5
"""Small logits: a model that is sure has no Fisher values worth comparing."""
DENSE = "encoder.layer.1.output.dense.weight"


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_models(tmp_path_factory.mktemp("gather"))
    head = torch.randn(3, 16, generator=torch.Generator().manual_seed(50))
    write_task(folder / "unsure" / "colours", weight=head, logit_scale=SCALE)
    return folder


def measured(zoo: Path, *, examples: int = 5, labels: str = "sampled", **changes: object) -> tuple[Measures, list]:
    task = load_task(zoo / "unsure" / "colours")
    names = list(open_checkpoint(zoo / "colours"))
    batches = single_examples(task, load_tokenizer(zoo / "base"), examples, 0)
    made = Measures(load_module(zoo / "colours"), task, names, ("fisher", "gram"), labels, **changes)  # type: ignore[arg-type]
    for batch in batches:
        made.add(batch)
    return made, batches


def probabilities(zoo: Path, state: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
    """The model's prediction written down once more: mean of the token vectors, cosine to the head, softmax."""
    task = load_task(zoo / "unsure" / "colours")
    hidden = torch.func.functional_call(load_module(zoo / "colours"), state, kwargs=batch).last_hidden_state
    assert task.head is not None
    pooled = torch.nn.functional.normalize(hidden.mean(1), dim=-1)
    return torch.softmax(SCALE * pooled @ task.head.T, dim=-1)[0]


def test_expected_fisher_values_are_the_mean_over_labels_of_squared_slopes(zoo: Path) -> None:
    """Against central differences of the log-probabilities, at some entries of two tensors."""
    made, batches = measured(zoo, labels="expected", examples=3)
    got = made.result()
    state = {n: t.double() for n, t in load_file(zoo / "colours" / "model.safetensors").items()}
    module_state = load_module(zoo / "colours").state_dict()
    state = {n: t for n, t in state.items() if n in module_state}
    step = 1e-3
    for name, place in ((DENSE, 3), (DENSE, 40), ("encoder.layer.0.output.dense.bias", 5)):
        want = 0.0
        for batch in batches:
            logs = []
            for side in (1, -1):
                moved = {n: t.float() for n, t in state.items()}
                moved[name] = moved[name].clone()
                moved[name].view(-1)[place] += side * step
                logs.append(probabilities(zoo, moved, batch).log())
            slopes = (logs[0] - logs[1]) / (2 * step)
            chance = probabilities(zoo, {n: t.float() for n, t in state.items()}, batch)
            want += float((chance * slopes.square()).sum()) / len(batches)
        assert float(got[f"fisher/{name}"].view(-1)[place]) == pytest.approx(want, rel=1e-2)
        assert want > 1e-8


def test_sampled_labels_have_the_expected_values_as_their_mean(zoo: Path) -> None:
    exact = measured(zoo, labels="expected", examples=2)[0].result()[f"fisher/{DENSE}"].double()
    draws = [
        measured(zoo, labels="sampled", examples=2, seed=s)[0].result()[f"fisher/{DENSE}"].double() for s in range(60)
    ]
    total, spread = torch.stack(draws).sum((1, 2)), float(exact.sum())
    error = float(total.std() / len(draws) ** 0.5)
    assert abs(float(total.mean()) - spread) < 4 * error + 1e-9 and error > 0


def test_gram_matrices_are_means_over_tokens(zoo: Path) -> None:
    made, batches = measured(zoo)
    module = load_module(zoo / "colours")
    rows = []
    layer = module.get_submodule(QUERY.removesuffix(".weight"))
    layer.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].reshape(-1, 16)))
    with torch.inference_mode():
        for batch in batches:
            module(**batch)
    x = torch.cat(rows).double()
    assert len(x) == sum(int(b["attention_mask"].sum()) for b in batches), "no token is padding"
    got = made.result()[f"gram/{QUERY}"]
    torch.testing.assert_close(got.double(), x.T @ x / len(x), rtol=1e-5, atol=1e-6)
    assert torch.equal(got, got.T)


def test_every_merged_tensor_that_the_model_uses_is_measured(zoo: Path) -> None:
    got = measured(zoo)[0].result()
    used = set(load_module(zoo / "colours").state_dict())
    assert {k.removeprefix("fisher/") for k in got if k.startswith("fisher/")} == used - {"embeddings.position_ids"}
    linear = {n for n in used if n.endswith("weight") and n.startswith("encoder") and "LayerNorm" not in n}
    assert {k.removeprefix("gram/") for k in got if k.startswith("gram/")} == linear


def test_it_writes_statistics_that_the_recipe_names(zoo: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    found = gather(
        recipe_of(zoo, method="fisher"),
        tmp_path / "out",
        tasks_folder=zoo / "tasks",
        split="test",
        examples=4,
        progress=seen.append,
    )
    assert [p.done for p in seen] == list(range(1, 9)) and {p.total for p in seen} == {8}
    assert {p.label for p in seen} == {"measuring colours", "measuring numbers"}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "colours.statistics.safetensors", "numbers.statistics.safetensors", "recipe.yaml",
    ]  # fmt: skip
    assert found.total_bytes == sum(p.stat().st_size for p in found.files)
    with safe_open(found.files[0], "pt") as file:
        said = file.metadata()
    assert (said["task"], said["n"], said["split"], said["labels"]) == ("colours", "4", "test", "expected")
    assert said["checkpoint"] == open_checkpoint(zoo / "colours").digest
    models = open_models(Recipe.load(found.recipe))
    assert models.measured == {"fisher", "gram"} and models.given["numbers"].examples == "4"
    held = load_file(found.files[0])
    task = load_task(zoo / "tasks" / "colours")
    again = Measures(load_module(zoo / "colours"), task, models.names, ("fisher", "gram"))
    for batch in single_examples(task, load_tokenizer(zoo / "base"), 4, 0):
        again.add(batch)
    assert all(torch.equal(held[k], v) for k, v in again.result().items()), "the same seed gives the same bits"


def test_the_command_says_where_everything_went(zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_recipe(tmp_path / "r.yaml", recipe_of(zoo))
    out = tmp_path / "out"
    options = ["--tasks-folder", str(zoo / "tasks"), "--split", "test", "--examples", "2", "--kind", "gram"]
    assert main(["gather", str(file), str(out), *options, "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert all(f"wrote {out / t}.statistics.safetensors" in printed for t in TASKS)
    assert f"wrote {out / 'recipe.yaml'}" in printed
    assert open_models(Recipe.load(out / "recipe.yaml")).measured == {"gram"}
    assert main(["merge", str(out / "recipe.yaml"), str(tmp_path / "merged"), "--set", "scale=0.2"]) == 0


def test_what_is_missing_is_named_at_once_and_nothing_is_written(zoo: Path, tmp_path: Path) -> None:
    made = recipe_of(zoo, tasks={"colour": str(zoo / "colours"), "numbers": str(zoo / "numbers")})
    with pytest.raises(DataError) as caught:
        gather(made, tmp_path / "out", tasks_folder=zoo / "tasks", split="tune")
    first, second = str(caught.value).splitlines()[1:]
    must = "every fine-tune needs an evaluation task of its name"
    assert first == f"  - {zoo / 'tasks'}: {must}; got none for 'colour'. Did you mean 'colours'?"
    assert second.startswith("  - numbers: split must be one that task.json names; got 'tune'.")
    for wrong in ({"examples": 0}, {"labels": "true"}):
        with pytest.raises(InputError, match=r"gather: (examples must be at least 1|labels must be one of)"):
            gather(recipe_of(zoo), tmp_path / "out", tasks_folder=zoo / "tasks", split="test", **wrong)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_cancelling_leaves_nothing_and_a_taken_folder_stays(zoo: Path, tmp_path: Path) -> None:
    token = CancelToken()
    options = {"tasks_folder": zoo / "tasks", "split": "test", "examples": 3}
    with pytest.raises(Cancelled):
        gather(recipe_of(zoo), tmp_path / "out", cancel=token, progress=lambda p: token.cancel(), **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(OutputError, match="must be a new or empty folder"):
        gather(recipe_of(zoo), tmp_path / "out", **options)  # type: ignore[arg-type]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_fisher_values_need_answers_that_are_choices(tmp_path: Path) -> None:
    from kind_examples import examples

    made = examples()["perplexity"](tmp_path / "made")
    task = tmp_path / "tasks" / "texts"
    shutil.copytree(made.task, task)
    declared = json.loads((task / "task.json").read_text("utf-8"))
    splits = {**declared["splits"], "tune": declared["splits"]["test"]}
    (task / "task.json").write_text(json.dumps({**declared, "name": "texts", "splits": splits}), encoding="utf-8")
    recipe = Recipe(str(made.model), (TaskEntry("texts", str(made.model)),))
    with pytest.raises(DataError, match="Fisher values need a task whose answers are choices"):
        gather(recipe, tmp_path / "out", tasks_folder=tmp_path / "tasks", kinds=("fisher",))
    found = gather(recipe, tmp_path / "out", tasks_folder=tmp_path / "tasks", kinds=("gram",))
    assert all(key.startswith("gram/") for key in load_file(found.files[0]))
