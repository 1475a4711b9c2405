"""Tiny BERTs with a word tokenizer, and a task with known answers for every kind that reads text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from kind_examples import Built

COLOURS = ("red", "green", "blue")
ANIMALS = ("cat", "dog", "owl", "fox")
SIZES = ("small", "large")
FILLERS = ("the", "a", "is", "was", "here", "there", "very", "and")
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *COLOURS, *ANIMALS, *SIZES, *FILLERS)
Rows = Sequence[Mapping[str, Any]]


def write_model(
    folder: Path, auto: str = "BertModel", *, seed: int = 0, like: Path | None = None, **config: Any
) -> Path:
    """A tiny BERT of that class with its tokenizer; the backbone of `like` where it is given, else drawn by `seed`."""
    import transformers

    made = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=24, initializer_range=0.2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        **config,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        maker = getattr(transformers, auto)
        model = maker.from_pretrained(like, config=made) if like else maker(made)
    return save_model(folder, model)


def save_model(folder: Path, model: Any) -> Path:
    """A model of these words and its tokenizer."""
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """Splits on white space; [CLS] a [SEP] b [SEP], with token types."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = WhitespaceSplit()
    marks = [("[CLS]", WORDS.index("[CLS]")), ("[SEP]", WORDS.index("[SEP]"))]
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=marks
    )
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **named).save_pretrained(folder)


def write_rows(folder: Path, rows: Rows, **declared: Any) -> Path:
    """A task folder with one split; `declared` are entries of its task.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    known = {"schema": 1, "name": folder.name, "version": 1, "splits": {"test": "test.jsonl"}}
    (folder / "task.json").write_text(json.dumps({**known, **declared}), encoding="utf-8")
    return folder


def word_rows(labels: Sequence[str], count: int = 60) -> list[dict[str, Any]]:
    """Texts of three to five words, one of which is the name of their label; every other word says nothing."""
    rows = []
    for i in range(count):
        words = [FILLERS[(i * 5 + k * 3) % len(FILLERS)] for k in range(2 + i % 3)]
        words.insert(i % 3, labels[i % len(labels)])
        rows.append({"text": " ".join(words), "label": i % len(labels)})
    return rows


def sequence_classification(folder: Path) -> Built:
    """Colours in texts, every third with a second text; the head is untrained."""
    rows = [{**r, **({"text_pair": "a cat"} if i % 3 == 0 else {})} for i, r in enumerate(word_rows(COLOURS, 30))]
    named = {"num_labels": 3, "id2label": dict(enumerate(COLOURS))}
    model = write_model(folder / "model", "BertForSequenceClassification", **named)
    task = write_rows(folder / "colours", rows, kind="sequence_classification", labels=list(COLOURS), max_length=16)
    return Built(task, model)


def regression(folder: Path) -> Built:
    """How many of a text's words are colours; the head is untrained."""
    rows = [{**r, "value": r["text"].count("e") / 2} for r in word_rows(COLOURS, 30)]
    model = write_model(folder / "model", "BertForSequenceClassification", num_labels=1)
    return Built(write_rows(folder / "letters", rows, kind="regression", max_length=16), model)


def similarity(folder: Path) -> Built:
    """Texts that are equal, share half of their words, or none."""
    rows = []
    for i in range(30):
        text, other = f"{COLOURS[i % 3]} {ANIMALS[i % 4]}", f"{FILLERS[i % 8]} {FILLERS[(i + 3) % 8]}"
        pair, value = ((text, 1.0), (f"{COLOURS[i % 3]} {other}", 0.5), (other, 0.0))[i % 3]
        rows.append({"text": text, "text_pair": pair, "value": value})
    return Built(write_rows(folder / "alike", rows, kind="similarity", max_length=16), write_model(folder / "model"))


def token_classification(folder: Path) -> Built:
    """Animals in sentences, with their colour before them where they have one; the head is untrained."""
    labels, rows = ["O", "B-ANIMAL", "I-ANIMAL"], []
    for i in range(24):
        tokens, marked = [FILLERS[i % 8], COLOURS[i % 3], ANIMALS[i % 4]], [0, 1, 2]
        rows.append({"tokens": [*tokens[i % 3 :], "is"], "labels": [*(marked[i % 3 :] if i % 3 < 2 else [1]), 0]})
    model = write_model(folder / "model", "BertForTokenClassification", num_labels=3)
    task = write_rows(folder / "animals", rows, kind="token_classification", labels=labels, max_length=16)
    return Built(task, model)


def retrieval(folder: Path) -> Built:
    """Queries whose answer has all of their words; the other documents have none."""
    rows = []
    for i in range(24):
        query, others = f"{COLOURS[i % 3]} {ANIMALS[i % 4]}", [f"{FILLERS[(i + k) % 8]} is" for k in range(1 + i % 3)]
        rows.append({"query": query, "positive": [query], "negative": others})
    return Built(write_rows(folder / "found", rows, kind="retrieval", max_length=16), write_model(folder / "model"))


def clustering(folder: Path) -> Built:
    """Texts of one word many times over, which no two labels share."""
    rows = [{"text": " ".join([ANIMALS[i % 4]] * (1 + i % 2)), "label": i % 4} for i in range(24)]
    task = write_rows(folder / "kinds", rows, kind="clustering", labels=list(ANIMALS), max_length=16)
    return Built(task, write_model(folder / "model"))


EXAMPLES: dict[str, Callable[[Path], Built]] = {
    "sequence_classification": sequence_classification,
    "regression": regression,
    "similarity": similarity,
    "token_classification": token_classification,
    "retrieval": retrieval,
    "clustering": clustering,
}
