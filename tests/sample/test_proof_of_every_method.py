"""The proof holds for every method with every stored dtype and every add-on, against the live model and a new merge.

`test_preview_is_export` compares with the safetensors library and with every setting; here the proof itself is tried.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle, product
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
    """Every dtype with no add-on, each add-on alone, and all together."""
    several = [NO_ADD_ON, *((name,) for name in ADD_ONS.names()), ADD_ONS.names()]
    return list(product(DTYPES, several))


@pytest.mark.slow
def test_every_method_every_dtype_every_add_on(zoo: Path, tmp_path: Path) -> None:
    """The combinations take turns over the methods; every method in every dtype is `test_preview_is_export`'s."""
    lives: dict[int, LiveModel] = {}
    tried = set()
    for method, (dtype, names) in zip(METHODS, cycle(combinations()), strict=False):
        plain = recipe(zoo, method.name, {}, dtype)
        made = replace(plain, add_ons=tuple((name, {}) for name in names))
        if len(made.tasks) not in lives:
            lives[len(made.tasks)] = LiveModel(load_resident(open_models(made), torch.device("cpu")))
        live = lives[len(made.tasks)]
        live.merge(made, cache=Store())
        out = run_recipe(made, tmp_path / method.name).path
        proofs = prove_live(live, made, out), prove_folder(out)
        assert [p.against for p in proofs] == ["the live model", "a new merge by its recipe"]
        for proof in proofs:
            assert proof.holds, (method.name, dtype, names, proof.first)
            assert proof.tensors >= 23 and proof.weights > 200
        tried.add((dtype, names))
    assert tried == set(combinations())


def test_the_proof_of_another_setting_fails(zoo: Path, tmp_path: Path) -> None:
    made = recipe(zoo, "task_arithmetic", {"scale": 0.3}, None)
    live = LiveModel(load_resident(open_models(made), torch.device("cpu")))
    live.merge(recipe(zoo, "task_arithmetic", {"scale": 0.31}, None), cache=Store())
    proof = prove_live(live, made, run_recipe(made, tmp_path / "out").path)
    assert not proof.holds and 0 < proof.differing <= proof.tensors and proof.first is not None
