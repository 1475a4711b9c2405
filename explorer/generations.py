"""What base, experts and the merge write to the same prompt: text as it comes, one model after the other.

A prompt takes turns on the device with everything else. A newer prompt of the same tab stops it at its next words, and
so does another merge in the tab's row: no text is ever written by two different merges.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from explorer.errors import Cancelled, InputError, UnknownNameError, near, sentence
from explorer.evaluation import EvaluationTask, Loaded, load_tokenizer
from explorer.evaluation._generation import prompt_tokens
from explorer.evaluation._language import positions_of, with_mask
from explorer.evaluation._locks import TRANSFORMERS
from explorer.evaluation.writing import ENDED, Writer, decode, drawn, ends_of
from explorer.executor import CancelToken
from explorer.live import LiveModel
from explorer.merging import METHODS
from explorer.opening import OpenModels, companions_folder, expert_of
from explorer.params import Range, Unit, check_values, specs_of
from explorer.recipe import Recipe
from explorer.seeds import stable_seed
from explorer.workbench import Slot, Workbench

EVERY_SECONDS = 0.1
"""Text is shown, and the device handed on, about this often."""
NO_WRITER = "These models write no text: their config.json names no causal or sequence-to-sequence language model."
_NEWEST: WeakKeyDictionary[Slot, CancelToken] = WeakKeyDictionary()
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Writing:
    """What one model has written so far. `role`: base, expert or merged; `task`: whose expert, or whose merged model.

    `ended`: empty while it is being written; else why it ended: "end" (the model said so), "length"
    (max_new_tokens), "room" (no position left) or "broken" (scores that are not finite).
    """

    role: str
    task: str = ""
    text: str = ""
    tokens: int = 0
    ended: str = ""
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """How the model is asked for: base, merged, expert TASK, or merged TASK."""
        return f"{self.role} {self.task}".strip()


def writers(recipe: Recipe) -> tuple[Writing, ...]:
    """Every model of a recipe, nothing written yet: the base, each expert, the merged model or one per task."""
    single = METHODS.get(recipe.method).output == "single"
    merged = [Writing("merged")] if single else [Writing("merged", t) for t in recipe.task_names]
    return (Writing("base"), *(Writing("expert", t) for t in recipe.task_names), *merged)


def kind_of_writer(config: Mapping[str, Any]) -> str | None:
    """The task kind whose module a config.json describes: generation, seq2seq_generation, or None for no text.

    `architectures` decides where it is given; else whether transformers has such a model and none that fills gaps.
    """
    with TRANSFORMERS:
        from transformers.models.auto import modeling_auto as auto
    type_, named = str(config.get("model_type")), config.get("architectures") or []
    found = {
        "seq2seq_generation": auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.get(type_),
        "generation": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(type_),
    }
    gaps = type_ in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not found["seq2seq_generation"]
    for kind, name in found.items():
        names = {name} if isinstance(name, str) else set(name or ())
        if names & set(named) or (names and not named and not gaps):
            return kind
    return None


def generations(
    bench: Workbench,
    slot: Slot,
    recipe: Recipe,
    prompt: str,
    *,
    models: Sequence[str] | None = None,
    max_new_tokens: Annotated[int, Range(1, 1024), "tokens that each model writes at most", Unit("tokens")] = 64,
    temperature: Annotated[
        float, Range(0, 5, step=0.05), "0: always the likeliest token; higher: drawn, and more freely"
    ] = 0.0,
    seed: Annotated[int, Range(0, (1 << 31) - 1), "the same seed draws the same text"] = 0,
    chat: Annotated[bool, "put the prompt into the tokenizer's chat template"] = False,
) -> Iterator[tuple[Writing, ...]]:
    """Continuations of a prompt by each of the models (names of `writers`; None: all), as they grow.

    Yields all models each time: those that have ended, the one that is writing, those to come. Every model draws with
    the same noise, so at the same seed, weights and prompt the text is the same, and models that think alike write
    alike. What goes with the tokenizer is the base's.
    Raises InputError for models that write no text, unknown names, values out of range, a prompt that is empty or
    does not fit; Cancelled once a newer prompt came or the tab's merge was changed.
    """
    given = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed, "chat": chat}
    values = check_values(SPECS, given, who="generations")
    if not prompt.strip():
        raise InputError(sentence("prompt", "must hold some text", "nothing", "Type what the models shall continue."))
    opened = bench.models(recipe)
    kind = kind_of_writer(opened.base.config)
    if kind is None:
        raise InputError(NO_WRITER)
    shown = list(_chosen(recipe, models))
    token, tokenizer = _newest(slot), _tokenizer(bench, opened)
    tokens = prompt_tokens(tokenizer, prompt, "prompt", chat=values["chat"])
    desk = _Desk(bench, slot, recipe, opened, kind, token)
    for place, writing in enumerate(shown):
        for text in _written(desk, writing, tokenizer, tokens, values):
            shown[place] = text
            yield tuple(shown)


SPECS = specs_of(generations, supplied=("models",))


def stop_generations(slot: Slot) -> None:
    """Stop what a tab's last prompt is still writing."""
    with _LOCK:
        token = _NEWEST.get(slot)
    if token:
        token.cancel()


def _newest(slot: Slot) -> CancelToken:
    stop_generations(slot)
    with _LOCK:
        _NEWEST[slot] = token = CancelToken()
    return token


def _chosen(recipe: Recipe, models: Sequence[str] | None) -> tuple[Writing, ...]:
    known = {w.name: w for w in writers(recipe)}
    for name in models or ():
        if name not in known:
            raise UnknownNameError(sentence("models", "must be of this recipe", repr(name), near(name, known)))
    return tuple(known[n] for n in dict.fromkeys(models if models is not None else known))


def _tokenizer(bench: Workbench, opened: OpenModels) -> Any:
    folder = companions_folder(opened.base)
    return bench.store.get_or_make(f"tokenizer/{folder}", lambda: load_tokenizer(folder), 16 << 20).call


@dataclass(frozen=True)
class _Desk:
    """Where a prompt's models are taken from, and who may stop it."""

    bench: Workbench
    slot: Slot
    recipe: Recipe
    opened: OpenModels
    kind: str
    token: CancelToken

    def module(self, writing: Writing) -> tuple[nn.Module, Callable[[], None]]:
        """The model's module, and a check to be made in every turn before it is run."""
        task = typed_task(self.kind, writing.task or self.recipe.task_names[0])
        if writing.role != "merged":
            checkpoint = expert_of(self.opened, writing.task) if writing.task else self.opened.base
            return Loaded(checkpoint, device=self.bench.device.torch)(task), lambda: self.token.check("prompt")
        live = self.bench.live(self.slot, self.recipe)
        if live.key != live.key_of(self.recipe):
            self.slot.newest()  # what scores another merge in this row must not go on with ours
            live.merge(self.recipe, cache=self.bench.store, cancel=self.token)
        return live.module_for(task), self._unchanged(live, live.key, task)

    def _unchanged(self, live: LiveModel, key: str, task: EvaluationTask) -> Callable[[], None]:
        def check() -> None:
            self.token.check("prompt")
            if live.key != key:
                raise Cancelled("prompt: the merge was changed meanwhile. Ask again for text of the new one.")
            live.module_for(task)  # of several merged models the row may show another one's weights by now

        return check


def _written(
    desk: _Desk, writing: Writing, tokenizer: Any, prompt: list[int], values: Mapping[str, Any]
) -> Iterator[Writing]:
    """One model's text as it grows; the device is handed on between two of them."""
    generator = torch.Generator().manual_seed(stable_seed("generations", values["seed"]))
    made: list[int] = []
    spent, ended = 0.0, ""
    with desk.bench.turns.turn():
        desk.token.check("prompt")
        module, check = desk.module(writing)  # outside of inference mode: a merged row made in it could not be changed
        limit, full = _limit(module, len(prompt), values["max_new_tokens"])
        inputs = {n: t.to(desk.bench.device.torch) for n, t in with_mask([prompt], tokenizer).items()}
        with torch.inference_mode():
            writer = Writer(module, inputs, ends_of(tokenizer), limit, "prompt")
    while not ended:
        with desk.bench.turns.turn():
            check()
            started = time.monotonic()
            while not ended and time.monotonic() - started < EVERY_SECONDS:
                with torch.inference_mode():
                    chosen = drawn(writer.logits(), values["temperature"], generator)
                    goes_on = int(writer.take(chosen)[0]) != ENDED
                if goes_on:
                    made.append(int(chosen[0]))
                    ended = full if len(made) == limit else ""
                else:
                    ended = "broken" if int(chosen[0]) == ENDED else "end"
            spent += time.monotonic() - started
        text = decode(tokenizer, made)
        text = text if ended else text.rstrip("\ufffd")  # half of a character that takes several tokens
        yield replace(writing, text=text, tokens=len(made), ended=ended, seconds=spent)


def _limit(module: nn.Module, tokens: int, wanted: int) -> tuple[int, str]:
    """How many tokens may be written, and why no more. Raises InputError where the prompt leaves no room."""
    positions = positions_of(module)
    config: Any = module.config
    if positions is None or getattr(config, "is_encoder_decoder", False):
        return wanted, "length"
    room = positions - tokens + 1
    if room < 1:
        must = f"the prompt must fit the model's {positions} positions"
        raise InputError(sentence("prompt", must, f"{tokens} tokens", "Write a shorter one."))
    return (wanted, "length") if wanted <= room else (room, "room")


def typed_task(kind: str, name: str) -> EvaluationTask:
    """A task without rows: it says which module is wanted."""
    return EvaluationTask(
        name=name, kind=kind, version=1, split="", labels=(), rows=(), answers=np.empty(0), head=None, parameters={},
        chance=0.0, majority=0.0, digest="", licence="", source="", folder=Path(),
    )  # fmt: skip
