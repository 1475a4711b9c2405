"""Modules without weights of their own: bound tensors are shared, whatever is missing is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from evaluation_zoo import CONFIG, weights, write_checkpoint
from safetensors.torch import save_file
from torch import Tensor, nn

from explorer.errors import CheckpointError
from explorer.evaluation import bind, build_module, load_module, load_tokenizer

INPUTS = {"input_ids": torch.tensor([[4, 7, 8, 9]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
T5 = {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 20}
RESNET = {"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [4], "depths": [1], "layer_type": "basic"}


def answer(module: nn.Module) -> Tensor:
    with torch.inference_mode():
        return module(**INPUTS).last_hidden_state.clone()


def row_of(state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """One contiguous buffer, and views of it by name."""
    row = torch.cat([t.reshape(-1) for t in state.values()])
    parts = row.split([t.numel() for t in state.values()])
    return row, {n: p.view(t.shape) for (n, t), p in zip(state.items(), parts, strict=True)}


def test_bound_parameters_are_the_given_memory() -> None:
    module, state = build_module(CONFIG), weights()
    row, views = row_of(state)
    assert bind(module, views) == ()
    for name, parameter in module.named_parameters():
        assert parameter.data_ptr() == views[name].data_ptr() and not parameter.requires_grad
    before = answer(module)
    row.copy_(row_of(weights(seed=1))[0])
    fresh = build_module(CONFIG)
    bind(fresh, weights(seed=1))
    assert not torch.equal(answer(module), before)
    assert torch.equal(answer(module), answer(fresh))


def test_building_draws_nothing_and_has_no_pooler() -> None:
    before = torch.get_rng_state()
    module = build_module(CONFIG)
    assert torch.equal(torch.get_rng_state(), before)
    assert not module.training
    assert not any("pooler" in n for n, _ in module.named_parameters())
    assert all(p.is_meta for p in module.parameters())
    assert module.embeddings.position_ids.tolist() == [list(range(24))]  # buffers are real
    with pytest.raises((NotImplementedError, RuntimeError)):
        answer(module)  # without weights there is no answer


def test_config_of_a_folder_a_file_and_a_mapping(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "dtype": "float16"}))
    for source in (tmp_path, tmp_path / "config.json", CONFIG):
        assert {p.dtype for p in build_module(source).parameters()} == {torch.float32}
    assert {p.dtype for p in build_module(CONFIG, dtype=torch.float64).parameters()} == {torch.float64}


@pytest.mark.parametrize("prefix", ["bert.", "model.bert."])
def test_names_with_a_prefix(prefix: str) -> None:
    state = weights()
    plain, prefixed = build_module(CONFIG), build_module(CONFIG)
    bind(plain, state)
    views = {prefix + n: t for n, t in state.items()} | {"classifier.weight": torch.ones(2, 2)}
    assert bind(prefixed, views) == ("classifier.weight",)
    assert torch.equal(answer(plain), answer(prefixed))


def test_names_that_lack_the_prefix() -> None:
    inner = build_module(CONFIG)

    class Wrapped(nn.Module):
        base_model_prefix = "bert"

        def __init__(self) -> None:
            super().__init__()
            self.bert = inner

    state = weights()
    assert bind(Wrapped(), state) == ()
    assert inner.embeddings.word_embeddings.weight.data_ptr() == state["embeddings.word_embeddings.weight"].data_ptr()


def test_every_missing_and_wrong_tensor_is_named_and_nothing_is_bound() -> None:
    module, state = build_module(CONFIG), weights()
    del state["encoder.layer.0.output.dense.bias"]
    state["encoder.layer.1.output.dense.bias"] = torch.ones(3)
    state["embeddings.LayerNorm.bias"] = state["embeddings.LayerNorm.bias"].half()
    with pytest.raises(CheckpointError) as error:
        bind(module, state)
    message = str(error.value)
    assert "got none for encoder.layer.0.output.dense.bias. Use weights of this architecture." in message
    assert "encoder.layer.1.output.dense.bias must have shape (16,); got (3,)" in message
    assert "embeddings.LayerNorm.bias must be torch.float32; got torch.float16" in message
    assert all(p.is_meta for p in module.parameters())
    with pytest.raises(CheckpointError, match=r"none for .*, .* and \d+ more"):
        bind(module, {"other.weight": torch.ones(1)})


def test_tied_parameters_share_one_tensor() -> None:
    module = build_module(T5)
    shapes = {n: p.shape for n, p in module.named_parameters()}
    state = {n: torch.ones(s) for n, s in shapes.items()}
    assert "encoder.embed_tokens.weight" not in state  # given under one of its names only
    bind(module, state)
    shared = state["shared.weight"].data_ptr()
    assert module.encoder.embed_tokens.weight.data_ptr() == module.decoder.embed_tokens.weight.data_ptr() == shared
    with pytest.raises(CheckpointError, match=r"the aliases of shared\.weight must be equal; got different values"):
        bind(module, {**state, "decoder.embed_tokens.weight": torch.zeros(20, 16)})


def test_running_statistics_are_bound_and_counters_are_not_needed() -> None:
    module = build_module(RESNET)
    state = {n: torch.full_like(t, 0.5, device="cpu") for n, t in module.state_dict().items() if t.is_floating_point()}
    bind(module, state)
    name = next(n for n in state if n.endswith("running_mean"))
    assert dict(module.named_buffers())[name].data_ptr() == state[name].data_ptr()
    with pytest.raises(CheckpointError, match="running_mean"):
        bind(module, {n: t for n, t in state.items() if n != name})


def test_a_checkpoint_folder_becomes_a_module(tmp_path: Path) -> None:
    state = weights()
    half = {f"bert.{n}": t.half() for n, t in state.items()} | {"bert.pooler.dense.bias": torch.ones(16)}
    module = load_module(write_checkpoint(tmp_path / "m", half))
    expected = build_module(CONFIG)
    bind(expected, {n: t.half().float() for n, t in state.items()})
    assert torch.equal(answer(module), answer(expected))


def test_what_is_no_checkpoint_says_so(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m", weights())
    (folder / "config.json").write_text(json.dumps({**CONFIG, "model_type": "brt"}))
    with pytest.raises(
        CheckpointError, match=r"an architecture that the installed transformers knows; got 'brt'\. Did"
    ):
        load_module(folder)
    with pytest.raises(CheckpointError, match=r"model_type in config\.json must be"):
        build_module({"hidden_size": 3})
    with pytest.raises(CheckpointError, match="must describe a bert model"):
        build_module({**CONFIG, "num_attention_heads": 3})
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"needs a config\.json"):
        load_module(folder)
    with pytest.raises(CheckpointError, match=r"must be a readable config\.json"):
        build_module(folder)


def test_code_of_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    config = {**CONFIG, "auto_map": {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert type(build_module(tmp_path)).__name__ == "BertModel"
    assert not (tmp_path / "ran").exists()
    kernel = build_module({**CONFIG, "_attn_implementation": "someone/kernel", "attn_implementation": "someone/kernel"})
    assert kernel.config._attn_implementation in ("sdpa", "eager")


def test_tokenizers(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m", weights())
    first = load_tokenizer(folder)
    assert first.call(["red one"])["input_ids"] == [[4, 7]]
    assert load_tokenizer(folder).digest == first.digest
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace('"one"', '"uno"'))
    assert load_tokenizer(folder).digest != first.digest
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="must hold a readable tokenizer"):
        load_tokenizer(folder)
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="needs a tokenizer to score text; got no tokenizer files"):
        load_tokenizer(tmp_path)
