"""Kinds for language models against transformers, lm-evaluation-harness, and answers known from hand-made weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kind_examples import Built
from kind_examples import language as zoo
from torch import nn

from explorer.errors import DataError
from explorer.evaluation import Evaluator, Loaded, TaskScore, load_task, load_tokenizer
from explorer.evaluation._language import encode
from explorer.evaluation.tasks.multiple_choice import encode_pair
from explorer.evaluation.tasks.perplexity import windows
from explorer.evaluation.writing import Writer, drawn, likeliest, write

RANDOM = {"initializer_range": 0.6}


def scored(built: Built, module: Any = None, **parameters: Any) -> TaskScore:
    """The whole split, after changes of task.json."""
    declared = json.loads((built.task / "task.json").read_text("utf-8"))
    (built.task / "task.json").write_text(json.dumps({**declared, **parameters}), encoding="utf-8")
    task = load_task(built.task)
    return list(Evaluator([task], built.model).run(module or Loaded(built.model), key="x"))[-1].scores[task.name]


def random_gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "vocab_size": zoo.SIZE}
    return zoo.seeded(GPT2LMHeadModel, GPT2Config(**sizes, **RANDOM, bos_token_id=3, eos_token_id=3))


def random_llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return zoo.seeded(LlamaForCausalLM, LlamaConfig(**sizes, **RANDOM, vocab_size=zoo.SIZE, eos_token_id=[3, 2]))


def random_t5() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "vocab_size": zoo.SIZE}
    config = T5Config(**sizes, initializer_factor=3.0, decoder_start_token_id=0, pad_token_id=0, eos_token_id=3)
    return zoo.seeded(T5ForConditionalGeneration, config)


# Perplexity.


@pytest.mark.parametrize("max_length", [64, 3])
def test_perplexity_is_the_loss_of_transformers(tmp_path: Path, max_length: int) -> None:
    built, module = zoo.perplexity(tmp_path), random_gpt2()
    score = scored(built, module, max_length=max_length, stride=2)
    tokenizer = load_tokenizer(built.model).call
    for text, (loss, tokens) in zip(zoo.TEXTS, score.predictions, strict=True):
        ids = torch.tensor([encode(tokenizer, text["text"])])
        expected, before = 0.0, 0
        for begin in range(0, ids.shape[1], 2):  # windows as in transformers' page on perplexity
            end = min(begin + max_length, ids.shape[1])
            part, labels = ids[:, begin:end], ids[:, begin:end].clone()
            labels[:, : before - begin] = -100
            with torch.inference_mode():
                expected += float(module(part, labels=labels).loss) * int((labels[:, 1:] != -100).sum())
            before = end
            if end == ids.shape[1]:
                break
        assert tokens == ids.shape[1] - 1
        assert loss == pytest.approx(expected, rel=1e-5)
    assert score.score == pytest.approx(math.exp(-score.predictions[:, 0].sum() / score.predictions[:, 1].sum()))


def test_perplexity_of_known_models(tmp_path: Path) -> None:
    built = zoo.perplexity(tmp_path)
    sure = zoo.STRENGTH - math.log(math.exp(zoo.STRENGTH) + zoo.SIZE - 1)
    unsure = -math.log(math.exp(zoo.STRENGTH) + zoo.SIZE - 1)
    score = scored(built)
    assert score.predictions[0] == pytest.approx([-sure, 1], rel=1e-3)
    assert score.predictions[1] == pytest.approx([-2 * sure - unsure, 3], rel=1e-3)
    level = zoo.llama()
    level.lm_head.weight.data.zero_()
    same = scored(built, level)
    assert same.score == pytest.approx(1 / zoo.SIZE) and same.metric.shown[1](same.score) == pytest.approx(zoo.SIZE)
    level.lm_head.weight.data.fill_(float("nan"))
    assert scored(built, level).score == 0.0
    zoo.write_tokenizer(built.model, bos=True)  # now the first word of a text has a context
    assert scored(built).predictions[:, 1].tolist() == [2, 4, 6, 2]


@pytest.mark.parametrize("max_length", [2, 3, 7, 40])
@pytest.mark.parametrize("stride", [1, 3, 100])
def test_windows_score_every_token_but_the_first_once(max_length: int, stride: int) -> None:
    for n in range(1, 25):
        made = windows(range(100, 100 + n), max_length, stride)
        assert [t for _, labels in made for t in labels if t >= 0] == list(range(101, 100 + n))
        assert all(len(seen) == len(labels) <= max_length for seen, labels in made)
        for _, labels in made[1:]:
            assert labels.index(next(t for t in labels if t >= 0)) == max_length - min(stride, max_length - 1) - 1


# Multiple choice.


def by_hand(module: nn.Module, tokenizer: Any, row: Any, metric: str) -> int:
    found = []
    for choice in row["choices"]:
        whole, start = encode(tokenizer, f"{row['question']} {choice}"), len(encode(tokenizer, row["question"]))
        with torch.inference_mode():
            chances = module(torch.tensor([whole])).logits[0].log_softmax(-1)
        total = sum(float(chances[place - 1, whole[place]]) for place in range(start, len(whole)))
        found.append(total / {"acc": 1, "acc_norm": len(choice), "acc_bytes": len(choice.encode())}[metric])
    return int(np.argmax(found))


@pytest.mark.parametrize("metric", ["acc", "acc_norm", "acc_bytes"])
def test_multiple_choice_by_hand(tmp_path: Path, metric: str) -> None:
    built, module = zoo.multiple_choice(tmp_path), random_gpt2()
    rows = [{**row, "choices": [*row["choices"], "ö" * n + " of"]} for n, row in enumerate(zoo.QUESTIONS, start=1)]
    zoo.write_rows(built.task, "multiple_choice", rows)
    score = scored(built, module, metric=metric)
    tokenizer = load_tokenizer(built.model).call
    assert score.predictions.tolist() == [by_hand(module, tokenizer, row, metric) for row in rows]
    assert score.metric.name == metric


def test_multiple_choice_of_known_models(tmp_path: Path) -> None:
    built = zoo.multiple_choice(tmp_path)
    score = scored(built)
    assert score.predictions.tolist() == [0, 1, 2, 3, 1, 0, 1, 0] and score.score == 0.75
    assert scored(built, metric="acc_norm").predictions[5] == 1  # −11.6 / 17 against −6.0 / 4
    assert load_task(built.task).chance == pytest.approx(np.mean([1 / len(q["choices"]) for q in zoo.QUESTIONS]))
    broken = zoo.llama()
    broken.lm_head.weight.data.fill_(float("inf"))
    assert scored(built, broken).predictions.tolist() == [-1] * 8


def test_a_context_and_its_choice_are_split_like_the_harness_does(tmp_path: Path) -> None:
    zoo.write_tokenizer(tmp_path, bos=True)
    tokenizer = load_tokenizer(tmp_path).call
    bos, france, paris = (zoo.PLACE[w] for w in ("<s>", "france", "paris"))
    assert encode_pair(tokenizer, "france", " paris") == ([bos, france], [paris])
    assert encode_pair(tokenizer, "france  ", "paris") == ([bos, france], [paris])
    assert encode_pair(tokenizer, "<s> france", " paris") == ([bos, france], [paris])
    assert encode_pair(tokenizer, "", " paris") == ([bos], [paris])
    assert encode_pair(tokenizer, "france", "paris")[1] == [zoo.PLACE["<unk>"]]  # one word now: the last token counts


# Written answers.


@pytest.mark.parametrize("made", [random_gpt2, random_llama, random_t5], ids=lambda m: m.__name__)
def test_answers_are_those_of_transformers_whatever_the_company(made: Any) -> None:
    module = made()
    both, prompts = module.config.is_encoder_decoder, [[4], [5, 9, 11, 6, 12], [13, 14, 15], [7, 8, 9, 10, 4, 5, 6]]
    from explorer.evaluation._language import padded

    def batch(which: list[list[int]]) -> dict[str, torch.Tensor]:
        mask = padded([[1] * len(p) for p in which], 0, left=not both)
        return {"input_ids": padded(which, 9, left=not both), "attention_mask": mask, "ends": torch.full((1, 1), 3)}

    with torch.inference_mode():
        together = write(module, batch(prompts), 12, "test")
        for prompt, tokens in zip(prompts, together, strict=True):
            assert torch.equal(write(module, batch([prompt]), 12, "test")[0], tokens)
            ids = torch.tensor([prompt])
            theirs = module.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)[0].tolist()
            theirs = theirs[1:] if both else theirs[len(prompt) :]
            ends = {3, 2} if made is random_llama else {3}
            cut = next((place for place, token in enumerate(theirs) if token in ends), len(theirs))
            assert [t for t in tokens.tolist() if t >= 0] == theirs[:cut]
    assert len({tuple(t.tolist()) for t in together}) > 1


def test_known_answers_stop_texts_and_chats(tmp_path: Path) -> None:
    for number, make in enumerate((zoo.generation, zoo.seq2seq_generation)):
        built = make(tmp_path / str(number))
        score = scored(built)
        assert score.predictions.tolist() == ["paris", "rome", "tokyo", "madrid", "rome", "madrid"]
        assert score.outcomes.tolist() == [True] * 5 + [False] and score.metric.binary
        assert scored(built, stop="o|dri").predictions.tolist() == ["paris", "r", "t", "ma", "r", "ma"]
    chain = {"is": "the", "the": "city", "city": "of"}
    module, built = zoo.llama(chain), zoo.generation(tmp_path / "chain")
    module.lm_head.weight.data[zoo.PLACE["</s>"]] = 0
    with pytest.raises(DataError, match="chat needs a tokenizer with a chat template; got none"):
        scored(built, module, chat=True)
    zoo.write_tokenizer(built.model, pad=False, chat="{{ messages[0]['content'] }} is")
    assert set(scored(built, module, max_new_tokens=3).predictions) == {"the city of"}
    with pytest.raises(DataError, match=r"must hold \{prompt\}"):
        scored(built, module, template="no place")
    with pytest.raises(DataError, match=r"must not pass the module's 32 positions; got .* and 39 more to write"):
        scored(built, zoo.gpt2(), template="{prompt}", max_new_tokens=40)


def test_a_module_that_overflowed_writes_nothing() -> None:
    module = zoo.gpt2()
    module.lm_head.weight.data.fill_(float("nan"))
    inputs = {"input_ids": torch.tensor([[4, 5]]), "attention_mask": torch.ones(1, 2, dtype=torch.long)}
    assert write(module, {**inputs, "ends": torch.tensor([[3]])}, 4, "test").tolist() == [[-1] * 4]


def test_drawn_tokens_follow_the_softmax_and_the_seed() -> None:
    scores = torch.tensor([[1.0, 0.0, -torch.inf, 2.0]])
    generator = torch.Generator().manual_seed(5)
    counts = np.bincount([int(drawn(scores, 2.0, generator)) for _ in range(4000)], minlength=4) / 4000
    assert counts == pytest.approx((scores / 2).softmax(1)[0].numpy(), abs=0.03) and counts[2] == 0
    again = [[int(drawn(scores, 1.0, g)) for _ in range(20)] for g in (torch.Generator().manual_seed(7) for _ in "ab")]
    assert again[0] == again[1]
    assert drawn(scores, 0.0, generator).tolist() == likeliest(scores).tolist() == [3]
    assert likeliest(torch.tensor([[1.0, float("nan")], [float("inf"), 0.0]])).tolist() == [-1, -1]


def test_a_writer_without_kept_keys_reads_everything_again(monkeypatch: pytest.MonkeyPatch) -> None:
    module = random_gpt2()
    inputs = {"input_ids": torch.tensor([[4, 9, 5]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}

    def tokens() -> list[int]:
        writer, made = Writer(module, inputs, [], 8, "test"), []
        for _ in range(8):
            made.append(int(writer.take(likeliest(writer.logits()))))
        return made

    with torch.inference_mode():
        kept, forward = tokens(), module.forward

        def forgetful(input_ids: Any = None, attention_mask: Any = None, position_ids: Any = None) -> Any:
            made = forward(input_ids, attention_mask=attention_mask, position_ids=position_ids)
            made.past_key_values = None
            return made

        monkeypatch.setattr(module, "forward", forgetful)
        assert tokens() == kept


@pytest.mark.parametrize("kind", list(zoo.EXAMPLES))
def test_bad_rows_are_named(tmp_path: Path, kind: str) -> None:
    built = zoo.EXAMPLES[kind](tmp_path)
    bad = {
        "perplexity": ([{"text": " "}, {"text": 3}], ["only white space", "text must be a string; got int"]),
        "multiple_choice": (
            [{"question": "a", "choices": ["b"], "answer": 0}, {"question": "a", "choices": ["b", "c"], "answer": 2},
             {"question": "a", "choices": ["b", "c"], "answer": "b"}],
            ["at least 2 texts, none of them empty; got 1", "answer must be from 0 to 1", "whole number; got str"],
        ),
    }.get(kind, ([{"prompt": "a", "references": "b"}, {"prompt": "", "references": ["b"]}],
                 ["references must be a list of strings; got str", "prompt must not be empty"]))  # fmt: skip
    lines = "".join(json.dumps(row) + "\n" for row in bad[0])
    (built.task / "test.jsonl").write_text(lines, encoding="utf-8")
    with pytest.raises(DataError) as error:
        load_task(built.task)
    assert all(f"line {n}" in str(error.value) for n in range(1, len(bad[0]) + 1))
    assert all(words in str(error.value) for words in bad[1])
