"""Image classification with the head that a fine-tune was trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from explorer.evaluation._api import LABEL, Example, Row, task_kind
from explorer.evaluation._images import IMAGE, answered, image_batch, image_problem, prepared_images


@task_kind(
    title="Image classification",
    needs=("images", "own_head"),
    fields=(IMAGE, LABEL),
    auto="AutoModelForImageClassification",
)
def image_classification(module: nn.Module, batch: Mapping[str, Tensor], head: Tensor | None) -> Tensor:
    """Gives each image the class with the highest logit of the fine-tune's own classifier.

    logits [n, classes], as the model for image classification of that architecture computes them; backbone merged,
    classifier the task's own. Arithmetic in the module's dtype.
    Raises DataError when the image settings give pictures of another size than the module takes.
    """
    logits: Tensor = answered(module, batch).logits
    return logits


@image_classification.prepare
def _(rows: Sequence[Row], images: Any, parameters: Mapping[str, Any]) -> list[Example]:
    return prepared_images(rows, images)


@image_classification.collate
def _(examples: Sequence[Example], images: Any) -> dict[str, Tensor]:
    return image_batch(examples, images)


@image_classification.problem
def _(row: Row) -> str | None:
    return image_problem(row)


@image_classification.config
def _(labels: Sequence[str], parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        "num_labels": len(labels),
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }
