"""Zero-shot image classification by the texts of the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from explorer.errors import CheckpointError, DataError, sentence
from explorer.evaluation._api import LABEL, Example, Row, task_kind
from explorer.evaluation._images import IMAGE, answered, image_batch, image_problem, prepared_images
from explorer.evaluation._tools import Both
from explorer.params import Range

PLACE = "{label}"


@task_kind(title="Zero-shot images by label text (CLIP)", needs=("tokenizer", "images"), fields=(IMAGE, LABEL))
def clip_zero_shot(
    module: nn.Module,
    batch: Mapping[str, Tensor],
    head: Tensor | None,
    *,
    template: Annotated[str, "what the text tower reads for a label, which takes the place of {label}"] = (
        "a photo of a {label}"
    ),
    max_length: Annotated[int, Range(1, 8192), "tokens of a label's text that are read; the rest is cut off"] = 77,
) -> Tensor:
    """Gives each image the label whose text lies nearest to it; both towers are merged, and no head is needed.

    logits = exp(s) · cos(v(x), t(c)), [n, classes]; v(x) the projected vector of the image, t(c) that of the label's
    text by the template, s the model's own logit scale. The texts are read anew with every batch, by the weights of
    the moment. Arithmetic in the module's dtype.
    Raises CheckpointError when the model has no two towers, or fewer positions or tokens than the texts need.
    Paper: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021.
    """
    config = getattr(module, "config", None)
    if getattr(config, "text_config", None) is None or getattr(config, "vision_config", None) is None:
        must, got = "the model must have a tower for texts and one for images", type(module).__name__
        raise CheckpointError(sentence("clip_zero_shot", must, got, "Choose the kind image_classification instead."))
    ids, mask = batch["input_ids"], batch["attention_mask"]
    _require_fits(config.text_config, ids)  # type: ignore[union-attr]
    scores: Tensor = answered(module, batch, input_ids=ids, attention_mask=mask).logits_per_image
    return scores


def _require_fits(config: Any, ids: Tensor) -> None:
    """Refuse tokens and lengths that the text tower does not have, before torch fails without words."""
    advice = "Take the tokenizer of the same base, or a smaller max_length in task.json."
    for must, most, got in (
        ("label texts must be within the text tower's positions", config.max_position_embeddings, ids.shape[1]),
        ("the tokenizer's ids must be below the text tower's vocabulary", config.vocab_size, int(ids.max()) + 1),
    ):
        if got > most:
            raise CheckpointError(sentence("clip_zero_shot", f"{must} of {most}", got, advice))


@clip_zero_shot.prepare
def _(rows: Sequence[Row], tools: Both, parameters: Mapping[str, Any]) -> list[Example]:
    template = parameters["template"]
    if PLACE not in template:
        must, advice = f"template must hold {PLACE}", "Write a photo of a {label}."
        raise DataError(sentence("clip_zero_shot", must, repr(template), advice))
    texts = [template.replace(PLACE, label) for label in parameters["labels"]]
    encoded = tools.text.call(texts, truncation=True, max_length=parameters["max_length"], padding=False)["input_ids"]
    width = max(len(ids) for ids in encoded)
    pad = getattr(tools.text.call, "pad_token_id", None) or 0
    # One tensor for all: every batch reads the same texts.
    ids, mask = torch.full((len(texts), width), pad), torch.zeros(len(texts), width, dtype=torch.long)
    for place, one in enumerate(encoded):
        ids[place, : len(one)], mask[place, : len(one)] = torch.tensor(one), 1
    read = {"input_ids": ids, "attention_mask": mask}
    return [Example((e.values, read), e.size) for e in prepared_images(rows, tools.images)]


@clip_zero_shot.collate
def _(examples: Sequence[Example], tools: Both) -> dict[str, Tensor]:
    pixels = [Example(e.values[0], e.size) for e in examples]
    return {**image_batch(pixels, tools.images), **examples[0].values[1]}


@clip_zero_shot.problem
def _(row: Row) -> str | None:
    return image_problem(row)
