"""Fine-tunes of one base, made on the spot: small enough for a test, good enough to be told from chance."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

FILLERS = ("there", "is", "a", "the", "was", "here")


def make_classifiers(folder: Path, labels: Mapping[str, tuple[str, ...]]) -> Path:
    """`folder/base`, a bare encoder, and per name a sequence classifier that knows its label words."""
    import transformers

    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *FILLERS, *(w for own in labels.values() for w in own))
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=130, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _save(folder / "base", transformers.BertModel(config), words)
        for name, own in labels.items():
            model = transformers.BertForSequenceClassification.from_pretrained(
                folder / "base", id2label=dict(enumerate(own)), label2id={w: i for i, w in enumerate(own)}
            )
            _save(folder / name, _trained(model, [words.index(w) for w in own]), words)
    return folder


def _trained(model: torch.nn.Module, own: list[int]) -> torch.nn.Module:
    """[CLS] filler filler word filler [SEP] -> the place of the word; until it is learned."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    calm = 0
    while calm < 10:
        right = torch.randint(len(own), (32,))
        ids = torch.randint(4, 4 + len(FILLERS), (32, 6))
        ids[:, 0], ids[:, -1] = 2, 3
        ids[torch.arange(32), torch.randint(1, 5, (32,))] = torch.tensor(own)[right]
        loss = model(input_ids=ids, labels=right).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        calm = calm + 1 if loss.item() < 0.05 else 0
    return model.eval()


def _save(folder: Path, model: torch.nn.Module, words: tuple[str, ...]) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    model.save_pretrained(folder)  # type: ignore[operator]
    made = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    made.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=made, **named).save_pretrained(folder)
