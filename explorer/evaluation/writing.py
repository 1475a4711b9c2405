"""Text from a language model, one token at a time: for batches of prompts, and for one that somebody waits for."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from explorer.evaluation._language import require_fits

ENDED = -1
"""Stands where a row has no token: after its end."""


class Writer:
    """Continues the prompts of a batch, padded on the left for causal models, by one token per `step`.

    `inputs`: input_ids and attention_mask [n, width]. Padding is masked, and positions count real tokens only, so the
    company of a row does not change what it is given. Models that read and write apart (is_encoder_decoder) begin
    with decoder_start_token_id. `ends`: tokens that end a text; those of the module's configuration count too.
    Keys and values of earlier tokens are kept where the module can; else every step reads everything again.
    Raises CheckpointError and DataError where prompts and `limit` more tokens do not fit the module.
    """

    def __init__(
        self, module: nn.Module, inputs: Mapping[str, Tensor], ends: Iterable[int], limit: int, who: str
    ) -> None:
        config: Any = module.config
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        self._module, self._mask = module, mask
        self._takes = set(inspect.signature(module.forward).parameters)
        self._ends = torch.tensor(sorted({*ends, *_listed(config.eos_token_id)}), dtype=torch.long, device=ids.device)
        self._kept: Any = None
        self._reads: dict[str, Any] = {}
        self._both = bool(getattr(config, "is_encoder_decoder", False))
        require_fits(module, ids, who, more=0 if self._both else limit - 1)
        if self._both:
            # The decoder sees no padding; the encoder's is masked.
            encoder: Any = module.get_encoder()  # type: ignore[operator]
            self._reads = {"encoder_outputs": encoder(input_ids=ids, attention_mask=mask), "attention_mask": mask}
            begin = config.decoder_start_token_id
            ids = torch.full_like(ids[:, :1], config.bos_token_id if begin is None else begin)
            require_fits(module, ids, who, more=limit - 1)
        self._all = self._next = ids
        self.ended = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

    def logits(self) -> Tensor:
        """Scores of every row's next token, [n, vocabulary] float32; the same until `take` was called."""
        given: dict[str, Any] = {"use_cache": True, **self._reads}
        if self._both:
            given |= {"decoder_input_ids": self._next, "past_key_values": self._kept}
        else:
            given |= {"input_ids": self._next, "attention_mask": self._mask, "past_key_values": self._kept}
            if "position_ids" in self._takes:
                places = (self._mask.cumsum(1) - 1).clamp(min=0)
                given["position_ids"] = places[:, -self._next.shape[1] :]
        if "logits_to_keep" in self._takes:
            given["logits_to_keep"] = 1
        made = self._module(**{n: v for n, v in given.items() if n in self._takes})
        self._kept = getattr(made, "past_key_values", None)
        scores: Tensor = made.logits[:, -1].float()
        return scores

    def take(self, chosen: Tensor) -> Tensor:
        """Goes on with these tokens [n]; gives them back with ENDED for every row that has ended, by one of them too.

        ENDED itself ends a row.
        """
        self.ended = self.ended | (chosen == ENDED) | torch.isin(chosen, self._ends)
        fed = torch.where(self.ended, 0, chosen)[:, None]
        self._all = torch.cat([self._all, fed], dim=1)
        if not self._both:
            self._mask = torch.cat([self._mask, torch.ones_like(fed)], dim=1)
        self._next = self._all if self._kept is None else fed
        return torch.where(self.ended, ENDED, chosen)


def likeliest(scores: Tensor) -> Tensor:
    """The token with the highest score, [n]; the first of equals; ENDED where the scores are not finite."""
    best = scores.max(dim=1)  # NaN where any is
    return torch.where(torch.isfinite(best.values), best.indices, ENDED)


def drawn(scores: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """A token drawn from softmax(scores / temperature), [n]; the likeliest one at temperature 0.

    argmax of scores / temperature plus Gumbel noise, which comes from the generator on the processor in float64: the
    same seed gives the same noise for every model and device, so models that think alike write alike.
    """
    if temperature <= 0:
        return likeliest(scores)
    uniform = torch.rand(scores.shape[1], generator=generator, dtype=torch.float64).clamp(1e-300, 1 - 1e-16)
    noise = -torch.log(-torch.log(uniform))
    noisy = scores.double() / temperature + noise.to(scores.device)
    return torch.where(torch.isfinite(scores.max(dim=1).values), noisy.argmax(dim=1), ENDED)


def write(module: nn.Module, batch: Mapping[str, Tensor], limit: int, who: str) -> Tensor:
    """The likeliest continuation of every prompt, [n, limit] int64, ENDED after its end; the end token is left out.

    `batch` holds `ends` [n, k], tokens that end a text (ENDED: none), beside what `Writer` reads.
    """
    writer = Writer(module, batch, [t for t in batch["ends"].unique().tolist() if t >= 0], limit, who)
    made = torch.full((len(batch["input_ids"]), limit), ENDED, dtype=torch.long, device=batch["input_ids"].device)
    for place in range(limit):
        made[:, place] = writer.take(likeliest(writer.logits()))
        if bool(writer.ended.all()):
            break
    return made


def ends_of(tokenizer: Any) -> list[int]:
    """The token that ends a text, where the tokenizer names one."""
    return _listed(getattr(tokenizer, "eos_token_id", None))


def cut_at(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of the stop texts in it."""
    places = [text.find(s) for s in stops if s and s in text]
    return text[: min(places)] if places else text


def decode(tokenizer: Any, tokens: Sequence[int]) -> str:
    """Tokens as text, without special ones, from the first up to one that is ENDED."""
    kept = list(tokens)
    kept = kept[: kept.index(ENDED)] if ENDED in kept else kept
    return str(tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _listed(value: Any) -> list[int]:
    return [] if value is None else [int(v) for v in value] if isinstance(value, (list, tuple)) else [int(value)]
