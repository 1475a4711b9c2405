"""The proof holds for every method with every stored dtype and every add-on, against the live model and a new merge.

`test_preview_is_export` compares with the safetensors library and with every setting; here the proof itself is tried.
"""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_preview_is_export import recipe, statistics, tasks_of
from transformers import BertConfig, BertModel

from explorer.exporting import run_recipe
from explorer.live import LiveModel, load_resident
from explorer.merging import ADD_ONS, METHODS
from explorer.opening import open_models
from explorer.proof import prove_folder, prove_live
from explorer.recipe import Recipe
from explorer.store import Store

DTYPES = (None, "float32", "bfloat16", "float16")
NO_ADD_ON: tuple[str, ...] = ()


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest BERT there is, half of it in half precision, and three fine-tunes with statistics."""
    folder = tmp_path_factory.mktemp("tiny")
    config = BertConfig(
        vocab_size=8, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=6,
        max_position_embeddings=4,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(5)
        base = BertModel(config)
        base.encoder.layer[0].half()
        base.save_pretrained(folder / "base")
        for number, name in enumerate(tasks_of("ties")):
            tuned = BertModel(config)
            tuned.load_state_dict({n: t.float() + 0.1 * torch.randn(t.shape) for n, t in base.state_dict().items()})
            tuned.save_pretrained(folder / name)
            save_file(statistics(tuned.state_dict(), number), folder / f"{name}.safetensors")
    return folder


def combinations() -> list[tuple[str | None, tuple[str, ...]]]:
    """Every dtype and every add-on, alone and all together, each at least once."""
    chosen = [NO_ADD_ON, *((name,) for name in ADD_ONS.names()), ADD_ONS.names()]
    return list(zip(cycle(DTYPES), chosen, strict=False))


def test_every_method_every_dtype_every_add_on(zoo: Path, tmp_path: Path) -> None:
    lives: dict[int, LiveModel] = {}
    tried, against = set(), set()
    for method in METHODS:
        for number, (dtype, names) in enumerate(combinations()):
            plain = recipe(zoo, method.name, {}, dtype)
            made = Recipe(
                plain.base, plain.tasks, method.name, dtype=dtype, add_ons=tuple((name, {}) for name in names)
            )
            if len(made.tasks) not in lives:
                resident = load_resident(open_models(made), torch.device("cpu"))
                lives[len(made.tasks)] = LiveModel(resident)
            live = lives[len(made.tasks)]
            live.merge(made, cache=Store())
            out = run_recipe(made, tmp_path / f"{method.name}-{number}").path
            for proof in (prove_live(live, made, out), prove_folder(out)):
                assert proof.holds, (method.name, dtype, names, proof.first)
                assert proof.tensors >= 23 and proof.weights > 200
                against.add(proof.against)
            tried.add((dtype, names))
    assert {dtype for dtype, _ in tried} == set(DTYPES) and len(against) == 2
    assert {name for _, names in tried for name in names} == set(ADD_ONS.names())


def test_the_proof_of_another_setting_fails(zoo: Path, tmp_path: Path) -> None:
    made = recipe(zoo, "task_arithmetic", {"scale": 0.3}, None)
    live = LiveModel(load_resident(open_models(made), torch.device("cpu")))
    live.merge(recipe(zoo, "task_arithmetic", {"scale": 0.31}, None), cache=Store())
    proof = prove_live(live, made, run_recipe(made, tmp_path / "out").path)
    assert not proof.holds and 0 < proof.differing <= proof.tensors and proof.first is not None
