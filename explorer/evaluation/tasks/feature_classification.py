"""Image classification with a frozen head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from torch import Tensor, nn

from explorer.errors import DataError, sentence
from explorer.evaluation._api import LABEL, Example, Row, task_kind
from explorer.evaluation._images import IMAGE, answered, image_batch, image_problem, prepared_images
from explorer.params import Choice, Range


@task_kind(title="Image classification with a frozen head", needs=("images", "head"), fields=(IMAGE, LABEL))
def feature_classification(
    module: nn.Module,
    batch: Mapping[str, Tensor],
    head: Tensor,
    *,
    pooling: Annotated[str, Choice("mean", "cls"), "how vectors of positions become one image vector"] = "mean",
    logit_scale: Annotated[float, Range(0, 1000, open_low=True), "factor on the cosine of image and class"] = 20.0,
) -> Tensor:
    """Gives each image the class whose frozen vector lies nearest to the image's vector.

    logits = logit_scale · W e(x), [n, classes]; W the head [classes, hidden]; e(x) the L2-normalised mean over all
    positions (patches, with a class token that one too; of a convolutional network its last map), or the first
    position's vector ("cls"). Arithmetic in the module's dtype.
    Raises DataError when the head has another width than the module, or the module takes pictures of another size.
    """
    hidden = answered(module, batch).last_hidden_state
    if hidden.ndim == 4:
        hidden = hidden.flatten(2).transpose(1, 2)
    if hidden.shape[-1] != head.shape[1]:
        must, got = f"the head must have one column per hidden unit ({hidden.shape[-1]})", f"{head.shape[1]} columns"
        raise DataError(sentence("feature_classification", must, got, "Use the head that was made for this base."))
    pooled = hidden[:, 0] if pooling == "cls" else hidden.mean(dim=1)
    return logit_scale * nn.functional.normalize(pooled, dim=-1) @ head.T


@feature_classification.prepare
def _(rows: Sequence[Row], images: Any, parameters: Mapping[str, Any]) -> list[Example]:
    return prepared_images(rows, images)


@feature_classification.collate
def _(examples: Sequence[Example], images: Any) -> dict[str, Tensor]:
    return image_batch(examples, images)


@feature_classification.problem
def _(row: Row) -> str | None:
    return image_problem(row)
