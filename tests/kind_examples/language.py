"""Tiny language models whose answers are known: what follows a word is written into their weights by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kind_examples import Built

SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")
WORDS = (*SPECIAL, "france", "paris", "italy", "rome", "japan", "tokyo", "spain", "madrid", "is", "the", "city", "of")
FOLLOWS = {"france": "paris", "italy": "rome", "japan": "tokyo", "spain": "madrid"}
STRENGTH = 6.0
"""Logit of the word that follows; every other word has 0, so it has probability 1 / (e^6 + 15)."""
PLACE = {word: place for place, word in enumerate(WORDS)}
SIZE = len(WORDS)


def write_tokenizer(folder: Path, *, bos: bool = False, eos: bool = True, pad: bool = True, chat: str = "") -> None:
    """One token per word; `bos` puts the token for the beginning before every text."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(WordLevel(dict(PLACE), unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    if bos:
        backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", PLACE["<s>"])])
    named = {"unk_token": "<unk>", **({"bos_token": "<s>"} if bos else {}), **({"eos_token": "</s>"} if eos else {})}
    made = PreTrainedTokenizerFast(tokenizer_object=backend, **named, **({"pad_token": "<pad>"} if pad else {}))
    if chat:
        made.chat_template = chat
    made.save_pretrained(folder)


def table_of(follows: Mapping[str, str]) -> torch.Tensor:
    """[words, words]: STRENGTH where a row's word follows the column's; the end follows what nothing else follows."""
    table = torch.zeros(SIZE, SIZE)
    for word, next_word in {**dict.fromkeys(follows.values(), "</s>"), **follows}.items():
        table[PLACE[next_word], PLACE[word]] = STRENGTH
    return table


def llama(follows: Mapping[str, str] = FOLLOWS, **config: Any) -> nn.Module:
    """A Llama whose layers add nothing: the logits after a word are that word's column of the table."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": SIZE, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = seeded(
        LlamaForCausalLM,
        LlamaConfig(vocab_size=SIZE, max_position_embeddings=64, tie_word_embeddings=False, **sizes, **config),
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(SIZE) * 4)
        model.lm_head.weight.copy_(table_of(follows) / SIZE**0.5)  # the norm makes a vector of length √width
    return model


def gpt2(follows: Mapping[str, str] = FOLLOWS, **config: Any) -> nn.Module:
    """As `llama`, with GPT-2's layers: its norm takes the mean away, which moves all logits alike."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": SIZE, "n_layer": 1, "n_head": 2, "n_positions": 32}
    ends = {"bos_token_id": PLACE["</s>"], "eos_token_id": PLACE["</s>"]}
    model = seeded(GPT2LMHeadModel, GPT2Config(vocab_size=SIZE, tie_word_embeddings=False, **sizes, **ends, **config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "c_proj" in name or "wpe" in name:
                parameter.zero_()
        model.transformer.wte.weight.copy_(torch.eye(SIZE) * 4)
        model.lm_head.weight.copy_(table_of(follows) / SIZE**0.5)
    return model


def t5(follows: Mapping[str, str] = FOLLOWS) -> nn.Module:
    """A T5 whose decoder sees the mean of the prompt's words: it writes what follows one of them, then ends."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=SIZE, d_model=SIZE, d_kv=SIZE // 2, num_heads=2, d_ff=8, num_layers=1, dropout_rate=0.0,
        tie_word_embeddings=False, decoder_start_token_id=0, pad_token_id=0, eos_token_id=PLACE["</s>"],
    )  # fmt: skip
    model = seeded(T5ForConditionalGeneration, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "SelfAttention.o." in name or name.endswith("wo.weight") or "EncDecAttention.q." in name:
                parameter.zero_()
            if "EncDecAttention.v." in name or "EncDecAttention.o." in name:
                parameter.copy_(torch.eye(SIZE))
        model.shared.weight.copy_(torch.eye(SIZE) * 4)
        model.shared.weight[0].zero_()  # the first word that the decoder sees adds nothing
        table = table_of(follows)
        table[PLACE["</s>"]] *= 4  # the end outweighs what the prompt asks for
    # As in T5 1.1 and Flan-T5: the last layer is no copy of the embeddings, and config.json says so.
    model.lm_head.weight, model.config.tie_word_embeddings = nn.Parameter(table), False
    return model


def seeded(model: Any, config: Any) -> Any:
    """A model with random weights from seed 0; the global random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model(config).eval()


def write_model(folder: Path, model: Any, **tokenizer: Any) -> Path:
    """config.json, model.safetensors and the tokenizer."""
    model.save_pretrained(folder)
    write_tokenizer(folder, **tokenizer)
    return folder


def write_rows(folder: Path, kind: str, rows: Sequence[Mapping[str, Any]], **parameters: Any) -> Path:
    """A task folder of the kind."""
    folder.mkdir(parents=True, exist_ok=True)
    declared = {"schema": 1, "name": folder.name, "kind": kind, "splits": {"test": "test.jsonl"}, **parameters}
    (folder / "task.json").write_text(json.dumps(declared), encoding="utf-8")
    (folder / "test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return folder


TEXTS = [{"text": t} for t in ("france paris", "italy rome japan tokyo", "the city of france is paris", "spain rome")]
CITIES = list(FOLLOWS.values())
QUESTIONS = [
    *({"question": f"the city of {c}", "choices": CITIES, "answer": CITIES.index(FOLLOWS[c])} for c in FOLLOWS),
    {"question": "italy", "choices": ["paris", "rome"], "answer": 1},
    {"question": "japan", "choices": ["rome", "tokyo the city of"], "answer": 1},  # likelier only per character
    {"question": "spain", "choices": ["paris", "madrid", "rome"], "answer": 0},  # the model disagrees
    {"question": "france", "choices": ["tokyo", "madrid"], "answer": 0},  # equally unlikely: the first wins
]
PROMPTS = [
    *({"prompt": f"the city of {c}", "references": [FOLLOWS[c].title()]} for c in FOLLOWS),
    {"prompt": "italy", "references": ["Milan", "The Rome."]},
    {"prompt": "spain", "references": ["Barcelona"]},
]


def perplexity(folder: Path) -> Built:
    """Texts and a Llama."""
    task = write_rows(folder / "perplexity", "perplexity", TEXTS, max_length=4, stride=2)
    return Built(task, write_model(folder / "llama", llama()))


def multiple_choice(folder: Path) -> Built:
    """Questions and a Llama with a token for the beginning."""
    task = write_rows(folder / "multiple_choice", "multiple_choice", QUESTIONS)
    return Built(task, write_model(folder / "llama", llama(), bos=True))


def generation(folder: Path) -> Built:
    """Prompts and a GPT-2 whose tokenizer has no token for padding."""
    task = write_rows(folder / "generation", "generation", PROMPTS, max_new_tokens=4, max_length=16)
    return Built(task, write_model(folder / "gpt2", gpt2(), pad=False))


def seq2seq_generation(folder: Path) -> Built:
    """Prompts and a T5."""
    task = write_rows(folder / "seq2seq", "seq2seq_generation", PROMPTS, max_new_tokens=4, max_length=16)
    return Built(task, write_model(folder / "t5", t5()))


EXAMPLES = {
    "perplexity": perplexity,
    "multiple_choice": multiple_choice,
    "generation": generation,
    "seq2seq_generation": seq2seq_generation,
}
